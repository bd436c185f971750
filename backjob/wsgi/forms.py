"""Url-encoded forms, made of whatever holds fields in the usual frameworks. Knows no request."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlencode


def encode_form(fields: Any, name: str) -> str:
    """Url-encode a mapping, a list of pairs or a MultiDict; a list value gives several fields of its name."""
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
