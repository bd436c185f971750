"""The leases and holds that this process renews, and the writes that wait for the end of an outage.

Requests and threads add them, the keeper renews them. Each access is one atomic step of a dict, without a lock.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backjob.errors import Refused, StoreError, TimedOut
from backjob.logs import about
from backjob.storage.store import Store

log = logging.getLogger("backjob")

TRIES = 3
"""Tries of a write that the store refuses because of its content."""


@dataclass
class _Postponed:
    """A write to repeat, and what to call if the store refuses each try."""

    write: Callable[[Store], object]
    give_up: Callable[[], object]
    refusals: int = 0


def _do_nothing() -> None:
    pass


class Renewals:
    """The leases and holds of one process, by the names in the records."""

    def __init__(self) -> None:
        self._leases: dict[str, int] = {}
        self._holds: dict[int, str] = {}
        self._postponed: deque[_Postponed] = deque()
        self._unrenewed: set[int] = set()
        """Jobs with a lease or hold that could not be renewed the last time."""

    @property
    def leases(self) -> dict[str, int]:
        """Ids of the jobs that run here, by claim."""
        return dict(self._leases)

    @property
    def holds(self) -> dict[int, str]:
        """Names of the holders of jobs that wait for a launch or a response."""
        return dict(self._holds)

    def lease(self, job_id: int, claim: str) -> None:
        """Renew this lease from now on."""
        self._leases[claim] = job_id

    def end_lease(self, claim: str) -> None:
        """Stop renewing this lease."""
        self._leases.pop(claim, None)

    def hold(self, job_id: int, holder: str) -> None:
        """Renew this hold from now on."""
        self._holds[job_id] = holder

    def end_hold(self, job_id: int) -> None:
        """Stop renewing this hold."""
        self._holds.pop(job_id, None)

    def renew(self, store: Store, seconds: float) -> None:
        """Renew all leases and holds. One that the store refuses does not block the others.

        Raises StoreError for an outage, and if the store refuses even an empty renewal.
        """
        leases, holds, failed = self.leases, self.holds, self._unrenewed
        sound = {name: job_id for name, job_id in leases.items() if job_id not in failed}
        sound_holds = {job_id: name for job_id, name in holds.items() if job_id not in failed}
        try:
            store.renew(sound, sound_holds, seconds)
        except (Refused, TimedOut):
            store.renew({}, {}, seconds)
            failed = {*leases.values(), *holds}
        errors: dict[int, StoreError] = {}
        for name, job_id in leases.items():
            if job_id in failed and (error := _try_to_renew(store, {name: job_id}, {}, seconds)):
                errors[job_id] = error
        for job_id, name in holds.items():
            if job_id in failed and (error := _try_to_renew(store, {}, {job_id: name}, seconds)):
                errors[job_id] = error
        for job_id in errors.keys() - self._unrenewed:
            log.error("Job %d: its lease can't be renewed: %s", job_id, errors[job_id], extra=about(job_id))
        self._unrenewed = set(errors)

    def postpone(self, write: Callable[[Store], object], give_up: Callable[[], object] = _do_nothing) -> None:
        """Make this write as soon as the store is back.

        ``give_up`` is called instead if the store refuses the write each time because of its content.
        """
        self._postponed.append(_Postponed(write, give_up))

    @property
    def has_postponed(self) -> bool:
        """True while a postponed write is pending."""
        return bool(self._postponed)

    def write_postponed(self, store: Store) -> None:
        """Make the postponed writes. Any thread may call this with its own store: each write is taken by one.

        A write that the store refuses is left for the next call, and given up after a few. Any other failure raises
        StoreError and leaves the rest for the next call, which begins with another write.
        """
        for _ in range(len(self._postponed)):
            try:
                postponed = self._postponed.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                postponed.write(store)
            except Refused as error:
                postponed.refusals += 1
                if postponed.refusals < TRIES:
                    self._postponed.append(postponed)
                else:
                    log.error("A write that the store refuses is given up: %s", error)
                    postponed.give_up()
            except BaseException:
                self._postponed.append(postponed)
                raise


def _try_to_renew(
    store: Store, leases: Mapping[str, int], holds: Mapping[int, str], seconds: float
) -> StoreError | None:
    """Renew these. Return the error if the store refuses."""
    try:
        store.renew(leases, holds, seconds)
    except (Refused, TimedOut) as error:
        return error
    return None
