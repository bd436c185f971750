"""The reports of running jobs as they reach the store: few writes, and the last report always."""

import contextlib
import re
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import Engine, event
from support import TESTS, wait_until
from support.served import say_done, serve_site, wrap

from backjob import JobEnded, Status
from backjob.validation import LEAST_ERROR_TIMEOUT
from backjob.worker import reporter

TEXT = [("Content-Type", "text/plain; charset=utf-8")]


@pytest.fixture
def site(tmp_path):
    with wrap(tmp_path) as site:
        yield site


@pytest.fixture
def writes():
    """Statement and text of each write of progress to the database."""
    seen = []

    def note(connection, cursor, statement, parameters, context, executemany):
        if context is not None and context.isupdate and "arg_number" in context.compiled_parameters[0]:
            seen.append((statement, context.compiled_parameters[0].get("arg_text")))

    event.listen(Engine, "before_cursor_execute", note)
    yield seen
    event.remove(Engine, "before_cursor_execute", note)


def act(site, action, **options):
    """Run a job that does this with ``environ["backjob"]``. Return its status."""

    def app(environ, start_response):
        environ["write"] = start_response("200 OK", TEXT)
        action(environ["backjob"])
        return []

    site.job = app
    return site.run("/job", **options)


@contextlib.contextmanager
def away(site):
    """Make the job table unusable for this long."""
    site.sql("ALTER TABLE background_job RENAME TO elsewhere")
    try:
        yield
    finally:
        site.sql("ALTER TABLE elsewhere RENAME TO background_job")


@pytest.fixture
def fixed_site(tmp_path):
    """A site that does not create its table again when it is gone."""
    with wrap(tmp_path) as site:
        site.start("/makes/the/table")
    with wrap(tmp_path, create_table=False) as site:
        yield site


# --- How much it costs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "report",
    [
        lambda jobs, n: jobs.update(n / 1e6, f"step {n}"),
        lambda jobs, n: jobs._environ["write"](b"."),
    ],
    ids=["text", "output"],
)
def test_reports_without_end_are_written_five_times_a_second_by_one_thread(site, writes, report):
    reports, threads = 0, set()

    def action(jobs):
        nonlocal reports
        end = time.monotonic() + 1
        while time.monotonic() < end:
            reports += 1
            report(jobs, reports)
            if reports % 100 == 0:
                threads.update(each.ident for each in threading.enumerate() if each.name == "backjob-progress")

    status = act(site, action)
    assert status.status is Status.COMPLETED
    assert reports > 1000
    assert 2 <= len(writes) <= 1.5 * 5 + 1
    assert status.status_text in (f"step {reports}", "." * reports)
    assert len(threads) == 1


def test_no_error_timeout_is_so_short_that_one_slow_write_ends_a_job():
    assert 2 * reporter.INTERVAL < LEAST_ERROR_TIMEOUT


def test_a_report_takes_less_than_10_microseconds(site, writes):
    """It takes the time of the job."""
    spent = []

    def action(jobs):
        jobs.write("x" * 1_000_000)
        before = time.thread_time()
        for n in range(100_000):
            jobs.update(n / 1000)
        spent.append(time.thread_time() - before)

    assert act(site, action).status is Status.COMPLETED
    assert spent[0] < 1.0
    # The output of a megabyte is sent once, and with the outcome.
    assert sum(len(text or "") for _, text in writes) <= 1_000_000


# --- What arrives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["update", "output"])
def test_the_last_report_is_written_while_the_job_computes(tmp_path, way):
    computed = threading.Event()

    def job(environ, start_response):
        write, jobs = start_response("200 OK", TEXT), environ["backjob"]
        for n in range(1, 51):
            if way == "update":
                jobs.update(n, f"step {n}")
            else:
                write(b".")
        assert computed.wait(20)
        return []

    with serve_site(tmp_path, job) as site:
        job_id = site.start("/job")
        expected = (50, "step 50") if way == "update" else (0, "." * 50)
        try:
            wait_until(lambda: (site.status(job_id).progress, site.status(job_id).status_text) == expected, 5)
        finally:
            computed.set()
        assert site.wait_for_end(job_id).status is Status.COMPLETED


