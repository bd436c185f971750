"""Code that goes on after its job ended holds a slot of the server, and that is said by number where half are lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support.caches import make_memory_region
from support.served import Site, serve_site

from backjob import Status

pytestmark = pytest.mark.live

TEXT = [("Content-Type", "text/plain; charset=utf-8")]


@pytest.fixture(params=["sqlite", "memory"])
def place(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {} if request.param == "sqlite" else {"database": None, "cache": make_memory_region()}


def hang(is_over: threading.Event) -> Callable[..., Any]:
    """A job at /hang ignores its time-out, all others end at once."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"] == "/hang":
            is_over.wait(60)
        start_response("200 OK", TEXT)
        return [b"done"]

    return app


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if "slots for jobs are held" in each.getMessage()]


def test_lost_slots_are_reported_and_explain_why_jobs_wait(
    tmp_path: Path, place: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    is_over = threading.Event()
    options = {"keeper": True, "max_running": 9, "max_running_per_process": 3, "lease": 2.0, **place}
    with serve_site(tmp_path, hang(is_over), **options) as site:
        try:
            check_lost_slots(site, caplog)
        finally:
            is_over.set()
        last = site.start("/job")
        assert site.wait_for_end(last).status_text == "done"
        wait_until(lambda: not site.backend.limits.lost_slots)
        assert "lost-slots" not in [each.name for each in site.application.check().warnings]
        delayed = site.start("/job", delay=60)
        assert site.status(delayed).status_text == ""


def check_lost_slots(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "backjob"):
        lost = [site.start("/hang", error_timeout=1) for _ in range(3)]
        for job_id in lost:
            assert site.wait_for_end(job_id).status is Status.FAILED
        waiting = site.start("/job")
        named = ", ".join(map(str, lost))
        expected = f"3 of 3 slots for jobs are held by code that goes on after its job ended: {named}"
        wait_until(lambda: site.status(waiting).status_text == expected)
    # It may have been said of two of them first; then it was said once.
    assert len(told(caplog)) == 1
    (finding,) = [each for each in site.application.check().warnings if each.name == "lost-slots"]
    assert finding.text == expected
    assert site.status(waiting).status is Status.STARTED


def test_less_than_half_is_not_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    is_over = threading.Event()
    with serve_site(tmp_path, hang(is_over), keeper=True, max_running=9, max_running_per_process=3, lease=2.0) as site:
        try:
            lost = site.start("/hang", error_timeout=1)
            assert site.wait_for_end(lost).status is Status.FAILED
            wait_until(lambda: site.backend.limits._orphans == (lost,))
            assert site.backend.limits.lost_slots == ""
            assert told(caplog) == []
        finally:
            is_over.set()
