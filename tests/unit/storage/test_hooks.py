"""on_start, on_update, on_end: what an app is told of its jobs, when, by whom; and that a hook harms no job."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support.processes import name_dead
from support.served import serve_site, wrap

from backjob import JobEnded, JobStatus, Status, StoreError
from backjob.model.recovery import PROCESS_GONE
from backjob.storage.sql.store import SQLStore
from backjob.worker import reporter

Told = list[tuple[str, Status, int, str]]


def keep(told: Told) -> dict[str, Any]:
    """Hooks that keep what they are told."""

    def make(name: str) -> Any:
        def hook(job: JobStatus) -> None:
            told.append((name, job.status, job.progress, job.status_text))

        return hook

    return {name: make(name) for name in ("on_start", "on_update", "on_end")}


def count_to_two(environ, start_response):
    """A job with two updates."""
    environ["backjob"].update(30, "one")
    environ["backjob"].update(60, "two")
    start_response("200 OK", [])
    return [b"done"]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sign is written at once, so that each is told."""
    monkeypatch.setattr(reporter, "INTERVAL", 0.0)


def test_a_job_is_told_from_its_start_to_its_end(tmp_path: Path, at_once: None) -> None:
    told: Told = []
    with wrap(tmp_path, count_to_two, **keep(told)) as site:
        job_id = site.start("/job")
        assert told == [("on_start", Status.STARTED, 0, "")]
        site.work(job_id)
        end = site.status(job_id)
    assert told[1:3] == [
        ("on_update", Status.INPROGRESS, 30, "one"),
        ("on_update", Status.INPROGRESS, 60, "two"),
    ]
    assert told[-1] == ("on_end", end.status, end.progress, end.status_text)
    assert [name for name, *_ in told].count("on_end") == 1


def test_what_is_not_new_or_not_over_is_not_told(tmp_path: Path) -> None:
    told: Told = []
    with wrap(tmp_path, lambda environ, start_response: 1 / 0, **keep(told)) as site:
        job_id = site.start("/job", unique=True, retries=1)
        assert site.start("/job", unique=True) == job_id
        site.work(job_id)  # to be retried
        assert [name for name, *_ in told] == ["on_start"]
        site.make_due()
        site.work(job_id)
    assert [(name, status) for name, status, *_ in told[1:]] == [("on_end", Status.FAILED)]


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda site, job_id: site.application.jobs.cancel(job_id), Status.CANCELLED),
        (lambda site, job_id: site.application.jobs.fail("by hand", job_id), Status.FAILED),
    ],
)
def test_an_end_from_outside_is_told_once(tmp_path: Path, end: Any, status: Status) -> None:
    told: Told = []
    with wrap(tmp_path, **keep(told)) as site:
        job_id = site.start("/job")
        end(site, job_id)
        site.application.jobs.cancel(job_id)
    assert [(name, status) for name, status, *_ in told[1:]] == [("on_end", status)]


def test_a_sweep_tells_what_it_has_settled(tmp_path: Path) -> None:
    told: Told = []
    with wrap(tmp_path, **keep(told)) as site:
        site.backend.store.claim(site.start("/job"), 1, f"{name_dead()}-nonce", 30, 0)
        site.application.sweep()
    assert told[1:] == [("on_end", Status.FAILED, 0, PROCESS_GONE)]


def test_a_keeper_does_not_wait_for_a_hook(tmp_path: Path) -> None:
    """It has leases to renew. The hook is called all the same, in a thread apart."""
    came, may_go_on, has_returned = threading.Event(), threading.Event(), threading.Event()

    def hang(job: JobStatus) -> None:
        came.set()
        may_go_on.wait(5)
        has_returned.set()

    with wrap(tmp_path, on_end=hang) as site:
        job_id = site.start("/job")
        site.backend.store.claim(job_id, 1, f"{name_dead()}-nonce", 30, 0)
        site.backend.keeper.sweep()
        assert not has_returned.is_set()
        assert came.wait(20)
        assert site.status(job_id).status is Status.FAILED
        may_go_on.set()
        assert has_returned.wait(20)


class Wrong:
    """Hooks that go wrong in each way."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.calls: list[str] = []

    def raise_error(self, job: JobStatus) -> None:
        self.calls.append(job.status.name)
        raise self.error("canary")


@pytest.mark.parametrize("error", [ValueError, StoreError, JobEnded, SystemExit, GeneratorExit])
def test_an_exception_in_a_hook_harms_no_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    wrong = Wrong(error)
    hooks = dict.fromkeys(["on_start", "on_update", "on_end"], wrong.raise_error)
    with serve_site(tmp_path, count_to_two, **hooks) as site:
        end = site.wait_for_end(job_id := site.start("/job"))
    assert (end.status, end.progress) == (Status.COMPLETED, 100)
    assert {"STARTED", "INPROGRESS", "COMPLETED"} <= set(wrong.calls)
    logged = [record for record in caplog.records if "raised an exception" in record.getMessage()]
    assert {(record.levelno, record.job) for record in logged} == {(logging.ERROR, job_id)}  # type: ignore[attr-defined]
    assert len(logged) == len(wrong.calls)


def test_a_hook_may_end_the_job_that_it_is_told_of(tmp_path: Path, at_once: None) -> None:
    """It is called within the write of a sign, which nobody is to wait for then."""
    jobs: list[Any] = []

    def job(environ, start_response):
        jobs.append(environ["backjob"])
        return count_to_two(environ, start_response)

    begin = time.monotonic()
    with wrap(tmp_path, job, on_update=lambda told: jobs[0].fail("enough")) as site:
        end = site.run("/job")
    assert (end.status, end.status_text) == (Status.FAILED, "one\nenough")
    assert time.monotonic() - begin < reporter._LONGEST_WRITE / 2


def test_a_keepers_hooks_come_one_after_the_other(tmp_path: Path) -> None:
    """However many jobs it settles, and however slow a hook is."""
    at_work, most, may_go_on = [], [], threading.Event()

    def count(job: JobStatus) -> None:
        at_work.append(job.id)
        most.append(len(at_work))
        may_go_on.wait(20)
        at_work.remove(job.id)

    with wrap(tmp_path, on_end=count) as site:
        for _ in range(3):
            site.backend.store.claim(site.start("/job"), 1, f"{name_dead()}-nonce", 30, 0)
        site.backend.keeper.sweep()
        wait_until(lambda: most)
        may_go_on.set()
        wait_until(lambda: len(most) == 3)
    assert most == [1, 1, 1]


def test_without_hooks_the_store_is_the_store(tmp_path: Path) -> None:
    """An app that wants to be told of nothing pays nothing."""
    with wrap(tmp_path) as site:
        assert type(site.backend.store) is SQLStore