def test_a_report_right_after_one_that_the_thread_has_written_is_written_too(tmp_path):
    """The thread waits without a time-out then."""

    def job(environ, start_response):
        jobs = environ["backjob"]
        for n in range(1, 6):
            jobs.update(10 * n)
            jobs.update(10 * n + 1)  # by the thread
            wait_until(lambda n=n: jobs.status(jobs.job_id).progress == 10 * n + 1, 5)
        return say_done(environ, start_response)

    with serve_site(tmp_path, job) as site:
        assert site.wait_for_end(site.start("/job")).status_text == "done"


def test_eight_threads_lose_no_output(site):
    def action(jobs):
        def write():
            for n in range(2000):
                jobs.write(f"<{n}>")

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    text = act(site, action).status_text
    assert sorted(text.replace("\n", "")) == sorted("".join(f"<{n}>" for n in range(2000)) * 8)  # a line each


@pytest.mark.parametrize("database", ["sqlite", "postgresql", "mariadb", "mariadb-mysqlclient"])
def test_only_the_new_part_of_a_text_is_sent(tmp_path, databases, monkeypatch, writes, database):
    monkeypatch.setattr(reporter, "INTERVAL", 0.0)
    pieces = [f"line {n}: ü 🐔 'quoted' 100% \\ \n" for n in range(20)]

    def action(jobs):
        for n, piece in enumerate(pieces):
            jobs.write(piece)
            jobs.update(n)
            assert jobs.status(jobs.job_id).status_text == "".join(pieces[: n + 1])

    with wrap(tmp_path, database=databases.url(database, tmp_path)) as site:
        assert act(site, action).status_text == "".join(pieces)
    assert [text for _, text in writes if text] == pieces
    # A write of the progress alone does not write the text.
    assert ["status_text" in statement for statement, _ in writes] == [True, False] * 20


def test_output_that_is_cut_is_not_sent_whole_each_time(tmp_path, monkeypatch, writes):
    monkeypatch.setattr(reporter, "INTERVAL", 0.0)

    def action(jobs):
        for _ in range(100):
            jobs.write("x" * 999 + "\n")
        jobs.update()
        seen.append(jobs.status(jobs.job_id).status_text)

    seen = []
    with wrap(tmp_path, max_output=10_000) as site:
        status = act(site, action)
    assert re.fullmatch(r"\[\d+ bytes of earlier output were cut: max_output is 10000\]\n(x{999}\n){8,10}", seen[0])
    assert status.status_text == seen[0]
    # It is sent whole only when it is cut, and each cut removes more than a line.
    assert sum(len(text or "") for _, text in writes) <= 100 * 1000 * 10 / 1.5


def test_a_record_that_another_process_has_changed_is_written_whole(site, monkeypatch):
    """A child of the job's process may have reported too."""
    monkeypatch.setattr(reporter, "INTERVAL", 0.0)

    def action(jobs):
        jobs.write("one ")
        site.sql("UPDATE background_job SET signs = signs + 5, status_text = 'the child''s'")
        for n, piece in enumerate(["two ", "three "]):
            jobs.write(piece)
            jobs.update(50 + n)
            seen.append((jobs.status(jobs.job_id).progress, jobs.status(jobs.job_id).status_text))

    seen = []
    assert act(site, action).status is Status.COMPLETED
    assert seen == [(50, "one two "), (51, "one two three ")]


# --- The end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "late",
    [
        lambda jobs: jobs.update(),
        lambda jobs: jobs.write("x"),
        lambda jobs: jobs._environ["write"](b"x"),
        lambda jobs: jobs.fail(),
    ],
    ids=["update", "write", "output", "fail"],
)
def test_the_thread_finds_that_the_job_is_cancelled(site, late, monkeypatch):
    """Its last report waits to be written: that is enough to end the job, even if it computes for hours."""
    monkeypatch.setattr(reporter, "INTERVAL", 1.0)  # the second report waits, even on a busy machine

    def action(jobs):
        jobs.update(1)
        jobs.update(2)
        assert site.application.jobs.cancel(jobs.job_id) is True
        wait_until(lambda: jobs.status(jobs.job_id).status is Status.CANCELLED, 20)
        with pytest.raises(JobEnded, match="was cancelled"):
            late(jobs)
        waited.append("raised")

    waited = []
    status = act(site, action)
    assert waited == ["raised"]
    assert (status.status, status.progress, status.is_cancelling) == (Status.CANCELLED, 2, False)


