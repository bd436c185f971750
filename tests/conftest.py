"""Fixtures of all tests, and the check that no test leaves a socket or a database connection open."""

from __future__ import annotations

import contextlib
import gc
import getpass
import os
import shutil
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import support
from hypothesis import Phase, settings
from support import temporary
from support.records import databases  # noqa: F401 - a fixture
from support.second_chance import pytest_runtest_logreport  # noqa: F401 - a hook

DESCRIPTORS = Path("/proc/self/fd")
_SHARED_MEMORY = Path("/dev/shm")
_IN_MEMORY = _SHARED_MEMORY / f"bj-{os.getuid()}"
_ENOUGH = 2 * 2**30
_DATABASES = (".sqlite3", ".sqlite3-wal", ".sqlite3-shm", ".db")

settings.register_profile("untimed", deadline=None)  # a machine may be busy
settings.load_profile("untimed")
settings.register_profile("unshrunk", phases=[Phase.explicit, Phase.reuse, Phase.generate])
"""For the mutants: it is enough that a test fails, whatever the shortest way there is."""


def pytest_configure() -> None:
    """Keep the tests' files in memory where there is enough: thousands of SQLite files are synced to disk otherwise."""
    if _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > _ENOUGH:
        _IN_MEMORY.mkdir(exist_ok=True)
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_IN_MEMORY))

    temporary.begin()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with live tests come first, the largest of them at the very front: the others fill the time they leave."""
    live = Counter(item.path for item in items if item.get_closest_marker("live"))
    items.sort(key=lambda item: -live[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Fail a run that leaves files in the temporary directory."""
    yield  # the workers of pytest-xdist end here
    support.AT_END.close()
    if left := temporary.end():
        print(f"\nleft in the temporary directory: {', '.join(left)}", file=sys.stderr)
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure() -> None:
    """Remove the folder, unless a failed test or another run has files in it."""
    with contextlib.suppress(OSError):
        _IN_MEMORY.joinpath(f"pytest-of-{getpass.getuser()}").rmdir()
        _IN_MEMORY.rmdir()


def open_connections() -> dict[str, str]:
    """This process's descriptors of sockets and SQLite files, with what each one is."""
    found = {}
    for name in os.listdir(DESCRIPTORS):
        # The descriptor that the folder itself was read by is gone by now.
        with contextlib.suppress(OSError):
            what = os.readlink(DESCRIPTORS / name)
            if what.startswith("socket:") or what.endswith(_DATABASES):
                found[name] = what
    return found


@pytest.fixture(autouse=True)
def closes_its_connections(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test after which a socket or a database is open that was not before."""
    if not DESCRIPTORS.is_dir():
        yield  # this system does not show them
        return
    before = open_connections().items()
    yield
    caplog.get_records("call").clear()  # a record has the frames of its traceback, and what is open in them

    def has_closed_all() -> bool:
        if open_connections().items() <= before:
            return True
        gc.collect()  # what a cycle holds is no leak; where closing was forgotten, a ResourceWarning fails the test
        return open_connections().items() <= before

    # A thread of the code under test may be at its last statement.
    try:
        support.wait_until(has_closed_all, seconds=3)
    except AssertionError:
        left = dict(open_connections().items() - before)
        pytest.fail(f"left open: {left}")


@pytest.fixture(autouse=True)
def ends_its_threads() -> Iterator[None]:
    """Fail a test that leaves a thread of the package at work: what it does would be the next test's trouble."""
    before = set(threading.enumerate())
    yield

    def left() -> list[str]:
        return [each.name for each in set(threading.enumerate()) - before if each.name.startswith("backjob-")]

    try:
        support.wait_until(lambda: not left(), seconds=3)
    except AssertionError:
        pytest.fail(f"left at work: {left()}")


@pytest.fixture
def wait_until() -> Callable[..., object]:
    """``support.wait_until``: look at a real state until it is true."""
    return support.wait_until


@pytest.fixture
def free_port() -> int:
    """A port of the loopback at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
