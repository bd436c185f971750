"""Records as bytes in a cache, and the list of all jobs, by which a cache can be searched.

Pure: bytes in, frozen jobs and a plain list out. Bytes that backjob did not write count as missing.
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
"""Most ended jobs that are listed."""
_MOST_BYTES = 64 * 2**20
"""Most bytes to which a value is expanded: no record of ours is larger."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_TIMES = (
    *("created_at", "due_at", "started_at", "updated_at", "ended_at"),
    *("held_until", "lease_until", "launch_failed_at"),
)
_FIELDS = [each.name for each in dataclasses.fields(Job) if each.name != "read_at"]


def encode_job(job: Job) -> bytes:
    """Return the record as bytes."""
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
    """Return the record, or None if it can't be read."""
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
    """Return the microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


class Listed(NamedTuple):
    """A live job in the list: the values by which it is found, and its earliest due time."""

    uid: str
    unique_key: str | None
    key_id: str
    priority: int
    due: int
    scope: str = ""


@dataclass
class Index:
    """All jobs of one application. Times are microseconds since 1970.

    The record is authoritative. The list may be one step behind it, never ahead. A job is listed after its record is
    written, and removed after its record has ended.
    """

    live: dict[int, Listed] = field(default_factory=dict)
    running: dict[tuple[int, int], int] = field(default_factory=dict)
    """Job id and attempt of each run that is reserved or running, and its start. max_running counts them."""
    ended: list[int] = field(default_factory=list)
    """Ids, oldest end first."""

    @classmethod
    def decode(cls, value: bytes | None) -> Index:
        """Return the list, or an empty one if it can't be read."""
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
        """Return the list as bytes."""
        live = [[job_id, *listed] for job_id, listed in self.live.items()]
        return _pack([live, [[*run, since] for run, since in self.running.items()], self.ended])

    def find(self, uid: str, unique_keys: Sequence[str]) -> int | None:
        """Return the id of a live job with this uid or one of these keys."""
        for job_id, listed in self.live.items():
            if listed.uid == uid or (listed.unique_key is not None and listed.unique_key in unique_keys):
                return job_id
        return None

    def add(self, job: Job, new: NewJob) -> None:
        """List a job."""
        due = to_microseconds(job.due_at)
        self.live[job.id] = Listed(new.uid, new.unique_key, new.key_id, new.priority, due, new.scope)

    def postpone(self, job: Job) -> None:
        """Note that a job waits again."""
        listed = self.live.get(job.id)
        if listed is not None:
            self.live[job.id] = listed._replace(due=to_microseconds(job.due_at))
        for run in [run for run in self.running if run[0] == job.id and run[1] < job.attempt]:
            del self.running[run]

    def strike(self, job_id: int) -> list[int]:
        """Note that a job has ended. Return the ids that are now too old to be listed."""
        for run in [run for run in self.running if run[0] == job_id]:
            del self.running[run]
        if self.live.pop(job_id, None) is None:
            return []
        self.ended.append(job_id)
        dropped, self.ended = self.ended[:-MOST_ENDED], self.ended[-MOST_ENDED:]
        return dropped

    def has_room(self, job_id: int, attempt: int, max_running: int, max_in_scope: int) -> bool:
        """May this run begin, or have begun, beside the others? 0: no limit."""
        others = [other for other in self.running if other != (job_id, attempt)]
        if 0 < max_running <= len(others):
            return False
        scopes = [self.live[other].scope for other, _ in others if other in self.live]
        return not (max_in_scope and job_id in self.live and scopes.count(self.live[job_id].scope) >= max_in_scope)

    def unlist(self, job_ids: Iterable[int]) -> None:
        """Remove these ended jobs, whose records are gone."""
        gone = set(job_ids)
        self.ended = [job_id for job_id in self.ended if job_id not in gone]

    def waiting(self, key_ids: Iterable[str] | None = None, full_scopes: Collection[str] = ()) -> list[int]:
        """Return the ids of waiting jobs, by due time. ``key_ids``: only jobs sealed with one of these keys.

        Jobs in ``full_scopes`` are left out.
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
