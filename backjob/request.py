"""From the request that starts a job to the request that the job is: what is taken along, and how the app gets it back.

Knows WSGI environs (PEP 3333) and WebOb requests; no tokens, no store, no socket.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote_to_bytes

from webob.request import BaseRequest

from ._socket import check_method, check_target, is_header_value
from .config import Config
from .errors import IdentityUnknown
from .forms import FORM, encode_form
from .headers import CONDITIONAL, check_headers, keep_origin, list_left_out, read_given, select_distinct
from .job import JobRequest
from .mounts import check_segments, quote_path, split_path
from .outer import drop_identity, drop_scope_identity, take_identity
from .outer_values import digest_outer_values
from .redirects import RedirectOk, seal_redirect_ok

SENT = "backjob.sent"
"""The key by which a request that is once more what a browser sent hands on what protects it from forgery; any mapping
that JSON takes, with the browser's ``headers`` by their keys. In the job its environ has it again."""
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""The methods of RFC 9110, section 9.3, without CONNECT, and of RFC 5789."""
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_OF_THE_SITE = ("Host", "Port", "Prefix", "Proto")
"""What of X-Forwarded-… tells where the site is, and nothing of who asked."""
_OF_THE_WIRE = frozenset(
    {"CONTENT_LENGTH", "CONTENT_TYPE", "HTTPS", "wsgi.file_wrapper"}
    | {"REMOTE_HOST", "REMOTE_IDENT", "REMOTE_PORT", "REMOTE_USER"}
)


def make_request(
    environ: Mapping[str, Any] | None,
    config: Config,
    target: str | BaseRequest,
    params: Any = None,
    *,
    method: str = "GET",
    data: Any = None,
    headers: Mapping[str, str] | None = None,
    as_user: bool = True,
    redirect_ok: RedirectOk | None = None,
    mount: str | None = None,
) -> JobRequest:
    """Return the request that a job will be. Raises ValueError or TypeError for one that can't be sent to this app.

    ``environ`` is that of the request that starts the job, None outside of one. ``mount``: the path at which this app
    is mounted; None: as the environ says, or outside of a request as ``site_url`` says, or else not known yet.
    """
    start, given, own_headers = environ or {}, {}, check_headers(headers, as_user=as_user)
    body, content_type = (encode_form(data, "data").encode("ascii"), FORM) if data is not None else (b"", "")
    if isinstance(target, BaseRequest):
        if method != "GET" or data is not None:
            raise ValueError("method and data come from the webob.Request: set them there")
        method, given = target.method, target.environ
        own_headers = {**read_given(given, start, as_user=as_user), **own_headers}
        body, content_type = target.body, given.get("CONTENT_TYPE", "")
        if body and content_type.lower().startswith("multipart/"):
            raise ValueError("a job can't get a multipart body: save the files and pass their names url-encoded")
        path = quote_path(given.get("SCRIPT_NAME", "") + given.get("PATH_INFO", ""))
        target = path + (target.query_string and "?" + target.query_string)
    target = _add_params(check_target(target), params)
    check_segments(target)
    if mount is None and environ is not None:
        mount = environ.get("SCRIPT_NAME", "")
    site = config.site if environ is None else None
    if mount is None and site is not None:
        mount = site.mount or None
    script_name, path_info = split_path(target, mount)
    request = JobRequest(
        method=_read_method(method),
        target=target,
        script_name=script_name,
        path_info=path_info,
        query_string=target.partition("?")[2],
        body=body,
        content_type=content_type if is_header_value(content_type) else "",
        headers=_take_headers(start, config, own_headers, as_user=as_user),
        variables=site.variables if site else {},
        scheme=environ["wsgi.url_scheme"] if environ else _find_scheme(config),
        redirect_ok=seal_redirect_ok(redirect_ok),
    )
    request = replace(request, left_out=list_left_out(start, request.headers))
    if not as_user:
        sent = {"headers": keep_origin(given[SENT].get("headers", {}))} if SENT in given else None
        return replace(request, anonymous=True, sent=sent)
    return replace(
        request,
        remote_addr=start.get("REMOTE_ADDR"),
        remote_user=start.get("REMOTE_USER") or None,
        variables={**request.variables, **take_identity(start, config.forward_environ)},
        outer=None if environ is None else digest_outer_values(environ, config.environ_key, config.forward_environ),
        user=find_user(environ, config) if environ is not None and not _has_own_user(own_headers, start) else None,
        sent=given.get(SENT),
    )


def _read_method(method: str) -> str:
    """Return a method as servers take it. RFC 9110's own are upper-cased; they are case-sensitive (section 9.1)."""
    if isinstance(method, str) and method.upper() in _METHODS:
        return method.upper()
    if check_method(method) != method.upper():
        raise ValueError(f"method must be in upper case, because some servers refuse others: write {method.upper()!r}")
    return method


