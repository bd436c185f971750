"""The list of all jobs in one cache entry, and the record of each job in another.

The record is authoritative. A job is listed after its record is written, and removed after its record has ended. If a
process dies in between, the next one that finds the difference corrects the list.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from backjob.errors import StoreError
from backjob.model.evaluation import find_breach
from backjob.model.job import Job, NewJob, Status

from .entries import CacheEntries
from .index import Index, decode_job, encode_job, to_microseconds

RESERVED_FOR = 60.0
"""Seconds after which a reserved run that has not begun is removed: its process has died."""

UNTOUCHED_FOR = 30 * 86400.0
"""Seconds after its due time for which the record of a new job is kept, if no process changes it."""


class JobList:
    """Records and their list, under keys with this prefix. ``now`` returns the time as an aware datetime."""

    def __init__(self, entries: CacheEntries, prefix: str, now: Callable[[], datetime]) -> None:
        self._entries = entries
        self._prefix = prefix
        self._now = now
        self._deployment = b""

    @property
    def place(self) -> str:
        """Return the prefix and the random id of the cache. The id is made with the first job.

        Each read of records, and of the list for a new job, reads the id too. A cache may lose it, and a new process
        opens the records of the others.
        """
        return f"{self._prefix} {self._deployment.decode('ascii', 'replace')}"

    # Records.

    def get(self, job_id: int) -> Job | None:
        """Return a record, or None."""
        return self.get_many([job_id])[0]

    def get_many(self, job_ids: Iterable[int]) -> list[Job | None]:
        """Return each of these records, None for a missing one."""
        ids = list(job_ids)
        if not ids:
            return []
        *values, deployment = self._entries.read_many([*map(self._key, ids), self._deployment_key])
        self._keep_deployment(deployment)
        return [self._decode(*each) for each in zip(ids, values, strict=True)]

    def get_live(self, job_ids: Sequence[int]) -> list[Job]:
        """Return the records of these listed jobs that are live. Remove the others."""
        jobs = self.get_many(job_ids)
        gone = [job_id for job_id, job in zip(job_ids, jobs, strict=True) if job is None or job.status.is_final]
        if gone:
            self.strike(gone)
        return [job for job in jobs if job is not None and not job.status.is_final]

    def create(self, job: Job) -> bool:
        """Write a new record. Return False if its id is taken.

        The record has an expiry until its first change, because it may never be listed.
        """
        is_made = False

        def put(value: bytes | None) -> bytes | None:
            nonlocal is_made
            is_made = value is None
            return _encode(job) if value is None else None

        waits = max(0.0, (job.due_at - job.created_at).total_seconds())
        self._entries.change(self._key(job.id), put, waits + UNTOUCHED_FOR)
        return is_made

    def change(self, job_id: int, change: Callable[[Job], Job | None], expire: float = 0) -> Job | None:
        """Change and return a record. None if the change is not allowed, or the record is missing."""
        made: Job | None = None

        def put(value: bytes | None) -> bytes | None:
            nonlocal made
            job = self._decode(job_id, value)
            made = change(job) if job is not None and job.is_readable else None
            return _encode(made) if made is not None else None

        self._entries.change(self._key(job_id), put, expire)
        return made

    def fence(self, job_id: int) -> Job | None:
        """Rewrite and return a record, so that no change that timed out can still be made. None if it has ended."""
        return self.change(job_id, lambda job: job if not job.status.is_final else None)

    def delete(self, job_id: int) -> None:
        """Delete a record."""
        self._entries.delete(self._key(job_id))

    # The list.

    def read(self) -> Index:
        """Return the current list."""
        return Index.decode(self._entries.read(self._index_key))

    def read_for_new(self) -> Index:
        """Return the current list, for a new job. Makes the id of the deployment if it is missing."""
        value, deployment = self._entries.read_many([self._index_key, self._deployment_key])
        self._keep_deployment(deployment or self._make_deployment())
        return Index.decode(value)

    def _keep_deployment(self, found: bytes | None) -> None:
        if found:
            self._deployment = found

    def _make_deployment(self) -> bytes:
        """Store an id and return it, or the one of a process that was first."""
        chosen = proposed = self._deployment or secrets.token_hex(16).encode()

        def put(found: bytes | None) -> bytes | None:
            nonlocal chosen
            chosen = found or proposed
            return None if found else proposed

        self._entries.change(self._deployment_key, put)
        return chosen

    def add(self, job: Job, new: NewJob, unique_keys: Sequence[str]) -> int:
        """List a job. Return its id, or that of a listed job with the same uid or one of the unique keys."""
        found = job.id

        def add(index: Index) -> None:
            nonlocal found
            other = index.find(new.uid, unique_keys)
            found = job.id if other is None else other
            if other is None:
                index.add(job, new)

        try:
            self._change_list(add)
        except StoreError:
            # The job may be listed, and only the response lost. If not, no process ever finds its record.
            if self.read().find(new.uid, ()) != job.id:
                raise
            found = job.id
        return found

    def postpone(self, job: Job) -> None:
        """Note that a job waits for its next attempt."""
        self._change_list(lambda index: index.postpone(job))

    def strike(self, job_ids: Sequence[int]) -> None:
        """Note that these jobs have ended."""
        dropped: list[int] = []

        def strike(index: Index) -> None:
            dropped[:] = [old for job_id in job_ids for old in index.strike(job_id)]

        self._change_list(strike)
        if not self._entries.can_expire:
            for job_id in dropped:
                self.delete(job_id)

    def prune(self, job_ids: Sequence[int]) -> None:
        """Delete the records of these jobs, which have ended."""
        for job_id in job_ids:
            self.delete(job_id)
        self._change_list(lambda index: index.unlist(job_ids))

    def reserve(self, job_id: int, attempt: int, max_running: int, max_in_scope: int) -> bool:
        """Add a run to the list before it begins. Return False if a limit is reached (0: no limit)."""
        is_reserved = False

        def reserve(index: Index) -> None:
            nonlocal is_reserved
            is_reserved = index.has_room(job_id, attempt, max_running, max_in_scope)
            if is_reserved:
                index.running.setdefault((job_id, attempt), to_microseconds(self._now()))

        self._change_list(reserve)
        if not is_reserved and self.mend():
            self._change_list(reserve)
        return is_reserved

    def mend(self) -> bool:
        """Remove runs that are over or never began. Return whether there was one."""
        index = self.read()
        runs = list(index.running)
        jobs = {job.id: job for job in self.get_live([job_id for job_id, _ in runs])}
        given_up = to_microseconds(self._now() - timedelta(seconds=RESERVED_FOR))

        def is_over(job_id: int, attempt: int) -> bool:
            job = jobs.get(job_id)
            if job is None or job.attempt != attempt:
                return True
            return job.status is not Status.INPROGRESS and index.running[job_id, attempt] <= given_up

        over = [run for run in runs if is_over(*run)]
        if over:
            self._change_list(lambda listed: [listed.running.pop(run, None) for run in over])
        return bool(over)

    def _change_list(self, make: Callable[[Index], object]) -> None:
        def change(value: bytes | None) -> bytes | None:
            index = Index.decode(value)
            make(index)
            new = index.encode()
            return new if new != value else None

        self._entries.change(self._index_key, change)

    def _decode(self, job_id: int, value: bytes | None) -> Job | None:
        """Return the record, or None if it is missing or was copied from another job."""
        job = decode_job(value, self._now())
        return job if job is not None and job.id == job_id else None

    @property
    def _deployment_key(self) -> str:
        return f"{self._prefix}deployment"

    def _key(self, job_id: int) -> str:
        return f"{self._prefix}job-{job_id}"

    @property
    def _index_key(self) -> str:
        return f"{self._prefix}index"


def _encode(job: Job) -> bytes:
    """Return the cache entry of a record. Raises StoreError if the record may not be stored."""
    if (breach := find_breach(job)) is not None:
        raise StoreError(f"The record can't be stored: it breaks the rule {breach!r}")
    return encode_job(job)
