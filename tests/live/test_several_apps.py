"""Several apps with BackJob, in one process or in one directory, with one database: each job is its own app's."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from support import wait_until
from support.recipes import recipe, write_app
from support.servers import GTHREAD, ONE_SYNC, SYNC, Server, Setup

from backjob import Status

from .conftest import Serve, ran_in

pytestmark = pytest.mark.live

RunApp = Callable[..., Server]

SEVERAL = "Several apps"
APP = """
from workshop import app as workshop

from backjob import BackJob


def app(environ, start_response):
    return workshop(environ, start_response)


application = BackJob(app{options})
"""


@pytest.fixture
def run_app(run_server: Serve, tmp_path: Path) -> RunApp:
    """Run an app of this name, with these options as they stand in its module, in the test's one directory."""

    def run(name: str, setup: Setup = GTHREAD, **options: str) -> Server:
        (tmp_path / f"{name}.py").write_text(
            APP.format(options="".join(f", {key}={value!r}" for key, value in options.items()))
        )
        return run_server(setup, app=f"{name}:application")

    return run


def start_load(server: Server) -> list[int]:
    """More jobs than there are places, and all that makes a job wait as a row."""
    ids = server.start_all("/echo?seconds=0.2", count=10)["ids"]
    ids += server.start_all("/echo", count=3, delay=1)["ids"]
    ids += server.start_all("/stumble", count=3, retries=1)["ids"]
    ids.append(server.start("/echo", after_response=True))
    return ids


def assert_own(server: Server, job_ids: list[int]) -> None:
    for job_id in job_ids:
        end = server.end_of(job_id, 30)
        assert end["status"] == Status.COMPLETED, end["status_text"]
        assert ran_in(server, end)
    runs = server.runs()
    assert {job_id: runs[job_id, "begin"] for job_id in job_ids} == {
        job_id: server.status(job_id)["attempt"] for job_id in job_ids
    }


@pytest.mark.parametrize("setup", [GTHREAD, ONE_SYNC, SYNC], ids=str)
def test_two_apps_with_no_option_in_one_directory(run_app: RunApp, setup: Setup) -> None:
    """They share the database, the table and the key, and see each other's waiting rows."""
    first, second = run_app("first", setup), run_app("second", setup)
    started = [(server, start_load(server)) for server in (first, second) * 2]
    for server, job_ids in started:
        assert_own(server, job_ids)


def test_two_apps_with_a_table_each(run_server: Serve, run_app: RunApp, tmp_path: Path) -> None:
    """Both tables count from 1, and neither app sees the other's."""
    own = write_app(tmp_path, recipe(SEVERAL, "python", number=2))
    servers = run_app("first"), run_server(GTHREAD, app=own)
    started = [(server, start_load(server)) for server in servers]
    assert started[0][1] == started[1][1]
    for server, job_ids in started:
        for job_id in job_ids:
            end = server.end_of(job_id, 30)
            assert end["status"] == Status.COMPLETED, end["status_text"]
            assert ran_in(server, end)


def test_connect_that_leads_to_an_app_with_another_table(run_app: RunApp) -> None:
    first = run_app("first", table_name="first_job")
    assert first.ask("GET", "/").status == 200  # it is up: a launch that nobody answers is tried again much later
    second = run_app("second", table_name="second_job", connect="http://{}:{}".format(*first.address))
    end = second.end_of(second.start("/echo"))
    assert end["status"] == Status.FAILED
    assert "answered 410" in end["status_text"]
    assert "connect=" in end["status_text"]
    assert "table_name" in end["status_text"]
    assert not second.runs()


def test_rows_of_another_key_are_left_alone(run_app: RunApp) -> None:
    first, second = run_app("first", key="key-1234" * 4), run_app("second", key="key-5678" * 4)
    for server, job_ids in [(server, start_load(server)) for server in (first, second)]:
        assert_own(server, job_ids)
    waiting = first.start("/echo", delay=1)
    first.stop()
    # By the time that these have ended it is due, and second has looked for such rows several times.
    assert_own(second, second.start_all("/echo?seconds=0.5", count=16)["ids"])
    with contextlib.closing(sqlite3.connect(second.directory / "backjob.sqlite3")) as rows:
        look = "SELECT status, attempt, status_text FROM background_job WHERE id = ?"
        assert rows.execute(look, (waiting,)).fetchone() == (Status.STARTED, 1, "")
    assert not second.runs()[waiting, "begin"]
    # Its own app takes it up as soon as it is there again, and looks.
    again = run_app("first", key="key-1234" * 4)
    again.end_of(again.start("/echo"))
    assert_own(again, [waiting])


