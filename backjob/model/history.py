"""The ends of a job's earlier attempts, as JSON in its record: the newest last, and a limited number.

Text in, frozen records out. Knows no stores.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

MOST_ENDS = 20
MOST_TEXT = 2000
"""Characters that are kept of an attempt's text, from its end, which has the reason."""


@dataclass(frozen=True)
class AttemptEnd:
    """End of an attempt that was not the last one. ``ended_at`` is an aware UTC datetime."""

    attempt: int
    ended_at: datetime
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Return the same, ready for JSON."""
        return {"attempt": self.attempt, "ended_at": self.ended_at.isoformat(), "text": self.text}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> AttemptEnd:
        """Return the inverse of as_dict(). Raises ValueError, TypeError or KeyError for any other dict."""
        attempt, ended_at, text = fields["attempt"], datetime.fromisoformat(fields["ended_at"]), fields["text"]
        if not isinstance(attempt, int) or not isinstance(text, str) or ended_at.tzinfo is None:
            raise TypeError("not the end of an attempt")
        return cls(attempt, ended_at, text)


def read_ends(past: str) -> tuple[AttemptEnd, ...]:
    """Return the ends in a record. Invalid text has no ends."""
    try:
        return tuple(AttemptEnd.from_dict(fields) for fields in json.loads(past or "[]"))
    except (ValueError, TypeError, KeyError, RecursionError):
        return ()


def add_end(past: str, end: AttemptEnd) -> str:
    """Return the text for the record after this attempt."""
    cut = AttemptEnd(end.attempt, end.ended_at, end.text[-MOST_TEXT:])
    ends = (*read_ends(past), cut)[-MOST_ENDS:]
    return json.dumps([each.as_dict() for each in ends])
