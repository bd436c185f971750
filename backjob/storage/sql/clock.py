"""The time by which records are written and compared: the same on all hosts of a deployment.

A server's clock is read once a minute. In between, the seconds of the monotonic clock are added. With SQLite all
processes are on one host, and use its clock. Knows nothing of jobs.
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
    """Return the function that returns the time of this database, as an aware UTC datetime."""
    return host_time if database.kind == "sqlite" else ServerClock(database)


def host_time() -> datetime:
    """Return the time of this host."""
    return datetime.now(timezone.utc)


class ServerClock:
    """The clock of a database server. A call returns its time, or raises StoreError if it must be read and can't be."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._read: tuple[float, datetime] | None = None
        """The time.monotonic() of the last reading, and the server's time then."""
        self._next = 0.0

    def __call__(self) -> datetime:
        then, read = self._read or self._read_server()
        if time.monotonic() > self._next:
            then, read = self._read_server()
        return read + timedelta(seconds=time.monotonic() - then)

    def read_last(self) -> datetime:
        """Return the time by the last reading, or the host's before the first one. Makes no query."""
        if self._read is None:
            return host_time()
        then, read = self._read
        return read + timedelta(seconds=time.monotonic() - then)

    def _read_server(self) -> tuple[float, datetime]:
        # Set first: the other threads use the last reading meanwhile.
        before, self._next = self._next, time.monotonic() + READ_EVERY
        try:
            readings = self._database.ask(lambda connection: [self._read_once(connection) for _ in range(_READINGS)])
        except BaseException:
            self._next = before
            raise
        # The server read its clock at some moment of the round trip, so the shortest has the smallest error.
        _, then, read = min(readings)
        self._read = then, read
        return self._read

    def _read_once(self, connection: Connection) -> tuple[float, float, datetime]:
        """Return the seconds of the round trip, the time.monotonic() in its middle, and the server's time."""
        begin = time.monotonic()
        read: datetime = connection.scalar(_UTC[self._database.kind])
        end = time.monotonic()
        return end - begin, (begin + end) / 2, read.replace(tzinfo=timezone.utc)
