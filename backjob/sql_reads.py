"""What the Store on a database reads: one query each, and frozen records out. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select

from .decisions import Vouched
from .engine import Database
from .job import Glance, Job, JobStatus, Status
from .statements import Statements
from .store import LONGEST, VERSION_GRACE
from .transitions import read_status


class SQLReads:
    """The reads of SQLStore. ``now`` gives the time as an aware datetime."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._statements = Statements(database.table)

    def get(self, job_id: int) -> Job | None:
        rows = self._database.read(self._statements.get, {"job_id": job_id})
        return _as_job(rows[0], self._now()) if rows else None

    def status(self, job_id: int) -> JobStatus | None:
        job = self.get(job_id)
        return job.as_status() if job is not None else None

    def glance(self, job_id: int) -> Glance | None:
        rows = self._database.read(self._statements.glance, {"job_id": job_id})
        return Glance(*(read_status(rows[0][0]), *tuple(rows[0])[1:])) if rows else None

    def find(self, statuses: Iterable[Status] | None, scope: str | None, limit: int, before: int | None) -> list[Job]:
        columns = self._database.table.c
        query = self._statements.find.limit(limit)
        if statuses is not None:
            query = query.where(columns.status.in_([int(status) for status in statuses]))
        if scope is not None:
            query = query.where(columns.scope == scope)
        if before is not None:
            query = query.where(columns.id < before)
        rows = self._database.read(query, {})
        now = self._now()
        return [_as_job(row, now) for row in rows]

    def time(self) -> datetime:
        return self._now()

    def count(self, status: Status) -> int:
        return int(self._scalar(self._statements.count, in_status=int(status)))

    def count_running(self) -> dict[str, int]:
        return dict(tuple(row) for row in self._database.read(self._statements.count_running, {}))

    def count_launched(self) -> int:
        return int(self._scalar(self._statements.count_launched, now=self._now()))

    def list_holders(self) -> list[str]:
        return [name for (name,) in self._database.read(self._statements.held_by_process, {})]

    def find_vouched(self, key_ids: Sequence[str]) -> list[Vouched]:
        rows = self._database.read(self._statements.vouched, {"key_ids": list(key_ids)})
        return [Vouched(*(row[0], read_status(row[1]), *tuple(row)[2:])) for row in rows]

    def seconds_to_next(
        self,
        key_ids: Sequence[str],
        skipped: Collection[str] = (),
        full_scopes: Collection[str] = (),
        within: float = LONGEST,
        app_version: str = "",
    ) -> float | None:
        now = self._now()
        values: dict[str, Any] = {"key_ids": list(key_ids), "skipped": list(skipped), "full_scopes": list(full_scopes)}
        values |= self._of_versions(app_version, now)
        when = self._scalar(self._statements.next_due, horizon=now + timedelta(seconds=within), **values)
        return max(0.0, (when - now).total_seconds()) if when is not None else None

    def _of_versions(self, app_version: str, now: datetime) -> dict[str, Any]:
        return {"app_versions": ["", app_version], "versions_since": now - timedelta(seconds=VERSION_GRACE)}

    def _scalar(self, statement: Select[Any], **values: Any) -> Any:
        rows = self._database.read(statement, values)
        return rows[0][0] if rows else None


def _as_job(row: Row[Any], read_at: datetime) -> Job:
    job_id, uid, status, *rest = tuple(row)
    return Job(*(job_id, uid, read_status(status, is_over=row.ended_at is not None), *rest, read_at))
