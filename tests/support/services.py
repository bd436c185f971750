"""The databases and caches that tests/machine/services has started, and a database of its own for whoever asks."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.engine import URL, make_url

from support import needs

_URLS = Path(__file__).resolve().parents[2] / ".services" / "urls"
_numbers = itertools.count(1)


@functools.cache
def _read_urls() -> dict[str, str]:
    lines = _URLS.read_text().splitlines() if _URLS.exists() else []
    return {name: url for name, _, url in (line.partition("=") for line in lines)}


def url(name: str) -> str:
    """Where a service is: "postgresql", "mariadb", "mariadb-mysqlclient", "redis" or "memcached".

    Databases and Redis also over a unix socket: "postgresql-unix", "mariadb-unix", "redis-unix".
    """
    return _read_urls().get(name) or needs.miss(f"no {name} runs: tests/machine/services start")


@functools.cache
def engine(url: URL) -> Engine:
    """For a test's own statements: it keeps no connection, and one of a kind is enough."""
    return create_engine(url, poolclass=NullPool)


@contextlib.contextmanager
def new_database(name: str, options: str = "") -> Iterator[URL]:
    """Make an empty database on this server, and drop it in the end. ``options`` stand behind CREATE DATABASE."""
    server = make_url(url(name))
    own = f"backjob_{os.getpid()}_{next(_numbers)}"
    is_postgresql = server.get_backend_name() == "postgresql"
    administrator = engine(server).execution_options(isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {own} {options}"))
    try:
        yield server.set(database=own)
    finally:
        with administrator.connect() as connection:
            connection.execute(text(f"DROP DATABASE {own}" + (" WITH (FORCE)" if is_postgresql else "")))
