"""The waiting rows: which of them this process launches next, and when it looks for one again.

Knows the limits. Launches nothing, and has no thread.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from backjob.config import Config
from backjob.keyring import Keyring
from backjob.model.job import Job
from backjob.runtime.backoff import random_between
from backjob.storage.store import Store

from .concurrency import Limits, Room
from .monitor import Monitor, Verdict

SHORTEST_WAIT = 0.2
LOOK_EVERY = 1.0
"""Most seconds between two looks, because other processes may add rows and end jobs."""


class Look(NamedTuple):
    """The result of a look at the rows: a job that this process holds now, and the seconds to the next look."""

    job: Job | None
    next_in: float


class WaitingRows:
    """The waiting rows, for one process."""

    def __init__(self, config: Config, keyring: Keyring, store: Store, limits: Limits, monitor: Monitor) -> None:
        self._config = config
        self._keyring = keyring
        self._store = store
        self._limits = limits
        self._monitor = monitor
        self._left = 0  # due jobs left as rows since a look found no due one
        self._wait = SHORTEST_WAIT

    @property
    def are_there(self) -> bool:
        """Do due rows wait here, as far as this process knows? They go first."""
        return self._left > 0

    def note_left(self) -> None:
        """Note that a due job waits as a row."""
        self._left += 1

    def take(self) -> Job | None:
        """Return the first row that is due and may run, held by this process now. Raises StoreError."""
        return self._take(self._limits.find_room())

    def look(self) -> Look:
        """Do what take() does, and find when to look again."""
        left, room = self._left, self._limits.find_room()
        job = self._take(room)
        if job is not None:
            self._wait = SHORTEST_WAIT
            return Look(job, 0)
        seconds = self._seconds_to_next(())
        if seconds > 0:
            if self._left == left:
                self._left = 0
            return Look(None, max(seconds, SHORTEST_WAIT))
        if not room.is_full and not room.full_scopes:
            return Look(None, SHORTEST_WAIT)  # others were quicker
        self._left = max(self._left, 1)
        wait = self.wait_for_room()
        if not room.is_full:
            wait = min(wait, max(self._seconds_to_next(room.full_scopes), SHORTEST_WAIT))
        return Look(None, wait)

    def wait_for_room(self) -> float:
        """Return the seconds until the next look while a limit is reached, more each time."""
        wait = self._wait
        self._wait = min(wait * 1.5, LOOK_EVERY)
        return wait * random_between(0.75, 1.0)

    def note_verdict(self, job: Job, verdict: Verdict) -> float:
        """Note the end of a launch. Return the seconds until the next look."""
        if verdict is Verdict.FULL:
            self.note_left()
            return self.wait_for_room()
        if verdict is not Verdict.ENDED:
            return SHORTEST_WAIT
        self._wait = SHORTEST_WAIT
        return 0.0 if self.are_there else LOOK_EVERY

    def _take(self, room: Room) -> Job | None:
        if room.is_full:
            return None
        holder, lease = self._monitor.owner, self._config.lease
        app_id, version = self._monitor.app_id, self._config.app_version or ""
        return self._store.take_due(self._keyring.key_ids, holder, lease, app_id, room.full_scopes, version)

    def _seconds_to_next(self, full_scopes: Collection[str]) -> float:
        app_id, longest = self._monitor.app_id, LOOK_EVERY * random_between(0.75, 1.25)
        key_ids, version = self._keyring.key_ids, self._config.app_version or ""
        next_due = self._store.seconds_to_next(key_ids, app_id, full_scopes, longest, version)
        return longest if next_due is None else min(next_due, longest)
