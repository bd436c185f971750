"""Connections that are not needed are given back to the database server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text
from support import wait_until
from support.patched import run_patched
from support.records import SERVERS, Databases, open_sqlite_store, run
from support.served import wrap

from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import build_table

OPEN = {
    "postgresql": "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database()",
    "mariadb": "SELECT count(*) AS n FROM information_schema.processlist WHERE db = database()",
}


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> str:
    return databases.url(request.param, tmp_path)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url, build_table("background_job"), True)
    yield opened
    opened.dispose()


def count_open(url: str) -> int:
    """Return the number of connections besides the one that asks."""
    count: int = run(url, OPEN["postgresql" if "postgresql" in url else "mariadb"])[0]["n"]
    return count - 1


def use(database: Database, at_once: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(at_once):
            stack.enter_context(database.connect()).execute(select(1))


def test_what_was_not_needed_is_given_back(database: Database, url: str) -> None:
    idle = database.find_idle(0)
    assert idle is not None
    use(database, 3)
    idle.give_back()
    assert count_open(url) == 3
    use(database, 1)
    idle.give_back()
    use(database, 1)
    assert count_open(url) == 1
    for _ in range(2):
        idle.give_back()
    assert count_open(url) == 0
    use(database, 1)


def test_it_is_not_given_back_at_once(database: Database, url: str) -> None:
    idle = database.find_idle(60)
    assert idle is not None
    for _ in range(3):
        idle.give_back()
        use(database, 3)
        idle.give_back()
        use(database, 1)
    assert count_open(url) == 3


def test_a_pool_in_use_is_left_as_it_is(database: Database, url: str) -> None:
    idle = database.find_idle(0)
    assert idle is not None
    use(database, 3)
    with database.connect() as connection:
        for _ in range(2):
            idle.give_back()
        connection.execute(text("SELECT 1"))
    assert count_open(url) == 3


def test_a_connection_that_is_taken_meanwhile_is_given_back_later(database: Database, url: str) -> None:
    idle = database.find_idle(0)
    assert idle is not None
    use(database, 1)
    with database.connect():
        database._engine.pool.dispose()  # as if it had been taken just after the look
    for _ in range(2):
        idle.give_back()
    assert count_open(url) == 0


def test_a_process_closes_its_idle_connections(url: str, tmp_path: Path) -> None:
    with wrap(tmp_path, database=url, keeper=True, lease=3.0) as site:
        site.start("/job", error_timeout=0)
        use(site.application._assembly._database, 3)
        assert count_open(url) >= 3
        wait_until(lambda: count_open(url) == 1)  # the keeper's


def test_a_file_has_enough_of_them(tmp_path: Path) -> None:
    with open_sqlite_store(tmp_path) as store:
        assert store._database.find_idle(0) is None


GREENLETS = """
import time
import gevent
from sqlalchemy import text
from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import build_table

database = Database({url!r}, build_table("background_job"), True)
database.find_idle(0.2)

def use():
    with database.connect() as connection:
        gevent.sleep(0.1)
        connection.execute(text("SELECT 1"))

gevent.joinall([gevent.spawn(use) for _ in range(3)], raise_error=True)
pool = database._engine.pool
print(pool.checkedin())
end = time.monotonic() + 20
while pool.checkedin() and time.monotonic() < end:
    gevent.sleep(0.01)
print(pool.checkedin())
"""


def test_greenlets_give_them_back(url: str) -> None:
    assert run_patched(GREENLETS.format(url=url)).split() == ["3", "0"]
