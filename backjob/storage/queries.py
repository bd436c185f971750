"""The contract of a store of jobs: every read, the processes, and the deletion of old jobs."""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from backjob.model.job import Glance, Job, JobStatus, Status
from backjob.model.recovery import RecoveryRecord

from .retention import Passed

LONGEST = 3650 * 86400.0
"""Longest time in seconds for which a job can wait."""
APP_GRACE = 86400.0
"""Seconds after which another application fails a waiting job that no process of its own has taken."""
VERSION_GRACE = 60.0
"""Seconds for which a version of the app without a process keeps its jobs, as during a restart."""


class Queries(abc.ABC):
    """The reads, processes and prune() of a store. Every method raises StoreError when it can't be reached."""

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """Return the unique name of this table or cache. Requests that are sealed to it open in no other.

        Known after the first other call. Makes no query."""

    @abc.abstractmethod
    def get(self, job_id: int) -> Job | None:
        """Return one record, or None."""

    @abc.abstractmethod
    def look_at(self, job_id: int) -> Job | None:
        """Return the current record. A database leaves out the sealed request, which may be large."""

    @abc.abstractmethod
    def key_id(self, job_id: int) -> str | None:
        """Return the id of the key that sealed this job, or None if there is no such job."""

    @abc.abstractmethod
    def status(self, job_id: int) -> JobStatus | None:
        """Return the status of one job for display. It may be a second old: base no decision on it."""

    @abc.abstractmethod
    def glance(self, job_id: int) -> Glance | None:
        """Return the changing fields of one record."""

    @abc.abstractmethod
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

    @abc.abstractmethod
    def list_holders(self) -> list[str]:
        """Return the names of the processes that hold waiting jobs."""

    @abc.abstractmethod
    def take_due(
        self,
        key_ids: Sequence[str],
        holder: str,
        seconds: float,
        app_id: str = "",
        full_scopes: Collection[str] = (),
        app_version: str = "",
    ) -> Job | None:
        """Hold and return the first due job that no process holds. Skip the jobs of ``full_scopes``.

        Jobs of other applications are skipped, as by all queries with an ``app_id``. Jobs of no application are not.
        A job of another application is returned APP_GRACE after its due time, if no job of that application runs or
        has ended since. The caller must fail it.
        Jobs of other versions of the app are skipped while a process of that version is alive, and for VERSION_GRACE
        seconds after. Any process takes a job whose ``app_version`` is "".
        """

    @abc.abstractmethod
    def seconds_to_next(
        self,
        key_ids: Sequence[str],
        app_id: str = "",
        full_scopes: Collection[str] = (),
        within: float = LONGEST,
        app_version: str = "",
    ) -> float | None:
        """Return the seconds until a job outside of ``full_scopes`` is due or loses its hold.

        None: no job is due ``within`` so many seconds.
        """

    @abc.abstractmethod
    def count_running(self) -> dict[str, int]:
        """Return the number of running jobs in each scope that has any."""

    @abc.abstractmethod
    def count_launched(self) -> int:
        """Return the number of worker requests that wait for a slot."""

    @abc.abstractmethod
    def find_leased(self, key_ids: Sequence[str], app_id: str | None = None) -> list[RecoveryRecord]:
        """Return the running jobs, and those that wait for a response. ``app_id=None``: of all applications."""

    @abc.abstractmethod
    def time(self) -> datetime:
        """Return the time of this store."""

    @abc.abstractmethod
    def time_at_hand(self) -> datetime:
        """Return the store's time as last read, or the host's if it never was. Makes no query, raises nothing."""

    @abc.abstractmethod
    def try_new_connection(self) -> None:
        """Open a new connection, use it and close it. Raises StoreError, for example if the server allows no more."""

    @abc.abstractmethod
    def check_writes(self) -> None:
        """Raise StoreError if the store refuses to write any job at all. Changes nothing."""

    @abc.abstractmethod
    def prune(
        self,
        completed_before: datetime | None,
        ended_before: datetime | None,
        most: int,
        passed: Passed | None = None,
    ) -> int:
        """Delete up to ``most`` jobs that completed, or ended in any way, before these times. None: delete none.

        Return the number deleted. If it equals ``most``, call again. A job that can't be deleted is noted in
        ``passed``, and skipped by later calls with the same ``passed``.
        """

    @abc.abstractmethod
    def use_once(self, name: str, seconds: float) -> bool:
        """Return whether this is the first use of a name in the deployment within ``seconds``."""

    @abc.abstractmethod
    def register(self, name: str, slots: int | None, seconds: float, app_version: str = "") -> None:
        """Record that a process is alive for so many seconds, and its slots (None: not known)."""

    @abc.abstractmethod
    def is_version_alive(self, app_version: str) -> bool:
        """Is a process of this version of the app alive, or was one within the last VERSION_GRACE seconds?"""

    @abc.abstractmethod
    def read_slots(self) -> dict[str, int | None]:
        """Return the slots of each live process, by its name."""

    @abc.abstractmethod
    def unregister(self, name: str) -> None:
        """Record that a process has ended."""
