"""The end of an attempt as its own code meets it: JobEnded is raised once, and clean-up code is left alone.

Also what an exception that leaves the app means: the job has ended, or the server is to stop. Knows no store.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NoReturn

from backjob.errors import JobEnded, JobEndedInPool, leaves
from backjob.runtime.child_processes import Children

_raised: ContextVar[object] = ContextVar("backjob_ended", default=None)
"""The run whose JobEnded was raised in this thread, asyncio task or greenlet, or in the one that this copies."""


class Ending:
    """Whether an attempt has ended. To be made in the thread that runs the attempt.

    JobEnded is raised once in that thread, and once in each asyncio task in it. Other threads and children of a fork
    may belong to a pool. There each call raises it, unless it is part of a clean-up, so that the pool's next piece of
    work ends too; and it is an ordinary exception, which the pool hands over. A thread that the clean-up starts is
    part of it. ``find_out`` is called when a child has met the end; it sets the reason.
    """

    def __init__(self, find_out: Callable[[], object]) -> None:
        self._find_out = find_out
        self.reason: str | None = None
        """Why it has ended; None as long as the attempt goes on."""
        self.children = Children()
        self._run = object()
        self._outer = sys.exc_info()[1]
        self._home = os.getpid(), threading.get_ident()
        self._is_home_told = False
        self._threads_before: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        """The threads that were alive when JobEnded was first raised."""

    def is_live(self) -> bool:
        """Does the attempt go on? If it has ended, raise JobEnded, except to code that is cleaning up."""
        if self.reason is None and self.children.have_reported_end:
            self._find_out()
        if self.reason is None:
            return True
        is_known = _raised.get() is self._run
        if not (is_known or is_cleaning_up(self._outer) or self._is_begun_by_clean_up()):
            self.tell()
        return False

    def tell(self) -> NoReturn:
        """Raise JobEnded."""
        if not self._threads_before:
            self._threads_before.update(threading.enumerate())
        if self._is_at_home():
            self._is_home_told = True
            _raised.set(self._run)
            raise JobEnded(self.reason)
        if os.getpid() != self._home[0]:
            self.children.report_end()
        raise JobEndedInPool(self.reason)

    def _is_begun_by_clean_up(self) -> bool:
        """Was this thread started after JobEnded was raised, while the attempt's own thread handles it?"""
        process, home = self._home
        if process != os.getpid() or home == threading.get_ident():
            return False
        is_home_ended = self._is_home_told or holds_job_ended(_find_handled(home), self._outer)
        return is_home_ended and threading.current_thread() not in self._threads_before

    def _is_at_home(self) -> bool:
        """Is this the thread that runs the attempt?"""
        return (os.getpid(), threading.get_ident()) == self._home


def is_cleaning_up(outer: BaseException | None) -> bool:
    """Does the caller run in a handler or ``finally`` because its code is being ended, by JobEnded or the like?

    ``outer`` is the exception that was handled when the code began: it may be run in the clean-up of other code.

    An asyncio task is ended by CancelledError when another one has met JobEnded, and a generator by GeneratorExit. None
    of these is an ``Exception``. A handler of an exception that clean-up code has raised is part of the clean-up.
    """
    handled = _with_causes(sys.exc_info()[1], outer)
    return any(isinstance(each, JobEnded) or not isinstance(each, Exception) for each in handled)


def _find_handled(thread: int) -> BaseException | None:
    """Return the exception that this thread handles, None if it is a greenlet."""
    found: Any = sys._current_exceptions().get(thread)  # noqa: SLF001 - documented, and the one way
    error: BaseException | None = found[1] if isinstance(found, tuple) else found  # a tuple before Python 3.12
    return error


def holds_job_ended(error: BaseException | None, outer: BaseException | None = None) -> bool:
    """Is this JobEnded, or a consequence of it: a group that has it, or an exception raised while it was handled?

    ``outer``: see is_cleaning_up().
    """
    return any(isinstance(each, JobEnded) for each in _with_causes(error, outer))


def find_stop(error: BaseException) -> BaseException | None:
    """The exception that ends the server's worker, and not only the job: this one, or one in this group; or None.

    gevent and eventlet end the greenlet of a request by GreenletExit, as gunicorn does with its graceful time-out over.
    """
    greenlet_exit = getattr(sys.modules.get("greenlet"), "GreenletExit", SystemExit)
    stops = (SystemExit, KeyboardInterrupt, greenlet_exit)
    return next((leaf for leaf in leaves(error) if isinstance(leaf, stops)), None)


def _with_causes(error: BaseException | None, outer: BaseException | None = None) -> Iterator[BaseException]:
    """This exception, the members of a group, and what led to each of them, up to the outer one."""
    seen = {id(outer)}
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__, *(leaf for leaf in leaves(each) if leaf is not each)]
