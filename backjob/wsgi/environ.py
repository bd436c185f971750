"""The environ in which the app runs a job: the server's own, with the request and the user of the record.

Knows WSGI environs (PEP 3333) and ASGI scopes; no tokens, no store, no socket.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from backjob.model.job import JobRequest

from .mounts import split_path
from .names import SENT, is_safe_method
from .outer import drop_identity, drop_scope_identity

_WIRE_KEYS = frozenset(
    {"CONTENT_LENGTH", "CONTENT_TYPE", "HTTPS", "wsgi.file_wrapper"}
    | {"REMOTE_HOST", "REMOTE_IDENT", "REMOTE_PORT", "REMOTE_USER"}
)


def restore_environ(
    server: Mapping[str, Any], request: JobRequest, *, forward_environ: Sequence[str], user_agent: str
) -> dict[str, Any]:
    """Return the environ in which the app runs the job.

    It is the server's own, except for what a client can send and what identifies the user: that comes from the record.
    ``forward_environ`` and ``user_agent`` are the options of these names.
    """
    environ = drop_identity(server, forward_environ)
    environ = {key: value for key, value in environ.items() if not key.startswith("HTTP_") and key not in _WIRE_KEYS}
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
            "HTTP_USER_AGENT": request.headers.get("HTTP_USER_AGENT", user_agent),
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
    if request.body or not is_safe_method(request.method):
        environ["CONTENT_LENGTH"] = str(len(request.body))
    if request.content_type:
        environ["CONTENT_TYPE"] = request.content_type
    if request.scheme == "https":
        environ["HTTPS"] = "on"
    if not is_safe_method(request.method) and "HTTP_HOST" in environ:
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
    """Return the ``asgi.scope`` of a bridge from ASGI, changed to the job's request."""
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


def _find_origin(environ: Mapping[str, Any]) -> str:
    """Return the site's origin as a browser sees it, with the headers of a proxy if there are any."""
    scheme, host = (
        environ.get(f"HTTP_X_FORWARDED_{name}", "").partition(",")[0].strip() or otherwise
        for name, otherwise in (("PROTO", environ["wsgi.url_scheme"]), ("HOST", environ["HTTP_HOST"]))
    )
    return f"{scheme if scheme in ('http', 'https') else environ['wsgi.url_scheme']}://{host}"
