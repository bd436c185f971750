"""The writes to waiting jobs: their holds, and the reasons why they still wait."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from .app_id import OF_APP
from .conditions import (
    AnyOf,
    Arg,
    AtMost,
    Choice,
    Equal,
    Field,
    Missing,
    Not,
    Now,
    OneOf,
    Value,
)
from .writes import DUE, FREE, NO_FAILED_LAUNCH, NO_HOLD, OF_ATTEMPT, READABLE, WAITS, Definition, Write

_OF_HOLDER = Equal("held_by", Arg("holder"))
_HELD_UNTIL: dict[str, Value] = {"held_until": Now(plus="seconds")}


@dataclass(frozen=True)
class Hold(Write):
    """Hold a waiting job for ``holder``, for so many seconds. Both None: release it.

    ``held_by``: the current holder. None: only if no process holds the job. ``app_id``: the application that received
    the launch from ``held_by``, and adopts the job.
    """

    attempt: int
    held_by: str | None
    holder: str | None
    seconds: float | None
    app_id: str = ""

    _VALUES: ClassVar[dict[str, Value]] = {"held_by": Arg("holder"), **_HELD_UNTIL}
    _TAKE: ClassVar = Definition((WAITS, OF_ATTEMPT, FREE, READABLE), _VALUES)
    # Without READABLE: a process of an older release must be able to give back a launch.
    _PASS: ClassVar = Definition((WAITS, OF_ATTEMPT, Equal("held_by", Arg("held_by"))), _VALUES)
    _ADOPT: ClassVar = Definition((*_PASS.guard, OF_APP), {**_VALUES, "app_id": Arg("app_id")})

    @property
    def definition(self) -> Definition:
        if self.held_by is None:
            return self._TAKE
        return self._ADOPT if self.app_id else self._PASS

    @property
    def may_change_nothing(self) -> bool:
        return self.held_by == self.holder


@dataclass(frozen=True)
class ReleaseAll(Write):
    """Release the waiting jobs of this holder."""

    holder: str

    definition = Definition((WAITS, READABLE, _OF_HOLDER), {"held_by": None, "held_until": None})


@dataclass(frozen=True)
class LaunchFailure(Write):
    """Show why a job still waits, and hold it until the next try. ``failed_for``: seconds since the first failure."""

    attempt: int
    holder: str
    text: str
    seconds: float
    failed_for: float

    definition = Definition(
        (WAITS, OF_ATTEMPT, READABLE, _OF_HOLDER),
        {
            **_HELD_UNTIL,
            "status_text": Arg("text"),
            "updated_at": Now(),
            "launch_failed_at": Now(minus="failed_for"),
        },
    )
    may_change_nothing = True


@dataclass(frozen=True)
class AtCapacity(Write):
    """Release a job whose launch reached a busy server. This counts as success: earlier failures are removed."""

    attempt: int
    holder: str

    definition = Definition(
        (WAITS, OF_ATTEMPT, _OF_HOLDER),
        {"status_text": Choice(NO_FAILED_LAUNCH, Field("status_text"), ""), **NO_HOLD},
    )


@dataclass(frozen=True)
class WaitReason(Write):
    """Set the status text of the due jobs of an application that still have ``old_text``."""

    app_id: str
    text: str
    old_text: str

    definition = Definition(
        (
            *(WAITS, READABLE, DUE, NO_FAILED_LAUNCH),
            *(OF_APP, Equal("status_text", Arg("old_text"))),
        ),
        {"status_text": Arg("text")},
    )


@dataclass(frozen=True)
class MissingKey(Write):
    """Set the empty status text of the jobs of an application that no process has launched for so many seconds.

    Only of jobs that are sealed with none of these keys.
    """

    app_id: str
    key_ids: Collection[str]
    text: str
    seconds: float

    _BEFORE: ClassVar = Now(minus="seconds")
    definition = Definition(
        (
            *(WAITS, READABLE, AtMost("due_at", _BEFORE), NO_FAILED_LAUNCH),
            *(OF_APP, Equal("status_text", ""), Not(OneOf("key_id", Arg("key_ids")))),
            AnyOf((Missing("held_until"), AtMost("held_until", _BEFORE))),
        ),
        {"status_text": Arg("text")},
    )


@dataclass(frozen=True)
class HoldRenewal(Write):
    """Extend the holds of waiting jobs with these holders."""

    names: Collection[str]
    seconds: float

    definition = Definition((WAITS, OneOf("held_by", Arg("names"))), {**_HELD_UNTIL})
