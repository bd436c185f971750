"""An SQLite file that is deleted, or replaced by a backup, while processes use it."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.records import TABLE, add, new_job, read_rows

from backjob.errors import Refused, StoreError, TimedOut
from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import build_table
from backjob.storage.sql.store import SQLStore


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder / "jobs.sqlite3"


@pytest.fixture
def open_database(file: Path) -> Iterator[Callable[[], Database]]:
    opened = []

    def open_one() -> Database:
        opened.append(Database(f"sqlite:///{file}", build_table(TABLE), True))
        return opened[-1]

    yield open_one
    for each in opened:
        each.dispose()


def remove(file: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def make_backup(file: Path) -> Path:
    backup = file.with_suffix(".backup")
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    return backup


@pytest.mark.parametrize("how", [remove, Path.unlink])
def test_a_deleted_file_is_made_anew_for_all_and_no_number_is_given_twice(
    open_database: Callable[[], Database], file: Path, how: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    stores = [SQLStore(open_database()) for _ in range(2)]
    numbers = [add(store) for store in stores * 2]
    caplog.set_level(logging.ERROR)
    how(file)
    numbers += [add(store) for store in stores * 2]
    assert numbers == list(range(1, 9))
    assert [row["id"] for row in read_rows(file)] == numbers[4:]
    assert [store.get(5) is not None for store in stores] == [True, True]
    assert all("deleted" in line or "replaced" in line for line in caplog.messages)
    assert len(caplog.messages) == 2  # one for each, as if they were two processes
    assert os.stat(file).st_mode & 0o777 == 0o600


def test_a_backup_in_its_place_is_used_by_all_without_the_old_wal(
    open_database: Callable[[], Database], file: Path
) -> None:
    stores = [SQLStore(open_database()) for _ in range(2)]
    kept = add(stores[0])
    backup = make_backup(file)
    lost = [add(store) for store in stores * 2]
    os.replace(backup, file)
    new = [add(store) for store in stores * 2]
    assert not set(new) & set(lost)
    assert [row["id"] for row in read_rows(file)] == [kept, *new]
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_twin_that_is_the_first_to_open_the_new_file_does_not_use_the_old_wal(
    open_database: Callable[[], Database], file: Path
) -> None:
    database = open_database()
    twin = database.make_twin(5)
    try:
        kept = add(SQLStore(database))
        backup = make_backup(file)
        add(SQLStore(database))
        os.replace(backup, file)
        assert SQLStore(twin).get(kept) is not None
        new = [add(SQLStore(each)) for each in (database, twin)]
        assert [row["id"] for row in read_rows(file)] == [kept, *new]
    finally:
        twin.dispose()


def test_a_write_to_a_file_that_was_replaced_meanwhile_is_made_again(
    open_database: Callable[[], Database], file: Path
) -> None:
    database = open_database()
    store = SQLStore(database)
    add(store)
    is_removed = []

    def seal(_: int) -> bytes:
        if not is_removed:
            is_removed.append(True)
            remove(file)
        return b"sealed"

    job_id, is_new = store.add(new_job(), seal)
    assert is_new
    assert [row["id"] for row in read_rows(file)] == [job_id]


def test_a_twin_opens_the_new_file_and_logs_nothing_more(
    open_database: Callable[[], Database], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = open_database()
    twin = database.make_twin(5)
    try:
        add(SQLStore(database))
        add(SQLStore(twin))
        os.replace(make_backup(file), file)
        twin.reopen_replaced_file()
        add(SQLStore(database))
        assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 1
    finally:
        twin.dispose()


def test_without_create_table_a_deleted_file_is_an_error_until_the_table_is_there(file: Path) -> None:
    Database(f"sqlite:///{file}", build_table(TABLE), True).create_table()
    database = Database(f"sqlite:///{file}", build_table(TABLE), False)
    store = SQLStore(database)
    try:
        add(store)
        remove(file)
        with pytest.raises(StoreError, match="no table"):
            add(store)
    finally:
        database.dispose()


def test_a_folder_that_is_gone_for_a_moment_is_an_outage(open_database: Callable[[], Database], file: Path) -> None:
    database = open_database()
    store = SQLStore(database)
    job_id = add(store)
    elsewhere = file.parent.rename(file.parent.with_name("elsewhere"))
    for use in (database.reopen_replaced_file, lambda: add(store), lambda: store.status(job_id), database.create_table):
        with pytest.raises(StoreError) as caught:
            use()
        assert not isinstance(caught.value, (Refused, TimedOut))
    elsewhere.rename(file.parent)
    assert add(store) == job_id + 1
    assert [row["id"] for row in read_rows(file)] == [job_id, job_id + 1]


def test_a_path_that_can_not_be_looked_up_does_not_mean_that_the_file_was_deleted(
    open_database: Callable[[], Database], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = SQLStore(open_database())
    first = add(store)
    elsewhere = file.parent.rename(file.parent.with_name("elsewhere"))
    file.parent.symlink_to(file.parent)  # ELOOP, also for root
    assert add(store) == first + 1
    file.parent.unlink()
    elsewhere.rename(file.parent)
    assert add(store) == first + 2
    assert not caplog.messages
