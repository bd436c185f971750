"""Where threads go on after a request: what servers tell of it. The live tests run the servers themselves."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from support import wait_until
from support.served import Site, serve_site, wrap

from backjob import Status
from backjob.runtime import backoff
from backjob.runtime.server_info import threads_outlive_requests


@pytest.mark.parametrize(
    ("version", "options", "go_on"),
    [
        (b"2.0.21-debian", {}, False),
        (b"2.0.21-debian", {"master": True}, False),
        (b"2.0.21-debian", {"enable-threads": True}, True),
        (b"2.0.21-debian", {b"threads": b"2"}, True),
        (b"2.0.26", {}, False),
        (b"2.0.27", {}, True),
        ("2.0.31", {}, True),
        (b"2.1", {}, True),
    ],
)
def test_uwsgi(monkeypatch: pytest.MonkeyPatch, version: Any, options: dict[Any, Any], go_on: bool) -> None:
    module = types.ModuleType("uwsgi")
    module.opt = options  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    assert threads_outlive_requests({"uwsgi.version": version}) is go_on


@pytest.mark.parametrize(("is_forking", "go_on"), [(True, False), (False, True)])
def test_werkzeug(is_forking: bool, go_on: bool) -> None:
    assert threads_outlive_requests({"werkzeug.socket": object(), "wsgi.multiprocess": is_forking}) is go_on


def test_any_other_server() -> None:
    assert threads_outlive_requests({"wsgi.multiprocess": True, "uwsgi.version": b"2.0.21"})


def test_rows_that_nobody_told_of_are_launched(tmp_path: Path) -> None:
    """Another process has recorded it and let go of it: whoever looks, and finds it too early, looks again."""
    with serve_site(tmp_path) as site, wrap(tmp_path) as other:
        job_id = other.start("/job", delay=1)
        assert other.backend.store.hold(job_id, 1, other.row(job_id).held_by, None, 0)
        site.backend.dispatcher.start_looking()
        assert site.wait_for_end(job_id).status is Status.COMPLETED


# --- A database that is away -----------------------------------------------------------------------------------------

AWAY = "Jobs wait for their database"


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """When a monitor's thread went to the database. The first pauses are short here, so that there are many."""
    monkeypatch.setattr(backoff, "_SHORTEST", 0.02)
    seen: list[float] = []

    def note(connection: object) -> None:
        if threading.current_thread().name == "backjob-monitor":
            seen.append(time.monotonic())

    event.listen(Engine, "engine_connect", note)
    yield seen
    event.remove(Engine, "engine_connect", note)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """One whose table is not made anew when it is gone."""
    with wrap(tmp_path) as site:
        site.start("/makes/the/table")
        site.sql("DELETE FROM background_job")
    with serve_site(tmp_path, create_table=False) as site:
        yield site


def test_an_outage_is_told_once_and_tried_less_and_less(
    site: Site, tries: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backjob")
    for outage in (1, 2):
        site.sql("ALTER TABLE background_job RENAME TO elsewhere")
        site.backend.dispatcher.look_after(0)
        wait_until(lambda outage=outage: caplog.text.count(AWAY) == outage)
        tries.clear()
        wait_until(lambda: len(tries) >= 6)
        waited = tries[:6]
        site.sql("ALTER TABLE elsewhere RENAME TO background_job")
        site.wait_for_end(site.start("/job"))
        wait_until(lambda outage=outage: caplog.text.count("is back") == outage)
        assert caplog.text.count(AWAY) == outage
        for before, after in itertools.pairwise(waited):
            assert after - before >= 0.5 * (before - waited[0])


def test_whoever_finds_the_database_there_ends_the_pause(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backoff, "_SHORTEST", 300.0)  # as the longest, so that nothing else can end the pause
    caplog.set_level(logging.INFO, "backjob")
    site.sql("ALTER TABLE background_job RENAME TO elsewhere")
    site.backend.dispatcher.look_after(0)
    wait_until(lambda: AWAY in caplog.text)
    site.sql("ALTER TABLE elsewhere RENAME TO background_job")
    site.backend.dispatcher.start_looking()
    wait_until(lambda: "is back" in caplog.text)
