"""Options as text, as an ini file has them: each is turned into what Config wants, which checks it.

Knows how an option is written, and not what it may be: what is no number stays text, and Config says what it wants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from .validation import refuse
from .wsgi.redirects import load_redirect_ok


def read_settings(settings: Mapping[str, Any], prefix: str = "backjob.") -> dict[str, Any]:
    """The options among text settings, such as an ini file's: those whose names start with the prefix."""
    options = {}
    for name, value in settings.items():
        if name.startswith(prefix):
            option = name.removeprefix(prefix)
            options[option] = _PARSERS.get(option, _keep)(option, value) if isinstance(value, str) else value
    return options


def _keep(option: str, text: str) -> str:
    return text


def _parse_bool(option: str, text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if text.strip().lower() not in words:
        refuse(option, f"must be one of {', '.join(words)}")
    return words[text.strip().lower()]


def _parse_redirect_ok(option: str, text: str) -> Any:
    """A path prefix, the name of a function as "module:function", or a word for True or False."""
    text = text.strip()
    if text.startswith("/") or ":" not in text:
        return text if text.startswith("/") else _parse_bool(option, text)
    try:
        return load_redirect_ok(text)
    except (ImportError, AttributeError, ValueError) as error:
        refuse(option, f"names a function that can't be imported: {error}")


def _parse_number(option: str, text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if math.isfinite(value) and value == int(value) else value


def _parse_limit(option: str, text: str) -> float | str:
    return "auto" if text.strip().lower() == "auto" else _parse_number(option, text)


def _parse_scopes(option: str, text: str) -> float | str | dict[str, float | str]:
    if "=" not in text:
        return _parse_number(option, text)
    parts = [part.rpartition("=") for part in text.replace(",", "\n").splitlines() if part.strip()]
    if not all(equals for _, equals, _ in parts):
        refuse(option, "must be a number, or scopes with theirs, such as 'reports=1, mail=2'")
    return {scope.strip(): _parse_number(option, limit) for scope, _, limit in parts}


def _parse_words(option: str, text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _parse_key(option: str, text: str) -> str | tuple[str, ...]:
    keys = tuple(text.split())
    return keys[0] if len(keys) == 1 else keys


def _parse_headers(option: str, text: str) -> dict[str, str]:
    lines = [line.partition(":") for line in text.splitlines() if line.strip()]
    if not all(colon for _, colon, _ in lines):
        refuse(option, "must be lines of the form 'Name: value'")
    return {name.strip(): value.strip() for name, _, value in lines}


_PARSERS: dict[str, Callable[[str, str], Any]] = {
    **dict.fromkeys(("create_table", "keeper"), _parse_bool),
    "redirect_ok": _parse_redirect_ok,
    **dict.fromkeys(("error_timeout", "backlog_days", "all_backlog_days", "close_delay"), _parse_number),
    **dict.fromkeys(("lease", "launch_timeout", "max_output", "max_request"), _parse_number),
    "max_running": _parse_limit,
    "max_running_per_process": _parse_number,
    "max_running_per_scope": _parse_scopes,
    "forward_environ": _parse_words,
    "forward_headers": _parse_words,
    "connect_headers": _parse_headers,
    "key": _parse_key,
    "database": lambda _, text: None if text.strip().lower() == "none" else text,
}
