"""Chance, which keeps those apart who would all come at once.

It is the system's: the app's own ``random`` gives the same numbers after a ``random.seed()`` whether a job runs or not,
and no two children of a fork draw the same.
"""

from __future__ import annotations

import random

_chance = random.SystemRandom()


def between(least: float, most: float) -> float:
    """A number somewhere from ``least`` to ``most``."""
    return _chance.uniform(least, most)
