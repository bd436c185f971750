"""A database server that gives fewer connections than all processes of the app would take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError
from support import services, wait_until
from support.records import open_store
from support.servers import gunicorn
from support.services import new_database

from backjob import JobStatus, Status
from backjob.sqlstore import SQLStore

from .conftest import Serve

pytestmark = pytest.mark.live

FOUR_PROCESSES = gunicorn("gthread", workers=4, threads=8)
LIMIT = 12
LEASE = 3


def administrate(url: URL, *statements: str) -> None:
    with services.engine(url).execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


@contextlib.contextmanager
def limited(url: URL) -> Iterator[URL]:
    """Yield the URL of a role that owns the database and may have few connections."""
    role = f"{url.database}_few"
    administrate(
        url,
        f"CREATE ROLE {role} LOGIN CONNECTION LIMIT {LIMIT}",
        f"ALTER DATABASE {url.database} OWNER TO {role}",
        f"ALTER SCHEMA public OWNER TO {role}",
    )
    yield url.set(username=role)
    administrate(url, f"REASSIGN OWNED BY {role} TO CURRENT_USER", f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@contextlib.contextmanager
def all_taken(url: URL, few: URL) -> Iterator[None]:
    """Take all connections of the role away from the app, and keep them."""
    with contextlib.ExitStack() as stack:
        own = [0]

        def take() -> bool:
            others = f"usename = '{few.username}' AND pid NOT IN ({', '.join(map(str, own))})"
            administrate(url, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
            with contextlib.suppress(OperationalError):
                while len(own) <= LIMIT:
                    connection = stack.enter_context(services.engine(few).connect())
                    own.append(connection.scalar(text("SELECT pg_backend_pid()")))
            return len(own) > LIMIT

        wait_until(take)
        yield


def count_sessions(url: URL, few: URL) -> int:
    with services.engine(url).connect() as connection:
        query = text("SELECT count(*) FROM pg_stat_activity WHERE usename = :role")
        count: int = connection.scalar(query, {"role": few.username})
    return count


def find_end(store: SQLStore, job_id: int) -> JobStatus | None:
    status = store.status(job_id)
    return status if status and status.status.is_final else None


def test_jobs_that_end_while_all_connections_are_taken(run_server: Serve) -> None:
    """Their outcomes are written, although visitors need all connections as soon as there are any.

    The pools of the processes that answer them would keep these, so that the other keepers would find none.
    """
    with new_database("postgresql") as url, limited(url) as few:
        shown = few.render_as_string(hide_password=False)
        server = run_server(FOUR_PROCESSES, database=shown, key="k" * 32, lease=LEASE, is_trouble_expected=True)
        job_ids = server.start_all("/hang", count=8)["ids"]
        wait_until(lambda: server.runs().total() >= 4)
        with all_taken(url, few):
            server.open_gate("gate-hang")
            wait_until(lambda: server.log.count("its outcome waits") >= 4)
        with ThreadPoolExecutor(16) as visitors:
            while count_sessions(url, few) < LIMIT:
                for visit in [visitors.submit(server.ask, "GET", f"/status?id={job_ids[0]}") for _ in range(100)]:
                    visit.result()
        with open_store(url.render_as_string(hide_password=False)) as store:
            ends = [wait_until(lambda each=each: find_end(store, each), 40) for each in job_ids]
        assert [(end.status, end.error) for end in ends] == [(Status.COMPLETED, "")] * 8
        server.stop()
