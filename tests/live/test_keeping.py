"""Promises 2, 4 and 5: no job is lost or stuck, whatever is killed, and nobody has to ask for anything.

What has become of the jobs is read from the database, past backjob and its servers: a request might have been what
helped them. That each ran as often as it should is the judge's to say.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import struct
import threading
import time
import uuid
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support.libraries import cheroot
from support.records import read_rows
from support.servers import GEVENT, GTHREAD, ONE_SYNC, SYNC, WAITRESS, Server, Setup, script

from backjob import Status
from backjob.model.job import NewJob
from backjob.model.recovery import PROCESS_GONE, REQUEST_GONE
from backjob.runtime.process_identity import PROCESS

from .conftest import Serve

pytestmark = pytest.mark.live

PRELOADED = {"app": "preloaded:application"}
"""The application has been used before the fork."""
GUNICORNS = [
    *(pytest.param(setup, {}, id=str(setup)) for setup in (SYNC, GTHREAD, GEVENT)),
    pytest.param(SYNC.with_options("--preload"), {}, id="gunicorn-sync-preload"),
    pytest.param(GTHREAD.with_options("--preload"), PRELOADED, id="gunicorn-gthread-preload-used"),
]
SERVERS = [*GUNICORNS, pytest.param(WAITRESS, {}, id="waitress")]
A_FEW = 12.0
"""Seconds within which a death is noticed on the same host: a worker begins, its keeper waits a moment and looks."""
USER = {"Cookie": "user=ada", "Authorization": "Bearer ada's own"}


def row(server: Server, job_id: int) -> dict[str, Any]:
    """The job as it is on disk."""
    return next(each for each in read_rows(server.directory / "backjob.sqlite3") if each["id"] == job_id)


def has_ended(server: Server, job_id: int) -> bool:
    return Status(row(server, job_id)["status"]).is_final


def wait_for_run(server: Server, job_id: int) -> int:
    """Wait until it runs. In which process that is."""
    wait_until(lambda: runs(server, job_id)[0])
    return server.pid_of(job_id)


def runs(server: Server, job_id: int) -> list[int]:
    """How often it began, and how often it came to its end."""
    seen = server.runs()
    return [seen[job_id, "begin"], seen[job_id, "end"]]


@pytest.mark.parametrize(("setup", "options"), GUNICORNS)
def test_a_worker_that_is_killed(run_server: Serve, setup: Setup, options: dict[str, Any]) -> None:
    """Its jobs fail and say why, or run again, long before their leases are over."""
    server = run_server(setup, max_running=4, **options)
    once, again = server.start("/hang"), server.start("/hang", retries=1)
    pids = {wait_for_run(server, job_id) for job_id in (once, again)}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: has_ended(server, once), A_FEW)
    wait_until(lambda: row(server, again)["attempt"] == 2, A_FEW)
    print(f"{setup}: settled {time.monotonic() - killed:.1f} s after the kill")
    failed = row(server, once)
    assert (failed["status"], failed["status_text"]) == (Status.FAILED, PROCESS_GONE)
    server.open_gate("gate-hang")
    wait_until(lambda: has_ended(server, again), A_FEW)
    assert row(server, again)["status"] == Status.COMPLETED
    assert runs(server, once) == [1, 0]
    assert runs(server, again) == [2, 1]
    [end] = server.status(again)["past"]
    assert (end["attempt"], end["text"]) == (1, PROCESS_GONE)


@pytest.mark.parametrize(("setup", "options"), SERVERS)
def test_everything_is_killed_and_starts_again_and_nobody_asks(
    run_server: Serve, setup: Setup, options: dict[str, Any]
) -> None:
    server = run_server(setup, max_running=8, **options)
    waiting, delayed = server.start("/echo", USER, delay=5), server.start("/echo", USER, delay=12)
    once, again = server.start("/hang"), server.start("/hang", retries=2)
    for job_id in (once, again):
        wait_for_run(server, job_id)
    ids = [once, again, waiting, delayed]
    server.kill()
    assert [row(server, job_id)["status"] for job_id in ids] == [1, 1, 0, 0]
    server.open_gate("gate-hang")
    begin = time.monotonic()
    server = run_server(setup, max_running=8, **options)
    wait_until(lambda: all(has_ended(server, job_id) for job_id in ids), 30)
    print(f"{setup}: all ended {time.monotonic() - begin:.1f} s after the new start")
    assert not server._is_up, "somebody has asked"
    rows = [row(server, job_id) for job_id in ids]
    assert [each["status"] for each in rows] == [Status.FAILED, *[Status.COMPLETED] * 3]
    assert rows[0]["status_text"] == PROCESS_GONE
    assert [each["attempt"] for each in rows] == [1, 2, 1, 1]
    for each in rows[2:]:
        assert '"user=ada"' in each["status_text"]
        assert '"Bearer ada\'s own"' in each["status_text"]
    assert [runs(server, job_id) for job_id in ids] == [[1, 0], [2, 1], [1, 1], [1, 1]]


def test_a_greenlet_that_computes_keeps_its_lease(run_server: Serve) -> None:
    """For almost three leases, in which no other greenlet of its process runs. Another process looks all the while."""
    server = run_server(GEVENT, lease=3)
    job_id = server.start("/compute?seconds=8", error_timeout=0, retries=1)
    wait_for_run(server, job_id)
    left: list[float] = []
    with script(server.directory, lease=3, keeper=False) as application:
        keeper = application._get_backend().keeper
        begin = time.monotonic()
        while not has_ended(server, job_id) and time.monotonic() < begin + 25:
            keeper.sweep()
            until, now = row(server, job_id)["lease_until"], datetime.now(timezone.utc)
            if until is not None:
                left.append((datetime.fromisoformat(until).replace(tzinfo=timezone.utc) - now).total_seconds())
            time.sleep(0.1)
    print(f"the least that was left of the lease: {min(left):.1f} s in {len(left)} looks")
    assert min(left) > 0
    assert (row(server, job_id)["status"], row(server, job_id)["attempt"]) == (Status.COMPLETED, 1)
    assert runs(server, job_id) == [1, 1]


@pytest.mark.parametrize("setup", [SYNC, GTHREAD, GEVENT, WAITRESS], ids=str)
def test_a_silent_job_times_out_while_nobody_polls(run_server: Serve, setup: Setup) -> None:
    server = run_server(setup, lease=3)
    job_id = server.start("/hang", error_timeout=2, retries=3)
    wait_for_run(server, job_id)
    wait_until(lambda: has_ended(server, job_id), A_FEW)
    ended = row(server, job_id)
    assert (ended["status"], ended["attempt"]) == (Status.FAILED, 1)
    assert ended["status_text"] == "job timeout: no update for 2 s (error_timeout)"
    # Its code ends later, and changes nothing.
    server.open_gate("gate-hang")
    wait_until(lambda: runs(server, job_id) == [1, 1])
    follower = server.start("/work")
    assert server.end_of(follower)["status"] == Status.COMPLETED
    assert row(server, job_id) == ended


@pytest.mark.parametrize("setup", [SYNC, GTHREAD, GEVENT], ids=str)
def test_a_job_that_was_to_follow_a_request_whose_process_is_killed(run_server: Serve, setup: Setup) -> None:
    server = run_server(setup)

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.ask("GET", "/follow")

    visitor = threading.Thread(target=ask)
    visitor.start()
    pid = server.pid_of(1)
    assert row(server, 1)["status"] == Status.STARTED
    os.kill(pid, signal.SIGKILL)
    visitor.join()
    wait_until(lambda: has_ended(server, 1), A_FEW)
    assert (row(server, 1)["status"], row(server, 1)["status_text"]) == (Status.CANCELLED, REQUEST_GONE)
    server.open_gate("gate-follow")
    assert runs(server, 1) == [0, 0]


def test_a_job_follows_an_empty_response_whose_reader_has_left(run_server: Serve) -> None:
    """cheroot raises the error of its socket before it closes the response, and so never does."""
    server = run_server(cheroot(2), is_trouble_expected=True)
    server.wait_until_it_listens()
    with socket.create_connection(server.address) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # then close() resets
        client.sendall(b"GET /follow?empty HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server.pid_of(1)
    server.open_gate("gate-follow")
    wait_until(lambda: has_ended(server, 1), A_FEW)
    assert (row(server, 1)["status"], runs(server, 1)) == (Status.COMPLETED, [1, 1])


def test_an_orderly_end_gives_holds_back(run_server: Serve) -> None:
    """The request of a second job lies in the backlog of the one slot. Nobody is left who could see a death."""
    server = run_server(ONE_SYNC, max_running=4)
    runs_now, waits = server.start_all("/hang", count=2)["ids"]
    wait_for_run(server, runs_now)
    wait_until(lambda: row(server, waits)["held_by"].startswith(PROCESS))
    server.process.terminate()
    server.open_gate("gate-hang")
    server.process.wait(20)
    assert row(server, runs_now)["status"] == Status.COMPLETED
    assert (row(server, waits)["status"], row(server, waits)["held_by"]) == (Status.STARTED, None)
    server = run_server(ONE_SYNC, max_running=4)
    wait_until(lambda: has_ended(server, waits), A_FEW)
    assert [runs(server, job_id) for job_id in (runs_now, waits)] == [[1, 1], [1, 1]]


def count_costs(server: Server) -> Counter[str]:
    """The threads and the sockets of all processes of a server."""
    costs: Counter[str] = Counter()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getpgid(int(path.name)) == server.process.pid:
                costs["threads"] += len(list((path / "task").iterdir()))
                links = [os.readlink(each) for each in (path / "fd").iterdir()]
                costs["sockets"] += sum(link.startswith("socket:") for link in links)
    return costs


def rests(server: Server) -> Counter[str] | None:
    """What it costs, if that is no more than it may be with a single job. How many threads a server's own pool has
    made so far is a matter of chance: they are four at most, beside two processes, a keeper and two who watch."""
    costs = count_costs(server)
    return costs if costs["threads"] <= 9 and costs["sockets"] <= 4 else None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("setup", [GTHREAD, GEVENT], ids=str)
def test_ten_thousand_delayed_jobs_survive_a_new_start(run_server: Serve, setup: Setup) -> None:
    """With their users' credentials, and at no cost but their rows."""
    server = run_server(setup)
    first = server.start("/echo", USER)
    assert server.end_of(first)["status"] == Status.COMPLETED
    pattern = server.start("/echo", USER, delay=3600)
    wait_until(lambda: not row(server, pattern)["held_by"])
    with_one = wait_until(lambda: rests(server))
    server.kill()
    with script(server.directory, keeper=False) as application:
        backend = application._get_backend()
        job = backend.store.get(pattern)
        assert job is not None
        request = backend.keyring.unseal(job.id, job.uid, job.sealed)
        assert request.headers["HTTP_COOKIE"] == USER["Cookie"]
        uids: dict[int, str] = {}
        begin = time.monotonic()
        for _ in range(10_000):
            uid = uuid.uuid4().hex
            new = NewJob(uid=uid, request=request, key_id=backend.keyring.key_id, app_id=job.app_id, delay=3600)
            job_id, _ = backend.store.add(new, lambda job_id, uid=uid: backend.keyring.seal(job_id, uid, request))
            uids[job_id] = uid
        print(f"{len(uids)} rows in {time.monotonic() - begin:.0f} s")
        due = min(uids)
        soon = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")
        with backend.store._database.connect() as connection:
            connection.exec_driver_sql("UPDATE background_job SET due_at = ? WHERE id = ?", (soon, due))

        server = run_server(setup)
        wait_until(lambda: has_ended(server, due), 30)
        assert not server._is_up, "somebody has asked"
        assert '"user=ada"' in row(server, due)["status_text"]
        with_all = wait_until(lambda: rests(server))
        print(f"{setup}: {dict(with_one)} with one job that waits, {dict(with_all)} with 10,000")
        rows = {each["id"]: each for each in read_rows(server.directory / "backjob.sqlite3")}
        waiting = [job_id for job_id in uids if rows[job_id]["status"] == Status.STARTED]
        assert len(waiting) == 10_000 - 1
        for job_id in waiting[::999]:
            sealed = rows[job_id]["sealed"]
            assert backend.keyring.unseal(job_id, uids[job_id], sealed) == request
        assert {rows[job_id]["held_by"] for job_id in waiting} == {None}
    begin = time.monotonic()
    assert server.ask("GET", "/").body == b"A page."
    print(f"a page took {(time.monotonic() - begin) * 1000:.0f} ms")
