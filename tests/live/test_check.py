"""check() on real servers, from within a request and from a script: what it tells of each server is right."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import needs, wait_until
from support.servers import (
    APPS,
    GEVENT,
    GTHREAD,
    ONE_GTHREAD,
    ONE_SYNC,
    SYNC,
    WAITRESS,
    WERKZEUG,
    WERKZEUG_PROCESSES,
    WERKZEUG_THREADS,
    WSGIREF,
    Server,
    Setup,
    gunicorn,
)

from backjob import BackJob, Check
from backjob.check import PATIENCE

from .conftest import Serve

pytestmark = pytest.mark.live

MANY_THREADS = gunicorn("gthread", workers=2, threads=10)
SLOW_GEVENT = GEVENT.with_options("--worker-connections", "50")
UNBOUND = "a thread for each request"
CANARIES = {"Cookie": "session=canary-cookie", "Authorization": "Bearer canary-credential", "X-CSRF-Token": "canary-t"}


def say_nothing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise AssertionError("a check asks the app nothing")


@contextlib.contextmanager
def script(folder: Path, connect: str | None = None, **options: Any) -> Iterator[BackJob]:
    """The same app in a process that serves nothing."""
    application = BackJob(say_nothing, database=f"sqlite:///{folder}/backjob.sqlite3", connect=connect, **options)
    yield application
    application.close()


def check_from_outside(server: Server, **options: Any) -> Check:
    where = f"unix:{server.address}" if isinstance(server.address, str) else "http://{}:{}".format(*server.address)
    server.ask("GET", "/live")  # the server has made its key
    with script(server.directory, where, **options) as application:
        return application.check()


# Server, software, worker, processes, slots of each, how a request's own server is found, monitor way.
SERVERS = [
    (SYNC, "gunicorn/", "sync", 2, 1, "gunicorn.socket", "thread"),
    (SYNC.over("unix"), "gunicorn/", "sync", 2, 1, "gunicorn.socket", "thread"),
    (GTHREAD, "gunicorn/", "gthread", 1, 4, "gunicorn.socket", "thread"),
    (MANY_THREADS.over("tls"), "gunicorn/", "gthread", 2, 10, "gunicorn.socket", "thread"),
    (GEVENT, "gunicorn/", "gevent", 1, 1000, "gunicorn.socket", "thread"),
    (SLOW_GEVENT, "gunicorn/", "gevent", 1, 50, "gunicorn.socket", "thread"),
    (WAITRESS, "waitress/3", "threads", 1, 4, "waitress.client_disconnected", "thread"),
    (WERKZEUG_THREADS, "Werkzeug/", UNBOUND, None, None, "werkzeug.socket", "thread"),
    (WERKZEUG_PROCESSES, "Werkzeug/", "a process for each request", None, None, "werkzeug.socket", "leave"),
]
ONE_SLOT = [
    (ONE_SYNC, "gunicorn/", "sync", "thread"),
    (ONE_GTHREAD, "gunicorn/", "gthread", "thread"),
    (WSGIREF, "WSGIServer/", "one at a time", "thread"),
    (WERKZEUG, "Werkzeug/", "one at a time", "thread"),
]


@pytest.mark.parametrize("case", SERVERS, ids=lambda case: str(case[0]))
def test_within_a_request(run_server: Serve, case: tuple[Any, ...]) -> None:
    setup, software, worker, processes, slots_each, found, monitor = case
    server = run_server(setup)
    seen = server.ask("GET", "/check", headers=CANARIES).json()
    assert seen["problems"] == []
    assert seen["is_ok"] is True
    facts = seen["server"]
    assert facts["software"].startswith(software)
    assert (facts["worker"], facts["processes"], facts["slots_each"]) == (worker, processes, slots_each)
    assert facts["slots"] == (processes * slots_each if processes else None)
    assert seen["monitor"] == monitor
    (trial,) = seen["tried"]
    assert (trial["found"], trial["error"], trial["address"]) == (found, "", seen["address"])
    assert 0 < seen["round_trip"] < PATIENCE
    assert seen["key"] == f"key file {server.directory}/backjob.sqlite3.key"
    assert 0 < seen["store"]["seconds"] < PATIENCE
    key = (server.directory / "backjob.sqlite3.key").read_text().strip()
    assert not [secret for secret in ("canary", key) if secret in str(seen) + server.log]


@pytest.mark.parametrize(
    ("setup", "names"),
    [
        (SYNC, ["few-slots", "worker-timeout"]),
        (SYNC.with_options("--timeout", "0"), ["few-slots"]),
        (GTHREAD, ["few-slots"]),
        (MANY_THREADS, []),
        (GEVENT, []),
        (WAITRESS, ["few-slots"]),
        (WERKZEUG_THREADS, []),
    ],
    ids=str,
)
def test_warnings(run_server: Serve, setup: Setup, names: list[str]) -> None:
    seen = run_server(setup).ask("GET", "/check").json()
    assert [warning["name"] for warning in seen["warnings"]] == names
    assert all(warning["text"] and warning["remedy"] for warning in seen["warnings"])


@pytest.mark.parametrize("case", ONE_SLOT, ids=lambda case: str(case[0]))
def test_one_slot_from_outside(run_server: Serve, case: tuple[Any, ...]) -> None:
    setup, software, worker, monitor = case
    found = check_from_outside(run_server(setup))
    assert found.problem is None, str(found)
    assert found.server is not None
    assert found.server.software.startswith(software)
    assert (found.server.worker, found.server.slots, found.monitor) == (worker, 1, monitor)
    assert found.tried[0].found == "connect="
    names = ["one-slot", *(["worker-timeout"] if setup is ONE_SYNC else [])]
    assert [warning.name for warning in found.warnings] == names


@pytest.mark.parametrize("case", ONE_SLOT, ids=lambda case: str(case[0]))
def test_one_slot_from_within(run_server: Serve, case: tuple[Any, ...]) -> None:
    """The only slot is busy with the very request that asks: no answer comes, and that is said in words of its own."""
    setup = case[0]
    server = run_server(setup)
    seen = server.ask("GET", "/check").json()
    assert [problem["name"] for problem in seen["problems"]] == ["busy"]
    assert "busy" in seen["problems"][0]["text"]
    assert "one slot" in seen["problems"][0]["remedy"]
    assert PATIENCE <= seen["took"] < PATIENCE + 1.5
    if setup is not WSGIREF:  # it shows its server only to who holds its start_response()
        assert seen["server"]["slots"] == 1
        assert "one-slot" in [warning["name"] for warning in seen["warnings"]]
    wait_until(lambda: server.ask("GET", "/").status == 200)


@pytest.mark.parametrize(("query", "names"), [("?lock", ["session-lock"]), ("", [])])
def test_a_session_that_locks(run_server: Serve, query: str, names: list[str]) -> None:
    server = run_server(gunicorn("gthread", threads=10))
    seen = server.ask("GET", f"/check{query}", headers=CANARIES).json()
    assert [warning["name"] for warning in seen["warnings"]] == names
    assert seen["problems"] == []


def test_monitor_that_needs_a_second_slot(run_server: Serve) -> None:
    found = check_from_outside(run_server(ONE_GTHREAD, monitor="request"))
    assert [problem.name for problem in found.problems] == ["monitor"]
    assert found.monitor == "request"


def test_the_facts_are_those_of_who_answers(run_server: Serve) -> None:
    """A script tells nothing of its own process: what counts is the server at the other end of connect=."""
    server = run_server(MANY_THREADS)
    found = check_from_outside(server, monitor="leave")
    assert found.server is not None
    assert (found.server.worker, found.server.slots, found.monitor) == ("gthread", 20, "thread")


def test_another_database_behind_connect(run_server: Serve, tmp_path: Path) -> None:
    key = "k" * 40
    server = run_server(MANY_THREADS, key=key)
    (tmp_path / "other").mkdir()
    with script(tmp_path / "other", "http://{}:{}".format(*server.address), key=key) as application:
        found = application.check()
    assert found.is_ok
    (warning,) = found.warnings
    assert warning.name == "other-store"
    assert f"{tmp_path}/other/backjob.sqlite3" in warning.text
    assert f"{server.directory}/backjob.sqlite3" in warning.text


def test_a_mount_is_found_in_the_environ(run_server: Serve) -> None:
    """Under a path, and another app at the root: a request's environ tells where, outside of one nobody knows."""
    server = run_server(GTHREAD, app="mounted:checked")
    assert server.ask("GET", "/first/check").json()["problems"] == []
    with script(server.directory, "http://{}:{}".format(*server.address)) as application:
        found = application.check()
    assert found.problem is not None
    assert "answered 404" in found.problem.text
    assert "under another path" in found.problem.text


