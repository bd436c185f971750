"""SQL that differs between the kinds of databases: transactions, locks, encodings, SQLite's counter of ids.

The kinds have SQLAlchemy's names.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator

from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from backjob.errors import StoreError

from .errors import BUSY_TIMEOUT, Result, find_busy_timeout, find_statement_timeout, is_read_only, try_again
from .postgresql import lock_patience

# SQLite: IMMEDIATE, because a transaction that begins with a read may be refused when it first writes.
BEGIN = {
    "sqlite": ("BEGIN IMMEDIATE",),
    "postgresql": ("BEGIN ISOLATION LEVEL READ COMMITTED",),
    "mysql": ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION"),
}
BEGIN["mariadb"] = BEGIN["mysql"]
# PostgreSQL: BEGIN with lock and statement time-outs in milliseconds, in one round trip. A session setting would also
# apply to the app's own queries behind a connection pooler.
BEGIN_PATIENT = (
    f"{BEGIN['postgresql'][0]}; SET LOCAL lock_timeout = {{lock:.0f}}; SET LOCAL statement_timeout = {{statement:.0f}}"
)
# The encodings of the database, where it matters, and of the connection.
ENCODINGS = {
    "postgresql": text("SELECT getdatabaseencoding()::text, current_setting('client_encoding')"),
    "mysql": text("SELECT 'utf8mb4', @@character_set_client"),
}
ENCODINGS["mariadb"] = ENCODINGS["mysql"]
TABLE_PLACE = {
    "postgresql": text(
        "SELECT current_database(), CAST(relnamespace AS regnamespace)"
        " FROM pg_class WHERE oid = to_regclass(CAST(:table AS text))"
    ),
    "mysql": text("SELECT lower(coalesce(:schema, database()))"),
}
"""Queries for the names of database and schema, which stay the same when the server moves to another host."""
TABLE_PLACE["mariadb"] = TABLE_PLACE["mysql"]
# SQLite stores the last id of a table with AUTOINCREMENT there.
LAST_NUMBER = text("SELECT seq FROM sqlite_sequence WHERE name = :table")
COUNT_FROM = (
    text("UPDATE sqlite_sequence SET seq = :least WHERE name = :table AND seq < :least"),
    text(
        "INSERT INTO sqlite_sequence (name, seq) SELECT :table, :least"
        " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = :table)"
    ),
)
_SHORTEST_LOCK = 0.1
"""The shortest lock time-out in seconds. For PostgreSQL, 0 means no time-out."""
_REFUSALS = "backjob.refusals"
"""The count of refused writes in a connection's ``info``."""


@contextlib.contextmanager
def begin(
    connection: Connection, kind: str, patience: float | None = None, lock: float = BUSY_TIMEOUT
) -> Iterator[None]:
    """Run the block in a transaction: commit it at the end, or roll it back if the block raises.

    ``patience``: seconds that the client waits for an answer. On PostgreSQL, the lock and statement time-outs are
    derived from it. ``lock``: the longest lock time-out there, in seconds.
    """
    # Not by SQLAlchemy: it does not wrap a driver's errors while it sets an isolation level.
    statements = BEGIN[kind]
    if patience is not None:
        lock = max(min(lock, find_busy_timeout(patience)), _SHORTEST_LOCK)
        limits = {"lock": lock * 1000, "statement": find_statement_timeout(patience) * 1000}
        statements = (BEGIN_PATIENT.format_map(limits),)
    try_again(lambda: _run_each(connection, statements))
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        with contextlib.suppress(SQLAlchemyError):  # a full disk, for example, has ended it already
            connection.exec_driver_sql("ROLLBACK")
        raise


def _run_each(connection: Connection, statements: tuple[str, ...]) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)


def with_advisory_lock(
    connection: Connection, name: str, work: Callable[[Connection], Result], seconds: float
) -> Result:
    """Run ``work`` under a PostgreSQL advisory lock, which is held until the transaction ends.

    ``seconds``: the longest wait for the lock.
    """
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    connection.execute(select(lock_patience(seconds)))
    connection.execute(select(func.pg_advisory_xact_lock(number)))
    return work(connection)  # each statement sees what was committed before it


def with_named_lock(connection: Connection, name: str, work: Callable[[Connection], Result]) -> Result:
    """Run ``work`` under a named lock of MySQL or MariaDB. It belongs to the connection. Each database has its own."""
    own_name = func.md5(func.concat(func.coalesce(func.database(), ""), " ", name))
    if connection.scalar(select(func.get_lock(own_name, BUSY_TIMEOUT))) != 1:
        raise StoreError(f"Other processes have had the lock of the job table for {BUSY_TIMEOUT:g} s")
    is_released = False
    try:
        result = work(connection)
        # The work is done, even if the lock is not released.
        with contextlib.suppress(DBAPIError):
            is_released = connection.scalar(select(func.release_lock(own_name))) == 1
        return result
    finally:
        if not is_released:
            connection.invalidate()  # this releases the lock


@contextlib.contextmanager
def drop_when_read_only(connection: Connection, close_idle: Callable[[], None]) -> Iterator[None]:
    """Close connections to a server that has refused a write twice because it is read-only.

    After a failover a proxy may keep them on the old primary; a new connection goes to the new one.
    """
    try:
        yield
    except DBAPIError as error:
        if is_read_only(error) and not connection.invalidated:
            connection.info[_REFUSALS] = connection.info.get(_REFUSALS, 0) + 1
            if connection.info[_REFUSALS] > 1:
                connection.invalidate()
                close_idle()
        raise
