"""A deployment after a blueprint: its hosts, and the database, cache and relay around them, each of which can fail."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError
from support.places import Place, make_place
from support.relay import Relay
from support.services import OwnServices, database_on

from chaos.blueprint import LEASE, Blueprint
from chaos.host import Freeze, Host
from chaos.kinds import Kind

KEY = "a key for chaos, and for nothing but chaos"
ERROR_TIMEOUT = 20
"""Longer than any fault lasts: a job that gives signs never meets it."""
FINAL_FROM = 2
"""From this number on a status is final."""


@dataclass
class Deployment:
    """What faults and load work on."""

    blueprint: Blueprint
    folder: Path
    services: OwnServices
    hosts: list[Host]
    engine: Engine
    gate: Gate | None = None
    start_job: Callable[[Kind, random.Random], int | None] | None = None
    """How a fault has a client start a job of its own, as long as there are clients."""
    struck_around: int = 0
    """How many runs of jobs were at work when something around the servers was broken."""

    @property
    def kills(self) -> int:
        """How many processes of the app were killed."""
        return sum(len(host.killed) for host in self.hosts)

    @property
    def struck(self) -> int:
        """How many runs of jobs were at work in what was broken."""
        return self.struck_around + sum(host.struck for host in self.hosts)

    @property
    def freezes(self) -> list[Freeze]:
        return [freeze for host in self.hosts for freeze in host.freezes]

    def list_workers(self) -> list[int]:
        """The processes that run the app just now."""
        return [pid for host in self.hosts for pid in host.workers()]

    @property
    def sqlite_file(self) -> Path:
        return self.folder / "backjob.sqlite3"

    def read_statuses(self) -> dict[int, int]:
        """The number of each job's status, as it stands in the database. Asks no server: that might help the jobs."""
        with self.engine.connect() as connection:
            rows = connection.execute(text("SELECT id, status FROM background_job"))
            return {row.id: row.status for row in rows}

    def count_live(self) -> int:
        """How many jobs are not final; 0 where the database can't tell."""
        with contextlib.suppress(DBAPIError):
            return sum(status < FINAL_FROM for status in self.read_statuses().values())
        return 0

    def wait_for_the_end(self, seconds: float) -> bool:
        """Wait until no job is live, or for so many seconds. False when some still are."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(DBAPIError):
                if all(status >= FINAL_FROM for status in self.read_statuses().values()):
                    return True
            time.sleep(0.2)
        return False


class Gate:
    """The relay that ``connect=`` names. While it is closed, who connects is refused."""

    def __init__(self) -> None:
        self._place: Place = make_place()
        self.port = int(self._place.address[1])
        self._stack = contextlib.ExitStack()

    def open(self, port: int) -> None:
        """Lead to this port of the loopback."""
        self._stack.enter_context(Relay(port, self.port))

    def close(self) -> None:
        """Whoever is connected is cut off."""
        self._stack.close()

    def remove(self) -> None:
        """At the end."""
        self.close()
        self._place.socket.close()


@contextlib.contextmanager
def deploy(blueprint: Blueprint, folder: Path, services: OwnServices) -> Iterator[Deployment]:
    """Build it, with an empty database, and take it down in the end."""
    with contextlib.ExitStack() as stack:
        url = f"sqlite:///{folder / 'backjob.sqlite3'}"
        if blueprint.database != "sqlite":
            server = create_engine(services.start(blueprint.database)).url
            url = stack.enter_context(database_on(server)).render_as_string(hide_password=False)
            stack.callback(services.start, blueprint.database)  # where a fault has left it down it can't be dropped
        options: dict[str, Any] = {"database": url, "key": KEY, "lease": LEASE, "error_timeout": ERROR_TIMEOUT}
        environ = {"CHAOS_CACHE": services.start("redis")} if blueprint.has_cache else {}
        gate = Gate() if blueprint.has_relay else None
        if gate:
            stack.callback(gate.remove)
            options["connect"] = f"http://127.0.0.1:{gate.port}"
        environ["CHAOS_OPTIONS"] = json.dumps(options)
        hosts = [Host(blueprint, folder, clock, environ) for clock in blueprint.clocks]
        for host in hosts:
            stack.callback(host.remove)
        for host in hosts:
            host.start()
        if gate:
            gate.open(hosts[0].port)
        yield Deployment(blueprint, folder, services, hosts, create_engine(url, poolclass=NullPool), gate)
