"""The Store without a database: every record is a cell of a cache, changed by compare-and-set, and so is their list.

Makes the numbers of the jobs. Times are this host's. What it reads stands in cache_reads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from backjob.errors import StoreError
from backjob.logs import about
from backjob.model import changes
from backjob.model.job import Job, Move, NewJob, Status
from backjob.runtime.backoff import random_between
from backjob.storage.retention import Passed, find_old
from backjob.storage.sql.clock import host_time

from .entries import Cells
from .index import to_microseconds
from .job_list import JobList
from .processes import ProcessCell
from .queries import CacheReads, in_turns

log = logging.getLogger("backjob")

STORE_TIMEOUT = 2.0
"""Seconds that anybody waits for the cache."""
_TRIES = 50
_MOST_DOUBTFUL = 1000
_Asked = tuple[int, "int | None", Move]


class CacheStore(ProcessCell, CacheReads):
    """The Store in a cache. ``now`` gives the time as an aware datetime.

    ``keep_completed``, ``keep_ended``: seconds for which records stay after their end; 0: as long as the cache likes.
    """

    def __init__(
        self,
        cells: Cells,
        prefix: str,
        *,
        keep_completed: float = 0,
        keep_ended: float = 0,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        now = now or host_time
        ProcessCell.__init__(self, cells, f"{prefix}processes", now)
        CacheReads.__init__(self, JobList(cells, prefix, now), now)
        self._keep_ended = keep_ended
        self._keep_completed = min(filter(None, (keep_completed, keep_ended)), default=0.0)
        self._last_id = 0
        # Moves that may be made or not, and when: asked for again at the same time, they are known when they were made.
        self._doubtful: dict[_Asked | None, datetime] = {}

    def add(self, new: NewJob, seal: Callable[[int], bytes], unique_keys: Sequence[str] = ()) -> tuple[int, bool]:
        if new.retries < 0:
            raise StoreError("The job cache refuses the record: retries must be at least 0")
        for turn in range(_TRIES):
            if turn > 1:
                time.sleep(random_between(0, 0.02))  # spreads those who race for one unique key
            index = self._jobs.read_for_new()
            found = index.find(new.uid, unique_keys)
            if found is None:
                job = self._create(new, seal)
                if self._list(job, new, unique_keys):
                    return job.id, True
            elif self._jobs.get_live([found]):
                return found, index.live[found].uid == new.uid
        raise StoreError("The job can't be recorded: equal ones come and go all the time")

    def _create(self, new: NewJob, seal: Callable[[int], bytes]) -> Job:
        """Write the record, under a number that says when: it is a new one also to a cache that has lost all others."""
        now = self._now()
        job_id = max(to_microseconds(now), self._last_id + 1)
        while not self._jobs.create(job := new.as_job(job_id, seal(job_id), now)):
            job_id += 1
        self._last_id = max(self._last_id, job_id)
        return job

    def _list(self, job: Job, new: NewJob, unique_keys: Sequence[str]) -> bool:
        """List it, unless another one was first with its unique key. What is not listed for sure has no record either:
        its place in the list may still be written when the caller was told that there is no job."""
        is_listed = False
        try:
            is_listed = self._jobs.add(job, new, unique_keys) == job.id
        finally:
            if not is_listed:
                with suppress(StoreError):
                    self._jobs.delete(job.id)
        return is_listed

    def hold(self, job_id: int, attempt: int, held_by: str | None, holder: str | None, seconds: float) -> bool:
        change = changes.pass_hold(attempt, held_by, holder, seconds, self._now())
        return self._jobs.change(job_id, change) is not None

    def note_launch_failure(
        self, job_id: int, attempt: int, holder: str, text: str, seconds: float, failed_for: float = 0
    ) -> bool:
        change = changes.note_launch_failure(attempt, holder, text, seconds, failed_for, self._now())
        return self._jobs.change(job_id, change) is not None

    def note_full(self, job_id: int, attempt: int, holder: str) -> bool:
        return self._jobs.change(job_id, changes.note_full(attempt, holder)) is not None

    def note_wait(self, app_id: str, text: str, old_text: str) -> int:
        now = self._now()
        waiting = [job for job in self._list_waiting() if job.app_id == app_id and job.due_at <= now]
        change = changes.note_wait(text, old_text)
        return sum(self._jobs.change(job.id, change) is not None for job in waiting if job.status_text == old_text)

    def note_missing_key(self, app_id: str, key_ids: Sequence[str], text: str, seconds: float) -> int:
        waiting = [job for job in self._list_waiting() if job.app_id == app_id and job.key_id not in key_ids]
        change = changes.note_missing_key(text, seconds, self._now())
        return sum(self._jobs.change(job.id, change) is not None for job in waiting)

    def free(self, holder: str) -> int:
        held = [job for job in self._list_waiting() if job.held_by == holder]
        return sum(self.hold(job.id, job.attempt, holder, None, 0) for job in held)

    def take_due(
        self,
        key_ids: Sequence[str],
        holder: str,
        seconds: float,
        skipped: Collection[str] = (),
        full_scopes: Collection[str] = (),
        app_version: str = "",
    ) -> Job | None:
        while True:
            index, now, is_left = self._jobs.read(), self._now(), self._find_left(app_version)
            due = index.waiting(key_ids, full_scopes)
            due = [job_id for job_id in due if index.live[job_id].due <= to_microseconds(now)]
            due.sort(key=lambda job_id: -index.live[job_id].priority)  # stable: then by time, then by id
            for some in in_turns(due):
                for job in self._jobs.get_live(some):
                    is_due = job.status is Status.STARTED and job.due_at <= now and changes.is_free(job, now)
                    is_due = is_due and not is_left(job)
                    if is_due and job.app_id not in skipped and self.hold(job.id, job.attempt, None, holder, seconds):
                        return self.get(job.id)
            if not self._jobs.mend():
                return None

    def claim(
        self, job_id: int, attempt: int, owner: str, lease: float, max_running: int, max_in_scope: int = 0
    ) -> bool:
        now = self._now()
        begin = changes.claim(attempt, owner, lease, now)
        job = self.get(job_id)
        if job is None or begin(job) is None:
            return False
        if not self._jobs.reserve(job_id, attempt, max_running, max_in_scope):
            return False
        try:
            job = self._jobs.change(job_id, begin)  # if not made, the place is free as soon as one is wanted
        except StoreError:
            job = self._jobs.fence(job_id)
        # The owner alone tells no claim from another: the same request may come twice.
        return job is not None and (job.lease_by, job.started_at) == (owner, now)

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
        _check_progress(progress)
        change = changes.touch(attempt, progress, text, lease, number, is_more, self._now())
        return self._jobs.change(job_id, change) is not None

    def renew(self, leases: Mapping[str, int], holds: Mapping[int, str], seconds: float) -> None:
        now = self._now()
        for name, job_id in leases.items():
            self._jobs.change(job_id, changes.renew_lease(name, seconds, now))
        for job_id, name in holds.items():
            self._jobs.change(job_id, changes.renew_hold(name, seconds, now))

    def request_cancel(self, job_id: int) -> bool:
        return self._jobs.change(job_id, changes.request_cancel) is not None

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
        silent_for: float = 0,
        vouched_until: datetime | None = None,
    ) -> bool:
        if progress is not None:
            _check_progress(progress)
        is_ours_alone = attempt is not None and not silent_for and vouched_until is None
        asked = (job_id, attempt, move) if is_ours_alone else None
        now = self._doubtful.get(asked) or self._now()
        change = changes.make_move(
            move, attempt, text, error, location, progress, delay, past, silent_for, vouched_until, now
        )
        keep = self._keep_completed if move.target is Status.COMPLETED else self._keep_ended
        seen: Job | None = None

        def look_and_change(job: Job) -> Job | None:
            nonlocal seen
            seen = job
            return change(job)

        try:
            job = self._jobs.change(job_id, look_and_change, expire=keep if move.target.is_final else 0)
        except StoreError:
            self._note_doubt(asked, now)
            raise
        if self._doubtful.pop(asked, None) and job is None and seen is not None:
            attempt_then = seen.attempt - 1 if move is Move.RETRY else seen.attempt
            is_made = (seen.status, attempt_then, seen.updated_at) == (move.target, attempt, now)
            job = seen if is_made else None
        if job is None:
            return False
        try:
            if job.status.is_final:
                self._jobs.strike([job_id])
            else:
                self._jobs.postpone(job)
        except StoreError as error:  # the move is made; whoever comes by next mends the list
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
            # What a cache has dropped by itself is only struck off.
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


def _check_progress(progress: int) -> None:
    if not 0 <= progress <= 100:
        raise StoreError("The job cache refuses the record: progress must be 0-100")
