"""Calls with a time-out, each in one of a few threads, for clients without one.

A cache's client belongs to the application and may wait without limit. A call that hangs keeps its thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

Result = TypeVar("Result")
_Call = tuple[Future[Any], Callable[[], Any]]

MOST_THREADS = 4


class BoundedCalls:
    """A few threads that make calls for others. ``end`` is called in each of them when it ends."""

    def __init__(self, name: str, end: Callable[[], None]) -> None:
        self._name = name
        self._end = end
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._generation = 0

    def call(self, function: Callable[[], Result], seconds: float) -> Result:
        """Return or raise the result of the function. Raises TimeoutError after ``seconds``.

        A call that has begun then goes on. One that has not begun is not made.
        """
        future: Future[Result] = Future()
        call = future, function
        with self._changed:
            if self._idle <= len(self._waiting) and len(self._threads) < MOST_THREADS:
                self._start_thread()
            self._waiting.append(call)
            self._changed.notify_all()
        try:
            if wait([future], seconds).done:
                return future.result()
            with self._changed, contextlib.suppress(ValueError):
                self._waiting.remove(call)
            raise TimeoutError
        finally:
            del future, call  # an error's traceback refers to this frame: such a cycle keeps connections open

    def dispose(self) -> None:
        """End the threads that are idle, and wait a moment for them. A later call starts new ones."""
        with self._changed:
            self._generation += 1
            self._changed.notify_all()
            threads = list(self._threads)
        end = time.monotonic() + 1.0
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, args=(self._generation,), name=self._name, daemon=True)
        thread.start()
        self._threads.add(thread)

    def _work(self, generation: int) -> None:
        while call := self._wait_for_call(generation):
            _make(*call)
            del call  # it may refer to the caller's objects
        self._end()

    def _wait_for_call(self, generation: int) -> _Call | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or generation != self._generation)
            self._idle -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._threads.discard(threading.current_thread())
            return None


def _make(future: Future[Any], function: Callable[[], Any]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - raised in the calling thread
        future.set_exception(error)
    finally:
        del future, function
