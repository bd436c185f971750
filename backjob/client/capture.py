"""The request of a job: the parts copied from the request that starts it, and its user.

Knows WSGI environs (PEP 3333) and WebOb requests; no tokens, no store, no socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from webob.request import BaseRequest

from backjob._socket import check_method, check_target, is_header_value
from backjob.config import Config
from backjob.errors import IdentityUnknown, RequestError
from backjob.model.job import JobRequest
from backjob.wsgi.forms import encode_form
from backjob.wsgi.headers import CONDITIONAL, check_headers, keep_origin, list_left_out, read_given, select_distinct
from backjob.wsgi.mounts import check_segments, quote_path, quote_query, split_path
from backjob.wsgi.names import FORM, METHODS, SENT
from backjob.wsgi.outer import digest_outer_values, take_identity
from backjob.wsgi.redirects import RedirectOk, seal_redirect_ok
from backjob.wsgi.request_size import check_size, limit_body

_OF_THE_SITE = ("Host", "Port", "Prefix", "Proto")
"""The X-Forwarded-… headers that describe the site, and not the user."""


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
    """Return the request of a new job. Raises ValueError or TypeError for one that can't be sent to this app,
    and RequestTooLarge for one larger than ``max_request``.

    ``environ`` is that of the starting request, None outside of one. ``mount``: the path at which this app is mounted.
    By default it comes from the environ, or outside of a request from ``site_url``. Without both it is not known yet.
    """
    start, given, own_headers = environ or {}, {}, check_headers(headers, as_user=as_user)
    body, content_type = (encode_form(data, "data").encode("ascii"), FORM) if data is not None else (b"", "")
    if isinstance(target, BaseRequest):
        if method != "GET" or data is not None:
            raise ValueError("method and data come from the webob.Request: set them there")
        method, given = target.method, target.environ
        limit_body(given, config.request_limit)
        own_headers = {**read_given(given, start, as_user=as_user), **own_headers}
        body, content_type = target.body, given.get("CONTENT_TYPE", "")
        if body and content_type.lower().startswith("multipart/"):
            raise ValueError("a job can't get a multipart body: save the files and pass their names url-encoded")
        target = _find_target(given)
    target = _add_params(check_target(target), params)
    check_segments(target)
    if mount is None and environ is not None:
        mount = environ.get("SCRIPT_NAME", "")
    site = config.site if environ is None else None
    if mount is None and site is not None:
        mount = site.mount
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
        request = replace(request, anonymous=True, sent=sent)
    else:
        request = _add_user(request, environ, given, own_headers, config)
    check_size(request, config.request_limit)
    return request


def _add_user(
    request: JobRequest,
    environ: Mapping[str, Any] | None,
    given: Mapping[str, Any],
    own_headers: Mapping[str, str],
    config: Config,
) -> JobRequest:
    """Return the request of a job with what identifies the user of the starting request."""
    start = environ or {}
    return replace(
        request,
        remote_addr=start.get("REMOTE_ADDR"),
        remote_user=start.get("REMOTE_USER") or None,
        variables={**request.variables, **take_identity(start, config.forward_environ)},
        outer=None if environ is None else digest_outer_values(environ, config.environ_key, config.forward_environ),
        user=find_user(environ, config) if environ is not None and not _has_own_user(own_headers, start) else None,
        sent=given.get(SENT),
    )


def _find_target(given: Mapping[str, Any]) -> str:
    """Return path and query of a request, quoted for a self-request. Raises RequestError for a visitor's bad URL."""
    try:
        query = quote_query(given.get("QUERY_STRING", ""))
        target = quote_path(given.get("SCRIPT_NAME", "") + given.get("PATH_INFO", "")) + (query and "?" + query)
        check_segments(check_target(target))
    except ValueError as error:
        raise RequestError(str(error)) from None
    return target


def _read_method(method: str) -> str:
    """Return a method as servers accept it. Those of RFC 9110 are upper-cased (case-sensitive, section 9.1)."""
    if isinstance(method, str) and method.isascii() and method.upper() in METHODS:
        return method.upper()
    if check_method(method) != method.upper():
        raise ValueError(f"method must be in upper case, because some servers refuse others: write {method.upper()!r}")
    return method


def _take_headers(
    start: Mapping[str, Any], config: Config, own_headers: Mapping[str, str], *, as_user: bool
) -> dict[str, str]:
    """Return a job's headers: the forwarded ones of the starting request, overridden by the job's own."""
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
    """Return whether a job has a cookie or credential of its own. Its user is not known then."""
    credentials = ("HTTP_COOKIE", "HTTP_AUTHORIZATION")
    return any(own_headers.get(key) not in (None, "", start.get(key)) for key in credentials)


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
    """Return a text that differs between users. Only a digest of it is kept."""
    if request.user:
        return f"identify {request.user}"
    if request.remote_user:
        return f"remote_user {request.remote_user}"
    variables = f" {sorted(request.variables.items())!r}" if request.variables else ""
    return f"headers {request.headers.get('HTTP_AUTHORIZATION')!r} {request.headers.get('HTTP_COOKIE')!r}{variables}"


def name_job(request: JobRequest, scope: str, config: Config, headers: Mapping[str, str] | None) -> str:
    """Return a text that is equal for equal jobs of one user. Only a digest of it is kept."""
    forwarded = {key: value for key, value in request.headers.items() if key.startswith("HTTP_X_FORWARDED_")}
    site = (request.scheme, request.headers.get("HTTP_HOST"), sorted(forwarded.items()))
    content = (request.method, request.target, request.content_type, request.body)
    user = "" if request.anonymous else name_user(request)
    distinct = {**select_distinct(request.headers, config.forward_keys), **check_headers(headers, as_user=True)}
    return repr((site, content, scope, user, *sorted(distinct.items())))


def may_run_in(app: str, request: JobRequest) -> bool:
    """Return whether a job may run in the app of this name: its own, or any app if ``connect=`` chose the address."""
    return request.by_connect or request.app in ("", app)


def _add_params(target: str, params: Any) -> str:
    query = encode_form(params, "params") if params is not None else ""
    if not query:
        return target
    return f"{target}{'&' if '?' in target else '?'}{query}"


def mount_request(environ: Mapping[str, Any] | None, config: Config) -> JobRequest:
    """Return a request to the path at which the app is mounted, without a user. ``site_url`` may have that path."""
    mount = config.site.mount if config.site else ""
    script_name = environ.get("SCRIPT_NAME", "") if environ else mount
    return JobRequest("POST", "/", script_name=script_name, path_info="/", headers=_take_site(environ, config))


def _take_site(environ: Mapping[str, Any] | None, config: Config) -> dict[str, str]:
    """Return the headers from which the app makes the site's URL. Anonymous jobs have them too."""
    environ = environ or {}
    default = config.site or config.address
    host = environ.get("HTTP_HOST") or (default.authority if default else "")
    keys = {f"HTTP_X_FORWARDED_{name.upper()}" for name in _OF_THE_SITE}.intersection(config.forward_keys)
    return {key: value for key, value in (("HTTP_HOST", host), *((key, environ.get(key)) for key in keys)) if value}
