"""The time by which records are written and compared: the same for all hosts of a deployment.

A server's own clock, read now and then and carried on in between by a clock that nobody sets. On SQLite all processes
are on one host, and its clock is theirs. Knows nothing of jobs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from sqlalchemy import Connection, text

from .database import Database

READ_EVERY = 60.0
"""Seconds after which the server's time is read again."""
_READINGS = 3
_UTC = {
    "postgresql": text("SELECT clock_timestamp() AT TIME ZONE 'UTC'"),
    "mysql": text("SELECT utc_timestamp(6)"),
    "mariadb": text("SELECT utc_timestamp(6)"),
}


def choose_clock(database: Database) -> Callable[[], datetime]:
    """What gives the time of this database, as an aware UTC datetime."""
    return host_time if database.kind == "sqlite" else ServerClock(database)


def host_time() -> datetime:
    """The time of this host."""
    return datetime.now(timezone.utc)


class ServerClock:
    """The time of a database server. Calling it raises StoreError when it is to be read and can't be."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._read: tuple[float, datetime] | None = None
        """When it was read, in time.monotonic(), and what it was."""
        self._next = 0.0

    def __call__(self) -> datetime:
        then, told = self._read or self._read_server()
        if time.monotonic() > self._next:
            then, told = self._read_server()
        return told + timedelta(seconds=time.monotonic() - then)

    def read_last(self) -> datetime:
        """Return the time by the last reading, or the host's if there was none. Asks no server."""
        if self._read is None:
            return host_time()
        then, told = self._read
        return told + timedelta(seconds=time.monotonic() - then)

    def _read_server(self) -> tuple[float, datetime]:
        # The other threads go on by what is known, while one of them reads.
        before, self._next = self._next, time.monotonic() + READ_EVERY
        try:
            readings = self._database.ask(lambda connection: [self._read_once(connection) for _ in range(_READINGS)])
        except BaseException:
            self._next = before
            raise
        # The answer was made at some moment of the round trip: the shortest is off by half of it at most.
        _, then, told = min(readings)
        self._read = then, told
        return self._read

    def _read_once(self, connection: Connection) -> tuple[float, float, datetime]:
        """How long it took, the middle of it, and the server's time."""
        begin = time.monotonic()
        told: datetime = connection.scalar(_UTC[self._database.kind])
        end = time.monotonic()
        return end - begin, (begin + end) / 2, told.replace(tzinfo=timezone.utc)
