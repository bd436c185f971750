"""The contract of a store of jobs: every write. The reads are in queries.py.

A store executes the writes of model.writes, each of them atomically. It decides nothing about a job's life: a write
that comes too late changes nothing and returns False.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from backjob.model.holds import AtCapacity, Hold, HoldRenewal, LaunchFailure, MissingKey, ReleaseAll, WaitReason
from backjob.model.job import Move, NewJob
from backjob.model.writes import CancelRequest, Claim, LeaseRenewal, Progress, Transition, Write

from .queries import Queries

Event = Literal["on_start", "on_update", "on_end"]
"""A write that hooks are called for: a new job, a progress report, a final status."""


def _ignore(event: Event, job_id: int) -> None:
    """Call no hook."""


class Store(Queries):
    """A store. Every method raises StoreError when it can't be reached."""

    _listener: Callable[[Event, int], None] = staticmethod(_ignore)

    def listen(self, listener: Callable[[Event, int], None]) -> None:
        """Call ``listener`` with the event and the id of the job, after each write that hooks are called for."""
        self._listener = listener

    # The writes. Each returns whether it was made.

    def add(self, new: NewJob, seal: Callable[[int], bytes], unique_keys: Sequence[str] = ()) -> tuple[int, bool]:
        """Record a job and return its id and True. If a live job has one of the unique keys, return its id and False.

        ``seal`` makes the sealed request from the id.
        """
        job_id, is_new = self.insert(new, seal, unique_keys)
        if is_new:
            self._listener("on_start", job_id)
        return job_id, is_new

    def hold(
        self, job_id: int, attempt: int, held_by: str | None, holder: str | None, seconds: float, app_id: str = ""
    ) -> bool:
        """Transfer the hold on a waiting job. ``held_by=None``: only if it is free. ``holder=None``: release it.

        ``app_id``: the application that received the launch from ``held_by``, and adopts the job.
        """
        return self.write(job_id, Hold(attempt, held_by, holder, seconds if holder is not None else None, app_id))

    def note_launch_failure(
        self, job_id: int, attempt: int, holder: str, text: str, seconds: float, failed_for: float = 0
    ) -> bool:
        """Show why a job still waits, and hold it until it is tried again.

        ``failed_for``: the job's ``launch_failed_for`` when this try began.
        """
        return self.write(job_id, LaunchFailure(attempt, holder, text, seconds, failed_for))

    def note_full(self, job_id: int, attempt: int, holder: str) -> bool:
        """Release a job whose launch reached a busy server. Earlier failures and their text are removed."""
        return self.write(job_id, AtCapacity(attempt, holder))

    def note_wait(self, app_id: str, text: str, old_text: str) -> int:
        """Set the status text of the due jobs of this application that have ``old_text``. Return their number."""
        return self.write_many(WaitReason(app_id, text, old_text))

    def note_missing_key(self, app_id: str, key_ids: Sequence[str], text: str, seconds: float) -> int:
        """Set the empty status text of the jobs of this application that are sealed with none of these keys.

        Only jobs that have been due for ``seconds``, and that no process holds. Return their number.
        """
        return self.write_many(MissingKey(app_id, key_ids, text, seconds))

    def free(self, holder: str) -> int:
        """Release all waiting jobs of this holder. Return their number."""
        return self.write_many(ReleaseAll(holder))

    def claim(
        self, job_id: int, attempt: int, owner: str, lease: float, max_running: int, max_in_scope: int = 0
    ) -> bool:
        """Begin an attempt, by compare-and-set: only one process can.

        Return False while ``max_running`` jobs run, or ``max_in_scope`` jobs of its scope. 0: no limit.
        """
        return self.write_claim(job_id, Claim(attempt, owner, lease), max_running, max_in_scope)

    def touch(
        self,
        job_id: int,
        attempt: int,
        progress: int,
        text: str,
        lease: float,
        number: int = 1,
        *,
        is_more: bool = False,
    ) -> bool:
        """Store a progress report of a running job, which has this number within its attempt.

        With ``is_more`` the text is appended to that of the report before, which must be the last one that was made.
        False if the job runs no more or is to be cancelled, if the number is too low, or if the text is too long.
        """
        is_made = self.write(job_id, Progress(attempt, progress, text, lease, number, is_more))
        if is_made:
            self._listener("on_update", job_id)
        return is_made

    def renew(self, leases: Mapping[str, int], holds: Mapping[int, str], seconds: float) -> None:
        """Extend the leases of running jobs, by their claims, and the holds of waiting jobs, by their holders.

        Without any job it is a write too, which fails if the store is read-only.
        """
        self.write_many(LeaseRenewal(tuple(leases), seconds), list(leases.values()))
        if holds:
            self.write_many(HoldRenewal(tuple(holds.values()), seconds), list(holds))

    def request_cancel(self, job_id: int) -> bool:
        """Ask a running job to end."""
        return self.write(job_id, CancelRequest())

    def move(
        self,
        move: Move,
        job_id: int,
        *,
        attempt: int | None = None,
        text: str | None = None,
        error: str = "",
        location: str = "",
        progress: int | None = None,
        delay: float = 0,
        past: str | None = None,
        idle_for: float = 0,
        expires_at: datetime | None = None,
    ) -> bool:
        """Move a job on to another status. The arguments are those of Transition.

        ``error`` and ``location`` describe the end of the attempt, in one line of MOST_REASON characters each.
        """
        idle = idle_for or None
        write = Transition(move, attempt, text, error, location, progress, delay, past, idle, expires_at)
        is_made = self.write(job_id, write)
        if is_made and move.target.is_final:
            self._listener("on_end", job_id)
        return is_made

    # Implemented by each store.

    @abc.abstractmethod
    def insert(self, new: NewJob, seal: Callable[[int], bytes], unique_keys: Sequence[str]) -> tuple[int, bool]:
        """Record a job. See add()."""

    @abc.abstractmethod
    def write(self, job_id: int, write: Write) -> bool:
        """Make a write to one record, if its guard is met."""

    @abc.abstractmethod
    def write_many(self, write: Write, job_ids: Sequence[int] | None = None) -> int:
        """Make a write to each of these records that meets its guard. None: all waiting jobs. Return their number."""

    @abc.abstractmethod
    def write_claim(self, job_id: int, claim: Claim, max_running: int, max_in_scope: int) -> bool:
        """Make a claim, unless as many jobs run as these limits allow. See claim()."""
