"""Threads and locks, also native ones in a process in which gevent has replaced them. Knows nothing of jobs."""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any


def is_native() -> bool:
    """Return whether ``threading`` makes threads of the system in this process, and no greenlets."""
    return isinstance(_thread.start_new_thread, BuiltinFunctionType)


class Threads:
    """Starts threads and makes locks. ``native``: threads of the system, which no computing greenlet stops."""

    def __init__(self, native: bool) -> None:
        monkey = sys.modules.get("gevent.monkey")
        # gevent may patch this process later: in a worker of gunicorn it does so after the fork.
        self._is_hidden = native and monkey is not None
        self.make_lock: Callable[[], Any] = threading.Lock
        if self._is_hidden:
            self.make_lock = monkey.get_original("_thread", "allocate_lock")  # type: ignore[union-attr]
            self._start = monkey.get_original("_thread", "start_new_thread")  # type: ignore[union-attr]

    def start(self, target: Callable[[], None], name: str, lock: Any) -> None:
        """Call ``target`` in a daemon thread, which holds the lock until it has closed everything.

        Raises RuntimeError if no thread can be started.
        """
        if self._is_hidden:
            self._start(_hold, (lock, lambda: _call_and_clean(target)))
        else:
            threading.Thread(target=_hold, args=(lock, target), name=name, daemon=True).start()


def _hold(lock: Any, target: Callable[[], None]) -> None:
    with lock:
        target()


def _call_and_clean(target: Callable[[], None]) -> None:
    """Call ``target`` in a greenlet of its own, and remove what gevent has made for the thread.

    A thread that waits for a socket of gevent's gets a hub, which only that thread can destroy. A greenlet that logs
    gets an entry in ``threading``. That of a thread's first greenlet outlives the thread, and if the process ends
    meanwhile, gevent prints a traceback.
    """
    try:
        sys.modules["greenlet"].greenlet(target).switch()
    finally:
        # get_hub() would make a hub, and two that are made at once wait for each other for ever.
        hub = sys.modules["gevent._hub_local"].get_hub_if_exists()
        if hub is not None:
            hub.destroy()


class AutoResetEvent:
    """An event for one waiting thread, which is reset when a wait ends."""

    def __init__(self, threads: Threads) -> None:
        self._lock = threads.make_lock()
        self._lock.acquire()

    def set(self) -> None:
        """End the current wait, or else the next one."""
        with contextlib.suppress(RuntimeError):  # it is set already
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, at most ``seconds``. Return whether it was."""
        was_set: bool = self._lock.acquire(True, min(max(seconds, 0.0), threading.TIMEOUT_MAX))
        return was_set
