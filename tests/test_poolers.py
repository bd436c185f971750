"""Connection poolers and proxies between the jobs and their database: sessions are shared, and servers change."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from support import needs, services, wait_until
from support.records import TABLE, Databases, add, live_a_life, open_store

from backjob.engine import Database
from backjob.errors import StoreError
from backjob.schema import build_table
from backjob.sqlstore import SQLStore


@pytest.fixture
def postgresql(databases: Databases, tmp_path: Path) -> URL:
    return make_url(databases.url("postgresql", tmp_path, has_table=True))


@pytest.fixture
def pgbouncer(postgresql: URL, free_port: int) -> Iterator[URL]:
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
        yield postgresql.set(port=free_port)
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
