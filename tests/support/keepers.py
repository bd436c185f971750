"""A process as the life of jobs knows it: a real store, keeper and renewals, and the code that is at work in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backjob.config import Config
from backjob.keyring import Keyring
from backjob.model.job import Job
from backjob.runtime.process_identity import PROCESS, RESPONSE
from backjob.scheduling.concurrency import Limits
from backjob.scheduling.keeper import Keeper
from backjob.scheduling.leases import Renewals
from backjob.storage.sql.database import Database
from backjob.storage.sql.store import SQLStore
from backjob.transport.launcher import SelfRequest

from .records import Clock

CONFIG = Config(key="key12345" * 4, lease=30, backlog_days=0, all_backlog_days=0)
LEASE = CONFIG.lease
KEYRING = Keyring(["k" * 32])
KEY, OTHER_KEY = KEYRING.key_id, "another key"
APP, OTHER_APP = (SelfRequest(CONFIG, KEYRING, name).app_id for name in ("", "another"))


class Store(SQLStore):
    """A store in which others may do something between a keeper's look and its moves."""

    in_between: Callable[[], object] = staticmethod(lambda: None)

    def find_leased(self, key_ids: Sequence[str], app_id: str = "") -> list[Any]:
        found = super().find_leased(key_ids, app_id)
        in_between, self.in_between = self.in_between, lambda: None
        in_between()
        return found


@dataclass
class Run:
    """The code of a job, at work: by which attempt and claim, and until when its process vouches for it."""

    attempt: int
    claim: str
    until: datetime
    signs: list[tuple[int, str, bool]] = field(default_factory=lambda: [(0, "", False)])
    """Progress, text, does it go on."""
    has_ended: bool = False
    """It has, and its outcome is not written yet."""


class Process:
    """A process: its store and keeper, what it knew of each job when it last looked, and the code that it runs."""

    def __init__(self, name: str, database: Database, clock: Clock) -> None:
        self.name = f"{PROCESS}{name}-"
        self.store = Store(database, clock)
        self.renewals = Renewals()
        self.limits = Limits(CONFIG, self.store, self.name)
        self_request = SelfRequest(CONFIG, KEYRING)
        self.keeper = Keeper(CONFIG, KEYRING, self.store, self_request, self.renewals, self.limits, lambda: None)
        self.known: dict[int, Job] = {}
        self.runs: dict[int, Run] = {}
        self.is_frozen = False
        self.renewal_at = self.renewed_at = self.listens_since = None  # type: datetime | None

    @property
    def response(self) -> str:
        """How it holds jobs that are to follow a response."""
        return self.name.replace(PROCESS, RESPONSE)

    def stop_run(self, job_id: int) -> None:
        """That code is at its end."""
        self.renewals.end_lease(self.runs.pop(job_id).claim)
