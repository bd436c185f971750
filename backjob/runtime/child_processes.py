"""Processes that are forked while a job runs: they end on SIGTERM, and report to their parent that JobEnded was raised.

Knows nothing of jobs.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

_watched: set[Children] = set()
_thread = threading.local()
"""``mask``: the signals that this thread blocked before the fork that it is making."""


class Children:
    """The children of a run, forked by any thread. It costs nothing until the first fork."""

    def __init__(self) -> None:
        self._mark: mmap.mmap | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for forks within this block."""
        _watched.add(self)
        try:
            yield
        finally:
            _watched.discard(self)

    @property
    def have_reported_end(self) -> bool:
        """True if a child has called ``report_end()``."""
        return self._mark is not None and self._mark[0] != 0

    def report_end(self) -> None:
        """Report to the parent that JobEnded is raised in this child, even if other code catches it."""
        if self._mark is not None:
            self._mark[0] = 1

    def share(self) -> None:
        """Make a byte that this process shares with its future children."""
        if self._mark is None:
            with contextlib.suppress(OSError):  # out of memory: the fork fails, or does without
                self._mark = mmap.mmap(-1, 1)


def refuse_pickling() -> NoReturn:
    """Raise TypeError for a job that is pickled."""
    raise TypeError(
        "A job can't be sent to another process: let the process inherit it by a fork within the job, for example as "
        "initargs of a pool, or have it report to the job's own process, which calls update()"
    )


def _before_fork() -> None:
    """Block SIGTERM until the child handles it: a pool may end a child right after the fork, and then waits for it."""
    for children in tuple(_watched):
        children.share()
    if _watched and _is_handled_in_python():
        _thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _begin_child() -> None:
    """Let the child of a job end on SIGTERM.

    gunicorn's workers handle SIGTERM by a method that ends a loop. Children inherit the method, but not the loop: they
    would survive ``multiprocessing.Pool.terminate()``, which waits for them without a limit.
    """
    if _watched and _is_handled_in_python():
        with contextlib.suppress(ValueError):  # in a sub-interpreter no signal can be set
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _restore_mask()


def _is_handled_in_python() -> bool:
    """Return False for a server's handler in C, the default one and an ignored signal, which are left as they are."""
    return callable(signal.getsignal(signal.SIGTERM))


def _restore_mask() -> None:
    mask = _thread.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


os.register_at_fork(before=_before_fork, after_in_parent=_restore_mask, after_in_child=_begin_child)
