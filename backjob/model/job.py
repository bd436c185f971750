"""The frozen records of a job, which all other modules exchange. Knows no database, no socket and no WSGI."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from backjob.runtime.backoff import longest_backoff

from .history import AttemptEnd, read_ends
from .transitions import FINAL, LIVE, Move, Status

# Statuses and moves are part of a record, so other modules import them from here.
__all__ = ["FINAL", "LIVE", "MOST_REASON", "NOT_LAUNCHED", "RECORD_VERSION"]
__all__ += ["Glance", "Job", "JobRequest", "JobStatus", "Move", "NewJob", "Status"]

NOT_LAUNCHED = "Not launched yet"  # the beginning of the status text after a failed launch
_LAUNCH_FAILURE = re.compile(rf"^({NOT_LAUNCHED})(, next try in \d+ s)?(?=: )")
RECORD_VERSION = 2
"""Version of the records that this release writes, and the newest that it runs, recovers, changes or deletes.

A change raises it if an older process would do something wrong with the new record: a new status, a new meaning of a
field, or a new field of the sealed request that changes the run. A field that an older process may ignore does not.
"""
MOST_REASON = 1000
"""Maximum length of ``error`` and ``location``, in characters."""


@dataclass(frozen=True)
class JobRequest:
    """The request of a job, with all values that the app gets from it. Sealed in the record.

    ``script_name``, ``path_info`` and ``query_string`` are WSGI strings (bytes decoded as Latin-1, PEP 3333).
    ``script_name`` is None if it is not known yet. ``headers`` and ``variables`` are environ keys with their values.
    ``left_out`` has the names of headers that only the starting request had. ``outer`` has digests of the user's
    values from middleware outside of BackJob (see wsgi.outer), or is None if there was no request. ``user`` is the
    user's name from ``identify``: "" for an anonymous visitor, None if not known. ``redirect_ok`` is the argument of
    start(), with a function as "module:function"; None: the option decides. The last four describe the application when
    the job was started: name, address, if ``connect=`` gave it, and the Host header for a server that routes by it.
    """

    method: str
    target: str
    script_name: str | None = field(repr=False)
    path_info: str = field(repr=False)
    query_string: str = field(repr=False, default="")
    body: bytes = field(repr=False, default=b"")
    content_type: str = field(repr=False, default="")
    headers: dict[str, str] = field(repr=False, default_factory=dict)
    variables: dict[str, str] = field(repr=False, default_factory=dict)
    left_out: list[str] = field(repr=False, default_factory=list)
    outer: dict[str, str] | None = field(repr=False, default=None)
    scheme: str = "http"
    remote_addr: str | None = field(repr=False, default=None)
    remote_user: str | None = field(repr=False, default=None)
    user: str | None = field(repr=False, default=None)
    anonymous: bool = False
    sent: dict[str, Any] | None = field(repr=False, default=None)
    redirect_ok: bool | str | None = None
    app: str = ""
    address: str = ""
    by_connect: bool = False
    site: str = ""

    @property
    def path(self) -> str:
        """The target without its query, which may contain a user's input."""
        return self.target.partition("?")[0]

    @property
    def has_site_url(self) -> bool:
        """True if the job was started outside of a request and has its site from ``site_url``."""
        return "SERVER_NAME" in self.variables

    @property
    def lacks_site(self) -> bool:
        """True if the job was started outside of a request and without ``site_url``."""
        return self.script_name is None and not self.has_site_url

    def __repr__(self) -> str:
        return f"JobRequest({self.method} {self.path})"


@dataclass(frozen=True)
class JobStatus:
    """The public part of a job's record. Times are aware UTC datetimes, progress is 0-100."""

    id: int
    progress: int
    status: Status
    """The status, changed only by the transitions in docs/life-cycle.md."""
    status_text: str
    error: str
    """The reason of a failure in one line, "" without one. While a retry waits, the reason of the last attempt."""
    location: str
    """The Location of the redirect with which the job ended, "" without one: a path of the application's own site, or
    the URL of another site. Without query, fragment and user name, which may contain secrets."""
    scope: str
    start_time: datetime
    updated_time: datetime
    end_time: datetime | None
    attempt: int
    is_cancelling: bool
    """True if cancel() was called for this running job: it ends at its next heartbeat."""
    past: tuple[AttemptEnd, ...]
    """The ends of the attempts before this one, the oldest first."""

    @property
    def status_name(self) -> str:
        """The status in a word, for people: waiting, running, completed, failed or cancelled."""
        return self.status.word

    def as_dict(self, text: int | None = None) -> dict[str, Any]:
        """Return the fields, ready for JSON: the status as number and name, times as ISO 8601 strings or None.

        ``text``: the number of characters from the end of the status text, for pages that poll. None: all of it.
        """
        shown = self.status_text if text is None else self.status_text[max(0, len(self.status_text) - text) :]
        return {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "status": int(self.status),
            "status_name": self.status_name,
            "status_text": shown,
            "start_time": self.start_time.isoformat(),
            "updated_time": self.updated_time.isoformat(),
            "end_time": self.end_time.isoformat() if self.end_time else None,
            "past": [end.as_dict() for end in self.past],
        }


