"""Log records of a job's life: started, begun, ended or retried. The process that makes the write logs it.

One record for each of these events in the whole deployment. Knows the logger and the moves; no store and no app.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Protocol

from backjob.logs import about

from .job import Job
from .text import escape_controls
from .transitions import Move

log = logging.getLogger("backjob")

_LEVELS = {Move.FAIL: logging.ERROR, Move.RETRY: logging.WARNING}
_WORDS = {Move.RETRY: "failed and runs again"}


class Requested(Protocol):
    """Attributes that a job and its request share."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...


def log_started(job_id: int, request: Requested) -> None:
    """Log that a job was recorded."""
    fields = _describe(request)
    with _unharmed():
        log.info("Job %d started: %s", job_id, _name(fields), extra=about(job_id, 1) | fields)


def log_begun(job_id: int, attempt: int, request: Requested) -> None:
    """Log that an attempt was claimed and begins to run."""
    fields = _describe(request)
    with _unharmed():
        log.info("Job %d begins, attempt %d: %s", job_id, attempt, _name(fields), extra=about(job_id, attempt) | fields)


def log_ended(
    move: Move,
    job_id: int,
    attempt: int,
    request: Requested,
    *,
    seconds: float | None = None,
    reason: str = "",
    error: BaseException | None = None,
) -> None:
    """Log the move that ended an attempt: INFO, WARNING for one that is retried, ERROR for a failure.

    ``seconds``: for how long the attempt ran; None: it never did, or that is not known. ``reason``: one line. ``error``
    is logged with its traceback.
    """
    outcome = move.target.name.lower() if move is not Move.RETRY else "retried"
    fields = _describe(request) | {"outcome": outcome, "seconds": None if seconds is None else round(seconds, 3)}
    with _unharmed():
        log.log(
            _LEVELS.get(move, logging.INFO),
            "Job %d %s%s, attempt %d: %s%s",
            job_id,
            _WORDS.get(move, outcome),
            "" if seconds is None else f" after {seconds:.1f} s",
            attempt,
            _name(fields),
            f": {escape_controls(reason)}" if reason else "",
            exc_info=error,
            extra=about(job_id, attempt) | fields,
        )


def log_late(job: Job, error: BaseException | None, *, is_child: bool = False) -> None:
    """Log an exception, if there is one, that does not decide how its job ends."""
    if error is not None:
        where = "in a process that it has forked" if is_child else "after its end"
        extra = about(job.id, job.attempt)
        log.error("Job %d, attempt %d: exception %s", job.id, job.attempt, where, exc_info=error, extra=extra)


def _unharmed() -> contextlib.AbstractContextManager[None]:
    """Suppress exceptions of the application's log handlers, because the write was already made."""
    return contextlib.suppress(Exception)


def _describe(request: Requested) -> dict[str, Any]:
    return {"method": escape_controls(request.method), "path": escape_controls(request.path)}


def _name(fields: dict[str, Any]) -> str:
    return f"{fields['method']} {fields['path']}"
