"""The composition root: builds the parts of one application from its options, at first use and after each fork.

Knows the classes of the parts, and nothing of what they do. Opens no connection itself.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import cast

from .checks.check import Deployment
from .client.backend import Backend
from .client.security_log import RefusedTokens
from .config import Config
from .errors import ConfigError, KeyringError, StoreError
from .keyring import KeyFile, Keyring, KeySource, check_keys
from .runtime.background_thread import START_DELAY, BackgroundThread
from .runtime.forks import call_after_fork, call_before_fork, call_in_child, detect_fork, has_children
from .runtime.server_info import find_uwsgi
from .runtime.threads import is_native
from .scheduling.concurrency import Limits
from .scheduling.dispatcher import Dispatcher
from .scheduling.keeper import Keeper
from .scheduling.leases import Renewals
from .scheduling.monitor import Monitor
from .storage.cache.backends import check_region
from .storage.cache.cached_store import CACHE_TIMEOUT, CachedStore
from .storage.cache.entries import CacheEntries, open_entries
from .storage.cache.store import STORE_TIMEOUT, CacheStore
from .storage.hooks import add_hooks
from .storage.sql.database import Database
from .storage.sql.engines import PATIENCE
from .storage.sql.schema import find_table
from .storage.sql.store import SQLStore
from .storage.sql.wal import empty_wal
from .storage.store import Store
from .transport.launcher import SelfRequest

log = logging.getLogger("backjob")

_NOTHING_TO_KEEP = 1.0
"""Seconds until the keeper checks again whether the SQLite file exists."""
_NOT_HERE = 3600.0
_PATIENCE_AT_END = 0.5
"""Seconds that an ending process waits for readers of an SQLite file, to empty its WAL."""
_LOOK_FOR_CHILDREN = 2.0
"""Seconds until a parent that serves no requests checks again whether it has children."""

WSGIApp = Callable[..., Iterable[bytes]]


class Assembly:
    """The parts of an application. ``name`` distinguishes it from others that share its table. Raises ConfigError."""

    serves: bool
    """True if a request has come to this process."""

    def __init__(self, app: WSGIApp, config: Config, name: str) -> None:
        self._app = app
        self._config = config
        self._name = name
        self._build()
        self._keys = _find_keys(config, self._database)
        if self._cache is not None and self._database is None:
            _warn_of_loss(self._cache)
        call_in_child(self._rebuild_in_child)
        call_after_fork(self._continue_in_parent)
        leave = weakref.WeakMethod(self._stop_at_exit)
        atexit.register(lambda: (method := leave()) and method())
        if config.has_keeper:
            self._keeper_thread.start(START_DELAY)

    def _build(self) -> None:
        self._lock = threading.Lock()
        self._database = _make_database(self._config)
        self._cache = _make_cache(self._config)
        self._backend: Backend | None = None
        self.refused_tokens = RefusedTokens()
        self.serves = self._is_paused = False
        # The keeper's thread has its own connections and locks, because greenlets must not share them with a thread.
        # One call of it takes at most as long as there is between two renewals.
        patience = min(self._config.lease / 3, PATIENCE)
        self._keeper_database = self._database and self._database.make_twin(patience)
        self._idle = self._database.find_idle(self._config.lease / 6) if self._database is not None else None
        self._keeper_thread = BackgroundThread(self._run_keeper, self._close_keeper, native=self._database is not None)
        # Registered after the databases' own functions, so that it is called before them: they close idle connections.
        call_before_fork(self._pause_before_fork)

    def _rebuild_in_child(self) -> None:
        """Rebuild the parts in a child of a fork, which has no threads and needs locks made after gevent's patches.

        A child of a serving process counts as its tool, and not as a server, until a request comes to it.
        """
        was_keeping = self._is_paused or self._keeper_thread.is_running
        is_server = self._config.has_keeper and was_keeping and not self.serves
        self._build()
        if is_server:
            self._keeper_thread.start(START_DELAY)

    def _pause_before_fork(self) -> None:
        """Stop the threads before a fork. A parent that serves no requests leaves the jobs to its children."""
        self._is_paused = self._is_paused or self._keeper_thread.is_running
        self._keeper_thread.stop()
        if self._backend is not None and not self.serves:
            self._backend.dispatcher.pause()

    def _continue_in_parent(self) -> None:
        """Continue in the parent after a fork."""
        if self._is_paused:
            self._keeper_thread.start(0.0 if self.serves else _LOOK_FOR_CHILDREN)
        if self.serves:
            self._resume()

    def _resume(self) -> None:
        """Keep and launch jobs again: this process serves requests, or has no children that do."""
        self._is_paused = False
        if self._backend is not None:
            self._backend.dispatcher.resume()

    def _stop_at_exit(self) -> None:
        """Stop the keeper in an orderly exit of the process."""
        self._keeper_thread.stop()
        self.refused_tokens.report(is_last=True)
        if self._backend is not None:
            self._backend.keeper.leave()
            self._empty_wal()

    def _empty_wal(self) -> None:
        if self._database is not None:
            empty_wal(self._database, _PATIENCE_AT_END, is_last=True)

    def note_request(self) -> None:
        """Note that a request has come, of any kind, so that this process serves."""
        detect_fork()
        self.serves = True
        self._resume()
        if self._config.has_keeper:  # without a delay: a server may end this process after a few requests
            self._keeper_thread.start()

    def get_backend(self) -> Backend:
        """Return the parts of this process. Raises KeyringError if the key file can't be read or made."""
        detect_fork()
        if self._backend is None:
            with self._lock:
                self._backend = self._backend or self._make_backend()
        return self._backend

    def note_job_request(self) -> None:
        """Start the keeper, because a job's request has come and its lease must be renewed."""
        if not self._config.is_inline:
            self._keeper_thread.start()

    def _run_keeper(self) -> float:
        """Run one step of the keeper. Return the seconds until the next. Without an SQLite file there is no job."""
        uwsgi = find_uwsgi()
        if uwsgi is not None and not uwsgi.worker_id():
            return _NOT_HERE
        if self._is_paused:
            # A server's master always has children. A process without any more has forked for another purpose.
            if has_children():
                return _LOOK_FOR_CHILDREN
            self._resume()
        self.refused_tokens.report()
        try:
            if self._keeper_database is not None and self._keeper_database.file is not None:
                self._keys.restore()
                self._keeper_database.reopen_replaced_file()
                if not self._keeper_database.file.exists():
                    return _NOTHING_TO_KEEP
            backend = self.get_backend()
            if self.serves:
                backend.limits.note_serving()
            pause = backend.keeper.step()
            if self._keeper_database is not None:
                empty_wal(self._keeper_database)
            if self._idle is not None and is_native():
                self._idle.give_back()
            return min(pause, _NOTHING_TO_KEEP) if self._keeper_database and self._keeper_database.file else pause
        except StoreError as error:
            log.warning("The SQLite file can't be reopened yet: %s", error)
            return _NOTHING_TO_KEEP
        except KeyringError as error:
            log.error("The keeper of this process does not run: %s", error)
            return _NOT_HERE

    def _close_keeper(self) -> None:
        if self._keeper_database is not None:
            self._keeper_database.dispose()

    @property
    def deployment(self) -> Deployment:
        """The parts that a check examines."""
        database = self._database
        place = database.place if database is not None else "none but the cache"
        file = database.file if database is not None else None
        return Deployment(self._app, self._config, self._keys, place, file, self._cache, self.get_backend)

    @property
    def missing_files(self) -> list[str]:
        """The missing files that the first use would make."""
        files = (self._database.file if self._database is not None else None, self._keys.file)
        return [str(file) for file in files if file is not None and not os.path.exists(file)]

    def create_table(self) -> None:
        """Create the job table now, whatever the option is. Raises StoreError, or ConfigError without a database."""
        if self._database is None:
            raise ConfigError("database=None: jobs are kept in the cache alone, without a table. Set database=")
        self._database.create_table()

    def close(self) -> None:
        """Stop launching waiting jobs, leave them to other processes, and close idle connections."""
        self.serves = self._is_paused = False
        self._keeper_thread.stop()
        self.refused_tokens.report(is_last=True)
        with self._lock:
            backend, self._backend = self._backend, None
        if backend is not None:
            backend.dispatcher.pause()
            backend.keeper.leave()
            self._empty_wal()
        for connections in (self._database, self._keeper_database, self._cache):
            if connections is not None:
                connections.dispose()

    def _make_backend(self) -> Backend:
        config = self._config
        keyring = Keyring(self._keys.read(), lambda: store.place)
        store = self._make_store(keyring)
        add_hooks(store, config)
        keeper_database = self._keeper_database
        keeper_store = SQLStore(keeper_database) if keeper_database is not None else self._make_store(keyring)
        add_hooks(keeper_store, config, in_thread=True)  # the renewal of leases can't wait for a hook
        self_request = SelfRequest(config, keyring, self._name, store.time_at_hand)
        renewals = Renewals()
        monitor = Monitor(config, keyring, store, self_request, renewals)
        limits = Limits(config, store, monitor.owner)
        dispatcher = Dispatcher(config, keyring, store, limits, monitor)
        keeper = Keeper(config, keyring, keeper_store, self_request, renewals, limits, dispatcher.start_looking)
        return Backend(config, keyring, store, limits, self_request, monitor, dispatcher, renewals, keeper)

    def _make_store(self, keyring: Keyring) -> Store:
        config = self._config
        if self._cache is None:
            return SQLStore(cast(Database, self._database))  # Config requires one of the two
        if self._database is not None:
            return CachedStore(self._database, self._cache, keyring, config.cache_prefix)
        keep_completed, keep_ended = config.backlog_days * 86400, config.all_backlog_days * 86400
        prefix = f"{config.cache_prefix}{config.table_name}-"
        return CacheStore(self._cache, prefix, keep_completed=keep_completed, keep_ended=keep_ended)


