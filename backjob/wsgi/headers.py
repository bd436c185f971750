"""Headers of a job's request: those taken along from the request that starts it, and those that the app gives.

Works on environ keys (PEP 3333) and follows RFC 9110. Knows no options, no WSGI application and no job.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from backjob._socket import check_header

from .names import header_key


def _keys(names: str) -> frozenset[str]:
    return frozenset(header_key(name) for name in names.split())


FORWARD_HEADERS = (
    *("Accept", "Accept-Language", "Forwarded", "User-Agent", "X-CSRF-Token", "X-CSRFToken", "X-XSRF-Token"),
    *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Proto"),
    *("X-Real-IP", "X-Request-ID", "traceparent", "tracestate"),
)
"""Headers that a job has by default from the request that starts it, beside Cookie, Authorization and Host."""
_CONNECTION_HEADERS = _keys(
    "Connection Keep-Alive Proxy-Authenticate Proxy-Authorization Proxy-Connection TE Trailer Transfer-Encoding"
    " Upgrade Expect"
)
"""Hop-by-hop headers (RFC 9110, section 7.6.1), and Expect, which is about sending the body (section 10.1.1)."""
_HARMLESS = _keys("Close Keep-Alive")
"""Connection options that only say what becomes of the connection."""
_MESSAGE_HEADERS = _keys("Host Content-Length Content-Type Backjob-Token")
"""Headers that follow from the site, the body and the job."""
CONDITIONAL = _keys("If-Match If-None-Match If-Modified-Since If-Unmodified-Since If-Range Range")
"""Headers about what a client has stored (RFC 9110, sections 13.1 and 14.2). A job has nothing stored."""
_CREDENTIALS = _keys("Cookie Authorization")
_USER_HEADER = re.compile(
    r"COOKIE|(?<!LOCK_)TOKEN|SECRET|SESSION|PASSW|SIGNATURE|HMAC|PRINCIPAL|DPOP|CSRF|XSRF|OIDC|CLIENT_?CERT|SSL_"
    r"|(?<!IDEMPOTENCY_)KEY$|^REMOTE_|^FORWARDED$|FORWARDED_FOR$|IP$|(^|_)ADDR(ESS)?$"
    r"|(^|_)(AUTH|ACCOUNT|CLAIMS?|CLIENT_VERIFY|CONSUMER|CREDENTIALS?|CUSTOMER|DN|EMAIL|GROUPS?|IDENTIFIER|JWT|LOGIN|NONCE|OTP"
    r"|PASS|USER(?!_AGENT))"
)
"""Names of headers that may identify the user."""
_INCIDENTAL = re.compile(
    r"ACCEPT(_.*)?|A_IM|AGE|BAGGAGE|B3|CACHE_CONTROL|CDN_LOOP|CF_(?!ACCESS_).*|CONTENT_.*|DATE|DNT|FORWARDED|FROM|IF_.*"
    r"|MAX_FORWARDS|ORIGIN|PRAGMA|PRIORITY|RANGE|REFERER|SAVE_DATA|SEC_.*|SENTRY_TRACE|TRACE(PARENT|STATE)"
    r"|(TRUE_CLIENT|X_REAL|X_CLIENT|X_CLUSTER_CLIENT)_IP|UBER_TRACE_ID|UPGRADE_INSECURE_REQUESTS|USER_AGENT|VIA"
    r"|X_(AMZN|AMZ_CF|B3|CLOUD_TRACE|ENVOY|FORWARDED|VERCEL|DATADOG)_"
    r"(?!ACCESS|CLIENT|EMAIL|GROUPS|MTLS|OIDC|PREFERRED|USER).*"
    r"|X_(CORRELATION|REQUEST|TRACE)_(ID|START)|X_QUEUE_START|X_VARNISH|X_REQUESTED_WITH"
)
"""Names of headers that browsers and proxies send by themselves, and that don't identify the user."""
_MOST_NAMES = 20
_LONGEST_NAME = 64


def read_given(given: Mapping[str, Any], start: Mapping[str, Any], *, as_user: bool) -> dict[str, str]:
    """Return the end-to-end headers of a request that was given as a target; for an anonymous job without credentials.

    Raises ValueError for a hop-by-hop header. Two kinds are left out instead, because they change nothing: a
    Connection that says only keep-alive or close, and what came with the connection of the request that starts the job
    (``start``) and was copied from there, such as Firefox's ``TE: trailers``.
    """
    headers = {key: value for key, value in given.items() if key.startswith("HTTP_") and key not in _MESSAGE_HEADERS}
    named = {header_key(each.strip()) for each in str(headers.get("HTTP_CONNECTION", "")).split(",") if each.strip()}
    if named <= _HARMLESS:
        headers.pop("HTTP_CONNECTION", None)
    hops = {key: headers.pop(key) for key in [*headers] if key in _CONNECTION_HEADERS or key in named}
    refused = [name_header(key) for key, value in hops.items() if start.get(key) != value]
    if refused:
        raise ValueError(
            f"the webob.Request has {', '.join(sorted(refused))}: headers of one connection (RFC 9110, section 7.6.1) "
            "can't go along with a job, remove them"
        )
    for key, value in headers.items():
        _check_value(name_header(key), value)
    return {key: value for key, value in headers.items() if as_user or not _USER_HEADER.search(key[5:])}


