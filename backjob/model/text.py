"""Texts of a job: cleaned, cut to a number of bytes, joined by lines. Pure."""

from __future__ import annotations

from .job import MOST_REASON


def clean_text(text: object) -> str:
    """The text as every database can keep it: no NUL and no lone surrogates. Of anything but text, its str()."""
    if not isinstance(text, str):
        text = str(text)
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def cut_text(text: object, limit: int) -> str:
    """At most so many bytes of UTF-8 of a text, cut at a whole character, and a line that tells of the rest."""
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
    """The line below the text."""
    return f"{text}{_line_break(text)}{line}"


def _line_break(text: str) -> str:
    return "\n" if text and not text.endswith("\n") else ""
