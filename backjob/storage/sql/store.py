"""The Store on a database, by SQLAlchemy Core: each write is one statement, or one short transaction.

If the answer to a write is lost or ambiguous, the row is read. Decides nothing about a job's life.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func

from backjob.errors import Refused, StoreError, TimedOut
from backjob.model.evaluation import is_applied
from backjob.model.holds import Hold
from backjob.model.job import Job, NewJob
from backjob.model.writes import Claim, Progress, Transition, Write
from backjob.runtime.backoff import random_between
from backjob.storage.store import Store

from .clock import choose_clock
from .database import Database
from .errors import AnswerLost, Duplicate, Unreachable
from .lost_answers import methods_as_one_call
from .processes import ProcessTable
from .pruning import SQLPruning
from .queries import SQLReads
from .updates import find_updates
from .write_check import WriteCheck

_TRIES = 50
_PAUSE = 0.02
_CUT = "\n[the database takes no more of this text: max_allowed_packet]"
_NO_LIMIT = 2**31 - 1


# prune() has its own limit, and some of its statements may fail. The others call hooks.
@methods_as_one_call(but={"prune", "add", "touch", "move"})
class SQLStore(ProcessTable, SQLPruning, SQLReads, WriteCheck, Store):
    """The Store on a database. ``now`` gives the time as an aware datetime, instead of the database's clock."""

    def __init__(self, database: Database, now: Callable[[], datetime] | None = None) -> None:
        now = now or choose_clock(database)
        ProcessTable.__init__(self, database, now)
        SQLReads.__init__(self, database, now)
        self._updates = find_updates(database.table)

    def insert(self, new: NewJob, seal: Callable[[int], bytes], unique_keys: Sequence[str]) -> tuple[int, bool]:
        try:
            try:
                return self._insert(new, seal, unique_keys)
            except AnswerLost:
                return self._insert_again(new, seal, unique_keys)
        except (Unreachable, TimedOut):
            raise  # nothing was recorded
        except StoreError:
            # The commit may have been made and only its answer lost: look for the uid.
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

        # During a change of keys, two processes may write different digests of one unique key, which no constraint
        # detects.
        run = self._database.run_alone if len(unique_keys) > 1 else self._database.transact
        for tries_left in reversed(range(_TRIES)):
            try:
                return run(insert)
            except Duplicate:
                # Another process was first with this unique key: return its job, if it is still live.
                if not unique_keys or not tries_left:
                    raise
                time.sleep(random_between(0, _PAUSE))  # jitter
        raise AssertionError("unreachable")

    def _fit(self, sealed: bytes) -> bytes:
        most = self._database.largest_value
        if most is not None and len(sealed) > most:
            raise StoreError(f"The job's request, {len(sealed)} bytes sealed, is more than max_allowed_packet allows")
        return sealed

    def take_due(
        self,
        key_ids: Sequence[str],
        holder: str,
        seconds: float,
        app_id: str = "",
        full_scopes: Collection[str] = (),
        app_version: str = "",
    ) -> Job | None:
        values: dict[str, Any] = {"key_ids": list(key_ids), "full_scopes": list(full_scopes)}
        while True:
            now = self._now()
            values |= {"now": now, "left": self._list_left(), **self._of_apps(app_id, app_version, now)}
            due = self._database.read(self._statements.due, values)
            for job_id, attempt in due:
                try:
                    if self.write(job_id, Hold(attempt, None, holder, seconds)):
                        return self.get(job_id)
                except Refused as error:
                    self._leave_alone(job_id, error)
            if not due or not {row[0] for row in due} <= set(self._list_left()):
                return None

    def write(self, job_id: int, write: Write) -> bool:
        now, most = self._now(), self._database.largest_value
        if most is not None:
            write = _cut_text(write, most)
        statement = self._updates.find_one(write)
        values = {"job_id": job_id, **self._updates.list_parameters(write, now)}
        if most is not None and isinstance(write, Progress) and write.is_more and write.text:
            size, room = func.octet_length(self._database.table.c.status_text), most // 2 - len(write.text.encode())
            if room < 0:
                return False
            statement = statement.where(size <= room)
        if isinstance(write, Transition) and not write.is_repeatable:
            return self._database.write(statement, values) == 1
        is_made = self._make_sure(lambda: self._database.write(statement, values), job_id, write, now)
        if is_made and isinstance(write, Transition) and write.move.target.is_final and self._database.sqlite_file:
            self._database.sqlite_file.known.has_deleted = True
        return is_made

    def write_many(self, write: Write, job_ids: Sequence[int] | None = None) -> int:
        statement, values = self._updates.find_many(write), self._updates.list_parameters(write, self._now())
        if job_ids is not None:
            statement = statement.where(self._statements.is_listed)
            values["job_ids"] = list(job_ids)
        with self._separating_outages():
            return self._database.write(statement, values)

    def write_claim(self, job_id: int, claim: Claim, max_running: int, max_in_scope: int) -> bool:
        if not max_running and not max_in_scope:
            return self.write(job_id, claim)
        now, most = self._now(), {"max_running": max_running or _NO_LIMIT, "max_in_scope": max_in_scope or _NO_LIMIT}
        statement = self._updates.find_one(claim)
        values = {"job_id": job_id, **self._updates.list_parameters(claim, now)}

        def claim_if_room(connection: Connection) -> int:
            has_room = connection.execute(self._statements.find_room, {"job_id": job_id, **most}).first()
            return connection.execute(statement, values).rowcount if has_room else 0

        def make() -> int:
            if self._database.kind == "sqlite":  # only one connection writes, so one statement is exact
                return self._database.write(statement.where(self._statements.has_room), values | most)
            return self._database.run_alone(claim_if_room)

        return self._make_sure(make, job_id, claim, now)

    def _make_sure(self, make: Callable[[], int], job_id: int, write: Write, now: datetime) -> bool:
        """Make a write. If its answer is lost, make it again: guard and values are the same, so it is safe."""
        with self._separating_outages():
            try:
                count, is_doubtful = make(), self._database.counts_changes and write.may_change_nothing
            except AnswerLost:
                count, is_doubtful = make(), True
        if count or not is_doubtful:
            return bool(count)
        job = self.look_at(job_id)
        return job is not None and is_applied(write, job, now)


def _cut_text(write: Write, most: int) -> Write:
    """Return the write with as much of its status text as the server accepts, so that a long text fails no job.

    ``most``: bytes of the largest value. A text that is appended is not cut.
    """
    text = getattr(write, "text", None)
    if not text or 2 * 4 * len(text) <= most or (isinstance(write, Progress) and write.is_more):
        return write
    encoded = text.encode()  # escaped, each byte may become two
    if 2 * len(encoded) <= most:
        return write
    cut = encoded[: most // 2].decode(errors="ignore") + _CUT
    return dataclasses.replace(write, text=cut)  # type: ignore[type-var]
