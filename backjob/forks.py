"""What is to happen when the process forks, for as long as the one whom it concerns lives. Knows nothing of jobs."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any


def call_before_fork(method: Callable[[], Any]) -> None:
    """Call this bound method in the parent before each fork, while its object lives."""
    os.register_at_fork(before=_weakly(method))


def call_in_child(method: Callable[[], Any]) -> None:
    """Call this bound method in the child of each fork, while its object lives."""
    os.register_at_fork(after_in_child=_weakly(method))


def _weakly(method: Callable[[], Any]) -> Callable[[], None]:
    reference = weakref.WeakMethod(method)

    def call_if_alive() -> None:
        alive = reference()
        if alive is not None:
            alive()

    return call_if_alive
