"""``connect=`` at an nginx of several sites, and at servers that can't wait for a probe."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.servers import GTHREAD, ONE_SYNC, SYNC, WSGIREF, Setup

from backjob import Status

from .conftest import Reserve, RunNginx, Serve

pytestmark = pytest.mark.live


@pytest.mark.parametrize("setup", [ONE_SYNC, SYNC, WSGIREF], ids=str)
@pytest.mark.parametrize("monitor", ["leave", "thread"])
def test_jobs_of_a_server_with_a_slot_or_two(run_server: Serve, reserved: Reserve, setup: Setup, monitor: str) -> None:
    """The launch that comes in is the proof."""
    place = reserved()
    server = run_server(setup, place=place, monitor=monitor, connect=place.connect)
    job_ids = [server.start("/work", method=method) for method in ("GET", "POST", "GET") * 2]
    for job_id in job_ids:
        assert server.end_of(job_id, 25)["status"] == Status.COMPLETED
    server.assert_ran_once(job_ids)


SITES = """
server {{
    listen {front};
    location / {{ proxy_pass http://{app}; proxy_set_header Host $host; }}
}}
server {{
    listen {front};
    server_name internal.test;
    allow 127.0.0.1;
    deny all;
    return 200 "internal";
    access_log {log} told;
}}
"""


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_visitor_leads_a_job_to_another_site_of_nginx(
    run_server: Serve, run_nginx: RunNginx, reserved: Reserve, method: str, tmp_path: Path
) -> None:
    front, place, log = reserved(), reserved(), tmp_path / "internal.log"
    server = run_server(GTHREAD, place=place, connect=front.connect)
    http = SITES.format(front=front.authority, app=place.authority, log=log)
    run_nginx(http, front)
    server.headers["Host"] = "internal.test"
    job_id = server.start("/work?q=secret", method=method)
    assert server.end_of(job_id)["status"] == Status.COMPLETED
    assert not log.exists() or log.read_text() == ""
