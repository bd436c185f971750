"""A thread that calls a function from time to time. Knows nothing of jobs."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable

from .threads import AutoResetEvent, Threads

log = logging.getLogger("backjob")

START_DELAY = 1.0
"""Seconds from the start of a process to the first step of its keeper: most servers have forked by then."""
_LONGEST_STEP = 5.0
_AFTER_ERROR = 5.0


class BackgroundThread:
    """Calls ``step`` until it is stopped: a bound method that returns the seconds until the next call.

    ``end``, also a bound method, is called in the thread after its last step: only the thread that opened a socket of
    gevent's can use and close it.
    """

    def __init__(self, step: Callable[[], float], end: Callable[[], None], native: bool) -> None:
        # Weak, so that the thread does not keep an unused application alive.
        self._step = weakref.WeakMethod(step, lambda _: self._let_end())
        self._end = weakref.WeakMethod(end)
        self._threads = Threads(native)
        self._starting = self._threads.make_lock()
        self._working = self._threads.make_lock()
        """Held by one thread after the other, until it has closed what it has opened."""
        self._wake: AutoResetEvent | None = None
        """The event of the current thread. A thread ends when it finds another one's here."""
        self._is_early = False

    @property
    def is_running(self) -> bool:
        """True if it was started, and not stopped since."""
        return self._wake is not None

    def start(self, after: float = 0.0) -> None:
        """Start after so many seconds. A second call without ``after`` ends that delay."""
        with self._starting:
            if self._wake is not None:
                if self._is_early and not after:
                    self._wake.set()
                return
            self._is_early = True
            self._wake = wake = AutoResetEvent(self._threads)
            try:
                self._threads.start(lambda: self._work(wake, after), "backjob-keeper", self._working)
            except RuntimeError as error:  # no more threads: the next request tries again
                self._wake = None
                log.warning("There is no thread for the keeper: %s", error)

    def stop(self) -> None:
        """Take no further step, and wait until the current one is over and the thread has closed what it has opened."""
        if self._let_end() and self._working.acquire(True, _LONGEST_STEP):
            self._working.release()

    def _let_end(self) -> bool:
        """Let the thread end, without waiting, because it may be the calling thread. Return whether one was running."""
        wake, self._wake = self._wake, None
        if wake is not None:
            wake.set()
        return wake is not None

    def _work(self, wake: AutoResetEvent, after: float) -> None:
        wake.wait(after)
        self._is_early = False
        if self._wake is wake:
            self._take_steps(wake)
            end = self._end()
            if end is not None:
                end()

    def _take_steps(self, wake: AutoResetEvent) -> None:
        while self._wake is wake and (step := self._step()) is not None:
            try:
                wait = step()
            except Exception:
                log.exception("The keeper goes on after an error of its own")
                wait = _AFTER_ERROR
            del step
            wake.wait(wait)
