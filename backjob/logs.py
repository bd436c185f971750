"""Logs and jobs: which job a record is about, and an app's own records in the output of the job that makes them.

Knows the job that runs in this thread or greenlet by a context variable, and of it no more than that it shows text.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol


class Shown(Protocol):
    """A job that runs."""

    job_id: int | None
    attempt: int | None

    def show(self, text: str) -> None:
        """Put this out. Raises nothing, and waits for no database."""


_OWN = ("backjob", "backjob.security")
"""Names of the loggers of this package."""
_current: ContextVar[Shown | None] = ContextVar("backjob", default=None)


@contextlib.contextmanager
def running(job: Shown | None) -> Iterator[None]:
    """Within it this job runs here; with None none does, as where the package does something of its own."""
    token = _current.set(job)
    try:
        yield
    finally:
        _current.reset(token)


def about(job_id: int, attempt: int | None = None) -> dict[str, int | None]:
    """The ``extra`` of a record that is about this job."""
    return {"job": job_id, "attempt": attempt}


class _OwnFilter(logging.Filter):
    """Filter that gives each of backjob's records all attributes, so that a formatter can use them."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name in ("method", "path", "outcome", "seconds"):
            if not hasattr(record, name):
                setattr(record, name, None)
        return True


class JobFilter(logging.Filter):
    """Gives each record the attributes ``job`` and ``attempt``: those of the job in which it was made, or None.

    backjob's own records have them by themselves. Add it to a handler of yours for all others, and a formatter may have
    ``%(job)s`` in it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record through."""
        job = _current.get()
        for name, value in (("job", job and job.job_id), ("attempt", job and job.attempt)):
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


class JobLogHandler(logging.Handler):
    """Puts the log records that a job makes into its output, a line each: existing code shows its progress unchanged.

    ``level`` is the least that is shown. A record is the job's that runs in the same context (``contextvars``): a
    thread that the job starts takes part when it is run in a copy of it. Each is a sign of life. No record ends a job
    that was cancelled, for code that logs does not expect that: its next ``update()`` or output does. Records of
    backjob itself and those of no job go nowhere.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        """As every handler's, but without its lock: no request is to wait for another one's job."""
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Show the record, if a job made it. Waits for no database."""
        job = _current.get()
        if job is None or record.name in _OWN:
            return
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - as every handler of the standard library does
            self.handleError(record)
        else:
            with running(None):  # a database that logs its statements would never come to an end
                job.show(text + "\n")


for _name in _OWN:
    for _filter in (JobFilter(), _OwnFilter()):
        logging.getLogger(_name).addFilter(_filter)
