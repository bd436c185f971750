"""The end of an attempt in the application's code: JobEnded is raised once, and clean-up code is not interrupted.

Also the meaning of an exception that leaves the app: the job has ended, or the server is to stop. Knows no store.
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
    """End of an attempt. It is created in the thread that runs the attempt.

    JobEnded is raised once in that thread, and once in each asyncio task in it. Other threads and children of a fork
    may belong to a pool. There each call raises it, except in clean-up code, so that the pool's next task ends too.
    There it is an ordinary exception, which the pool passes on. A thread that clean-up code starts is part of it.
    ``check_for_end`` is called when a child has raised JobEnded. It sets the reason.
    """

    def __init__(self, check_for_end: Callable[[], object]) -> None:
        self._check_for_end = check_for_end
        self.reason: str | None = None
        """Reason of the end. None as long as the attempt runs."""
        self.children = Children()
        self._run = object()
        self._outer = sys.exc_info()[1]
        self._runner = os.getpid(), threading.get_ident()
        self._has_runner_raised = False
        self._threads_before: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        """The threads that were alive when JobEnded was first raised."""

    def is_live(self) -> bool:
        """Does the attempt still run? Raises JobEnded if it has ended, except in clean-up code."""
        if self.reason is None and self.children.have_reported_end:
            self._check_for_end()
        if self.reason is None:
            return True
        is_raised = _raised.get() is self._run
        if not (is_raised or is_cleaning_up(self._outer) or self._is_begun_by_clean_up()):
            self.raise_job_ended()
        return False

    def raise_job_ended(self) -> NoReturn:
        """Raise JobEnded."""
        if not self._threads_before:
            self._threads_before.update(threading.enumerate())
        if (os.getpid(), threading.get_ident()) == self._runner:
            self._has_runner_raised = True
            _raised.set(self._run)
            raise JobEnded(self.reason)
        if os.getpid() != self._runner[0]:
            self.children.report_end()
        raise JobEndedInPool(self.reason)

    def _is_begun_by_clean_up(self) -> bool:
        """Was this thread started after JobEnded was raised, while the attempt's own thread handles it?"""
        process, thread = self._runner
        if process != os.getpid() or thread == threading.get_ident():
            return False
        has_ended = self._has_runner_raised or holds_job_ended(_find_handled(thread), self._outer)
        return has_ended and threading.current_thread() not in self._threads_before


def is_cleaning_up(outer: BaseException | None) -> bool:
    """Does the caller run in a handler or ``finally`` because of JobEnded or another exception that ends code?

    ``outer`` is the exception that was handled when the code began: it may run in the clean-up of other code.

    CancelledError ends the other asyncio tasks after JobEnded in one of them, and GeneratorExit ends a generator. None
    of these is an ``Exception``. A handler of an exception that clean-up code has raised is part of the clean-up.
    """
    handled = _with_causes(sys.exc_info()[1], outer)
    return any(isinstance(each, JobEnded) or not isinstance(each, Exception) for each in handled)


def _find_handled(thread: int) -> BaseException | None:
    """Return the exception that this thread handles, None for a greenlet."""
    found: Any = sys._current_exceptions().get(thread)  # noqa: SLF001 - documented, and the one way
    error: BaseException | None = found[1] if isinstance(found, tuple) else found  # a tuple before Python 3.12
    return error


def holds_job_ended(error: BaseException | None, outer: BaseException | None = None) -> bool:
    """Return whether this is JobEnded, a group with it, or an exception raised while it was handled.

    ``outer``: see is_cleaning_up().
    """
    return any(isinstance(each, JobEnded) for each in _with_causes(error, outer))


def find_stop(error: BaseException) -> BaseException | None:
    """Return the exception that ends the server's worker, and not only the job: this one or one in this group, or None.

    gevent and eventlet end the greenlet of a request with GreenletExit, as gunicorn does after its graceful time-out.
    """
    greenlet_exit = getattr(sys.modules.get("greenlet"), "GreenletExit", SystemExit)
    stops = (SystemExit, KeyboardInterrupt, greenlet_exit)
    return next((leaf for leaf in leaves(error) if isinstance(leaf, stops)), None)


def _with_causes(error: BaseException | None, outer: BaseException | None = None) -> Iterator[BaseException]:
    """Yield this exception, the members of a group, and the causes of each, up to the outer one."""
    seen = {id(outer)}
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__, *(leaf for leaf in leaves(each) if leaf is not each)]
