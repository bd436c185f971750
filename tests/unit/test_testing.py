"""backjob.testing: jobs with no socket and no thread in unit tests, and the fixture for pytest."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bottle
import pytest
import webtest
from support.served import call, make_environ

from backjob import BackJob, BackJobError, ConfigError, Status
from backjob.testing import Inline, JobTester, Step


def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """A page that starts jobs, and the jobs."""
    jobs, path = environ["backjob"], environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    if path == "/start":
        job_id = jobs.start("/job?" + environ["QUERY_STRING"])
        return [f"{job_id} {jobs.status(job_id).status.name}".encode()]
    if path == "/later":
        return [str(jobs.start("/job", delay=3600)).encode()]
    if path == "/chain":
        jobs.start("/job?second")
        return [f"{jobs.find(limit=1)[0].status.name}".encode()]
    if path == "/endless":
        jobs.start("/endless")
    if path == "/breaks":
        raise OSError("it broke")
    for row in jobs.track("abcd"):
        jobs.write(f"{row} {environ['QUERY_STRING']} {environ.get('HTTP_COOKIE', 'nobody')}\n")
    return [b"done"]


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts a thread or makes a socket fails."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("no thread and no socket is to be needed")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def application(tmp_path: Path, no_threads: None) -> Iterator[BackJob]:
    application = BackJob(answer, launcher=Inline(), database=f"sqlite:///{tmp_path}/jobs.sqlite3")
    yield application
    application.close()


@pytest.fixture
def tester(application: BackJob) -> JobTester:
    return JobTester(application)


def test_a_job_runs_when_the_app_has_answered(application: BackJob, tester: JobTester) -> None:
    reply = call(application, make_environ("/start?q", HTTP_COOKIE="user=ada"))
    job_id, status = reply.body.split()
    assert status == b"STARTED"
    end = tester.assert_completed(int(job_id), text="d q user=ada", progress=[0, 25, 50, 75, 100])
    assert end.status_text == "".join(f"{row} q user=ada\n" for row in "abcd") + "done"
    assert tester.steps(int(job_id))[0] == Step(0, "a q user=ada\n")


def test_outside_of_a_request_it_runs_at_once(application: BackJob, tester: JobTester) -> None:
    job_id = application.jobs.start("/job", {"a": 1}, method="POST", data={"b": 2})
    assert application.jobs.status(job_id).status is Status.COMPLETED
    assert tester.wait(job_id, timeout=0).status_text.startswith("a a=1 nobody\n")


def test_what_is_delayed_waits_until_it_is_told_to_run(application: BackJob, tester: JobTester) -> None:
    job_id = int(call(application, make_environ("/later")).body)
    with pytest.raises(AssertionError, match=f"job {job_id} waits for its delay or a retry. Call run_waiting"):
        tester.wait(job_id)
    assert application.run_job(job_id) is False
    assert tester.run_waiting() == [job_id]
    tester.assert_completed(job_id)
    assert tester.run_waiting() == []


def test_a_retry_waits_too(application: BackJob, tester: JobTester) -> None:
    job_id = application.jobs.start("/breaks", retries=1)
    assert application.jobs.status(job_id).attempt == 2
    assert tester.run_waiting() == [job_id]
    tester.assert_failed(job_id, text="OSError: it broke")


def test_what_a_job_starts_runs_after_it(application: BackJob, tester: JobTester) -> None:
    first = application.jobs.start("/chain")
    assert tester.assert_completed(first).status_text == "STARTED"
    second = application.jobs.find()[0].id
    assert second != first
    tester.assert_completed(second, text="second")


@pytest.mark.live
def test_jobs_without_end_are_ended(application: BackJob) -> None:
    with pytest.raises(BackJobError, match="no job starts itself"):
        application.jobs.start("/endless")


def test_a_failed_assertion_shows_how_it_ended(application: BackJob, tester: JobTester) -> None:
    job_id = application.jobs.start("/breaks")
    for check, message in (
        (lambda: tester.assert_completed(job_id), "is not completed: failed, 0 %\nOSError: it broke"),
        (lambda: tester.assert_failed(job_id, text="other"), "has no 'other' in its text: failed"),
        (lambda: tester.assert_failed(job_id, progress=[5]), r"reported the progress \[\], not \[5\]"),
    ):
        with pytest.raises(AssertionError, match=message):
            check()


def test_after_response_is_after_the_response(application: BackJob, tester: JobTester) -> None:
    def begin(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["backjob"].is_worker:
            return answer(environ, start_response)
        job_id = environ["backjob"].start("/job", after_response=True)
        start_response(environ["HTTP_STATUS"], [])
        return [str(job_id).encode()]

    followed = BackJob(begin, launcher=Inline(), database=application.config.database)
    try:
        good = int(call(followed, make_environ("/", HTTP_STATUS="200 OK")).body)
        bad = int(call(followed, make_environ("/", HTTP_STATUS="500 Oops")).body)
    finally:
        followed.close()
    assert [tester.wait(job_id, 0).status for job_id in (good, bad)] == [Status.COMPLETED, Status.CANCELLED]


def test_a_framework_with_one_request_per_thread_is_not_confused(tmp_path: Path, no_threads: None) -> None:
    """Bottle's request is that of the thread: a job within the page would take it away. WebTest checks all of WSGI."""
    app = bottle.Bottle()

    @app.post("/start")
    def start() -> dict[str, Any]:
        job_id = bottle.request.environ["backjob"].start("/job", method="POST", data=bottle.request.forms)
        return {"id": job_id, "path": bottle.request.path}

    @app.post("/job")
    def job() -> str:
        return f"{bottle.request.forms.name} on {bottle.request.path}"

    application = BackJob(app, launcher=Inline(), database=f"sqlite:///{tmp_path}/jobs.sqlite3")
    reply = webtest.TestApp(application).post("/start", {"name": "Ada"}).json
    try:
        assert reply["path"] == "/start"
        JobTester(application).assert_completed(reply["id"], text="Ada on /job")
    finally:
        application.close()


