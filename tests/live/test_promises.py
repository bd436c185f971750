"""Promises 1, 3, 6, 7 and 9, each kept by a real server that is broken, deceived or watched."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.servers import GTHREAD, SYNC, Server, script
from support.twice import TwiceProxy

from backjob import BackJob, JobNotFound, Status
from backjob.keyring import MONITOR, WORKER, Keyring, read_or_make_key_file

pytestmark = pytest.mark.live


@contextlib.contextmanager
def rows_of(server: Server) -> Iterator[sqlite3.Connection]:
    """The server's database file, past everything that backjob does about it."""
    connection = sqlite3.connect(server.directory / "backjob.sqlite3", isolation_level=None, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


@pytest.mark.parametrize("setup", [SYNC, GTHREAD], ids=str)
def test_1_what_start_returned_is_recorded_whenever_the_server_dies(run_server, wait_until, setup):
    server = run_server(setup, is_trouble_expected=True)
    answered: list[int] = []
    is_dead = threading.Event()

    def start_jobs() -> None:
        while not is_dead.is_set():
            try:
                answered.append(server.start("/work"))
            except (OSError, http.client.HTTPException, AssertionError, ValueError):  # cut off anywhere
                if is_dead.is_set():
                    return

    seed = random.randrange(10**6)
    print(f"seed {seed}")
    with ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(start_jobs) for _ in range(3)]
        wait_until(lambda: len(answered) > random.Random(seed).randrange(20, 60), 30)
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
        is_dead.set()
        for client in clients:
            client.result()
    with rows_of(server) as rows:
        recorded = {job_id for (job_id,) in rows.execute("SELECT id FROM background_job")}
    assert len(answered) > 20
    assert set(answered) <= recorded


def test_1_when_start_raises_there_is_no_record(run_server):
    server = run_server(GTHREAD, is_trouble_expected=True)
    server.start("/work")
    for wrong in ("relative", "//host/work", "/wo rk", "/work#part", "http://example.org/work"):
        assert server.ask("POST", "/start", {"target": wrong}).status == 400
    with rows_of(server) as rows:
        assert rows.execute("SELECT count(*) FROM background_job").fetchone() == (1,)


def test_3_each_internal_request_sent_twice_runs_each_job_once(run_server, free_port):
    server = run_server(GTHREAD, connect=f"http://127.0.0.1:{free_port}", is_trouble_expected=True)
    with TwiceProxy(free_port, server.address) as proxy:
        ids = [server.start("/work", method=method) for method in ("GET", "POST", "CHICKEN") * 4]
        for job_id in ids:
            assert server.end_of(job_id)["status"] == Status.COMPLETED
        server.assert_ran_once(ids)
        assert proxy.doubled >= 2 * len(ids)


def test_6_a_final_status_stays_whatever_the_code_still_does(run_server, wait_until):
    server = run_server(GTHREAD)
    job_id = server.start("/hang")
    wait_until(lambda: server.status(job_id)["status"] == Status.INPROGRESS)
    with script(server.directory) as application:
        application.jobs.fail("Stopped by hand.", job_id=job_id)
        ended = server.status(job_id)
        assert (ended["status"], ended["status_text"]) == (Status.FAILED, "Stopped by hand.")
        server.open_gate("gate-hang")
        wait_until(lambda: server.runs()[job_id, "end"] == 1)
        application.jobs.finish("Done after all.", job_id=job_id)
        assert not application.jobs.cancel(job_id)
    follower = server.start("/work")
    assert server.end_of(follower)["status"] == Status.COMPLETED
    assert server.status(job_id) == ended


