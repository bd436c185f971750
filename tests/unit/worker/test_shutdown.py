"""What the status text of a job says when the server was stopped: that it was, and which setting is behind it."""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gunicorn.config import Config
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker
from joblib.externals.loky.process_executor import TerminatedWorkerError
from support.served import Site, wrap

from backjob import Status

TEXT = [("Content-Type", "text/plain; charset=utf-8")]
FUTURES = "cannot schedule new futures after interpreter shutdown"
THREADS = "can't create new thread at interpreter shutdown"
WORKER: Any = SimpleNamespace(cfg=SimpleNamespace(worker_abort=lambda _: None, worker_int=lambda _: None))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with wrap(tmp_path) as site:
        yield site


def end_of(site: Site, action: Callable[[Any], object], software: str = "") -> str:
    """The status text of a job in which this is done, under a server of this name."""

    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", TEXT)
        action(environ["backjob"])
        return []

    site.job = job
    job_id = site.start("/job")
    with contextlib.suppress(SystemExit, KeyboardInterrupt, gevent.GreenletExit):  # the server gets these
        site.work(job_id, SERVER_SOFTWARE=software)
    status = site.status(job_id)
    assert status.status is Status.FAILED
    return status.status_text


def throw(error: BaseException) -> None:
    raise error


def throw_in_job(error: BaseException, jobs: Any) -> None:
    throw(error)


def note(jobs: Any) -> None:
    """A framework answers 500."""
    jobs.note_exception(RuntimeError(FUTURES))
    throw(RuntimeError(FUTURES))


@pytest.mark.parametrize(
    ("software", "setting"),
    [
        ("gunicorn/27.0.1", "raise --graceful-timeout"),
        ("uWSGI/2.0.31", "raise worker-reload-mercy"),
        ("Apache/2.4 mod_wsgi/6.1", "raise shutdown-timeout and graceful-timeout"),
        ("waitress", "wait longer for running requests"),
    ],
)
@pytest.mark.parametrize(
    "action",
    [
        lambda jobs: throw(RuntimeError(FUTURES)),
        lambda jobs: throw(RuntimeError(THREADS)),
        note,
        lambda jobs: jobs.fail(f"It says: {FUTURES}"),
        lambda jobs: throw(gevent.GreenletExit()),
    ],
    ids=["futures", "threads", "noted", "fail", "greenlet"],
)
def test_a_job_that_a_shutdown_ends_names_the_setting(site: Site, action: Any, software: str, setting: str) -> None:
    text = end_of(site, action, software)
    assert "(the server was stopped while the job ran: " in text
    assert setting in text
    assert "\n" not in text


def test_an_interrupt_of_a_server_with_one_thread(site: Site) -> None:
    text = end_of(site, lambda jobs: signal.raise_signal(signal.SIGINT), "Werkzeug/3.1")
    assert text.startswith("KeyboardInterrupt (the server was stopped while the job ran: let it wait longer")


def test_gunicorn_s_time_out_is_told_from_its_shutdown(site: Site) -> None:
    too_long = end_of(site, lambda jobs: SyncWorker.handle_abort(WORKER, 6, None), "gunicorn/27.0.1")
    assert too_long.startswith("SystemExit: 1 (the job took longer than gunicorn's --timeout: raise it")
    stopped = end_of(site, lambda jobs: SyncWorker.handle_quit(WORKER, 3, None), "gunicorn/27.0.1")
    assert stopped.startswith("SystemExit: 0 (the server was stopped while the job ran, at once: gunicorn waits for")


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), ValueError("shutdown")])
def test_another_error_is_not_taken_for_a_shutdown(site: Site, error: Exception) -> None:
    assert end_of(site, lambda jobs: throw(error), "gunicorn/27.0.1") == f"{type(error).__name__}: {error}"


@pytest.fixture
def worker() -> Iterator[Any]:
    """The gthread worker of this process."""
    worker = ThreadWorker(0, os.getppid(), [], None, 30, Config(), None)
    worker.tpool, worker.poller = worker.get_thread_pool(), selectors.DefaultSelector()
    worker.method_queue.init()
    before = signal.signal(signal.SIGQUIT, worker.handle_quit)
    with worker.tpool, worker.poller, contextlib.closing(worker.method_queue), contextlib.closing(worker.tmp):
        yield worker
    signal.signal(signal.SIGQUIT, before)


def lose_process(jobs: Any) -> None:
    with ProcessPoolExecutor(1) as pool:
        pool.submit(os._exit, 1).result()


LOST_CHILDREN = [
    lambda jobs: subprocess.run(["sh", "-c", "kill -TERM $$"], check=True),
    lambda jobs: subprocess.run(["sh", "-c", "exit 143"], check=True),
    lambda jobs: throw(TerminatedWorkerError("A worker process was unexpectedly terminated.\nThe exit codes are 1")),
    lambda jobs: throw(SystemExit(0)),
    lose_process,
]


@pytest.mark.parametrize("action", LOST_CHILDREN)
def test_children_that_are_stopped_with_the_server(site: Site, worker: Any, action: Any) -> None:
    running = end_of(site, action, "gunicorn/27.0.1")
    assert "server was stopped while" not in running
    worker.handle_exit(signal.SIGTERM, None)
    assert worker.alive is False
    stopping = end_of(site, action, "gunicorn/27.0.1")
    first, *others = stopping.splitlines()
    assert "(the server was stopped while the job ran: " in first
    assert first.endswith("raise --graceful-timeout, or give the job retries)")
    assert [first.partition(" (the server")[0], *others] == [running.splitlines()[0].partition(" (")[0], *others]


def test_a_keyboard_interrupt_in_a_servers_thread_is_the_apps(site: Site, worker: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(end_of, site, lambda jobs: throw(KeyboardInterrupt()), "gunicorn/27.0.1").result()
    assert end == "KeyboardInterrupt (raised by the app or in a process that it has started)"


def test_a_quick_stop_of_gunicorn_does_not_wait(site: Site, worker: Any) -> None:
    """SIGINT and SIGQUIT; with SIGTERM the worker closes its poller when --graceful-timeout is over."""
    with pytest.raises(SystemExit):
        worker.handle_quit(signal.SIGQUIT, None)
    assert "at once: gunicorn waits for" in end_of(site, LOST_CHILDREN[0], "gunicorn/27.0.1")
    worker.poller.close()
    for error in (OSError("died with SIGINT"), KeyboardInterrupt()):  # of a child, under any kind of worker
        assert "at once: gunicorn waits for" in end_of(site, functools.partial(throw_in_job, error), "gunicorn/27.0.1")
    assert "raise --graceful-timeout" in end_of(site, LOST_CHILDREN[0], "gunicorn/27.0.1")


def test_a_pool_that_the_app_has_closed_is_no_shutdown(site: Site, worker: Any) -> None:
    def job(jobs: Any) -> None:
        pool = ThreadPoolExecutor(1)
        pool.shutdown()
        pool.submit(print)

    worker.handle_exit(signal.SIGTERM, None)
    assert end_of(site, job, "gunicorn/27.0.1") == "RuntimeError: cannot schedule new futures after shutdown"
