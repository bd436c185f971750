"""The errors of a database, and what they say about a write: made, not made, or not known.

Turns the errors of SQLAlchemy into StoreError, without the statement and its values. Knows no jobs and no connection.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, SQLAlchemyError, StatementError

from backjob.errors import Refused, StoreError, TimedOut, describe
from backjob.runtime.backoff import random_between

BUSY_TIMEOUT = 5.0
"""Seconds for which a write waits for other writes, and is retried when it loses to them."""
_BUSY_PART, _STATEMENT_PART = 0.5, 0.8
"""Time-outs for locks and for statements, as fractions of the time for which the client waits for an answer."""
_LONGEST_PAUSE = 0.2
_GAVE_WAY = frozenset({"40001", "40P01", "55P03"})
"""PostgreSQL: serialization failure, deadlock, lock time-out. The statement changed nothing."""
_MYSQL_GAVE_WAY = frozenset({1020, 1205, 1213})
"""MySQL and MariaDB: the row has changed since it was read, lock time-out, deadlock."""
_CUT_OFF = frozenset({1927})
"""MariaDB: this connection was killed. SQLAlchemy does not recognize it."""
_TOO_SLOW = frozenset({"57014"})
"""PostgreSQL: statement time-out, or cancelled by an administrator."""
_MYSQL_TOO_SLOW = frozenset({1317, 1969, 3024})
"""MySQL and MariaDB: interrupted, statement time-out of MariaDB, statement time-out of MySQL."""
_AWAY = re.compile("08|28|3D|3F|53|57P|58|F0|XX|25006|42P01")
"""PostgreSQL: error codes, or their classes, with which no statement would succeed now: a lost connection, a full disk,
a read-only server, a missing table."""
_MYSQL_AWAY = frozenset({1021, 1030, 1037, 1038, 1040, 1041, 1044, 1045, 1047, 1049, 1053, 1114, 1129, 1130, 1135})
_MYSQL_AWAY |= {1146, 1194, 1203, 1206, 1223, 1226, 1290, 1637, 1792, 1836, 1874, 1932, *range(2000, 3000)}
"""MySQL and MariaDB: the same, with a Galera node that is not ready, and limits of memory, users and locks. Codes
from 2000 on are the client's own."""
_SQLITE_AWAY = re.compile("locked|no such table|unable to open|disk|readonly|full|malformed|not a database|memory")
_MYSQL_READ_ONLY = frozenset({1290, 1792, 1836})
"""MySQL and MariaDB: the server is read-only (by an option), the transaction is, the server is."""
# The part of a row or a statement that MySQL and MariaDB quote in an error.
_QUOTED = re.compile(r"'.*'(?= for | at row )|near '.*", re.DOTALL)
Result = TypeVar("Result")


class Conflict(Refused):
    """The record breaks a constraint of the table."""


class Duplicate(Conflict):
    """Another record has the same value in a unique column."""


class Unreachable(StoreError):
    """There is no connection to the job database, so nothing was sent to it."""


class AnswerLost(StoreError):
    """No answer came: the statement may have been executed or not, or may still be executed."""


@contextlib.contextmanager
def as_store_errors() -> Iterator[None]:
    """Turn errors of SQLAlchemy and the drivers into StoreError, without the statement and its values."""
    try:
        yield
    except (SQLAlchemyError, UnicodeError) as error:
        raise store_error(error) from None
    except OSError as error:
        raise AnswerLost(f"The job database can't be used: {_describe_os_error(error)}") from None


@contextlib.contextmanager
def as_outage() -> Iterator[None]:
    """Turn errors of the preparation of files and tables into outages, because every statement would fail."""
    try:
        with as_store_errors():
            yield
    except (Refused, TimedOut) as error:
        raise Unreachable(str(error)) from None


@contextlib.contextmanager
def as_unreachable() -> Iterator[None]:
    """Turn all errors of opening a connection into Unreachable."""
    try:
        yield
    except SQLAlchemyError as error:
        raise Unreachable(str(store_error(error))) from None
    except Exception as error:  # noqa: BLE001 - a driver's own, or what a user's creator= raises
        # The message may show a password. A TypeError comes from Python and names an option.
        reason = describe(error) if isinstance(error, TypeError) else type(error).__name__
        raise Unreachable(f"The job database can't be used: {reason}") from None


