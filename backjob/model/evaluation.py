"""Writes and their conditions, evaluated on a record. Pure, for stores that have no UPDATE … WHERE."""

from __future__ import annotations

import dataclasses
import operator
from datetime import datetime, timedelta
from typing import Any

from .conditions import (
    AllOf,
    AnyOf,
    Arg,
    AtLeast,
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
from .invariants import INVARIANTS
from .job import Job
from .writes import Write

_FIELDS = frozenset(each.name for each in dataclasses.fields(Job))


def apply_write(write: Write, job: Job, now: datetime) -> Job | None:
    """Return the record after this write, or None if its guard is not met."""
    definition = write.definition
    if not all(is_met(condition, job, write, now) for condition in definition.guard):
        return None
    values = {name: value for name, value in definition.values.items() if name in _FIELDS}
    return dataclasses.replace(job, **{name: resolve(value, write, now, job) for name, value in values.items()})


def find_breach(record: Job) -> str | None:
    """Return the name of an invariant that the record does not meet, or None."""
    return next((name for name, condition in INVARIANTS.items() if not is_met(condition, record)), None)


def is_applied(write: Write, job: Job, now: datetime) -> bool:
    """Return whether the record has the values that this write sets at this time, as far as they are known."""
    definition = write.definition
    before: dict[str, Any] = {}
    for condition in definition.guard:
        if isinstance(condition, Equal):
            before[condition.field] = resolve(condition.value, write, now)
    after = dict(before)
    for name, value in definition.values.items():
        after.pop(name, None)
        match value:
            case Sum(field, int(more)) if field in before:
                after[name] = before[field] + more
            case None | int() | str() | Arg() | Now():
                after[name] = resolve(value, write, now)
    return all(getattr(job, name) == value for name, value in after.items() if name in _FIELDS)


COMPARISONS = {Equal: operator.eq, AtMost: operator.le, AtLeast: operator.ge}


def is_met(condition: Condition, record: object, arguments: object = None, now: datetime | None = None) -> bool:
    """Return whether a record meets the condition of a write with these arguments, at this time."""
    match condition:
        case Not(inner):
            return not is_met(inner, record, arguments, now)
        case AnyOf(inners):
            return any(is_met(inner, record, arguments, now) for inner in inners)
        case AllOf(inners):
            return all(is_met(inner, record, arguments, now) for inner in inners)
        case Missing(field):
            return getattr(record, field, None) is None
        case StartsWith(field, prefix):
            return (getattr(record, field) or "").startswith(prefix)
        case OneOf(field, values):
            return getattr(record, field) in (resolve(values, arguments) if isinstance(values, Arg) else values)
    found, wanted = getattr(record, condition.field), resolve(condition.value, arguments, now, record)
    return found is not None and wanted is not None and bool(COMPARISONS[type(condition)](found, wanted))


def resolve(value: Value, arguments: object, now: datetime | None = None, record: object = None) -> Any:
    """Return a value for a write with these arguments, at this time. Fields are read from the record."""
    match value:
        case Arg(name):
            return getattr(arguments, name)
        case Now(plus, minus):
            seconds = getattr(arguments, plus or minus) if plus or minus else 0
            return None if now is None or seconds is None else now + timedelta(seconds=-seconds if minus else seconds)
        case Field(name):
            return getattr(record, name)
        case Sum(field, more):
            return getattr(record, field) + (getattr(arguments, more.name) if isinstance(more, Arg) else more)
        case Choice(condition, then, otherwise):
            return resolve(then if is_met(condition, record, arguments, now) else otherwise, arguments, now, record)
    return value
