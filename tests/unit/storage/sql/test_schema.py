"""The job table: what may stand in a row, tried by SQL past the package; its names, its ids, its options."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import CheckConstraint, Engine, UniqueConstraint, create_engine, insert, select
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.schema import CreateIndex, CreateTable
from support.records import add, bring_to, new_job, read_rows, record, seal

from backjob.errors import StoreError
from backjob.model.job import Status
from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import build_table
from backjob.storage.sql.store import SQLStore

NAMES = ["background_job", "Jobs_2", "order", "_" + "x" * 39]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


@pytest.fixture
def open_store(file: Path) -> Iterator[Callable[..., SQLStore]]:
    """Open a store on the file; all of them are closed in the end."""
    with contextlib.ExitStack() as stack:

        def open_one(table_name: str = "background_job", create_table: bool = True) -> SQLStore:
            database = Database(f"sqlite:///{file}", build_table(table_name), create_table)
            stack.callback(database.dispose)
            return SQLStore(database)

        yield open_one


def run(file: Path, statement: str, *values: object) -> None:
    """Run SQL past the package."""
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement, values)


@pytest.mark.parametrize(
    ("constraint", "status", "change"),
    [
        ("status_ended_at", Status.STARTED, "ended_at = updated_at"),
        ("status_ended_at", Status.INPROGRESS, "ended_at = updated_at"),
        ("status_ended_at", Status.COMPLETED, "ended_at = NULL"),
        ("status_ended_at", Status.FAILED, "ended_at = NULL"),
        ("status_ended_at", Status.CANCELLED, "ended_at = NULL"),
        ("status_ended_at", Status.INPROGRESS, "status = 2"),
        ("status_ended_at", Status.COMPLETED, "status = 1"),
        ("status_ended_at", Status.STARTED, "status = 5"),
        ("status_ended_at", Status.STARTED, "status = -1"),
        ("status_started_at", Status.STARTED, "status = 1"),
        ("status_started_at", Status.INPROGRESS, "started_at = NULL"),
        ("status_wiped", Status.COMPLETED, "sealed = x'00'"),
        ("status_wiped", Status.FAILED, "sealed = x'00'"),
        ("status_wiped", Status.COMPLETED, "sealed = x'00', anonymous = TRUE"),
        ("status_wiped", Status.CANCELLED, "unique_key = 'u'"),
        ("status_wiped", Status.CANCELLED, "unique_key = 'u', anonymous = TRUE"),
        ("status_wiped", Status.INPROGRESS, "status = 4, ended_at = updated_at"),
        ("progress", Status.INPROGRESS, "progress = 101"),
        ("progress", Status.INPROGRESS, "progress = -1"),
        ("attempt", Status.INPROGRESS, "attempt = 0"),
        ("attempt", Status.INPROGRESS, "retries = -1"),
    ],
)
@pytest.mark.parametrize("table_name", ["background_job", "Jobs_2"])
def test_a_row_that_makes_no_sense_is_refused_by_name(
    file: Path, open_store: Callable[..., SQLStore], table_name: str, constraint: str, status: Status, change: str
) -> None:
    store = open_store(table_name)
    job_id = bring_to(store, status)
    before = record(store, job_id)
    with pytest.raises(sqlite3.IntegrityError, match=rf"CHECK constraint failed: ck_{table_name}_{constraint}$"):
        run(file, f'UPDATE "{table_name}" SET {change} WHERE id = ?', job_id)
    assert record(store, job_id) == before


@pytest.mark.parametrize("column", ["uid", "unique_key"])
def test_uid_and_unique_key_stand_once(file: Path, open_store: Callable[..., SQLStore], column: str) -> None:
    store = open_store()
    add(store, unique_key="u"), add(store, unique_key="v")
    with pytest.raises(sqlite3.IntegrityError, match=f"UNIQUE constraint failed: background_job.{column}$"):
        run(file, f"UPDATE background_job SET {column} = (SELECT {column} FROM background_job WHERE id = 1)")


OPTIONAL = {"sealed", "unique_key", "started_at", "ended_at", "held_by", "held_until", "lease_by", "lease_until"}


@pytest.mark.parametrize("column", [column.name for column in build_table("background_job").columns])
def test_columns_that_may_be_null(file: Path, open_store: Callable[..., SQLStore], column: str) -> None:
    add(open_store())
    statement = f"UPDATE background_job SET {column} = NULL"
    if column in OPTIONAL | {"launch_failed_at"}:
        run(file, statement)
    else:
        with pytest.raises(sqlite3.IntegrityError):
            run(file, statement)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_carries_the_tables(name: str) -> None:
    table = build_table(name)
    constraints = [each for each in table.constraints if isinstance(each, CheckConstraint | UniqueConstraint)]
    names = [str(each.name) for each in (*constraints, *table.indexes)]
    assert len(names) == len(set(names)) == len(constraints) + len(table.indexes) == 10
    assert all(re.fullmatch(rf"(ck|uq|ix)_{name}_[a-z_]+", each) for each in names)
    assert max(map(len, names)) <= 63  # PostgreSQL cuts longer ones


@pytest.mark.parametrize("dialect", [postgresql.dialect(), mysql.dialect()], ids=lambda dialect: dialect.name)
def test_the_table_is_said_in_other_databases_words(dialect: object) -> None:
    table = build_table("background_job")
    text = str(CreateTable(table).compile(dialect=dialect))  # type: ignore[arg-type]
    text += "".join(str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes)  # type: ignore[arg-type]
    assert text.count("ck_background_job_") == 5
    assert re.search(r"id (BIGSERIAL|BIGINT) NOT NULL", text)


@pytest.mark.parametrize("name", NAMES)
def test_any_table_name_works(file: Path, open_store: Callable[..., SQLStore], name: str) -> None:
    store = open_store(name)
    job_id = bring_to(store, Status.COMPLETED)
    assert store.claim(add(store), 1, "run", 30, max_running=1)
    assert store.take_due(("key",), "taker", 30) is None
    assert [row["id"] for row in read_rows(file, name)] == [job_id, job_id + 1]


def test_two_tables_stand_in_one_file(file: Path, open_store: Callable[..., SQLStore]) -> None:
    first, second = open_store("one"), open_store("two")
    add(first), add(second), add(second)
    assert (len(read_rows(file, "one")), len(read_rows(file, "two"))) == (1, 2)


def test_an_id_is_never_given_again(file: Path, open_store: Callable[..., SQLStore]) -> None:
    store = open_store()
    job_ids = [add(store) for _ in range(3)]
    run(file, "DELETE FROM background_job")
    assert add(store) == job_ids[-1] + 1
    assert store.get(job_ids[-1]) is None


def test_the_table_is_not_made_when_it_is_not_to_be(file: Path, open_store: Callable[..., SQLStore]) -> None:
    store = open_store("my_jobs", create_table=False)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"no table 'my_jobs'.*create_table"):
            store.find(None, None, 1, None)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    # As soon as it is there, the same store uses it.
    job_id = add(open_store("my_jobs"))
    assert record(store, job_id).id == job_id


@pytest.mark.parametrize("create_table", [True, False])
def test_a_foreign_table_of_that_name_is_not_touched(
    file: Path, open_store: Callable[..., SQLStore], create_table: bool
) -> None:
    columns = [column.name for column in build_table("background_job").columns]
    run(file, f"CREATE TABLE background_job ({', '.join(sorted(set(columns) - {'sealed', 'lease_by'}))}, extra)")
    store = open_store(create_table=create_table)
    with pytest.raises(StoreError, match=r"'background_job'.* lacks lease_by, sealed[.] .*table_name"):
        store.add(new_job(), seal)
    assert read_rows(file) == []


def test_columns_of_a_later_version_are_left_alone(file: Path, open_store: Callable[..., SQLStore]) -> None:
    add(open_store())
    run(file, "ALTER TABLE background_job ADD COLUMN color TEXT")
    store = open_store()
    assert record(store, bring_to(store, Status.FAILED)).status is Status.FAILED


def test_times_come_back_as_aware_utc(file: Path) -> None:
    engine: Engine = create_engine(f"sqlite:///{file}")
    table = build_table("background_job")
    moment = datetime(2031, 3, 30, 2, 30, 0, 7, tzinfo=timezone(timedelta(hours=2)))
    values = {column.name: "" for column in table.columns if column.name not in OPTIONAL | {"id", "launch_failed_at"}}
    numbers = dict.fromkeys(["status", "progress", "retries", "priority", "error_timeout"], 0)
    times = dict.fromkeys(["created_at", "updated_at", "due_at"], moment)
    flags = dict.fromkeys(["anonymous", "cancel_requested"], False)
    try:
        table.create(engine)
        with engine.begin() as connection:
            connection.execute(insert(table), {**values, **numbers, **times, "attempt": 1, **flags})
            read = connection.execute(select(table.c.created_at, table.c.ended_at)).one()
    finally:
        engine.dispose()
    assert read == (moment, None)
    assert read[0].utcoffset() == timedelta(0)
    assert read_rows(file)[0]["created_at"] == "2031-03-30 00:30:00.000007"
