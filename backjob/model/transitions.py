"""The statuses of a job and the moves between them, as data.

The SQL guards, the cache store's guards, the CHECK constraints and the diagram in the docs are generated from this.
Knows nothing of records, databases and WSGI.
"""

from __future__ import annotations

from collections.abc import Set
from enum import Enum, IntEnum


class Status(IntEnum):
    """Status of a job. The numbers are those of EBackJob for Yii 1."""

    STARTED = 0
    INPROGRESS = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4

    @property
    def is_final(self) -> bool:
        """True if no write changes a job in this status."""
        return self in FINAL

    @property
    def word(self) -> str:
        """The status as people see it: waiting, running, completed, failed or cancelled."""
        return _WORDS.get(self) or self.name.lower()


def read_status(number: int, *, is_over: bool = False) -> Status:
    """Return the status with this number in a record.

    A newer release may have further ones. A job in one of those is shown as FAILED if it has ended, and as INPROGRESS
    otherwise: this release neither launches nor changes it.
    """
    if number in _NUMBERS:
        return Status(number)
    return Status.FAILED if is_over else Status.INPROGRESS


_WORDS = {Status.STARTED: "waiting", Status.INPROGRESS: "running"}
_NUMBERS = frozenset(int(status) for status in Status)
FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})
LIVE = frozenset(Status) - FINAL
KEEPS_REQUEST = FINAL - {Status.COMPLETED}
"""Final statuses in which the sealed request of an anonymous visitor is kept."""


class Move(Enum):
    """A transition from one of its sources to its target."""

    CLAIM = {Status.STARTED}, Status.INPROGRESS
    COMPLETE = {Status.INPROGRESS}, Status.COMPLETED
    FAIL = {Status.STARTED, Status.INPROGRESS}, Status.FAILED
    CANCEL = {Status.STARTED, Status.INPROGRESS}, Status.CANCELLED
    RETRY = {Status.INPROGRESS}, Status.STARTED

    def __init__(self, sources: Set[Status], target: Status) -> None:
        self.sources = frozenset(sources)
        self.target = target


TRANSITIONS: dict[Status, frozenset[Status]] = {
    status: frozenset(move.target for move in Move if status in move.sources) for status in Status
}
"""For each status, the statuses that may follow it."""


def draw_diagram() -> str:
    """Return the states and moves as a Mermaid diagram, which docs/life-cycle.md contains."""
    arrows = [
        f"{source.name} --> {move.target.name}: {move.name.lower()}" for move in Move for source in sorted(move.sources)
    ]
    ends = [f"{status.name} --> [*]" for status in sorted(FINAL)]
    return "\n    ".join(["stateDiagram-v2", f"[*] --> {Status.STARTED.name}", *arrows, *ends])
