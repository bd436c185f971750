"""A job that forks: its children may tell how far it is, and only the process that claimed it ends it."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.served import Site, call, make_environ, wrap

from backjob import JobEnded, JobFailed, Status

pytestmark = pytest.mark.live

TEXT = [("Content-Type", "text/plain; charset=utf-8")]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with wrap(tmp_path) as site:
        yield site


@contextlib.contextmanager
def children_end_here(end: Callable[[], object] = lambda: None) -> Iterator[None]:
    """What a server is for a child that comes back to it. ``end``: what is found there."""
    parent = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != parent:
            with contextlib.suppress(BaseException):
                end()
                os._exit(0)
            os._exit(1)


def fork(in_child: Callable[[], object]) -> int:
    """0, or the exit code of the child that did this."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            in_child()
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(site: Site, in_child: Callable[[Any], object], after: Callable[[Any], object] = lambda jobs: None) -> Any:
    """How a job ends that does the one in a child that never comes back, and then the other."""
    codes = []

    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        jobs = environ["backjob"]
        codes.append(fork(lambda: in_child(jobs)))
        after(jobs)
        start_response("200 OK", TEXT)
        return [b"the parent's"]

    site.job = job
    status = site.run("/job")
    assert codes == [0]
    return status


def raise_it(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "come_back",
    [
        lambda jobs: None,
        lambda jobs: sys.exit(),
        lambda jobs: raise_it(ValueError("the child is wrong")),
        lambda jobs: raise_it(JobEnded("the child has ended")),
        lambda jobs: jobs.fail("The child fails"),
        lambda jobs: jobs.finish("The child is done"),
        lambda jobs: jobs.write("The child writes"),
    ],
    ids=["return", "exit", "exception", "ended", "fail", "finish", "write"],
)
@pytest.mark.parametrize("retries", [0, 1])
def test_a_child_that_comes_back_does_not_end_its_parents_job(
    site: Site, come_back: Callable[[Any], object], retries: int
) -> None:
    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        jobs = environ["backjob"]
        jobs.update(10, "begun")
        jobs.update(20, "waits to be written")
        follower = jobs.start("/next", after_response=True)
        child = os.fork()
        start_response("200 OK", TEXT)
        if not child:
            come_back(jobs)
            return [b"the child's"]
        assert os.waitpid(child, 0)[1] == 0
        record, next_one = site.row(jobs.job_id), site.row(follower)
        seen.append((record.status, record.attempt, next_one.status, next_one.held_by is not None))
        return [b"the parent's"]

    seen: list[Any] = []
    site.job = job
    job_id = site.start("/job", retries=retries)
    with children_end_here():
        reply = site.work(job_id)
    assert reply.code == 200
    assert seen == [(Status.INPROGRESS, 1, Status.STARTED, True)]
    status = site.status(job_id)
    assert (status.status, status.status_text) == (Status.COMPLETED, "the parent's")
    assert [token.job_id for token in site.launches.tokens] == [job_id, job_id + 1]


def test_the_answer_of_a_child_proves_no_end(site: Site) -> None:
    """It goes out on its parent's connection: whoever waits there is not to take it for the job's end."""

    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
        start_response("200 OK", TEXT)
        return []

    site.job = job
    job_id = site.start("/job")
    reply = None
    with children_end_here(lambda: reply.code == 409 or raise_it(AssertionError(reply))):
        reply = site.work(job_id)
    assert reply.code == 200


@pytest.mark.parametrize("come_back", [lambda: None, sys.exit], ids=["return", "exit"])
def test_a_child_of_a_request_leaves_alone_what_is_to_follow_it(site: Site, come_back: Callable[[], object]) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        job_id = environ["backjob"].start("/job", after_response=True)
        start_response("200 OK", TEXT)
        child = os.fork()
        if not child:
            come_back()
            return []
        assert os.waitpid(child, 0)[1] == 0
        seen.append((site.row(job_id).status, site.row(job_id).held_by))
        held.append(site.row(job_id).held_by)
        return []

    seen: list[Any] = []
    held: list[Any] = []
    site.job = app
    with children_end_here():
        call(site.application, make_environ("/page"))
    assert seen == [(Status.STARTED, held[0])]
    assert held[0].startswith("response-")
    assert [token.job_id for token in site.launches.tokens] == [1]


