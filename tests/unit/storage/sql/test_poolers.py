"""Connection poolers and proxies between the jobs and their database: sessions are shared, and servers change."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from support import needs, services, wait_until
from support.records import TABLE, Databases, add, live_a_life, open_store

from backjob.errors import StoreError, TimedOut
from backjob.storage.sql.database import Database
from backjob.storage.sql.errors import AnswerLost
from backjob.storage.sql.lost_answers import one_call
from backjob.storage.sql.schema import build_table
from backjob.storage.sql.store import SQLStore


@pytest.fixture
def postgresql(databases: Databases, tmp_path: Path) -> URL:
    return make_url(databases.url("postgresql", tmp_path, has_table=True))


@dataclass
class Pooler:
    """A PgBouncer that can be made to take connections and queries without answering them."""

    url: URL
    process: subprocess.Popen[bytes]
    log: Path

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Make the pooler accept connections and answer no query."""
        self.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: "SIGUSR1" in self.log.read_text())
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGUSR2)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Make the pooler answer nothing at all."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def pgbouncer(pooler: Pooler) -> URL:
    return pooler.url


@pytest.fixture
def pooler(postgresql: URL, free_port: int) -> Iterator[Pooler]:
    """The database behind PgBouncer, which has one session for all and gives it to each transaction in turn."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") or needs.miss("there is no pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="backjob-pgbouncer"))
    folder.chmod(0o755)  # tmp_path is its owner's alone
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={postgresql.port} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {free_port}\nunix_socket_dir =\n"
        f"auth_type = any\nauth_file = {folder}/users\npool_mode = transaction\ndefault_pool_size = 1\n"
    )
    as_other = ["--user", "nobody"] if os.geteuid() == 0 else []  # PgBouncer refuses to run as root
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *as_other, folder / "ini"], stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is None and not _is_closed(free_port))
        yield Pooler(postgresql.set(port=free_port), process, folder / "log")
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder)


def _is_closed(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_no_setting_reaches_the_apps_own_queries(pgbouncer: URL, postgresql: URL, driver: str) -> None:
    needs.package(driver)
    names = ("lock_timeout", "default_transaction_isolation", "transaction_isolation", "statement_timeout")
    shown = text("SELECT " + ", ".join(f"current_setting('{name}')" for name in names))
    with services.engine(postgresql).connect() as connection:
        expected = connection.execute(shown).one()
    for _ in range(3):  # psycopg would prepare a statement at its fifth use, for a session that is not its own
        with open_store(pgbouncer.set(drivername=f"postgresql+{driver}")) as store:
            for _ in range(3):
                live_a_life(store)
            with services.engine(pgbouncer).connect() as connection:
                assert connection.execute(shown).one() == expected


def test_a_connection_that_is_read_only_is_given_up(postgresql: URL) -> None:
    """The old primary was demoted. A new connection, by the same address, comes to the new one."""
    database = Database(postgresql, build_table(TABLE), True)
    store = SQLStore(database)
    try:
        job_id = add(store)
        with database.connect() as connection:
            connection.execute(text("SET default_transaction_read_only = on"))
        for _ in range(2):
            with pytest.raises(StoreError, match="read-only"):
                add(store)
        assert add(store) > job_id
    finally:
        database.dispose()


@pytest.mark.parametrize("name", ["mariadb", "mariadb-mysqlclient"])
def test_mariadb_that_is_read_only_is_given_up(databases: Databases, tmp_path: Path, name: str) -> None:
    database = Database(databases.url(name, tmp_path, has_table=True), build_table(TABLE), True)
    store = SQLStore(database)
    try:
        add(store)
        with database.connect() as connection:
            connection.execute(text("SET SESSION TRANSACTION READ ONLY"))
        for _ in range(2):
            with pytest.raises(StoreError, match=r"(?i)read.only"):
                store.free("nobody")
        assert store.free("nobody") == 0
    finally:
        database.dispose()


# --- A server that does not answer: no call waits for it longer than for one answer.

_PATIENCE = 2.0
CALLS: dict[str, Callable[[SQLStore], Any]] = {
    "add": add,
    "get": lambda store: store.get(1),
    "find": lambda store: store.find(None, None, 10, None),
    "claim": lambda store: store.claim(1, 1, "run", 30, 5),
    "touch": lambda store: store.touch(1, 1, 50, "on", 30),
    "cancel": lambda store: store.request_cancel(1),
}


@contextlib.contextmanager
def patient_store(url: URL, *, is_used: bool = True) -> Iterator[SQLStore]:
    """A store that waits for an answer for _PATIENCE seconds. A used store has a connection and the time."""
    database = Database(url, build_table(TABLE), True, patience=_PATIENCE)
    store = SQLStore(database)
    try:
        if is_used:
            add(store)
        yield store
    finally:
        database.dispose()


def time_refusal(call: Callable[[], Any], error: type[StoreError] = StoreError) -> float:
    """Return the seconds after which the call raises this error."""
    begin = time.monotonic()
    with pytest.raises(error):
        call()
    return time.monotonic() - begin


@pytest.mark.parametrize("name", CALLS)
def test_a_paused_pooler_is_waited_for_once(pooler: Pooler, name: str) -> None:
    with patient_store(pooler.url) as store:
        with pooler.paused():
            assert time_refusal(lambda: CALLS[name](store), AnswerLost) < 1.5 * _PATIENCE
        assert add(store)


def test_a_clock_that_is_read_is_part_of_the_call(pooler: Pooler) -> None:
    with patient_store(pooler.url) as store:
        store._now._next = 0.0  # type: ignore[attr-defined]
        with pooler.paused():
            assert time_refusal(lambda: add(store)) < 1.5 * _PATIENCE


@pytest.mark.parametrize("is_used", [True, False])
def test_a_frozen_pooler_is_waited_for_once(pooler: Pooler, is_used: bool) -> None:
    with patient_store(pooler.url, is_used=is_used) as store, pooler.frozen():
        assert time_refusal(lambda: add(store)) < 2 * _PATIENCE


def test_two_calls_of_one_start_share_the_limit(pooler: Pooler) -> None:
    """start() renews the row of its process before it adds a job."""
    with patient_store(pooler.url) as store, pooler.paused():
        begin = time.monotonic()
        with one_call():
            time_refusal(lambda: store.register("process", 1, 30))
            time_refusal(lambda: add(store))
        assert time.monotonic() - begin < 1.5 * _PATIENCE


def test_a_short_pause_fails_no_call(pooler: Pooler) -> None:
    """The test of the idle connection is given up, and the new connection has the rest of the time."""
    with patient_store(pooler.url) as store, contextlib.ExitStack() as stack:
        stack.enter_context(pooler.paused())
        threading.Timer(0.7 * _PATIENCE, stack.pop_all().close).start()
        assert add(store)


def test_a_locked_table_is_waited_for_once(postgresql: URL) -> None:
    """As during ALTER TABLE. The limit for locks is half of that for answers."""
    with patient_store(postgresql) as store, services.engine(postgresql).begin() as other:
        other.execute(text(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE"))
        assert time_refusal(lambda: add(store), TimedOut) < _PATIENCE
        assert time_refusal(lambda: store.get(1), AnswerLost) < 1.5 * _PATIENCE