def _take_headers(
    start: Mapping[str, Any], config: Config, own_headers: Mapping[str, str], *, as_user: bool
) -> dict[str, str]:
    """Return a job's headers: those of the starting request that go along, and over them the job's own."""
    keys = [key for key in config.forward_keys if key not in CONDITIONAL] if as_user else []
    taken = {key: start[key] for key in keys if start.get(key)}
    taken |= _take_site(start, config)
    return {**taken, **{key: value for key, value in own_headers.items() if value or key not in taken}}


def _find_scheme(config: Config) -> str:
    """Return the scheme of a job that was started outside of a request."""
    if config.site:
        return config.site.scheme
    return "https" if config.address and config.address.tls else "http"


def _has_own_user(own_headers: Mapping[str, str], start: Mapping[str, Any]) -> bool:
    """True if a job has a cookie or credential that is not the starting request's: its user is not known then."""
    credentials = ("HTTP_COOKIE", "HTTP_AUTHORIZATION")
    return any(own_headers.get(key) not in (None, "", start.get(key)) for key in credentials)


def is_safe_method(method: str) -> bool:
    """Does this method change nothing (RFC 9110, section 9.2.1)?"""
    return method in _SAFE_METHODS


def restore_environ(server: Mapping[str, Any], request: JobRequest, config: Config) -> dict[str, Any]:
    """Return the environ in which the app runs the job.

    It is the server's own, except for what a client can send and what identifies the user: that comes from the record.
    """
    environ = drop_identity(server, config.forward_environ)
    environ = {key: value for key, value in environ.items() if not key.startswith("HTTP_") and key not in _OF_THE_WIRE}
    script_name, path_info = request.script_name, request.path_info
    if script_name is None:  # started outside of a request: the mount is where it arrived
        script_name, path_info = split_path(request.target, server.get("SCRIPT_NAME", ""))
    environ.update(request.variables)
    environ.update(request.headers)
    environ.update(
        {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": script_name,
            "PATH_INFO": path_info,
            "QUERY_STRING": request.query_string,
            "HTTP_USER_AGENT": request.headers.get("HTTP_USER_AGENT", config.user_agent),
            "HTTP_CACHE_CONTROL": _forbid_caches(request.headers.get("HTTP_CACHE_CONTROL", "")),
            "wsgi.url_scheme": request.scheme,
            "wsgi.input": io.BytesIO(request.body),
            # Error middleware that knows these keys (Paste, WebError) lets exceptions pass. Else it may answer a page
            # after the first output, which does not look like a failure.
            "paste.throw_errors": True,
            "x-wsgiorg.throw_errors": True,
        }
    )
    for key in ("RAW_URI", "REQUEST_URI"):
        if key in server:
            environ[key] = request.target
    if request.body or request.method not in _SAFE_METHODS:
        environ["CONTENT_LENGTH"] = str(len(request.body))
    if request.content_type:
        environ["CONTENT_TYPE"] = request.content_type
    if request.scheme == "https":
        environ["HTTPS"] = "on"
    if request.method not in _SAFE_METHODS and "HTTP_HOST" in environ:
        # Frameworks check by one of them which site an unsafe request over https comes from: this one is the app's own.
        origin = _find_origin(environ)
        environ.setdefault("HTTP_ORIGIN", origin)
        environ.setdefault("HTTP_REFERER", origin + "/")
    if isinstance(server.get("asgi.scope"), Mapping):
        environ["asgi.scope"] = _restore_scope(server["asgi.scope"], environ, request)
    if request.sent is not None:
        environ[SENT] = request.sent
    if request.remote_addr is not None:
        environ["REMOTE_ADDR"] = request.remote_addr
    if request.remote_user is not None:
        environ["REMOTE_USER"] = request.remote_user
    return environ


def _forbid_caches(directives: str) -> str:
    """Return the Cache-Control of a job: a cache that answered in place of the app would complete it.

    Directives that it has already are kept.
    """
    return f"{directives}, no-cache" if directives else "no-cache"