def test_jobs_of_an_app_that_is_down_wait_for_it(run_app: RunApp) -> None:
    """The other one does not take them."""
    first, second = run_app("first"), run_app("second")
    waiting = first.start("/echo", delay=1)
    first.stop()
    assert_own(second, second.start_all("/echo?seconds=0.5", count=16)["ids"])
    assert second.status(waiting)["status"] == Status.STARTED
    again = run_app("first")  # at another address
    again.end_of(again.start("/echo"))
    assert_own(again, [waiting])


def test_an_app_that_was_renamed_keeps_its_jobs_by_its_app_name(run_app: RunApp) -> None:
    """Its module and its address are others than before."""
    before = run_app("before", app_name="shop")
    waiting = before.start("/echo", delay=1)
    before.stop()
    after = run_app("after", app_name="shop")
    after.end_of(after.start("/echo"))
    assert_own(after, [waiting])


def test_two_backjobs_in_one_process(run_server: Serve, tmp_path: Path) -> None:
    server = run_server(GTHREAD, app=write_app(tmp_path, recipe(SEVERAL, "python")))
    mounts = ("", "/shop")
    ids = {mount: server.start_all(f"{mount}/echo?seconds=0.1", mount=mount, count=8)["ids"] for mount in mounts}
    for mount in mounts:
        ids[mount] += server.start_all(f"{mount}/stumble", mount=mount, count=2, retries=1)["ids"]
        ids[mount] += server.start_all(f"{mount}/echo", mount=mount, count=2, delay=1)["ids"]
    assert len(set(ids[""] + ids["/shop"])) == 24
    for mount, other in (mounts, mounts[::-1]):
        for job_id in ids[mount]:
            end = server.end_of(job_id, mount=mount)
            assert end["status"] == Status.COMPLETED, end["status_text"]
            assert json.loads(end["status_text"])["mount"] == mount
            assert server.status(job_id, mount=other) == end
    outside = server.ask("POST", "/shop/start", {"target": "/echo"})
    assert outside.status == 400
    assert b"mounted at '/shop'" in outside.body


TWO_MOUNTED = """
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from workshop import app as workshop

from backjob import BackJob


def site(environ, start_response):
    return workshop(environ, start_response)


def shop(environ, start_response):
    return workshop(environ, start_response)


application = ProxyFix(DispatcherMiddleware(BackJob(site), {"/shop": BackJob(shop)}), x_prefix=1)
"""


def test_a_path_that_leads_to_the_wrong_app_runs_nothing(run_server: Serve, tmp_path: Path) -> None:
    """A proxy has taken "/tool" away, and told so: the app's own request to itself has nobody who does."""
    (tmp_path / "two_mounted.py").write_text(TWO_MOUNTED)
    server = run_server(GTHREAD, app="two_mounted:application")
    job_id = server.start("/tool/shop/echo", {"X-Forwarded-Prefix": "/tool"}, mount="/shop")
    end = server.end_of(job_id, mount="/shop")
    assert end["status"] == Status.FAILED
    assert "answered 410" in end["status_text"]
    assert "another app's" in end["status_text"]
    assert "connect=" in end["status_text"]
    assert not server.runs()


def test_two_backjobs_in_one_process_keep_one_limit(run_server: Serve) -> None:
    server = run_server(GTHREAD, app="fronts:two", max_running=1)
    ids = [server.start(f"{mount}/hang", mount=mount) for mount in ("/first", "/second") * 2]
    wait_until(lambda: server.runs().total())
    more = [server.start(f"{mount}/hang", mount=mount) for mount in ("/first", "/second")]

    def statuses() -> list[int]:
        return sorted(server.status(job_id, mount="/first")["status"] for job_id in ids + more)

    assert statuses() == [Status.STARTED] * 5 + [Status.INPROGRESS]
    assert server.runs().total() == 1
    server.open_gate("gate-hang")
    for job_id in ids + more:
        assert server.end_of(job_id, 40, mount="/first")["status"] == Status.COMPLETED
    server.assert_ran_once(ids + more)
