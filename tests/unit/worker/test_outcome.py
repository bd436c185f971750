"""How a run ended is written, whatever becomes of the database meanwhile, and what follows the job follows that."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url
from support import wait_until
from support.records import SERVERS, Databases
from support.relay import Relay
from support.served import Site, wrap

from backjob import JobEnded, Status
from backjob.worker import outcome

TEXT = [("Content-Type", "text/plain; charset=utf-8")]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request tries for a moment only."""
    monkeypatch.setattr(outcome, "PATIENCE", 0.3)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """One whose table is not made anew when it is gone."""
    with wrap(tmp_path) as site:
        site.start("/makes/the/table")
    with wrap(tmp_path, create_table=False) as site:
        yield site


@contextlib.contextmanager
def away(site: Site) -> Iterator[None]:
    """Within it, the job table can't be used."""
    site.sql("ALTER TABLE background_job RENAME TO elsewhere")
    try:
        yield
    finally:
        site.sql("ALTER TABLE elsewhere RENAME TO background_job")


def say(text: bytes, status: str = "200 OK") -> Callable[..., Any]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response(status, TEXT)
        return [text]

    return app


class Ending:
    """A job that works, and whose database goes away before its end."""

    def __init__(self, site: Site, stack: contextlib.ExitStack, app: Callable[..., Any], **options: Any) -> None:
        self.follower = 0

        def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            jobs = environ["backjob"]
            jobs.update(40)
            if jobs.attempt == 1:
                self.follower = jobs.start("/follows", after_response=True)
                stack.enter_context(away(site))
            return app(environ, start_response)

        site.job = job
        self.job_id = site.start("/job", **options)
        self.reply = site.work(self.job_id)


def has_launched(site: Site, job_id: int) -> bool:
    return job_id in [token.job_id for token in site.launches.tokens]


def waits_freely(site: Site, job_id: int) -> None:
    """The keeper has let go of it: whoever looks for rows launches it."""
    wait_until(lambda: site.row(job_id).held_by is None)
    assert site.row(job_id).status is Status.STARTED


def raise_it(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    raise RuntimeError("no figures")


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (say(b"done"), (Status.COMPLETED, 100, "done")),
        (say(b"oops", "500 Oops"), (Status.FAILED, 40, "oops\nHTTP 500 Oops")),
        (raise_it, (Status.FAILED, 40, "RuntimeError: no figures")),
    ],
    ids=["completes", "fails", "raises"],
)
def test_an_outcome_waits_for_the_database(
    site: Site, caplog: pytest.LogCaptureFixture, app: Callable[..., Any], expected: tuple[Status, int, str]
) -> None:
    with contextlib.ExitStack() as stack:
        ended = Ending(site, stack, app)
        # The request has gone, the database has not come back.
        assert (ended.reply.code, ended.reply.body) == (200, b"backjob: ok\n")
        assert "its outcome waits" in caplog.text
        assert not has_launched(site, ended.follower)
    status = site.wait_for_end(ended.job_id)
    assert (status.status, status.progress, status.status_text) == expected
    if expected[0] is Status.COMPLETED:
        waits_freely(site, ended.follower)
    else:
        assert site.wait_for_end(ended.follower).status is Status.CANCELLED
        assert not has_launched(site, ended.follower)