def _restore_scope(scope: Mapping[str, Any], environ: Mapping[str, Any], request: JobRequest) -> dict[str, Any]:
    """What a bridge from ASGI shows of the request that came in, as the job's request would have been there."""
    headers = {key.removeprefix("HTTP_"): value for key, value in environ.items() if key.startswith("HTTP_")}
    headers |= {key: environ[key] for key in ("CONTENT_TYPE", "CONTENT_LENGTH") if key in environ}
    path = unquote_to_bytes(request.path)
    return {
        **drop_scope_identity(scope),
        "method": request.method,
        "scheme": request.scheme,
        "root_path": environ["SCRIPT_NAME"],
        "path": path.decode("utf-8", "replace"),
        "raw_path": request.path.encode("ascii"),
        "query_string": request.query_string.encode("latin-1"),
        "headers": [
            (key.replace("_", "-").lower().encode("latin-1"), value.encode("latin-1", "replace"))
            for key, value in headers.items()
        ],
    }


def find_user(environ: Mapping[str, Any], config: Config) -> str | None:
    """Return the user's name as ``identify`` gives it, "" for an anonymous request, None if that is not known."""
    if config.identify is None:
        return None
    try:
        user = config.identify(environ)
    except IdentityUnknown:
        return None
    return "" if user is None else str(user)


def name_user(request: JobRequest) -> str:
    """Whose job this is, for telling two users' jobs apart; no more than a digest of it is kept."""
    if request.user:
        return f"identify {request.user}"
    if request.remote_user:
        return f"remote_user {request.remote_user}"
    variables = f" {sorted(request.variables.items())!r}" if request.variables else ""
    return f"headers {request.headers.get('HTTP_AUTHORIZATION')!r} {request.headers.get('HTTP_COOKIE')!r}{variables}"


def name_job(request: JobRequest, scope: str, config: Config, headers: Mapping[str, str] | None) -> str:
    """Return a text that is equal for equal jobs of one user; no more than a digest of it is kept."""
    forwarded = {key: value for key, value in request.headers.items() if key.startswith("HTTP_X_FORWARDED_")}
    site = (request.scheme, request.headers.get("HTTP_HOST"), sorted(forwarded.items()))
    what = (request.method, request.target, request.content_type, request.body)
    user = "" if request.anonymous else name_user(request)
    distinct = {**select_distinct(request.headers, config.forward_keys), **check_headers(headers, as_user=True)}
    return repr((site, what, scope, user, *sorted(distinct.items())))


def may_run_in(app: str, request: JobRequest) -> bool:
    """Is this a job of the app of this name, or one that is to run where somebody has said?"""
    return request.by_connect or request.app in ("", app)


def is_safe(request: JobRequest) -> bool:
    """Can it be sent to a foreign app without harm: a safe method (RFC 9110, section 9.2.1) without a body?"""
    return is_safe_method(request.method) and not request.body


def _add_params(target: str, params: Any) -> str:
    query = encode_form(params, "params") if params is not None else ""
    if not query:
        return target
    return f"{target}{'&' if '?' in target else '?'}{query}"


def mount_request(environ: Mapping[str, Any] | None, config: Config) -> JobRequest:
    """A request to where the app is mounted, with nothing of a user in it; outside of a request to the root."""
    mount = config.site.mount if config.site else ""
    script_name = environ.get("SCRIPT_NAME", "") if environ else mount
    return JobRequest("POST", "/", script_name=script_name, path_info="/", headers=_take_site(environ, config))


def _take_site(environ: Mapping[str, Any] | None, config: Config) -> dict[str, str]:
    """Where the site is, for people: an anonymous job needs to know that too."""
    environ = environ or {}
    default = config.site or config.address
    host = environ.get("HTTP_HOST") or (default.authority if default else "")
    keys = {f"HTTP_X_FORWARDED_{name.upper()}" for name in _OF_THE_SITE}.intersection(config.forward_keys)
    return {key: value for key, value in (("HTTP_HOST", host), *((key, environ.get(key)) for key in keys)) if value}


def _find_origin(environ: Mapping[str, Any]) -> str:
    """The site's origin as a browser sees it, also where only the app knows whether to believe the proxy."""
    scheme, host = (
        environ.get(f"HTTP_X_FORWARDED_{name}", "").partition(",")[0].strip() or otherwise
        for name, otherwise in (("PROTO", environ["wsgi.url_scheme"]), ("HOST", environ["HTTP_HOST"]))
    )
    return f"{scheme}://{host}"
