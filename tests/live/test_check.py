"""check() on real servers, from within a request and from a script: what it tells of each server is right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support.apache import daemon, embedded
from support.libraries import (
    BOTTLE,
    DJANGO,
    FLASK,
    GEVENT_PYWSGI,
    ONE_DJANGO,
    ONE_FLASK,
    cheroot,
    granian,
    hypercorn,
    pserve,
    uvicorn,
)
from support.servers import (
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
    Certificate,
    Server,
    Setup,
    gunicorn,
    script,
    serve,
)
from support.uwsgi import uwsgi

from backjob import Check
from backjob.checks.check import PATIENCE

from .conftest import Serve

pytestmark = pytest.mark.live

MANY_THREADS = gunicorn("gthread", workers=2, threads=10)
SLOW_GEVENT = GEVENT.with_options("--worker-connections", "50")
CANARIES = {"Cookie": "session=canary-cookie", "Authorization": "Bearer canary-credential", "X-CSRF-Token": "canary-t"}


def check_from_outside(server: Server, **options: Any) -> Check:
    where = f"unix:{server.address}" if isinstance(server.address, str) else "http://{}:{}".format(*server.address)
    server.ask("GET", "/live")  # the server is up, and has made its key
    with script(server.directory, connect=where, **options) as application:
        return application.check()


ONE = "one at a time"
EACH = "a thread for each request"
# Server, its software, worker, processes, slots of each, and where it watches jobs.
SERVERS = [
    (ONE_SYNC, "gunicorn/", "sync", 1, 1, "thread"),
    (SYNC.over("unix"), "gunicorn/", "sync", 2, 1, "thread"),
    (ONE_GTHREAD, "gunicorn/", "gthread", 1, 1, "thread"),
    (MANY_THREADS, "gunicorn/", "gthread", 2, 10, "thread"),
    (GEVENT, "gunicorn/", "gevent", 1, 1000, "thread"),
    (SLOW_GEVENT, "gunicorn/", "gevent", 1, 50, "thread"),
    (WAITRESS, "waitress/3", "threads", 1, 4, "thread"),
    (pserve("waitress", 4), "waitress/3", "threads", 1, 4, "thread"),
    (pserve("gunicorn", 2), "gunicorn/", "sync", 2, 1, "thread"),
    (WSGIREF, "WSGIServer/", ONE, 1, 1, "thread"),
    (BOTTLE, "WSGIServer/", ONE, 1, 1, "thread"),
    (DJANGO, "WSGIServer/", EACH, None, None, "thread"),
    (ONE_DJANGO, "WSGIServer/", ONE, 1, 1, "thread"),
    (WERKZEUG, "Werkzeug/", ONE, 1, 1, "thread"),
    (WERKZEUG_THREADS, "Werkzeug/", EACH, None, None, "thread"),
    (WERKZEUG_PROCESSES, "Werkzeug/", "a process for each request", None, None, "leave"),
    (FLASK, "Werkzeug/", EACH, None, None, "thread"),
    (ONE_FLASK, "Werkzeug/", ONE, 1, 1, "thread"),
    (cheroot(12), "Cheroot/", "threads", 1, 12, "thread"),
    (uwsgi("http-socket"), "uWSGI/2", ONE, 1, 1, "thread"),
    (uwsgi("http-socket", "--processes", "2", "--threads", "3"), "uWSGI/2", "threads", 2, 3, "thread"),
    (uwsgi("http", "--processes", "2"), "uWSGI/2", ONE, 2, 1, "thread"),
    (uwsgi("http-socket", is_debian=True), "uWSGI/2.0.21", ONE, 1, 1, "leave"),
    (daemon(3, processes=2), "Apache/", "daemon processes", 2, 3, "thread"),
    (embedded(1, threads=4), "Apache/", "embedded", None, 4, "thread"),
    # These tell a request nothing of their slots.
    (GEVENT_PYWSGI, "gevent/", "", None, None, "thread"),
    (granian(4), "Granian", "", None, None, "thread"),
    (hypercorn(1), "a server that does not say its name", "", None, None, "thread"),
    (uvicorn(4), "a server that does not say its name", "", None, None, "thread"),
]
KEY = "the-key-of-a-test-and-of-no-user"
# Servers whose request tells where it came in.
TELLING = [
    (GTHREAD, "gunicorn.socket"),
    (SYNC.over("unix"), "gunicorn.socket"),
    (GTHREAD.over("tls"), "gunicorn.socket"),
    (GEVENT, "gunicorn.socket"),
    (WAITRESS, "waitress.client_disconnected"),
    (WERKZEUG_THREADS, "werkzeug.socket"),
    (WERKZEUG_PROCESSES, "werkzeug.socket"),
]
ONE_SLOT = [ONE_SYNC, ONE_GTHREAD, WSGIREF, WERKZEUG]


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Certificate
) -> Iterator[Server]:
    """One server for each set-up, for all questions that leave it as it is."""
    setup: Setup = request.param
    # Apache runs the app as another user, whose key file is not for this one.
    environ = {"BACKJOB_KEY": KEY} if "Apache/" in dict(case[:2] for case in SERVERS).get(setup, "") else {}
    with serve(setup, tmp_path_factory.mktemp("check"), certificate=certificate, environ=environ) as server:
        yield server


@pytest.mark.parametrize(
    ("running", "case"),
    [(setup, rest) for setup, *rest in SERVERS],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
    indirect=["running"],
)
def test_what_a_server_tells(running: Server, case: list[Any]) -> None:
    """Asked by a script, over connect=: all that is told comes from the process that answers."""
    software, worker, processes, slots_each, monitor = case
    found = check_from_outside(running, key=KEY if software == "Apache/" else None)
    assert found.problem is None, str(found)
    assert found.server is not None
    assert found.server.software.startswith(software)
    told = found.server.worker, found.server.processes, found.server.slots_each, found.monitor
    assert told == (worker, processes, slots_each, monitor)
    assert found.tried[0].found == "connect="
    names = [warning.name for warning in found.warnings]
    assert ("one-slot" in names) is (processes == slots_each == 1)
    assert ("worker-timeout" in names) is (worker == "sync")
    assert "outer-middleware" not in names


@pytest.mark.parametrize(("running", "found"), TELLING, ids=str, indirect=["running"])
def test_within_a_request(running: Server, found: str) -> None:
    server = running
    seen = server.ask("GET", "/check", headers=CANARIES).json()
    assert seen["problems"] == []
    assert seen["is_ok"] is True
    (trial,) = seen["tried"]
    assert (trial["found"], trial["error"], trial["address"]) == (found, "", seen["address"])
    assert 0 < seen["round_trip"] < PATIENCE
    assert seen["key"] == f"key file {server.directory}/backjob.sqlite3.key"
    assert 0 < seen["store"]["seconds"] < PATIENCE
    key = (server.directory / "backjob.sqlite3.key").read_text().strip()
    assert not [secret for secret in ("canary", key) if secret in str(seen) + server.log]


@pytest.mark.parametrize(
    ("running", "names"),
    [
        (SYNC, ["worker-timeout"]),
        (SYNC.with_options("--timeout", "0"), []),
        (GTHREAD, []),
        (MANY_THREADS, []),
        (GEVENT, []),
        (WAITRESS, []),
        (WERKZEUG_THREADS, []),
    ],
    ids=str,
    indirect=["running"],
)
def test_warnings(running: Server, names: list[str]) -> None:
    seen = running.ask("GET", "/check").json()
    assert [warning["name"] for warning in seen["warnings"]] == names
    assert all(warning["text"] and warning["remedy"] for warning in seen["warnings"])


@pytest.mark.parametrize("running", ONE_SLOT, ids=str, indirect=True)
def test_one_slot_from_within(running: Server) -> None:
    """The only slot is busy with the very request that asks: no answer comes, and that is said in words of its own."""
    server = running
    seen = server.ask("GET", "/check").json()
    assert [problem["name"] for problem in seen["problems"]] == ["busy"]
    assert "busy" in seen["problems"][0]["text"]
    assert "one slot" in seen["problems"][0]["remedy"]
    assert PATIENCE <= seen["took"] < PATIENCE + 1.5
    if server.setup is not WSGIREF:  # it shows its server only to who holds its start_response()
        assert seen["server"]["slots"] == 1
        assert "one-slot" in [warning["name"] for warning in seen["warnings"]]
    wait_until(lambda: server.ask("GET", "/").status == 200)


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
    server = run_server(MANY_THREADS, key=KEY)
    server.ask("GET", "/live")  # it is up: who asks too early is told that it is busy
    (tmp_path / "other").mkdir()
    with script(tmp_path / "other", connect="http://{}:{}".format(*server.address), key=KEY) as application:
        found = application.check()
    assert found.is_ok
    warning, other = (each for each in found.warnings if each.name != "site-url")
    assert (warning.name, other.name) == ("other-store", "other-app")
    assert "workshop" in other.text
    assert f"{tmp_path}/other/backjob.sqlite3" in warning.text
    assert f"{server.directory}/backjob.sqlite3" in warning.text


def test_a_mount_is_found_in_the_environ(run_server: Serve) -> None:
    """Under a path, and another app at the root: a request's environ tells where, outside of one nobody knows."""
    server = run_server(GTHREAD, app="mounted:checked")
    assert server.ask("GET", "/first/check").json()["problems"] == []
    with script(server.directory, connect="http://{}:{}".format(*server.address)) as application:
        found = application.check()
    assert found.problem is not None
    assert "answered 404" in found.problem.text
    assert "under another path" in found.problem.text
