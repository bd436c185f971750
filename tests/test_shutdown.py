"""What the status text of a job says when the server was stopped: that it was, and which setting is behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gunicorn.workers.sync import SyncWorker
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
        ("waitress", "wait longer for requests, as gunicorn's --graceful-timeout"),
    ],
)
@pytest.mark.parametrize(
    "action",
    [
        lambda jobs: throw(RuntimeError(FUTURES)),
        lambda jobs: throw(RuntimeError(THREADS)),
        note,
        lambda jobs: jobs.fail(f"It says: {FUTURES}"),
        lambda jobs: throw(KeyboardInterrupt()),
        lambda jobs: throw(gevent.GreenletExit()),
    ],
    ids=["futures", "threads", "noted", "fail", "interrupt", "greenlet"],
)
def test_a_job_that_a_shutdown_ends_names_the_setting(site: Site, action: Any, software: str, setting: str) -> None:
    text = end_of(site, action, software)
    assert "(the server was stopped while the job ran: " in text
    assert setting in text
    assert "\n" not in text


def test_gunicorn_s_time_out_is_told_from_its_shutdown(site: Site) -> None:
    too_long = end_of(site, lambda jobs: SyncWorker.handle_abort(WORKER, 6, None), "gunicorn/27.0.1")
    assert too_long.startswith("SystemExit: 1 (the job took longer than gunicorn's --timeout: raise it")
    stopped = end_of(site, lambda jobs: SyncWorker.handle_quit(WORKER, 3, None), "gunicorn/27.0.1")
    assert stopped.startswith("SystemExit: 0 (the server was stopped while the job ran: raise --graceful-timeout")


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), ValueError("shutdown")])
def test_another_error_is_not_taken_for_a_shutdown(site: Site, error: Exception) -> None:
    assert end_of(site, lambda jobs: throw(error), "gunicorn/27.0.1") == f"{type(error).__name__}: {error}"