@dataclass(frozen=True)
class Job:
    """A job's record, as one read of the store returned it. Times are aware UTC datetimes, durations seconds."""

    id: int
    uid: str = field(repr=False)
    status: Status
    attempt: int
    retries: int
    progress: int
    signs: int
    status_text: str = field(repr=False)
    error: str = field(repr=False)
    location: str = field(repr=False)
    scope: str
    method: str
    path: str
    key_id: str
    app_id: str
    app_version: str
    """Version of the app that recorded it (option app_version), "" for any."""
    record_version: int
    anonymous: bool
    """True if its sealed request has nothing of a user. Such a request is kept if the job fails."""
    sealed: bytes | None = field(repr=False)
    priority: int
    error_timeout: float
    created_at: datetime
    due_at: datetime
    started_at: datetime | None
    updated_at: datetime
    ended_at: datetime | None
    held_by: str | None = field(repr=False)
    held_until: datetime | None
    lease_by: str | None = field(repr=False)
    lease_until: datetime | None
    launch_failed_at: datetime | None
    """Time of the last failed launch, minus the seconds for which launches had failed by then."""
    cancel_requested: bool
    past: str = field(repr=False)
    """The ends of its earlier attempts, as history writes them."""
    read_at: datetime
    """The store's time of the read. The other times are compared with it."""

    @property
    def is_readable(self) -> bool:
        """Does this release know the record's version? A newer release's record is neither run nor changed."""
        return self.record_version <= RECORD_VERSION

    @property
    def due_in(self) -> float:
        """Seconds from the read until it is due, 0 if it is due."""
        return max(0.0, (self.due_at - self.read_at).total_seconds())

    @property
    def overdue_for(self) -> float:
        """Seconds since it was due, until the read. 0 if it is not due yet."""
        return max(0.0, (self.read_at - self.due_at).total_seconds())

    @property
    def ran_for(self) -> float | None:
        """Seconds from the begin of the attempt to the read, None if it has not begun."""
        return (self.read_at - self.started_at).total_seconds() if self.started_at is not None else None

    @property
    def launch_failed_for(self) -> float:
        """Seconds for which launches have failed. After the last failure, at most the longest pause counts."""
        failed_for, pause, since = self._launch_times
        return failed_for + min(since, pause)

    @property
    def _launch_times(self) -> tuple[float, float, float]:
        """Seconds for which launches had failed, the longest next pause, and the seconds since the last failure."""
        if self.launch_failed_at is None:
            return 0.0, 0.0, 0.0
        failed_for = (self.updated_at - self.launch_failed_at).total_seconds()
        return failed_for, longest_backoff(failed_for), (self.read_at - self.updated_at).total_seconds()

    def as_status(self) -> JobStatus:
        """Return the public part of the record. It has the reason of a failed launch until the next launch begins."""
        _, pause, since = self._launch_times
        text, is_held = self.status_text, self.held_until is not None and self.held_until > self.read_at
        if since > pause:  # it is being launched, or waits for a slot or for a process that launches it
            text = "" if is_held else _LAUNCH_FAILURE.sub(r"\1, the last try failed", text)
        return JobStatus(
            id=self.id,
            progress=self.progress,
            status=self.status,
            status_text=text,
            error=self.error,
            location=self.location,
            scope=self.scope,
            start_time=self.created_at,
            updated_time=self.updated_at,
            end_time=self.ended_at,
            attempt=self.attempt,
            is_cancelling=self.status is Status.INPROGRESS and self.cancel_requested,
            past=read_ends(self.past),
        )


@dataclass(frozen=True)
class Glance:
    """The fields of a record that its observer needs."""

    status: Status
    attempt: int
    cancel_requested: bool
    signs: int
    progress: int


@dataclass(frozen=True)
class NewJob:
    """A job to be recorded. ``delay`` and ``hold`` are seconds from now; 0: no hold."""

    uid: str = field(repr=False)
    request: JobRequest
    key_id: str
    app_id: str = ""
    app_version: str = ""
    scope: str = ""
    retries: int = 0
    delay: float = 0
    priority: int = 0
    error_timeout: float = 120
    unique_key: str | None = field(repr=False, default=None)
    held_by: str | None = field(repr=False, default=None)
    hold: float = 0

    def as_job(self, job_id: int, sealed: bytes | None, now: datetime) -> Job:
        """Return its record at this time."""
        return Job(
            id=job_id,
            uid=self.uid,
            status=Status.STARTED,
            attempt=1,
            retries=self.retries,
            progress=0,
            signs=0,
            status_text="",
            error="",
            location="",
            scope=self.scope,
            method=self.request.method[:64],
            path=self.request.path[:255],
            key_id=self.key_id,
            app_id=self.app_id,
            app_version=self.app_version,
            record_version=RECORD_VERSION,
            anonymous=self.request.anonymous,
            sealed=sealed,
            priority=self.priority,
            error_timeout=self.error_timeout,
            created_at=now,
            due_at=now + timedelta(seconds=self.delay),
            started_at=None,
            updated_at=now,
            ended_at=None,
            held_by=self.held_by,
            held_until=now + timedelta(seconds=self.hold) if self.held_by else None,
            lease_by=None,
            lease_until=None,
            launch_failed_at=None,
            cancel_requested=False,
            past="",
            read_at=now,
        )
