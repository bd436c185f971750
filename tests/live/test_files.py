"""Two thousand jobs started at once by a server that may open 256 files: each runs once, and no file is missing."""

from __future__ import annotations

import pytest
from support import wait_until
from support.servers import GEVENT, GTHREAD, ONE_SYNC, Server, Setup

from .conftest import Serve

pytestmark = pytest.mark.live

JOBS = 2000
FILES = 256
SECONDS = 100
"""After which jobs that still wait have got lost. They take a quarter of it."""


def count_ended(server: Server) -> int:
    return sum(what == "end" for _, what in server.runs())


@pytest.mark.parametrize("setup", [ONE_SYNC, GTHREAD, GEVENT], ids=str)
def test_two_thousand_jobs(run_server: Serve, setup: Setup) -> None:
    # The one request that starts them all may take longer than a sync worker's default of 30 s on a slow machine. With
    # this lease nobody comes to the rescue of a job whose launch got lost.
    server = run_server(setup.with_options("--timeout", "100"), most_files=FILES, lease=3600)
    # No job ends before all are started: what each of them holds until then, all hold at once.
    job_ids = server.ask("POST", "/start", {"target": "/hang", "count": JOBS}, timeout=SECONDS).json()["ids"]
    server.open_gate("gate-hang")
    assert len(set(job_ids)) == JOBS
    # The judge's file is read, not the server asked: no request is in the way of the jobs.
    wait_until(lambda: count_ended(server) >= JOBS, SECONDS)
    wait_until(lambda: server.ask("GET", "/live").json() == 0)
    server.assert_ran_once(job_ids)
