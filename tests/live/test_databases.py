"""Jobs in a database server: two processes of gunicorn share it, and the judge sees what really ran."""

from __future__ import annotations

from datetime import datetime

import pytest
from support import wait_until
from support.records import SERVERS, open_store
from support.relay import Relay
from support.servers import GEVENT, Server, gunicorn
from support.services import new_database

from backjob import Status
from backjob.keyring import Keyring, check_keys
from backjob.storage.sql.store import SQLStore

from .conftest import Serve

pytestmark = pytest.mark.live

TWO_PROCESSES = gunicorn("gthread", workers=2, threads=4)
KEY = "the key of the tests, long enough to be one"
KEY_IDS = Keyring(check_keys(KEY, "key")).key_ids
LIMIT = 2


@pytest.mark.parametrize("name", SERVERS)
def test_two_processes_share_a_database(run_server: Serve, name: str) -> None:
    with new_database(name) as url:
        shown = url.render_as_string(hide_password=False)
        server = run_server(TWO_PROCESSES, database=shown, key=KEY, max_running=LIMIT)

        # Six at once, of which two may run.
        job_ids = server.start_all("/work?seconds=0.4", count=6)["ids"]
        assert {server.end_of(job_id)["status"] for job_id in job_ids} == {Status.COMPLETED}
        server.assert_ran_once(job_ids)
        assert most_at_once(server) == LIMIT

        # Cancelled from outside of both, and met at its next sign.
        job_id = server.start("/walk")
        wait_until(lambda: (job_id, "begin") in server.runs())
        with open_store(shown) as store:
            assert store.request_cancel(job_id)
        server.open_gate("gate-20")
        assert server.end_of(job_id)["status"] == Status.CANCELLED
        assert server.runs()[job_id, "end"] == 0

        # Tried again after a 503; a 404 is not.
        told = server.end_of(server.start("/stumble", retries=1))
        assert (told["status"], told["attempt"]) == (Status.COMPLETED, 2)
        told = server.end_of(server.start("/nowhere", retries=1))
        assert (told["status"], told["attempt"]) == (Status.FAILED, 1)
        assert "404" in told["error"]


@pytest.mark.parametrize("name", SERVERS)
def test_an_engine_that_was_used_before_the_fork(run_server: Serve, name: str) -> None:
    """gunicorn --preload: the app has asked for jobs while it was loaded, then two workers are forked."""
    with new_database(name) as url:
        shown = url.render_as_string(hide_password=False)
        setup = TWO_PROCESSES.with_options("--preload")
        server = run_server(setup, app="preloaded:application", database=shown, key=KEY)
        job_ids = [server.start("/echo") for _ in range(8)]
        assert {server.end_of(job_id)["status"] for job_id in job_ids} == {Status.COMPLETED}
        server.assert_ran_once(job_ids)


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_greenlets_share_a_database(run_server: Serve, name: str) -> None:
    """More of them at once than the pool has connections."""
    with new_database(name) as url:
        shown = url.render_as_string(hide_password=False)
        server = run_server(GEVENT, database=shown, key=KEY, max_running=0)
        job_ids = server.start_all("/work?seconds=0.2", count=30)["ids"]
        assert {server.end_of(job_id)["status"] for job_id in job_ids} == {Status.COMPLETED}
        server.assert_ran_once(job_ids)


@pytest.mark.parametrize("name", SERVERS)
def test_greenlets_end_in_an_orderly_way(run_server: Serve, name: str) -> None:
    """Their keeper's connections are those of its thread, and who leaves is another one.

    The database is at the end of a long wire: who asks it has to wait, and a greenlet that does lets others run.
    """
    with new_database(name) as url, Relay(url.port or 0, distance=0.002) as wire:
        shown = url.render_as_string(hide_password=False)
        wired = url.set(port=wire.port).render_as_string(hide_password=False)
        server = run_server(GEVENT, database=wired, key=KEY, lease=3)
        job_id = server.start("/hang")
        with open_store(shown) as store:
            wait_until(lambda: (job_id, "begin") in server.runs())
            first = find_lease(store, job_id)
            wait_until(lambda: find_lease(store, job_id) != first)
            assert len(store.read_slots()) == 1
            server.open_gate("gate-hang")
            server.process.terminate()
            server.process.wait(20)
            assert store.read_slots() == {}
            job = store.get(job_id)
            assert job is not None
            assert job.status == Status.COMPLETED
        assert "are taken up later" not in server.log


def find_lease(store: SQLStore, job_id: int) -> datetime | None:
    """Until when somebody vouches for a running job."""
    return next((job.lease_until for job in store.find_leased(KEY_IDS) if job.id == job_id), None)


def most_at_once(server: Server) -> int:
    """How many jobs ran at the same time at most, by the order of the judge's lines."""
    running = most = 0
    for line in (server.directory / "judge.txt").read_text().splitlines():
        running += 1 if line.endswith("begin") else -1
        most = max(most, running)
    return most