def store_error(error: SQLAlchemyError | UnicodeError) -> StoreError:
    """Return the StoreError for an error of SQLAlchemy."""
    if isinstance(error, IntegrityError):
        conflict = Duplicate if _is_duplicate(error) else Conflict
        return conflict(f"The job database refuses the record: {_first_line(error)}")
    if isinstance(error, DBAPIError):
        if is_cut_off(error):
            return AnswerLost(f"The job database can't be used: {_first_line(error)}")
        if is_too_slow(error):
            return TimedOut(f"The job database took too long: {_first_line(error)}")
        if is_refusal(error):
            return Refused(f"The job database refuses this: {_first_line(error)}")
        return StoreError(f"The job database can't be used: {_first_line(error)}")
    if isinstance(error, UnicodeError):
        return Refused(f"The job database can't keep this text: {type(error).__name__}")
    reason = str(error).partition("\n")[0]  # the statement comes below
    kind = Refused if isinstance(error, StatementError) else StoreError
    return kind(f"The job database can't be used: {type(error).__name__}: {reason}")


def _describe_os_error(error: OSError) -> str:
    return f"{type(error).__name__}: {error.strerror or 'no reason given'}"


def _is_duplicate(error: DBAPIError) -> bool:
    return _sqlstate(error) == "23505" or _number(error) == 1062 or "UNIQUE constraint failed" in str(error.orig)


def is_cut_off(error: DBAPIError) -> bool:
    """Did the connection break, so that it is not known whether the statement was executed?"""
    return error.connection_invalidated or _number(error) in _CUT_OFF


def is_too_slow(error: DBAPIError) -> bool:
    """True for lock and statement time-outs. Never for SQLite, which locks all rows, not one."""
    if type(error.orig).__module__ == "sqlite3":
        return False
    is_slow = _sqlstate(error) in _TOO_SLOW or _number(error) in _MYSQL_TOO_SLOW
    return is_slow or has_given_way(error)


def is_refusal(error: DBAPIError) -> bool:
    """Did the database refuse this statement, while others would succeed?

    Examples are a missing privilege, a trigger's exception, and a value that is too long.
    """
    if isinstance(error, (IntegrityError, DataError, NotSupportedError)):
        return True
    if type(error.orig).__module__ == "sqlite3":
        return not _SQLITE_AWAY.search(str(error.orig))
    number, code = _number(error), _sqlstate(error)
    if number is not None:
        return number not in _MYSQL_AWAY
    return code is not None and not _AWAY.match(code)


def is_read_only(error: DBAPIError) -> bool:
    """Did a server refuse a write because it is read-only?"""
    return _sqlstate(error) == "25006" or _number(error) in _MYSQL_READ_ONLY


def has_given_way(error: DBAPIError) -> bool:
    """True for deadlocks, serialization failures and lock time-outs: safe to retry."""
    if type(error.orig).__module__ == "sqlite3":
        return "locked" in str(error.orig)
    return _sqlstate(error) in _GAVE_WAY or _number(error) in _MYSQL_GAVE_WAY


def find_busy_timeout(patience: float) -> float:
    """Return the seconds for which a write waits for locks, if the client waits ``patience`` seconds for an answer."""
    return min(BUSY_TIMEOUT, patience * _BUSY_PART)


def find_statement_timeout(patience: float) -> float:
    """Return the statement time-out in seconds. It is shorter than ``patience``, the client's wait for an answer.

    If the client gave up first, a slow statement would look like an outage.
    """
    return patience * _STATEMENT_PART


def try_again(write: Callable[[], Result], seconds: float = BUSY_TIMEOUT) -> Result:
    """Retry the write for up to ``seconds`` while it loses to other transactions, with growing pauses.

    No transaction may be open meanwhile. SQLite's own wait is short on purpose: it would stop every greenlet of a
    gevent process.
    """
    end, pause = time.monotonic() + seconds, 0.02
    while True:
        try:
            return write()
        except DBAPIError as error:
            if not has_given_way(error) or time.monotonic() > end:
                raise
        time.sleep(random_between(0.001, pause))  # jitter
        pause = min(pause * 1.2, _LONGEST_PAUSE)


def _sqlstate(error: DBAPIError) -> str | None:
    """Return the error code of PostgreSQL. psycopg2 has another name for it."""
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def _number(error: DBAPIError) -> int | None:
    """Return the error number of MySQL and MariaDB."""
    arguments = error.orig.args if error.orig is not None else ()
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def _first_line(error: DBAPIError) -> str:
    """Return the driver's message without the lines and quotes in which some databases show the row."""
    text = str(error.orig) if _number(error) is None else _QUOTED.sub("…", str(error.orig))
    lines = text.splitlines()
    return f"{type(error.orig).__name__}: {lines[0] if lines else ''}"
