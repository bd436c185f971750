"""Single keys of a dogpile.cache region, read and changed by compare-and-set. Every call has a time-out.

Values are bytes and go to the backend as they are: no pickle is made or read here. Knows nothing of jobs. Regions are
recognized by their attributes, because dogpile.cache may not be installed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from backjob.errors import Refused, StoreError, describe
from backjob.runtime.backoff import random_between
from backjob.runtime.call_timeout import BoundedCalls
from backjob.runtime.forks import call_in_child

from .backends import is_memcached, is_redis
from .memcached_clients import make_client

Change = Callable[[bytes | None], bytes | None]
"""Function of an entry's value (None: missing) that returns the new one, or None to keep it. Called once per try."""
Result = TypeVar("Result")

_TRIES = 200
_TAG = 8
_LARGE = 64 * 1024
"""Size in bytes from which a value may be too large."""
_LONGEST_RELATIVE = 30 * 86400
"""Longest expiry in seconds. memcached reads a larger number as a time since 1970."""
_LAST_TIME = 2**31 - 1
"""Latest time that memcached knows. A value that would expire later never expires."""


def open_entries(region: Any, seconds: float) -> CacheEntries:
    """Return the entries of this region. ``seconds``: time-out of a call. Connects nothing."""
    backend = region.actual_backend
    if is_redis(backend):
        return RedisEntries(region, seconds)
    if is_memcached(backend):
        return MemcachedEntries(region, seconds)
    return CacheEntries(region, seconds)


class _ProcessLock:
    """Lock of this process. A forked child gets a new one, because the parent may hold its own."""

    def __init__(self) -> None:
        self._make()
        call_in_child(self._make)

    def _make(self) -> None:
        self.lock = threading.Lock()


_HERE = _ProcessLock()


