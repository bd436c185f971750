"""A sealed request is gone from an SQLite file and its WAL when its job has ended, not only from the table."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event
from support import wait_until
from support.served import serve_site, wrap

from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import build_table
from backjob.storage.sql.wal import empty_wal

FORM = {"a": "1" * 20_000}
"""More than fits into a page: SQLite keeps the rest in pages of its own, which a deletion only marks as free."""


def pieces_of(sealed: bytes) -> list[bytes]:
    return [sealed[at : at + 16] for at in range(0, len(sealed) - 16, 1000)]


def find_left(file: Path, pieces: list[bytes]) -> dict[str, int]:
    """The number of these pieces in the file and its WAL."""
    kept = {path.name: path.read_bytes() for path in file.parent.glob(f"{file.name}*") if path.suffix != ".key"}
    found = {name: sum(piece in content for piece in pieces) for name, content in kept.items()}
    return {name: count for name, count in found.items() if count}


@contextlib.contextmanager
def own_engine(file: Path) -> Iterator[Engine]:
    """An app's engine, as SQLAlchemy makes it, on a connection that does not overwrite what it deletes."""
    engine = create_engine(f"sqlite:///{file}")

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA secure_delete = OFF")

    yield engine
    engine.dispose()


@pytest.mark.parametrize("is_own", [False, True], ids=["URL", "engine"])
def test_the_keeper_removes_what_was_sealed(tmp_path: Path, is_own: bool) -> None:
    """While the application runs on, with all its connections."""
    file = tmp_path / "jobs.sqlite3"
    with (
        own_engine(file) if is_own else contextlib.nullcontext(f"sqlite:///{file}") as database,
        serve_site(tmp_path, database=database, keeper=True, lease=1) as site,
    ):
        site.within(lambda jobs: jobs.find())  # the tables are made, and what is written then is the first to go
        wait_until(lambda: not site.application._assembly._database.sqlite_file.known.has_deleted)
        job_id = site.start("/job", method="POST", data=FORM, delay=600)
        pieces = pieces_of(site.row(job_id).sealed or b"")
        assert sum(find_left(file, pieces).values()) >= len(pieces)
        assert site.application.jobs.cancel(job_id)
        wait_until(lambda: not find_left(file, pieces))
        assert site.row(job_id).sealed is None


def test_the_end_of_a_process_removes_it_where_no_keeper_runs(tmp_path: Path) -> None:
    """Another process has the file open, or SQLite itself would remove the WAL."""
    file = tmp_path / "jobs.sqlite3"
    with wrap(tmp_path) as site:
        job_id = site.start("/job", method="POST", data=FORM, delay=600)
        pieces = pieces_of(site.row(job_id).sealed or b"")
        with closing(sqlite3.connect(file)) as other:
            other.execute("SELECT count(*) FROM background_job").fetchall()
            assert site.application.jobs.cancel(job_id)
            assert find_left(file, pieces)
            site.application.close()
            assert not find_left(file, pieces)


def test_a_reader_puts_it_off_and_is_not_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "jobs.sqlite3"
    engine = create_engine(f"sqlite:///{file}", poolclass=NullPool, connect_args={"timeout": 60})
    database = Database(f"sqlite:///{file}", build_table("background_job"), True)
    patient = Database(engine, build_table("background_job"), True)
    try:
        with database.connect(), closing(sqlite3.connect(file)) as reader, patient.connect():
            reader.execute("BEGIN").execute("SELECT count(*) FROM background_job").fetchall()
            with database.connect() as connection:
                connection.exec_driver_sql("UPDATE background_job_process SET slots = 1").close()
            began = time.monotonic()
            empty_wal(patient)
            assert time.monotonic() - began < 20, "it waited as long as the engine does"
            assert os.path.getsize(f"{file}-wal") > 0
            reader.rollback()
            empty_wal(patient)
            assert os.path.getsize(f"{file}-wal") == 0
    finally:
        database.dispose()
        engine.dispose()
