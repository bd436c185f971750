"""The statuses of a job and the moves between them, as data.

The SQL guards, the cache store's guards, the CHECK constraints and the diagram in the docs are generated from it. Knows
nothing of records, databases and WSGI.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class Status(IntEnum):
    """Where a job is in its life. The numbers are those of EBackJob for Yii 1."""

    STARTED = 0
    INPROGRESS = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4

    @property
    def is_final(self) -> bool:
        """No write changes a job in this status any more."""
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


@dataclass(frozen=True)
class Transition:
    """A move: it is made only from one of ``sources``, and then leads to ``target``."""

    sources: frozenset[Status]
    target: Status


class Move(Enum):
    """Every way from one status to another. The guarded UPDATE and the diagram in the docs are made from it."""

    CLAIM = Transition(frozenset({Status.STARTED}), Status.INPROGRESS)
    COMPLETE = Transition(frozenset({Status.INPROGRESS}), Status.COMPLETED)
    FAIL = Transition(frozenset({Status.STARTED, Status.INPROGRESS}), Status.FAILED)
    CANCEL = Transition(frozenset({Status.STARTED, Status.INPROGRESS}), Status.CANCELLED)
    RETRY = Transition(frozenset({Status.INPROGRESS}), Status.STARTED)

    @property
    def sources(self) -> frozenset[Status]:
        return self.value.sources

    @property
    def target(self) -> Status:
        return self.value.target


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
