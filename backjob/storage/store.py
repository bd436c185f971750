"""What the other rooms ask of a store of jobs: every read, and every guarded write. A contract, and no code.

Each write is atomic. It decides nothing about a job's life: one that comes too late changes nothing and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from backjob.model.job import Glance, Job, JobStatus, Move, NewJob, Status
from backjob.model.recovery import RecoveryRecord

from .retention import Passed

LONGEST = 3650 * 86400.0
"""Seconds for which a job can wait at most."""
VERSION_GRACE = 60.0
"""Seconds for which a version of the app may be without a process, as during a restart, and keeps its jobs."""


class Store(Protocol):
    """What the other rooms ask of a store. Every method raises StoreError when it can't be reached."""

    @property
    def place(self) -> str:
        """Return the unique name of this table or cache. Requests that are sealed to it open in no other.

        Known after the first other call. Makes no query."""

    def add(self, new: NewJob, seal: Callable[[int], bytes], unique_keys: Sequence[str] = ()) -> tuple[int, bool]:
        """Record a job; with unique keys, unless a live job has one of them. Its id, and whether it is new."""

    def get(self, job_id: int) -> Job | None:
        """One record."""

    def look_at(self, job_id: int) -> Job | None:
        """Return the current record. A database leaves out the sealed request, which may be large."""

    def key_id(self, job_id: int) -> str | None:
        """Return the id of the key that sealed this job, or None if there is no such job."""

    def status(self, job_id: int) -> JobStatus | None:
        """What people see of one record: up to a second old, so nothing is decided by it."""

    def glance(self, job_id: int) -> Glance | None:
        """The moving part of one record."""

    def find(
        self,
        statuses: Iterable[Status] | None,
        scope: str | None,
        limit: int,
        before: int | None,
        text: int | None = None,
    ) -> list[Job]:
        """Return records, the newest first, each with the last ``text`` characters of its status text. None: all.

        Without the sealed request, where it is stored separately."""

    def hold(self, job_id: int, attempt: int, held_by: str | None, holder: str | None, seconds: float) -> bool:
        """Pass the hold on a job that waits, from one (None: from nobody alive) to the next (None: to nobody)."""

    def note_launch_failure(
        self, job_id: int, attempt: int, holder: str, text: str, seconds: float, failed_for: float = 0
    ) -> bool:
        """Tell people why a job still waits, and hold it until it is tried again. ``failed_for``: the job's own
        ``launch_failed_for`` when this try began."""

    def note_full(self, job_id: int, attempt: int, holder: str) -> bool:
        """A launch has got through, and found no place: let go of the job. What failed before is past, its text too."""

    def note_wait(self, app_id: str, text: str, old_text: str) -> int:
        """Set the status text of the jobs of this application that are due and wait, where it is ``old_text``.

        Return their number."""

    def note_missing_key(self, app_id: str, key_ids: Sequence[str], text: str, seconds: float) -> int:
        """Set the empty status text of the jobs of this application that are sealed with none of these keys.

        Only those that have been due for ``seconds``, and that no process holds. Return their number."""

    def free(self, holder: str) -> int:
        """Let go of all jobs that wait and that this one holds: how many there were."""

    def list_holders(self) -> list[str]:
        """The names of the processes that hold jobs which wait."""

    def take_due(
        self,
        key_ids: Sequence[str],
        holder: str,
        seconds: float,
        skipped: Collection[str] = (),
        full_scopes: Collection[str] = (),
        app_version: str = "",
    ) -> Job | None:
        """Hold the first job that is due and that nobody holds, but none of these apps and scopes.

        A job of another version of the app than ``app_version`` is skipped while a process of that version is alive,
        and for VERSION_GRACE seconds after. "" in the job: any process takes it.
        """

    def seconds_to_next(
        self,
        key_ids: Sequence[str],
        skipped: Collection[str] = (),
        full_scopes: Collection[str] = (),
        within: float = LONGEST,
        app_version: str = "",
    ) -> float | None:
        """How long until a job, but none of these apps and scopes, is due or loses its hold. None: none is due
        ``within`` so many seconds."""

    def count_running(self) -> dict[str, int]:
        """How many jobs run in each scope that has any."""

    def count_launched(self) -> int:
        """How many worker requests wait for a slot."""

    def claim(
        self, job_id: int, attempt: int, owner: str, lease: float, max_running: int, max_in_scope: int = 0
    ) -> bool:
        """The one compare-and-set that lets an attempt run; not while ``max_running`` jobs run, or ``max_in_scope`` of
        its own scope. Limits of 0 are none."""

    def touch(
        self,
        job_id: int,
        attempt: int,
        progress: int,
        text: str,
        lease: float,
        number: int = 1,
        *,
        is_more: bool = False,
    ) -> bool:
        """A sign from the running job, of this number within its attempt: what came before a later one is too late.

        With ``is_more`` the text goes on after that of the sign before, which must be the last one that was made.
        False when the job runs no more, is to be cancelled, when the number does not fit, or the text can't go on.
        """

    def renew(self, leases: Mapping[str, int], holds: Mapping[int, str], seconds: float) -> None:
        """Vouch on for jobs that run, by their claims, and for jobs that wait, by their holders.

        It is a write, also with nothing to vouch for: a store that can only be read just now lets nobody vouch.
        """

    def find_vouched(self, key_ids: Sequence[str]) -> list[RecoveryRecord]:
        """The jobs that somebody vouches for, or did: those that run, and those that wait for a response."""

    def time(self) -> datetime:
        """The time of this store."""

    def time_at_hand(self) -> datetime:
        """Return the store's time as last read, or the host's if it never was. Makes no query, raises nothing."""

    def try_new_connection(self) -> None:
        """Open a new connection, use it and close it. Raises StoreError, for example if the server has none left."""

    def check_writes(self) -> None:
        """Raise StoreError if the store refuses to write any job at all. Changes nothing."""

    def request_cancel(self, job_id: int) -> bool:
        """Ask a running job to end. False when it does not run."""

    def move(
        self,
        move: Move,
        job_id: int,
        *,
        attempt: int | None = None,
        text: str | None = None,
        error: str = "",
        location: str = "",
        progress: int | None = None,
        delay: float = 0,
        past: str | None = None,
        silent_for: float = 0,
        vouched_until: datetime | None = None,
    ) -> bool:
        """Make a move if its guard still holds. ``error`` and ``location`` are always written: they describe this end
        of the attempt, in one line of MOST_REASON characters each. With ``silent_for`` only if there was no sign for so
        many seconds, with ``vouched_until`` only if nobody has vouched for the job since its lease or hold was that."""

    def prune(
        self,
        completed_before: datetime | None,
        ended_before: datetime | None,
        most: int,
        passed: Passed | None = None,
    ) -> int:
        """Delete so many jobs at most that were completed, or have ended in any way, before these times (None: none).

        Return the number deleted. If it equals ``most``, call again. A job that can't be deleted does not keep the
        others: it is noted in ``passed``, and later calls that get the same ``passed`` do not try it again.
        """

    def use_once(self, name: str, seconds: float) -> bool:
        """Return whether this is the first use of a name in the deployment within ``seconds``."""

    def register(self, name: str, slots: int | None, seconds: float, app_version: str = "") -> None:
        """A process is there for so many seconds, and has so many slots (None: not known)."""

    def is_version_alive(self, app_version: str) -> bool:
        """Is a process of this version of the app alive, or was one within the last VERSION_GRACE seconds?"""

    def read_slots(self) -> dict[str, int | None]:
        """The slots of each process that is there, by their names."""

    def unregister(self, name: str) -> None:
        """A process is there no more."""
