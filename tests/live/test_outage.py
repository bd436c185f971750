"""An address that has worked and fails now: jobs wait for it for a day, and run as soon as it works again."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support.served import App, Site, serve, serve_site, wrap

from backjob import Status
from backjob.errors import LaunchError
from backjob.messages import plain
from backjob.runtime.backoff import outage_backoff
from backjob.scheduling.monitor import LONGEST_OUTAGE

pytestmark = pytest.mark.live

FINAL = LaunchError(plain("it answered 302"), is_final=True)
DAY = 86400.0


def refuse(site: Site, error: LaunchError, failed_for: float) -> tuple[float, int]:
    """Refuse a new job's launch, which has failed for so many seconds: the pause until the next try, and the job."""
    job_id = site.start("/job", retries=2)
    job = site.row(job_id)
    assert job.held_by is not None
    return site.backend.monitor.refuse(job_id, 1, job.held_by, error, job, failed_for), job_id


class TestRefuse:
    @pytest.mark.parametrize("error", [FINAL, LaunchError(plain("refused"))], ids=["final", "passing"])
    @pytest.mark.parametrize("failed_for", [0, 61, 200, DAY - 1])
    def test_at_an_address_that_has_worked_it_waits(
        self, tmp_path: Path, error: LaunchError, failed_for: float
    ) -> None:
        with wrap(tmp_path) as site:
            site.backend.self_request.has_worked = True
            wait, job_id = refuse(site, error, failed_for)
            assert 0.5 <= wait <= 60
            status = site.status(job_id)
            assert (status.status, status.attempt, status.past) == (Status.STARTED, 1, ())
            assert str(error) in status.status_text

    def test_a_process_that_may_not_connect_does_not_wait_for_what_others_have_reached(self, tmp_path: Path) -> None:
        with wrap(tmp_path) as site:
            site.run("/job")
            wait, job_id = refuse(site, LaunchError("denied", is_final=True, is_denied=True), 0)
            assert (wait, site.status(job_id).status) == (0, Status.FAILED)
            assert refuse(site, FINAL, 0)[0] > 0

    def test_after_a_day_it_fails_with_the_reason(self, tmp_path: Path) -> None:
        with wrap(tmp_path) as site:
            site.backend.self_request.has_worked = True
            _, job_id = refuse(site, FINAL, LONGEST_OUTAGE)
            assert site.status(job_id).status is Status.FAILED
            assert str(FINAL) in site.status(job_id).status_text

    @pytest.mark.parametrize(("error", "failed_for"), [(FINAL, 0), (LaunchError(plain("refused")), 60)])
    def test_at_one_that_has_never_worked_it_fails(self, tmp_path: Path, error: LaunchError, failed_for: float) -> None:
        with wrap(tmp_path) as site:
            _, job_id = refuse(site, error, failed_for)
            assert site.status(job_id).status is Status.FAILED

    def test_what_concerns_only_this_job_is_no_outage(self, tmp_path: Path) -> None:
        with wrap(tmp_path) as site:
            site.backend.self_request.has_worked = True
            _, job_id = refuse(site, LaunchError(plain("something in front"), is_final=True, is_of_job=True), 0)
            assert site.status(job_id).status is Status.FAILED

    def test_a_new_process_learns_from_the_jobs_that_ran(self, tmp_path: Path) -> None:
        with wrap(tmp_path) as site:
            assert site.run("/job").status is Status.COMPLETED
        with wrap(tmp_path) as site:
            assert not site.backend.self_request.has_worked
            wait, job_id = refuse(site, FINAL, 3600)
            assert (site.status(job_id).status, wait > 0) == (Status.STARTED, True)

    def test_a_job_that_never_ran_shows_nothing(self, tmp_path: Path) -> None:
        with wrap(tmp_path) as site:
            refuse(site, FINAL, 0)
            _, job_id = refuse(site, FINAL, 0)
            assert site.status(job_id).status is Status.FAILED

    def test_the_first_success_frees_the_others(self, tmp_path: Path) -> None:
        with wrap(tmp_path) as site:
            site.backend.self_request.has_worked = True
            job_ids = [refuse(site, FINAL, 3600)[1] for _ in range(3)]
            assert all(site.row(job_id).held_by for job_id in job_ids)
            site.backend.monitor.end_outage()
            assert not any(site.row(job_id).held_by for job_id in job_ids)


def test_the_pauses_grow_to_a_minute_at_most() -> None:
    assert all(0.5 <= outage_backoff(0) <= 1.5 for _ in range(100))
    pauses = [outage_backoff(DAY) for _ in range(1000)]
    assert max(pauses) <= 60
    assert min(pauses) >= 20


class Maintenance:
    """A wrapper that answers everything, or every POST, itself while it is on."""

    def __init__(self, status: str, method: str = "") -> None:
        self.status = status
        self.method = method
        self.is_on = threading.Event()
        self.answered: list[str] = []

    def over(self, inner: App) -> App:
        def application(environ: dict[str, Any], start_response: Any) -> Any:
            if not self.is_on.is_set() or self.method not in ("", environ["REQUEST_METHOD"]):
                return inner(environ, start_response)
            self.answered.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
            start_response(self.status, [("Content-Type", "text/html"), ("Location", "/maintenance")])
            return [b"<h1>Back soon</h1>"]

        return application


