"""The Store on a database, by SQLAlchemy Core: each write is one statement, or one short transaction.

What the answer to a write does not tell, or nobody heard, the row tells. Decides nothing about a job's life.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Update, func

from backjob.errors import Refused, StoreError, TimedOut
from backjob.model.job import Job, Move, NewJob, Status
from backjob.runtime.backoff import random_between

from .clock import choose_clock
from .database import Database
from .errors import AnswerLost, Duplicate, Unreachable
from .lost_answers import methods_as_one_call
from .processes import ProcessTable
from .pruning import SQLPruning
from .queries import SQLReads
from .write_check import WriteCheck

_TRIES = 50
_PAUSE = 0.02
_CUT = "\n[the database takes no more of this text: max_allowed_packet]"
_NO_LIMIT = 2**31 - 1


@methods_as_one_call(but={"prune"})  # prune() has its own limit, and some of its statements may fail
class SQLStore(ProcessTable, SQLPruning, SQLReads, WriteCheck):
    """The Store on a database. ``now`` gives the time as an aware datetime, instead of the database's clock."""

    def __init__(self, database: Database, now: Callable[[], datetime] | None = None) -> None:
        now = now or choose_clock(database)
        ProcessTable.__init__(self, database, now)
        SQLReads.__init__(self, database, now)

    def add(self, new: NewJob, seal: Callable[[int], bytes], unique_keys: Sequence[str] = ()) -> tuple[int, bool]:
        try:
            try:
                return self._insert(new, seal, unique_keys)
            except AnswerLost:
                return self._insert_again(new, seal, unique_keys)
        except (Unreachable, TimedOut):
            raise  # nothing was recorded
        except StoreError:
            # The commit may have been made and only its answer lost: the uid tells.
            if (job_id := self._scalar(self._statements.id_of_uid, uid=new.uid)) is None:
                raise
            return int(job_id), True

    def _insert_again(self, new: NewJob, seal: Callable[[int], bytes], unique_keys: Sequence[str]) -> tuple[int, bool]:
        try:
            # The server may still execute the first insert. A second one of this uid waits for it, a SELECT would not.
            return self._insert(new, seal, unique_keys)
        except TimedOut as error:
            raise AnswerLost(str(error)) from None  # the first insert may have been made

    def _insert(self, new: NewJob, seal: Callable[[int], bytes], unique_keys: Sequence[str]) -> tuple[int, bool]:
        record = new.as_job(0, None, self._now())
        values = {name: getattr(record, name) for name in self._statements.inserted}
        values |= {"status": int(record.status), "unique_key": new.unique_key}

        def insert(connection: Connection) -> tuple[int, bool]:
            if unique_keys:
                found = connection.execute(self._statements.of_unique, {"unique_keys": unique_keys}).first()
                if found is not None:
                    return int(found.id), found.uid == new.uid
            job_id = connection.execute(self._statements.insert, values).inserted_primary_key[0]  # type: ignore[index]
            connection.execute(self._statements.set_sealed, {"job_id": job_id, "new_sealed": self._fit(seal(job_id))})
            return int(job_id), True

        # While keys are changed, two processes may write different digests of one key of uniqueness, and no constraint
        # sees that they are equal.
        run = self._database.run_alone if len(unique_keys) > 1 else self._database.transact
        for tries_left in reversed(range(_TRIES)):
            try:
                return run(insert)
            except Duplicate:
                # Another one was first with this unique key: take that one's job, if it still lives.
                if not unique_keys or not tries_left:
                    raise
                time.sleep(random_between(0, _PAUSE))  # spreads those who wait
        raise AssertionError("unreachable")

    def _fit(self, sealed: bytes) -> bytes:
        most = self._database.largest_value
        if most is not None and len(sealed) > most:
            raise StoreError(f"The job's request, {len(sealed)} bytes sealed, is more than max_allowed_packet lets in")
        return sealed

    def _cut(self, text: str) -> str:
        """What of a text the server takes: a job is not to run on because its text is too long."""
        most = self._database.largest_value
        if most is None or 2 * 4 * len(text) <= most:
            return text
        # On its way each byte may become two.
        encoded = text.encode()
        return text if 2 * len(encoded) <= most else encoded[: most // 2].decode(errors="ignore") + _CUT

    def hold(self, job_id: int, attempt: int, held_by: str | None, holder: str | None, seconds: float) -> bool:
        now = self._now()
        until = now + timedelta(seconds=seconds) if holder is not None else None
        statement = self._statements.hold_of_nobody if held_by is None else self._statements.hold_of_holder
        values = {"job_id": job_id, "at_attempt": attempt, "holder": holder, "until": until}
        values |= {"now": now} if held_by is None else {"old_holder": held_by}
        marks = {"status": Status.STARTED, "attempt": attempt, "held_by": holder, "held_until": until}
        return self._write(statement, values, marks, may_change_nothing=held_by == holder)

    def note_launch_failure(
        self, job_id: int, attempt: int, holder: str, text: str, seconds: float, failed_for: float = 0
    ) -> bool:
        now = self._now()
        values = {"job_id": job_id, "at_attempt": attempt, "holder": holder, "text": text, "now": now}
        values |= {"until": now + timedelta(seconds=seconds), "failed_at": now - timedelta(seconds=failed_for)}
        marks = {"status": Status.STARTED, "attempt": attempt, "held_by": holder, "updated_at": now}
        return self._write(self._statements.note_launch_failure, values, marks, may_change_nothing=True)

    def note_full(self, job_id: int, attempt: int, holder: str) -> bool:
        values = {"job_id": job_id, "at_attempt": attempt, "old_holder": holder, "holder": None, "until": None}
        marks = {"status": Status.STARTED, "attempt": attempt, "held_by": None, "launch_failed_at": None}
        return self._write(self._statements.note_full, values, marks)

    def note_wait(self, app_id: str, text: str, old_text: str) -> int:
        values = {"now": self._now(), "of_app": app_id, "text": text, "old_text": old_text}
        return self._database.write(self._statements.note_wait, values)

    def note_missing_key(self, app_id: str, key_ids: Sequence[str], text: str, seconds: float) -> int:
        values: dict[str, Any] = {"now": self._now() - timedelta(seconds=seconds), "of_app": app_id, "old_text": ""}
        values |= {"key_ids": list(key_ids), "text": text}
        return self._database.write(self._statements.note_missing_key, values)

    def free(self, holder: str) -> int:
        return self._database.write(self._statements.free, {"holder": holder})

    def take_due(
        self,
        key_ids: Sequence[str],
        holder: str,
        seconds: float,
        skipped: Collection[str] = (),
        full_scopes: Collection[str] = (),
        app_version: str = "",
    ) -> Job | None:
        values: dict[str, Any] = {"key_ids": list(key_ids), "skipped": list(skipped), "full_scopes": list(full_scopes)}
        while True:
            now = self._now()
            values |= {"now": now, "left": self._list_left(), **self._of_versions(app_version, now)}
            due = self._database.read(self._statements.due, values)
            for job_id, attempt in due:
                try:
                    if self.hold(job_id, attempt, None, holder, seconds):
                        return self.get(job_id)
                except Refused as error:
                    self._leave_alone(job_id, error)
            if not due or not {row[0] for row in due} <= set(self._list_left()):
                return None

    def claim(
        self, job_id: int, attempt: int, owner: str, lease: float, max_running: int, max_in_scope: int = 0
    ) -> bool:
        now = self._now()
        values = {
            "job_id": job_id,
            "at_attempt": attempt,
            "owner": owner,
            "now": now,
            "until": now + timedelta(seconds=lease),
        }
        # The owner alone tells no claim from another: the same request may come twice.
        marks = {"status": Status.INPROGRESS, "attempt": attempt, "lease_by": owner, "started_at": now}
        if not max_running and not max_in_scope:
            return self._write(self._statements.claim, values, marks)
        most = {"max_running": max_running or _NO_LIMIT, "max_in_scope": max_in_scope or _NO_LIMIT}
        if self._database.kind == "sqlite":
            return self._write(self._statements.claim_if_room, values | most, marks)

        def claim_if_room(connection: Connection) -> int:
            has_room = connection.execute(self._statements.has_room, {"job_id": job_id, **most}).first()
            return connection.execute(self._statements.claim, values).rowcount if has_room else 0

        return self._make_sure(lambda: self._database.run_alone(claim_if_room), job_id, marks)

    def touch(
        self,
        job_id: int,
        attempt: int,
        progress: int,
        text: str,
        lease: float,
        number: int = 1,
        *,
        is_more: bool = False,
    ) -> bool:
        now = self._now()
        values: dict[str, Any] = {
            "job_id": job_id,
            "at_attempt": attempt,
            "new_progress": progress,
            "number": number,
            "now": now,
            "until": now + timedelta(seconds=lease),
        }
        if not is_more:
            statement, values["text"] = self._statements.touch, self._cut(text)
        elif not text:
            statement = self._statements.touch_without_text
        else:
            statement, values["text"] = self._statements.touch_with_more, text
            if (most := self._database.largest_value) is not None:
                statement, values["room"] = self._statements.touch_if_it_fits, most // 2 - len(text.encode())
                if values["room"] < 0:
                    return False
        marks = {"status": Status.INPROGRESS, "attempt": attempt, "signs": number, "updated_at": now}
        marks["cancel_requested"] = False
        return self._write(statement, values, marks, may_change_nothing=not is_more)

    def renew(self, leases: Mapping[str, int], holds: Mapping[int, str], seconds: float) -> None:
        until = self._now() + timedelta(seconds=seconds)
        values = {"job_ids": list(leases.values()), "names": list(leases), "until": until}
        with self._separating_outages():
            self._database.write(self._statements.renew_leases, values)
            if holds:
                values = {"job_ids": list(holds), "names": list(holds.values()), "until": until}
                self._database.write(self._statements.renew_holds, values)

    def request_cancel(self, job_id: int) -> bool:
        marks = {"status": Status.INPROGRESS, "cancel_requested": True}
        return self._write(self._statements.request_cancel, {"job_id": job_id}, marks, may_change_nothing=True)

    def move(
        self,
        move: Move,
        job_id: int,
        *,
        attempt: int | None = None,
        text: str | None = None,
        error: str = "",
        location: str = "",
        progress: int | None = None,
        delay: float = 0,
        past: str | None = None,
        silent_for: float = 0,
        vouched_until: datetime | None = None,
    ) -> bool:
        now = self._now()
        text = self._cut(text) if text is not None else None
        told = {"text": text, "new_progress": progress, "new_past": past}
        told |= {"new_error": error, "new_location": location}
        values: dict[str, Any] = {"job_id": job_id, "now": now, **told}
        marks = {"status": move.target, "updated_at": now}
        statement = self._statements.moves[move]
        if move is Move.RETRY:
            values["due"] = now + timedelta(seconds=delay)
        if attempt is not None:
            statement, values["at_attempt"] = self._statements.fenced_moves[move], attempt
        if silent_for:
            statement = statement.where(self._database.table.c.updated_at <= now - timedelta(seconds=silent_for))
        if vouched_until is not None:
            columns = self._database.table.c
            statement = statement.where(func.coalesce(columns.lease_until, columns.held_until) == vouched_until)
        if move is Move.RETRY and attempt is None:
            return self._database.write(statement, values) == 1  # made twice, it might end the next attempt
        is_made = self._write(statement, values, marks)
        if is_made and move.target.is_final and self._database.sqlite_file is not None:
            self._database.sqlite_file.known.has_deleted = True
        return is_made

    def _write(
        self, statement: Update, values: dict[str, Any], marks: dict[str, Any], *, may_change_nothing: bool = False
    ) -> bool:
        """Make a guarded write. ``marks`` are what then stands in the row; it may be what stood there before."""

        def write() -> int:
            return self._database.write(statement, values)

        return self._make_sure(write, values["job_id"], marks, may_change_nothing)

    def _make_sure(
        self, write: Callable[[], int], job_id: int, marks: dict[str, Any], may_change_nothing: bool = False
    ) -> bool:
        with self._separating_outages():
            try:
                count, is_doubtful = write(), may_change_nothing and self._database.counts_changes
            except AnswerLost:
                # Safe to repeat, whether or not the first write was made: the guard and the values are the same.
                count, is_doubtful = write(), True
        if count or not is_doubtful:
            return bool(count)
        job = self.look_at(job_id)
        return job is not None and all(getattr(job, name) == value for name, value in marks.items())
