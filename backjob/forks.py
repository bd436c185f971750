"""What is to happen when the process forks, for as long as the one whom it concerns lives. Knows nothing of jobs."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

_in_child: list[weakref.WeakMethod[Callable[[], Any]]] = []
_followed: list[Any] = []
_pid = os.getpid()
_lock = threading.Lock()


def call_before_fork(method: Callable[[], Any]) -> None:
    """Call this bound method in the parent before each fork, while its object lives."""
    reference = weakref.WeakMethod(method)
    os.register_at_fork(before=lambda: _call(reference))


def call_after_fork(method: Callable[[], Any]) -> None:
    """Call this bound method in the parent after each fork, while its object lives."""
    reference = weakref.WeakMethod(method)
    os.register_at_fork(after_in_parent=lambda: _call(reference))


def call_in_child(method: Callable[[], Any]) -> None:
    """Call this bound method in the child of each fork, while its object lives."""
    _follow_uwsgi()
    _in_child[:] = [reference for reference in _in_child if reference() is not None]
    _in_child.append(weakref.WeakMethod(method))


def _follow_uwsgi() -> None:
    """uWSGI forks in C, where none of Python's hooks is called. It has one of its own, and others may be on it."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or _followed:
        return
    _followed.append(uwsgi)
    chain = getattr(sys.modules.get("uwsgidecorators"), "postfork_chain", None)
    if chain is not None:
        chain.append(notice_fork)
        return
    others = getattr(uwsgi, "post_fork_hook", lambda: None)

    def call_all() -> None:
        notice_fork()
        others()

    uwsgi.post_fork_hook = call_all  # type: ignore[attr-defined]


def notice_fork() -> None:
    """See that all that is to be called in a child was, also where nobody told of the fork."""
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


os.register_at_fork(after_in_child=_begin_child)
