"""Every SQL statement on the job table, built once: SQLAlchemy then finds each of them compiled.

The guards come from the table of moves. Says what is written when, and runs nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from sqlalchemy import (
    BindParameter,
    Table,
    Update,
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

from backjob.model.job import LIVE, RECORD_VERSION, Glance, Job, Move, Status
from backjob.model.recovery import RecoveryRecord
from backjob.runtime.process_identity import PROCESS, RESPONSE

from .schema import find_process_table

_NO_HOLD = {"held_by": null(), "held_until": null(), "launch_failed_at": null()}
_UNTOLD = {"status_text": "", "error": "", "location": ""}
_MOST_TRIED = 20
"""The number of live jobs, and of jobs of any status, on which ``check_writes()`` tries an update."""
_NO_LEASE = {"lease_by": null(), "lease_until": null()}


@functools.lru_cache(maxsize=16)
def build_statements(table: Table) -> Statements:
    """Return the statements on this table. Building them takes milliseconds, so it is done once."""
    return Statements(table)


class Statements:
    """All statements on one table."""

    def __init__(self, table: Table) -> None:
        columns = table.c
        is_readable = columns.record_version <= RECORD_VERSION
        now, until = _at("now", columns.updated_at), _at("until", columns.updated_at)
        self.insert = insert(table)
        self.inserted = [column.name for column in _columns(table, Job) if column.name not in ("id", "sealed")]
        """What a new row takes over from its record; the database gives it a number, and the seal needs that."""
        self.set_sealed = update(table).where(columns.id == bindparam("job_id")).values(sealed=bindparam("new_sealed"))
        self.get = select(*_columns(table, Job)).where(columns.id == bindparam("job_id"))
        self.glance = select(*_columns(table, Glance)).where(columns.id == bindparam("job_id"))
        shown = [null().label("sealed") if column is columns.sealed else column for column in _columns(table, Job)]
        self.look_at = select(*shown).where(columns.id == bindparam("job_id"))
        self.key_id = select(columns.key_id).where(columns.id == bindparam("job_id"))
        self.find = select(*shown).order_by(columns.id.desc())
        self.id_of_uid = select(columns.id).where(columns.uid == bindparam("uid"))
        of_live = columns.status.in_([int(status) for status in sorted(LIVE)])
        newest = select(columns.id).order_by(columns.id.desc()).limit(_MOST_TRIED)
        self.newest, self.newest_live = newest, newest.where(of_live)
        same = {column.name: column for column in columns if not column.primary_key}
        self.write_same = update(table).where(columns.id == bindparam("job_id")).values(same)
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
            select(func.count())
            .select_from(table)
            .where(columns.id.in_(bindparam("job_ids", expanding=True)), columns.status == bindparam("in_status"))
        )
        self.prune = delete(table).where(
            columns.id.in_(bindparam("job_ids", expanding=True)),
            columns.status == bindparam("in_status"),
            columns.ended_at < _at("before", columns.ended_at),
            is_readable,
        )

        # What waits for a response is never free: should its request be gone, the job is not wanted any more.
        is_lapsed = (columns.held_until <= now) & columns.held_by.not_like(f"{RESPONSE}%")
        is_free = or_(columns.held_until.is_(None), is_lapsed)
        waits = (columns.status == int(Status.STARTED)) & columns.key_id.in_(bindparam("key_ids", expanding=True))
        waits &= columns.app_id.not_in(bindparam("skipped", expanding=True))
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
            columns.status == int(Status.STARTED),
            columns.held_until > now,
            columns.due_at <= now,
            columns.launch_failed_at.is_(None),
            columns.held_by.startswith(PROCESS),
        )
        order = (columns.priority.desc(), columns.due_at, columns.id)
        self.due = select(columns.id, columns.attempt).where(waits, columns.due_at <= now, is_free)
        self.due = self.due.order_by(*order).limit(8)
        later = case((columns.held_until > columns.due_at, columns.held_until), else_=columns.due_at)
        self.next_due = select(func.min(later)).where(waits, columns.due_at <= _at("horizon", columns.due_at))

        of_attempt = update(table).where(columns.id == bindparam("job_id"), columns.attempt == bindparam("at_attempt"))
        fenced = of_attempt.where(is_readable)
        is_started, runs = columns.status == int(Status.STARTED), columns.status == int(Status.INPROGRESS)
        held = of_attempt.where(is_started).values(held_by=bindparam("holder"), held_until=until)
        self.hold_of_nobody = held.where(is_free, is_readable)
        # Also of a newer record: a launch that came to a process of an older release is given back.
        self.hold_of_holder = held.where(columns.held_by == bindparam("old_holder"))
        self.held_by_process = select(columns.held_by).distinct()
        self.held_by_process = self.held_by_process.where(is_started, is_readable, columns.held_by.startswith(PROCESS))
        held_by_holder = update(table).where(is_started, is_readable, columns.held_by == bindparam("holder"))
        self.free = held_by_holder.values(held_by=null(), held_until=null())
        self.note_launch_failure = held.where(is_readable, columns.held_by == bindparam("holder")).values(
            status_text=bindparam("text"), updated_at=now, launch_failed_at=_at("failed_at", columns.launch_failed_at)
        )
        self.note_wait = (
            update(table)
            .where(is_started, is_readable, columns.due_at <= now, columns.launch_failed_at.is_(None))
            .where(columns.app_id == bindparam("of_app"), columns.status_text == bindparam("old_text"))
            .values(status_text=bindparam("text"))
        )
        no_key = columns.key_id.not_in(bindparam("key_ids", expanding=True))
        self.note_missing_key = self.note_wait.where(no_key, columns.held_until.is_(None) | (columns.held_until <= now))
        # MySQL sets one column after the other: the text first, as SQLAlchemy writes them in the table's order.
        self.note_full = self.hold_of_holder.values(
            status_text=case((columns.launch_failed_at.is_(None), columns.status_text), else_=""),
            launch_failed_at=null(),
        )
        of_these = update(table).where(columns.id.in_(bindparam("job_ids", expanding=True)))
        named: BindParameter[Any] = bindparam("names", expanding=True)
        self.renew_leases = of_these.where(runs, columns.lease_by.in_(named)).values(lease_until=until)
        self.renew_holds = of_these.where(is_started, columns.held_by.in_(named)).values(held_until=until)
        self.vouched = select(*_columns(table, RecoveryRecord)).where(
            or_(runs, is_started & columns.held_by.startswith(RESPONSE)),
            columns.key_id.in_(bindparam("key_ids", expanding=True)),
            is_readable,
        )
        lease = {"lease_until": until, "updated_at": now}
        number = bindparam("number", type_=columns.signs.type)
        sign = fenced.where(runs, columns.cancel_requested.is_(False)).values(
            progress=bindparam("new_progress"), signs=number, **lease
        )
        more = bindparam("text", type_=columns.status_text.type)
        self.touch = sign.where(columns.signs <= number).values(status_text=more)
        self.touch_without_text = sign.where(columns.signs == number - 1)
        self.touch_with_more = self.touch_without_text.values(status_text=columns.status_text + more)
        self.touch_if_it_fits = self.touch_with_more.where(
            func.octet_length(columns.status_text) <= bindparam("room", type_=columns.signs.type)
        )
        self.request_cancel = update(table).where(columns.id == bindparam("job_id"), runs, is_readable)
        self.request_cancel = self.request_cancel.values(cancel_requested=True)
        self.claim = _guard(fenced, Move.CLAIM, table).values(
            started_at=now, progress=0, signs=0, lease_by=bindparam("owner"), **_UNTOLD, **lease, **_NO_HOLD
        )
        self.count_running = select(columns.scope, func.count()).where(runs).group_by(columns.scope)
        other = table.alias("other")
        running = select(func.count()).where(other.c.status == int(Status.INPROGRESS))
        in_scope = running.where(other.c.scope == columns.scope).correlate(table)
        has_room = running.scalar_subquery() < bindparam("max_running")
        has_room &= in_scope.scalar_subquery() < bindparam("max_in_scope")
        # One statement, and exact, where one writes at a time: on SQLite.
        self.claim_if_room = self.claim.where(has_room)
        self.has_room = select(columns.id).where(columns.id == bindparam("job_id"), has_room)

        told = {
            "status_text": func.coalesce(bindparam("text", type_=columns.status_text.type), columns.status_text),
            "progress": func.coalesce(bindparam("new_progress", type_=columns.progress.type), columns.progress),
            "past": func.coalesce(bindparam("new_past", type_=columns.past.type), columns.past),
            "updated_at": now,
            "error": bindparam("new_error", type_=columns.error.type),
            "location": bindparam("new_location", type_=columns.location.type),
        }
        final = {"ended_at": now, "unique_key": null(), **_NO_LEASE, **_NO_HOLD}
        # What may be started again by a person is kept; of a user nothing is.
        kept = case((columns.anonymous, columns.sealed), else_=null())
        due = _at("due", columns.due_at)
        again = {"attempt": columns.attempt + 1, "due_at": due, "started_at": null(), **_NO_LEASE}
        self.moves: dict[Move, Update] = {}
        self.fenced_moves: dict[Move, Update] = {}
        for move in (Move.COMPLETE, Move.FAIL, Move.CANCEL, Move.RETRY):
            made = update(table).where(columns.id == bindparam("job_id"), is_readable)
            made = _guard(made, move, table).values(**told)
            if move is Move.RETRY:
                made = made.where(columns.cancel_requested.is_(False), columns.attempt <= columns.retries).values(
                    **again
                )
            else:
                made = made.values(**final, sealed=null() if move is Move.COMPLETE else kept)
            self.moves[move] = made
            self.fenced_moves[move] = made.where(columns.attempt == bindparam("at_attempt"))


def _columns(table: Table, record: type[Job] | type[Glance] | type[RecoveryRecord]) -> list[Any]:
    """The columns of a record's fields, in their order; when it was read is no column."""
    return [table.c[each.name] for each in dataclasses.fields(record) if each.name != "read_at"]


def _guard(statement: Update, move: Move, table: Table) -> Update:
    sources = [int(status) for status in sorted(move.sources)]
    return statement.where(table.c.status.in_(sources)).values(status=int(move.target))


def _at(name: str, like: Any) -> Any:
    return bindparam(name, type_=like.type)
