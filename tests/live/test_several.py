"""Jobs that work in several tasks, threads or processes at once: when such a job is cancelled it ends, and it alone."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from support import wait_until
from support.servers import GTHREAD

from backjob import Status

from .conftest import Serve

pytestmark = pytest.mark.live

SITE = dataclasses.replace(GTHREAD, app="several:application")

WAYS = {
    "pool": ["map", "map_async", "imap", "imap_unordered", "apply_async", "starmap"],
    "executor": ["map", "submit"],
    "threads": ["map", "submit", "pool"],
    "joblib": ["multiprocessing", "threading", "loky"],
    "queue": ["fork", "spawn"],
    "tasks": ["anyio", "trio", *(["asyncio"] if sys.version_info >= (3, 11) else [])],
}


@pytest.mark.parametrize("kind", WAYS)
def test_a_cancelled_job_ends_and_gives_its_slot_back(run_server: Serve, kind: str) -> None:
    """Another job of the same process goes on meanwhile."""
    server = run_server(SITE)
    other = server.start("/hang")
    for way in WAYS[kind]:
        cancelled = server.start(f"/{kind}/{way}")
        wait_until(lambda job_id=cancelled: server.status(job_id)["progress"] > 0)
        assert server.ask("POST", f"/cancel/{cancelled}").body == b"True"
        assert server.end_of(cancelled)["status"] == Status.CANCELLED, way
        wait_until(lambda job_id=cancelled: server.runs()[job_id, "left"])
    server.open_gate("gate-hang")
    assert server.end_of(other)["status"] == Status.COMPLETED
