"""A deployment after a blueprint: its hosts, and the database, cache and relay around them, each of which can fail."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, NullPool, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError
from support.places import Place, make_place
from support.relay import Relay
from support.services import OwnServices, database_on

import backjob
from backjob.model.job import RECORD_VERSION
from chaos.blueprint import LEASE, Blueprint
from chaos.host import RELEASE, Freeze, Host
from chaos.kinds import Kind

T = TypeVar("T")

KEY = "a key for chaos, and for nothing but chaos"
ERROR_TIMEOUT = 20
"""Longer than any fault lasts: a job that gives signs never meets it."""
_KEYS = "keys.json"
_LONGEST_STATEMENT = 30.0
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
    version: int = RECORD_VERSION
    """That of the records which the newest processes write."""
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

    def read_keys(self) -> list[str]:
        """The keys that a process has which begins now, newest first."""
        keys: list[str] = json.loads((self.folder / _KEYS).read_text())
        return keys

    def write_keys(self, keys: list[str]) -> None:
        """The keys of processes that begin from now on."""
        _write_keys(self.folder, keys)

    def release(self, version: int) -> None:
        """Install a release whose records have this version, for processes that begin from now on."""
        _install(self.folder, version)
        self.version = version

    def read_versions(self) -> set[int]:
        """Return the versions of the records of all jobs, or nothing while the database is away."""
        with contextlib.suppress(DBAPIError), self.engine.connect() as connection:
            return set(connection.execute(text("SELECT record_version FROM background_job")).scalars())
        return set()

    def renew_processes(self) -> None:
        """Replace the processes of all hosts, one host after the other, as a deployment does that goes on serving."""
        for host in self.hosts:
            if self.blueprint.is_gunicorn:
                host.reload()
            else:
                host.stop()
                host.start()

    @property
    def sqlite_file(self) -> Path:
        return self.folder / "backjob.sqlite3"

    def read_statuses(self) -> dict[int, int]:
        """The number of each job's status, as it stands in the database. Asks no server: that might help the jobs."""
        with self.engine.connect() as connection:
            rows = connection.execute(text("SELECT id, status FROM background_job"))
            return {row.id: row.status for row in rows}

    def list_ended(self) -> list[int]:
        """Return the jobs that have completed, or none while the database is away."""
        with contextlib.suppress(DBAPIError):
            return [job for job, status in self.read_statuses().items() if status == FINAL_FROM]
        return []

    @contextlib.contextmanager
    def referencing_old_jobs(self) -> Iterator[None]:
        """In the block there are old jobs to be pruned, and rows of the app refer to them."""
        columns = self._try_again(lambda: inspect(self.engine).get_columns("background_job"))
        copied = {each["name"]: each["name"] for each in columns if each["name"] != "id"}
        copied |= {"uid": "CONCAT('old-', id)", "ended_at": "'2001-02-03 04:05:06'"}
        names, values = ", ".join(copied), ", ".join(copied.values())
        ended = f"FROM background_job WHERE status = {FINAL_FROM} ORDER BY id LIMIT 20"
        self.execute(f"INSERT INTO background_job ({names}) SELECT {values} {ended}")
        self.execute("CREATE TABLE IF NOT EXISTS bill (job BIGINT NOT NULL REFERENCES background_job (id))")
        self.execute("INSERT INTO bill (job) SELECT id FROM background_job WHERE uid LIKE 'old-%'")
        try:
            yield
        finally:
            self.execute("DROP TABLE IF EXISTS bill")
            self.execute("DELETE FROM background_job WHERE uid LIKE 'old-%'")

    @contextlib.contextmanager
    def refusing(self, word: str) -> Iterator[None]:
        """In the block the database refuses each text that has this word in it."""
        if self.blueprint.database == "sqlite":
            condition = f"WHEN NEW.status_text LIKE '%{word}%' BEGIN SELECT RAISE(ABORT, 'refused on purpose'); END"
            self.execute(f"CREATE TRIGGER refusal BEFORE UPDATE ON background_job {condition}")
            undo = "DROP TRIGGER refusal"
        else:
            check = f"CHECK (status_text NOT LIKE '%{word}%')"
            not_valid = " NOT VALID" if self.blueprint.database == "postgresql" else ""
            self.execute(f"ALTER TABLE background_job ADD CONSTRAINT refusal {check}{not_valid}")
            undo = "ALTER TABLE background_job DROP CONSTRAINT refusal"
        try:
            yield
        finally:
            self.execute(undo)

    def execute(self, statement: str) -> None:
        """Run a statement of the test's own, again while others lock what it needs or the database is away."""

        def run() -> None:
            with self.engine.begin() as connection:
                connection.execute(text(statement))

        self._try_again(run)

    def _try_again(self, work: Callable[[], T]) -> T:
        deadline = time.monotonic() + _LONGEST_STATEMENT
        while True:
            try:
                return work()
            except DBAPIError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

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


def _write_keys(folder: Path, keys: list[str]) -> None:
    (folder / f"{_KEYS}.new").write_text(json.dumps(keys))
    (folder / f"{_KEYS}.new").replace(folder / _KEYS)


def _install(folder: Path, version: int) -> None:
    release = folder / f"release-{version}"
    if not release.exists():
        package = Path(backjob.__file__).parent
        shutil.copytree(package, release / "backjob", ignore=shutil.ignore_patterns("__pycache__"))
        job = release / "backjob" / "model" / "job.py"
        job.write_text(re.sub(r"(?m)^RECORD_VERSION = \d+$", f"RECORD_VERSION = {version}", job.read_text()))
    link = folder / f"{RELEASE}.new"
    link.symlink_to(release)
    link.replace(folder / RELEASE)


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
        options: dict[str, Any] = {"database": url, "lease": LEASE, "error_timeout": ERROR_TIMEOUT}
        environ = {"CHAOS_CACHE": services.start("redis")} if blueprint.has_cache else {}
        gate = Gate() if blueprint.has_relay else None
        if gate:
            stack.callback(gate.remove)
            options["connect"] = f"http://127.0.0.1:{gate.port}"
        environ["CHAOS_OPTIONS"] = json.dumps(options)
        _write_keys(folder, [KEY])
        _install(folder, RECORD_VERSION)
        hosts = [Host(blueprint, folder, clock, environ) for clock in blueprint.clocks]
        for host in hosts:
            stack.callback(host.remove)
        for host in hosts:
            host.start()
        if gate:
            gate.open(hosts[0].port)
        yield Deployment(blueprint, folder, services, hosts, create_engine(url, poolclass=NullPool), gate)
