"""Tells a refused write of one job from a table that refuses every write, such as after a REVOKE.

Inserts and updates a row of its own to find out, and rolls back. Knows nothing of what was refused.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from datetime import datetime

from sqlalchemy import Connection

from .engine import Database
from .errors import Refused, StoreError
from .job import JobRequest, NewJob
from .statements import Statements


class _Undo(Exception):
    """Rolls the transaction back."""


class WriteCheck:
    """The check whether the database takes writes of jobs at all."""

    _database: Database
    _statements: Statements
    _now: Callable[[], datetime]

    def check_writes(self) -> None:
        """Insert a row, update it, and roll back. Raises StoreError, never Refused or TimedOut.

        Its id is negative, because one that the database gives would leave a gap.
        """
        new = NewJob(uid=secrets.token_urlsafe(16), request=JobRequest("GET", "/", "", "/"), key_id="")
        job_id, now = -secrets.randbelow(2**31) - 1, self._now()
        record = new.as_job(job_id, None, now)
        values = {name: getattr(record, name) for name in self._statements.inserted}
        values |= {"id": job_id, "status": int(record.status), "unique_key": None}

        def write_and_undo(connection: Connection) -> None:
            connection.execute(self._statements.insert, values)
            connection.execute(self._statements.set_sealed, {"job_id": job_id, "new_sealed": b""})
            raise _Undo

        try:
            with contextlib.suppress(_Undo):
                self._database.transact(write_and_undo)
        except StoreError as error:
            raise StoreError(f"The job table takes no writes: {error}") from None

    @contextlib.contextmanager
    def _telling_outages(self) -> Iterator[None]:
        """Raise StoreError instead of Refused if other writes are refused too: then nothing is wrong with this job."""
        try:
            yield
        except Refused:
            self.check_writes()
            raise
