"""The writes to the record of a job: their arguments, guards and the values that they set, as data.

This module has those of running jobs and the transitions. holds.py has those of waiting jobs.

The SQL store and the cache store are made from these. A write whose guard is not met changes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from backjob.runtime.process_identity import RESPONSE

from .conditions import (
    AllOf,
    AnyOf,
    Arg,
    AtMost,
    Choice,
    Condition,
    Equal,
    Field,
    Missing,
    Not,
    Now,
    OneOf,
    StartsWith,
    Sum,
    Value,
)
from .job import RECORD_VERSION
from .transitions import KEEPS_REQUEST, Move, Status

READABLE = AtMost("record_version", RECORD_VERSION)
WAITS = Equal("status", Status.STARTED)
RUNS = Equal("status", Status.INPROGRESS)
FREE = AnyOf(
    (
        Missing("held_until"),
        # A job that waits for a response is never free: if the response is lost, so is the job.
        AllOf((AtMost("held_until", Now()), Not(StartsWith("held_by", RESPONSE)))),
    )
)
"""No process holds the job, or the hold has ended."""
DUE = AtMost("due_at", Now())
NO_FAILED_LAUNCH = Missing("launch_failed_at")

OF_ATTEMPT = Equal("attempt", Arg("attempt"))
_LEASE: dict[str, Value] = {"updated_at": Now(), "lease_until": Now(plus="lease")}
NO_HOLD: dict[str, Value] = {"held_by": None, "held_until": None, "launch_failed_at": None}
_NO_LEASE: dict[str, Value] = {"lease_by": None, "lease_until": None}


@dataclass(frozen=True, eq=False)
class Definition:
    """The guard of a write, all of which must be met, and the values that it sets."""

    guard: tuple[Condition, ...]
    values: Mapping[str, Value]


class Write:
    """A write to the record of a job. Its attributes are the arguments."""

    @property
    def definition(self) -> Definition:
        """Guard and values. Equal ones are the same object, so that a store can cache its statement."""
        raise NotImplementedError

    @property
    def may_change_nothing(self) -> bool:
        """True if a record may meet the guard and have all the values already."""
        return False


@dataclass(frozen=True)
class Claim(Write):
    """Begin an attempt. ``lease``: seconds within which its process must renew the lease."""

    attempt: int
    owner: str
    lease: float

    definition = Definition(
        (OneOf("status", Move.CLAIM.sources), OF_ATTEMPT, READABLE),
        {
            "status": Move.CLAIM.target,
            "started_at": Now(),
            "lease_by": Arg("owner"),
            **_LEASE,
            **NO_HOLD,
            "progress": 0,
            "signs": 0,
            "status_text": "",
            "error": "",
            "location": "",
        },
    )


@dataclass(frozen=True)
class Progress(Write):
    """A progress report of a running job. ``number``: its number within the attempt. An older one is refused.

    With ``is_more`` the text is appended to that of the report before, which must be the last one that was made.
    """

    attempt: int
    progress: int
    text: str
    lease: float
    number: int
    is_more: bool

    _GUARD: ClassVar = (RUNS, OF_ATTEMPT, Equal("cancel_requested", False), READABLE)
    _VALUES: ClassVar[dict[str, Value]] = {"progress": Arg("progress"), "signs": Arg("number"), **_LEASE}
    _WHOLE: ClassVar = Definition((*_GUARD, AtMost("signs", Arg("number"))), {**_VALUES, "status_text": Arg("text")})
    _SAME: ClassVar = Definition((*_GUARD, Equal("signs", Arg("last"))), _VALUES)
    _MORE: ClassVar = Definition(_SAME.guard, {**_VALUES, "status_text": Sum("status_text", Arg("text"))})

    @property
    def last(self) -> int:
        """Number of the report before."""
        return self.number - 1

    @property
    def definition(self) -> Definition:
        if not self.is_more:
            return self._WHOLE
        return self._MORE if self.text else self._SAME

    @property
    def may_change_nothing(self) -> bool:
        return not self.is_more


@dataclass(frozen=True)
class LeaseRenewal(Write):
    """Extend the leases of running jobs with these claims."""

    names: Collection[str]
    seconds: float

    definition = Definition((RUNS, OneOf("lease_by", Arg("names"))), {"lease_until": Now(plus="seconds")})


@dataclass(frozen=True)
class CancelRequest(Write):
    """Ask a running job to end."""

    definition = Definition((RUNS, READABLE), {"cancel_requested": True})
    may_change_nothing = True


@dataclass(frozen=True)
class Transition(Write):
    """Move a job on to another status. An argument that is None guards and changes nothing.

    ``idle_for``: only if there was no progress report for so many seconds. ``expires_at``: only if its lease, or
    its hold, still ends at that time. ``delay``: seconds until the next attempt is due.
    """

    move: Move
    attempt: int | None = None
    text: str | None = None
    error: str = ""
    location: str = ""
    progress: int | None = None
    delay: float = 0
    past: str | None = None
    idle_for: float | None = None
    expires_at: datetime | None = None

    @property
    def definition(self) -> Definition:
        given = (name for name in (*_GUARDED, *_SET) if getattr(self, name) is not None)
        return _define_transition(self.move, frozenset(given))

    @property
    def is_repeatable(self) -> bool:
        """True if the write can be made again after a lost answer, because it can't move the next attempt."""
        return self.move is not Move.RETRY or self.attempt is not None


_GUARDED: dict[str, Condition] = {
    "attempt": OF_ATTEMPT,
    "idle_for": AtMost("updated_at", Now(minus="idle_for")),
    "expires_at": AnyOf(
        (
            Equal("lease_until", Arg("expires_at")),
            AllOf((Missing("lease_until"), Equal("held_until", Arg("expires_at")))),
        )
    ),
}
_SET: dict[str, Mapping[str, Value]] = {
    "text": {"status_text": Arg("text")},
    "progress": {"progress": Arg("progress")},
    "past": {"past": Arg("past")},
}
_END: dict[str, Value] = {"ended_at": Now(), "unique_key": None, **_NO_LEASE, **NO_HOLD}
_NEXT_ATTEMPT: dict[str, Value] = {
    "attempt": Sum("attempt", 1),
    "due_at": Now(plus="delay"),
    "started_at": None,
    **_NO_LEASE,
}


@functools.cache
def _define_transition(move: Move, given: frozenset[str]) -> Definition:
    guard: list[Condition] = [OneOf("status", move.sources), READABLE]
    guard += [condition for name, condition in _GUARDED.items() if name in given]
    values: dict[str, Value] = {"status": move.target, "updated_at": Now()}
    values |= {"error": Arg("error"), "location": Arg("location")}
    for name in sorted(given & _SET.keys()):
        values |= _SET[name]
    if move is Move.RETRY:
        guard += [Equal("cancel_requested", False), AtMost("attempt", Field("retries"))]
        return Definition(tuple(guard), values | _NEXT_ATTEMPT)
    # A request of an anonymous visitor is kept if the job did not complete: anyone may start it again.
    kept = Choice(Equal("anonymous", True), Field("sealed"), None) if move.target in KEEPS_REQUEST else None
    return Definition(tuple(guard), values | _END | {"sealed": kept})
