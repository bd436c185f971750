"""The conditions that every stored record meets, as data. The CHECK constraints are made from them."""

from __future__ import annotations

from .conditions import AllOf, AnyOf, AtLeast, AtMost, Condition, Equal, Missing, Not, OneOf
from .transitions import FINAL, KEEPS_REQUEST, LIVE, Status

_IS_LIVE, _HAS_ENDED = OneOf("status", LIVE), OneOf("status", FINAL)
_KEEPS_REQUEST = AllOf((Equal("anonymous", True), OneOf("status", KEEPS_REQUEST)))

INVARIANTS: dict[str, Condition] = {
    "status_ended_at": AnyOf((AllOf((_IS_LIVE, Missing("ended_at"))), AllOf((_HAS_ENDED, Not(Missing("ended_at")))))),
    "status_started_at": AnyOf((Not(Equal("status", Status.INPROGRESS)), Not(Missing("started_at")))),
    "status_wiped": AnyOf((_IS_LIVE, AllOf((Missing("unique_key"), AnyOf((Missing("sealed"), _KEEPS_REQUEST)))))),
    "progress": AllOf((AtLeast("progress", 0), AtMost("progress", 100))),
    "attempt": AllOf((AtLeast("attempt", 1), AtLeast("retries", 0))),
}
"""Each condition by its name."""
