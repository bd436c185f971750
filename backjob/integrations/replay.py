"""Shared code of the ``background`` decorators: their options, the job's request, and the response to the visitor.

A CSRF check inside the decorated view runs in the job only. It must find the token and the origin that the browser
sent, not those with which the job passes the checks around the view.

Knows WSGI environs and no framework. Cookies and credentials are left out: start() adds those of the current request.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote_plus, urlencode

from webob.request import BaseRequest

from backjob import Jobs, RequestError
from backjob.wsgi.names import FORM, SENT, is_safe_method

CHANGING_METHODS = ("DELETE", "PATCH", "POST", "PUT")
"""The methods that start a job by default. The CSRF protection of every framework covers them."""
ORIGIN_KEYS = ("HTTP_ORIGIN", "HTTP_REFERER", "HTTP_SEC_FETCH_SITE")
"""Environ keys of the headers that name the site whose page has sent a request."""
_METHOD = re.compile(r"(?!(?i:CONNECT)$)[A-Za-z]+(?:-[A-Za-z]+)*")
_NOT_AGAIN = frozenset(
    {*ORIGIN_KEYS, "HTTP_COOKIE", "HTTP_AUTHORIZATION", "HTTP_ACCEPT_ENCODING"}
    | {"HTTP_RANGE", "HTTP_IF_RANGE", "HTTP_IF_MODIFIED_SINCE"}
)
"""Browser headers that a job does not get: it can't use a part of the response, a 304 or compressed text."""
_OF_A_CACHE = frozenset({"HTTP_IF_NONE_MATCH"})
"""More of them with a safe method. With another one it is a precondition: ``If-None-Match: *`` (RFC 9110, 13.1.2)."""


def check_background(view: object, methods: Iterable[str], scope: Any, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the methods that start a job, in upper case. Raises TypeError or ValueError for wrong options.

    It is called when the module is loaded, so that a misspelt option is found before the first request.
    """
    if view is not None and not callable(view):
        raise TypeError(f"background decorates a function, not {type(view).__name__}: give its options by name")
    Jobs.check_options(**options, scope="" if callable(scope) else scope)
    names = [*methods] if isinstance(methods, (list, tuple, set, frozenset)) else []
    if not names or not all(isinstance(each, str) and _METHOD.fullmatch(each) for each in names):
        raise ValueError(
            f'methods must be a list of HTTP methods, such as ["GET", "POST"], without CONNECT, got {methods!r}'
        )
    return tuple(sorted({each.upper() for each in names}))


class HasFiles(RequestError):
    """The request has uploaded files."""

    http_status = 415

    def __init__(self) -> None:
        super().__init__("a job can't get uploaded files: save them first, and start a job with their names")


def start_job(
    request: Any,
    jobs: Any,
    ask_again: Callable[[Any], BaseRequest],
    scope: str | Callable[[Any], str],
    methods: Collection[str],
    options: Mapping[str, Any],
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Start a job for a framework's request. Return the status, the JSON and the headers of the response.

    ``ask_again`` returns the request of the job, or raises RequestError. Other methods than ``methods`` start no job:
    any page on the web can make a browser send a GET, which CSRF protection does not check.
    """
    method, headers = request.method.upper(), {"Cache-Control": "no-store"}
    if method not in methods:
        refusal = f"{method[:20]} starts no job here: send {' or '.join(methods)} (option methods of background)"
        return 405, {"error": refusal}, {**headers, "Allow": ", ".join(methods)}
    try:
        jobs.limit_body(request.environ)
        target = ask_again(request)
        job_id = jobs.start(target, scope=scope(request) if callable(scope) else scope, **options)
    except RequestError as error:
        return error.http_status, {"error": str(error)}, headers
    return 202, {"id": job_id}, headers


def make_again(
    environ: Mapping[str, Any], body: bytes, content_type: str, sent: Mapping[str, Any] | None = None
) -> BaseRequest:
    """Return the request of this environ with another body. ``sent`` is a result of keep_sent().

    It has the same method, path, query and headers, because a view may read any of them. The headers of a browser's
    cache and those in ``sent`` are left out.
    """
    left_out = _NOT_AGAIN | (_OF_A_CACHE if is_safe_method(environ["REQUEST_METHOD"]) else set())
    left_out |= set(sent["headers"] if sent else ())
    headers = {key: environ[key] for key in environ.keys() - left_out if key.startswith("HTTP_")}
    return BaseRequest(
        {
            **headers,
            "REQUEST_METHOD": environ["REQUEST_METHOD"],
            "SCRIPT_NAME": environ.get("SCRIPT_NAME", ""),
            "PATH_INFO": environ.get("PATH_INFO", ""),
            "QUERY_STRING": environ.get("QUERY_STRING", ""),
            "CONTENT_TYPE": content_type,
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            **({} if sent is None else {SENT: sent}),
        }
    )


def keep_sent(environ: Mapping[str, Any], names: Iterable[str], fields: Iterable[Iterable[str]]) -> dict[str, Any]:
    """Return the browser's CSRF tokens for put_back(): the headers with these environ keys, and form fields."""
    headers = {name: environ[name] for name in names if name in environ}
    return {"headers": headers, "fields": [list(pair) for pair in fields]}


def put_back(environ: MutableMapping[str, Any], names: Iterable[str]) -> list[tuple[str, str]]:
    """Restore these headers in a job as the browser sent them, or remove them. Return the form fields to restore."""
    sent = environ.get(SENT, {})  # empty in an anonymous job
    headers = sent.get("headers", {})
    for name in names:
        environ.pop(name, None)
        if name in headers:
            environ[name] = headers[name]
    return [(name, value) for name, value in sent.get("fields", [])]


def is_form(content_type: str) -> bool:
    """Return whether a body of this Content-Type is a url-encoded form. Without a type it may be one."""
    return content_type.partition(";")[0].strip().lower() in ("", FORM)


def take_fields(body: bytes, names: Collection[str]) -> tuple[bytes, list[tuple[str, str]]]:
    """Return a url-encoded form without the fields of these names, its other bytes unchanged, and these fields."""
    rest, taken = [], []
    for part in body.split(b"&"):
        name, _, value = (unquote_plus(each) for each in part.decode("utf-8", "replace").partition("="))
        if name in names:
            taken.append((name, value))
        else:
            rest.append(part)
    return b"&".join(rest), taken


def add_fields(body: bytes, fields: Iterable[tuple[str, str]]) -> bytes:
    """Return a url-encoded form with these fields after its own."""
    return b"&".join(part for part in (body, urlencode([*fields]).encode()) if part)
