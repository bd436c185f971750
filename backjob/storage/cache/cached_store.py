"""A cache in front of the database for status(), which pages poll. Decisions are made by the database alone.

A status that may still change is taken from a shared cache only, and for a second at most. An unreachable, slow or
corrupt cache makes status() slower and changes nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from backjob.errors import Refused, StoreError
from backjob.keyring import Keyring
from backjob.model.history import AttemptEnd
from backjob.model.job import JobStatus
from backjob.model.transitions import read_status
from backjob.model.writes import CancelRequest, Claim, Transition, Write
from backjob.storage.sql.database import Database
from backjob.storage.sql.store import SQLStore

from .entries import CacheEntries

log = logging.getLogger("backjob")

CACHE_TIMEOUT = 0.2
"""Seconds after which a call to the cache fails."""
LIVE_FOR = 0.9
"""Seconds for which a status that may have changed is shown. Less than one, because two hosts' readings of the
database's clock may each be wrong by half a round trip."""
FINAL_FOR = 600.0
"""Seconds for which a final status is shown although its record may be deleted."""
PAUSE = 5.0
"""Seconds for which a cache that failed is not called."""
_CLOCK_FOR = 60.0
"""Seconds for which a reading of the database's clock is used. Clocks drift apart by milliseconds in that time."""
_MOST_LOCAL = 1000
"""Most entries of this process in a backend without expiry."""
_STATUS_FIELDS = frozenset(each.name for each in dataclasses.fields(JobStatus))
Result = TypeVar("Result")


@dataclass(frozen=True)
class Entry:
    """A status, and the database's time when it was read or shortly before."""

    status: JobStatus
    at: datetime

    @property
    def rank(self) -> tuple[Any, ...]:
        """Return values that only grow in a job's life: they show the newer of two entries without a clock."""
        job = self.status
        return job.attempt, job.status, job.is_cancelling, job.updated_time, job.progress, self.at

    @property
    def lasts(self) -> float:
        """Return the seconds for which the entry may be shown."""
        return FINAL_FOR if self.status.status.is_final else LIVE_FOR


@dataclass(frozen=True)
class _Reading:
    """The database's clock, read between ``began`` and ``began + took`` of this process's monotonic clock."""

    time: datetime
    began: float
    took: float


