"""Cut-off times of old jobs by the options, and the statuses in which they are searched. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from backjob.config import Config
from backjob.errors import StoreError
from backjob.model.job import FINAL, Status


@dataclass
class Passed:
    """Old jobs that can't be deleted. The store skips them and goes on with jobs that ended later."""

    seconds: float = 2.0
    """Seconds after which ``Store.prune()`` starts no further statement. A cache's calls are short anyway."""
    counts: dict[Status, int] = field(default_factory=dict)
    """Number of these jobs in each status, from the oldest job on."""
    refusals: list[tuple[int, StoreError]] = field(default_factory=list)
    """Ids and errors of these jobs, found since this list was emptied."""
    is_unfinished: bool = False
    """True if the last call ran out of time."""
    is_one_by_one: bool = False
    """True if each job is deleted alone, because a statement for many took too long."""


def find_cut_offs(config: Config, now: datetime) -> tuple[datetime | None, datetime | None]:
    """Return the times before which completed jobs, and all jobs, have ended if they are old. None: kept for ever."""
    days = (config.backlog_days, config.all_backlog_days)
    completed, ended = (now - timedelta(days=each) if 0 < each < now.toordinal() - 1 else None for each in days)
    return completed, ended


def find_old(completed_before: datetime | None, ended_before: datetime | None) -> list[tuple[Status, datetime]]:
    """Return each status that may have old jobs, and the time before which they ended."""
    of_completed = max(filter(None, (completed_before, ended_before)), default=None)
    times = {status: of_completed if status is Status.COMPLETED else ended_before for status in sorted(FINAL)}
    return [(status, before) for status, before in times.items() if before is not None]
