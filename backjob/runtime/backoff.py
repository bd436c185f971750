"""Chance, which keeps those apart who would all come at once, and the pauses that grow.

It is the system's: the app's own ``random`` gives the same numbers after a ``random.seed()`` whether a job runs or not,
and no two children of a fork draw the same.
"""

from __future__ import annotations

import random

_chance = random.SystemRandom()
_SHORTEST, _LONGEST = 1.0, 300.0
_LEAST, _MOST = 0.5, 1.5
_LONGEST_IN_OUTAGE = 60.0


def between(least: float, most: float) -> float:
    """A number somewhere from ``least`` to ``most``."""
    return _chance.uniform(least, most)


def backoff(waited: float) -> float:
    """Seconds until the next try: as many as went by so far, from 1 to 300, times 0.5 to 1.5 to spread the load."""
    return _pause(waited) * between(_LEAST, _MOST)


def outage_backoff(waited: float) -> float:
    """Seconds until the next try in an outage: the same, but at most 60."""
    return backoff(min(waited, _LONGEST_IN_OUTAGE / _MOST))


def longest_backoff(waited: float) -> float:
    """As many seconds as backoff() gives at most."""
    return _pause(waited) * _MOST


def _pause(waited: float) -> float:
    return min(max(waited, _SHORTEST), _LONGEST)


def retry_delay(attempt: int) -> float:
    """Seconds from the end of this attempt (the first is 1) to the next one: 1, 2, 4 … 300, times 0.5 to 1.5."""
    return backoff(2.0 ** min(attempt - 1, 9))
