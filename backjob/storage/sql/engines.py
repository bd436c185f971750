"""Engines that are made from URLs, whose time-outs suit a web request, and checks of the user's own Engines.

Knows each database's and driver's settings. Nothing is connected here.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import Any

from sqlalchemy import (
    AssertionPool,
    Connection,
    Dialect,
    Engine,
    SingletonThreadPool,
    StaticPool,
    create_engine,
    event,
    select,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from backjob.errors import ConfigError

from .errors import as_store_errors, as_unreachable, find_busy_timeout, find_statement_timeout
from .postgresql import limit_answers

KINDS = frozenset({"sqlite", "postgresql", "mysql", "mariadb"})
"""Supported databases, by SQLAlchemy's names."""
_NO_URL = "database is no SQLAlchemy URL, such as sqlite:////var/lib/app/backjob.sqlite3"
_SQLITE_WAIT = 0.02
_CACHES = frozenset({"memcached", "redis", "rediss", "valkey"})
_MISSPELT = {"mysql2": "mysql", "pymysql": "mysql", "sqlite3": "sqlite"}
_MISSPELT |= dict.fromkeys(("pgsql", "postgres", "psql", "psycopg", "psycopg2"), "postgresql")
"""Other libraries' and hosting services' names of databases in URLs, each with SQLAlchemy's."""
_SECURE_DELETE = "PRAGMA secure_delete = ON"
"""Pragma by which SQLite overwrites deleted values with zeros, instead of only marking them as free."""
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
"""Default drivers for URLs that name no driver. The package's extras install them."""
# In seconds, except tcp_user_timeout. A server that accepts the connection and never answers is detected too.
_LIBPQ = {"connect_timeout": "5", "tcp_user_timeout": "10000", "keepalives_idle": "5", "keepalives_interval": "5"}
# While the client only waits for an answer, tcp_user_timeout applies once the first keepalive is unanswered.
_LIBPQ["client_encoding"] = "utf8"  # in an SQL_ASCII database all answers would be bytes
_MYSQL = {"connect_timeout": "5", "read_timeout": "10", "write_timeout": "10", "charset": "utf8mb4"}
_DEFAULTS = {"psycopg": _LIBPQ, "psycopg2": _LIBPQ, "pymysql": _MYSQL, "mysqldb": _MYSQL}
PATIENCE = 10.0
"""The longest of these waits, in seconds."""
_A_SECOND = {"connect_timeout": 1, "read_timeout": 1, "write_timeout": 1, "tcp_user_timeout": 1000}
_ON_CONNECT = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    # Only MariaDB executes the part in /*M! */. MySQL has no statement time-out for writes.
    "SET SESSION innodb_lock_wait_timeout = {lock}, lock_wait_timeout = {lock} /*M! , max_statement_time = {any} */",
)
"""Settings of MySQL and MariaDB sessions: the isolation level with the fewest locks, and time-outs in seconds. Lock
time-outs are whole seconds. PostgreSQL gets its time-outs in each transaction, because poolers share its sessions."""
_OF_TRANSACTIONS = frozenset({"isolation_level", "postgresql_readonly", "postgresql_deferrable"})
"""Execution options of an engine that concern its transactions."""

# On a shared connection a job's commit would commit the app's work too. An AssertionPool refuses a second user.
_SHARING = (StaticPool, SingletonThreadPool, AssertionPool)


def make_engine(database: str | URL, patience: float = PATIENCE) -> Engine:
    """Return an engine of our own, on which every statement commits by itself. Raises ConfigError.

    ``patience``: the longest wait for a server, in whole seconds. Options in the URL take precedence.
    """
    try:
        url = make_url(database)
    except (ArgumentError, ValueError, TypeError):
        raise ConfigError(_NO_URL) from None
    name = url.get_backend_name()
    try:
        _check_kind(name)
        _check_driver(url.get_dialect())
        return _make_sqlite_engine(url) if name == "sqlite" else _make_server_engine(url, patience)
    except ConfigError:
        raise
    except (NoSuchModuleError, ImportError) as error:
        raise ConfigError(f"database needs a driver that is not installed: {error}") from None
    except (ArgumentError, ValueError, TypeError):
        options = ", ".join(url.query)
        unread = f"database has an option in its URL that can't be read: {options}"
        raise ConfigError(unread if options else _NO_URL) from None


