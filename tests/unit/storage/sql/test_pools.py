"""A job whose child processes do the work: when one of them meets the end of the job, the job ends as what it was."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.served import Site, wrap

from backjob import JobEnded, Status
from backjob.model.job import Move

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

TEXT = [("Content-Type", "text/plain; charset=utf-8")]
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with wrap(tmp_path) as site:
        yield site


current: Any = None


def keep(job: Any) -> None:
    global current  # noqa: PLW0603
    current = job


def work() -> None:
    current.update(40)


def meet_end(jobs: Any) -> None:
    """In a child. There it is an ordinary exception, which the pool hands over."""
    with ProcessPoolExecutor(1, FORK, keep, (jobs,)) as pool:
        pool.submit(work).result()


def work_after_cancel(jobs: Any) -> None:
    jobs.update(40)


def cancel(jobs: Any) -> None:
    jobs.cancel(jobs.job_id)


def time_out(jobs: Any) -> None:
    """As the keeper does."""
    jobs._backend.store.move(Move.FAIL, jobs.job_id, attempt=jobs.attempt, text="no heartbeat")


# What an app or a framework does with it.


def raise_on(jobs: Any, start_response: Any) -> None:
    meet_end(jobs)


def raise_another(jobs: Any, start_response: Any) -> None:
    try:
        meet_end(jobs)
    except Exception as error:
        raise RuntimeError("The work has failed") from error


def answer_500(jobs: Any, start_response: Any) -> None:
    try:
        meet_end(jobs)
    except Exception:  # noqa: BLE001 - what a framework does
        start_response("500 Internal Server Error", TEXT, sys.exc_info())


def answer_500_and_note_it(jobs: Any, start_response: Any) -> None:
    try:
        meet_end(jobs)
    except Exception as error:  # noqa: BLE001 - what a framework does
        jobs.note_exception(error)
        start_response("500 Internal Server Error", TEXT, sys.exc_info())


def swallow(jobs: Any, start_response: Any) -> None:
    with contextlib.suppress(Exception):
        meet_end(jobs)


def clean_up(jobs: Any, start_response: Any) -> None:
    try:
        meet_end(jobs)
    finally:
        print("removing", file=jobs)
        jobs.update(90, "removing")
        jobs.finish("Done.")
        jobs.fail("not removed")


def go_on_and_clean_up(jobs: Any, start_response: Any) -> None:
    """The job's own process meets it too, at its next call."""
    with contextlib.suppress(Exception):
        meet_end(jobs)
    try:
        jobs.update(50)
    finally:
        jobs.fail("not removed")


def lose_the_child(jobs: Any, start_response: Any) -> None:
    process = FORK.Process(target=_meet_and_die, args=(jobs,))
    process.start()
    process.join()


def _meet_and_die(jobs: Any) -> None:
    try:
        jobs.update(40)
    finally:
        os._exit(1)


@pytest.mark.parametrize(
    "go_on",
    [
        raise_on,
        raise_another,
        answer_500,
        answer_500_and_note_it,
        swallow,
        clean_up,
        go_on_and_clean_up,
        lose_the_child,
    ],
    ids=lambda go_on: go_on.__name__,
)
@pytest.mark.parametrize(
    ("end", "expected"),
    [(cancel, (Status.CANCELLED, 10, "begun")), (time_out, (Status.FAILED, 10, "no heartbeat"))],
    ids=["cancel", "time-out"],
)
def test_what_a_child_meets_ends_the_job_as_what_it_was(
    site: Site, end: Callable[[Any], None], expected: Any, go_on: Callable[..., None]
) -> None:
    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        jobs = environ["backjob"]
        jobs.update(10, "begun")
        end(jobs)
        start_response("200 OK", TEXT)
        go_on(jobs, start_response)
        return []

    site.job = job
    status = site.run("/job", retries=1)
    assert (status.status, status.progress, status.status_text) == expected


def remove(number: int) -> int:
    current.write("removing")
    current.update(90)
    return number


@pytest.mark.parametrize("begin", [meet_end, work_after_cancel], ids=["met-by-a-child", "met-by-the-job"])
@pytest.mark.parametrize(
    "make_pool",
    [lambda: ThreadPoolExecutor(1), lambda: ProcessPoolExecutor(1, FORK), lambda: FORK.Pool(1)],
    ids=["threads", "processes", "multiprocessing"],
)
def test_clean_up_by_a_pool_is_not_interrupted(
    site: Site, begin: Callable[[Any], None], make_pool: Callable[[], Any]
) -> None:
    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        keep(environ["backjob"])
        cancel(current)
        try:
            begin(current)
        finally:
            with make_pool() as pool:
                done.extend(pool.map(remove, range(2)))
        return []

    done: list[int] = []
    site.job = job
    assert site.run("/job").status is Status.CANCELLED
    assert done == [0, 1]


def test_a_child_s_error_of_its_own_fails_the_job(site: Site) -> None:
    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        cancel(environ["backjob"])
        with ProcessPoolExecutor(1, FORK) as pool:
            pool.submit(int, "seven").result()
        return []

    site.job = job
    status = site.run("/job")
    assert (status.status, status.status_text.partition(":")[0]) == (Status.FAILED, "ValueError")


def test_each_piece_of_work_of_a_child_meets_it(site: Site) -> None:
    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        jobs = environ["backjob"]
        cancel(jobs)
        with ProcessPoolExecutor(1, FORK, keep, (jobs,)) as pool:
            errors.extend(future.exception() for future in [pool.submit(work) for _ in range(3)])
        start_response("200 OK", TEXT)
        return []

    errors: list[Any] = []
    site.job = job
    assert site.run("/job").status is Status.CANCELLED
    assert [type(error).__mro__[1:3] for error in errors] == [(JobEnded, Exception)] * 3


def test_a_job_that_is_sent_to_a_process_is_refused(site: Site) -> None:
    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with pytest.raises(TypeError, match=r"can't be sent to another process: .*initargs"):
            pickle.dumps(environ["backjob"])
        with ProcessPoolExecutor(1, FORK) as pool, pytest.raises(TypeError, match="can't be sent to another process"):
            pool.submit(print, environ["backjob"]).result()
        start_response("200 OK", TEXT)
        return [b"refused"]

    site.job = job
    assert site.run("/job").status_text == "refused"


@pytest.fixture
def sigterm_of_server() -> Iterator[None]:
    """The server handles SIGTERM in Python, as gunicorn does."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("sigterm_of_server")
def test_a_job_s_children_and_no_others_end_on_sigterm_whatever_the_server_does_on_it(site: Site) -> None:
    def fork(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        child = FORK.Process(target=lambda: os._exit(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL))
        child.start()
        child.join()
        codes.append(child.exitcode)
        start_response("200 OK", TEXT)
        return []

    codes: list[Any] = []
    site.job = fork
    site.run("/job")
    fork({}, lambda *_: None)
    assert codes == [1, 0]


@pytest.mark.live
@pytest.mark.usefixtures("sigterm_of_server")
def test_a_child_that_is_ended_right_after_the_fork_ends(site: Site) -> None:
    """As a pool ends one: ``with Pool(4): pass``."""

    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        children = [FORK.Process(target=time.sleep, args=(60,)) for _ in range(20)]
        for child in children:
            child.start()
            child.terminate()
        for child in children:
            child.join(10)
            codes.append(child.exitcode)
            child.kill()
            child.join()
        start_response("200 OK", TEXT)
        return []

    codes: list[Any] = []
    site.job = job
    site.run("/job")
    assert codes == [-signal.SIGTERM] * 20
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
