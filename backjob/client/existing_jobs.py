"""Queries and operations on recorded jobs, by their ids.

Starts and launches nothing. Each operation by id is logged with the user: see security_log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from backjob.errors import NEWER_RECORD, BackJobError, JobFailed, JobNotFound
from backjob.model.events import log_ended
from backjob.model.job import Job, JobStatus, Move, Status
from backjob.model.text import cut_text, first_line

from .arguments import AnyId, check_find, is_scope, parse_id
from .backend import Backend
from .foreground import NoJob
from .security_log import log_act

Found = TypeVar("Found", Job, JobStatus)


class ExistingJobs(NoJob):
    """The part of :class:`backjob.Jobs` that works on jobs which were recorded before."""

    __slots__ = ("_environ", "_get_backend")

    _get_backend: Callable[[], Backend]
    _environ: Mapping[str, Any] | None

    def status(self, job_id: int | str, *, scope: str | None = None) -> JobStatus:
        """Return the status of a job, up to a second old if a cache is used. Never writes.

        Raises JobNotFound, also for a job of another scope when one is given.
        """
        return self._find_one(self._get_backend().store.status, job_id, scope)

    def exists(self, job_id: int | str, *, scope: str | None = None) -> bool:
        """Return whether there is such a job, in this scope if one is given."""
        try:
            self.status(job_id, scope=scope)
        except JobNotFound:
            return False
        return True

    def cancel(self, job_id: int | str, *, scope: str | None = None) -> bool:
        """End a waiting job at once, a running one at its next heartbeat. Return whether it was live.

        Raises JobNotFound, and BackJobError for a job that a newer release of backjob recorded.
        """
        store = self._get_backend().store
        while not (job := self._find_one(store.look_at, job_id, scope)).status.is_final:
            if not job.is_readable:
                raise BackJobError(f"Job {job.id} can't be cancelled here: {NEWER_RECORD}")
            # Another process may have changed the job between the read and the write. Then the loop reads it again.
            is_ended = job.status is Status.STARTED and store.move(Move.CANCEL, job.id, attempt=job.attempt)
            if is_ended:
                log_ended(Move.CANCEL, job.id, job.attempt, job)
            if is_ended or (job.status is Status.INPROGRESS and store.request_cancel(job.id)):
                if not job.cancel_requested:
                    self._log_act("cancelled", job.id)
                return True
        return False

    def find(
        self,
        status: Status | int | Iterable[Status | int] | None = None,
        scope: str | None = None,
        limit: int = 100,
        before: int | None = None,
        text: int | None = 500,
    ) -> list[JobStatus]:
        """Return jobs with these statuses and this scope, the newest first. ``before``: an id, for the next page.

        ``text``: the number of characters kept at the end of each status text; None: all, as in status().
        """
        cursor = check_find(limit, text, before)
        if isinstance(status, str):
            raise ValueError("status must be a Status, its number, or a list of these")  # noqa: TRY004 - as a wrong number
        statuses = [status] if isinstance(status, int) else status
        wanted = [Status(each) for each in statuses] if statuses is not None else None
        scope, store = str(scope) if scope is not None else None, self._get_backend().store
        if scope is not None and not is_scope(scope):
            return []
        return [job.as_status() for job in store.find(wanted, scope, limit, cursor, text)]

    def find_foreign(self, job_ids: Iterable[int]) -> list[int]:
        """Return the ids of the jobs whose key is missing here, for example because another app started them."""
        backend = self._get_backend()
        known = {None, *backend.keyring.key_ids}  # None: the job does not exist any more
        return [job_id for job_id in job_ids if backend.store.key_id(job_id) not in known]

    def finish(self, text: str | None = None, job_id: AnyId = None, *, scope: str | None = None) -> None:
        """Complete the running job with this id now. Without an id, and outside of a job, it does nothing.

        Raises JobNotFound, also for a job of another scope when one is given.
        """
        if job_id is not None:
            self._end(Move.COMPLETE, job_id, scope, text, progress=100)

    def fail(
        self, text: str | None = None, job_id: AnyId = None, retry: bool = False, *, scope: str | None = None
    ) -> None:
        """Fail the live job with this id, for good. Without an id, and outside of a job, it raises JobFailed.

        Raises JobNotFound, also for a job of another scope when one is given.
        """
        if job_id is None:
            raise JobFailed(text)
        self._end(Move.FAIL, job_id, scope, text)

    def _find_one(self, read: Callable[[int], Found | None], job_id: int | str, scope: str | None) -> Found:
        parsed = parse_id(job_id)
        found = read(parsed) if parsed is not None else None
        if found is None or (scope is not None and found.scope != str(scope)):
            name = repr(job_id[:20]) if isinstance(job_id, str) else parsed
            raise JobNotFound(
                f"There is no job {name or ''}".rstrip() + (" in this scope" if scope is not None else "")
            )
        return found

    def _end(
        self, move: Move, job_id: int | str, scope: str | None, text: str | None, progress: int | None = None
    ) -> None:
        backend = self._get_backend()
        job = self._find_one(backend.store.look_at, job_id, scope)
        text = cut_text(text, backend.config.max_output) if text is not None else None
        error = first_line(text or "") if move is Move.FAIL else ""
        if backend.store.move(move, job.id, text=text, error=error, progress=progress):
            log_ended(move, job.id, job.attempt, job, seconds=job.ran_for, reason=error)
            self._log_act(f"marked as {'failed' if move is Move.FAIL else 'completed'}", job.id)

    def _log_act(self, act: str, job_id: int) -> None:
        log_act(act, job_id, self._environ, self._get_backend().config)
