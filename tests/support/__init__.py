"""What the tests share: waiting for a real state, and, a module each, the peers and servers that they talk to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
DOCS = ROOT / "docs"

State = TypeVar("State")

AT_END = contextlib.ExitStack()
"""Closed at the end of this process's tests: what all of them share."""

_INTERVAL = 0.02


def wait_until(look: Callable[[], State], seconds: float = 20) -> State:
    """Look at a real state until it is true, and return it. Fails when it is not after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (state := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still {state!r} after {seconds:g} s")
        time.sleep(_INTERVAL)
    return state
