"""What a deployment consists of: the server, the database, and what stands between and in front of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

LEASE = 3.0
"""Short, so that a run is."""
SYNC_TIMEOUT = 6
"""gunicorn's --timeout for sync workers."""
_GUNICORN = {
    "sync": ("--workers", "4", "--timeout", str(SYNC_TIMEOUT)),
    "gthread": ("--workers", "2", "--threads", "6"),
    "gevent": ("--workers", "2"),
}
SERVERS = (*_GUNICORN, "waitress")
DATABASES = ("sqlite", "postgresql", "mariadb")
_THREADS = 8


@dataclass(frozen=True)
class Blueprint:
    """One set-up. The servers are gunicorn's with workers of a class, and waitress."""

    server: str
    database: str
    recycle: int = 0
    """gunicorn's --max-requests; 0 is never."""
    has_cache: bool = False
    """Is a Redis in front of the database?"""
    has_relay: bool = False
    """Does connect= name a relay in front of the server, which can be closed?"""
    clocks: tuple[int, ...] = (0,)
    """For each host, by how many seconds its time of day is off."""

    @property
    def name(self) -> str:
        additions = {"redis": self.has_cache, "relay": self.has_relay, "clocks": len(self.clocks) > 1}
        return "-".join([self.server, self.database, *(name for name, is_there in additions.items() if is_there)])

    @property
    def is_gunicorn(self) -> bool:
        return self.server in _GUNICORN

    @property
    def product(self) -> str:
        """The server's name in full."""
        return f"gunicorn {self.server}" if self.is_gunicorn else self.server

    def list_arguments(self, port: int) -> list[str]:
        """What a Python is to be called with to serve the app there."""
        app = "chaos.app:application"
        if not self.is_gunicorn:
            return ["-m", "waitress", f"--listen=127.0.0.1:{port}", f"--threads={_THREADS}", app]
        options = ["--bind", f"127.0.0.1:{port}", "--graceful-timeout", "2", "--no-control-socket"]
        options += ["--worker-class", self.server, *_GUNICORN[self.server]]
        if self.recycle:
            options += ["--max-requests", str(self.recycle), "--max-requests-jitter", str(self.recycle // 4)]
        return ["-m", "gunicorn", *options, app]


def _list_blueprints() -> list[Blueprint]:
    """All servers with all databases, each server behind a relay with a Redis, and hosts whose clocks differ."""
    plain = [Blueprint(server, database, recycle=80) for server in SERVERS for database in DATABASES]
    fronted = zip(SERVERS, ("postgresql", "sqlite", "mariadb", "postgresql"), strict=True)
    dressed = [Blueprint(*names, recycle=80, has_cache=True, has_relay=True) for names in fronted]
    apart = [replace(each, clocks=(150, -150)) for each in plain if each.name in _WITH_CLOCKS]
    return [*plain, *dressed, *apart]


_WITH_CLOCKS = ("gthread-postgresql", "gevent-postgresql")
BLUEPRINTS = {each.name: each for each in _list_blueprints()}
"""What ``make chaos`` goes through."""