def test_a_short_absence_is_waited_for(site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(outcome, "PATIENCE", 20.0)
    with contextlib.ExitStack() as stack:
        back = threading.Timer(0.5, stack.close)

        def end_while_away(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            back.start()
            return say(b"done")(environ, start_response)  # type: ignore[no-any-return]

        ended = Ending(site, stack, end_while_away)
        back.join()
    assert site.status(ended.job_id).status is Status.COMPLETED
    assert has_launched(site, ended.follower)
    assert "its outcome waits" not in caplog.text


def test_a_retry_waits_for_the_database(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        ended = Ending(site, stack, raise_it, retries=1)
    job = wait_until(lambda: (row := site.row(ended.job_id)).attempt == 2 and row)
    assert (job.status, job.progress, job.status_text) == (Status.STARTED, 0, "RuntimeError: no figures")
    assert 0 < job.due_in < 1.5
    assert site.wait_for_end(ended.follower).status is Status.CANCELLED


def test_a_job_that_finishes_itself_goes_on_while_its_outcome_waits(site: Site) -> None:
    seen = []

    def finish(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", TEXT)
        jobs = environ["backjob"]
        jobs.finish("all of it")
        jobs.update(50, "late")
        seen.append("went on")
        yield b"late"

    with contextlib.ExitStack() as stack:
        ended = Ending(site, stack, finish)
    assert seen == ["went on"]
    assert site.wait_for_end(ended.job_id).status_text == "all of it"
    waits_freely(site, ended.follower)


def test_many_outcomes_wait_and_none_is_lost(site: Site) -> None:
    site.job = say(b"done")
    job_ids = [site.start("/job") for _ in range(3)]
    tokens = [site.token(job_id) for job_id in job_ids]
    together = threading.Barrier(len(job_ids) + 1)

    def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        together.wait(20)  # all of them run,
        together.wait(20)  # and the database has gone
        return say(b"done")(environ, start_response)

    site.job = job
    threads = [threading.Thread(target=site.send, args=(token, "/job")) for token in tokens]
    for thread in threads:
        thread.start()
    together.wait(20)
    with away(site):
        together.wait(20)
        for thread in threads:
            thread.join()
    for job_id in job_ids:
        assert site.wait_for_end(job_id).status is Status.COMPLETED


def test_an_outcome_that_comes_too_late_changes_nothing(site: Site) -> None:
    """Somebody has settled the job meanwhile: what is to follow it does not follow."""
    with contextlib.ExitStack() as stack:
        ended = Ending(site, stack, say(b"done"))
        site.sql(
            "UPDATE elsewhere SET status = 3, ended_at = updated_at, sealed = NULL, status_text = 'timeout' "
            "WHERE id = ?",
            ended.job_id,
        )
    assert site.wait_for_end(ended.follower).status is Status.CANCELLED
    status = site.status(ended.job_id)
    assert (status.status, status.status_text) == (Status.FAILED, "timeout")


def test_a_retry_of_a_job_that_was_cancelled_meanwhile_is_none(site: Site) -> None:
    def fail(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        site.application.jobs.cancel(environ["backjob"].job_id)
        raise RuntimeError("no figures")

    site.job = fail
    status = site.run("/job", retries=3)
    assert (status.status, status.status_text) == (Status.CANCELLED, "RuntimeError: no figures")


def test_a_job_that_was_ended_elsewhere_cancels_what_was_to_follow(site: Site) -> None:
    followers = []

    def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        jobs = environ["backjob"]
        followers.append(jobs.start("/follows", after_response=True))
        site.application.jobs.fail("enough", jobs.job_id)
        with contextlib.suppress(JobEnded):
            jobs.update(1)
        return say(b"done")(environ, start_response)

    site.job = job
    assert site.run("/job").status is Status.FAILED
    assert site.status(followers[0]).status is Status.CANCELLED


@pytest.mark.parametrize("is_heard", [True, False], ids=["made", "not made"])
@pytest.mark.parametrize("database", SERVERS)
def test_an_outcome_whose_answer_is_lost_again_and_again(
    databases: Databases, tmp_path: Path, database: str, is_heard: bool
) -> None:
    """It was made and nobody heard of it: what follows the job follows all the same."""
    url = make_url(databases.url(database, tmp_path, has_table=True))
    followers = []
    with Relay(url.port or 0) as relay:
        through = url.set(port=relay.port).render_as_string(hide_password=False)
        with wrap(tmp_path, database=through) as site:

            def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
                followers.append(environ["backjob"].start("/follows", after_response=True))
                relay.break_at("ended_at", is_heard=is_heard, times=4)
                return say(b"done")(environ, start_response)

            site.job = job
            job_id = site.start("/job")
            site.work(job_id)
            assert site.wait_for_end(job_id).status_text == "done"
            wait_until(lambda: has_launched(site, followers[0]) or site.row(followers[0]).held_by is None)
            assert relay.cuts >= 2
            assert site.status(followers[0]).status is Status.STARTED


def test_a_retry_whose_answer_is_lost_is_made_once_and_looked_after(databases: Databases, tmp_path: Path) -> None:
    url = make_url(databases.url("postgresql", tmp_path, has_table=True))
    with Relay(url.port or 0) as relay:
        through = url.set(port=relay.port).render_as_string(hide_password=False)
        with wrap(tmp_path, database=through) as site:

            def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
                relay.break_at("UPDATE .* SET .*due_at", is_heard=True)  # no sign's, which may come just now
                raise RuntimeError("no figures")

            site.job = job
            job_id = site.start("/job", retries=5)
            site.work(job_id)
            job_now = site.row(job_id)
            assert relay.cuts == 1
            assert (job_now.status, job_now.attempt) == (Status.STARTED, 2)
            assert site.backend.dispatcher._look_at < float("inf")
