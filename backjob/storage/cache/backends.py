"""Check of a dogpile.cache region. Only backends that are known to return the stored bytes are accepted.

Many other backends unpickle what they read. Knows nothing of keys and values. Backends are recognized by the modules of
their classes, because dogpile.cache may not be installed.
"""

from __future__ import annotations

from typing import Any

from backjob.errors import ConfigError

from .memcached_clients import check_client

_REGION = ("get", "set", "delete", "configure")
_READS = ("get", "get_multi", "get_serialized", "get_serialized_multi")
_BACKENDS = "dogpile.cache.backends."


def check_region(region: Any, is_alone: bool) -> None:
    """Raise ConfigError unless this is a dogpile.cache region that can be used. ``is_alone``: without a database."""
    if not all(callable(getattr(region, name, None)) for name in _REGION) or not hasattr(region, "is_configured"):
        raise ConfigError("cache must be a dogpile.cache region: make_region().configure(…)")
    if not region.is_configured:
        raise ConfigError("cache is a region that is not configured: call its configure() before BackJob()")
    backend = region.actual_backend
    if getattr(backend, "default_noreply", False):
        raise ConfigError(
            "cache must not have default_noreply=True: memcached then does not report a value that it refuses"
        )
    if is_alone and type(backend).__name__ == "NullBackend":
        raise ConfigError("cache is a region that keeps nothing (NullBackend): it needs a database")
    if is_memcached(backend):
        check_client(backend)
    elif not is_redis(backend) and not _reads_bytes(backend):
        raise ConfigError(
            f"cache uses {type(backend).__name__}, a backend that may unpickle what anyone with access to the cache "
            "has written: use dogpile.cache.pymemcache, pylibmc, bmemcached, redis, valkey, memory or dbm, without a "
            "subclass that reads values in its own way"
        )


def is_redis(backend: Any) -> bool:
    """Return whether this is dogpile's backend for Redis or Valkey, or a subclass. Their clients return bytes."""
    return _is_from(backend, "redis", "valkey")


def is_memcached(backend: Any) -> bool:
    """Return whether this is one of dogpile's backends for memcached, or a subclass."""
    return _is_from(backend, "memcached")


def _reads_bytes(backend: Any) -> bool:
    """Return whether this is another of dogpile's backends, without a subclass that reads values itself."""
    readers = {next((base for base in type(backend).__mro__ if name in vars(base)), object) for name in _READS}
    return _is_from(backend, "memory", "file", "null") and all(
        base.__module__.startswith("dogpile.cache.") for base in readers
    )


def _is_from(backend: Any, *modules: str) -> bool:
    return any(base.__module__ in {f"{_BACKENDS}{each}" for each in modules} for base in type(backend).__mro__)
