"""Messages in two wordings: with all details for the log, and without names of servers for pages and status texts.

Both are made from the same parts. Knows no other module of the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol


class Part(Protocol):
    """Interface of anything with both wordings: ``str()`` is the one with all details."""

    @property
    def public(self) -> str:
        """Wording for status texts and pages."""


@dataclass(frozen=True)
class Message:
    """A text in both wordings."""

    full: str
    public: str

    def __str__(self) -> str:
        return self.full


def plain(text: str) -> Message:
    """Return a message that may be public: its text has no address and nothing that a server sent."""
    return Message(text, text)


def detail(text: str) -> Message:
    """Return a part that only the log shows."""
    return Message(text, "")


def compose(template: str, **parts: Part | float) -> Message:
    """Fill a constant template. Parts are numbers, or have both wordings: mypy refuses a ``str``."""
    public = {name: part if isinstance(part, (int, float)) else part.public for name, part in parts.items()}
    return Message(template.format(**parts), template.format(**public))


def join(separator: str, parts: Iterable[Part]) -> Message:
    """Join sentences, without repeating equal ones. After a question mark the separator is a space."""
    parts = list(parts)

    def join_each(read: Callable[[Part], str]) -> str:
        return separator.join(dict.fromkeys(map(read, parts))).replace(f"?{separator}", "? ")

    return Message(join_each(str), join_each(lambda part: part.public))
