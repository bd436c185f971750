"""A database server that gives fewer connections than all processes of the app would take."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import wait_until
from support.few_connections import limited_role, take_all_connections
from support.records import open_store
from support.servers import Server, gunicorn
from support.services import new_database

from backjob import JobStatus, Status
from backjob.storage.sql.store import SQLStore

from .conftest import Serve

pytestmark = pytest.mark.live

FOUR_PROCESSES = gunicorn("gthread", workers=4, threads=8)
LIMIT = 9
LEASE = 3


@contextlib.contextmanager
def visitors(server: Server, job_id: int) -> Iterator[None]:
    """Request the status of this job from 12 threads without a pause."""
    is_over = threading.Event()

    def visit() -> None:
        while not is_over.is_set():
            server.ask("GET", f"/status?id={job_id}")

    with ThreadPoolExecutor(12) as threads:
        visits = [threads.submit(visit) for _ in range(12)]
        try:
            yield
        finally:
            is_over.set()
    for each in visits:
        each.result()


def find_end(store: SQLStore, job_id: int) -> JobStatus | None:
    status = store.status(job_id)
    return status if status and status.status.is_final else None


def test_jobs_that_end_while_all_connections_are_taken(run_server: Serve) -> None:
    """Their outcomes are written although requests take each connection as soon as it is free."""
    with new_database("postgresql") as url, limited_role(url, LIMIT) as few:
        shown = few.render_as_string(hide_password=False)
        server = run_server(FOUR_PROCESSES, database=shown, key="key12345" * 4, lease=LEASE, is_trouble_expected=True)
        job_ids = server.start_all("/hang", count=8)["ids"]
        wait_until(lambda: server.runs().total() >= 4)
        with take_all_connections(url, few, LIMIT):
            server.open_gate("gate-hang")
            wait_until(lambda: server.log.count("its outcome waits") >= 4)
        with visitors(server, job_ids[0]), open_store(url.render_as_string(hide_password=False)) as store:
            ends = [wait_until(lambda each=each: find_end(store, each), 40) for each in job_ids]
        assert [(end.status, end.error) for end in ends] == [(Status.COMPLETED, "")] * 8
        server.stop()
