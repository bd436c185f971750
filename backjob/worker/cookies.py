"""Cookies that the response of a job sets. No browser receives them, so a rotated session cookie signs the user out."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from backjob.logs import about

log = logging.getLogger("backjob")

_warned: set[str] = set()
"""Names of the cookies for which this process has logged the warning."""


def list_changed(cookie: str, set_cookies: Iterable[str]) -> list[str]:
    """Return the names of the request's cookies that the response sets to other values."""
    sent = _read_pairs(cookie.split(";"))
    received = _read_pairs(each.partition(";")[0] for each in set_cookies)
    return [name for name, value in received.items() if sent.get(name, value) != value]


def warn_of_changed(cookie: str, set_cookies: Iterable[str], job_id: int, attempt: int) -> None:
    """Log a warning about each cookie of the user that a job's response changes, once per name and process."""
    for name in list_changed(cookie, set_cookies):
        if name not in _warned:
            _warned.add(name)
            log.warning(
                "Job %d, attempt %d: its response sets the user's cookie %r to another value, which no browser gets. "
                "If a session was rotated, its user is signed out: do that outside of jobs",
                *(job_id, attempt, name),
                extra=about(job_id, attempt),
            )


def _read_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """Read ``name=value`` pairs (RFC 6265, section 4.2.1). Quotes around a value are no part of it."""
    found = (each.partition("=") for each in pairs if "=" in each)
    return {name.strip(): value.strip().strip('"') for name, _, value in found}