class CachedStore(SQLStore):
    """An SQLStore whose status() reads the cache first.

    The age of an entry is counted to the latest time that the database's clock can show. So hosts with different
    clocks can share a cache, and none shows an entry that is too old.
    """

    def __init__(
        self,
        database: Database,
        entries: CacheEntries,
        keyring: Keyring,
        prefix: str,
        now: Callable[[], datetime] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(database, now)
        self._entries = entries
        self._keyring = keyring
        self._prefix = prefix
        self._space = ("", "")
        """Name of the table, and the first part of the keys of its statuses."""
        self._monotonic = monotonic
        self._reading: _Reading | None = None
        self._leave_until = -float("inf")
        self._is_away = self._has_refused = False
        self._local: deque[str] = deque()

    def status(self, job_id: int) -> JobStatus | None:
        if not self._database.name:
            return self._look(job_id)
        value = self._try(lambda: self._entries.read(self._key(job_id)))
        entry = self._decode(job_id, value)
        return entry.status if entry is not None and self._is_fresh(entry) else self._look(job_id)

    def write(self, job_id: int, write: Write) -> bool:
        is_made = super().write(job_id, write)
        self._show(job_id, write, is_made)
        return is_made

    def write_claim(self, job_id: int, claim: Claim, max_running: int, max_in_scope: int) -> bool:
        is_made = super().write_claim(job_id, claim, max_running, max_in_scope)
        self._show(job_id, claim, is_made)
        return is_made

    def _show(self, job_id: int, write: Write, is_made: bool) -> None:
        """Put a changed status into the cache at once."""
        is_final = isinstance(write, Transition) and write.move.target.is_final
        is_shown = is_final or (self._entries.is_shared and isinstance(write, (Claim, CancelRequest, Transition)))
        if is_made and is_shown:
            with suppress(StoreError):  # the write was made, and is seen a second later
                self._look(job_id)

    def _look(self, job_id: int) -> JobStatus | None:
        """Return the status in the database, and keep it for the next caller."""
        began = self._monotonic()
        job = self.look_at(job_id)
        if job is None:
            return None
        took = self._monotonic() - began
        self._reading = _Reading(job.read_at, began, took)
        entry = Entry(job.as_status(), job.read_at - timedelta(seconds=took))
        if not (entry.status.status.is_final or self._entries.is_shared):
            return entry.status
        return (self._try(lambda: self._keep(entry)) or entry).status

    def _keep(self, entry: Entry) -> Entry:
        """Store the entry in the cache and return it, or return a newer one that another process has stored."""
        key, kept = self._key(entry.status.id), entry

        def choose(value: bytes | None) -> bytes | None:
            nonlocal kept
            other = self._decode(entry.status.id, value)
            is_newer = other is not None and other.rank > entry.rank and self._is_fresh(other)
            kept = other if other is not None and is_newer else entry
            return None if is_newer else self._encode(entry)

        self._entries.change(key, choose)
        if not self._entries.is_shared:
            self._forget_oldest(key)
        return kept

    def _forget_oldest(self, key: str) -> None:
        self._local.append(key)
        if len(self._local) > _MOST_LOCAL:
            self._entries.delete(self._local.popleft())

    def _is_fresh(self, entry: Entry) -> bool:
        """Is the entry young enough, whatever the database's clock shows now?"""
        reading, now = self._reading, self._monotonic()
        if reading is None or now - reading.began > _CLOCK_FOR:
            return False
        latest = reading.time + timedelta(seconds=now - reading.began)
        # An entry from the future was written after the clock was set forward: this process's reading is wrong.
        return 0 <= (latest - entry.at).total_seconds() < entry.lasts

    def _try(self, call: Callable[[], Result]) -> Result | None:
        """Return the call's result. None if the cache refuses the value or is unreachable; both are logged once."""
        if self._monotonic() < self._leave_until:
            return None
        try:
            result = call()
        except Refused as error:  # others will be kept
            if not self._has_refused:
                self._has_refused = True
                log.warning("Statuses that are too large for the cache come from the database: %s", error)
            return None
        except StoreError as error:
            self._leave_until = self._monotonic() + PAUSE
            if not self._is_away:
                self._is_away = True
                log.warning("Statuses come from the database alone for now: %s", error)
            return None
        if self._is_away:
            self._is_away = False
            log.info("The cache is back")
        return result

    # Entries are signed, so that a writer to the cache can't forge a status.

    def _key(self, job_id: int) -> str:
        name, space = self._space
        if name != self._database.name:
            # Without a secret key, because a poll that reaches a process with another list of keys would see an older
            # status. With the file, because a copy of an SQLite file has the same table name.
            name, file = self._database.name, self._database.file
            digest = hashlib.sha256(f"{name} {file.absolute() if file is not None else ''}".encode()).hexdigest()
            space = f"{self._prefix}status-4-{digest[:43]}-"
            self._space = (name, space)
        return f"{space}{job_id}"

    def _encode(self, entry: Entry) -> bytes:
        text = json.dumps({**entry.status.as_dict(), "at": entry.at.isoformat()})
        mac = self._keyring.digest(self._key(entry.status.id) + text)[0]
        return f"{mac} {text}".encode()

    def _decode(self, job_id: int, value: bytes | None) -> Entry | None:
        mac, _, text = (value or b"").decode("utf-8", "replace").partition(" ")
        if not text or not self._keyring.is_digest(mac, self._key(job_id) + text):
            return None
        found = json.loads(text)
        at = datetime.fromisoformat(found["at"])
        if not found.keys() >= _STATUS_FIELDS:
            return None  # an older release wrote it
        fields = {name: found[name] for name in _STATUS_FIELDS}  # a newer one may have more
        for name in ("start_time", "updated_time", "end_time"):
            fields[name] = datetime.fromisoformat(fields[name]) if fields[name] else None
        fields["past"] = tuple(AttemptEnd.from_dict(end) for end in fields["past"])
        status = read_status(fields["status"], is_over=fields["end_time"] is not None)
        return Entry(JobStatus(**{**fields, "status": status}), at)
