"""One time limit for all waits of a store call that end without an answer from the database.

A call may wait for several answers, and tries again after a lost one. Without a common limit each try would wait for as
long as the first. Statements that are answered, and connections that break at once, do not use up the limit. Knows
nothing of connections.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from backjob.errors import TimedOut

from .errors import AnswerLost, Unreachable

_OPENING_PART = 0.5
"""The longest wait for an answer on a connection that is being opened, as a fraction of the limit. So time is left to
replace an idle connection that is dead."""

Class = TypeVar("Class", bound=type)
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass
class _Call:
    """A call of the store."""

    lost: float = 0.0
    """Seconds of waits that ended without an answer."""
    is_opening: bool = False
    """True while a connection is opened, or tested before its use."""
    is_over: bool = False
    """True if the call has ended. A thread that was started during the call may have inherited this object."""


_current: ContextVar[_Call | None] = ContextVar("backjob_call", default=None)


@contextlib.contextmanager
def one_call() -> Iterator[None]:
    """Make all waits in this block share one limit. A block within another one uses the outer limit."""
    if _find_call() is not None:
        yield
        return
    call = _Call()
    token = _current.set(call)
    try:
        yield
    finally:
        call.is_over = True
        _current.reset(token)


def _find_call() -> _Call | None:
    call = _current.get()
    return call if call is not None and not call.is_over else None


def as_one_call(method: Method) -> Method:
    """Return a wrapper that calls this function within one_call()."""

    @functools.wraps(method)
    def limited(*arguments: Any, **options: Any) -> Any:
        with one_call():
            return method(*arguments, **options)

    return cast(Method, limited)


def methods_as_one_call(but: Collection[str]) -> Callable[[Class], Class]:
    """Return a class decorator that applies as_one_call() to all public methods except those in ``but``."""

    def decorate(owner: Class) -> Class:
        for name, method in inspect.getmembers(owner, inspect.isfunction):
            if not name.startswith("_") and name not in but:
                setattr(owner, name, as_one_call(method))
        return owner

    return decorate


@contextlib.contextmanager
def limited_try(patience: float) -> Iterator[None]:
    """Count the time of a try that ends with AnswerLost, TimedOut or Unreachable.

    ``patience``: the limit in seconds. When it is used up, AnswerLost is raised at once.
    """
    left, begin = seconds_left(patience), time.monotonic()
    if left <= 0:
        raise AnswerLost(f"The job database can't be used: it has not answered within {patience:.2g} s")
    try:
        yield
    except (AnswerLost, TimedOut, Unreachable):
        note_lost(time.monotonic() - begin - (left - seconds_left(patience)))
        raise


@contextlib.contextmanager
def opening() -> Iterator[None]:
    """Mark the opening of a connection, during which the wait for an answer is shorter."""
    call = _find_call() or _Call()
    token, call.is_opening = _current.set(call), True
    try:
        yield
    finally:
        call.is_opening = False
        _current.reset(token)


def is_opening() -> bool:
    """Is a connection being opened? Then no statement of ours is running."""
    call = _find_call()
    return call is not None and call.is_opening


def seconds_left(patience: float) -> float:
    """Return the longest wait for the next answer, in seconds. ``patience``: the limit of the whole call."""
    call = _find_call()
    if call is None:
        return patience
    left = max(0.0, patience - call.lost)
    return min(left, patience * _OPENING_PART) if call.is_opening else left


def note_lost(seconds: float) -> None:
    """Count a wait of so many seconds that ended without an answer."""
    call = _find_call()
    if call is not None:
        call.lost += max(0.0, seconds)
