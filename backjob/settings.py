"""Options as text, as in an ini file: one reader for each kind of value, and objects by their dotted names.

Readers know the syntax of a value, not its range. Text that is no number stays text, and the option's check refuses it.
Readers raise ValueError, whose message lacks the name of the option.
"""

from __future__ import annotations

import dataclasses
import math
import pkgutil
import re
from collections.abc import Callable
from typing import Any

from .errors import ConfigError
from .validation import Check

_BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_DOTTED = re.compile(r"[^\W\d]\w*([.:]\w+)+(\(\))?")


def option(
    default: Any,
    check: Check,
    read: Callable[[str], Any] = str,
    *,
    is_dotted: bool = False,
    is_secret: bool = False,
) -> Any:
    """Return the field of an option. The string below the field is its description.

    ``check`` returns what is wrong with a value, or "". ``read`` converts text to a value, or raises ValueError.
    ``is_dotted``: a text may be the dotted name of an object.
    """
    defaults = {"default_factory" if default is dict else "default": default}
    metadata = {"check": check, "read": read, "is_dotted": is_dotted}
    return dataclasses.field(**defaults, repr=not is_secret, metadata=metadata)


def read_text(field: dataclasses.Field[Any], text: str) -> Any:
    """Return the value of an option that is written as text. Raises ConfigError."""
    try:
        is_name = field.metadata["is_dotted"] and _DOTTED.fullmatch(text.strip())
        return load_object(text.strip()) if is_name else field.metadata["read"](text)
    except ValueError as error:
        raise ConfigError(f"{field.name} {error}") from error


def load_object(name: str) -> Any:
    """Return the object named ``module:object`` or ``module.object``. With ``()`` at the end, call it first.

    Raises ValueError for any exception of the import or the call.
    """
    try:
        found = pkgutil.resolve_name(name.removesuffix("()"))
        return found() if name.endswith("()") else found
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name!r} can't be imported: {type(error).__name__}: {error}") from error


def read_bool(text: str) -> bool:
    """Return the value of a word for True or False."""
    if text.strip().lower() not in _BOOLS:
        raise ValueError(f"must be one of {', '.join(_BOOLS)}")
    return _BOOLS[text.strip().lower()]


def read_path_or_bool(text: str) -> bool | str:
    """Return a path, or the value of a word for True or False."""
    return text.strip() if text.strip().startswith("/") else read_bool(text)


def read_number(text: str) -> float | str:
    """Return an int if the number is whole, else a float. Other text, such as "auto", is returned in lower case."""
    try:
        value = float(text)
    except ValueError:
        return text.strip().lower()
    return int(value) if math.isfinite(value) and value == int(value) else value


def read_scopes(text: str) -> float | str | dict[str, float | str]:
    """Return one number, or a mapping of scopes to numbers: ``reports=1, mail=2``."""
    if "=" not in text:
        return read_number(text)
    parts = [part.rpartition("=") for part in text.replace(",", "\n").splitlines() if part.strip()]
    if not all(equals for _, equals, _ in parts):
        raise ValueError("must be a number, or scopes with numbers, such as 'reports=1, mail=2'")
    return {scope.strip(): read_number(limit) for scope, _, limit in parts}


def read_words(text: str) -> tuple[str, ...]:
    """Return the words between blanks and commas."""
    return tuple(text.replace(",", " ").split())


def read_key(text: str) -> str | tuple[str, ...]:
    """Return one key, or a tuple of several, each on its own line."""
    keys = tuple(text.split())
    return keys[0] if len(keys) == 1 else keys


def read_headers(text: str) -> dict[str, str]:
    """Return headers that are written as lines of the form ``Name: value``."""
    lines = [line.partition(":") for line in text.splitlines() if line.strip()]
    if not all(colon for _, colon, _ in lines):
        raise ValueError("must be lines of the form 'Name: value'")
    return {name.strip(): value.strip() for name, _, value in lines}


def read_database(text: str) -> str | None:
    """Return a URL, or None for "none"."""
    return None if text.strip().lower() == "none" else text
