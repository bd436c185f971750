"""The kinds of jobs of the chaos suite: how each is started, and what may become of it. Knows neither app nor judge."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from backjob.model.recovery import TIMED_OUT


@dataclass(frozen=True)
class Kind:
    """One kind. ``seconds`` are the shortest and longest time that it works, ``options`` those of its start()."""

    name: str
    seconds: tuple[float, float]
    weight: int = 1
    """How often it is started, compared with the others."""
    options: dict[str, Any] = field(default_factory=dict)
    longest_delay: float = 0.0
    failure: str = ""
    """A pattern of the cause with which it may fail by itself."""
    never_completes: bool = False
    is_cancelled: bool = False
    """Does the client cancel it?"""
    page_fails: bool = False
    """Does the page that starts it answer 500?"""

    @property
    def retries(self) -> int:
        return self.options.get("retries", 0)

    @property
    def never_begins(self) -> bool:
        return self.page_fails

    @property
    def follows(self) -> bool:
        """Does it wait for the end of the response that started it?"""
        return self.options.get("after_response", False)

    @property
    def is_silent(self) -> bool:
        """Does it give no sign for longer than it may?"""
        return "error_timeout" in self.options


_ALL = (
    Kind("short", (0.0, 0.3), weight=6),
    Kind("steps", (0.5, 2.5), weight=3, options={"retries": 2}),
    Kind("wordy", (0.3, 1.0), weight=2, options={"retries": 1}),
    Kind("busy", (0.3, 1.5), options={"retries": 2}),
    # Longer than the lease, which is renewed without a sign of theirs.
    Kind("silent", (3.5, 4.5), options={"retries": 2}),
    Kind("flaky", (0.0, 0.3), weight=2, options={"retries": 3}, failure="HTTP 503"),
    Kind("broken", (0.0, 0.2), options={"retries": 1}, failure="RuntimeError: on purpose", never_completes=True),
    Kind("mute", (4.0, 5.0), options={"error_timeout": 2}, failure=f"{re.escape(TIMED_OUT.format(timeout=2))}$"),
    Kind("delayed", (0.0, 0.3), weight=2, longest_delay=5.0),
    Kind("unwanted", (4.0, 5.0), options={"retries": 1}, is_cancelled=True),
    Kind("follower", (0.0, 0.3), options={"after_response": True}),
    Kind("orphan", (0.0, 0.3), options={"after_response": True}, page_fails=True),
)
KINDS = {kind.name: kind for kind in _ALL}
"""Those that the load starts at random."""

PATIENT = Kind("steps", (3.0, 3.0), options={"retries": 2, "priority": 1})
"""For a process that is to be stopped while it works."""
POISON = Kind("poison", (1.0, 1.0), options={"priority": 1}, failure="refuses", never_completes=True)
"""The database refuses its texts."""
HOG = Kind("silent", (12.0, 12.0), options={"priority": 1}, failure="SystemExit")
"""Longer than the time-out of gunicorn's sync workers."""