def test_an_inline_launcher_is_of_one_application(application: BackJob) -> None:
    with pytest.raises(BackJobError, match="runs the jobs of one application"):
        BackJob(answer, launcher=application.config.launcher)
    with pytest.raises(BackJobError, match="has no application yet"):
        Inline().run_waiting()


def test_what_a_page_has_started_runs_even_if_the_page_breaks(tmp_path: Path, no_threads: None) -> None:
    def break_it(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if not environ["backjob"].is_worker:
            environ["backjob"].start("/job")
            raise OSError("the page broke")
        return answer(environ, start_response)

    application = BackJob(break_it, launcher=Inline(), database=f"sqlite:///{tmp_path}/jobs.sqlite3")
    try:
        with pytest.raises(OSError, match="the page broke"):
            call(application, make_environ("/"))
        assert [job.status for job in application.jobs.find()] == [Status.COMPLETED]
    finally:
        application.close()


def test_a_wrong_option_leaves_the_launcher_free(tmp_path: Path) -> None:
    launcher = Inline()
    for options in ({"database": 7}, {"database": "postgresql+psycopg://nowhere"}):  # one that needs a key
        with pytest.raises(ConfigError):
            BackJob(answer, launcher=launcher, **options)
    BackJob(answer, launcher=launcher, database=f"sqlite:///{tmp_path}/jobs.sqlite3").close()


def test_what_waits_for_a_response_waits(tmp_path: Path, no_threads: None) -> None:
    ran: list[list[int]] = []

    def page(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["backjob"].is_worker:
            return answer(environ, start_response)
        environ["backjob"].start("/job", after_response=True)
        ran.append(launcher.run_waiting())
        start_response("500 Oops", [])
        return []

    application = BackJob(page, launcher=(launcher := Inline()), database=f"sqlite:///{tmp_path}/jobs.sqlite3")
    call(application, make_environ("/"))
    assert (ran, [job.status for job in application.jobs.find()]) == ([[]], [Status.CANCELLED])
    application.close()


def test_without_it_there_are_no_steps(tmp_path: Path) -> None:
    application = BackJob(answer, database=f"sqlite:///{tmp_path}/jobs.sqlite3", keeper=False)
    with pytest.raises(BackJobError, match="launcher=Inline"):
        JobTester(application).steps(1)


@pytest.mark.live
def test_the_fixture_in_a_suite_of_somebody_else(tmp_path: Path) -> None:
    """As it is documented, with all warnings errors; and one that does not ask for it pays nothing."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["backjob.pytest_plugin"]\n')
    (tmp_path / "test_shop.py").write_text(
        textwrap.dedent("""
            import pytest

            from backjob import BackJob
            from backjob.testing import Inline


            def shop(environ, start_response):
                start_response("200 OK", [])
                environ["backjob"].update(40)
                return [b"sold"]


            @pytest.fixture
            def backjob_application(tmp_path):
                application = BackJob(shop, launcher=Inline(), database=f"sqlite:///{tmp_path}/jobs.sqlite3")
                yield application
                application.close()


            def test_sale(backjob):
                backjob.assert_completed(backjob.jobs.start("/sell"), text="sold", progress=[40])


            def test_wrong(backjob):
                backjob.assert_completed(backjob.jobs.start("/sell"), text="bought")
        """)
    )
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings =\n    error\n    ignore:'cgi' is deprecated:DeprecationWarning\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert "1 failed, 1 passed" in ran.stdout
    assert "has no 'bought' in its text: completed, 100 %" in ran.stdout
    (tmp_path / "test_shop.py").write_text("def test_nothing(backjob):\n    pass\n")
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert "Write a fixture backjob_application" in ran.stdout
    (tmp_path / "conftest.py").unlink()
    (tmp_path / "test_shop.py").write_text("import sys\ndef test_it():\n    assert 'backjob' not in sys.modules\n")
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert "1 passed" in ran.stdout


def test_only_the_standard_library_is_imported_beside_the_package() -> None:
    code = "import sys, backjob; before = set(sys.modules); import backjob.testing; print(set(sys.modules) - before)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "{'backjob.testing'}"
