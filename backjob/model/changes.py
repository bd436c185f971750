"""What each write makes of a record: its guard, and what it changes. Pure, for stores that have no UPDATE … WHERE.

A change is a function of the record as it is now; it gives the next one, or None when it is not allowed (any more).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from backjob.runtime.process_identity import RESPONSE

from .app_id import may_have
from .job import Job, Move, Status

JobChange = Callable[[Job], "Job | None"]

_NO_HOLD: dict[str, Any] = {"held_by": None, "held_until": None, "launch_failed_at": None}
_NO_LEASE: dict[str, Any] = {"lease_by": None, "lease_until": None}


def is_free(job: Job, now: datetime) -> bool:
    """Does nobody hold it (any more)? What waits for a response is never free."""
    return job.held_until is None or (job.held_until <= now and not (job.held_by or "").startswith(RESPONSE))


def pass_hold(
    attempt: int, held_by: str | None, holder: str | None, seconds: float, now: datetime, app_id: str = ""
) -> JobChange:
    """From one holder (None: from nobody alive) to the next (None: to nobody). ``app_id``: the one that adopts it."""
    until = now + timedelta(seconds=seconds) if holder is not None else None

    def change(job: Job) -> Job | None:
        is_ours = is_free(job, now) if held_by is None else job.held_by == held_by
        is_allowed = job.status is Status.STARTED and job.attempt == attempt and is_ours
        if not is_allowed or (app_id and not may_have(app_id, job.app_id)):
            return None
        return replace(job, held_by=holder, held_until=until, app_id=app_id or job.app_id)

    return change


def note_launch_failure(
    attempt: int, holder: str, text: str, seconds: float, failed_for: float, now: datetime
) -> JobChange:
    """Tell why it still waits, and hold it on."""
    noted: dict[str, Any] = {"status_text": text, "updated_at": now, "held_until": now + timedelta(seconds=seconds)}
    noted["launch_failed_at"] = now - timedelta(seconds=failed_for)

    def change(job: Job) -> Job | None:
        is_allowed = job.status is Status.STARTED and job.attempt == attempt and job.held_by == holder
        return replace(job, **noted) if is_allowed else None

    return change


def note_full(attempt: int, holder: str) -> JobChange:
    """Let go of it: it waits for nothing but a place."""

    def change(job: Job) -> Job | None:
        is_allowed = job.status is Status.STARTED and job.attempt == attempt and job.held_by == holder
        text = job.status_text if job.launch_failed_at is None else ""
        return replace(job, status_text=text, **_NO_HOLD) if is_allowed else None

    return change


def note_wait(text: str, old_text: str) -> JobChange:
    """Show why a job waits, unless its status text says something else."""

    def change(job: Job) -> Job | None:
        is_allowed = job.status is Status.STARTED and job.launch_failed_at is None and job.status_text == old_text
        return replace(job, status_text=text) if is_allowed else None

    return change


def note_missing_key(text: str, seconds: float, now: datetime) -> JobChange:
    """Show that no process has its key, if it has been due and not held for so many seconds."""
    note = note_wait(text, "")

    def change(job: Job) -> Job | None:
        is_waiting = max(job.due_at, job.held_until or job.due_at) <= now - timedelta(seconds=seconds)
        return note(job) if is_waiting else None

    return change


def claim(attempt: int, owner: str, lease: float, now: datetime) -> JobChange:
    """Begin to run."""
    begun: dict[str, Any] = {"status": Move.CLAIM.target, "started_at": now, "updated_at": now, **_NO_HOLD}
    begun |= {"lease_by": owner, "lease_until": now + timedelta(seconds=lease)}
    begun |= {"progress": 0, "signs": 0, "status_text": "", "error": "", "location": ""}

    def change(job: Job) -> Job | None:
        return replace(job, **begun) if job.status in Move.CLAIM.sources and job.attempt == attempt else None

    return change


def touch(attempt: int, progress: int, text: str, lease: float, number: int, is_more: bool, now: datetime) -> JobChange:
    """Give a sign; the arguments are those of the Store's touch()."""
    told: dict[str, Any] = {"progress": progress, "signs": number, "updated_at": now}

    def change(job: Job) -> Job | None:
        runs = job.status is Status.INPROGRESS and job.attempt == attempt and not job.cancel_requested
        if not runs or not (job.signs == number - 1 if is_more else job.signs <= number):
            return None
        whole = job.status_text + text if is_more else text
        return replace(job, status_text=whole, lease_until=now + timedelta(seconds=lease), **told)

    return change


def renew_lease(claim: str, seconds: float, now: datetime) -> JobChange:
    """Vouch on for a run."""

    def change(job: Job) -> Job | None:
        is_allowed = job.status is Status.INPROGRESS and job.lease_by == claim
        return replace(job, lease_until=now + timedelta(seconds=seconds)) if is_allowed else None

    return change


def renew_hold(holder: str, seconds: float, now: datetime) -> JobChange:
    """Vouch on for a job that waits."""

    def change(job: Job) -> Job | None:
        is_allowed = job.status is Status.STARTED and job.held_by == holder
        return replace(job, held_until=now + timedelta(seconds=seconds)) if is_allowed else None

    return change


def request_cancel(job: Job) -> Job | None:
    """Ask it to end."""
    return replace(job, cancel_requested=True) if job.status is Status.INPROGRESS else None


def make_move(
    move: Move,
    attempt: int | None,
    text: str | None,
    error: str,
    location: str,
    progress: int | None,
    delay: float,
    past: str | None,
    silent_for: float,
    vouched_until: datetime | None,
    now: datetime,
) -> JobChange:
    """Go on to another status; the arguments are those of the Store's move()."""
    told: dict[str, Any] = {"status": move.target, "updated_at": now, "error": error, "location": location}
    told |= {} if text is None else {"status_text": text}
    told |= {} if progress is None else {"progress": progress}
    told |= {} if past is None else {"past": past}

    def change(job: Job) -> Job | None:
        is_other = attempt is not None and job.attempt != attempt
        has_spoken = silent_for > 0 and (now - job.updated_at).total_seconds() < silent_for
        is_renewed = vouched_until is not None and (job.lease_until or job.held_until) != vouched_until
        if job.status not in move.sources or is_other or has_spoken or is_renewed:
            return None
        if move.target.is_final:
            is_kept = job.anonymous and move is not Move.COMPLETE  # a person may start it again
            sealed = job.sealed if is_kept else None
            return replace(job, ended_at=now, sealed=sealed, **told, **_NO_LEASE, **_NO_HOLD)
        if job.cancel_requested or job.attempt > job.retries:
            return None
        due_at = now + timedelta(seconds=delay)
        return replace(job, attempt=job.attempt + 1, due_at=due_at, started_at=None, **told, **_NO_LEASE)

    return change