def check_headers(headers: Mapping[str, str] | None, *, as_user: bool) -> dict[str, str]:
    """Return the argument ``headers`` of start(), by environ keys. Raises TypeError or ValueError without a value."""
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of header names to str values, not {type(headers).__name__}")
    checked: dict[str, str] = {}
    for name, value in headers.items():
        check_header(name, "")
        key = header_key(name)
        if key in _CONNECTION_HEADERS:
            raise ValueError(f"headers can't have {name}: it is about one connection (RFC 9110, section 7.6.1)")
        if key in _MESSAGE_HEADERS:
            raise ValueError(f"headers can't have {name}: it follows from the site, the body or the job")
        if key in _CREDENTIALS and not as_user:
            raise ValueError(f"headers can't have {name} with as_user=False: an anonymous job has no credentials")
        if key in checked:
            raise ValueError(f"headers has {name} twice: upper and lower case, - and _ are the same")
        checked[key] = _check_value(name, value).strip(" \t")
    return checked


def _check_value(name: str, value: object) -> str:
    """RFC 9110, section 5.5; as a WSGI string (PEP 3333: bytes as Latin-1)."""
    if not isinstance(value, str):
        raise TypeError(f"the value of header {name} must be a str, not {type(value).__name__}")
    if any(character in "\r\n\0" or character > "\xff" for character in value):
        raise ValueError(f"the value of header {name} has a line break, a NUL or a character that is not Latin-1")
    return value


def select_distinct(headers: Mapping[str, str], shared: Collection[str]) -> dict[str, str]:
    """Return the headers that make one request differ from another of the same user; ``shared`` keys never do."""
    distinct = {key: value for key, value in headers.items() if key not in shared and key not in _MESSAGE_HEADERS}
    return {key: value for key, value in distinct.items() if _is_precondition(key) or not _is_incidental(key)}


def list_left_out(start: Mapping[str, Any], headers: Mapping[str, str]) -> list[str]:
    """Return the names of headers that a job lacks, though the request that started it had them, at most 20.

    Headers that don't identify the user are not among them.
    """
    names = [
        name_header(key)
        for key, value in start.items()
        if key.startswith("HTTP_")
        and value
        and len(key) <= _LONGEST_NAME
        and not (key in headers or key in _CONNECTION_HEADERS or key in _MESSAGE_HEADERS or _is_incidental(key))
    ]
    return sorted(names)[:_MOST_NAMES]


def explain_left_out(code: int, names: Collection[str], *, is_anonymous: bool) -> str:
    """Return what a job's text adds to a response that asks for a login: which headers the job did not have, or ""."""
    if not names or not (code in (401, 403) or 300 <= code < 400):
        return ""
    verb, why = "were" if len(names) > 1 else "was", "as_user=False" if is_anonymous else "see forward_headers"
    return f". {', '.join(names)} {verb} not taken along from the request that started this job: {why}"


def keep_origin(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that name the sending site, without the Referer's path, which may reveal the user.

    A check within an anonymous job then refuses a request of another site's page, as it would in the foreground.
    """
    kept = {key: headers[key] for key in ("HTTP_ORIGIN", "HTTP_SEC_FETCH_SITE") if key in headers}
    if "HTTP_REFERER" in headers:
        kept["HTTP_REFERER"] = "/".join([*headers["HTTP_REFERER"].split("/")[:3], ""])
    return kept


def name_header(key: str) -> str:
    """Return a header's name for people: ``X-Api-Key`` for ``HTTP_X_API_KEY``."""
    name = re.sub(r"[^A-Za-z0-9-]", "?", key[5:].replace("_", "-").title())
    return name.upper() if name == "Te" else name


def _is_incidental(key: str) -> bool:
    return _INCIDENTAL.fullmatch(key[5:]) is not None


def _is_precondition(key: str) -> bool:
    """RFC 9110, sections 13 and 14; the header of a body that changes its meaning."""
    return key.startswith(("HTTP_IF_", "HTTP_RANGE", "HTTP_CONTENT_"))
