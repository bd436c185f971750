"""Removal of deleted values from the write-ahead log (WAL) of SQLite.

Knows the Database and its file, nothing of jobs.
"""

from __future__ import annotations

import contextlib
import os
import time

from backjob.errors import StoreError

from .database import Database

_EVERY = 60.0
"""Seconds after which a WAL is emptied in any case, because another process may have died after a deletion."""
_PATIENCE = 0.02
"""Seconds to wait for readers. Meanwhile nothing can be written."""


def empty_wal(database: Database, patience: float = _PATIENCE, *, is_last: bool = False) -> None:
    """Copy the WAL into the SQLite file and truncate it, if something was deleted since the last time.

    ``is_last``: even if nothing was deleted. Raises no StoreError: if others read or write, the next call retries.
    """
    file = database.sqlite_file
    if file is None or not _has_content(f"{database.file}-wal"):
        return
    known, now = file.known, time.monotonic()
    if not (known.has_deleted or is_last or now - known.emptied_at > _EVERY):
        return
    known.has_deleted, known.emptied_at = False, now
    is_busy = True
    with contextlib.suppress(StoreError), database.connect() as connection:
        before = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {patience * 1000:.0f}").close()
        try:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").close()  # most of the work, without a lock
            is_busy = bool(connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0])
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {before}").close()
    known.has_deleted = known.has_deleted or is_busy


def _has_content(path: str) -> bool:
    with contextlib.suppress(OSError):
        return os.stat(path).st_size > 0
    return False
