"""Log records and jobs: an app's own in the output of the job that made them, backjob's own with job and attempt."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support.served import Site, serve_site, wrap

from backjob import JobFilter, JobLogHandler, JobStatus, Status
from backjob.model.events import log_ended
from backjob.model.job import JobRequest, Move

app_log = logging.getLogger("shop.reports")


@pytest.fixture
def handler() -> Iterator[JobLogHandler]:
    """A handler at the root, as an app's logging configuration has it."""
    handler = JobLogHandler(logging.INFO)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def run(site: Site, action: Callable[[Any], Any]) -> JobStatus:
    """How a job ends in which this is done."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        action(environ["backjob"])
        return [b"done"]

    site.job = app
    return site.run("/job")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with wrap(tmp_path) as site:
        yield site


def test_what_a_job_logs_is_its_output(site: Site, handler: JobLogHandler) -> None:
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def action(job: Any) -> None:
        app_log.info("page %d of %d", 1, 2)
        app_log.debug("not of this level")
        app_log.warning("page %d is empty", 2)

    text = "INFO shop.reports: page 1 of 2\nWARNING shop.reports: page 2 is empty\ndone"
    assert run(site, action).status_text == text


def test_it_is_seen_while_the_job_runs(site: Site, handler: JobLogHandler) -> None:
    def action(job: Any) -> None:
        app_log.info("half way")
        wait_until(lambda: site.status(job.job_id).status_text == "half way\n")

    assert run(site, action).status is Status.COMPLETED


def test_nobody_who_logs_waits_for_a_database(site: Site, handler: JobLogHandler) -> None:
    """Neither the job nor a page: the database is locked by somebody, and all of them log to the same handler."""
    logged = threading.Event()

    def action(job: Any) -> None:
        with contextlib.closing(sqlite3.connect(site.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            app_log.info("of a job")
            page = threading.Thread(target=lambda: (app_log.info("of a page"), logged.set()))
            page.start()
            assert logged.wait(20)
            page.join()
            assert site.status(job.job_id).status_text == ""
            connection.execute("ROLLBACK")

    assert run(site, action).status_text == "of a job\ndone"


def test_what_no_job_logs_goes_nowhere(site: Site, handler: JobLogHandler) -> None:
    site.within(lambda jobs: app_log.info("of a page"))
    assert run(site, lambda job: None).status_text == "done"


def test_a_record_that_can_not_be_formatted_harms_nobody(
    site: Site, handler: JobLogHandler, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app_log.addHandler(handler)
    monkeypatch.setattr(app_log, "propagate", False)  # pytest's own handler would fail the test
    status = run(site, lambda job: app_log.info("%d", "no number"))
    assert (status.status, status.status_text) == (Status.COMPLETED, "done")
    app_log.removeHandler(handler)
    assert "Logging error" in capsys.readouterr().err


def test_no_record_ends_a_job_and_the_next_update_does(site: Site, handler: JobLogHandler) -> None:
    """Code that logs, in the middle of giving something back perhaps, does not expect to be ended."""
    went_on: list[str] = []

    def action(job: Any) -> None:
        job.cancel(job.job_id)
        for line in ("one", "two"):
            app_log.info(line)
            went_on.append(line)
        wait_until(lambda: job.update(50))  # the write that is on its way finds it out
        went_on.append("never")

    assert run(site, action).status is Status.CANCELLED
    assert went_on == ["one", "two"]


def test_a_database_that_logs_its_statements_comes_to_an_end(tmp_path: Path, handler: JobLogHandler) -> None:
    """What backjob itself does for a job is not the job's, whichever library logs it."""
    engine_log = logging.getLogger("sqlalchemy.engine")
    engine_log.setLevel(logging.INFO)
    try:
        with wrap(tmp_path) as site:
            status = run(site, lambda job: [job.update(30), app_log.info("mine"), print("x", file=job)])
    finally:
        engine_log.setLevel(logging.NOTSET)
    assert status.status_text == "mine\nx\ndone"


def test_jobs_in_two_threads_do_not_mix(tmp_path: Path, handler: JobLogHandler) -> None:
    both = threading.Barrier(2)

    def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        for number in range(3):
            both.wait(20)
            app_log.info("%s %d", environ["QUERY_STRING"], number)
        return []

    with serve_site(tmp_path, job) as site:
        ids = {name: site.start(f"/job?{name}") for name in ("ada", "bea")}
        ends = {name: site.wait_for_end(job_id).status_text for name, job_id in ids.items()}
    assert ends == {name: f"{name} 0\n{name} 1\n{name} 2\n" for name in ids}


def test_a_thread_of_the_job_takes_part_in_a_copy_of_its_context(site: Site, handler: JobLogHandler) -> None:
    def action(job: Any) -> None:
        for run_it in (contextvars.copy_context().run, contextvars.Context().run):
            thread = threading.Thread(target=run_it, args=(app_log.info, "from a thread"))
            thread.start()
            thread.join()

    assert run(site, action).status_text == "from a thread\ndone"


