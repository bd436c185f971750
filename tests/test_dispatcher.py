"""Where threads go on after a request: what servers tell of it. The live tests run the servers themselves."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

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
