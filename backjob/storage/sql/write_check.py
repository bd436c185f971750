"""A check whether the database refuses the writes of one job, or of all jobs, such as after a REVOKE.

Updates some rows without changing them, and rolls back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sqlalchemy import Connection

from backjob.errors import Refused, StoreError, TimedOut

from .database import Database
from .statements import Statements


class _Undo(Exception):
    """Raised to roll a transaction back."""


class WriteCheck:
    """The check whether the rows of jobs can be written at all."""

    _database: Database
    _statements: Statements

    def check_writes(self) -> None:
        """Raise StoreError if the database refuses the update of every row that is tried. An empty table passes."""
        refusal: Refused | None = None
        for job_id in self._choose_rows():
            try:
                with contextlib.suppress(TimedOut):  # then another process is writing this row
                    self._try_update(job_id)
            except Refused as error:
                refusal = error
            else:
                return
        if refusal is not None:
            raise StoreError(f"No job can be written: {refusal}") from None

    def _choose_rows(self) -> Iterator[int]:
        """Yield the ids of live jobs, and then of the newest jobs, because a trigger may protect those that ended."""
        for query in (self._statements.newest_live, self._statements.newest):
            yield from (int(row[0]) for row in self._database.read(query, {}))

    def _try_update(self, job_id: int) -> None:
        """Update this row without a change, and roll back. Raises StoreError."""

        def update_and_undo(connection: Connection) -> None:
            connection.execute(self._statements.write_same, {"job_id": job_id})
            raise _Undo

        with contextlib.suppress(_Undo):
            self._database.transact(update_and_undo)

    @contextlib.contextmanager
    def _separating_outages(self) -> Iterator[None]:
        """Raise Refused only if another write is accepted. Otherwise it is an outage: raise another StoreError."""
        try:
            yield
        except Refused:
            self.check_writes()
            raise
