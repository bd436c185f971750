"""The definitions of the writes, compiled to UPDATE statements, and conditions compiled to SQL.

Each statement is built once, so that SQLAlchemy compiles it once. Runs nothing.
"""

from __future__ import annotations

import functools
from datetime import datetime
from typing import Any

from sqlalchemy import BindParameter, ColumnElement, Table, Update, and_, bindparam, case, not_, null, or_, update

from backjob.model.conditions import (
    AllOf,
    AnyOf,
    Arg,
    Choice,
    Condition,
    Field,
    Missing,
    Not,
    Now,
    OneOf,
    StartsWith,
    Sum,
    Value,
    find_arguments,
)
from backjob.model.evaluation import COMPARISONS, resolve
from backjob.model.writes import Definition, Write


@functools.lru_cache(maxsize=16)
def find_updates(table: Table) -> Updates:
    """Return the updates of this table, the same object each time."""
    return Updates(table)


class Updates:
    """The UPDATE statements on one table."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._of_one: dict[Definition, Update] = {}
        self._of_many: dict[Definition, Update] = {}
        self._arguments: dict[Definition, dict[str, Arg | Now]] = {}

    def find_one(self, write: Write) -> Update:
        """Return the UPDATE of the row with the id ``job_id``, if it meets the guard."""
        definition = write.definition
        if definition not in self._of_one:
            self._of_one[definition] = self.find_many(write).where(self._table.c.id == bindparam("job_id"))
        return self._of_one[definition]

    def find_many(self, write: Write) -> Update:
        """Return the UPDATE of all rows that meet the guard."""
        definition = write.definition
        if definition not in self._of_many:
            values = {name: compile_value(value, self._table, name) for name, value in definition.values.items()}
            guard = [compile_condition(condition, self._table) for condition in definition.guard]
            self._of_many[definition] = update(self._table).where(*guard).values(values)
        return self._of_many[definition]

    def list_parameters(self, write: Write, now: datetime) -> dict[str, Any]:
        """Return the parameters of the statement for this write at this time."""
        definition = write.definition
        if definition not in self._arguments:
            parts = (*definition.guard, *definition.values.values())
            self._arguments[definition] = {_name(each): each for each in find_arguments(parts)}
        return {name: resolve(each, write, now) for name, each in self._arguments[definition].items()}


def compile_condition(condition: Condition, table: Table) -> ColumnElement[bool]:
    """Return the SQL of a condition. Arguments and times become parameters."""
    if isinstance(condition, (AnyOf, AllOf)):
        parts = [compile_condition(each, table) for each in condition.conditions]
        return or_(*parts) if isinstance(condition, AnyOf) else and_(*parts)
    if isinstance(condition, Not):
        return not_(compile_condition(condition.condition, table))
    column: ColumnElement[Any] = table.c[condition.field]
    if isinstance(condition, Missing):
        return column.is_(None)
    if isinstance(condition, StartsWith):
        return column.startswith(condition.prefix)
    if isinstance(condition, OneOf):
        if isinstance(condition.values, Arg):
            return column.in_(bindparam(_name(condition.values), expanding=True))
        return column.in_([int(status) for status in sorted(condition.values)])
    if isinstance(condition.value, bool):
        return column.is_(condition.value)
    compared: ColumnElement[bool] = COMPARISONS[type(condition)](
        column, compile_value(condition.value, table, condition.field)
    )
    return compared


def compile_value(value: Value, table: Table, name: str) -> Any:
    """Return the SQL of a value for the column with this name."""
    column = table.c[name]
    match value:
        case Arg() | Now():
            parameter: BindParameter[Any] = bindparam(_name(value), type_=column.type)
            return parameter
        case Field(field):
            return table.c[field]
        case Sum(field, more):
            return table.c[field] + compile_value(more, table, field)
        case Choice(condition, then, otherwise):
            chosen = compile_value(then, table, name), compile_value(otherwise, table, name)
            return case((compile_condition(condition, table), chosen[0]), else_=chosen[1])
        case None:
            return null()
        case bool() | str():
            return value
    return int(value)


def _name(part: Arg | Now) -> str:
    """Return the name of a parameter. It differs from the names of columns, which SQLAlchemy reserves."""
    match part:
        case Arg(name):
            return f"arg_{name}"
        case Now(plus, minus):
            return f"now_minus_{minus}" if minus else f"now_plus_{plus}" if plus else "now"
