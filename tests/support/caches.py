"""Cache servers of the tests' own, which may be emptied, stopped and killed, and dogpile.cache regions on them."""

from __future__ import annotations

import contextlib
import functools
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dogpile.cache import CacheRegion, make_region

from backjob.keyring import Keyring
from backjob.storage.cache.cached_store import CachedStore
from backjob.storage.cache.entries import CacheEntries, open_entries
from backjob.storage.cache.store import CacheStore
from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import find_table

from . import AT_END, needs, wait_until
from .records import TABLE, Clock

PATIENT = 30.0
"""Seconds that a call may take where its length is not what is tested: the machine may be busy."""


class CacheServer:
    """A running Redis or memcached on a unix socket."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._program = needs.program("redis-server" if kind == "redis" else kind)
        self.folder = Path(tempfile.mkdtemp(prefix="backjob-"))
        self.socket = self.folder / "socket"
        self.start()

    def start(self) -> None:
        """Start it (again): what it had is gone."""
        if self.kind == "redis":
            command = [self._program, "--port", "0", "--unixsocket", str(self.socket), "--save", ""]
        else:
            command = [self._program, "-u", "root", "-s", str(self.socket)]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._listens)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(str(self.socket))
            return True
        return False

    def kill(self) -> None:
        """It is away: nobody listens."""
        self.process.kill()
        self.process.wait()
        self.socket.unlink(missing_ok=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        wait_until(self._is_stopped)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def _is_stopped(self) -> bool:
        states = [path.read_text().rpartition(")")[2].split()[0] for path in self._tasks.glob("*/stat")]
        return set(states) == {"T"}

    @property
    def _tasks(self) -> Path:
        return Path("/proc", str(self.process.pid), "task")

    def empty(self) -> None:
        """Everything in it is gone."""
        words = (b"FLUSHALL", b"+OK") if self.kind == "redis" else (b"flush_all", b"OK")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket))
            client.sendall(words[0] + b"\r\n")
            assert client.recv(100).startswith(words[1])

    def remove(self) -> None:
        """At the end."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """Where it is, in the words of its client."""
        return f"unix://{self.socket}" if self.kind == "redis" else f"unix:{self.socket}"


@functools.cache
def shared_server(kind: str) -> CacheServer:
    """One for all the tests that only empty it."""
    server = CacheServer(kind)
    AT_END.callback(server.remove)
    return server


@contextlib.contextmanager
def own_server(kind: str) -> Iterator[CacheServer]:
    """One for a test that stops it."""
    server = CacheServer(kind)
    try:
        yield server
    finally:
        server.remove()


def make_memory_region() -> CacheRegion:
    """A region in this process."""
    return make_region().configure("dogpile.cache.memory")


@contextlib.contextmanager
def region_at(kind: str, url: str) -> Iterator[CacheRegion]:
    """A region on the server at this URL, as docs/caching.md shows it. Its connections are closed at the end."""
    if kind == "redis":
        region = make_region().configure("dogpile.cache.redis", arguments={"url": url})
    else:
        region = make_region().configure("dogpile.cache.pymemcache", arguments={"url": [url], "serde": None})
    try:
        yield region
    finally:
        close_region(region)


def region_of(server: CacheServer) -> contextlib.AbstractContextManager[CacheRegion]:
    """The same on this server."""
    return region_at(server.kind, server.url)


@contextlib.contextmanager
def empty_region(kind: str) -> Iterator[CacheRegion]:
    """A region with nothing in it: "redis", "memcached" or "memory"."""
    if kind == "memory":
        yield make_memory_region()
        return
    server = shared_server(kind)
    server.empty()
    with region_of(server) as region:
        yield region


@contextlib.contextmanager
def cluster_region() -> Iterator[CacheRegion]:
    """A region on a Redis cluster of one node, which has all slots and takes no keys of several at once."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="backjob-"))
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        port, bus = [str(each.getsockname()[1]) for each in found]
        for each in found:
            each.close()
        command = [needs.program("redis-server"), "--port", port, "--cluster-port", bus, "--bind", "127.0.0.1"]
        command += ["--cluster-enabled", "yes", "--save", ""]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)

        def ask(words: bytes, answer: bytes) -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port))) as client:
                client.sendall(words + b"\r\n")
                return answer in client.recv(1000)
            return False

        wait_until(lambda: ask(b"CLUSTER ADDSLOTSRANGE 0 16383", b"+OK"))
        wait_until(lambda: ask(b"CLUSTER INFO", b"cluster_state:ok"))
        url = f"redis://127.0.0.1:{port}/0"
        region = make_region().configure("dogpile.cache.redis_cluster", arguments={"url": url})
        yield region
        for node in region.actual_backend.writer_client.get_nodes():
            node.redis_connection.connection_pool.disconnect()  # its close() leaves them open
        close_region(region)


@contextlib.contextmanager
def client_region(name: str, server: CacheServer) -> Iterator[CacheRegion]:
    """A region of dogpile's own backend with this client, which unpickles, unless it is told not to."""
    arguments: dict[str, Any] = {"url": [server.url if name.startswith("pymemcache") else str(server.socket)]}
    if name == "redis":
        arguments["url"] = server.url
    if name == "pylibmc":
        arguments["behaviors"] = {"cas": True}
    if name == "pymemcache with retries":
        arguments.update(enable_retry_client=True, retry_attempts=2)
    region = make_region().configure(f"dogpile.cache.{name.partition(' ')[0]}", arguments=arguments)
    yield region
    close_region(region)


def close_region(region: Any) -> None:
    """What an application does at its end with a region of its own."""
    backend = region.actual_backend
    if hasattr(backend, "writer_client"):
        backend.writer_client.close()
    elif hasattr(type(backend), "client"):
        backend.client.disconnect_all()


@contextlib.contextmanager
def opened(region: CacheRegion, seconds: float = PATIENT) -> Iterator[CacheEntries]:
    """The cells of a region, whose threads have ended at the end."""
    cells = open_entries(region, seconds)
    try:
        yield cells
    finally:
        cells.dispose()


def open_cache_store(kind: str) -> Callable[[Path, Clock], contextlib.AbstractContextManager[CacheStore]]:
    """How to open an empty CacheStore: on "redis", "memcached" or "memory"."""

    @contextlib.contextmanager
    def open_store(folder: Path, clock: Clock) -> Iterator[CacheStore]:
        with contextlib.ExitStack() as stack:
            cells = stack.enter_context(opened(stack.enter_context(empty_region(kind))))
            yield CacheStore(cells, f"{folder.name}-", now=clock)

    return open_store


def open_cached_store(kind: str) -> Callable[[Path, Clock], contextlib.AbstractContextManager[CachedStore]]:
    """How to open a store on SQLite with an empty cache in front: "redis", "memcached" or "memory"."""

    @contextlib.contextmanager
    def open_store(folder: Path, clock: Clock) -> Iterator[CachedStore]:
        with contextlib.ExitStack() as stack:
            cells = stack.enter_context(opened(stack.enter_context(empty_region(kind))))
            database = Database(f"sqlite:///{folder / 'jobs.sqlite3'}", find_table(TABLE), True)
            stack.callback(database.dispose)
            yield CachedStore(database, cells, Keyring(["a key for the entries in a cache" * 2]), "backjob-", clock)

    return open_store
