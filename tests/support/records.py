"""Job records for the tests of stores: a given clock, stores on each database, new jobs, jobs brought to a status."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.engine import URL, make_url

from backjob.model.job import Job, JobRequest, Move, NewJob, Status
from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import build_table
from backjob.storage.sql.store import SQLStore
from backjob.storage.store import Store
from support import services

SERVERS = ("postgresql", "mariadb", "mariadb-mysqlclient")
"""Database servers by their names in ``support.services``, one for each driver."""
TABLE = "background_job"
PROCESSES = f"{TABLE}_process"
_LONG_AGO = datetime(1970, 1, 2, tzinfo=timezone.utc)
KEY_IDS = ("key",)
FINAL_MOVES = {Status.COMPLETED: Move.COMPLETE, Status.FAILED: Move.FAIL, Status.CANCELLED: Move.CANCEL}


class Clock:
    """The time as a test gives it: it stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2031, 1, 31, 23, 59, 58, 123456, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def after(self, seconds: float) -> datetime:
        """The time so many seconds from now."""
        return self.now + timedelta(seconds=seconds)


@contextlib.contextmanager
def open_store(url: str | URL, clock: Callable[[], datetime] | None = None) -> Iterator[SQLStore]:
    """A store on this database. Every connection has been given back at its end, then all are closed."""
    text = url if isinstance(url, str) else url.render_as_string(hide_password=False)
    database = Database(text, build_table(TABLE), True)
    try:
        yield SQLStore(database, clock)
        assert database._engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    finally:
        database.dispose()


@contextlib.contextmanager
def open_sqlite_store(folder: Path, clock: Clock | None = None, name: str = "jobs.sqlite3") -> Iterator[SQLStore]:
    """The same on a file in this folder."""
    with open_store(f"sqlite:///{folder / name}", clock) as store:
        yield store


class Databases:
    """One database on each server for the tests of a module, made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, URL] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Databases:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def url(self, name: str, folder: Path, *, has_table: bool = False) -> str:
        """A file in this folder for "sqlite", else the database on this server: empty, or with an empty table."""
        if name == "sqlite":
            return f"sqlite:///{folder / 'jobs.sqlite3'}"
        if name not in self._made:
            self._made[name] = self._stack.enter_context(services.new_database(name))
        else:
            for table in {TABLE, PROCESSES} & set(inspect(services.engine(self._made[name])).get_table_names()):
                run(self._made[name], f"{'DELETE FROM' if has_table else 'DROP TABLE'} {table}")
        return self._made[name].render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def databases() -> Iterator[Databases]:
    """``databases.url(name, folder)``."""
    with Databases() as made:
        yield made


def run(url: str | URL, statement: str, **values: Any) -> list[dict[str, Any]]:
    """Run SQL past the package; the rows that come back."""
    with services.engine(make_url(url)).begin() as connection:
        result = connection.execute(text(statement), values)
        return [dict(row) for row in result.mappings()] if result.returns_rows else []


def new_job(*, anonymous: bool = False, **changes: Any) -> NewJob:
    """A job that is to be recorded; ``changes`` are fields of it."""
    user = {"anonymous": True} if anonymous else {"remote_user": "ada"}
    request = JobRequest("POST", "/report?month=1", "", "/report", "month=1", b"a=1", **user)  # type: ignore[arg-type]
    fields = {"uid": uuid.uuid4().hex, "request": request, "key_id": KEY_IDS[0], "app_id": "app", **changes}
    return NewJob(**fields)


def seal(job_id: int) -> bytes:
    """What stands for a sealed request where nobody opens it."""
    return f"sealed for {job_id}".encode()


def add(store: Store, **changes: Any) -> int:
    """Record a new job and return its id."""
    new = new_job(**changes)
    job_id, is_new = store.add(new, seal, [new.unique_key] if new.unique_key else [])
    assert is_new
    return job_id


def bring_to(store: Store, status: Status, **changes: Any) -> int:
    """A job in this status, in its second attempt; while it waits, "holder" holds it."""
    job_id = add(store, **{"retries": 3, **changes})
    assert store.claim(job_id, 1, "first run", 30, 0)
    assert store.move(Move.RETRY, job_id, attempt=1, text="once more", progress=0)
    assert store.hold(job_id, 2, None, "holder", 30)
    if status is Status.STARTED:
        return job_id
    assert store.claim(job_id, 2, "second run", 30, 0)
    assert store.touch(job_id, 2, 40, "so far", 30)
    if status is Status.INPROGRESS:
        return job_id
    assert store.move(FINAL_MOVES[status], job_id, attempt=2)
    return job_id


def live_a_life(store: Store, **changes: Any) -> int:
    """One job from its record to its end, with every method of the store."""
    job_id = add(store, retries=1, **changes)
    job = store.take_due(KEY_IDS, "holder", 30)
    assert job is not None
    assert store.note_launch_failure(job.id, job.attempt, "holder", "not yet", 0)
    assert store.note_full(job.id, job.attempt, "holder")
    assert store.count_launched() <= count_jobs(store, Status.STARTED)
    assert store.seconds_to_next(KEY_IDS) == 0
    assert store.claim(job_id, 1, "run", 30, 0)
    assert store.touch(job_id, 1, 50, "half", 30)
    assert store.move(Move.RETRY, job_id, attempt=1)
    store.register("process", 4, 30)
    assert store.read_slots()
    assert store.claim(job_id, 2, "run", 30, max_running=99, max_in_scope=99)
    assert sum(store.count_running().values()) == count_jobs(store, Status.INPROGRESS) > 0
    assert store.prune(_LONG_AGO, _LONG_AGO, 9) == 0
    store.unregister("process")
    assert store.request_cancel(job_id)
    assert store.glance(job_id).cancel_requested  # type: ignore[union-attr]
    assert store.move(Move.COMPLETE, job_id, progress=100)
    assert store.find([Status.COMPLETED], None, 1, None)[0].id == job_id
    return job_id


def record(store: Store, job_id: int) -> Job:
    """The whole row as it stands, whenever it is read."""
    job = store.get(job_id)
    assert job is not None
    return dataclasses.replace(job, read_at=job.created_at)


def read_rows(file: Path, table: str = TABLE) -> list[dict[str, Any]]:
    """All rows as the database has them, read past the package."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f'SELECT * FROM "{table}" ORDER BY id')]


def count_jobs(store: Store, status: Status) -> int:
    """Return the number of jobs with this status."""
    return len(store.find([status], None, 1_000_000, None))
