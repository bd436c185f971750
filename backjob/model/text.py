"""Texts of a job: cleaned, escaped, cut to a number of bytes, joined by lines. Pure."""

from __future__ import annotations

import re

from .job import MOST_REASON

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\U000e0000-\U000e007f]"
)
"""Pattern of characters that end a line, move a cursor, or turn the direction of a text around."""


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""Return the text with escapes such as ``\x1b`` in place of control characters, except for those in ``keep``."""
    return _CONTROLS.sub(
        lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), text
    )


def clean_text(text: object) -> str:
    """Return a text that every database can store: without NUL and lone surrogates. Other values become text."""
    if not isinstance(text, str):
        text = str(text)
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def cut_text(text: object, limit: int) -> str:
    """Return at most ``limit`` bytes of UTF-8 of a text. A line with the size of the rest follows if it was cut."""
    text = clean_text(text)
    encoded = text.encode()
    if len(encoded) <= limit:
        return text
    kept = encoded[:limit].decode(errors="ignore")
    return append_line(kept, f"[{len(encoded) - len(kept.encode())} more bytes of text were cut]")


def first_line(text: object) -> str:
    """Return the first line of a text that is not empty, cut to what ``JobStatus.error`` may have."""
    lines = (line.strip() for line in clean_text(text).splitlines())
    return next(filter(None, lines), "")[:MOST_REASON]


def append_line(text: str, line: str) -> str:
    """Return the text with this line below it."""
    separator = "\n" if text and not text.endswith("\n") else ""
    return f"{text}{separator}{line}"