def test_7_rows_written_by_hand_do_not_run(run_server, wait_until):
    server = run_server(GTHREAD, lease=1)
    victim = server.start("/work", headers={"Cookie": "user=alice"}, delay=3600)
    with rows_of(server) as rows:
        columns = [name for _, name, *_ in rows.execute("PRAGMA table_info(background_job)")]
        for change in ({"path": "/hang"}, {"method": "DELETE"}, {}):
            # Copies of a real row, due now: the seal is of another number.
            values = {"uid": f"'{random.getrandbits(128):032x}'", "due_at": "created_at", "held_by": "NULL"}
            values |= {"held_until": "NULL", **{name: f"'{value}'" for name, value in change.items()}}
            kept = [name for name in columns if name != "id"]
            sources = ", ".join(values.get(name, name) for name in kept)
            rows.execute(f"INSERT INTO background_job ({', '.join(kept)}) SELECT {sources} FROM background_job LIMIT 1")
        forged = [job_id for (job_id,) in rows.execute("SELECT id FROM background_job WHERE id <> ?", (victim,))]
    # The next launches have the server look for rows that wait.
    wait_until(lambda: server.end_of(server.start("/work")) and all(ended(server, job_id) for job_id in forged), 30)
    assert {server.status(job_id)["status"] for job_id in forged} == {Status.FAILED}
    assert not {job_id for job_id, _ in server.runs()} & {victim, *forged}


def ended(server: Server, job_id: int) -> bool:
    return Status(server.status(job_id)["status"]).is_final


def test_7_without_the_key_nobody_runs_or_sees_a_job(run_server):
    server = run_server(GTHREAD)
    job_id = server.start("/work", delay=3600)
    with rows_of(server) as rows:
        (sealed,) = rows.execute("SELECT sealed FROM background_job").fetchone()
        before = rows.execute("SELECT * FROM background_job").fetchall()
        real = Keyring([read_or_make_key_file(server.directory / "backjob.sqlite3.key")])
        guessed = Keyring(["not the key, but as long as one must be"])
        for kind in (MONITOR, WORKER):
            token = guessed.sign(kind, job_id, 1, sealed).text
            assert server.ask("POST", "/", headers={"Backjob-Token": token}).status == 403
            # A real signature with the job's number changed is none.
            other = real.sign(kind, job_id + 1, 1, sealed).text.replace(f"{kind}.{job_id + 1}.", f"{kind}.{job_id}.")
            assert server.ask("POST", "/", headers={"Backjob-Token": other}).status == 403
        assert rows.execute("SELECT * FROM background_job").fetchall() == before
    assert server.runs() == {}
    with pytest.raises(AssertionError, match="404"):
        server.status(job_id + 1)


def test_7_another_key_leaves_the_rows_alone(run_server, tmp_path):
    server = run_server(GTHREAD)
    job_id = server.start("/work", delay=3600)
    key = "another application's key, long enough"
    stranger = BackJob(lambda environ, start_response: [], database=f"sqlite:///{tmp_path}/backjob.sqlite3", key=key)
    try:
        backend = stranger._get_backend()
        assert backend.store.take_due(backend.keyring.key_ids, "stranger", 30, backend.monitor.app_id) is None
        assert backend.store.seconds_to_next(backend.keyring.key_ids, backend.monitor.app_id) is None
        with pytest.raises(JobNotFound):
            stranger.jobs.status(job_id + 1)
    finally:
        stranger.close()


def test_9_ordinary_requests_pass_when_the_database_is_gone(run_server):
    nowhere = "sqlite:////nowhere/at/all.sqlite3"
    server = run_server(GTHREAD, is_trouble_expected=True, database=nowhere, key="key1234-" * 4)
    assert server.ask("GET", "/").body == b"A page."
    answer = server.ask("POST", "/start", {"target": "/work"})
    assert answer.status == 500
    assert "StoreError: The SQLite file /nowhere/at/all.sqlite3 can't be opened" in server.log
    assert server.ask("GET", "/").body == b"A page."
    with socket.create_connection(server.address) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nBackjob-Token: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        assert raw.makefile("rb").readline() == b"HTTP/1.1 403 Forbidden\r\n"