def check_engine(engine: Engine) -> Engine:
    """Return a user's own engine, if it is suitable. Raises ConfigError."""
    _check_kind(engine.dialect.name)
    _check_driver(engine.dialect)
    name = engine.url.database or ":memory:"
    if engine.dialect.name == "sqlite" and (":memory:" in name or engine.url.query.get("mode") == "memory"):
        raise ConfigError("database is an Engine in memory, which other processes don't see: name a file")
    if isinstance(engine.pool, _SHARING):
        raise ConfigError(
            f"database is an Engine with a {type(engine.pool).__name__}, which does not give each user a connection "
            f"of its own: make it with a QueuePool or NullPool"
        )
    return engine


def twin_engine(engine: Engine, patience: float | None = None) -> Engine:
    """Return an engine to the same database with a pool of its own, for a thread that shares no connection with others.

    ``patience``: seconds that the client waits for an answer. The time-outs for locks (MySQL, MariaDB) and statements
    (MariaDB) are derived from it.
    """
    twin = Engine(engine.pool.recreate(), engine.dialect, engine.url, execution_options=engine.get_execution_options())
    if patience is not None:
        _set_up_sessions(twin, patience)
    return twin


def try_new_connection(engine: Engine) -> None:
    """Open a connection outside of the engine's pool, run a query and close it. Raises StoreError."""
    unpooled = twin_engine(engine)
    with as_store_errors():
        try:
            with as_unreachable():
                connection = unpooled.connect()
            with connection:
                connection.execute(select(1))
        finally:
            unpooled.dispose()


def bare_engine(engine: Engine) -> Engine:
    """Return a user's engine with the same pool, but without its listeners, which may begin transactions.

    Its options for transactions are left out too, because they would be set after ours.
    """
    options = {name: value for name, value in engine.get_execution_options().items() if name not in _OF_TRANSACTIONS}
    bare = Engine(engine.pool, engine.dialect, engine.url, execution_options=options, hide_parameters=True)
    bare = bare.execution_options(isolation_level="AUTOCOMMIT")
    if engine.dialect.name == "sqlite":
        event.listen(bare, "engine_connect", _delete_securely)
    return bare


def _delete_securely(connection: Connection) -> None:
    """Set the pragma once on each connection of a user's engine. It applies to the app's deletions too."""
    if _SECURE_DELETE not in connection.info:
        connection.exec_driver_sql(_SECURE_DELETE).close()
        connection.info[_SECURE_DELETE] = True


def _check_kind(name: str) -> None:
    if name in KINDS:
        return
    if name.lower() in _CACHES:
        raise ConfigError(f"database can't be {name}, which is a cache: give cache= a dogpile region, see the docs")
    try:
        make_url(f"{name}://").get_dialect()
    except (NoSuchModuleError, ImportError):
        near = get_close_matches(name.lower(), sorted(KINDS), 1)
        meant = _MISSPELT.get(name.lower()) or (near[0] if near else "")
        if not meant:
            raise
        raise ConfigError(
            f"database must begin with {meant}:// or {meant}+driver://, not {name}: write {meant}://"
        ) from None
    raise ConfigError(f"database must be SQLite, PostgreSQL, MariaDB or MySQL, not {name}")


def _check_driver(dialect: Dialect | type[Dialect]) -> None:
    if dialect.is_async:
        raise ConfigError(f"database has an async driver ({dialect.driver}): use a sync one, and create_engine()")


def _make_server_engine(url: URL, patience: float) -> Engine:
    name = url.get_backend_name()
    if url.drivername == name:
        url = url.set(drivername=f"{name}+{_DRIVERS[name]}")
    defaults, seconds = dict(_DEFAULTS.get(url.get_driver_name(), {})), max(int(patience), 1)
    for wait in defaults.keys() & _A_SECOND.keys():
        defaults[wait] = str(min(int(defaults[wait]), seconds * _A_SECOND[wait]))
    url = url.update_query_dict({key: value for key, value in defaults.items() if key not in url.query})
    engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        pool_pre_ping=True,  # the restart of a server is no error
        pool_timeout=10,
    )
    engine.dialect.create_connect_args(url)  # raises for options in the URL that can't be read

    if engine.dialect.driver == "psycopg":
        limit_answers(engine, patience)
    _set_up_sessions(engine, seconds)
    return engine


def _set_up_sessions(engine: Engine, patience: float) -> None:
    """Prepare the sessions of MySQL and MariaDB."""
    if engine.dialect.name not in ("mysql", "mariadb"):
        return
    limits = {"lock": max(int(find_busy_timeout(patience)), 1), "any": find_statement_timeout(patience)}

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for statement in _ON_CONNECT:
            cursor.execute(statement.format_map(limits))
        cursor.close()


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
        # With a WAL nothing is lost if a process dies. A power failure may lose the last writes.
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(_SECURE_DELETE)

    return engine
