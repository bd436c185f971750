"""Forks, mounts and ends of servers: what a process has before it forks, and what is left when it is stopped."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from support.servers import GTHREAD, ONE_SYNC, SYNC, Setup

from backjob import Status

from .conftest import Serve

pytestmark = pytest.mark.live


@pytest.mark.parametrize("setup", [SYNC, GTHREAD.with_options("--workers", "2")], ids=str)
def test_engine_that_was_used_before_the_fork(run_server: Serve, setup: Setup) -> None:
    """gunicorn --preload: the app has asked for jobs while it was loaded, then two workers are forked."""
    server = run_server(setup.with_options("--preload"), app="preloaded:application")
    assert server.ask("GET", "/inherited_databases").json() == [], "a connection of the parent's is open in its child"
    job_ids = [server.start("/echo") for _ in range(8)]
    ends = [server.end_of(job_id) for job_id in job_ids]
    assert [end["status"] for end in ends] == [Status.COMPLETED] * 8
    server.assert_ran_once(job_ids)


@pytest.mark.parametrize("setup", [SYNC, GTHREAD], ids=str)
def test_what_is_completed_stays_so(run_server: Serve, setup: Setup) -> None:
    """SIGTERM, and the server comes back."""
    server = run_server(setup)
    job_id = server.start("/work")
    before = server.end_of(job_id)
    assert before["status"] == Status.COMPLETED
    server.stop()
    assert run_server(setup).status(job_id) == before
    server.assert_ran_once([job_id])


def test_job_that_the_server_stops(run_server: Serve) -> None:
    """gunicorn ends a sync worker that hangs: the job says by what, and which setting mends it."""
    server = run_server(SYNC.with_options("--timeout", "2"), is_trouble_expected=True)
    job_id = server.start("/hang")
    end = server.end_of(job_id)
    assert end["status"] == Status.FAILED
    assert "SystemExit" in end["status_text"]
    assert "--timeout of 2 s" in end["status_text"]
    assert server.runs() == {(job_id, "begin"): 1}


@pytest.mark.parametrize("setup", [GTHREAD, ONE_SYNC], ids=str)
def test_two_apps_on_one_server(run_server: Serve, setup: Setup) -> None:
    """Each is mounted at a path of its own, with a table of its own, and finds its own jobs only."""
    server = run_server(setup, app="mounted:application")
    for mount in ("/first", "/second%20%26%20third"):
        job_id = server.start(f"{mount}/echo?q=1", mount=mount)
        end = server.end_of(job_id, mount=mount)
        assert end["status"] == Status.COMPLETED, end["status_text"]
        seen = json.loads(end["status_text"])
        assert quote(seen["path"]) == f"{mount}/echo"
        assert seen["query"] == "q=1"
    # Both jobs are the first of their table.
    assert server.runs() == {(1, "begin"): 2, (1, "end"): 2}
    outside = server.ask("POST", "/first/start", {"target": "/second%20%26%20third/echo"})
    assert outside.status == 400
    assert b"mounted at '/first'" in outside.body
