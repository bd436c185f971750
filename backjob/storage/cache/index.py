"""How records stand in a cache: a record as bytes, and the one list of all jobs, by which a cache can be searched.

Pure: bytes in, frozen jobs and a plain list out. What is no record of ours is none. Knows no cache and no clock.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from backjob.model.job import Job, NewJob
from backjob.storage.records import SpoiledRecord, make_record

MOST_ENDED = 1000
"""Jobs that have ended and are still listed."""
_MOST_BYTES = 64 * 2**20
"""Of a value as it comes out of its compression: no record of ours has as many."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_TIMES = (
    *("created_at", "due_at", "started_at", "updated_at", "ended_at"),
    *("held_until", "lease_until", "launch_failed_at"),
)
_FIELDS = [each.name for each in dataclasses.fields(Job) if each.name != "read_at"]


def encode_job(job: Job) -> bytes:
    """The record as it stands in a cache."""
    values: dict[str, Any] = {}
    for name in _FIELDS:
        value = getattr(job, name)
        if name in _TIMES and value is not None:
            value = to_microseconds(value)
        elif name == "sealed" and value is not None:
            value = base64.b64encode(value).decode()
        values[name] = value
    return _pack([values])


def decode_job(value: bytes | None, read_at: datetime) -> Job | None:
    """The record again; None for what is none."""
    try:
        found = _unpack(value)[0]
        fields: dict[str, Any] = {name: found[name] for name in _FIELDS}  # a newer release may have more
        for name in _TIMES:
            if fields[name] is not None:
                fields[name] = _EPOCH + fields[name] * _MICROSECOND
        if fields["sealed"] is not None:
            fields["sealed"] = base64.b64decode(fields["sealed"])
        return make_record(Job, (*fields.values(), read_at), fields["id"])
    except (TypeError, ValueError, LookupError, OverflowError, zlib.error, binascii.Error, SpoiledRecord):
        return None


def to_microseconds(time: datetime) -> int:
    """Since 1970, without rounding."""
    return (time - _EPOCH) // _MICROSECOND


class Listed(NamedTuple):
    """What the list has of a job that has not ended: by what it is found, and when it is due at the earliest."""

    uid: str
    unique_key: str | None
    key_id: str
    priority: int
    due: int
    scope: str = ""


@dataclass
class Index:
    """All jobs of one application. Times are microseconds since 1970.

    A record is the authority on its job. The list may be one step behind it, never before it: a job is listed when its
    record stands, and struck off when its record has ended.
    """

    live: dict[int, Listed] = field(default_factory=dict)
    running: dict[tuple[int, int], int] = field(default_factory=dict)
    """The job and attempt of each that runs or is about to, and since when: what max_running counts."""
    ended: list[int] = field(default_factory=list)
    """The oldest first."""

    @classmethod
    def decode(cls, value: bytes | None) -> Index:
        """The list again; an empty one for what is none."""
        try:
            live, running, ended, *_ = _unpack(value)
            return cls(
                {int(job_id): _check_listed(Listed(*listed[: len(Listed._fields)])) for job_id, *listed in live},
                {(int(job_id), int(attempt)): int(since) for job_id, attempt, since, *_ in running},
                [int(job_id) for job_id in ended],
            )
        except (TypeError, ValueError, OverflowError, zlib.error):
            return cls()

    def encode(self) -> bytes:
        """As it stands in a cache."""
        live = [[job_id, *listed] for job_id, listed in self.live.items()]
        return _pack([live, [[*run, since] for run, since in self.running.items()], self.ended])

    def find(self, uid: str, unique_keys: Sequence[str]) -> int | None:
        """The job of this uid, or with one of these unique keys."""
        for job_id, listed in self.live.items():
            if listed.uid == uid or (listed.unique_key is not None and listed.unique_key in unique_keys):
                return job_id
        return None

    def add(self, job: Job, new: NewJob) -> None:
        """List a job."""
        due = to_microseconds(job.due_at)
        self.live[job.id] = Listed(new.uid, new.unique_key, new.key_id, new.priority, due, new.scope)

    def postpone(self, job: Job) -> None:
        """A job waits again."""
        listed = self.live.get(job.id)
        if listed is not None:
            self.live[job.id] = listed._replace(due=to_microseconds(job.due_at))
        for run in [run for run in self.running if run[0] == job.id and run[1] < job.attempt]:
            del self.running[run]

    def strike(self, job_id: int) -> list[int]:
        """A job has ended: which ones are too old to be listed now."""
        for run in [run for run in self.running if run[0] == job_id]:
            del self.running[run]
        if self.live.pop(job_id, None) is None:
            return []
        self.ended.append(job_id)
        dropped, self.ended = self.ended[:-MOST_ENDED], self.ended[-MOST_ENDED:]
        return dropped

    def has_room(self, job_id: int, attempt: int, max_running: int, max_in_scope: int) -> bool:
        """May this run begin (or have begun), beside the others? Limits of 0 are none."""
        others = [other for other in self.running if other != (job_id, attempt)]
        if 0 < max_running <= len(others):
            return False
        scopes = [self.live[other].scope for other, _ in others if other in self.live]
        return not (max_in_scope and job_id in self.live and scopes.count(self.live[job_id].scope) >= max_in_scope)

    def unlist(self, job_ids: Iterable[int]) -> None:
        """The records of these jobs, which have ended, are gone."""
        gone = set(job_ids)
        self.ended = [job_id for job_id in self.ended if job_id not in gone]

    def waiting(self, key_ids: Iterable[str] | None = None, full_scopes: Collection[str] = ()) -> list[int]:
        """Those that wait, by the time at which they are due; with ``key_ids`` only those sealed with one of them.

        Those in ``full_scopes`` are left out.
        """
        running = {job_id for job_id, _ in self.running}
        wanted = set(key_ids) if key_ids is not None else None
        found = [
            (listed.due, job_id)
            for job_id, listed in self.live.items()
            if job_id not in running and (wanted is None or listed.key_id in wanted) and listed.scope not in full_scopes
        ]
        return [job_id for _, job_id in sorted(found)]


def _check_listed(listed: Listed) -> Listed:
    if not all(isinstance(each, str) for each in (listed.uid, listed.key_id, listed.scope)):
        raise TypeError("no text")
    if not all(isinstance(each, int) for each in (listed.priority, listed.due)):
        raise TypeError("no number")
    return listed


def _pack(values: list[Any]) -> bytes:
    return zlib.compress(json.dumps(values, separators=(",", ":")).encode(), 1)


def _unpack(value: bytes | None) -> list[Any]:
    unpacked = zlib.decompressobj()
    text = unpacked.decompress(value or b"", _MOST_BYTES)
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, list):
        raise TypeError("no list")
    return values
