"""The reads of the Store on a database. They return frozen records and change nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select, func

from backjob.errors import Refused, StoreError
from backjob.logs import about
from backjob.model.job import Glance, Job, JobStatus, Status
from backjob.model.recovery import RecoveryRecord
from backjob.storage.queries import APP_GRACE, LONGEST, VERSION_GRACE
from backjob.storage.records import Record, SpoiledRecord, make_record

from .clock import ServerClock
from .database import Database
from .statements import build_statements

log = logging.getLogger("backjob")

_LEFT_FOR = 3600.0
"""Seconds for which a waiting job that can't be read or held is left alone."""
_MOST_REPORTED = 1000


class SQLReads:
    """The reads of SQLStore. ``now`` gives the time as an aware datetime."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        self._statements = build_statements(database.table)
        self._left: dict[int, float] = {}
        """The waiting jobs that can't be read or held, each with the end of its pause in time.monotonic()."""
        self._reported: dict[object, None] = {}
        """The jobs that were left out of a list."""

    @property
    def place(self) -> str:
        return self._database.name

    def get(self, job_id: int) -> Job | None:
        rows = self._read_one(self._statements.get, job_id)
        return make_record(Job, (*rows[0], self._now()), job_id) if rows else None

    def status(self, job_id: int) -> JobStatus | None:
        job = self.look_at(job_id)
        return job.as_status() if job is not None else None

    def look_at(self, job_id: int) -> Job | None:
        rows = self._read_one(self._statements.look_at, job_id)
        return make_record(Job, (*rows[0], self._now()), job_id) if rows else None

    def key_id(self, job_id: int) -> str | None:
        found = self._scalar(self._statements.key_id, job_id=job_id)
        return str(found) if found is not None else None

    def glance(self, job_id: int) -> Glance | None:
        rows = self._read_one(self._statements.glance, job_id)
        return make_record(Glance, tuple(rows[0]), job_id) if rows else None

    def find(
        self,
        statuses: Iterable[Status] | None,
        scope: str | None,
        limit: int,
        before: int | None,
        text: int | None = None,
    ) -> list[Job]:
        columns = self._database.table.c
        query = self._statements.find.limit(limit)
        if text is not None:
            query = self._cut_texts(query, text)
        if statuses is not None:
            query = query.where(columns.status.in_([int(status) for status in statuses]))
        if scope is not None:
            query = query.where(columns.scope == scope)
        if before is not None:
            query = query.where(columns.id < before)
        return self._read_many(Job, query, {}, lambda: (self._now(),))

    def _cut_texts(self, query: Select[Any], most: int) -> Select[Any]:
        """Return the query with the last ``most`` characters of each status text, which the database cuts."""
        whole = self._database.table.c.status_text
        end = func.right(whole, most, type_=whole.type)
        if self._database.kind == "sqlite":  # it has no right(), and substr(…, -0) is the whole
            end = func.substr(whole, -most, most, type_=whole.type)
        return query.with_only_columns(*(end if each is whole else each for each in query.selected_columns))

    def time(self) -> datetime:
        return self._now()

    def time_at_hand(self) -> datetime:
        return self._now.read_last() if isinstance(self._now, ServerClock) else self._now()

    def try_new_connection(self) -> None:
        self._database.try_new_connection()

    def count_running(self) -> dict[str, int]:
        return dict(tuple(row) for row in self._database.read(self._statements.count_running, {}))

    def count_launched(self) -> int:
        return int(self._scalar(self._statements.count_launched, now=self._now()))

    def list_holders(self) -> list[str]:
        return [name for (name,) in self._database.read(self._statements.held_by_process, {})]

    def find_leased(self, key_ids: Sequence[str], app_id: str | None = None) -> list[RecoveryRecord]:
        values: dict[str, Any] = {"key_ids": list(key_ids)}
        query = self._statements.leased
        if app_id is not None:
            query, values["arg_app_id"] = self._statements.leased_of_app, app_id
        return self._read_many(RecoveryRecord, query, values)

    def seconds_to_next(
        self,
        key_ids: Sequence[str],
        app_id: str = "",
        full_scopes: Collection[str] = (),
        within: float = LONGEST,
        app_version: str = "",
    ) -> float | None:
        now = self._now()
        values: dict[str, Any] = {"key_ids": list(key_ids), "full_scopes": list(full_scopes)}
        values |= {"left": self._list_left(), **self._of_apps(app_id, app_version, now)}
        try:
            when = self._scalar(self._statements.next_due, horizon=now + timedelta(seconds=within), **values)
        except Refused:
            return None  # a row has an invalid time: take_due() leaves it out
        return max(0.0, (when - now).total_seconds()) if when is not None else None

    def _of_apps(self, app_id: str, app_version: str, now: datetime) -> dict[str, Any]:
        values = {"arg_app_id": app_id, "abandoned_since": now - timedelta(seconds=APP_GRACE)}
        return values | {"app_versions": ["", app_version], "versions_since": now - timedelta(seconds=VERSION_GRACE)}

    def _scalar(self, statement: Select[Any], **values: Any) -> Any:
        rows = self._database.read(statement, values)
        return rows[0][0] if rows else None

    def _read_one(self, query: Select[Any], job_id: int) -> Sequence[Row[Any]]:
        try:
            return self._database.read(query, {"job_id": job_id})
        except Refused as error:
            raise SpoiledRecord(job_id, str(error)) from None

    def _read_many(
        self,
        kind: type[Record],
        query: Select[Any],
        values: Mapping[str, Any],
        more: Callable[[], tuple[Any, ...]] = tuple,
    ) -> list[Record]:
        """Return the records of these rows. Rows that can't be read are left out, and logged once.

        The first column is the id. ``more`` returns the fields that are no columns.
        """
        rows: Iterable[Any]
        try:
            rows = self._database.read(query, dict(values))
        except Refused:
            rows = self._read_each(query, values)
        records: list[Record] = []
        rest: tuple[Any, ...] = more()
        row: Any
        for row in rows:
            try:
                records.append(make_record(kind, (*row, *rest), row[0]))
            except SpoiledRecord as error:
                self._report(error)
        return records

    def _read_each(self, query: Select[Any], values: Mapping[str, Any]) -> Iterator[Row[Any]]:
        """Read each row by itself, because one invalid value makes the driver refuse all rows."""
        column = self._database.table.c.id
        for (job_id,) in self._database.read(query.with_only_columns(column), dict(values)):
            try:
                yield from self._database.read(query.where(column == job_id), dict(values))
            except Refused as error:
                self._report(SpoiledRecord(job_id, str(error)))

    def _report(self, error: SpoiledRecord) -> None:
        if error.job_id not in self._reported and len(self._reported) < _MOST_REPORTED:
            self._reported[error.job_id] = None
            extra = about(error.job_id) if isinstance(error.job_id, int) else {}
            log.error("Job %s is left out: %s", error.job_id, error, extra=extra)

    def _leave_alone(self, job_id: int, error: StoreError) -> None:
        """Skip this waiting job for an hour, and log the error."""
        now = time.monotonic()
        self._left = {each: until for each, until in self._left.items() if until > now} | {job_id: now + _LEFT_FOR}
        log.error("Job %d can't be launched and is left alone for an hour: %s", job_id, error, extra=about(job_id))

    def _list_left(self) -> list[int]:
        now = time.monotonic()
        return [job_id for job_id, until in self._left.items() if until > now]
