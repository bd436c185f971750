"""What this process vouches for just now: the jobs that it runs, those that it holds, and what it has yet to write.

Told by its requests and threads, read by its keeper. Each use is one step of a dict: no thread ever waits for another.
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
"""Times that a write is tried which the store refuses for what it is."""


@dataclass
class _Postponed:
    """A write to be made up for, and what to do if the store refuses it every time."""

    write: Callable[[Store], object]
    give_up: Callable[[], object]
    refusals: int = 0


def _do_nothing() -> None:
    pass


class Renewals:
    """The leases and holds of one process, each by what stands in its record."""

    def __init__(self) -> None:
        self._leases: dict[str, int] = {}
        self._holds: dict[int, str] = {}
        self._postponed: deque[_Postponed] = deque()
        self._unrenewed: set[int] = set()
        """The jobs whose lease or hold could not be renewed the last time."""

    @property
    def leases(self) -> dict[str, int]:
        """The claims of the jobs that run here, and their ids."""
        return dict(self._leases)

    @property
    def holds(self) -> dict[int, str]:
        """The jobs that are held for a launch or a response, and by which name."""
        return dict(self._holds)

    def lease(self, job_id: int, claim: str) -> None:
        """Vouch for a job that was claimed."""
        self._leases[claim] = job_id

    def end_lease(self, claim: str) -> None:
        """This run is over, and its end is written."""
        self._leases.pop(claim, None)

    def hold(self, job_id: int, holder: str) -> None:
        """Vouch for a job that waits."""
        self._holds[job_id] = holder

    def end_hold(self, job_id: int) -> None:
        """It waits no more, or for somebody else."""
        self._holds.pop(job_id, None)

    def renew(self, store: Store, seconds: float) -> None:
        """Renew all leases and holds. One that the store refuses does not keep the others.

        Raises StoreError for an outage, and when the store refuses even a renewal of nothing.
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
        """Something is known about a job, and could not be written: this writes it as soon as the store is back.

        ``give_up`` is called instead if the store refuses the write for what it is, each time that it is tried.
        """
        self._postponed.append(_Postponed(write, give_up))

    @property
    def has_postponed(self) -> bool:
        """True while a postponed write is pending."""
        return bool(self._postponed)

    def write_postponed(self, store: Store) -> None:
        """Write what was postponed. Any thread may call this, with a store of its own: each write is taken by one.

        A write that the store refuses is left for the next time, and given up after a few. Raises StoreError for any
        other failure, and the rest stays for the next time, which begins with another write.
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
                    log.error("A write is given up that the job store refuses: %s", error)
                    postponed.give_up()
            except BaseException:
                self._postponed.append(postponed)
                raise


def _try_to_renew(
    store: Store, leases: Mapping[str, int], holds: Mapping[int, str], seconds: float
) -> StoreError | None:
    """Renew this one. Return why the store refuses it."""
    try:
        store.renew(leases, holds, seconds)
    except (Refused, TimedOut) as error:
        return error
    return None
