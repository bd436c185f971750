"""The limit for answers of the database that do not come, over all tries of one call of the store.

A call may wait for several answers, and tries again after a lost one. Without a common limit each try would wait for as
long as the first. Answers that come, and connections that break at once, leave the limit as it is. Knows nothing of
connections.
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

from .errors import TimedOut
from .faults import AnswerLost, Unreachable

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
    """Is a connection being opened, or tested before its use?"""
    is_over: bool = False
    """Has it ended? A thread that was started meanwhile may have inherited it."""


_current: ContextVar[_Call | None] = ContextVar("backjob_call", default=None)


@contextlib.contextmanager
def one_call() -> Iterator[None]:
    """Let everything within share one limit. Within another such block that one's limit holds."""
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
    """Return this function with one limit for all that it waits for."""

    @functools.wraps(method)
    def limited(*arguments: Any, **options: Any) -> Any:
        with one_call():
            return method(*arguments, **options)

    return cast(Method, limited)


def methods_as_one_call(but: Collection[str]) -> Callable[[Class], Class]:
    """Return a class decorator that does this to all public methods, ``but`` not to these."""

    def decorate(owner: Class) -> Class:
        for name, method in inspect.getmembers(owner, inspect.isfunction):
            if not name.startswith("_") and name not in but:
                setattr(owner, name, as_one_call(method))
        return owner

    return decorate


@contextlib.contextmanager
def limited_try(patience: float) -> Iterator[None]:
    """Count the time of a try that fails because a connection, an answer or a lock did not come.

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
    """Mark the opening of a connection: its answers are waited for less long."""
    call = _find_call() or _Call()
    token, call.is_opening = _current.set(call), True
    try:
        yield
    finally:
        call.is_opening = False
        _current.reset(token)


def is_opening() -> bool:
    """Is a connection being opened, so that no statement of ours is under way?"""
    call = _find_call()
    return call is not None and call.is_opening


def seconds_left(patience: float) -> float:
    """Return for how long the next answer may be waited for, if all lost ones may take ``patience`` seconds."""
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
