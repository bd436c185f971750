"""Old and new code of one app at the same time: a job of a route that only the new code has is done by that."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from pathlib import Path

import pytest
from support import wait_until
from support.recipes import recipe, write_app
from support.servers import GTHREAD, Server

from backjob import Status

from .conftest import Serve

pytestmark = pytest.mark.live

DEPLOY = "Old and new code at the same time"
APP = """
import os
from pathlib import Path

from workshop import app as workshop

from backjob import BackJob

version = Path(os.environ["VERSION_FILE"]).read_text()


def app(environ, start_response):
    if environ["PATH_INFO"] == "/version":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [version.encode()]
    if environ["PATH_INFO"] == "/new" and version == "new":
        environ["PATH_INFO"] = "/echo"
    return workshop(environ, start_response)


application = BackJob(app, app_version=version)
"""


def run_version(run_server: Serve, folder: Path, name: str, version: str) -> Server:
    (folder / "versioned.py").write_text(APP)
    (folder / name).write_text(version)
    return run_server(GTHREAD, app="versioned:application", environ={"VERSION_FILE": str(folder / name)})


def assert_done_once(server: Server, job_ids: list[int]) -> None:
    for job_id in job_ids:
        end = server.end_of(job_id, 30)
        assert (end["status"], end["attempt"]) == (Status.COMPLETED, 1), end
    server.assert_ran_once(job_ids)


def start_load(server: Server) -> list[int]:
    """Jobs that run, wait for a slot and wait for their time."""
    now = server.start_all("/new?seconds=0.3", count=6, retries=3)["ids"]
    return [*now, *server.start_all("/new", count=4, delay=1, retries=3)["ids"]]


def test_a_reload(run_server: Serve, tmp_path: Path) -> None:
    """The old process lives on beside the new one, because a job runs in it."""
    server = run_version(run_server, tmp_path, "version", "old")
    running = server.start("/hang")
    server.pid_of(running)
    (tmp_path / "version").write_text("new")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.ask("GET", "/version").body == b"new")
    assert_done_once(server, start_load(server))
    assert server.status(running)["status"] == Status.INPROGRESS
    server.open_gate("gate-hang")
    assert server.end_of(running)["status"] == Status.COMPLETED


def test_two_servers(run_server: Serve, tmp_path: Path) -> None:
    """The new one restarts while its jobs wait, and the old one has nothing to do all the time."""
    old = run_version(run_server, tmp_path, "first", "old")
    assert_done_once(old, old.start_all("/echo", count=2)["ids"])
    new = run_version(run_server, tmp_path, "second", "new")
    assert_done_once(old, start_load(new))
    waiting = new.start_all("/new", count=3, delay=1)["ids"]
    new.stop()
    for _ in range(2):  # the old one looks for rows again and again meanwhile
        assert_done_once(old, old.start_all("/echo", count=2, delay=1)["ids"])
    assert [old.status(job_id)["status"] for job_id in waiting] == [Status.STARTED] * 3
    run_version(run_server, tmp_path, "second", "new")
    assert_done_once(old, waiting)


def test_the_recipe(run_server: Serve, tmp_path: Path) -> None:
    app = write_app(tmp_path, recipe(DEPLOY, "python"))
    server = run_server(GTHREAD, app=app, environ={"GIT_COMMIT": "5bdb3cb"})
    assert_done_once(server, server.start_all("/echo", count=1)["ids"])
    with contextlib.closing(sqlite3.connect(tmp_path / "backjob.sqlite3")) as rows:
        assert rows.execute("SELECT app_version FROM background_job").fetchall() == [("5bdb3cb",)]
