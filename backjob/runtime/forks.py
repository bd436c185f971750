"""Hooks around forks, which end with the object that they belong to, and a gate that forks wait for.

Knows nothing of jobs.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from .server_info import find_uwsgi

_LONGEST_WAIT = 1.0
"""Seconds for which a fork waits for the threads within a gate."""
_LONGEST_FORK = 5.0
"""Seconds for which a thread waits for a gate to open."""

_in_child: list[weakref.WeakMethod[Callable[[], Any]]] = []
_followed: list[Any] = []
_pid = os.getpid()
_lock = threading.Lock()


def call_before_fork(method: Callable[[], Any]) -> None:
    """Call this bound method in the parent before each fork, as long as its object lives."""
    reference = weakref.WeakMethod(method)
    os.register_at_fork(before=lambda: _call(reference))


def call_after_fork(method: Callable[[], Any]) -> None:
    """Call this bound method in the parent after each fork, as long as its object lives."""
    reference = weakref.WeakMethod(method)
    os.register_at_fork(after_in_parent=lambda: _call(reference))


def call_in_child(method: Callable[[], Any]) -> None:
    """Call this bound method in the child of each fork, as long as its object lives."""
    _follow_uwsgi()
    _in_child[:] = [reference for reference in _in_child if reference() is not None]
    _in_child.append(weakref.WeakMethod(method))


def has_children() -> bool:
    """Return whether this process has children, zombies included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _follow_uwsgi() -> None:
    """Use uWSGI's own hook, beside others that use it, because its forks in C call none of Python's hooks."""
    uwsgi = find_uwsgi()
    if uwsgi is None or _followed:
        return
    _followed.append(uwsgi)
    chain = getattr(sys.modules.get("uwsgidecorators"), "postfork_chain", None)
    if chain is not None:
        chain.append(detect_fork)
        return
    others = getattr(uwsgi, "post_fork_hook", lambda: None)

    def call_all() -> None:
        detect_fork()
        others()

    uwsgi.post_fork_hook = call_all


def detect_fork() -> None:
    """Call the hooks of a child that was forked without calling any hook."""
    if os.getpid() != _pid:
        with _lock:
            if os.getpid() != _pid:
                _begin_child()


def _begin_child() -> None:
    global _pid, _lock  # noqa: PLW0603 - there is one process
    _lock = threading.Lock()
    for reference in tuple(_in_child):
        _call(reference)
    _pid = os.getpid()


def _call(reference: weakref.WeakMethod[Callable[[], Any]]) -> None:
    method = reference()
    if method is not None:
        method()


class ForkGate:
    """Context manager around each use of a resource. A fork waits until no thread is within, and new ones wait for it.

    Each wait has a time-out, after which the thread goes on as if there were no gate. A thread that is within already
    does not wait.
    """

    def __init__(self) -> None:
        self._begin()
        call_before_fork(self._close)
        call_after_fork(self._open)
        call_in_child(self._begin)

    def _begin(self) -> None:
        self._changed = threading.Condition()  # reentrant, as a signal's handler may fork wherever it comes
        self._within: list[int] = []
        """The threads within, each as often as it entered."""
        self._forking: set[int] = set()

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            if self._forking and me not in self._within:
                self._changed.wait_for(lambda: self._forking <= {me}, _LONGEST_FORK)
            self._within.append(me)

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        with self._changed:
            if me in self._within:  # not so in a child that was forked from within
                self._within.remove(me)
            if self._forking:
                self._changed.notify_all()

    def _close(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._forking.add(me)
            # A thread that forks from within does not wait: other threads may be waiting for what it uses.
            if me not in self._within:
                with contextlib.suppress(AssertionError):  # gevent's hub may not wait
                    self._changed.wait_for(lambda: not self._within, _LONGEST_WAIT)

    def _open(self) -> None:
        with self._changed:
            self._forking.discard(threading.get_ident())
            self._changed.notify_all()


os.register_at_fork(after_in_child=_begin_child)
