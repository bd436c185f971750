"""The database engine: made from a URL or the user's own, set up for several threads, processes and forks.

Owns connections and transactions, and turns SQLAlchemy's errors into StoreError. Knows nothing of jobs.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Executable, StaticPool, Table, create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from . import schema
from .errors import ConfigError, StoreError
from .forks import call_before_fork, call_in_child

BUSY_TIMEOUT = 5.0
"""Seconds that a write waits for another process's write on SQLite."""
_SQLITE_WAIT = 0.02
Result = TypeVar("Result")


class Conflict(StoreError):
    """The record breaks a constraint of the table."""


class Database:
    """An Engine and the job table in it. Nothing is connected or made before the first use."""

    def __init__(self, database: str | Engine, table: Table, create_table: bool) -> None:
        self.table = table
        self._create_table = create_table
        self._is_ready = False
        self._lock = threading.Lock()
        self._is_ours = isinstance(database, str)
        # Single statements commit by themselves: no BEGIN and COMMIT around them, and nothing is held between two.
        self._engine = _make_engine(database) if isinstance(database, str) else _check_engine(database)
        self._autocommit = self._engine if self._is_ours else _bare_engine(self._engine)
        self._is_sqlite = self._engine.dialect.name == "sqlite"
        # No connection is shared over a fork. On SQLite none may even be open: its locks belong to the process, and a
        # child would take over the notes of them.
        if self.file is not None:
            call_before_fork(self._close_idle)
        else:
            call_in_child(self._forget)

    @property
    def url(self) -> URL:
        """Where it is."""
        return self._engine.url

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database; None for any other."""
        name = self._engine.url.database
        return Path(name) if self._is_sqlite and name and name != ":memory:" else None

    @property
    def place(self) -> str:
        """Which table in which database this is, for people: no user and no password."""
        url = self._engine.url
        where = f"SQLite file {self.file}" if self.file else f"{url.get_backend_name()} database {url.database or ''}"
        host = f" at {url.host}:{url.port or 'its usual port'}" if url.host else ""
        return f"{where.rstrip()}{host}, table {self.table.name}"

    def dispose(self) -> None:
        """Close the connections that are not in use, if they are ours; a later call opens new ones."""
        if self._is_ours:
            self._close_idle()

    def _close_idle(self) -> None:
        self._engine.dispose()

    def _forget(self) -> None:
        self._engine.dispose(close=False)

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection on which every statement commits by itself. Raises StoreError."""
        with as_store_errors():
            if not self._is_ready:
                self._prepare()
            try:
                with self._open() as connection:
                    yield connection
            except (OperationalError, ProgrammingError) as error:
                if isinstance(error, ProgrammingError) or "no such table" in str(error.orig):
                    self._is_ready = False  # the table may be gone: the next use looks
                raise

    def write(self, statement: Executable, values: dict[str, Any]) -> int:
        """Run a single statement and tell how many rows it changed. Raises StoreError."""
        with self.connect() as connection:
            return wait_while_locked(lambda: connection.execute(statement, values).rowcount)

    def _open(self) -> Connection:
        if self._autocommit.pool is not self._engine.pool:  # a user's engine was disposed of, and has a new pool
            self._autocommit = _bare_engine(self._engine)
        return self._autocommit.connect()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A short transaction, with no switch point in it. Raises StoreError."""
        with self.connect() as connection, self._begin(connection):
            yield connection

    def _begin(self, connection: Connection) -> contextlib.AbstractContextManager[None]:
        return _begin_immediate(connection) if self._is_sqlite else _begin_read_committed(connection)

    def _prepare(self) -> None:
        if not self._lock.acquire(timeout=BUSY_TIMEOUT):  # the one before has been waiting for as long
            raise StoreError("The job database does not answer")
        try:
            if self._is_ready:
                return
            if self._is_sqlite and self._is_ours:
                self._make_sqlite_file()
            with self._open() as connection:
                if self._is_sqlite and self._is_ours:
                    wait_while_locked(lambda: connection.exec_driver_sql("PRAGMA journal_mode=WAL").close())
                with self._begin(connection):
                    self._prepare_table(connection)
            self._is_ready = True
        finally:
            self._lock.release()

    def _make_sqlite_file(self) -> None:
        """With mode 0600 from its first moment on; SQLite gives its WAL the same."""
        try:
            os.close(os.open(str(self.file), os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise StoreError(f"The SQLite file {self.file} can't be opened or made: {error.strerror}") from error

    def _prepare_table(self, connection: Connection) -> None:
        name = self.table.name
        if not inspect(connection).has_table(name):
            if not self._create_table:
                raise StoreError(f"There is no table {name!r}: create it, or set create_table=True")
            self.table.metadata.create_all(connection, checkfirst=True)
        there = {column["name"] for column in inspect(connection).get_columns(name)}
        missing = sorted({column.name for column in self.table.columns} - there)
        if missing:
            raise StoreError(
                f"Table {name!r} is not the job table of schema version {schema.VERSION}: it lacks "
                f"{', '.join(missing)}. Set another table_name, or move the old table away."
            )


@contextlib.contextmanager
def as_store_errors() -> Iterator[None]:
    """Turn what SQLAlchemy raises into StoreError, without the statement and its parameters."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict(f"The job database refuses the record: {_first_line(error)}") from None
    except DBAPIError as error:
        raise StoreError(f"The job database can't be used: {_first_line(error)}") from None
    except SQLAlchemyError as error:
        reason = str(error).partition("\n")[0]  # the statement comes below
        raise StoreError(f"The job database can't be used: {type(error).__name__}: {reason}") from None