def test_what_a_child_tells_is_shown_and_progress_does_not_go_back(site: Site) -> None:
    def tell(jobs: Any) -> None:
        jobs.write("the child's output")
        jobs._reporter.hasten()
        jobs.update(50, "half")

    def look(jobs: Any) -> None:
        shown = jobs.status(jobs.job_id)
        seen.append((shown.progress, shown.status_text))
        jobs.update(20)
        jobs._reporter.hasten()
        jobs.update(20)
        seen.append(jobs.status(jobs.job_id).progress)

    seen: list[Any] = []
    assert run(site, tell, look).status_text == "the parent's"
    assert seen == [(50, "half"), 50]


def test_a_child_that_tells_no_text_leaves_the_one_that_is_there(site: Site) -> None:
    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        jobs = environ["backjob"]
        jobs.write("one\n")
        codes.append(fork(lambda: jobs.update(30)))
        codes.append(fork(lambda: jobs.update(40)))
        shown = jobs.status(jobs.job_id)
        seen.append((shown.progress, shown.status_text))
        start_response("200 OK", TEXT)
        return [b"two"]

    seen: list[Any] = []
    codes: list[int] = []
    site.job = job
    assert site.run("/job").status_text == "one\ntwo"
    assert codes == [0, 0]
    assert seen == [(40, "one\n")]


def test_the_first_text_of_a_child_replaces_that_of_its_parent(site: Site) -> None:
    """Also after a progress without a text, which leaves the parent's text."""

    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        jobs = environ["backjob"]
        jobs.update(10, "begun")
        for report in (lambda: jobs.update(20, "half"), lambda: report_twice(jobs)):
            codes.append(fork(report))
            seen.append(jobs.status(jobs.job_id).status_text)
        start_response("200 OK", TEXT)
        return []

    def report_twice(jobs: Any) -> None:
        jobs.update(30)
        jobs._reporter.hasten()
        jobs.update(40, "most")

    seen: list[Any] = []
    codes: list[int] = []
    site.job = job
    assert site.run("/job").status is Status.COMPLETED
    assert codes == [0, 0]
    assert seen == ["half", "most"]


def test_a_child_waits_for_nothing_that_a_thread_of_its_parent_holds(site: Site) -> None:
    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        jobs = environ["backjob"]
        with jobs._reporter._changed:
            jobs._reporter._begin_write()
            codes.append(fork(lambda: jobs.update(30)))
            jobs._reporter._progress.end_write(0.0, is_written=True)
            jobs._reporter._writer = None
        seen.append(jobs.status(jobs.job_id).progress)
        start_response("200 OK", TEXT)
        return []

    seen: list[Any] = []
    codes: list[int] = []
    site.job = job
    assert site.run("/job").status is Status.COMPLETED
    assert codes == [0]
    assert seen == [30]


def test_a_child_can_end_the_job_by_its_id_only(site: Site) -> None:
    def end(jobs: Any) -> None:
        jobs.finish()
        with pytest.raises(JobFailed, match="no"):
            jobs.fail("no")
        assert site.status(jobs.job_id).status is Status.INPROGRESS
        jobs.finish("Done.", jobs.job_id)

    assert run(site, end).status_text == "Done."


def test_a_child_meets_a_cancel_and_leaves_the_record_to_its_parent(site: Site) -> None:
    def be_told(jobs: Any) -> None:
        jobs.cancel(jobs.job_id)
        with pytest.raises(JobEnded, match="cancelled"):
            jobs.update(30)
        assert site.status(jobs.job_id).status is Status.INPROGRESS

    def meet(jobs: Any) -> None:
        with pytest.raises(JobEnded, match="cancelled"):
            jobs.update(20)

    assert run(site, be_told, meet).status is Status.CANCELLED
