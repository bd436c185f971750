"""``connect=`` at servers that can't wait for a probe: the launch that comes in is the proof."""

from __future__ import annotations

import pytest
from support.servers import ONE_SYNC, SYNC, WSGIREF, Setup

from backjob import Status

from .conftest import Reserve, Serve

pytestmark = pytest.mark.live


@pytest.mark.parametrize("setup", [ONE_SYNC, SYNC, WSGIREF], ids=str)
@pytest.mark.parametrize("monitor", ["leave", "thread"])
def test_jobs_of_a_server_with_a_slot_or_two(run_server: Serve, reserved: Reserve, setup: Setup, monitor: str) -> None:
    place = reserved()
    server = run_server(setup, place=place, monitor=monitor, connect=place.connect)
    job_ids = [server.start("/work", method=method) for method in ("GET", "POST", "GET") * 2]
    for job_id in job_ids:
        assert server.end_of(job_id, 25)["status"] == Status.COMPLETED
    server.assert_ran_once(job_ids)