@contextlib.contextmanager
def process(folder: Path, port: int, *command: str) -> Iterator[None]:
    """A server that binds a port by itself, until the block ends."""
    log = (folder / "server.log").open("wb")
    with log, subprocess.Popen(command, cwd=folder, env={"PYTHONPATH": str(APPS)}, stdout=log, stderr=log) as running:
        try:
            wait_until(lambda: is_up(port))
            yield
        finally:
            running.kill()
            running.wait()
            print((folder / "server.log").read_text())


def is_up(port: int) -> bool:
    with contextlib.suppress(OSError):
        return ask(port, "/live") == b"0"
    return False


def ask(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read()


@pytest.mark.parametrize(
    ("options", "worker", "processes", "slots_each", "monitor"),
    [
        (["--processes", "2", "--threads", "3"], "threads", 2, 3, "thread"),
        (["--processes", "2", "--enable-threads"], "one at a time", 2, 1, "thread"),
        (["--enable-threads"], "one at a time", 1, 1, "thread"),
    ],
)
def test_uwsgi(
    tmp_path: Path, free_port: int, options: list[str], worker: str, processes: int, slots_each: int, monitor: str
) -> None:
    program = Path(sys.executable).with_name("uwsgi")
    if not program.exists():
        needs.miss("there is no uwsgi beside this Python: tests/machine/install brings it")
    where = ["--http-socket", f"127.0.0.1:{free_port}", "--module", "workshop:application", "--master", "--die-on-term"]
    where += ["--virtualenv", sys.prefix]
    running = process(tmp_path, free_port, str(program), *where, *options)
    with running, script(tmp_path, f"http://127.0.0.1:{free_port}") as application:
        found = application.check()
    assert found.problem is None, str(found)
    assert found.server is not None
    assert found.server.software.startswith("uWSGI/2")
    facts = (found.server.worker, found.server.processes, found.server.slots_each, found.monitor)
    assert facts == (worker, processes, slots_each, monitor)


def test_cheroot(tmp_path: Path, free_port: int) -> None:
    needs.package("cheroot")
    command = [sys.executable, "-m", "cheroot", "--bind", f"127.0.0.1:{free_port}", "--threads", "12"]
    running = process(tmp_path, free_port, *command, "workshop:application")
    with running, script(tmp_path, f"http://127.0.0.1:{free_port}") as application:
        found = application.check()
    assert found.problem is None, str(found)
    assert found.warnings == ()
    assert found.server is not None
    assert found.server.software.startswith("Cheroot/")
    assert (found.server.worker, found.server.processes, found.server.slots_each) == ("threads", 1, 12)
