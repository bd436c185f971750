"""Where threads go on after a request: what servers tell of it. The live tests run the servers themselves."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from support.served import serve_site, wrap

from backjob import Status
from backjob.server_facts import threads_outlive_requests


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
