"""Pickles that were put into memcached: none of its clients reads one for backjob."""

from __future__ import annotations

import contextlib
import pickle
import socket
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dogpile.cache import CacheRegion, make_region, register_backend
from dogpile.cache.backends.memcached import PyMemcacheBackend
from support.caches import close_region, opened, shared_server

from backjob import BackJob, ConfigError
from backjob.cells import check_region
from backjob.errors import StoreError

KEY = "a-key-for-tests-and-for-nothing-but-tests"
MEMCACHED = ("pymemcache", "pymemcache with retries", "pylibmc", "bmemcached")
PICKLE = 1
"""The flags of a pickle, in each of them."""


class Canary:
    """A pickle of it makes the file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@contextlib.contextmanager
def memcached_region(name: str, path: Path) -> Iterator[CacheRegion]:
    """A region whose client unpickles, unless it is told not to."""
    arguments: dict[str, Any] = {"url": [f"unix:{path}" if name.startswith("pymemcache") else str(path)]}
    if name == "pylibmc":
        arguments["behaviors"] = {"cas": True}
    if name == "pymemcache with retries":
        arguments.update(enable_retry_client=True, retry_attempts=2)
    region = make_region().configure(f"dogpile.cache.{name.partition(' ')[0]}", arguments=arguments)
    yield region
    close_region(region)


@pytest.mark.parametrize("name", MEMCACHED)
def test_a_pickle_in_memcached_is_not_read(name: str, tmp_path: Path) -> None:
    """The flags of a value are chosen by whoever writes it, and tell each client how to read it."""
    server, prefix = shared_server("memcached"), name.replace(" ", "-")
    path, pickled = tmp_path / "canary", {}
    for protocol in (0, pickle.HIGHEST_PROTOCOL):
        plain = pickle.dumps(Canary(path), protocol)
        for flags in (*range(10), 17, 32):
            pickled[f"{prefix}-{protocol}-{flags}"] = (flags, plain)
            pickled[f"{prefix}-{protocol}-{flags}-compressed"] = (flags, zlib.compress(plain))
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as answers:
        client.connect(str(server.socket))
        for key, (flags, value) in pickled.items():
            client.sendall(f"set {key} {flags} 0 {len(value)}\r\n".encode() + value + b"\r\n")
            assert answers.readline() == b"STORED\r\n"
    with memcached_region(name, server.socket) as region, opened(region) as cells:
        check_region(region, is_alone=True)
        for key in pickled:
            with contextlib.suppress(StoreError):  # a value that is no number, or that can't be decompressed
                cells.read(key)
            with contextlib.suppress(StoreError):
                cells.read_many([key])
        assert not path.exists()
    if name == "pylibmc" and sys.flags.dev_mode:
        return  # with the debug allocator its gets() reports some keys as missing
    key, own = f"{prefix}-0-{PICKLE}", f"{prefix}-own"
    with memcached_region(name, server.socket) as region, opened(region) as cells:
        cells.change(key, lambda old: b"mine" if old is None else None)
        cells.change(own, lambda _: b"\0\xff" * 100)
        assert cells.read_many([own, "nothing", key]) == [b"\0\xff" * 100, None, b"mine"]
    assert not path.exists()


class OwnClient(PyMemcacheBackend):  # type: ignore[misc]
    """A backend that sets up the client itself."""

    def _create_client(self) -> Any:
        return super()._create_client()


def test_a_client_that_can_not_be_told_not_to_unpickle() -> None:
    register_backend("own_client", __name__, "OwnClient")
    for kind in ("dogpile.cache.memcached", "own_client"):
        region = make_region().configure(kind, arguments={"url": ["127.0.0.1"]})
        with pytest.raises(ConfigError, match=r"may unpickle .* use dogpile\.cache\.pymemcache"):
            BackJob(lambda environ, start_response: [], cache=region, key=KEY, database="sqlite:///x.sqlite3")
