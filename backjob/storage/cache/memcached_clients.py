"""Clients of memcached that return bytes as they are stored: pickles stay unread.

Anyone who can write to memcached chooses the flags of a value, and each client unpickles values with certain flags. So
backjob uses clients of its own, set up here from the arguments of a dogpile.cache backend. Knows nothing of keys and
values. The clients are imported by dogpile.cache, and need not be installed.
"""

from __future__ import annotations

import functools
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from backjob.errors import ConfigError

_BYTES = 0
"""Flags of bytes in pymemcache and pylibmc."""
_BMEMCACHED_BYTES = 16
"""Flag of bytes in bmemcached. A second flag marks compressed bytes."""
_MOST_BYTES = 64 * 2**20
"""Most bytes to which a compressed value is expanded."""
_OTHER = ""
"""Result for all other values. None would mean a missing key, which could not be overwritten."""


def check_client(backend: Any) -> None:
    """Raise ConfigError if the client of this memcached backend can't be kept from unpickling."""
    if _find_maker(backend) is None:
        raise _refuse(backend)


def make_client(backend: Any, seconds: float) -> Any:
    """Return a new client for this backend, for the calling thread alone. ``seconds``: time-out, if it needs one.

    Connects nothing. Raises ConfigError as check_client() does.
    """
    maker = _find_maker(backend)
    if maker is None:
        raise _refuse(backend)
    return maker(backend, seconds)


def _refuse(backend: Any) -> ConfigError:
    return ConfigError(
        f"cache uses {type(backend).__name__}, whose client may unpickle what anyone with access to the cache has "
        "written: use dogpile.cache.pymemcache, dogpile.cache.pylibmc, dogpile.cache.bmemcached or Redis, without a "
        "subclass that makes a client of its own"
    )


def _find_maker(backend: Any) -> Callable[[Any, float], Any] | None:
    """Return the function for dogpile's own backends and subclasses that keep its client; None for all others."""
    for base in type(backend).__mro__:
        if "_create_client" in vars(base):
            return _MAKERS.get(base.__name__) if base.__module__ == "dogpile.cache.backends.memcached" else None
    return None


class _BytesOnly:
    """Serde for pymemcache."""

    def serialize(self, key: Any, value: bytes) -> tuple[bytes, int]:
        return value, _BYTES

    def deserialize(self, key: Any, value: bytes, flags: int) -> bytes | str:
        return value if flags == _BYTES else _OTHER


def _make_pymemcache(backend: Any, seconds: float) -> Any:
    """Return its HashClient, which connects anew with each call after a failure, and reports the failure.

    dogpile gives it no time-out. With retries of its own it would report every key as missing for a second.
    """
    client = backend._create_client()  # noqa: SLF001
    client = vars(client).get("_client", client)  # RetryingClient, with enable_retry_client
    client.retry_attempts, client.dead_timeout = 0, 0
    client.default_kwargs.update(serde=_BytesOnly(), connect_timeout=seconds, timeout=seconds)
    for each in client.clients.values():
        each.serde = client.default_kwargs["serde"]
        each.connect_timeout = each.timeout = seconds
    return client


def _make_pylibmc(backend: Any, seconds: float) -> Any:
    """Return a client of a subclass: pylibmc looks for deserialize() at construction, and calls it after zlib.

    pylibmc fails for a value that is flagged as compressed and is not, and gives no token for compare-and-set. Such a
    value is deleted before the key is set. Only a writer to the cache makes one, and could delete it as well.
    """
    pylibmc = sys.modules["pylibmc"]

    class BytesOnly(pylibmc.Client):  # type: ignore[misc, name-defined]
        def deserialize(self, value: bytes, flags: int) -> bytes | str:
            return value if flags == _BYTES else _OTHER

        def gets(self, key: str) -> Any:
            return self._read(super().gets, key, (_OTHER, _OTHER))

        def get_multi(self, keys: Sequence[str]) -> Any:
            values = self._read(super().get_multi, keys, None)
            return values if values is not None else {key: self._read(self.get, key, _OTHER) for key in keys}

        def cas(self, key: str, value: bytes, token: Any, until: int) -> Any:
            if token != _OTHER:
                return super().cas(key, value, token, until)
            self.delete(key)
            return self.add(key, value, until)

        def _read(self, read: Callable[[Any], Any], what: Any, other: Any) -> Any:
            try:
                return read(what)
            except pylibmc.Error as error:
                if "decompress" not in str(error):
                    raise
                return other

    return BytesOnly(backend.url, binary=backend.binary, behaviors=backend.behaviors)


class _BoundedZlib:
    """The compression module of bmemcached, bounded: a small compressed value can't fill the memory."""

    compress = staticmethod(zlib.compress)

    @staticmethod
    def decompress(value: bytes) -> bytes:
        return zlib.decompressobj().decompress(value, _MOST_BYTES)


def _make_bmemcached(backend: Any, seconds: float) -> Any:
    """Return a client that raises nothing while it reads a value: the next call would read the rest of it."""
    client = backend._create_client()  # noqa: SLF001
    client.compression = _BoundedZlib
    client.set_servers(backend.url)  # hands it to each connection
    for server in client.servers:
        server.deserialize = functools.partial(_read_bmemcached, server.deserialize)
    return client


def _read_bmemcached(read: Callable[[bytes, int], Any], value: bytes, flags: int) -> Any:
    try:
        return read(value, flags) if flags & _BMEMCACHED_BYTES else _OTHER
    except zlib.error:
        return _OTHER


_MAKERS = {
    "PyMemcacheBackend": _make_pymemcache,
    "PylibmcBackend": _make_pylibmc,
    "BMemcachedBackend": _make_bmemcached,
}
