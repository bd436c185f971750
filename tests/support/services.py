"""The databases and caches that tests/machine/services has started, and a database of its own for whoever asks."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.engine import URL, make_url

from support import needs

from . import ROOT

_URLS = ROOT / ".services" / "urls"
_SCRIPT = ROOT / "tests" / "machine" / "services"
_LONGEST = 60
_numbers = itertools.count(1)


@functools.cache
def _read_urls() -> dict[str, str]:
    lines = _URLS.read_text().splitlines() if _URLS.exists() else []
    return {name: url for name, _, url in (line.partition("=") for line in lines)}


def url(name: str) -> str:
    """Where a service is: "postgresql", "mariadb", "mariadb-mysqlclient", "redis" or "memcached".

    Databases and Redis also over a unix socket: "postgresql-unix", "mariadb-unix", "redis-unix".
    """
    needs.skip_servers(name)
    return _read_urls().get(name) or needs.miss(f"no {name} runs: tests/machine/services start")


@functools.cache
def engine(url: URL) -> Engine:
    """For a test's own statements: it keeps no connection, and one of a kind is enough."""
    return create_engine(url, poolclass=NullPool)


@contextlib.contextmanager
def new_database(name: str, options: str = "") -> Iterator[URL]:
    """Make an empty database on this server, and drop it in the end. ``options`` stand behind CREATE DATABASE."""
    with database_on(make_url(url(name)), options) as made:
        yield made


@contextlib.contextmanager
def database_on(server: URL, options: str = "") -> Iterator[URL]:
    """The same on the server that has this address."""
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


class OwnServices:
    """Servers that belong to one run, which may stop and crash them. Databases write to the disk what they commit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self, name: str) -> str:
        """Start "postgresql", "mariadb" or "redis", again or for the first time. Its URL, which stays the same."""
        self._call("start", name)
        lines = (self._folder / "urls").read_text().splitlines()
        urls = dict(line.split("=", 1) for line in lines)
        return urls.get(name) or needs.miss(f"there is no {name}: tests/machine/install brings it")

    def stop(self, name: str) -> None:
        """In an orderly way, but without waiting for those who are connected."""
        self._call("stop", name)

    def crash(self, name: str) -> None:
        """As in a power cut, but for what the system has to write to the disk."""
        self._call("crash", name)

    def remove(self) -> None:
        """Stop all of them, and remove what they have written."""
        self._call("stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _call(self, *words: str) -> None:
        environ = os.environ | {"SERVICES": str(self._folder), "SERVICES_DURABLE": "1"}
        # To a file: a server that is started would keep a pipe open.
        log = self._folder.with_suffix(".log")
        with log.open("ab") as output:
            done = subprocess.run([_SCRIPT, *words], env=environ, stdout=output, stderr=output, timeout=_LONGEST)
        assert done.returncode == 0, f"services {' '.join(words)} failed: {log.read_text()[-1000:]}"
