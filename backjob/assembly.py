"""The rooms of one application, put together from its options: at first use, and anew in each child of a fork.

Knows which class stands in which place, and nothing of what they do. Connects nothing by itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import cast

from . import cache, cache_store
from .backend import Backend
from .cache import CachedStore
from .cache_store import CacheStore, warn_of_loss
from .cells import Cells, open_cells
from .check import Deployment
from .config import Config
from .dispatcher import Dispatcher
from .engine import Database
from .errors import ConfigError
from .forks import call_in_child, notice_fork
from .keyring import Keyring, KeySource, check_keys, read_or_make_key_file
from .launcher import SelfRequest
from .monitor import Monitor
from .outcome import Outcomes
from .schema import build_table
from .sqlstore import SQLStore
from .store import Store

WSGIApp = Callable[..., Iterable[bytes]]


class Assembly:
    """What an application is made of. ``name`` tells it from others that share its jobs. Raises ConfigError."""

    def __init__(self, app: WSGIApp, config: Config, name: str) -> None:
        self._app = app
        self._config = config
        self._name = name
        self._begin_anew()
        self._keys = _find_keys(config, self._database)
        if self._cells is not None and self._database is None:
            warn_of_loss(self._cells)
        call_in_child(self._begin_anew)

    def _begin_anew(self) -> None:
        """In a child its parent's threads are not there, and the locks are to be made after gevent's patches."""
        self._lock = threading.Lock()
        self._database = _make_database(self._config)
        self._cells = _make_cells(self._config)
        self._backend: Backend | None = None

    def get_backend(self) -> Backend:
        """The rooms of this process. Raises KeyringError where the key file can't be read or made."""
        notice_fork()
        if self._backend is None:
            with self._lock:
                self._backend = self._backend or self._make_backend()
        return self._backend

    @property
    def deployment(self) -> Deployment:
        """The same, as a check asks it."""
        database = self._database
        place = database.place if database is not None else "none but the cache"
        file = database.file if database is not None else None
        return Deployment(self._app, self._config, self._keys, place, file, self._cells, self.get_backend)

    def close(self) -> None:
        """Stop looking for jobs that wait, and close the connections that are not in use."""
        with self._lock:
            backend, self._backend = self._backend, None
        if backend is not None:
            backend.dispatcher.close()
        for connections in (self._database, self._cells):
            if connections is not None:
                connections.dispose()

    def _make_backend(self) -> Backend:
        config = self._config
        keyring = Keyring(self._keys.read())
        store = self._make_store(keyring)
        self_request = SelfRequest(config, keyring, self._name)
        monitor = Monitor(config, keyring, store, self_request)
        dispatcher = Dispatcher(config, keyring, store, monitor)
        return Backend(config, keyring, store, self_request, monitor, dispatcher, Outcomes())

    def _make_store(self, keyring: Keyring) -> Store:
        config = self._config
        if self._cells is None:
            return SQLStore(cast(Database, self._database))  # Config wants one of the two
        if self._database is not None:
            return CachedStore(self._database, self._cells, keyring, config.cache_prefix)
        keep_completed, keep_ended = config.backlog_days * 86400, config.all_backlog_days * 86400
        prefix = f"{config.cache_prefix}{config.table_name}-"
        return CacheStore(self._cells, prefix, keep_completed=keep_completed, keep_ended=keep_ended)


def _make_database(config: Config) -> Database | None:
    if config.database is None:
        return None
    return Database(config.database, build_table(config.table_name), config.create_table)


def _make_cells(config: Config) -> Cells | None:
    if config.cache is None:
        return None
    return open_cells(config.cache, cache_store.LONGEST_CALL if config.database is None else cache.LONGEST_CALL)


def _find_keys(config: Config, database: Database | None) -> KeySource:
    """Where the keys come from. Raises ConfigError when there is no such place; a key file is read at first use."""
    if config.key is not None:
        keys = check_keys(config.key, "key")
        return KeySource("key=", lambda: keys)
    if os.environ.get("BACKJOB_KEY"):
        keys = check_keys(os.environ["BACKJOB_KEY"].split(), "$BACKJOB_KEY")
        return KeySource("$BACKJOB_KEY", lambda: keys)
    if database is None or database.file is None:
        raise ConfigError("key must be set (or $BACKJOB_KEY): a key file is kept beside an SQLite file only")
    path = database.file.with_name(database.file.name + ".key")
    return KeySource(f"key file {path}", lambda: [read_or_make_key_file(path)])
