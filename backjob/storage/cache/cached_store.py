"""A cache in front of the database: what pages poll, status(), mostly comes from there. What decides anything does not.

A status that may still change is taken from a shared cache only, and for a second at most. A cache that is away, slow
or full of nonsense makes this slower and nothing else.
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
"""Seconds that anybody waits for the cache."""
LIVE_FOR = 0.9
"""Seconds for which a status is shown that may have changed: one, less what two hosts' readings of the database's clock
may be apart, which is half a way there and back each."""
FINAL_FOR = 600.0
"""Seconds for which a final status is shown without a look whether its record is still there."""
PAUSE = 5.0
"""Seconds for which a cache that failed is left alone."""
_CLOCK_FOR = 60.0
"""Seconds for which a reading of the database's clock counts: two clocks drift apart by some milliseconds in them."""
_MOST_LOCAL = 1000
"""Entries of this process in a backend that never forgets."""
_STATUS_FIELDS = frozenset(each.name for each in dataclasses.fields(JobStatus))
Result = TypeVar("Result")


@dataclass(frozen=True)
class Entry:
    """A status, and the database's time at which it was one, or somewhat before."""

    status: JobStatus
    at: datetime

    @property
    def rank(self) -> tuple[Any, ...]:
        """What only grows in a job's life, so that of two entries the newer one is known without a clock."""
        told = self.status
        return told.attempt, told.status, told.is_cancelling, told.updated_time, told.progress, self.at

    @property
    def lasts(self) -> float:
        """For how many seconds it may be shown."""
        return FINAL_FOR if self.status.status.is_final else LIVE_FOR


@dataclass(frozen=True)
class _Reading:
    """The database's clock, as it was read between ``began`` and ``began + took`` of this process's monotonic clock."""

    time: datetime
    began: float
    took: float


class CachedStore(SQLStore):
    """An SQLStore whose status() looks into the cache first.

    Ages are told by the database's clock, of which each process knows the latest time that it can be: hosts with
    different clocks share a cache, and none of them shows anything too old.
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
        """Let people see a change of the status at once."""
        is_final = isinstance(write, Transition) and write.move.target.is_final
        is_shown = is_final or (self._entries.is_shared and isinstance(write, (Claim, CancelRequest, Transition)))
        if is_made and is_shown:
            with suppress(StoreError):  # made it is, and seen a second later
                self._look(job_id)

    def _look(self, job_id: int) -> JobStatus | None:
        """What the database says, kept for the next one who asks."""
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
        """Put it into the cache, unless that has a newer one by now, from somebody who was quicker: then that one."""
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
        """Is it young enough, whatever the database's clock shows by now?"""
        reading, now = self._reading, self._monotonic()
        if reading is None or now - reading.began > _CLOCK_FOR:
            return False
        latest = reading.time + timedelta(seconds=now - reading.began)
        # What is from the future was written after the clock was set forward: this process's reading is no good.
        return 0 <= (latest - entry.at).total_seconds() < entry.lasts

    def _try(self, call: Callable[[], Result]) -> Result | None:
        """What the call gives; None while the cache is away, which is told once."""
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

    # An entry is signed: whoever can write to the cache can't put words into a job's mouth.

    def _key(self, job_id: int) -> str:
        name, space = self._space
        if name != self._database.name:
            # It depends on no secret key: a poll that moves on to a process with another list of keys would see an
            # older status. A copy of an SQLite file has the same name of its table.
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
