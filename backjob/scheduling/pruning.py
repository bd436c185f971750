"""The deletion of old jobs, in batches, and the log lines about jobs that can't be deleted.

The options decide which jobs are old, and the store deletes them.
"""

from __future__ import annotations

import logging
import time

from backjob.config import Config
from backjob.storage.retention import Passed, find_cut_offs
from backjob.storage.store import Store

log = logging.getLogger("backjob")

_AT_ONCE = 200
_PAUSE = 2.0
_OF_LEASE = 1 / 12
"""Longest call of ``Store.prune()`` as a part of the lease, because the same thread renews the leases."""
_LEFT_FOR = 3600.0
"""Seconds for which a job is left alone that can't be deleted."""
_MOST_NAMED = 20
"""Ids in one line of the log."""


class Pruning:
    """The pruning by one keeper."""

    EVERY = 600.0
    """Seconds between two looks for old jobs."""

    def __init__(self, config: Config, store: Store) -> None:
        self._config = config
        self._store = store
        self._forget_passed()

    def prune(self) -> float:
        """Delete some of the old jobs and return the seconds until the next call. Raises StoreError."""
        is_more = self._prune_some() >= _AT_ONCE or self._passed.is_unfinished
        return _PAUSE if is_more else self.EVERY

    def prune_all(self) -> int:
        """Delete all old jobs, a few at a time, and return their number. Raises StoreError."""
        pruned = last = self._prune_some()
        while last or self._passed.is_unfinished:
            pruned += (last := self._prune_some())
        return pruned

    def _prune_some(self) -> int:
        if time.monotonic() > self._until:
            self._forget_passed()
        try:
            return self._store.prune(*find_cut_offs(self._config, self._store.time()), _AT_ONCE, self._passed)
        finally:
            self._report_refusals()

    def _forget_passed(self) -> None:
        self._passed = Passed(min(Passed.seconds, self._config.lease * _OF_LEASE))
        self._until = time.monotonic() + _LEFT_FOR

    def _report_refusals(self) -> None:
        refusals, self._passed.refusals = self._passed.refusals, []
        of_reason: dict[str, list[int]] = {}
        for job_id, error in refusals:
            of_reason.setdefault(str(error), []).append(job_id)
        for reason, job_ids in of_reason.items():
            named = ", ".join(map(str, job_ids[:_MOST_NAMED])) + (", …" if len(job_ids) > _MOST_NAMED else "")
            what = "%d old job(s) can't be deleted and are left alone for an hour: %s. %s"
            log.error(what, len(job_ids), named, reason)
