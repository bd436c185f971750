"""Logging filters and handlers: the job that a record is about, and an app's own records in the output of its job.

A context variable has the job that runs in this thread or greenlet. Knows no more of it than its id and its output.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol


class RunningJob(Protocol):
    """Interface of a running job."""

    job_id: int | None
    attempt: int | None

    def show(self, text: str) -> None:
        """Add the text to the output. Raises nothing, and waits for no database."""


_OWN = ("backjob", "backjob.security")
"""Names of the loggers of this package."""
_current: ContextVar[RunningJob | None] = ContextVar("backjob", default=None)


@contextlib.contextmanager
def running(job: RunningJob | None) -> Iterator[None]:
    """Set the job that runs within this block. None: no job, such as for the package's own work."""
    token = _current.set(job)
    try:
        yield
    finally:
        _current.reset(token)


def about(job_id: int, attempt: int | None = None) -> dict[str, int | None]:
    """Return the ``extra`` of a log record about this job."""
    return {"job": job_id, "attempt": attempt}


class JobFilter(logging.Filter):
    """Filter that gives each record the attributes ``job`` and ``attempt`` of the job that logged it, or None.

    backjob's own records have them already. Add the filter to your handler, and its formatter can use ``%(job)s``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True for each record."""
        job = _current.get()
        _set_missing(record, job=job and job.job_id, attempt=job and job.attempt)
        return True


class _OwnFilter(JobFilter):
    """Filter that gives each of backjob's records all attributes, so that a formatter can use them."""

    def filter(self, record: logging.LogRecord) -> bool:
        _set_missing(record, method=None, path=None, outcome=None, seconds=None)
        return super().filter(record)


def _set_missing(record: logging.LogRecord, **attributes: object) -> None:
    record.__dict__.update({**attributes, **record.__dict__})


class JobLogHandler(logging.Handler):
    """Handler that adds the log records of a job to its output, a line each.

    ``level`` is the lowest level that is shown. A record belongs to the job that runs in the same context
    (``contextvars``). A thread that the job starts has its context if it runs in a copy of it. Each record counts as a
    progress report. A record does not raise JobEnded in a cancelled job, because code that logs does not expect it: the
    next ``update()`` or output does. Records of backjob itself and those outside of jobs are dropped.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        """Handle the record without the handler's lock, so that no request waits for the job of another one."""
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Add the record to the output of the job that made it. Waits for no database."""
        job = _current.get()
        if job is None or record.name in _OWN:
            return
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - as handlers of the standard library do
            self.handleError(record)
        else:
            with running(None):  # otherwise a database that logs its statements would never finish
                job.show(text + "\n")


for _name in _OWN:
    logging.getLogger(_name).addFilter(_OwnFilter())
