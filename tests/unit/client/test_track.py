"""track(): progress from a plain loop, in a job and outside of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.served import Site, wrap

from backjob import JobEnded, Status
from backjob.worker import reporter


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site whose signs are written at once, so that each of them is seen."""
    monkeypatch.setattr(reporter, "INTERVAL", 0.0)
    with wrap(tmp_path) as site:
        yield site


def run(site: Site, action: Callable[[Any], Any]) -> Any:
    """How a job ends in which this is done."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        action(environ["backjob"])
        return []

    site.job = app
    return site.run("/job")


def see(site: Site, loop: Callable[[Any], Iterator[Any]]) -> list[tuple[Any, int]]:
    """Each row with the progress that is stored while it is worked on, then None with the progress after the loop."""
    seen: list[tuple[Any, int]] = []

    def action(job: Any) -> None:
        seen.extend((row, site.status(job.job_id).progress) for row in loop(job))
        seen.append((None, site.status(job.job_id).progress))

    assert run(site, action).status is Status.COMPLETED
    return seen


def test_each_row_that_is_done_counts(site: Site) -> None:
    assert see(site, lambda job: job.track("abcd")) == [("a", 0), ("b", 25), ("c", 50), ("d", 75), (None, 100)]


def test_a_generator_has_the_length_that_is_told(site: Site) -> None:
    rows = (letter for letter in "ab")
    assert see(site, lambda job: job.track(rows, total=4)) == [("a", 0), ("b", 25), (None, 100)]


def test_more_rows_than_were_told_stay_at_the_end(site: Site) -> None:
    assert see(site, lambda job: job.track(iter("abc"), 2, to=50)) == [("a", 0), ("b", 25), ("c", 50), (None, 50)]


def test_two_loops_share_the_way(site: Site) -> None:
    def loops(job: Any) -> Iterator[str]:
        yield from job.track("ab", to=60)
        yield from job.track("cd")

    assert see(site, loops) == [("a", 0), ("b", 30), ("c", 60), ("d", 80), (None, 100)]


def test_rows_of_unknown_number_are_signs_of_life(site: Site) -> None:
    updates: list[Any] = []

    def loop(job: Any) -> Iterator[int]:
        for row in job.track(iter(range(3))):
            yield row
            updates.append(site.row(job.job_id).signs)

    assert see(site, loop)[:-1] == [(0, 0), (1, 0), (2, 0)]
    assert updates == [0, 1, 2]


@pytest.mark.parametrize("rows", [[], iter([])])
def test_no_rows_are_all_rows(site: Site, rows: Any) -> None:
    assert see(site, lambda job: job.track(rows)) == [(None, 100)]


def test_a_cancelled_job_ends_in_its_loop(site: Site) -> None:
    seen: list[int] = []

    def action(job: Any) -> None:
        for row in job.track(range(5)):
            seen.append(row)
            if row == 1:
                job.cancel(job.job_id)

    assert run(site, action).status is Status.CANCELLED
    assert seen == [0, 1]


def test_what_breaks_out_of_the_loop_leaves_the_progress(site: Site) -> None:
    def action(job: Any) -> None:
        for row in job.track(range(4)):
            if row == 2:
                break
        assert site.status(job.job_id).progress == 50
        with pytest.raises(JobEnded):
            job.fail("half way")

    status = run(site, action)
    assert (status.status, status.progress) == (Status.FAILED, 50)


class Sometimes(list[int]):
    def __len__(self) -> int:
        raise TypeError("not known yet")


def test_a_length_that_is_not_known_is_none(site: Site) -> None:
    seen: list[int] = []
    assert run(site, lambda job: seen.extend(job.track(Sometimes([1, 2])))).status is Status.COMPLETED
    assert run(site, lambda job: next(job.track(range(10**20)))).status is Status.COMPLETED
    assert seen == [1, 2]


@pytest.mark.parametrize("wrong", [-1, "4", float("nan"), float("inf"), True])
def test_what_is_no_number_of_rows_is_refused_before_the_first(site: Site, wrong: Any) -> None:
    def action(job: Any) -> None:
        with pytest.raises(ValueError, match="total must be a number of rows"):
            job.track("ab", total=wrong)
        with pytest.raises(ValueError, match="progress must be"):
            job.track("ab", to="far")

    assert run(site, action).status is Status.COMPLETED
    site.within(action)


def test_outside_of_a_job_the_rows_come_and_nothing_is_told(site: Site) -> None:
    assert site.within(lambda jobs: list(jobs.track(iter("abc"), total=2))) == ["a", "b", "c"]
    assert list(site.application.jobs.track("ab")) == ["a", "b"]
