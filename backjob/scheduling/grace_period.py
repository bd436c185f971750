"""The grace period of possibly lost jobs: a process that could not reach the store gets time to report first.

Tracks whether this process and others can reach the store. Does not decide what becomes of a job.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import datetime, timezone

from backjob.errors import StoreError
from backjob.storage.store import Store

log = logging.getLogger("backjob")

_GRACE = 2.0
"""Seconds that a process gets to write once the store accepts writes. Longer than the pauses between its retries."""

PossiblyLost = tuple[int, int, "datetime | None"]
"""Job id, attempt, and the time of the last progress report or the end of the lease or hold."""
_NEVER = datetime.max.replace(tzinfo=timezone.utc)


class GracePeriod:
    """Possibly lost jobs, and the times at which their grace periods began.

    ``renew`` renews the leases of this process.
    """

    def __init__(self, store: Store, lease: float, renew: Callable[[], object]) -> None:
        self._store = store
        self._lease = lease
        self._renew = renew
        self.reached_since = _NEVER
        """Start of the time for which all processes are known, or assumed, to reach the store."""
        self.renewed_at: datetime | None = None
        self._began_at: dict[PossiblyLost, datetime] = {}
        self._is_server_full = False

    def reset(self) -> None:
        """Note that the store can't be reached."""
        self.renewed_at, self._began_at = None, {}

    def read_time(self) -> datetime:
        """Return the store's time, and restart ``reached_since`` after a gap in renewals. Raises StoreError.

        A process that did not renew for half a lease, even if it was only suspended, can't know whether the others
        could. All of them get a whole lease to report.
        """
        now = self._store.time()
        if self.renewed_at is None or abs((now - self.renewed_at).total_seconds()) > self._lease / 2:
            self.reached_since = now
        return now

    def find_expired(self, now: datetime) -> set[PossiblyLost]:
        """Return the jobs whose grace period is over: they can be recovered if they still have no heartbeat.

        Return an empty set if no new connection can be opened. Raises StoreError.
        """
        expired = {each for each, since in self._began_at.items() if (now - since).total_seconds() >= _GRACE}
        return expired if expired and self._others_can_connect() else set()

    def track(self, jobs: Collection[PossiblyLost]) -> None:
        """Start the grace period of new jobs, and drop jobs that are not in ``jobs``. Raises StoreError.

        The period starts after a successful write, because a lock may keep all processes from writing. A process
        that only reads would not notice.
        """
        self._began_at = {each: since for each, since in self._began_at.items() if each in jobs}
        new = [each for each in jobs if each not in self._began_at]
        if new and self._others_can_connect():
            self._renew()
            self._store.check_writes()  # a renewal that updates no row fires no trigger
            self._began_at |= dict.fromkeys(new, self.read_time())

    def _others_can_connect(self) -> bool:
        """Return whether a new connection can be opened. If not, restart the wait of one whole lease.

        This process keeps its own connection, so it would not notice that others can't connect.
        """
        try:
            self._store.try_new_connection()
        except StoreError as error:
            if not self._is_server_full:
                log.warning("Possibly lost jobs are not recovered, because no new connection can be opened: %s", error)
            self._is_server_full, self._began_at, self.reached_since = True, {}, self._store.time()
            return False
        self._is_server_full = False
        return True
