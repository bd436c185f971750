"""Deletion of old jobs from a database, in batches. Jobs that can't be deleted are skipped.

The caller decides which jobs are old.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from backjob.errors import Refused, StoreError, TimedOut
from backjob.storage.retention import Passed, find_old

from .database import Database
from .errors import AnswerLost, Unreachable
from .statements import Statements

_FOR_ONE = 0.5
"""Seconds for which the deletion of one job is retried while it loses to other writes."""
_NO_JOB = 0
"""An id that no job has."""
Refusals = list[tuple[int, StoreError]]


class SQLPruning:
    """The deletion of old jobs."""

    _database: Database
    _statements: Statements

    def prune(
        self,
        completed_before: datetime | None,
        ended_before: datetime | None,
        most: int,
        passed: Passed | None = None,
    ) -> int:
        passed = passed or Passed()
        passed.is_unfinished = False
        end, pruned = time.monotonic() + passed.seconds, 0
        for status, before in find_old(completed_before, ended_before):
            values = {"in_status": int(status), "before": before}
            is_more = True
            while is_more and pruned < most:
                some = {"most": most - pruned, "passed": passed.counts.get(status, 0)}
                job_ids = [row[0] for row in self._database.read(self._statements.old, {**values, **some})]
                if not job_ids:
                    break
                is_more = len(job_ids) == most - pruned
                deleted, tried, refusals = self._delete(values, job_ids, passed, end)
                pruned += deleted
                if deleted < len(tried):
                    # Refused, kept by a trigger that raises nothing, or deleted by another process meanwhile.
                    left = self._database.read(self._statements.still_there, {**values, "job_ids": tried})
                    passed.counts[status] = passed.counts.get(status, 0) + int(left[0][0])
                passed.refusals += refusals
                passed.is_unfinished = passed.is_unfinished or time.monotonic() > end
                if passed.is_unfinished:
                    return pruned
        return pruned

    def _delete(
        self, values: dict[str, Any], job_ids: list[int], passed: Passed, end: float
    ) -> tuple[int, list[int], Refusals]:
        """Delete these jobs, or as many of them as the database allows.

        Return the number deleted, the ids that were tried, and those that were refused. Raises StoreError for an
        outage.
        """
        if not passed.is_one_by_one:
            try:
                return self._write_prune(values, job_ids, end - time.monotonic()), job_ids, []
            except Refused:
                pass
            except StoreError as error:
                self._check_server(values, error)
                if isinstance(error, (TimedOut, AnswerLost)):
                    passed.is_one_by_one = passed.is_unfinished = True
                    return 0, [], []
        return self._delete_one_by_one(values, job_ids, passed, end)

    def _delete_one_by_one(
        self, values: dict[str, Any], job_ids: list[int], passed: Passed, end: float
    ) -> tuple[int, list[int], Refusals]:
        deleted, refusals = 0, []
        for number, job_id in enumerate(job_ids, 1):
            try:
                deleted += self._write_prune(values, [job_id], min(_FOR_ONE, end - time.monotonic()))
            except StoreError as error:
                if not isinstance(error, Refused):
                    self._check_server(values, error)
                refusals.append((job_id, error))
            if time.monotonic() > end:
                passed.is_unfinished = True
                return deleted, job_ids[:number], refusals
        return deleted, job_ids, refusals

    def _check_server(self, values: dict[str, Any], error: StoreError) -> None:
        """Raise StoreError in an outage. Otherwise ``error`` concerns the jobs, because a trigger can raise any error.

        In an outage a DELETE that finds no row fails too: the server is unreachable or read-only, or the table is
        locked or missing. Such a DELETE fires no trigger.
        """
        if isinstance(error, Unreachable):
            raise error
        self._write_prune(values, [_NO_JOB], _FOR_ONE)

    def _write_prune(self, values: dict[str, Any], job_ids: list[int], seconds: float) -> int:
        return self._database.write(self._statements.prune, {**values, "job_ids": job_ids}, seconds)
