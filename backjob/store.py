"""Where the records are: every read and every guarded write of a job, on SQLAlchemy Core.

Each write is one statement, or one short transaction. Decides nothing about a job's life: a write that comes too late
changes nothing and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

from sqlalchemy import Row, Select, Update

from .engine import Conflict, Database
from .errors import StoreError
from .job import Job, JobStatus, Move, NewJob, Status
from .statements import Glance, Statements

_TRIES = 5
_STATUSES = {int(status): status for status in Status}


class Store(Protocol):
    """What the other rooms ask of a store. Every method raises StoreError when it can't be reached."""

    def add(self, new: NewJob, seal: Callable[[int], bytes], unique_keys: Sequence[str] = ()) -> tuple[int, bool]:
        """Record a job; with unique keys, unless a live job has one of them. Its id, and whether it is new."""

    def get(self, job_id: int) -> Job | None:
        """One record."""

    def status(self, job_id: int) -> JobStatus | None:
        """What people see of one record: up to a second old, so nothing is decided by it."""

    def glance(self, job_id: int) -> Glance | None:
        """The moving part of one record."""

    def find(self, statuses: Iterable[Status] | None, scope: str | None, limit: int, before: int | None) -> list[Job]:
        """Records, the newest first."""

    def hold(self, job_id: int, attempt: int, held_by: str | None, holder: str | None, seconds: float) -> bool:
        """Pass the hold on a job that waits, from one (None: from nobody alive) to the next (None: to nobody)."""

    def note_launch_failure(self, job_id: int, attempt: int, holder: str, text: str, seconds: float) -> bool:
        """Tell people why a job still waits, and hold it until it is tried again."""

    def take_due(self, key_ids: Sequence[str], holder: str, seconds: float) -> Job | None:
        """Hold the first job that is due and that nobody holds."""

    def seconds_to_next(self, key_ids: Sequence[str]) -> float | None:
        """How long until a job is due or loses its hold; None when no job waits."""

    def count(self, status: Status) -> int:
        """How many jobs are in this status."""

    def count_launched(self) -> int:
        """How many worker requests wait for a slot."""

    def claim(self, job_id: int, attempt: int, owner: str, lease: float, max_running: int) -> bool:
        """The one compare-and-set that lets an attempt run; not while ``max_running`` (if any) jobs run."""

    def touch(self, job_id: int, attempt: int, progress: int, text: str, lease: float) -> bool:
        """A sign from the running job. False when it runs no more, or is to be cancelled."""

    def request_cancel(self, job_id: int) -> bool:
        """Ask a running job to end. False when it does not run."""

    def move(
        self,
        move: Move,
        job_id: int,
        *,
        attempt: int | None = None,
        text: str | None = None,
        progress: int | None = None,
        delay: float = 0,
        silent_for: float = 0,
    ) -> bool:
        """Make a move if its guard still holds; with ``silent_for`` only if there was no sign for so many seconds."""


