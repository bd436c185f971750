"""Checks of single values: the ranges of numbers, and one check for each kind of option.

Checks of options raise ConfigError, naming the option and what is allowed. Knows no option's default: see config.py.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from ._socket import check_header
from .errors import ConfigError
from .wsgi.redirects import check_redirect_ok

MOST_WHOLE = 2**31 - 1
"""What the databases' integers hold."""
WHOLE = f"a whole number from 0 to {MOST_WHOLE}"
LEAST_ERROR_TIMEOUT = 0.5
"""Seconds. What a job tells is written each 0.2 s at most: with less, one that tells all the time would fail when one
such write takes a moment."""
MOST = 1e9
TIMEOUT = f"0 (never) or a number of seconds from {LEAST_ERROR_TIMEOUT} to {MOST:.0f}"
_OWN_HEADERS = {"backjob-token", "cache-control", "connection", "content-length", "content-type", "host", "pragma"}
_OWN_HEADERS |= {"transfer-encoding", "user-agent"}
_MOST_HEADER_BYTES = 1024


def is_whole(value: object) -> bool:
    """Is it what WHOLE says?"""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_WHOLE


def is_number(value: object, least: float, most: float) -> bool:
    """Is it an int or a float in this range? NaN is in none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def is_timeout(value: object) -> bool:
    """Is it what TIMEOUT says?"""
    return is_number(value, LEAST_ERROR_TIMEOUT, MOST) or is_number(value, 0, 0)


def check_short_name(text: str) -> None:
    """Raise ValueError unless this can name the app or its version: 1-64 printable ASCII characters without blanks."""
    if not 0 < len(text) <= 64 or not all("!" <= each <= "~" for each in text):
        raise ValueError("it must be 1-64 printable ASCII characters without blanks")


def refuse(option: str, reason: str) -> NoReturn:
    """Raise the ConfigError of an option."""
    raise ConfigError(f"{option} {reason}")


def suggest(name: str, known: Sequence[str]) -> str:
    """Return a hint for an unknown option: the most similar known name, or all of them."""
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(known)}"


def check_pattern(option: str, value: object, pattern: str, allowed: str) -> None:
    """Refuse all but a str that matches the pattern as a whole."""
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        refuse(option, f"must be {allowed}")


def check_number(option: str, value: object, least: float, most: float) -> None:
    """Refuse all but a number in this range."""
    if not is_number(value, least, most):
        refuse(option, f"must be a number from {least:g} to {most:.0f}")


def check_whole(option: str, value: object, otherwise: str = "") -> None:
    """Refuse all but a whole number. ``otherwise`` says what else is allowed."""
    if not is_whole(value):
        refuse(option, f"must be {WHOLE}{otherwise}")


def check_with(option: str, value: object, check: Callable[[str], object]) -> None:
    """Refuse all but None and a str for which ``check`` raises neither OSError nor ValueError."""
    if value is None:
        return
    if not isinstance(value, str):
        refuse(option, "must be a str")
    try:
        check(value)
    except (OSError, ValueError) as error:
        refuse(option, f"is wrong: {error}")


def check_function(option: str, value: object, argument: str) -> None:
    """Refuse all but None and a plain function. ``argument`` says what it is called with."""
    if value is not None and (not callable(value) or inspect.iscoroutinefunction(value)):
        refuse(option, f"must be a plain function of {argument}")


def check_methods(option: str, value: object, names: tuple[str, ...]) -> None:
    """Refuse all but None and an object with these methods."""
    if value is not None and not all(callable(getattr(value, name, None)) for name in names):
        refuse(option, f"must have the methods {' and '.join(names)}")


def check_redirects(value: Any) -> None:
    """Refuse values that ``redirect_ok`` can't have."""
    try:
        check_redirect_ok(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from None


def check_scope_limits(option: str, value: object, most_scope: int) -> None:
    """Refuse all but a whole number and a mapping of scopes, of up to ``most_scope`` characters, to such numbers."""
    if not isinstance(value, Mapping):
        check_whole(option, value, ", or a mapping of scopes to such numbers")
        return
    for scope, limit in value.items():
        if not isinstance(scope, str) or not 0 < len(scope) <= most_scope:
            refuse(option, f"must name scopes of 1-{most_scope} characters")
        if not is_whole(limit):
            refuse(option, f"must have {WHOLE} for {scope[:40]!r}")


def check_header_names(option: str, value: object) -> None:
    """Refuse all but a list of names of headers."""
    if not isinstance(value, (list, tuple)):
        refuse(option, "must be a list of header names")
    try:
        for name in value:
            check_header(name, "")
    except ValueError as error:
        refuse(option, f"is wrong: {error}")


def check_own_headers(option: str, value: object) -> None:
    """Refuse all but a mapping of header names to values that can be added to the head of a self-request."""
    if not isinstance(value, Mapping):
        refuse(option, "must be a mapping of header names to values")
    try:
        lines = [check_header(name, text) for name, text in value.items()]
    except ValueError as error:
        refuse(option, f"is wrong: {error}")
    own = [name for name, _ in lines if name.lower() in _OWN_HEADERS]
    if own:
        refuse(option, f"can't have {own[0]}: backjob writes that header itself")
    if sum(len(name) + len(text) + 4 for name, text in lines) > _MOST_HEADER_BYTES:
        refuse(option, f"must be at most {_MOST_HEADER_BYTES} bytes: some servers drop a head over 4096")
