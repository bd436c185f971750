"""The database under the store: its engine and table, and the ways to read and write.

Owns connections, transactions and the lock that processes share, for several threads, processes and forks. Knows
nothing of jobs.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Delete, Engine, Executable, Pool, Table, Update, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError, ProgrammingError

from backjob.errors import Refused, StoreError
from backjob.runtime.forks import ForkGate, call_before_fork, call_in_child

from . import errors, tables
from .dialects import begin, drop_when_read_only, with_advisory_lock, with_named_lock
from .engines import PATIENCE, bare_engine, check_engine, make_engine, try_new_connection, twin_engine
from .errors import Result
from .idle_connections import IdleConnections, can_lend
from .lost_answers import as_one_call, limited_try, opening
from .postgresql import add_lock_patience
from .sqlite_file import SQLiteFile

_Work = Callable[[Connection], Result]
_ROOM = 65536  # bytes of a packet to MySQL that are reserved for the rest of the statement


class Database:
    """An Engine and the job table in it. Nothing is connected or created before the first use.

    ``patience``: the longest wait for a server that is given by a URL, in seconds.
    """

    def __init__(
        self, database: str | URL | Engine, table: Table, create_table: bool, patience: float = PATIENCE
    ) -> None:
        self._given = database
        self.table = table
        self._create_table = create_table
        self._is_ready = False
        self._lock = threading.Lock()
        self._is_ours = self._has_own_pool = isinstance(database, (str, URL))
        # Single statements commit by themselves: no BEGIN and COMMIT around them, and nothing is held between two.
        self._engine = make_engine(database, patience) if isinstance(database, (str, URL)) else check_engine(database)
        self._autocommit = self._engine if self._is_ours else bare_engine(self._engine)
        self.kind = self._engine.dialect.name
        """The kind of database: "sqlite", "postgresql", "mysql" or "mariadb"."""
        self._is_sqlite, self._is_mysql = self.kind == "sqlite", self.kind in ("mysql", "mariadb")
        self.counts_changes = self._is_mysql
        """True if the row count of an update may leave out rows that it did not change."""
        self._patience = patience
        self._busy = errors.find_busy_timeout(PATIENCE if self._is_sqlite else patience)
        self._has_limits = self._is_ours and self.kind == "postgresql"
        # psycopg limits the wait for a locked table by itself, so there the time-out for row locks is in the statement.
        self._needs_transaction = self._has_limits and self._engine.driver != "psycopg"
        self.sqlite_file = SQLiteFile(self.file) if self.file is not None else None
        self.largest_value: int | None = None
        """The longest value that the server accepts, in bytes; None: no limit. Known after the first use."""
        self._least_number = 0
        self.name = ""
        """The unique name of the table. Known after the first use of this Database, or of its twin."""
        self._inherited: Pool | None = None
        self._lender: Database | None = None
        # No connection may be open during a fork: SQLite's locks belong to the process, and a child would inherit the
        # records of them. mysqlclient ends the session of the parent when a child drops its connection.
        call_before_fork(self._close_idle)
        call_in_child(self._forget)
        # Registered last, so that it runs first: a fork waits for connections in use, and then closes all. A child only
        # forgets connections to a server.
        self._gate = ForkGate() if self._is_sqlite else contextlib.nullcontext()

    def make_twin(self, patience: float) -> Database:
        """Return a copy with its own connections. If the server refuses more, it borrows idle ones of this Database."""
        given = twin_engine(self._engine, patience) if isinstance(self._given, Engine) else self._given
        twin = Database(given, self.table, self._create_table, patience)
        twin._has_own_pool = True
        twin._has_limits = twin._needs_transaction = twin.kind == "postgresql"
        twin.sqlite_file = SQLiteFile(twin.file, self.sqlite_file) if twin.file is not None else None
        twin._lender = self
        return twin

    def lend(self) -> Connection | None:
        """Return an idle connection to a server, if another thread may use one, or None."""
        return self._open() if can_lend(self._engine) else None

    def find_idle(self, seconds: float) -> IdleConnections | None:
        """Return the idle connections to a server that we may close after so many seconds."""
        return IdleConnections(self._engine, seconds) if self._is_ours and not self._is_sqlite else None

    @property
    def url(self) -> URL:
        """The URL of the database."""
        return self._engine.url

    @property
    def file(self) -> Path | None:
        """The file of an SQLite database; else None."""
        name = self._engine.url.database
        return Path(name) if self._is_sqlite and name else None

    @property
    def place(self) -> str:
        """The location of the table, for messages. Without user and password."""
        return tables.describe_location(self._engine.url, self.table)

    def create_table(self) -> None:
        """Create missing tables, even with ``create_table=False``. Raises StoreError."""
        with self._lock:
            self._create_table, was_allowed = True, self._create_table
        try:
            self._prepare()
        finally:
            self._create_table = was_allowed

    def dispose(self) -> None:
        """Close our idle connections. A later call opens new ones."""
        if self._has_own_pool:
            with self._gate:
                self._close_idle()

    def _close_idle(self) -> None:
        self._engine.dispose()

    def _forget(self) -> None:
        if self._is_sqlite:
            # A connection that was open during the fork may not be closed: the locks are the parent's.
            self._inherited = self._engine.pool
        self._engine.dispose(close=False)

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        """Yield a connection on which every statement commits by itself. Raises StoreError."""
        with limited_try(self._patience), errors.as_store_errors(), self._gate:
            if self._reopen_replaced_file() or not self._is_ready:
                self._prepare()
            try:
                with self._open() as connection, drop_when_read_only(connection, self._close_idle):
                    yield connection
            except (OperationalError, ProgrammingError) as error:
                if isinstance(error, ProgrammingError) or "no such table" in str(error.orig):
                    self._is_ready = False  # the table may be gone: the next use checks it
                if self.sqlite_file is not None:
                    self.sqlite_file.check()
                raise
            if self.sqlite_file is not None:
                self.sqlite_file.check()

    def try_new_connection(self) -> None:
        """Open a new connection to the server, use it and close it. Raises StoreError. SQLite: do nothing."""
        if not self._is_sqlite:
            try_new_connection(self._engine)

    def write(self, statement: Executable, values: dict[str, Any], seconds: float = errors.BUSY_TIMEOUT) -> int:
        """Run a single statement and return the number of rows that it changed. Raises StoreError.

        ``seconds``: the longest time for which the statement is retried while it loses to other writes.
        """
        if self._has_limits and not self._needs_transaction and isinstance(statement, (Update, Delete)):
            statement = add_lock_patience(statement)
        elif self._has_limits:
            return self.transact(lambda connection: connection.execute(statement, values).rowcount, seconds)
        with self.connect() as connection:
            return errors.try_again(lambda: connection.execute(statement, values).rowcount, min(seconds, self._busy))

    def read(self, query: Executable, values: dict[str, Any]) -> Sequence[Any]:
        """Run a query and return all rows. Raises StoreError."""

        def fetch(connection: Connection) -> Sequence[Any]:
            try:
                return connection.execute(query, values).all()
            except (ValueError, TypeError, OverflowError) as error:
                # SQLite stores any type in any column. The value is not shown, because it may be a user's.
                raise Refused(f"The job database has a value of another type: {type(error).__name__}") from None

        return self.ask(fetch)

    @as_one_call
    def ask(self, question: _Work[Result]) -> Result:
        """Run a function that only reads. Retry it once if its answer is lost. Raises StoreError."""
        try:
            return self._ask_once(question)
        except errors.AnswerLost:
            return self._ask_once(question)

    def _ask_once(self, question: _Work[Result]) -> Result:
        with self.connect() as connection:
            return self._transact(connection, question) if self._needs_transaction else question(connection)

    def transact(self, work: _Work[Result], seconds: float = errors.BUSY_TIMEOUT) -> Result:
        """Run a function in a short transaction. Retry it if it loses to another one. Raises StoreError."""
        with self.connect() as connection:
            return self._transact(connection, work, seconds)

    def run_alone(self, work: _Work[Result]) -> Result:
        """Run a function in a transaction, under a lock that all processes share. Raises StoreError."""
        with self.connect() as connection:
            return self._run_alone(connection, work)

    def reopen_replaced_file(self) -> None:
        """Reopen an SQLite file that was deleted or replaced. Raises StoreError."""
        with self._gate:
            if self._reopen_replaced_file():
                self._prepare()

    def _reopen_replaced_file(self) -> bool:
        if self.sqlite_file is None or not self.sqlite_file.is_replaced:
            return False
        with errors.as_outage(), self._lock:
            if self.sqlite_file.is_replaced:
                self._least_number = max(self._least_number, tables.read_last_number(self._autocommit, self.table))
                self.sqlite_file.forget()
                self._is_ready = False
                self._close_idle()
        return True

    def _open(self) -> Connection:
        if self._autocommit.pool is not self._engine.pool:  # a user's engine was disposed of, and has a new pool
            self._autocommit = bare_engine(self._engine)
        try:
            with errors.as_unreachable(), opening():
                return self._connect()
        except errors.Unreachable:
            lent = self._lender.lend() if self._lender is not None else None
            if lent is None:
                raise
            return lent

    def _connect(self) -> Connection:
        try:
            return errors.try_again(self._autocommit.connect)  # SQLite locks the file while a process turns WAL on
        except self._engine.dialect.loaded_dbapi.Error:
            # SQLAlchemy could not set AUTOCOMMIT: the server has dropped this connection, and probably all others in a
            # user's engine without pool_pre_ping.
            self._engine.dispose()
            self._autocommit = bare_engine(self._engine)
            return self._autocommit.connect()

    def _transact(self, connection: Connection, work: _Work[Result], seconds: float = errors.BUSY_TIMEOUT) -> Result:
        def transact_once() -> Result:
            with begin(connection, self.kind, self._patience if self._has_limits else None, seconds):
                return work(connection)

        return transact_once() if self._is_sqlite else errors.try_again(transact_once, min(seconds, self._busy))

    def _run_alone(self, connection: Connection, work: _Work[Result]) -> Result:
        if self._is_sqlite:
            return self._transact(connection, work)
        name = f"backjob {self.table.fullname}"
        if self._is_mysql:
            return with_named_lock(connection, name, work)
        return self._transact(connection, lambda begun: with_advisory_lock(begun, name, work, self._busy))

    @errors.as_outage()
    def _prepare(self) -> None:
        if not self._lock.acquire(timeout=self._busy):  # another thread has waited as long
            raise StoreError("The job database does not answer")
        try:
            if self._is_ready:
                return
            if self.sqlite_file is not None:
                self.sqlite_file.make_ready(create=self._is_ours)
            with self._open() as connection:
                if self._is_sqlite and self._is_ours:
                    errors.try_again(lambda: connection.exec_driver_sql("PRAGMA journal_mode=WAL").close())
                if self._is_sqlite:
                    self._transact(connection, self._prepare_tables)
                else:
                    tables.check_encodings(connection, self.kind)
                    self._prepare_tables(connection)
                if self._is_mysql:
                    self.largest_value = max(connection.scalar(text("SELECT @@max_allowed_packet")) - _ROOM, 0)
            if self.sqlite_file is not None:
                self.sqlite_file.note_opened()
            self._is_ready = True
        finally:
            self._lock.release()

    def _prepare_tables(self, connection: Connection) -> None:
        missing = tables.find_missing_tables(connection, self.table)
        if missing and not self._create_table:
            raise StoreError(f"There is no table {missing[0].name!r}: create it, or set create_table=True")
        make = functools.partial(self.table.metadata.create_all, checkfirst=True)
        if missing and self._is_sqlite:
            make(connection)
        elif missing:
            self._run_alone(connection, make)
        for table in missing:
            tables.check_columns(connection, table, self.table)  # another process may have made another version
        if self._least_number:  # of the replaced file: no id is assigned twice
            tables.count_from(connection, self.table, self._least_number)
        self.name = tables.read_name(connection, self.kind, self.table)
        (self._lender or self).name = self.name
