"""Checks of the arguments that an app passes, in a job and outside. Bad input raises a clear error at the call.

Knows which ids, numbers and texts a job may have. Reads no job.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from backjob.config import MOST_SCOPE
from backjob.model.text import clean_text
from backjob.storage.queries import LONGEST
from backjob.validation import TIMEOUT, WHOLE, is_number, is_timeout, is_whole, suggest
from backjob.wsgi.forms import encode_form
from backjob.wsgi.headers import check_headers
from backjob.wsgi.redirects import check_redirect_ok

AnyId = int | str | None
"""The id of a job, as a number or as text from a URL. None: the job that runs here."""
_MAX_ID = 2**63 - 1
_MOST_PRIORITY = 1000
_OF_A_REQUEST = frozenset({"self", "target", "method", "data", "json", "body", "content_type"})
"""Arguments of start() that a ``webob.Request`` contains itself."""


def parse_id(job_id: int | str) -> int | None:
    """Return the id as a number, also from the text of a URL. None if it can't be an id."""
    if isinstance(job_id, str) and job_id.isascii() and job_id.isdigit() and len(job_id) < 20:
        job_id = int(job_id)
    if isinstance(job_id, bool) or not isinstance(job_id, int) or not 0 < job_id <= _MAX_ID:
        return None
    return job_id


def check_numbers(delay: float, retries: int, priority: int, error_timeout: float | None) -> None:
    """Raise ValueError for an invalid number among the arguments of start()."""
    if not is_number(delay, 0, LONGEST):
        raise ValueError(f"delay must be a number of seconds from 0 to {LONGEST:.0f}, got {_show_number(delay)}")
    if not is_whole(retries):
        raise ValueError(f"retries must be {WHOLE}, got {_show_number(retries)}")
    if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > _MOST_PRIORITY:
        limits = f"a whole number from -{_MOST_PRIORITY} to {_MOST_PRIORITY}"
        raise ValueError(f"priority must be {limits}, got {_show_number(priority)}")
    if error_timeout is not None and not is_timeout(error_timeout):
        raise ValueError(f"error_timeout must be {TIMEOUT}, got {_show_number(error_timeout)}")


def check_options(options: Mapping[str, Any], names: Collection[str]) -> None:
    """Check options of start() before there is a request. ``names`` are the names of its arguments."""
    known = [name for name in names if name not in _OF_A_REQUEST]
    for name in options:
        if name not in known:
            raise TypeError(f"{name!r} is not an option of a job that is made from a request: {suggest(name, known)}")
    numbers = {name: options.get(name, 0) for name in ("delay", "retries", "priority")}
    check_numbers(**numbers, error_timeout=options.get("error_timeout"))
    flags = {name: options[name] for name in ("as_user", "unique", "after_response") if name in options}
    check_flags(**{name: value for name, value in flags.items() if (name, value) != ("after_response", None)})
    check_scope(options.get("scope", ""))
    check_headers(options.get("headers"), as_user=options.get("as_user", True))
    if options.get("params") is not None:
        encode_form(options["params"], "params")
    if options.get("redirect_ok") is not None:
        check_redirect_ok(options["redirect_ok"])


def _show_number(value: object) -> str:
    """Return a number as it is. For any other value return the type, because a user may have typed the value."""
    return repr(value) if isinstance(value, (int, float)) else type(value).__name__


def check_progress(progress: float) -> float:
    """Return a progress, or an increment of it. Raises ValueError if it is not a finite number."""
    if not is_number(progress, -math.inf, math.inf) or abs(progress) == math.inf:
        raise ValueError(f"progress must be an int or a finite float, not {_show_number(progress)}")
    return progress


def check_text(text: str) -> str:
    """Return the argument of write(). Raises TypeError if it is not a str."""
    if not isinstance(text, str):
        raise TypeError(f"write() takes a str, not {type(text).__name__}")
    return text


def check_flags(**flags: bool) -> None:
    """Raise TypeError for a flag that is neither True nor False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {type(value).__name__}")


def check_scope(scope: str) -> None:
    """Raise ValueError if a job can't have this scope."""
    if not is_scope(scope):
        raise ValueError(f"scope must be a str of at most {MOST_SCOPE} characters, without NUL or lone surrogates")


def is_scope(scope: object) -> bool:
    """Return whether a job can have this scope. Databases can't store a NUL, and a lone surrogate has no UTF-8."""
    return isinstance(scope, str) and len(scope) <= MOST_SCOPE and clean_text(scope) == scope


def check_find(limit: int, text: int | None, before: int | str | None) -> int | None:
    """Return ``before`` of find() as a number, or None. Raises ValueError for an invalid argument."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= 1000:
        raise ValueError(f"limit must be a whole number from 1 to 1000, got {_show_number(limit)}")
    if text is not None and not is_whole(text):
        raise ValueError(f"text must be {WHOLE}, or None for whole texts, got {_show_number(text)}")
    cursor = parse_id(before) if before is not None else None
    if before is not None and cursor is None:
        raise ValueError("before must be the id of a job")
    return cursor


def check_total(total: float | None) -> float | None:
    """Return the number of rows, None if it is not known. Raises ValueError if it is not a number."""
    if total is not None and (not is_number(total, 0, math.inf) or total == math.inf):
        raise ValueError(f"total must be a number of rows, or None, not {_show_number(total)}")
    return total


def check_exception(error: BaseException) -> BaseException:
    """Return the exception. Raises TypeError if it is not one."""
    if not isinstance(error, BaseException):
        raise TypeError(f"error must be an exception, got {type(error).__name__}")
    return error
