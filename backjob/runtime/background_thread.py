"""The thread in which a keeper works, from a moment after the app was made to the end of the process, and over forks.

Knows nothing of jobs: what is done in it is somebody else's.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable

from .threads import Bell, Threads

log = logging.getLogger("backjob")

MOMENT = 1.0
"""Seconds from the start of a process until its keeper begins: most servers have forked by then."""
_LONGEST_STEP = 5.0
_AFTER_ERROR = 5.0


class KeeperThread:
    """Calls ``step`` until it is stopped: a bound method that tells how many seconds there is nothing to do.

    ``end``, another one, is called after its last step, by the thread too: where a socket is gevent's, only the
    thread that opened it can use and close it.
    """

    def __init__(self, step: Callable[[], float], end: Callable[[], None], native: bool) -> None:
        # An app that nobody has any more ends its keeper, not the other way round.
        self._step = weakref.WeakMethod(step, lambda _: self._let_end())
        self._end = weakref.WeakMethod(end)
        self._threads = Threads(native)
        self._starting = self._threads.make_lock()
        self._working = self._threads.make_lock()
        """Held by one thread after the other, each as long as it has anything of its own."""
        self._bell: Bell | None = None
        """That of the thread that is wanted: one that finds another's there ends."""
        self._is_early = False

    @property
    def is_running(self) -> bool:
        """Was it started, and not stopped since?"""
        return self._bell is not None

    def start(self, after: float = 0.0) -> None:
        """Begin so many seconds from now, or, if it waits for its first moment, now."""
        with self._starting:
            if self._bell is not None:
                if self._is_early and not after:
                    self._bell.ring()
                return
            self._is_early = True
            self._bell = bell = Bell(self._threads)
            try:
                self._threads.start(lambda: self._work(bell, after), "backjob-keeper", self._working)
            except RuntimeError as error:  # no more threads: the next request tries again
                self._bell = None
                log.warning("There is no thread for the keeper: %s", error)

    def stop(self) -> None:
        """Take no further step, and wait until the one that is under way is done and the thread has let go of all."""
        if self._let_end() and self._working.acquire(True, _LONGEST_STEP):
            self._working.release()

    def _let_end(self) -> bool:
        """The thread is not wanted any more; was it? Waits for nothing: it may be that very thread which comes here."""
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.ring()
        return bell is not None

    def _work(self, bell: Bell, after: float) -> None:
        bell.wait(after)
        self._is_early = False
        if self._bell is bell:
            self._take_steps(bell)
            end = self._end()
            if end is not None:
                end()

    def _take_steps(self, bell: Bell) -> None:
        while self._bell is bell and (step := self._step()) is not None:
            try:
                wait = step()
            except Exception:
                log.exception("The keeper goes on after an error of its own")
                wait = _AFTER_ERROR
            del step
            bell.wait(wait)