class CacheEntries:
    """Entries of a backend that only this process changes, under a lock of the process.

    Each method raises StoreError if the cache can't be used or does not answer in time.
    """

    is_shared = False
    """True if processes share the entries and change them by compare-and-set."""
    can_expire = False
    """True if the backend can drop a value after a given time."""

    def __init__(self, region: Any, seconds: float) -> None:
        self.backend_name = type(region.actual_backend).__name__
        self.is_file = hasattr(region.actual_backend, "filename")
        self._region = region
        self._seconds = seconds
        self._calls = BoundedCalls("backjob-cache", self._disconnect)

    def read(self, key: str) -> bytes | None:
        """Return the value of a key, or None if it is missing."""
        return self._ask(lambda: self._read(self._mangle(key)))

    def read_many(self, keys: Iterable[str]) -> list[bytes | None]:
        """Return the value of each key, None for a missing one."""
        mangled = [self._mangle(key) for key in keys]
        return self._ask(lambda: self._read_many(mangled)) if mangled else []

    def change(self, key: str, change: Change, expire: float = 0) -> None:
        """Replace the value of a key by the result of ``change``, atomically. Raises Refused for a too large value.

        ``expire``: seconds after which the backend may drop the value, if it can; 0: never. ``change`` is called in
        another thread, again for each value found. A change that times out may still be made, but not over a value
        that was set since.
        """
        end, size = time.monotonic() + self._seconds, 0

        def change_and_measure(old: bytes | None) -> bytes | None:
            nonlocal size
            new = change(old)
            size = len(new or b"")
            return new

        try:
            self._ask(lambda: self._change(self._mangle(key), change_and_measure, int(expire), end))
        except StoreError as error:
            if size < _LARGE or time.monotonic() >= end or not self._keeps_small(f"{key}-small"):
                raise
            raise Refused(f"The cache stores no value of {size} bytes: {error}") from None

    def _keeps_small(self, key: str) -> bool:
        """Return whether the cache stores small values."""
        end = time.monotonic() + self._seconds
        try:
            self._ask(lambda: self._change(self._mangle(key), lambda old: b"small", int(_LONGEST_RELATIVE), end))
            self.delete(key)
        except StoreError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Delete a key."""
        self._ask(lambda: self._delete(self._mangle(key)))

    def dispose(self) -> None:
        """Close the connections of our own threads. A later call opens new ones."""
        self._calls.dispose()

    def _mangle(self, key: str) -> str:
        mangle = self._region.key_mangler
        return mangle(key) if mangle else key

    def _ask(self, call: Callable[[], Result]) -> Result:
        try:
            return self._calls.call(call, self._seconds)
        except StoreError:
            raise
        except TimeoutError:
            raise StoreError(f"The cache does not answer within {self._seconds:g} s") from None
        except Exception as error:  # noqa: BLE001 - each client has exceptions of its own, and may not be installed
            raise StoreError(f"The cache can't be used: {describe(error)[:200]}") from None

    def _read(self, key: str) -> bytes | None:
        return _as_bytes(self._region.backend.get_serialized(key))

    def _read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [_as_bytes(value) for value in self._region.backend.get_serialized_multi(keys)]

    def _change(self, key: str, change: Change, expire: int, end: float) -> None:
        with _HERE.lock:
            new = change(self._read(key))
            if new is None:
                return
            self._region.backend.set_serialized(key, new)
            if self._read(key) != new:
                raise StoreError(f"The cache did not store the value ({self.backend_name})")

    def _delete(self, key: str) -> None:
        self._region.backend.delete(key)

    def _disconnect(self) -> None:
        """Close the connections of this thread, which ends."""


class _SharedEntries(CacheEntries):
    """Entries of a server, changed by its compare-and-set. A lock there could time out while its holder still writes.

    Each value begins with a random tag, so that no two writers ever set the same bytes.
    """

    is_shared = True
    can_expire = True

    def _read(self, key: str) -> bytes | None:
        return _untag(self._get(key)[0])

    def _change(self, key: str, change: Change, expire: int, end: float) -> None:
        tried = None
        for turn in range(_TRIES):
            old, token = self._get(key)
            if tried is not None and old == tried:
                return  # it was set, and only the response lost
            new = change(_untag(old))
            if new is None:
                return
            tried = os.urandom(_TAG) + new
            if time.monotonic() >= end:
                raise TimeoutError  # the caller has given up
            if self._set(key, tried, token, expire):
                return
            if turn > 1:
                time.sleep(random_between(0, 0.001) * min(turn, 20))  # spreads competing writers
        raise StoreError("The cache accepts no change: other writers are quicker, or its client hides an outage")

    def _get(self, key: str) -> tuple[bytes | None, Any]:
        """Return the value with its tag, and a token for _set()."""
        raise NotImplementedError

    def _set(self, key: str, new: bytes, token: Any, expire: int) -> bool:
        """Set the value if it is still that of the token (None: if it is missing)."""
        raise NotImplementedError


class RedisEntries(_SharedEntries):
    """Entries of Redis and Valkey. Reads go to the primary, because replicas lag."""

    _SET_IF_SAME = """
    local old = redis.pcall('get', KEYS[1])
    if type(old) == 'table' then old = '' end
    if old ~= ARGV[1] then return 0 end
    if ARGV[3] == '0' then redis.call('set', KEYS[1], ARGV[2])
    else redis.call('set', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
    return 1
    """

    def _read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        client = self._client
        mget = getattr(client, "mget_nonatomic", client.mget)  # a cluster's keys are not all on one server
        return [_untag(_as_bytes(value)) for value in mget(keys)]

    def _get(self, key: str) -> tuple[bytes | None, Any]:
        try:
            value = _as_bytes(self._client.get(key))
        except Exception as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            return None, b""  # a list or the like: counts as missing, and may be overwritten
        return value, value

    def _set(self, key: str, new: bytes, token: Any, expire: int) -> bool:
        if token is None:
            return bool(self._client.set(key, new, nx=True, ex=expire or None))
        return bool(self._client.eval(self._SET_IF_SAME, 1, key, token, new, expire))

    @property
    def _client(self) -> Any:
        return self._region.actual_backend.writer_client


class MemcachedEntries(_SharedEntries):
    """Entries of memcached. Each of our threads has its own client, and a forked child starts new threads."""

    def __init__(self, region: Any, seconds: float) -> None:
        super().__init__(region, seconds)
        self._clients = threading.local()

    def _read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        values = self._client.get_multi(keys)
        return [_untag(_as_bytes(values.get(key))) for key in keys]

    def _get(self, key: str) -> tuple[bytes | None, Any]:
        answer = self._client.gets(key)
        if not isinstance(answer, tuple):
            raise StoreError(f"The cache has no compare-and-set ({self.backend_name}): use dogpile.cache.pymemcache")
        value, token = answer
        return _as_bytes(value), token

    def _set(self, key: str, new: bytes, token: Any, expire: int) -> bool:
        until = expire if expire <= _LONGEST_RELATIVE else int(time.time()) + expire
        until = until if until <= _LAST_TIME else 0
        if token is None:
            return bool(self._client.add(key, new, until))
        return bool(self._client.cas(key, new, token, until))

    def _delete(self, key: str) -> None:
        self._client.delete(key)

    def _disconnect(self) -> None:
        self._client.disconnect_all()

    @property
    def _client(self) -> Any:
        if not hasattr(self._clients, "client"):
            self._clients.client = make_client(self._region.actual_backend, self._seconds)
        return self._clients.client


def _as_bytes(value: Any) -> bytes | None:
    """Return the value if it is bytes, else None: it is missing, or backjob did not write it."""
    return value if isinstance(value, bytes) else None


def _untag(value: bytes | None) -> bytes | None:
    return value[_TAG:] if value is not None else None
