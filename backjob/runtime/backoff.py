"""Exponential backoff with jitter.

The random numbers are the system's: an application's ``random.seed()`` has no effect, and children of a fork differ.
"""

from __future__ import annotations

import random

_random = random.SystemRandom()
_SHORTEST, _LONGEST = 1.0, 300.0
_LEAST_FACTOR, _MOST_FACTOR = 0.5, 1.5
_LONGEST_IN_OUTAGE = 60.0


def random_between(least: float, most: float) -> float:
    """Return a random number from ``least`` to ``most``."""
    return _random.uniform(least, most)


def backoff(waited: float) -> float:
    """Return the seconds until the next try: as many as went by so far, from 1 to 300, times a factor of 0.5 to 1.5."""
    return _limit(waited) * random_between(_LEAST_FACTOR, _MOST_FACTOR)


def outage_backoff(waited: float) -> float:
    """Return the seconds until the next try in an outage: backoff(), but at most 60."""
    return backoff(min(waited, _LONGEST_IN_OUTAGE / _MOST_FACTOR))


def longest_backoff(waited: float) -> float:
    """Return the most seconds that backoff() returns."""
    return _limit(waited) * _MOST_FACTOR


def retry_delay(attempt: int) -> float:
    """Return the seconds from the end of this attempt (the first is 1) to the next: 1, 2, 4 … 300, times 0.5 to 1.5."""
    return backoff(2.0 ** min(attempt - 1, 9))


def _limit(waited: float) -> float:
    return min(max(waited, _SHORTEST), _LONGEST)
