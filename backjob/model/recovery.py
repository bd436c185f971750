"""What becomes of a job that gives no sign, or whose process is gone: a function of its record, the time and a policy.

Decides, and does nothing. A job of which nothing is certain is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backjob.runtime.process_identity import RESPONSE

from .job import Move, Status

_STOPS = (
    "or the server stopped without waiting for it "
    "(gunicorn: --graceful-timeout, --timeout; uWSGI: worker-reload-mercy for a reload, gracefully_kill_them_all for a "
    "stop, harakiri; mod_wsgi: shutdown-timeout)"
)
PROCESS_GONE = f"The process that ran this job is gone: it crashed, it was killed, {_STOPS}"
LEASE_LAPSED = (
    "The process that ran this job has not renewed its lease for {lease:g} s (lease): "
    "it crashed, it is frozen or unreachable, " + _STOPS
)
TIMED_OUT = "job timeout: no update for {timeout:g} s (error_timeout)"
REQUEST_GONE = "The request that this job was to follow is gone: its process was killed, or it crashed"

_LONGEST_TIMEOUT = 3650 * 86400.0
"""Seconds. An error_timeout beyond that was not set by backjob, and has no effect."""


@dataclass(frozen=True)
class Vouched:
    """As much of a record as tells whether somebody still vouches for the job. Times are aware UTC datetimes."""

    id: int
    status: Status
    attempt: int
    retries: int
    error_timeout: float
    updated_at: datetime
    held_by: str | None = field(repr=False)
    held_until: datetime | None
    lease_by: str | None = field(repr=False)
    lease_until: datetime | None
    cancel_requested: bool


@dataclass(frozen=True)
class Policy:
    """By what it is decided. ``lease`` is in seconds."""

    lease: float
    reached_since: datetime
    """Since when the store could be reached without a break: who was silent before may only not have been heard."""
    is_dead: Callable[[str | None], bool]
    """Is it certain that the process of this name is dead?"""


@dataclass(frozen=True)
class Settlement:
    """How a job is to go on, and what people are told.

    ``is_silence``: only while it still gives no sign. ``is_certain``: its process is dead, and nothing can be heard.
    """

    move: Move
    reason: str
    is_silence: bool = False
    is_certain: bool = False


def decide(job: Vouched, now: datetime, policy: Policy) -> Settlement | None:
    """What is to become of this job now. None: nothing, or not yet."""

    def is_over(end: datetime | None, last_heard: datetime) -> bool:
        """Is it past, and would we have heard of the job since, had there been something to hear?"""
        if end is None:
            return False
        heard_all = policy.reached_since <= last_heard or (now - policy.reached_since).total_seconds() >= policy.lease
        return heard_all and now >= end

    def is_lapsed(until: datetime | None) -> bool:
        return until is not None and is_over(until, until - timedelta(seconds=policy.lease))

    if job.status is Status.STARTED and (job.held_by or "").startswith(RESPONSE):
        is_dead = policy.is_dead(job.held_by)
        is_gone = is_dead or is_lapsed(job.held_until)
        return Settlement(Move.CANCEL, REQUEST_GONE, is_certain=is_dead) if is_gone else None
    if job.status is not Status.INPROGRESS:
        return None
    if policy.is_dead(job.lease_by):
        return Settlement(_choose_end(job), PROCESS_GONE, is_certain=True)
    if is_lapsed(job.lease_until):
        return Settlement(_choose_end(job), LEASE_LAPSED.format(lease=policy.lease))
    if is_over(find_timeout(job), job.updated_at):
        move = Move.CANCEL if job.cancel_requested else Move.FAIL
        return Settlement(move, TIMED_OUT.format(timeout=job.error_timeout), is_silence=True)
    return None


def find_timeout(job: Vouched) -> datetime | None:
    """When it has been silent for too long, should it go on so."""
    is_timed = job.status is Status.INPROGRESS and 0 < job.error_timeout <= _LONGEST_TIMEOUT
    return job.updated_at + timedelta(seconds=job.error_timeout) if is_timed else None


def _choose_end(job: Vouched) -> Move:
    """For a job whose code runs no more."""
    if job.cancel_requested:
        return Move.CANCEL
    return Move.RETRY if job.attempt <= job.retries else Move.FAIL
