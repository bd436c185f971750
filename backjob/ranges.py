"""What numbers may be, wherever an app gives one: said in words, and asked of a value."""

from __future__ import annotations

MOST_WHOLE = 2**31 - 1
"""What the databases' integers hold."""
WHOLE = f"a whole number from 0 to {MOST_WHOLE}"
LEAST_ERROR_TIMEOUT = 0.5
"""Seconds. What a job tells is written each 0.2 s at most: with less, one that tells all the time would fail when one
such write takes a moment."""
MOST = 1e9
TIMEOUT = f"0 (never) or a number of seconds from {LEAST_ERROR_TIMEOUT} to {MOST:.0f}"


def is_whole(value: object) -> bool:
    """Is it what WHOLE says?"""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_WHOLE


def is_number(value: object, least: float, most: float) -> bool:
    """Is it an int or a float in this range? NaN is in none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most


def is_timeout(value: object) -> bool:
    """Is it what TIMEOUT says?"""
    return is_number(value, LEAST_ERROR_TIMEOUT, MOST) or is_number(value, 0, 0)


def check_version(text: str) -> None:
    """Raise ValueError unless this can be a version of the app: 1-64 printable ASCII characters without blanks."""
    if not 0 < len(text) <= 64 or not all("!" <= each <= "~" for each in text):
        raise ValueError("it must be 1-64 printable ASCII characters without blanks")