def test_backjobs_own_records_tell_job_and_attempt_and_are_no_output(
    site: Site, handler: JobLogHandler, caplog: pytest.LogCaptureFixture
) -> None:
    site.job = lambda environ, start_response: 1 / 0
    status = site.run("/job", retries=1)
    [record] = [record for record in caplog.records if record.name == "backjob" and record.exc_info]
    assert (record.job, record.attempt) == (status.id, 1)  # type: ignore[attr-defined]
    assert "Traceback" not in site.row(status.id).past


def test_each_event_of_a_job_is_logged_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Started, begun, retried, begun again, and failed, without the query and on one line each."""
    caplog.set_level(logging.INFO, "backjob")

    def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        raise ValueError(f"no figures for {environ['backjob'].attempt}\r\nJob 1 completed\u2028")

    site.job = job
    job_id = site.start("/report%0d%0a?token=secret", method="POST", data={"password": "secret"}, retries=1)
    site.work(job_id)
    site.make_due()
    site.work(job_id)
    waiting = site.start("/later", delay=60)
    site.application.jobs.cancel(waiting)
    told = [each for each in caplog.records if each.name == "backjob" and each.path]  # type: ignore[attr-defined]
    fields = [(each.levelname, each.job, each.attempt, each.outcome, each.exc_info is not None) for each in told]  # type: ignore[attr-defined]
    assert fields == [
        ("INFO", job_id, 1, None, False),
        ("INFO", job_id, 1, None, False),
        ("WARNING", job_id, 1, "retried", True),
        ("INFO", job_id, 2, None, False),
        ("ERROR", job_id, 2, "failed", True),
        ("INFO", waiting, 1, None, False),
        ("INFO", waiting, 1, "cancelled", False),
    ]
    assert {(each.method, each.path) for each in told[:5]} == {("POST", "/report%0d%0a")}  # type: ignore[attr-defined]
    assert told[4].seconds >= 0  # type: ignore[attr-defined]
    assert told[6].seconds is None  # type: ignore[attr-defined]
    assert not any(len(each.getMessage().splitlines()) > 1 for each in told)
    assert "secret" not in caplog.text


@pytest.mark.parametrize("text", ["a\r\nb", "a\x1b[2Jb", "a\x85b\u2028c", "\ud800\u202e"])
def test_what_is_logged_of_a_path_is_one_line(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """A path that a framework has decoded may hold any character."""
    log_ended(Move.FAIL, 7, 1, JobRequest("GET", f"/{text}", "", ""), reason=f"no {text}")
    message = caplog.records[0].getMessage()
    assert message.isprintable()
    assert "\\x" in message or "\\u" in message or "\\r\\n" in message


@pytest.mark.parametrize("name", ["backjob", "backjob.security"])
def test_records_of_no_job_have_all_fields(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A formatter that names a field which a record lacks loses the record."""
    logging.getLogger(name).warning("of no job")
    line = "%(message)s %(job)s %(attempt)s %(method)s %(path)s %(outcome)s %(seconds)s"
    assert logging.Formatter(line).format(caplog.records[0]) == "of no job" + 6 * " None"


def test_a_filter_tells_the_job_of_any_record(site: Site) -> None:
    records: list[Any] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    handler.addFilter(JobFilter())
    app_log.addHandler(handler)
    try:
        status = run(site, lambda job: app_log.warning("in a job"))
        app_log.warning("in no job")
        app_log.warning("of its own", extra={"job": "mine"})
    finally:
        app_log.removeHandler(handler)
    assert [(record.job, record.attempt) for record in records] == [(status.id, 1), (None, None), ("mine", None)]


GREENLETS = """
from gevent import monkey

monkey.patch_all()

import functools
import logging
import sys
import threading

import gevent

from backjob import BackJob, JobLogHandler
from backjob.testing import Inline

logging.basicConfig(level=logging.INFO, handlers=[JobLogHandler()], format="%(message)s")


def job(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    name = environ["QUERY_STRING"]
    for number in range(3):
        logging.info("%s %d", name, number)
        gevent.sleep()  # the other one's turn
    gevent.spawn(logging.info, "%s spawned", name).join()
    return []


application = BackJob(job, launcher=Inline(), database=sys.argv[1])
ids = {name: application.jobs.start(f"/job?{name}", delay=60) for name in ("ada", "bea")}
run = functools.partial(application.run_job, early=True)
threads = [threading.Thread(target=run, args=(job_id,)) for job_id in ids.values()]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for name, job_id in ids.items():
    print(application.jobs.status(job_id).status_text.splitlines())
application.close()
"""


def test_jobs_in_two_greenlets_do_not_mix(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", GREENLETS, f"sqlite:///{tmp_path}/jobs.sqlite3"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [str([f"{name} {number}" for number in range(3)]) for name in ("ada", "bea")]
