"""How a job's earlier attempts ended, as it is kept in the record: the newest last, and not more than people read.

Text in, frozen records out. Knows no stores.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

MOST_ENDS = 20
MOST_TEXT = 2000
"""Characters that are kept of what an attempt had to say: its last ones, for there stands why it ended."""


@dataclass(frozen=True)
class AttemptEnd:
    """How an attempt ended that was not the last one. ``ended_at`` is an aware UTC datetime."""

    attempt: int
    ended_at: datetime
    text: str

    def as_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {"attempt": self.attempt, "ended_at": self.ended_at.isoformat(), "text": self.text}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> AttemptEnd:
        """It again. Raises ValueError, TypeError or KeyError for what as_dict() has not made."""
        attempt, ended_at, text = fields["attempt"], datetime.fromisoformat(fields["ended_at"]), fields["text"]
        if not isinstance(attempt, int) or not isinstance(text, str) or ended_at.tzinfo is None:
            raise TypeError("not the end of an attempt")
        return cls(attempt, ended_at, text)


def read_ends(past: str) -> tuple[AttemptEnd, ...]:
    """What stands in a record; nothing for what is no text of ours."""
    try:
        return tuple(AttemptEnd.from_dict(fields) for fields in json.loads(past or "[]"))
    except (ValueError, TypeError, KeyError, RecursionError):
        return ()


def add_end(past: str, end: AttemptEnd) -> str:
    """What is to stand in the record after this attempt."""
    cut = AttemptEnd(end.attempt, end.ended_at, end.text[-MOST_TEXT:])
    ends = (*read_ends(past), cut)[-MOST_ENDS:]
    return json.dumps([each.as_dict() for each in ends])
