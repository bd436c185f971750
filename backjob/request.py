"""From the request that starts a job to the request that the job is: what is taken along, and how the app gets it back.

Knows WSGI environs (PEP 3333), url-encoded forms and WebOb requests; no tokens, no store, no socket.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlencode

from webob.request import BaseRequest

from ._socket import check_method, check_target, is_header_value
from .config import Config
from .job import JobRequest

FORM = "application/x-www-form-urlencoded"
SENT = "backjob.sent"
"""The key by which a request that is once more what a browser sent hands on what protects it from forgery; any mapping
that JSON takes. In the job its environ has it again."""
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_PATH_CHARACTERS = "/:@!$&'()*+,;=~"  # RFC 3986, section 3.3
_SHORT_PATH = 200
_OF_THE_SITE = ("Host", "Port", "Prefix", "Proto")
"""What of X-Forwarded-… tells where the site is, and nothing of who asked."""
_OF_THE_WIRE = frozenset(
    {"AUTH_TYPE", "CONTENT_LENGTH", "CONTENT_TYPE", "HTTPS", "wsgi.file_wrapper"}
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
    as_user: bool = True,
    redirect_ok: bool | None = None,
    mount: str | None = None,
) -> JobRequest:
    """The request that a job will be. Raises ValueError or TypeError for one that can't be sent to this app.

    ``environ`` is that of the request that starts the job, None outside of one. ``mount``: where this app stands; None:
    where the environ says, or outside of a request not known yet.
    """
    own_headers: Mapping[str, Any] = {}
    body, content_type = (encode_form(data, "data").encode("ascii"), FORM) if data is not None else (b"", "")
    if isinstance(target, BaseRequest):
        if method != "GET" or data is not None:
            raise ValueError("method and data come from the webob.Request: set them there")
        method, own_headers = target.method, target.environ
        body, content_type = target.body, target.environ.get("CONTENT_TYPE", "") if target.body else ""
        if content_type.lower().startswith("multipart/"):
            raise ValueError("a job can't get a multipart body: save the files and pass their names url-encoded")
        path = _quote_path(own_headers.get("SCRIPT_NAME", "") + own_headers.get("PATH_INFO", ""))
        target = path + (target.query_string and "?" + target.query_string)
    target = _add_params(check_target(target), params)
    if mount is None and environ is not None:
        mount = environ.get("SCRIPT_NAME", "")
    script_name, path_info = _split_path(target, mount)
    request = JobRequest(
        method=check_method(method),
        target=target,
        script_name=script_name,
        path_info=path_info,
        query_string=target.partition("?")[2],
        body=body,
        content_type=content_type if is_header_value(content_type) else "",
        headers=_take_site(environ, config),
        scheme=environ["wsgi.url_scheme"] if environ else "https" if config.address and config.address.tls else "http",
        redirect_ok=config.redirect_ok if redirect_ok is None else redirect_ok,
    )
    if not as_user:
        # What a browser sent is of its user; the job is told all the same that there was one.
        return replace(request, anonymous=True, sent={} if SENT in own_headers else None)
    sources = (own_headers, environ or {})
    headers = {key: source[key] for key in config.forward_keys for source in reversed(sources) if source.get(key)}
    remote_addr, remote_user = ((environ or {}).get(key) for key in ("REMOTE_ADDR", "REMOTE_USER"))
    # Of whom a request with a cookie or credential of its own is, nobody knows here.
    known = environ or {}
    credentials = ("HTTP_COOKIE", "HTTP_AUTHORIZATION")
    has_own_user = any(own_headers.get(key) not in (None, "", known.get(key)) for key in credentials)
    return replace(
        request,
        headers={**headers, **request.headers},
        remote_addr=remote_addr,
        remote_user=remote_user or None,
        user=find_user(environ, config) if environ is not None and not has_own_user else None,
        sent=own_headers.get(SENT),
    )


def restore_environ(server: Mapping[str, Any], request: JobRequest, config: Config) -> dict[str, Any]:
    """The environ in which the app runs the job: the server's own, with all that a client can send from the record."""
    environ = {key: value for key, value in server.items() if not key.startswith("HTTP_") and key not in _OF_THE_WIRE}
    script_name, path_info = request.script_name, request.path_info
    if script_name is None:  # started outside of a request: the mount is where it arrived
        script_name, path_info = _split_path(request.target, server.get("SCRIPT_NAME", ""))
    environ.update(request.headers)
    environ.update(
        {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": script_name,
            "PATH_INFO": path_info,
            "QUERY_STRING": request.query_string,
            "HTTP_USER_AGENT": request.headers.get("HTTP_USER_AGENT", config.user_agent),
            "wsgi.url_scheme": request.scheme,
            "wsgi.input": io.BytesIO(request.body),
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
        # Frameworks check where unsafe requests over https come from, by one or the other; this one is the app's own.
        environ["HTTP_ORIGIN"] = _find_origin(environ)
        environ["HTTP_REFERER"] = environ["HTTP_ORIGIN"] + "/"
    if isinstance(server.get("asgi.scope"), Mapping):
        environ["asgi.scope"] = _restore_scope(server["asgi.scope"], environ, request)
    if request.sent is not None:
        environ[SENT] = request.sent
    if request.remote_addr is not None:
        environ["REMOTE_ADDR"] = request.remote_addr
    if request.remote_user is not None:
        environ["REMOTE_USER"] = request.remote_user
    return environ


def _restore_scope(scope: Mapping[str, Any], environ: Mapping[str, Any], request: JobRequest) -> dict[str, Any]:
    """What a bridge from ASGI shows of the request that came in, as the job's request would have been there."""
    headers = {key.removeprefix("HTTP_"): value for key, value in environ.items() if key.startswith("HTTP_")}
    headers |= {key: environ[key] for key in ("CONTENT_TYPE", "CONTENT_LENGTH") if key in environ}
    path = unquote_to_bytes(request.path)
    return {
        **scope,
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
    """Who asks, in the words of ``identify``: "" for nobody, None where nobody tells."""
    if config.identify is None:
        return None
    user = config.identify(environ)
    return "" if user is None else str(user)


def name_user(request: JobRequest) -> str:
    """Whose job this is, for telling two users' jobs apart; no more than a digest of it is kept."""
    if request.user:
        return f"identify {request.user}"
    if request.remote_user:
        return f"remote_user {request.remote_user}"
    return f"headers {request.headers.get('HTTP_AUTHORIZATION')!r} {request.headers.get('HTTP_COOKIE')!r}"


def may_run_in(app: str, request: JobRequest) -> bool:
    """Is this a job of the app of this name, or one that is to run where somebody has said?"""
    return request.by_connect or request.app in ("", app)


def is_safe(request: JobRequest) -> bool:
    """Can it be sent to a foreign app without harm: a safe method (RFC 9110, section 9.2.1) without a body?"""
    return request.method in _SAFE_METHODS and not request.body


def encode_form(fields: Any, name: str) -> str:
    """Url-encode a mapping, a list of pairs or a MultiDict; a list value stands for several of its name."""
    try:
        return urlencode(list(_pairs(fields, name)))
    except UnicodeEncodeError:
        raise ValueError(f"{name} has a lone surrogate in it, which is no text") from None


def _pairs(fields: Any, name: str) -> Iterator[tuple[Any, Any]]:
    wrong = (
        f"{name} must be a mapping, a MultiDict or a list of pairs, its values str, bytes, numbers or lists of these"
    )
    if isinstance(fields, (str, bytes)):
        raise TypeError(wrong)
    for pair in _items(fields, wrong):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(wrong)
        key, value = pair
        for each in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(key, (str, bytes, int, float)) or not isinstance(each, (str, bytes, int, float)):
                raise TypeError(f"{wrong}; the value of {key!r} has a {type(each).__name__}")
            yield key, each


def _items(fields: Any, wrong: str) -> Iterable[Any]:
    if getattr(type(fields), "recode_unicode", False) and fields.recode_unicode:
        with contextlib.suppress(UnicodeError):  # one that somebody filled with text of their own
            fields = fields.decode()  # Bottle's forms hold bytes as Latin-1 until they are asked one by one
    # Each framework's MultiDict has its own way to give all values: Werkzeug and Django, Bottle, then WebOb and dict.
    # Its class is asked, for some answer to any attribute's name.
    for method in ("lists", "allitems", "items"):
        if hasattr(type(fields), method):
            return list(getattr(fields, method)())
    if not isinstance(fields, Iterable):
        raise TypeError(wrong)
    return fields


def _add_params(target: str, params: Any) -> str:
    query = encode_form(params, "params") if params is not None else ""
    if not query:
        return target
    return f"{target}{'&' if '?' in target else '?'}{query}"


def find_mount(environ: Mapping[str, Any], path_info: str) -> str:
    """The SCRIPT_NAME of the app that a request came to with this PATH_INFO, whatever an app within it has changed.

    One that mounts others moves a part of the path over to SCRIPT_NAME: that part belongs to the job's path, for the
    job comes by there too. One that believes a proxy puts a prefix before the path: that belongs to the mount.
    """
    script_name: str = environ.get("SCRIPT_NAME", "")
    path = (script_name + environ.get("PATH_INFO", "")).rstrip("/")
    path_info = path_info.rstrip("/")
    return path.removesuffix(path_info) if path.endswith(path_info) else script_name


def _split_path(target: str, mount: str | None) -> tuple[str | None, str]:
    """SCRIPT_NAME and PATH_INFO of a target. Raises ValueError for one that is not of this app."""
    path = unquote_to_bytes(target.partition("?")[0]).decode("latin-1")
    if mount is None:
        return None, path
    script_name = mount.rstrip("/")
    if path != script_name and not path.startswith(script_name + "/"):
        raise ValueError(
            f"target {target.partition('?')[0]!r} is outside of this app, which is mounted at "
            f"{_quote_path(script_name)!r}: write targets as a browser asks for them"
        )
    return script_name, path[len(script_name) :]


def _quote_path(path: str) -> str:
    """A path of an environ (PEP 3333: bytes as Latin-1) as it stands in a target."""
    return quote(path.encode("latin-1"), safe=_PATH_CHARACTERS)


def mount_target(request: JobRequest) -> str:
    """Where in the app the monitor's request goes: its mount, or where that is not known a short path of the job's."""
    if request.script_name is None:
        path = request.path
        return path if len(path) <= _SHORT_PATH else path[:_SHORT_PATH].rpartition("/")[0] + "/"
    return _quote_path(request.script_name) + "/"


def mount_request(environ: Mapping[str, Any] | None, config: Config) -> JobRequest:
    """A request to where the app is mounted, with nothing of a user in it; outside of a request to the root."""
    script_name = environ.get("SCRIPT_NAME", "") if environ else ""
    return JobRequest("POST", "/", script_name=script_name, path_info="/", headers=_take_site(environ, config))


def _take_site(environ: Mapping[str, Any] | None, config: Config) -> dict[str, str]:
    """Where the site is, for people: an anonymous job needs to know that too."""
    environ = environ or {}
    host = environ.get("HTTP_HOST") or (config.address.authority if config.address else "")
    keys = {f"HTTP_X_FORWARDED_{name.upper()}" for name in _OF_THE_SITE}.intersection(config.forward_keys)
    return {key: value for key, value in (("HTTP_HOST", host), *((key, environ.get(key)) for key in keys)) if value}


def _find_origin(environ: Mapping[str, Any]) -> str:
    """The site's origin as a browser sees it, also where only the app knows whether to believe the proxy."""
    scheme, host = (
        environ.get(f"HTTP_X_FORWARDED_{name}", "").partition(",")[0].strip() or otherwise
        for name, otherwise in (("PROTO", environ["wsgi.url_scheme"]), ("HOST", environ["HTTP_HOST"]))
    )
    return f"{scheme}://{host}"


def wire_host(request: JobRequest, otherwise: str) -> str:
    """The Host header of a self-request: the user's, as a value only, if it can stand in a line of the head."""
    host = request.headers.get("HTTP_HOST", "")
    return host if is_header_value(host) and 0 < len(host) <= 255 else otherwise
