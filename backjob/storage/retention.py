"""Which ended jobs are old: from when on, by the options, and in which statuses they are looked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backjob.config import Config
from backjob.errors import StoreError
from backjob.model.job import FINAL, Status


@dataclass
class Passed:
    """The old jobs that can't be deleted: the store passes over them, and goes on with those that ended later."""

    seconds: float = 2.0
    """Seconds after which ``Store.prune()`` starts no further statement. A cache's calls are short anyway."""
    counts: dict[Status, int] = field(default_factory=dict)
    """The number of these jobs in each status, from the oldest job on."""
    refusals: list[tuple[int, StoreError]] = field(default_factory=list)
    """Their ids and what the store said, of those that were found since this list was emptied."""
    is_unfinished: bool = False
    """Did the last call end before it had tried all that it might have deleted?"""
    is_one_by_one: bool = False
    """Is each job deleted by itself, because a statement for many took too long?"""


def find_cut_offs(config: Config, now: datetime) -> tuple[datetime | None, datetime | None]:
    """The times before which a completed job, and any job, must have ended to be deleted. None: it is kept for ever."""
    days = (config.backlog_days, config.all_backlog_days)
    completed, ended = (now - timedelta(days=each) if 0 < each < now.toordinal() - 1 else None for each in days)
    return completed, ended


def find_old(completed_before: datetime | None, ended_before: datetime | None) -> list[tuple[Status, datetime]]:
    """Each status of which there may be old jobs, and the time before which those have ended."""
    of_completed = max(filter(None, (completed_before, ended_before)), default=None)
    times = {status: of_completed if status is Status.COMPLETED else ended_before for status in sorted(FINAL)}
    return [(status, before) for status, before in times.items() if before is not None]
