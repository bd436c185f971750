"""Which jobs are old, and that a database finds them by an index, however many it has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, text
from support.records import SERVERS, Clock, Databases, count_jobs, new_job, open_store

from backjob.config import make_config
from backjob.model.job import Move, Status
from backjob.storage.retention import find_cut_offs, find_old
from backjob.storage.sql.store import SQLStore

NOW = datetime(2031, 1, 31, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("backlog_days", "all_backlog_days", "days"),
    [
        (30, 60, (30, 60)),
        (0, 60, (None, 60)),
        (30, 0, (30, None)),
        (0, 0, (None, None)),
        (0.5, 1, (0.5, 1)),
        (1e9, 750_000, (None, None)),  # before the year 1
    ],
)
def test_each_number_of_days_counts_by_itself(
    backlog_days: float, all_backlog_days: float, days: tuple[float | None, float | None]
) -> None:
    config = make_config({"backlog_days": backlog_days, "all_backlog_days": all_backlog_days})
    assert find_cut_offs(config, NOW) == tuple(NOW - timedelta(days=each) if each else None for each in days)


EARLY, LATE = NOW, NOW + timedelta(days=1)


@pytest.mark.parametrize(
    ("completed_before", "ended_before", "completed", "others"),
    [
        (None, None, None, None),
        (LATE, None, LATE, None),
        (None, EARLY, EARLY, EARLY),
        (LATE, EARLY, LATE, EARLY),
        (EARLY, LATE, LATE, LATE),
    ],
)
def test_a_completed_job_goes_by_the_later_of_both_times(
    completed_before: datetime | None,
    ended_before: datetime | None,
    completed: datetime | None,
    others: datetime | None,
) -> None:
    times = {Status.COMPLETED: completed, Status.FAILED: others, Status.CANCELLED: others}
    assert dict(find_old(completed_before, ended_before)) == {key: at for key, at in times.items() if at}


@pytest.mark.parametrize("name", ["sqlite", *SERVERS])
def test_what_is_old_is_found_by_an_index(databases: Databases, tmp_path: Path, name: str) -> None:
    with open_store(databases.url(name, tmp_path), Clock()) as store:
        fill(store)
        before = store._now() - timedelta(seconds=5000)
        with said_to(store) as said:
            assert store.prune(before, before, 600) == 600
        assert len(said) == 4  # a look for each status that has some, and a delete
        for statement, parameters in said:
            assert_no_full_scan(explain(store, statement, parameters))
        assert count_jobs(store, Status.STARTED) == 60


@contextlib.contextmanager
def said_to(store: SQLStore) -> Iterator[list[tuple[str, Any]]]:
    """The statements that the database gets meanwhile, with their values."""
    said: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        said.append((statement, parameters))

    event.listen(store._database._engine, "before_cursor_execute", note)
    yield said
    event.remove(store._database._engine, "before_cursor_execute", note)


def fill(store: SQLStore) -> None:
    """Some thousands of jobs that have ended one after the other, and some that live."""
    table = store._database.table
    rows = []
    for number in range(6000):
        status = [Status.COMPLETED, Status.FAILED][number % 2] if number % 100 else Status.STARTED
        job = new_job().as_job(number, None, store._now() - timedelta(seconds=number))
        row = {column.name: getattr(job, column.name) for column in table.columns if hasattr(job, column.name)}
        row |= {"id": number + 1, "status": int(status), "ended_at": job.created_at if status.is_final else None}
        rows.append(row)
    with store._database.connect() as connection:
        for start in range(0, len(rows), 1000):
            connection.execute(insert(table), rows[start : start + 1000])
        is_mysql = store._database.kind in ("mysql", "mariadb")
        connection.execute(text(f"ANALYZE {'TABLE ' if is_mysql else ''}{table.name}")).close()


def explain(store: SQLStore, statement: str, parameters: Any) -> list[dict[str, Any]]:
    """How this database runs this statement."""
    how = "EXPLAIN QUERY PLAN" if store._database.kind == "sqlite" else "EXPLAIN"
    with store._database.connect() as connection:
        return [dict(row) for row in connection.exec_driver_sql(f"{how} {statement}", parameters).mappings()]


def assert_no_full_scan(plan: list[dict[str, Any]]) -> None:
    assert plan
    for row in plan:
        if "QUERY PLAN" in row:  # PostgreSQL
            assert "Seq Scan" not in row["QUERY PLAN"], plan
        elif "detail" in row:  # SQLite
            assert "SCAN" not in row["detail"], plan
            assert "USING" in row["detail"], plan
        else:
            assert row["type"] == "range", plan
            assert "filesort" not in (row["Extra"] or ""), plan


def test_an_ended_job_stays_for_as_long_as_the_options_say(tmp_path: Path) -> None:
    """By the store's clock, to the second."""
    clock, config = Clock(), make_config({"backlog_days": 1, "all_backlog_days": 3})
    with open_store(f"sqlite:///{tmp_path / 'jobs.sqlite3'}", clock) as store:
        for move in (Move.COMPLETE, Move.FAIL):
            new = new_job()
            job_id, _ = store.add(new, lambda job_id: b"sealed")
            assert store.claim(job_id, 1, "run", 30, 0)
            assert store.move(move, job_id, attempt=1)
        began, pruned = clock.now, []
        for days in (1, 3):
            for more in (0, 1):
                clock.now = began + timedelta(days=days, seconds=more)
                pruned.append(store.prune(*find_cut_offs(config, clock.now), 99))
        assert pruned == [0, 1, 0, 1]
