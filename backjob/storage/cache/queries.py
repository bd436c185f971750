"""Reads of the store without a database. The list of all jobs replaces the indexes of a database.

Changes only the list, if it is behind the records.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from backjob.model.app_id import may_have
from backjob.model.evaluation import is_met
from backjob.model.job import FINAL, Glance, Job, JobStatus, Status
from backjob.model.recovery import RecoveryRecord
from backjob.model.writes import DUE, NO_FAILED_LAUNCH, WAITS
from backjob.runtime.process_identity import PROCESS, RESPONSE
from backjob.storage.queries import APP_GRACE, LONGEST

from .index import MOST_ENDED, to_microseconds
from .job_list import JobList

_AT_ONCE = 16
"""Records in one read."""


class CacheReads:
    """The reads of CacheStore. ``now`` returns the time as an aware datetime."""

    def __init__(self, jobs: JobList, now: Callable[[], datetime]) -> None:
        self._jobs = jobs
        self._now = now

    @property
    def place(self) -> str:
        return self._jobs.place

    def get(self, job_id: int) -> Job | None:
        return self._jobs.get(job_id)

    def look_at(self, job_id: int) -> Job | None:
        return self.get(job_id)

    def key_id(self, job_id: int) -> str | None:
        job = self.get(job_id)
        return job.key_id if job is not None else None

    def status(self, job_id: int) -> JobStatus | None:
        job = self.get(job_id)
        return job.as_status() if job is not None else None

    def glance(self, job_id: int) -> Glance | None:
        job = self.get(job_id)
        return Glance(*(getattr(job, each.name) for each in dataclasses.fields(Glance))) if job is not None else None

    def find(
        self,
        statuses: Iterable[Status] | None,
        scope: str | None,
        limit: int,
        before: int | None,
        text: int | None = None,
    ) -> list[Job]:
        wanted = frozenset(statuses) if statuses is not None else frozenset(Status)
        index = self._jobs.read()
        ids = sorted({*index.live, *(index.ended if wanted & FINAL else ())}, reverse=True)
        found: list[Job] = []
        for some in in_turns([job_id for job_id in ids if before is None or job_id < before]):
            jobs = self._jobs.get_many(some)
            found += [job for job in jobs if job and job.status in wanted and scope in (None, job.scope)]
            if len(found) >= limit:
                break
        if text is None:
            return found[:limit]
        ends = (job.status_text[max(0, len(job.status_text) - text) :] for job in found)
        return [dataclasses.replace(job, status_text=end) for job, end in zip(found[:limit], ends, strict=False)]

    def time(self) -> datetime:
        return self._now()

    def time_at_hand(self) -> datetime:
        return self._now()

    def try_new_connection(self) -> None:
        """Do nothing: calls to a cache are short and share its connections."""

    def check_writes(self) -> None:
        """Do nothing: a cache refuses a value only because of its size."""

    def count_running(self) -> dict[str, int]:
        ids = sorted({job_id for job_id, _ in self._jobs.read().running})  # each running job is reserved
        jobs = (job for some in in_turns(ids) for job in self._jobs.get_live(some))
        return dict(Counter(job.scope for job in jobs if job.status is Status.INPROGRESS))

    def count_launched(self) -> int:
        index, now = self._jobs.read(), self._now()

        def is_launched(job: Job) -> bool:
            is_sent = job.held_until is not None and job.held_until > now and (job.held_by or "").startswith(PROCESS)
            return is_sent and all(is_met(each, job, now=now) for each in (WAITS, DUE, NO_FAILED_LAUNCH))

        return sum(is_launched(job) for some in in_turns(index.waiting()) for job in self._jobs.get_live(some))

    def list_holders(self) -> list[str]:
        names = {job.held_by for job in self._list_waiting() if job.held_by and job.is_readable}
        return [name for name in names if name.startswith(PROCESS)]

    def find_leased(self, key_ids: Sequence[str], app_id: str | None = None) -> list[RecoveryRecord]:
        index = self._jobs.read()
        ids = {*index.waiting(key_ids), *(job_id for job_id, _ in index.running)}
        found = [job for some in in_turns(sorted(ids)) for job in self._jobs.get_live(some)]
        wanted = [
            job
            for job in found
            if job.key_id in key_ids
            and (app_id is None or may_have(app_id, job.app_id))
            and job.is_readable
            and (job.status is Status.INPROGRESS or (job.held_by or "").startswith(RESPONSE))
        ]
        names = [each.name for each in dataclasses.fields(RecoveryRecord)]
        return [RecoveryRecord(*(getattr(job, name) for name in names)) for job in wanted]

    def seconds_to_next(
        self,
        key_ids: Sequence[str],
        app_id: str = "",
        full_scopes: Collection[str] = (),
        within: float = LONGEST,
        app_version: str = "",
    ) -> float | None:
        index = self._jobs.read()
        horizon = to_microseconds(self._now() + timedelta(seconds=within))
        soonest: datetime | None = None
        is_left = self._find_left(app_id, app_version)
        for some in in_turns([each for each in index.waiting(key_ids, full_scopes) if index.live[each].due <= horizon]):
            if soonest is not None and index.live[some[0]].due >= to_microseconds(soonest):
                break  # none of the rest can be sooner
            for job in self._jobs.get_live(some):
                if job.status is Status.STARTED and not is_left(job):
                    when = max(job.due_at, job.held_until or job.due_at)
                    soonest = min(soonest or when, when)
        return max(0.0, (soonest - self._now()).total_seconds()) if soonest is not None else None

    def is_version_alive(self, app_version: str) -> bool:
        raise NotImplementedError  # ProcessEntry has it

    def _find_left(self, app_id: str, app_version: str) -> Callable[[Job], bool]:
        """Return a predicate for waiting jobs that are left to another app or version, or to a newer release."""
        is_alive = functools.cache(self.is_version_alive)
        since = self._now() - timedelta(seconds=APP_GRACE)

        @functools.cache
        def list_served() -> set[str]:
            seen = self.find(FINAL | {Status.INPROGRESS}, None, MOST_ENDED, None)
            return {job.app_id for job in seen if job.ended_at is None or job.ended_at > since}

        def is_left(job: Job) -> bool:
            is_abandoned = max(job.due_at, job.updated_at) <= since and job.app_id not in list_served()
            is_ours = job.app_version in ("", app_version)
            is_of_other = not may_have(app_id, job.app_id) and not is_abandoned
            return not job.is_readable or is_of_other or (not is_ours and is_alive(job.app_version))

        return is_left

    def _list_waiting(self) -> list[Job]:
        ids = self._jobs.read().waiting()
        return [job for some in in_turns(ids) for job in self._jobs.get_live(some) if job.status is Status.STARTED]


def in_turns(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Return the ids in batches of one read."""
    return (ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE))