def _make_database(config: Config) -> Database | None:
    if config.database is None:
        return None
    return Database(config.database, find_table(config.table_name), config.create_table)


def _make_cache(config: Config) -> CacheEntries | None:
    if config.cache is None:
        return None
    check_region(config.cache, is_alone=config.database is None)
    return open_entries(config.cache, STORE_TIMEOUT if config.database is None else CACHE_TIMEOUT)


def _warn_of_loss(cache: CacheEntries) -> None:
    """Log a warning with the promises that do not hold for a cache alone."""
    if cache.is_shared:
        where, loss = "the cache", "Jobs that it drops, or loses in a restart, are gone."
    elif cache.is_file:
        where, loss = (
            "a file of this host",
            "Use it in one process at a time: its lock does not exclude others.",
        )
    else:
        where = "the memory of this process"
        loss = "That works for a server with one process. Of several, each knows only its own jobs."
    storage = f"database=None: jobs are kept in {where} alone ({cache.backend_name})"
    log.warning("%s. %s See docs/caching.md", storage, loss)


def _find_keys(config: Config, database: Database | None) -> KeySource:
    """Return the source of the keys. A key file is read at first use. Raises ConfigError without a source."""
    if config.key is not None:
        keys = check_keys(config.key, "key")
        return KeySource("key=", lambda: keys)
    if os.environ.get("BACKJOB_KEY"):
        keys = check_keys(os.environ["BACKJOB_KEY"].split(), "$BACKJOB_KEY")
        return KeySource("$BACKJOB_KEY", lambda: keys)
    if database is None or database.file is None:
        raise ConfigError("key must be set (or $BACKJOB_KEY): a key file is kept beside an SQLite file only")
    path = database.file.with_name(database.file.name + ".key")
    key_file = KeyFile(path)
    return KeySource(f"key file {path}", key_file.read, path, key_file.restore)
