"""A PostgreSQL server that is frozen while its host lives: nothing waits for it longer than the patience says."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from support import services, wait_until
from support.records import TABLE, Databases, add
from support.served import wrap

from backjob import Status
from backjob.errors import StoreError
from backjob.storage.sql.database import Database
from backjob.storage.sql.engines import PATIENCE
from backjob.storage.sql.schema import build_table
from backjob.storage.sql.store import SQLStore

_PATIENCE = 1.0


@pytest.fixture
def url(databases: Databases, tmp_path: Path) -> URL:
    return make_url(databases.url("postgresql", tmp_path, has_table=True))


@contextlib.contextmanager
def freeze_sessions(url: URL) -> Iterator[None]:
    """Stop the processes of all sessions of this database. Its other databases, and their tests, go on."""
    with services.engine(url).connect() as connection:
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        pids = list(connection.scalars(text(f"SELECT pid FROM pg_stat_activity WHERE {others}")))
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_frozen_session_is_given_up_and_replaced(url: URL) -> None:
    database = Database(url, build_table(TABLE), True, patience=_PATIENCE)
    store = SQLStore(database)
    try:
        job_id = add(store)
        with freeze_sessions(url):
            begin = time.monotonic()
            assert add(store) == job_id + 1  # the ping of the pool is not answered, and a new session is opened
            assert time.monotonic() - begin < 3 * _PATIENCE + 2
    finally:
        database.dispose()


def test_a_statement_that_is_frozen_is_given_up(url: URL) -> None:
    database = Database(url, build_table(TABLE), True, patience=_PATIENCE)
    try:
        add(SQLStore(database))
        begin = time.monotonic()
        is_refused = pytest.raises(StoreError, match="has not answered within 1 s")
        with is_refused, database.connect() as connection, freeze_sessions(url):
            connection.execute(text("SELECT 1"))
        assert time.monotonic() - begin < 2 * _PATIENCE + 2
    finally:
        database.dispose()


def test_start_and_the_keeper_go_on(url: URL, tmp_path: Path) -> None:
    """Both had a session when it froze."""
    shown = url.render_as_string(hide_password=False)
    with wrap(tmp_path, database=shown, keeper=True, lease=3.0) as site:
        first = site.start("/job", error_timeout=0)
        wait_until(lambda: site.backend.keeper._next.sweep)
        begin = time.monotonic()
        with freeze_sessions(url):
            assert site.start("/job") == first + 1
            assert time.monotonic() - begin < 2 * PATIENCE
            assert site.backend.store.claim(first, 1, "elsewhere-1", 1, 0)
            assert site.wait_for_end(first).status is Status.FAILED
