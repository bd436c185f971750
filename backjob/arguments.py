"""What the calls of an app may be given: bad input gets a clear error at the edge, in a job and outside.

Knows nothing of jobs but what their ids, numbers and texts may be.
"""

from __future__ import annotations

import math

from .config import MOST_SCOPE
from .ranges import TIMEOUT, WHOLE, is_number, is_timeout, is_whole
from .store import LONGEST

_MAX_ID = 2**63 - 1
_MOST_PRIORITY = 1000


def parse_id(job_id: int | str) -> int | None:
    """Ids come from URLs too, as text. None for what can't be one."""
    if isinstance(job_id, str) and job_id.isascii() and job_id.isdigit() and len(job_id) < 20:
        job_id = int(job_id)
    if isinstance(job_id, bool) or not isinstance(job_id, int) or not 0 < job_id <= _MAX_ID:
        return None
    return job_id


def check_numbers(delay: float, retries: int, priority: int, error_timeout: float | None) -> None:
    """Those of start(). Raises ValueError."""
    if not is_number(delay, 0, LONGEST):
        raise ValueError(f"delay must be a number of seconds from 0 to {LONGEST:.0f}")
    if not is_whole(retries):
        raise ValueError(f"retries must be {WHOLE}")
    if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > _MOST_PRIORITY:
        raise ValueError(f"priority must be a whole number from -{_MOST_PRIORITY} to {_MOST_PRIORITY}")
    if error_timeout is not None and not is_timeout(error_timeout):
        raise ValueError(f"error_timeout must be {TIMEOUT}")


def check_progress(progress: float) -> float:
    """The progress that was told, or how much more. Raises ValueError for what is none, in a job and outside."""
    if not is_number(progress, -math.inf, math.inf) or abs(progress) == math.inf:
        raise ValueError(f"progress must be an int or a finite float, not {progress!r}")
    return progress


def check_text(text: str) -> str:
    """The argument of write(). Raises TypeError for what is no text, in a job and outside."""
    if not isinstance(text, str):
        raise TypeError(f"write() takes a str, not {type(text).__name__}")
    return text


def check_flags(**flags: bool) -> None:
    """Raises TypeError for one that is neither True nor False, by its name."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False")


def check_scope(scope: str) -> None:
    """Raises ValueError for what is no scope."""
    if not isinstance(scope, str) or len(scope) > MOST_SCOPE:
        raise ValueError(f"scope must be a str of at most {MOST_SCOPE} characters")


def check_total(total: float | None) -> float | None:
    """How many rows there are, if that is known. Raises ValueError for what is no number of rows."""
    if total is not None and (not is_number(total, 0, math.inf) or total == math.inf):
        raise ValueError(f"total must be a number of rows, or None, not {total!r}")
    return total


def check_exception(error: BaseException) -> BaseException:
    """Raises TypeError for what is no exception, in a job and outside."""
    if not isinstance(error, BaseException):
        raise TypeError(f"an exception is wanted, not {type(error).__name__}")
    return error
