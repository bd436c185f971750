"""Calls that somebody waits for only so long: each is made in one of a few threads, for clients without a time-out.

Knows nothing of what is called. A call that never comes back keeps its thread; the other calls have the other threads.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

MOST_THREADS = 4


class _Call:
    __slots__ = ("_error", "_function", "_value", "is_done")

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._value: Any = None
        self._error: BaseException | None = None
        self.is_done = threading.Event()

    def make(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:  # noqa: BLE001 - raised where somebody waits for it
            self._error = error
        self.is_done.set()

    def take_result(self) -> Any:
        # The error's traceback knows frames that know this call: what is in a cycle keeps its connection open.
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._value
        finally:
            del error


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
        """What the function returns or raises; TimeoutError when that takes longer.

        A call that is under way then goes on; one that was not begun is not made any more.
        """
        call = _Call(function)
        with self._changed:
            if self._idle <= len(self._waiting) and len(self._threads) < MOST_THREADS:
                self._start_thread()
            self._waiting.append(call)
            self._changed.notify_all()
        if not call.is_done.wait(seconds):
            with self._changed, contextlib.suppress(ValueError):
                self._waiting.remove(call)
            raise TimeoutError
        result: Result = call.take_result()
        return result

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
            call.make()
            del call  # whatever it holds is not for this thread to keep
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
