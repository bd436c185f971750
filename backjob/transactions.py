"""How a short transaction begins and ends, and how one runs alone, in the words of each kind of database."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from .dialects import BEGIN
from .errors import StoreError
from .faults import BUSY_TIMEOUT, Result, try_again


@contextlib.contextmanager
def begin(connection: Connection, kind: str) -> Iterator[None]:
    """A transaction around what is done within: committed at its end, rolled back if that raises."""
    # By hand, for SQLAlchemy lets a driver's own errors through while it sets an isolation level.
    try_again(lambda: _run_each(connection, BEGIN[kind]))
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        with contextlib.suppress(SQLAlchemyError):  # a full disk, for one, has ended the transaction already
            connection.exec_driver_sql("ROLLBACK")
        raise


def _run_each(connection: Connection, statements: tuple[str, ...]) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)


def with_named_lock(connection: Connection, name: str, work: Callable[[Connection], Result]) -> Result:
    """MySQL and MariaDB: such a lock is the connection's, not a transaction's, and each database has its own."""
    own_name = func.md5(func.concat(func.coalesce(func.database(), ""), " ", name))
    if connection.scalar(select(func.get_lock(own_name, BUSY_TIMEOUT))) != 1:
        raise StoreError(f"Other processes have had the lock of the job table for {BUSY_TIMEOUT:g} s")
    is_released = False
    try:
        result = work(connection)
        # Whatever becomes of the lock, the work is done.
        with contextlib.suppress(DBAPIError):
            is_released = connection.scalar(select(func.release_lock(own_name))) == 1
        return result
    finally:
        if not is_released:
            connection.invalidate()  # the lock goes with it