def test_a_job_that_never_reports_again_is_shown_as_being_cancelled_and_completes(site):
    def action(jobs):
        jobs.update(1)
        assert site.application.jobs.cancel(jobs.job_id) is True
        shown = jobs.status(jobs.job_id)
        seen.append((shown.status, shown.is_cancelling))

    seen = []
    status = act(site, action)
    assert seen == [(Status.INPROGRESS, True)]
    assert (status.status, status.is_cancelling) == (Status.COMPLETED, False)


def test_nothing_is_written_after_the_end(site, writes):
    def action(jobs):
        jobs.update(1)
        jobs.update(2, "waits")
        jobs.finish("done")
        before = len(writes)
        for _ in range(100):
            jobs.update(3, "late")
        wait_until(lambda: not [each for each in threading.enumerate() if each.name == "backjob-progress"], 5)
        assert len(writes) == before

    assert act(site, action).status_text == "done"


# --- An unreachable database ------------------------------------------------------------------------------------------


def test_the_last_report_is_written_when_the_database_is_back(fixed_site, caplog):
    site = fixed_site

    def action(jobs):
        jobs.update(10)
        with away(site):
            jobs.update(20, "waits")
            wait_until(lambda: "its update waits" in caplog.text, 5)
            for n in range(50):
                jobs.update(20 + n, f"waits {n}")
        wait_until(lambda: jobs.status(jobs.job_id).status_text == "waits 49", 5)
        seen.append(jobs.status(jobs.job_id).progress)

    seen = []
    assert act(site, action).status is Status.COMPLETED
    assert seen == [69]
    assert caplog.text.count("its update waits") == 1


def test_the_job_itself_does_not_wait_for_an_unreachable_database(fixed_site, writes):
    def action(jobs):
        jobs.update(10)
        with away(fixed_site):
            wait_until(lambda: jobs.update(20) or jobs._reporter._progress.is_unreachable, 5)
            ours = threading.get_ident()
            event.listen(Engine, "before_cursor_execute", note := lambda *_: by.append(threading.get_ident() == ours))
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                jobs.update(30)
            event.remove(Engine, "before_cursor_execute", note)

    by = []
    assert act(fixed_site, action).status is Status.COMPLETED
    assert by
    assert not any(by)


def test_a_cancel_is_found_when_the_database_is_back(fixed_site):
    site = fixed_site

    def action(jobs):
        jobs.update(10)
        site.application.jobs.cancel(jobs.job_id)
        with away(site):
            jobs.update(20)
            wait_until(lambda: jobs._reporter._progress.is_unreachable, 5)
        wait_until(lambda: jobs.status(jobs.job_id).status is Status.CANCELLED, 5)
        with pytest.raises(JobEnded):
            jobs.update(30)

    assert act(site, action).status is Status.CANCELLED


# --- gevent ----------------------------------------------------------------------------------------------------------

UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys, time
from pathlib import Path
import gevent
from support.served import wrap
from backjob import Status

def job(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    jobs = environ["backjob"]
    for n in range(1, 51):
        jobs.update(n, f"step {n}")
    # The reporter's greenlet writes the last one while this one waits.
    end = time.monotonic() + 10
    while jobs.status(jobs.job_id).status_text != "step 50" and time.monotonic() < end:
        gevent.sleep(0.01)
    print(jobs.status(jobs.job_id).progress)
    # A job that never waits writes by itself.
    end, seen = time.monotonic() + 1, set()
    while time.monotonic() < end:
        jobs.update(60)
        seen.add(jobs.status(jobs.job_id).progress)
    print(sorted(seen))
    step = lambda: [jobs.increment_progress(1) or gevent.sleep(0) for _ in range(5)]
    gevent.joinall([gevent.spawn(step) for _ in range(4)], raise_error=True)
    # Pieces of a line are kept for each greenlet.
    pieces = lambda name: [jobs.write(piece) and gevent.sleep(0) for piece in (name, " joined", "\\n")]
    gevent.joinall([gevent.spawn(pieces, name) for name in ("a", "b")], raise_error=True)
    return []

with wrap(Path(sys.argv[1])) as site:
    site.job = job
    status = site.run("/job")
    print(status.status.name, status.status_text, end="")
"""


def test_under_gevent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNDER_GEVENT)
    tests = TESTS
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path)],
        env={"PYTHONPATH": f"{tests}:{tests.parent}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == ["50", "[50, 60]", "COMPLETED a joined", "b joined"], done.stderr
