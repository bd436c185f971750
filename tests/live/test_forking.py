"""Processes that fork by themselves: jobs are launched, whatever the order of forks, first uses and close()."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import wait_until
from support.libraries import cheroot
from support.servers import GTHREAD, WAITRESS, WSGIREF, Setup, script

from backjob import Status

from .conftest import Serve

pytestmark = pytest.mark.live

ORDERS = [
    # While the app is loaded; in a request, after the first job.
    (["pool"], []),
    (["use", "pool"], []),
    (["keep", "pool"], []),
    (["keep", "pool", "pool"], ["pool"]),
    (["keep", "stays"], ["stays"]),
    (["use", "stays"], []),
    (["keep", "close", "pool"], ["close"]),
    (["keep", "pool", "close"], ["pool", "close", "use"]),
    ([], ["close", "pool"]),
    ([], ["pool", "close", "pool"]),
]


@pytest.mark.parametrize(
    ("setup", "loading", "later"),
    [
        *((WAITRESS, *order) for order in ORDERS),
        # What else differs between the servers: threads of another kind, and none but the main one.
        *((setup, *order) for setup in (cheroot(4), WSGIREF) for order in (ORDERS[2], ORDERS[5], ORDERS[-1])),
    ],
    ids=lambda value: str(value) if isinstance(value, Setup) else "-".join(value) or "none",
)
def test_order(run_server: Serve, setup: Setup, loading: list[str], later: list[str]) -> None:
    server = run_server(setup, app="forking:application", environ={"STEPS": json.dumps(loading)})
    job_ids = [server.start("/work")]
    assert server.end_of(job_ids[0])["status"] == Status.COMPLETED
    if later:
        assert server.ask("POST", "/do", later).status == 200
    job_ids += [server.start("/work"), server.start("/work", delay=0.5)]
    assert [server.end_of(job_id)["status"] for job_id in job_ids[1:]] == [Status.COMPLETED] * 2
    server.assert_ran_once(job_ids)


@pytest.mark.parametrize(
    ("setup", "loading"),
    [
        (WAITRESS, ["keep", "pool"]),
        (WAITRESS, ["keep", "stays"]),
        (GTHREAD.with_options("--preload"), ["keep", "pool"]),
    ],
    ids=str,
)
def test_no_request_arrives(run_server: Serve, tmp_path: Path, setup: Setup, loading: list[str]) -> None:
    """A job that was recorded before the server came is launched, although the process has forked."""
    server = run_server(setup)
    job_id = server.start("/work", delay=3)
    server.stop()
    server = run_server(setup, app="forking:application", environ={"STEPS": json.dumps(loading)})
    server.wait_until_it_listens()
    with script(tmp_path, keeper=False) as application:
        wait_until(lambda: application.jobs.status(job_id).status.is_final, 20)
        assert application.jobs.status(job_id).status is Status.COMPLETED
    server.assert_ran_once([job_id])
