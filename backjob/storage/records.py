"""Records from rows and cache entries. Each value is checked, because others can write to a database too.

SQLite keeps any value in any column, and a server's types hold values that a record may not: NaN, years before Christ.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, get_type_hints

from backjob.errors import Refused
from backjob.model.job import RECORD_VERSION, Glance, Job, Status
from backjob.model.recovery import RecoveryRecord
from backjob.model.transitions import read_status

Record = TypeVar("Record", Job, Glance, RecoveryRecord)

_YEARS = range(1970, 9000)
_RANGES = {"attempt": (1, 2**31), "retries": (0, 2**31), "progress": (0, 100)}
_KINDS = {
    kind: [(each.name, get_type_hints(kind)[each.name]) for each in dataclasses.fields(kind)]
    for kind in (Job, Glance, RecoveryRecord)
}


class SpoiledRecord(Refused):
    """The record of a job has a value that backjob did not write. ``job_id``: the id of the job."""

    def __init__(self, job_id: object, reason: str) -> None:
        super().__init__(f"The record of job {job_id} can't be read: {reason}. Correct the row, or delete it.")
        self.job_id = job_id


def make_record(kind: type[Record], values: Sequence[Any], job_id: object) -> Record:
    """Return the record with these values, in the order of its fields. A status may be its number.

    Raises SpoiledRecord, which names the job and the field, but not the value.
    """
    checked: list[Any] = []
    fields = dict(zip((name for name, _ in _KINDS[kind]), values, strict=True))
    for (name, wanted), given in zip(_KINDS[kind], values, strict=True):
        value = _as_status(given, kind, fields) if wanted is Status else given
        if not _is_allowed(name, wanted, value):
            raise SpoiledRecord(job_id, f"{name} is not an allowed {_describe(wanted)}")
        checked.append(value)
    return kind(*checked)


def _as_status(value: Any, kind: type[Any], fields: Mapping[str, Any]) -> Status | None:
    """Return the status with this number. A record of a newer release may have one that this release does not know."""
    version = fields.get("record_version", 0)
    if isinstance(value, int) and (kind is Glance or (isinstance(version, int) and version > RECORD_VERSION)):
        return read_status(value, is_over=fields.get("ended_at") is not None)
    return Status(value) if isinstance(value, int) and value in tuple(Status) else None


def _is_allowed(name: str, wanted: Any, value: Any) -> bool:
    if wanted is float:
        return isinstance(value, (int, float)) and not math.isnan(value) and value >= 0
    if not isinstance(value, wanted):
        return False
    if isinstance(value, datetime):
        return value.year in _YEARS and value.tzinfo is not None
    least, most = _RANGES.get(name, (None, None))
    return least is None or most is None or least <= value <= most


def _describe(wanted: Any) -> str:
    return {datetime: "time", datetime | None: "time", float: "number", int: "number"}.get(wanted, "value")
