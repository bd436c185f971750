"""Conditions on a record and values for its fields, as data.

evaluation.py applies them to a record. The SQL store compiles them to SQL. A missing value (None, NULL) meets no
comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

from .transitions import Status


@dataclass(frozen=True)
class Arg:
    """The argument of a write with this name."""

    name: str


@dataclass(frozen=True)
class Now:
    """The store's time, plus or minus the seconds in the argument with this name. None if that argument is None."""

    plus: str = ""
    minus: str = ""


@dataclass(frozen=True)
class Field:
    """The current value of a field."""

    name: str


@dataclass(frozen=True)
class Sum:
    """The current value of a field plus a number, or followed by a text."""

    field: str
    more: Arg | int


@dataclass(frozen=True)
class Choice:
    """One of two values: the first if the condition is met."""

    condition: Condition
    then: Value
    otherwise: Value


Value = Arg | Now | Field | Sum | Choice | int | str | bool | None


@dataclass(frozen=True)
class Comparison:
    """A comparison of a field with a value."""

    field: str
    value: Value


class Equal(Comparison):
    """The field has this value."""


class AtMost(Comparison):
    """The field is less than this value, or equal."""


class AtLeast(Comparison):
    """The field is greater than this value, or equal."""


@dataclass(frozen=True)
class OneOf:
    """The field has one of these values."""

    field: str
    values: Arg | Set[Status]


@dataclass(frozen=True)
class Missing:
    """The field has no value."""

    field: str


@dataclass(frozen=True)
class StartsWith:
    """The field is a text with this prefix."""

    field: str
    prefix: str


@dataclass(frozen=True)
class Not:
    """The condition is not met."""

    condition: Condition


@dataclass(frozen=True)
class AnyOf:
    """At least one of the conditions is met."""

    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class AllOf:
    """All conditions are met."""

    conditions: tuple[Condition, ...]


Condition = Equal | AtMost | AtLeast | OneOf | Missing | StartsWith | Not | AnyOf | AllOf


def find_arguments(part: object) -> Iterator[Arg | Now]:
    """Yield the arguments and times in conditions and values."""
    match part:
        case Arg() | Now():
            yield part
        case tuple():
            for each in part:
                yield from find_arguments(each)
        case Comparison() | OneOf() | Not() | AnyOf() | AllOf() | Sum() | Choice():
            for each in vars(part).values():
                yield from find_arguments(each)
