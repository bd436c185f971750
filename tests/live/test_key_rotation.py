"""The documented change of the key, live: two servers on one database, with jobs over each step, there and back."""

from __future__ import annotations

import pytest
from support.servers import GTHREAD, Server

from backjob import Status

from .conftest import Serve

pytestmark = pytest.mark.live

OLD, NEW = "the old key of these tests, and of nothing else", "the new key of these tests, and of nothing else"
THERE = [[OLD], [OLD, NEW], [NEW, OLD], [NEW]]


def start_load(server: Server) -> dict[int, int]:
    """Jobs that run, wait for a slot, wait for their time and retry; the attempts that each takes."""
    ids = server.start_all("/echo?seconds=0.2", count=4)["ids"]
    ids += server.start_all("/echo", count=2, delay=2)["ids"]
    ids += server.start_all("/echo?seconds=1", count=1)["ids"]  # less than the server waits when it stops
    return {**dict.fromkeys(ids, 1), server.start("/stumble", retries=1): 2}


def assert_done(server: Server, started: dict[int, int]) -> None:
    for job_id, attempts in started.items():
        end = server.end_of(job_id, 40)
        assert end["status"] == Status.COMPLETED, (end, server.log)
        assert end["attempt"] == attempts
    runs = server.runs()
    assert {job_id: runs[job_id, "begin"] for job_id in started} == started


@pytest.mark.parametrize("way", [THERE, THERE[::-1]], ids=["there", "back"])
def test_no_job_is_lost_or_delayed(run_server: Serve, way: list[list[str]]) -> None:
    """One server after the other changes its list; jobs of before the last step have ended when that begins."""
    servers = [run_server(GTHREAD, key=way[0], lease=2) for _ in range(2)]
    started: dict[int, int] = {}
    for step, keys in enumerate(way[1:], 1):
        for place in range(2):
            if step == 3:  # a key is removed
                assert_done(servers[0], started)
            for server in servers:
                started |= start_load(server)
            servers[place].stop()
            servers[place] = run_server(GTHREAD, key=keys, lease=2)
            for server in servers:
                started |= start_load(server)
    assert_done(servers[1], started)


def test_what_a_killed_server_ran_is_recovered_across_a_step(run_server: Serve) -> None:
    """Its processes are on another host, as far as the sweep can know: the lease decides."""
    first = run_server(GTHREAD, key=[OLD, NEW], lease=1)
    job_id = first.start("/hang", retries=1)
    first.pid_of(job_id)
    first.kill()
    first.open_gate("gate-hang")
    second = run_server(GTHREAD, key=[NEW, OLD], lease=1)
    assert second.end_of(job_id, 20)["status"] == Status.COMPLETED
    assert second.status(job_id)["attempt"] == 2