def count_runs(runs: list[str]) -> Callable[..., Any]:
    def job(environ: dict[str, Any], start_response: Any) -> Any:
        runs.append(environ["REQUEST_METHOD"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"done"]

    return job


def survive(site: Site, maintenance: Maintenance, runs: list[str], job_ids: list[int]) -> None:
    """Have all jobs come due while the page is there, and see each of them run once when it is gone."""
    site.sql("UPDATE background_job SET due_at = created_at")
    site.backend.dispatcher.look_after(0)
    wait_until(lambda: all("next try" in site.status(each).status_text for each in job_ids))
    wait_until(lambda: len(maintenance.answered) > 3 * len(job_ids))
    assert "POST /job" not in maintenance.answered
    maintenance.is_on.clear()
    ends = [site.wait_for_end(job_id) for job_id in job_ids]
    assert [(end.status, end.status_text, end.attempt) for end in ends] == [(Status.COMPLETED, "done", 1)] * 4
    assert sorted(runs) == ["GET", "GET", "GET", "POST", "POST"]


def start_some(site: Site) -> list[int]:
    assert site.wait_for_end(site.start("/job")).status is Status.COMPLETED
    return [site.start("/job", method=method, delay=3600, retries=2) for method in ("GET", "POST") * 2]


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "503 Service Unavailable"])
def test_jobs_survive_a_maintenance_page(tmp_path: Path, status: str) -> None:
    """They run as soon as it is gone: each once, with its retries unused, long after launch_timeout."""
    maintenance, runs = Maintenance(status), list[str]()
    with serve_site(tmp_path, count_runs(runs), front=maintenance.over, launch_timeout=0.1) as site:
        job_ids = start_some(site)
        maintenance.is_on.set()
        survive(site, maintenance, runs, job_ids)


@pytest.mark.parametrize("status", ["302 Found", "403 Forbidden"])
def test_they_survive_a_restart_within_it(tmp_path: Path, status: str) -> None:
    maintenance, runs = Maintenance(status), list[str]()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = {"launcher": None, "launch_timeout": 0.1, "connect": f"http://127.0.0.1:{port}"}
    job_ids: list[int] = []
    for _ in range(2):
        with (
            wrap(tmp_path, count_runs(runs), **options) as site,
            serve(maintenance.over(site.application), port=port),
        ):
            if job_ids:
                survive(site, maintenance, runs, job_ids)
            else:
                job_ids = start_some(site)
                maintenance.is_on.set()


@pytest.mark.parametrize("status", ["302 Found", "403 Forbidden", "503 Service Unavailable"])
def test_jobs_survive_a_page_that_refuses_only_posts(tmp_path: Path, status: str) -> None:
    """Jobs of a GET run meanwhile. They do not wake the others before a POST succeeds."""
    maintenance, runs = Maintenance(status, "POST"), list[str]()
    with serve_site(tmp_path, count_runs(runs), front=maintenance.over, launch_timeout=0.1) as site:
        first_get, first_post, second_get, second_post = start_some(site)
        gets, posts = [first_get, second_get], [first_post, second_post, site.start("/job", method="PUT", delay=3600)]
        maintenance.is_on.set()
        site.backend.self_request.paths.clear()  # as if the last POST had come in long ago
        site.sql("UPDATE background_job SET due_at = created_at")
        site.backend.dispatcher.look_after(0)
        wait_until(lambda: all("a POST does not reach BackJob" in site.status(each).status_text for each in posts))
        assert all(status[:3] in site.status(each).status_text for each in posts)
        assert {site.wait_for_end(each).status for each in gets} == {Status.COMPLETED}
        site.backend.monitor.end_outage()
        assert all(site.row(each).held_by for each in posts)
        maintenance.is_on.clear()
        assert {site.wait_for_end(each).status for each in posts} == {Status.COMPLETED}
        assert set(maintenance.answered) == {"POST /"}
        assert sorted(runs) == ["GET", "GET", "GET", "POST", "POST", "PUT"]


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "one slot"])
@pytest.mark.parametrize("is_on", [True, False])
def test_a_slot_asks_with_a_post_before_it_sends_a_form(tmp_path: Path, is_on: bool, threads: bool) -> None:
    """The maintenance page wraps BackJob: on a server with one slot, the POST is refused when that slot is free."""
    maintenance, runs = Maintenance("403 Forbidden", "POST"), list[str]()
    options = {"front": maintenance.over, "monitor": "leave", "keeper": False, "threads": threads}
    with serve_site(tmp_path, count_runs(runs), **options) as site:
        assert site.wait_for_end(site.start("/job")).status is Status.COMPLETED
        job_id, owner = site.start("/job", method="POST", delay=3600), site.backend.monitor.owner
        wait_until(lambda: site.row(job_id).held_by is None)
        if is_on:
            maintenance.is_on.set()
        site.sql("UPDATE background_job SET due_at = created_at")
        site.backend.self_request.paths.clear()  # as if the last POST had come in long ago
        assert site.backend.store.hold(job_id, 1, None, owner, 30)
        site.within(lambda jobs: site.backend.monitor.leave(site.row(job_id)))
        if is_on:
            wait_until(lambda: re.search("POST (does not reach|has reached)", site.status(job_id).status_text))
            assert maintenance.answered == ["POST /"]
            maintenance.is_on.clear()
            site.sql("UPDATE background_job SET held_by = NULL, held_until = NULL")  # the pause is over
            site.backend.dispatcher.look_after(0)
        assert site.wait_for_end(job_id).status is Status.COMPLETED
        assert runs == ["GET", "POST"]
