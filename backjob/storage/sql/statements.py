"""The queries of the job table, and its INSERT and DELETE, built once, so that SQLAlchemy compiles them once.

The UPDATE statements are made in updates.py. Runs nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from sqlalchemy import (
    Table,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    null,
    or_,
    select,
    update,
)

from backjob.model.app_id import OF_APP
from backjob.model.job import FINAL, LIVE, Glance, Job, Status
from backjob.model.recovery import RecoveryRecord
from backjob.model.writes import DUE, FREE, NO_FAILED_LAUNCH, READABLE, RUNS, WAITS
from backjob.runtime.process_identity import PROCESS, RESPONSE

from .schema import find_process_table
from .updates import compile_condition

_MOST_TRIED = 20
"""The number of live jobs, and of jobs of any status, on which ``check_writes()`` tries an update."""


@functools.lru_cache(maxsize=16)
def build_statements(table: Table) -> Statements:
    """Return the statements on this table. Building them takes milliseconds, so it is done once."""
    return Statements(table)


class Statements:
    """All statements on one table."""

    def __init__(self, table: Table) -> None:
        columns = table.c
        is_readable = compile_condition(READABLE, table)
        self.is_job = columns.id == bindparam("job_id")
        self.is_listed = columns.id.in_(bindparam("job_ids", expanding=True))
        self.insert = insert(table)
        self.inserted = [column.name for column in _columns(table, Job) if column.name not in ("id", "sealed")]
        """Columns of a new row. The database assigns the id. The seal needs it, so it is written afterwards."""
        self.set_sealed = update(table).where(self.is_job).values(sealed=bindparam("new_sealed"))
        self.get = select(*_columns(table, Job)).where(self.is_job)
        self.glance = select(*_columns(table, Glance)).where(self.is_job)
        shown = [null().label("sealed") if column is columns.sealed else column for column in _columns(table, Job)]
        self.look_at = select(*shown).where(self.is_job)
        self.key_id = select(columns.key_id).where(self.is_job)
        self.find = select(*shown).order_by(columns.id.desc())
        self.id_of_uid = select(columns.id).where(columns.uid == bindparam("uid"))
        of_live = columns.status.in_([int(status) for status in sorted(LIVE)])
        newest = select(columns.id).order_by(columns.id.desc()).limit(_MOST_TRIED)
        self.newest, self.newest_live = newest, newest.where(of_live)
        same = {column.name: column for column in columns if not column.primary_key}
        self.write_same = update(table).where(self.is_job).values(same)
        self.of_unique = select(columns.id, columns.uid).where(
            columns.unique_key.in_(bindparam("unique_keys", expanding=True))
        )
        self.old = (
            select(columns.id)
            .where(columns.status == bindparam("in_status"), columns.ended_at < _at("before", columns.ended_at))
            .where(is_readable)
            .order_by(columns.ended_at, columns.id)
            .limit(bindparam("most"))
            .offset(bindparam("passed"))
        )
        self.still_there = (
            select(func.count()).select_from(table).where(self.is_listed, columns.status == bindparam("in_status"))
        )
        self.prune = delete(table).where(
            self.is_listed,
            columns.status == bindparam("in_status"),
            columns.ended_at < _at("before", columns.ended_at),
            is_readable,
        )

        self._add_waiting(table)
        self._add_running(table)

    def _add_waiting(self, table: Table) -> None:
        """Add the queries of waiting jobs."""
        columns = table.c
        now = _at("now", columns.updated_at)
        is_started = compile_condition(WAITS, table)
        is_readable = compile_condition(READABLE, table)
        waits = is_started & columns.key_id.in_(bindparam("key_ids", expanding=True))
        since, seen = _at("abandoned_since", columns.due_at), table.alias("seen").c
        was_seen = seen.status.in_([int(status) for status in FINAL]) & (seen.ended_at > since)
        is_served = exists().where(seen.app_id == columns.app_id, (seen.status == int(Status.INPROGRESS)) | was_seen)
        is_abandoned = (columns.due_at <= since) & (columns.updated_at <= since) & ~is_served.correlate(table)
        waits &= compile_condition(OF_APP, table) | is_abandoned
        waits &= columns.scope.not_in(bindparam("full_scopes", expanding=True))
        waits &= columns.id.not_in(bindparam("left", expanding=True))
        process = find_process_table(table).c
        is_alive = exists().where(
            process.app_version == columns.app_version,
            process.alive_until > _at("versions_since", process.alive_until),
        )
        is_ours = columns.app_version.in_(bindparam("app_versions", expanding=True))
        waits &= is_readable & or_(is_ours, ~is_alive.correlate(table))
        self.count_launched = select(func.count()).where(
            is_started,
            columns.held_until > now,
            *(compile_condition(each, table) for each in (DUE, NO_FAILED_LAUNCH)),
            columns.held_by.startswith(PROCESS),
        )
        order = (columns.priority.desc(), columns.due_at, columns.id)
        is_free = [compile_condition(each, table) for each in (DUE, FREE)]
        self.due = select(columns.id, columns.attempt).where(waits, *is_free).order_by(*order).limit(8)
        later = case((columns.held_until > columns.due_at, columns.held_until), else_=columns.due_at)
        self.next_due = select(func.min(later)).where(waits, columns.due_at <= _at("horizon", columns.due_at))
        self.held_by_process = select(columns.held_by).distinct()
        self.held_by_process = self.held_by_process.where(is_started, is_readable, columns.held_by.startswith(PROCESS))

    def _add_running(self, table: Table) -> None:
        """Add the queries of running jobs and of the limits on their number."""
        columns = table.c
        runs = compile_condition(RUNS, table)
        self.leased = select(*_columns(table, RecoveryRecord)).where(
            or_(runs, compile_condition(WAITS, table) & columns.held_by.startswith(RESPONSE)),
            columns.key_id.in_(bindparam("key_ids", expanding=True)),
            compile_condition(READABLE, table),
        )
        self.leased_of_app = self.leased.where(compile_condition(OF_APP, table))
        self.count_running = select(columns.scope, func.count()).where(runs).group_by(columns.scope)
        other = table.alias("other")
        running = select(func.count()).where(other.c.status == int(Status.INPROGRESS))
        in_scope = running.where(other.c.scope == columns.scope).correlate(table)
        self.has_room = (running.scalar_subquery() < bindparam("max_running")) & (
            in_scope.scalar_subquery() < bindparam("max_in_scope")
        )
        self.find_room = select(columns.id).where(self.is_job, self.has_room)


def _columns(table: Table, record: type[Job] | type[Glance] | type[RecoveryRecord]) -> list[Any]:
    """Return the columns of a record's fields, in their order. ``read_at`` is no column."""
    return [table.c[each.name] for each in dataclasses.fields(record) if each.name != "read_at"]


def _at(name: str, like: Any) -> Any:
    return bindparam(name, type_=like.type)
