"""More jobs than slots: nothing waits for itself, everything is done once, and people get their pages all the while."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support import wait_until
from support.servers import GTHREAD, ONE_GTHREAD, ONE_SYNC, ONE_WAITRESS, WAITRESS, WSGIREF, Server, Setup, gunicorn

from backjob import Status

from .conftest import Serve

pytestmark = pytest.mark.live

FOUR_SYNC = gunicorn("sync", workers=4)
LONGEST_PAGE = 15.0
"""Seconds that a page may take while jobs run: a deadlock takes for ever, a slow machine does not."""
SOON = 20.0
"""Seconds after which all jobs have ended. A launch that gets lost is made up for after a lease, of 30 s: too late."""


class Visitor:
    """Asks for a page again and again."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.pages = 0
        self.slowest = 0.0
        self.trouble: Exception | None = None
        self._is_gone = threading.Event()

    @contextmanager
    def visiting(self) -> Iterator[None]:
        thread = threading.Thread(target=self._visit)
        thread.start()
        try:
            yield
        finally:
            self._is_gone.set()
            thread.join()

    def _visit(self) -> None:
        try:
            while not self._is_gone.is_set():
                begin = time.monotonic()
                assert self.server.ask("GET", "/", timeout=LONGEST_PAGE).body == b"A page."
                self.slowest = max(self.slowest, time.monotonic() - begin)
                self.pages += 1
        except Exception as error:  # noqa: BLE001 - told by the test's own thread
            self.trouble = error


def assert_all_done(server: Server, count: int) -> None:
    """Start so many jobs at once, and see each of them run once while a page is asked for all the time."""
    visitor = Visitor(server)
    with visitor.visiting():
        job_ids = server.start_all("/work?seconds=0.1", count=count)["ids"]
        wait_until(lambda: server.ask("GET", "/live").json() == 0, SOON)
        pages_at_end = visitor.pages
        wait_until(lambda: visitor.trouble or visitor.pages > pages_at_end)
    assert visitor.trouble is None
    assert visitor.slowest < LONGEST_PAGE
    assert [server.status(job_id)["status"] for job_id in job_ids] == [Status.COMPLETED] * count
    server.assert_ran_once(job_ids)


@pytest.mark.parametrize(
    "setup",
    [ONE_SYNC, ONE_SYNC.over("tls"), ONE_GTHREAD, WSGIREF, FOUR_SYNC, GTHREAD, GTHREAD.over("tls"), WAITRESS],
    ids=str,
)
def test_more_jobs_than_slots(run_server: Serve, setup: Setup) -> None:
    """Twice as many on four slots, eight times as many on one."""
    assert_all_done(run_server(setup), 8)


@pytest.mark.parametrize("setup", [FOUR_SYNC, GTHREAD], ids=str)
def test_one_job_that_is_watched_in_a_slot(run_server: Serve, setup: Setup) -> None:
    """monitor="request" takes a second slot for each job, as EBackJob did."""
    assert_all_done(run_server(setup, monitor="request"), 1)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("setup", [ONE_GTHREAD, ONE_GTHREAD.over("tls"), ONE_WAITRESS], ids=str)
def test_a_watch_in_the_only_slot_ends(run_server: Serve, setup: Setup, method: str) -> None:
    """Without a second slot, monitor="request" gives the only one back after a few seconds: the job runs there."""
    server = run_server(setup, monitor="request")
    job_id = server.start("/work", method=method)
    assert server.end_of(job_id)["status"] == Status.COMPLETED
    server.assert_ran_once([job_id])


@pytest.mark.parametrize("setup", [ONE_SYNC, ONE_SYNC.over("tls"), ONE_GTHREAD, FOUR_SYNC, GTHREAD], ids=str)
def test_jobs_that_nobody_watches(run_server: Serve, setup: Setup) -> None:
    assert_all_done(run_server(setup, monitor="leave"), 8)


@pytest.mark.parametrize("setup", [ONE_SYNC, ONE_SYNC.over("tls"), ONE_GTHREAD, WSGIREF], ids=str)
def test_start_never_takes_a_second(run_server: Serve, setup: Setup) -> None:
    """The promise, so it is a bound on time: the only slot is busy with the very request that starts the job."""
    server = run_server(setup)
    for _ in range(2):  # a process learns from its first start
        answer = server.start_all("/work")
        assert max(answer["seconds"]) < 1.0
        assert server.end_of(answer["ids"][0])["status"] == Status.COMPLETED