def _first_line(error: DBAPIError) -> str:
    """What the driver says, without the lines in which some show the row."""
    lines = str(error.orig).splitlines()
    return f"{type(error.orig).__name__}: {lines[0] if lines else ''}"


def _check_engine(engine: Engine) -> Engine:
    is_in_memory = engine.dialect.name == "sqlite" and engine.url.database in (None, "", ":memory:")
    if is_in_memory and not isinstance(engine.pool, StaticPool):
        raise ConfigError("database is an Engine in memory of which each thread sees another one: name a file")
    return engine


def _bare_engine(engine: Engine) -> Engine:
    """A user's engine with its connections and options, but without its listeners, which may begin transactions."""
    bare = Engine(
        engine.pool,
        engine.dialect,
        engine.url,
        execution_options=engine.get_execution_options(),
        hide_parameters=True,
    )
    return bare.execution_options(isolation_level="AUTOCOMMIT")


def _make_engine(text: str) -> Engine:
    try:
        url = make_url(text)
        if url.get_backend_name() == "sqlite":
            return _make_sqlite_engine(url)
        return create_engine(
            url, isolation_level="AUTOCOMMIT", hide_parameters=True, pool_pre_ping=True, pool_timeout=10
        )
    except ConfigError:
        raise
    except (NoSuchModuleError, ImportError) as error:
        raise ConfigError(f"database needs a driver that is not installed: {error}") from None
    except (ArgumentError, ValueError, TypeError):
        raise ConfigError("database is no SQLAlchemy URL, such as sqlite:////var/lib/app/backjob.sqlite3") from None


def _make_sqlite_engine(url: URL) -> Engine:
    name = url.database
    if not name or name == ":memory:" or name.startswith("file:"):
        raise ConfigError("database must name an SQLite file: one in memory is not seen by other processes")
    url = url.set(database=os.path.abspath(name))
    connect_args = {"timeout": _SQLITE_WAIT, "check_same_thread": False}
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        connect_args=connect_args,
        pool_timeout=10,
        pool_reset_on_return=None,  # nothing to roll back: each transaction ends where it begins
    )
    engine.dialect.create_connect_args(url)  # raises for options in the URL that can't be read

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        # With a WAL this loses nothing when a process dies, only a power cut may take the last moments.
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine


def wait_while_locked(write: Callable[[], Result]) -> Result:
    """Try again while somebody else writes to the SQLite file, for BUSY_TIMEOUT.

    SQLite's own wait is short here: it would stop every greenlet of a gevent process.
    """
    end = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            return write()
        except OperationalError as error:
            if "locked" not in str(error.orig) or time.monotonic() > end:
                raise
            time.sleep(random.uniform(0.001, 0.02))  # noqa: S311 - spreads those who wait


@contextlib.contextmanager
def _begin_immediate(connection: Connection) -> Iterator[None]:
    """A write transaction from its first moment on: SQLite refuses one that begins as a reader and turns writer."""
    wait_while_locked(lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        with contextlib.suppress(SQLAlchemyError):  # a full disk, for one, has ended the transaction already
            connection.exec_driver_sql("ROLLBACK")
        raise


@contextlib.contextmanager
def _begin_read_committed(connection: Connection) -> Iterator[None]:
    with connection.execution_options(isolation_level="READ COMMITTED").begin():
        yield
