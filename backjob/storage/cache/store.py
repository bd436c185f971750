"""The store without a database. Each record and the list of jobs are cache entries, changed by compare-and-set.

Makes the ids of the jobs. Times are this host's. The reads are in queries.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from backjob.errors import StoreError
from backjob.logs import about
from backjob.model.evaluation import apply_write, is_applied, is_met
from backjob.model.holds import Hold
from backjob.model.job import Job, Move, NewJob, Status
from backjob.model.writes import DUE, Claim, Transition, Write
from backjob.runtime.backoff import random_between
from backjob.storage.retention import Passed, find_old
from backjob.storage.sql.clock import host_time
from backjob.storage.store import Store

from .entries import CacheEntries
from .index import to_microseconds
from .job_list import JobList
from .processes import ProcessEntry
from .queries import CacheReads, in_turns

log = logging.getLogger("backjob")

STORE_TIMEOUT = 2.0
"""Seconds after which a call to the cache fails."""
_TRIES = 50
_MOST_DOUBTFUL = 1000
_Asked = tuple[int, "int | None", Move]


class CacheStore(ProcessEntry, CacheReads, Store):
    """The store in a cache. ``now`` returns the time as an aware datetime.

    ``keep_completed``, ``keep_ended``: seconds for which records stay after their end. 0: no expiry.
    """

    def __init__(
        self,
        entries: CacheEntries,
        prefix: str,
        *,
        keep_completed: float = 0,
        keep_ended: float = 0,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        now = now or host_time
        ProcessEntry.__init__(self, entries, f"{prefix}processes", now)
        CacheReads.__init__(self, JobList(entries, prefix, now), now)
        self._keep_ended = keep_ended
        self._keep_completed = min(filter(None, (keep_completed, keep_ended)), default=0.0)
        self._last_id = 0
        # Moves whose outcome is unknown, and their times: the next try uses its time again, to recognize its write.
        self._doubtful: dict[_Asked | None, datetime] = {}

    def insert(self, new: NewJob, seal: Callable[[int], bytes], unique_keys: Sequence[str]) -> tuple[int, bool]:
        for turn in range(_TRIES):
            if turn > 1:
                time.sleep(random_between(0, 0.02))  # spreads competitors for one unique key
            index = self._jobs.read_for_new()
            found = index.find(new.uid, unique_keys)
            if found is None:
                job = self._create(new, seal)
                if self._list(job, new, unique_keys):
                    return job.id, True
            elif self._jobs.get_live([found]):
                return found, index.live[found].uid == new.uid
        raise StoreError("The job can't be recorded: equal jobs keep starting and ending")

    def _create(self, new: NewJob, seal: Callable[[int], bytes]) -> Job:
        """Write the record. Its id is the time, which is new even to a cache that has lost all records."""
        now = self._now()
        job_id = max(to_microseconds(now), self._last_id + 1)
        while not self._jobs.create(job := new.as_job(job_id, seal(job_id), now)):
            job_id += 1
        self._last_id = max(self._last_id, job_id)
        return job

    def _list(self, job: Job, new: NewJob, unique_keys: Sequence[str]) -> bool:
        """List the job. If another was first with its unique key, delete the record and return False.

        An error deletes the record too, because the list may still be written after it."""
        is_listed = False
        try:
            is_listed = self._jobs.add(job, new, unique_keys) == job.id
        finally:
            if not is_listed:
                with suppress(StoreError):
                    self._jobs.delete(job.id)
        return is_listed

    def take_due(
        self,
        key_ids: Sequence[str],
        holder: str,
        seconds: float,
        app_id: str = "",
        full_scopes: Collection[str] = (),
        app_version: str = "",
    ) -> Job | None:
        while True:
            index, now, is_left = self._jobs.read(), self._now(), self._find_left(app_id, app_version)
            due = index.waiting(key_ids, full_scopes)
            due = [job_id for job_id in due if index.live[job_id].due <= to_microseconds(now)]
            due.sort(key=lambda job_id: -index.live[job_id].priority)  # stable: then by time, then by id
            for some in in_turns(due):
                for job in self._jobs.get_live(some):
                    hold = Hold(job.attempt, None, holder, seconds)
                    is_due = is_met(DUE, job, now=now) and apply_write(hold, job, now) is not None
                    if is_due and not is_left(job) and self.write(job.id, hold):
                        return self.get(job.id)
            if not self._jobs.mend():
                return None

    def write(self, job_id: int, write: Write) -> bool:
        if isinstance(write, Transition):
            return self._move(job_id, write)
        now = self._now()
        return self._jobs.change(job_id, lambda job: apply_write(write, job, now)) is not None

    def write_many(self, write: Write, job_ids: Sequence[int] | None = None) -> int:
        now = self._now()
        if job_ids is None:
            job_ids = [job.id for job in self._list_waiting() if apply_write(write, job, now)]
        made = (self._jobs.change(job_id, lambda job: apply_write(write, job, now)) for job_id in job_ids)
        return sum(job is not None for job in made)

    def write_claim(self, job_id: int, claim: Claim, max_running: int, max_in_scope: int) -> bool:
        now = self._now()
        job = self.get(job_id)
        if job is None or apply_write(claim, job, now) is None:
            return False
        if not self._jobs.reserve(job_id, claim.attempt, max_running, max_in_scope):
            return False
        try:
            # If the claim fails, the next one that reaches a limit removes the reservation.
            job = self._jobs.change(job_id, lambda job: apply_write(claim, job, now))
        except StoreError:
            job = self._jobs.fence(job_id)
        # The owner does not identify a claim: the same request may come twice.
        return job is not None and (job.lease_by, job.started_at) == (claim.owner, now)

    def _move(self, job_id: int, write: Transition) -> bool:
        # Only a write of one attempt by its owner can be recognized by its time.
        is_ours_alone = write.attempt is not None and write.idle_for is None and write.expires_at is None
        asked = (job_id, write.attempt, write.move) if is_ours_alone else None
        now = self._doubtful.get(asked) or self._now()
        target = write.move.target
        keep = self._keep_completed if target is Status.COMPLETED else self._keep_ended
        seen: Job | None = None

        def look_and_change(job: Job) -> Job | None:
            nonlocal seen
            seen = job
            return apply_write(write, job, now)

        try:
            job = self._jobs.change(job_id, look_and_change, expire=keep if target.is_final else 0)
        except StoreError:
            self._note_doubt(asked, now)
            raise
        if self._doubtful.pop(asked, None) and job is None and seen is not None:
            job = seen if is_applied(write, seen, now) else None
        if job is None:
            return False
        try:
            if job.status.is_final:
                self._jobs.strike([job_id])
            else:
                self._jobs.postpone(job)
        except StoreError as error:  # the move is made; the next process that reads the list corrects it
            log.warning("Job %d: the list of jobs is not up to date: %s", job_id, error, extra=about(job_id))
        return True

    def prune(
        self,
        completed_before: datetime | None,
        ended_before: datetime | None,
        most: int,
        passed: Passed | None = None,
    ) -> int:
        times = dict(find_old(completed_before, ended_before))
        old: list[int] = []
        for some in in_turns(self._jobs.read().ended if times else ()):
            jobs = self._jobs.get_many(some)
            # Records that the cache has dropped are only struck off.
            old += [job_id for job_id, job in zip(some, jobs, strict=True) if job is None or _is_old(job, times)]
            youngest = max((job.ended_at for job in jobs if job and job.ended_at), default=None)
            if len(old) >= most or (youngest is not None and youngest >= max(times.values())):
                break  # the others have ended later
        if old:
            self._jobs.prune(old[:most])
        return len(old[:most])

    def _note_doubt(self, asked: _Asked | None, now: datetime) -> None:
        if asked is not None:
            self._doubtful[asked] = now
            for old in list(self._doubtful)[:-_MOST_DOUBTFUL]:
                self._doubtful.pop(old, None)


def _is_old(job: Job, times: Mapping[Status, datetime]) -> bool:
    is_old = job.ended_at is not None and job.status in times and job.ended_at < times[job.status]
    return is_old and job.is_readable
