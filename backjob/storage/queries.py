"""The contract of a store of jobs: every read, the processes, and the deletion of old jobs."""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from backjob.model.job import Glance, Job, JobStatus, Status
from backjob.model.recovery import RecoveryRecord

from .retention import Passed

LONGEST = 3650 * 86400.0
"""Seconds for which a job can wait at most."""
APP_GRACE = 86400.0
"""Seconds after which a waiting job that no process of its application has taken is failed by one of another."""
VERSION_GRACE = 60.0
"""Seconds for which a version of the app may be without a process, as during a restart, and keeps its jobs."""


class Queries(abc.ABC):
    """What can be asked of a store. Every method raises StoreError when it can't be reached."""

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """Return the unique name of this table or cache. Requests that are sealed to it open in no other.

        Known after the first other call. Makes no query."""

    @abc.abstractmethod
    def get(self, job_id: int) -> Job | None:
        """One record."""

    @abc.abstractmethod
    def look_at(self, job_id: int) -> Job | None:
        """Return the current record. A database leaves out the sealed request, which may be large."""

    @abc.abstractmethod
    def key_id(self, job_id: int) -> str | None:
        """Return the id of the key that sealed this job, or None if there is no such job."""

    @abc.abstractmethod
    def status(self, job_id: int) -> JobStatus | None:
        """What people see of one record: up to a second old, so nothing is decided by it."""

    @abc.abstractmethod
    def glance(self, job_id: int) -> Glance | None:
        """The moving part of one record."""

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
        """The names of the processes that hold jobs which wait."""

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
        """Hold the first job that is due and that no process holds, but none of these scopes.

        Only a job of this application, or of none: other queries with an ``app_id`` have the same rule. Of another one
        only after APP_GRACE, if no job of it runs, or has ended since: then the caller is to fail it.
        A job of another version of the app than ``app_version`` is skipped while a process of that version is alive,
        and for VERSION_GRACE seconds after. "" in the job: any process takes it.
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
        """Return the seconds until a job, but none of these scopes, is due or loses its hold.

        None: no job is due ``within`` so many seconds.
        """

    @abc.abstractmethod
    def count_running(self) -> dict[str, int]:
        """How many jobs run in each scope that has any."""

    @abc.abstractmethod
    def count_launched(self) -> int:
        """How many worker requests wait for a slot."""

    @abc.abstractmethod
    def find_leased(self, key_ids: Sequence[str], app_id: str | None = None) -> list[RecoveryRecord]:
        """Return the running jobs, and those that wait for a response. ``app_id=None``: of all applications."""

    @abc.abstractmethod
    def time(self) -> datetime:
        """The time of this store."""

    @abc.abstractmethod
    def time_at_hand(self) -> datetime:
        """Return the store's time as last read, or the host's if it never was. Makes no query, raises nothing."""

    @abc.abstractmethod
    def try_new_connection(self) -> None:
        """Open a new connection, use it and close it. Raises StoreError, for example if the server has none left."""

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
        """Delete so many jobs at most that were completed, or have ended in any way, before these times (None: none).

        Return the number deleted. If it equals ``most``, call again. A job that can't be deleted does not keep the
        others: it is noted in ``passed``, and later calls that get the same ``passed`` do not try it again.
        """

    @abc.abstractmethod
    def use_once(self, name: str, seconds: float) -> bool:
        """Return whether this is the first use of a name in the deployment within ``seconds``."""

    @abc.abstractmethod
    def register(self, name: str, slots: int | None, seconds: float, app_version: str = "") -> None:
        """A process is there for so many seconds, and has so many slots (None: not known)."""

    @abc.abstractmethod
    def is_version_alive(self, app_version: str) -> bool:
        """Is a process of this version of the app alive, or was one within the last VERSION_GRACE seconds?"""

    @abc.abstractmethod
    def read_slots(self) -> dict[str, int | None]:
        """The slots of each process that is there, by their names."""

    @abc.abstractmethod
    def unregister(self, name: str) -> None:
        """A process is there no more."""