class SQLStore:
    """The Store on a database. ``now`` gives the time as an aware datetime."""

    def __init__(self, database: Database, now: Callable[[], datetime] | None = None) -> None:
        self._database = database
        self._now = now or (lambda: datetime.now(timezone.utc))
        self._statements = Statements(database.table)

    def add(self, new: NewJob, seal: Callable[[int], bytes], unique_keys: Sequence[str] = ()) -> tuple[int, bool]:
        try:
            return self._insert(new, seal, unique_keys)
        except StoreError:
            # The commit may have been made and only its answer lost: the uid tells.
            if (job_id := self._scalar(self._statements.id_of_uid, uid=new.uid)) is None:
                raise
            return int(job_id), True

    def _insert(self, new: NewJob, seal: Callable[[int], bytes], unique_keys: Sequence[str]) -> tuple[int, bool]:
        now = self._now()
        values = {
            "uid": new.uid,
            "retries": new.retries,
            "scope": new.scope,
            "method": new.request.method[:64],
            "path": new.request.path[:255],
            "key_id": new.key_id,
            "unique_key": new.unique_key,
            "priority": new.priority,
            "error_timeout": new.error_timeout,
            "created_at": now,
            "updated_at": now,
            "due_at": now + timedelta(seconds=new.delay),
            "held_by": new.held_by,
            "held_until": now + timedelta(seconds=new.hold) if new.held_by else None,
        }
        for tries_left in reversed(range(_TRIES)):
            try:
                with self._database.transaction() as connection:
                    if unique_keys:
                        job_id = connection.scalar(self._statements.id_of_unique, {"unique_keys": unique_keys})
                        if job_id is not None:
                            return int(job_id), False
                    job_id = connection.execute(self._statements.insert, values).inserted_primary_key[0]  # type: ignore[index]
                    connection.execute(self._statements.set_sealed, {"job_id": job_id, "new_sealed": seal(job_id)})
                    return int(job_id), True
            except Conflict:
                # Another one was first with this unique key: take that one's job, if it still lives.
                if not unique_keys or not tries_left:
                    raise
        raise AssertionError("unreachable")

    def get(self, job_id: int) -> Job | None:
        with self._database.connect() as connection:
            row = connection.execute(self._statements.get, {"job_id": job_id}).first()
        return _as_job(row, self._now()) if row is not None else None

    def status(self, job_id: int) -> JobStatus | None:
        job = self.get(job_id)
        return job.as_status() if job is not None else None

    def glance(self, job_id: int) -> Glance | None:
        with self._database.connect() as connection:
            row = connection.execute(self._statements.glance, {"job_id": job_id}).first()
        return Glance(*(_STATUSES[row[0]], *tuple(row)[1:], self._now())) if row is not None else None

    def find(self, statuses: Iterable[Status] | None, scope: str | None, limit: int, before: int | None) -> list[Job]:
        columns = self._database.table.c
        query = self._statements.find.limit(limit)
        if statuses is not None:
            query = query.where(columns.status.in_([int(status) for status in statuses]))
        if scope is not None:
            query = query.where(columns.scope == scope)
        if before is not None:
            query = query.where(columns.id < before)
        with self._database.connect() as connection:
            return [_as_job(row, self._now()) for row in connection.execute(query)]

    def hold(self, job_id: int, attempt: int, held_by: str | None, holder: str | None, seconds: float) -> bool:
        now = self._now()
        statement = self._statements.hold_of_nobody if held_by is None else self._statements.hold_of_holder
        values = {"job_id": job_id, "at_attempt": attempt, "holder": holder, "until": now + timedelta(seconds=seconds)}
        values |= {"now": now} if held_by is None else {"old_holder": held_by}
        if holder is None:
            values["until"] = None
        return self._write(statement, values)

    def note_launch_failure(self, job_id: int, attempt: int, holder: str, text: str, seconds: float) -> bool:
        now = self._now()
        until = now + timedelta(seconds=seconds)
        values = {"job_id": job_id, "at_attempt": attempt, "holder": holder, "text": text, "now": now, "until": until}
        return self._write(self._statements.note_launch_failure, values)

    def take_due(self, key_ids: Sequence[str], holder: str, seconds: float) -> Job | None:
        with self._database.connect() as connection:
            rows = connection.execute(self._statements.due, {"key_ids": list(key_ids), "now": self._now()}).all()
        for job_id, attempt in rows:
            if self.hold(job_id, attempt, None, holder, seconds):
                return self.get(job_id)
        return None

    def seconds_to_next(self, key_ids: Sequence[str]) -> float | None:
        when = self._scalar(self._statements.next_due, key_ids=list(key_ids))
        return max(0.0, (when - self._now()).total_seconds()) if when is not None else None

    def count(self, status: Status) -> int:
        return int(self._scalar(self._statements.count, in_status=int(status)))

    def count_launched(self) -> int:
        return int(self._scalar(self._statements.count_launched, now=self._now()))

    def claim(self, job_id: int, attempt: int, owner: str, lease: float, max_running: int) -> bool:
        now = self._now()
        values = {
            "job_id": job_id,
            "at_attempt": attempt,
            "owner": owner,
            "now": now,
            "until": now + timedelta(seconds=lease),
        }
        if max_running:
            return self._write(self._statements.claim_if_few, {**values, "max_running": max_running})
        return self._write(self._statements.claim, values)

    def touch(self, job_id: int, attempt: int, progress: int, text: str, lease: float) -> bool:
        now = self._now()
        values = {
            "job_id": job_id,
            "at_attempt": attempt,
            "new_progress": progress,
            "text": text,
            "now": now,
            "until": now + timedelta(seconds=lease),
        }
        return self._write(self._statements.touch, values)

    def request_cancel(self, job_id: int) -> bool:
        return self._write(self._statements.request_cancel, {"job_id": job_id})

    def move(
        self,
        move: Move,
        job_id: int,
        *,
        attempt: int | None = None,
        text: str | None = None,
        progress: int | None = None,
        delay: float = 0,
        silent_for: float = 0,
    ) -> bool:
        now = self._now()
        values: dict[str, Any] = {"job_id": job_id, "text": text, "new_progress": progress, "now": now}
        statement = self._statements.moves[move]
        if move is Move.RETRY:
            values["due"] = now + timedelta(seconds=delay)
        if attempt is not None:
            statement, values["at_attempt"] = self._statements.fenced_moves[move], attempt
        if silent_for:
            statement = statement.where(self._database.table.c.updated_at <= now - timedelta(seconds=silent_for))
        return self._write(statement, values)

    def _write(self, statement: Update, values: dict[str, Any]) -> bool:
        return self._database.write(statement, values) == 1

    def _scalar(self, statement: Select[Any], **values: Any) -> Any:
        with self._database.connect() as connection:
            return connection.scalar(statement, values)


def _as_job(row: Row[Any], read_at: datetime) -> Job:
    job_id, uid, status, *rest = tuple(row)
    return Job(*(job_id, uid, _STATUSES[status], *rest, read_at))
