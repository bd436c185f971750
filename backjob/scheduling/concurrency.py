"""The limits of running jobs: in the whole deployment, in this process, and in each scope.

Counts the jobs of this process, reads the slots of all processes, and computes ``max_running="auto"`` from them. The
store enforces the limits of the deployment with the claim. Has no threads and launches nothing.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backjob.config import Config
from backjob.errors import Refused, StoreError
from backjob.runtime.process_identity import is_dead
from backjob.runtime.server_info import detect_server
from backjob.storage.store import Store

log = logging.getLogger("backjob")

UNKNOWN = 4
"""Jobs that may run at once for each process with an unknown number of slots."""
MOST_PLACES = 32
"""Most jobs that one process launches and watches at once."""


def share_slots(processes: Sequence[int | None]) -> int:
    """Return how many jobs may run at once: half of the known slots, UNKNOWN for each None, and at least 1."""
    known = [slots for slots in processes if slots is not None]
    return max(1, sum(known) // 2 + UNKNOWN * (len(processes) - len(known)))


@dataclass(frozen=True)
class Room:
    """The limits that are reached now."""

    is_full: bool = False
    """True for that of the whole deployment."""
    full_scopes: frozenset[str] = frozenset()
    """The scopes in which no more jobs may run."""


def find_room(running: Mapping[str, int], max_running: int, of_scope: Callable[[str], int]) -> Room:
    """Return the limits that these running jobs reach. 0: no limit."""
    full = frozenset(scope for scope, count in running.items() if 0 < of_scope(scope) <= count)
    return Room(0 < max_running <= sum(running.values()), full)


class Limits:
    """The limits of one application, as this process knows them. ``name``: of the process."""

    def __init__(self, config: Config, store: Store, name: str) -> None:
        self._config = config
        self._store = store
        self.name = name
        self._lock = threading.Lock()
        self._running = 0
        self._is_server = False
        self._is_uncounted = False
        """True if the last renewal in a request failed, which was logged."""
        self._keeps_version = False
        self._slots: int | None = None
        self._orphans: tuple[int, ...] = ()
        self._auto = UNKNOWN
        self._renew_at = self._renew_version_at = 0.0  # in time.monotonic()

    @property
    def max_running(self) -> int:
        """Jobs in the whole deployment, as far as it is known; 0: no limit."""
        limit = self._config.max_running
        return limit if isinstance(limit, int) else self._auto

    def of_scope(self, scope: str) -> int:
        """Jobs in this scope; 0: no limit."""
        limits = self._config.max_running_per_scope
        if isinstance(limits, Mapping):
            return limits.get(scope, 0)
        return limits if scope else 0

    @property
    def per_process(self) -> int:
        """Jobs whose code may run at once in this process; 0: no limit.

        Without ``max_running_per_process``, that is the number in ``max_running``, because code that goes on after its
        job has ended still holds a thread. With "auto" it is half of the process's slots, because a server sends
        requests to a process even if jobs occupy all of its threads.
        """
        if self._config.max_running_per_process:
            return self._config.max_running_per_process
        of_all = self._config.max_running
        return of_all if isinstance(of_all, int) else share_slots([self._slots])

    @property
    def places(self) -> int:
        """Most jobs that this process launches and watches at once."""
        return min(filter(None, (self.max_running, self._config.max_running_per_process, MOST_PLACES)))

    def find_room(self) -> Room:
        """Return the limits that are reached now. Raises StoreError."""
        if not self.max_running and not self._config.max_running_per_scope:
            return Room()
        return find_room(self._store.count_running(), self.max_running, self.of_scope)

    def enter(self) -> bool:
        """Count one more job in this process, until leave(). Return False if its limit is reached."""
        with self._lock:
            if not self.has_room_here:
                return False
            self._running += 1
            return True

    @property
    def has_room_here(self) -> bool:
        """May one more job run in this process?"""
        return not 0 < self.per_process <= self._running

    def leave(self) -> None:
        """Count one job less in this process."""
        with self._lock:
            self._running -= 1

    def note_process(self, environ: Mapping[str, Any] | None, start_response: Callable[..., Any] | None = None) -> None:
        """Register this process, because it serves a request. Repeat that before the lease ends.

        Raises nothing: a write that fails is repeated later.
        """
        if not self._is_server and environ is not None:
            self._slots = detect_server(environ, start_response).threads_each
            self._auto = share_slots([self._slots])
            self._is_server = True
            self._renew_at = 0.0
        if time.monotonic() < self._renew_at:
            return
        try:
            self.renew()
            self._is_uncounted = False
        except StoreError as error:
            if not self._is_uncounted:
                log.warning("This process is not counted for max_running yet: %s", error)
            self._is_uncounted = True

    def renew(self, store: Store | None = None) -> None:
        """Register this process and read the slots of all. Call it each third of a lease.

        ``store``: replaces that of the requests. Raises StoreError.
        """
        store = store or self._store
        self._renew_at = time.monotonic() + self._config.lease / 3
        if self._is_server:
            store.register(self.name, self._free_slots, self._config.lease, self._config.app_version or "")
        elif self._keeps_version:
            store.register(self.name, 0, self._config.lease, self._config.app_version or "")
        slots = store.read_slots()
        for name in filter(is_dead, tuple(slots)):
            with contextlib.suppress(Refused):
                store.unregister(name)
            del slots[name]
        # A process with 0 slots only registers its app version, or has lost all of its slots.
        self._auto = share_slots([each for each in slots.values() if each != 0] or [self._free_slots])

    def note_serving(self) -> None:
        """Register the app version of this process from the next renewal on, even if it serves no jobs."""
        self._keeps_version = self._config.app_version is not None

    def note_recorder(
        self, environ: Mapping[str, Any] | None, start_response: Callable[..., Any] | None = None
    ) -> None:
        """Register the app version of this process before it records a job, and its slots if jobs run in it.

        Otherwise a process of another version could take the job first. Raises StoreError.
        """
        # With connect= the jobs may run elsewhere: the processes that serve them register themselves.
        self.note_process(environ if self._config.connect is None else None, start_response)
        if self._config.app_version and time.monotonic() >= self._renew_version_at:
            self._renew_version_at = time.monotonic() + self._config.lease / 3
            slots = self._free_slots if self._is_server else 0
            self._store.register(self.name, slots, self._config.lease, self._config.app_version or "")

    @property
    def _free_slots(self) -> int | None:
        """Slots that no orphaned run holds."""
        return self._slots and max(self._slots - len(self._orphans), 0)

    def note_orphans(self, job_ids: Iterable[int], store: Store) -> None:
        """Count the slots of these jobs as lost: they have ended, but their code runs on here. Raises StoreError."""
        before, lost_before = self._orphans, self.lost_slots
        self._orphans = tuple(sorted(job_ids))
        if self.lost_slots and not lost_before:
            log.warning("%s", self.lost_slots)
        if len(self._orphans) != len(before):
            self.renew(store)

    @property
    def lost_slots(self) -> str:
        """Warning if at least half of this process's slots for jobs are lost, or an empty text."""
        slots = min(filter(None, (self.per_process, self._slots)), default=0)
        if not slots or 2 * len(self._orphans) < slots:
            return ""
        named = ", ".join(map(str, self._orphans[:MOST_PLACES]))
        count = min(len(self._orphans), slots)
        return f"{count} of {slots} slots for jobs are held by code that goes on after its job ended: {named}"

    def withdraw(self, store: Store | None = None) -> None:
        """Unregister this process, because it ends. Raises StoreError."""
        if self._is_server or self._config.app_version:
            self._is_server = self._keeps_version = False
            (store or self._store).unregister(self.name)
