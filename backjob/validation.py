"""Checks of values: the ranges of numbers, and one check for each kind of option.

The check of an option takes a value and returns what is wrong with it, without the option's name, or "". Knows no
option's name or default: see config.py.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._socket import check_header
from .keyring import check_keys
from .wsgi.redirects import check_redirect_ok

Check = Callable[[Any], str]
"""Check of an option."""
MOST_SCOPE = 255
"""Characters of a scope."""
MOST_WHOLE = 2**31 - 1
"""Largest integer that all databases store."""
WHOLE = f"a whole number from 0 to {MOST_WHOLE}"
LEAST_ERROR_TIMEOUT = 0.5
"""Shortest time-out in seconds. Progress is written every 0.2 s at most. With a shorter one a slow write would fail a
job that reports progress all the time."""
MOST = 1e9
TIMEOUT = f"0 (never) or a number of seconds from {LEAST_ERROR_TIMEOUT} to {MOST:.0f}"
_OWN_HEADERS = {"backjob-token", "cache-control", "connection", "content-length", "content-type", "host", "pragma"}
_OWN_HEADERS |= {"transfer-encoding", "user-agent"}
_MOST_HEADER_BYTES = 1024


def is_whole(value: object) -> bool:
    """Is it an int in the range that WHOLE names?"""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_WHOLE


def is_number(value: object, least: float, most: float) -> bool:
    """Is it an int or a float in this range? NaN never is."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def is_timeout(value: object) -> bool:
    """Is it a number in the range that TIMEOUT names?"""
    return is_number(value, LEAST_ERROR_TIMEOUT, MOST) or is_number(value, 0, 0)


def suggest(name: str, known: Sequence[str]) -> str:
    """Return a hint for an unknown option: the most similar known name, or all of them."""
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(known)}"


def must_be(allowed: str, is_allowed: Callable[[Any], object]) -> Check:
    """Return a check that allows the values for which the function returns a true value."""
    return lambda value: "" if is_allowed(value) else f"must be {allowed}"


def must_match(pattern: str, allowed: str, others: tuple[object, ...] = ()) -> Check:
    """Return a check that allows a str that matches the pattern as a whole, and some other values."""
    return must_be(allowed, lambda value: re.fullmatch(pattern, value) if isinstance(value, str) else value in others)


def must_be_number(least: float, most: float) -> Check:
    """Return a check that allows a number in this range."""
    return must_be(f"a number from {least:g} to {most:.0f}", lambda value: is_number(value, least, most))


def must_pass(function: Callable[[str], object]) -> Check:
    """Return a check that allows None and a str for which the function raises neither OSError nor ValueError."""

    def check(value: Any) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            return "must be a str"
        try:
            function(value)
        except (OSError, ValueError) as error:
            return f"is wrong: {error}"
        return ""

    return check


def is_database(value: object) -> bool:
    """Is it None, a str, or an object with the methods of an SQLAlchemy URL or Engine?"""
    is_url = isinstance(value, str) or hasattr(value, "get_backend_name")
    return value is None or is_url or (hasattr(value, "connect") and hasattr(value, "dialect"))


def is_function(value: object) -> bool:
    """Is it None, or callable and no coroutine function?"""
    return value is None or (callable(value) and not inspect.iscoroutinefunction(value))


def is_launcher(value: object) -> bool:
    """Is it None, or an object with the methods of a Launcher?"""
    return value is None or all(callable(getattr(value, name, None)) for name in ("check", "launch"))


def check_key(value: Any) -> str:
    """Return "" for None, one key or a list of keys. Raises ConfigError for other values, without showing them."""
    if value is not None:
        check_keys(value, "key")
    return ""


def check_redirects(value: Any) -> str:
    """Return what is wrong with a value of ``redirect_ok``, or ""."""
    try:
        check_redirect_ok(value)
    except (TypeError, ValueError) as error:
        return str(error).removeprefix("redirect_ok ")
    return ""


def check_scope_limits(value: Any) -> str:
    """Return what is wrong with a limit for each scope, or with a mapping of scopes to limits, or ""."""
    if not isinstance(value, Mapping):
        return "" if is_whole(value) else f"must be {WHOLE}, or a mapping of scopes to such numbers"
    for scope, limit in value.items():
        if not isinstance(scope, str) or not 0 < len(scope) <= MOST_SCOPE:
            return f"must name scopes of 1-{MOST_SCOPE} characters"
        if not is_whole(limit):
            return f"must have {WHOLE} for {scope[:40]!r}"
    return ""


def check_header_names(value: Any) -> str:
    """Return what is wrong with a list of header names, or ""."""
    if not isinstance(value, (list, tuple)):
        return "must be a list of header names"
    try:
        for name in value:
            check_header(name, "")
    except ValueError as error:
        return f"is wrong: {error}"
    return ""


def check_own_headers(value: Any) -> str:
    """Return what is wrong with a mapping of headers for the head of self-requests, or ""."""
    if not isinstance(value, Mapping):
        return "must be a mapping of header names to values"
    try:
        lines = [check_header(name, text) for name, text in value.items()]
    except ValueError as error:
        return f"is wrong: {error}"
    own = [name for name, _ in lines if name.lower() in _OWN_HEADERS]
    if own:
        return f"can't have {own[0]}: backjob writes that header itself"
    is_long = sum(len(name) + len(text) + 4 for name, text in lines) > _MOST_HEADER_BYTES
    return f"must be at most {_MOST_HEADER_BYTES} bytes: some servers drop a head over 4096" if is_long else ""
