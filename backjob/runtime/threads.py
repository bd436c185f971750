"""Threads and locks, of the system also where gevent has put greenlets in their place. Knows nothing of jobs."""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any


def is_native() -> bool:
    """Are this process's threads those of the system, as far as any code sees?"""
    return isinstance(_thread.start_new_thread, BuiltinFunctionType)


class Threads:
    """How to start a thread and to wake it. ``native``: one of the system, which no greenlet that computes stops."""

    def __init__(self, native: bool) -> None:
        monkey = sys.modules.get("gevent.monkey")
        # Also before gevent has patched this process, as it does in a child of gunicorn's after the fork.
        self._is_hidden = native and monkey is not None
        self.make_lock: Callable[[], Any] = threading.Lock
        if self._is_hidden:
            self.make_lock = monkey.get_original("_thread", "allocate_lock")  # type: ignore[union-attr]
            self._start = monkey.get_original("_thread", "start_new_thread")  # type: ignore[union-attr]

    def start(self, target: Callable[[], None], name: str, lock: Any) -> None:
        """Run this in a daemon thread, which holds the lock until it has let go of all that it had.

        Raises RuntimeError when there are no more threads.
        """
        if self._is_hidden:
            self._start(_hold, (lock, lambda: _call_and_clean(target)))
        else:
            threading.Thread(target=_hold, args=(lock, target), name=name, daemon=True).start()


def _hold(lock: Any, target: Callable[[], None]) -> None:
    with lock:
        target()


def _call_and_clean(target: Callable[[], None]) -> None:
    """Call it where nothing of gevent's outlives the call.

    A thread that waits for a socket of gevent's gets a hub, which wants to be destroyed by that thread. A greenlet that
    logs gets an entry in ``threading``, which goes with the greenlet: the thread's first one goes after the thread, and
    when the process ends meanwhile, gevent prints a traceback.
    """
    try:
        sys.modules["greenlet"].greenlet(target).switch()
    finally:
        # get_hub() would make one, and two that are made at once wait for each other for ever.
        hub = sys.modules["gevent._hub_local"].get_hub_if_exists()
        if hub is not None:
            hub.destroy()


class Bell:
    """Wakes the one thread that waits for it."""

    def __init__(self, threads: Threads) -> None:
        self._lock = threads.make_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """End the wait; or the next one, if nobody waits."""
        with contextlib.suppress(RuntimeError):  # it was rung already
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait until it is rung, or so long. Was it rung?"""
        rung: bool = self._lock.acquire(True, min(max(seconds, 0.0), threading.TIMEOUT_MAX))
        return rung
