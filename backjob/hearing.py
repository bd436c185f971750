"""The chance to be heard: a job that looks lost is recovered only after its process could have said otherwise.

Knows when this process could reach the store, and whether others could. Decides nothing about a job.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from datetime import datetime, timezone

from .errors import StoreError
from .store import Store

log = logging.getLogger("backjob")

_HEARING = 2.0
"""Seconds in which a process that waited to write has written, once it can: longer than its pauses between tries."""

Silence = tuple[int, int, "datetime | None"]
"""A job, its attempt, and the time of its last progress report or the end of its lease or hold."""
_NEVER = datetime.max.replace(tzinfo=timezone.utc)


class Hearing:
    """The jobs that look lost, and since when their processes have had the chance to be heard.

    ``renew`` makes a write of this process.
    """

    def __init__(self, store: Store, lease: float, renew: Callable[[], object]) -> None:
        self._store = store
        self._lease = lease
        self._renew = renew
        self.reached_since = _NEVER
        """The time since when this process, and every other one, could reach the store."""
        self.renewed_at: datetime | None = None
        self._suspects: dict[Silence, datetime] = {}
        self._is_crowded = False

    def forget(self) -> None:
        """Note that the store can't be reached."""
        self.renewed_at, self._suspects = None, {}

    def read_time(self) -> datetime:
        """Return the store's time. Raises StoreError.

        A process that could not renew for long, even if it was only suspended, does not know which other ones could:
        all of them get a whole lease to be heard.
        """
        now = self._store.time()
        if self.renewed_at is None or abs((now - self.renewed_at).total_seconds()) > self._lease / 2:
            self.reached_since = now
        return now

    def find_heard(self, now: datetime) -> set[Silence]:
        """Return the jobs that have had the chance to be heard, and are silent if they still look lost."""
        heard = {each for each, since in self._suspects.items() if (now - since).total_seconds() >= _HEARING}
        return heard if heard and self._others_can_connect() else set()

    def begin(self, suspects: Collection[Silence]) -> None:
        """Begin or go on to hear these jobs, and only these. Raises StoreError.

        The time begins with a write that was made: others may be waiting to write, which a process that only reads
        does not notice.
        """
        self._suspects = {each: since for each, since in self._suspects.items() if each in suspects}
        newcomers = [each for each in suspects if each not in self._suspects]
        if newcomers and self._others_can_connect():
            self._renew()
            self._suspects |= dict.fromkeys(newcomers, self.read_time())

    def _others_can_connect(self) -> bool:
        """Return whether a process without a connection would get one now.

        This process keeps its own, and would not notice that a server has none left. As after an outage, all others
        then get a whole lease to be heard.
        """
        try:
            self._store.connect_anew()
        except StoreError as error:
            if not self._is_crowded:
                log.warning("Jobs that look lost are not recovered while no new connection can be opened: %s", error)
            self._is_crowded, self._suspects, self.reached_since = True, {}, self._store.time()
            return False
        self._is_crowded = False
        return True
