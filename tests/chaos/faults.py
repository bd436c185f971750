"""The faults: each a function that breaks a deployment and leaves it mended, at a moment that somebody else chooses.

A new fault is a function with a ``@fault`` that says where it strikes and which blueprints it fits. It waits with
``wait_until`` and takes its choices from ``chance`` alone, which its seed makes again. Faults "of the server" and
those "around" it may strike at the same time; two of one place never do.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

from support import wait_until

from chaos import runs
from chaos.blueprint import LEASE, Blueprint
from chaos.deployment import FINAL_FROM, Deployment
from chaos.host import Host, is_running
from chaos.kinds import HOG, PATIENT, POISON
from chaos.runs import Mark

SERVER, AROUND = "the server", "around it"
_LONGEST_RECYCLE = 60.0
_LONGEST_OVERRUN = 60.0
_LONGEST_POISON = 60.0
_WORK_COMES_WITHIN = 5.0
_MOSTLY = 0.75

T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """A way to break things."""

    strike: Callable[[Deployment, random.Random], None]
    place: str
    kills: bool
    """Are processes of the app killed?"""
    fits: Callable[[Blueprint], bool]

    @property
    def name(self) -> str:
        return self.strike.__name__.replace("_", " ")

    @property
    def description(self) -> str:
        return (self.strike.__doc__ or "").partition("\n")[0]

    def __reduce__(self) -> Any:
        return _find, (self.name,)


FAULTS: dict[str, Fault] = {}


def _find(name: str) -> Fault:
    return FAULTS[name]


def fault(
    place: str, fits: Callable[[Blueprint], bool] = lambda blueprint: True, *, kills: bool = False
) -> Callable[..., Callable[..., None]]:
    """Make a fault of a function."""

    def register(strike: Callable[[Deployment, random.Random], None]) -> Callable[[Deployment, random.Random], None]:
        made = Fault(strike, place, kills, fits)
        FAULTS[made.name] = made
        return strike

    return register


def fitting(blueprint: Blueprint) -> list[Fault]:
    """Those that can strike there."""
    return [each for each in FAULTS.values() if each.fits(blueprint)]


def _has_database_server(blueprint: Blueprint) -> bool:
    return blueprint.database != "sqlite"


def _pick(site: Deployment, chance: random.Random) -> tuple[Host, int]:
    """A host and one of its workers."""
    host = chance.choice(site.hosts)
    return host, chance.choice(host.wait_for_workers())


def _pick_busy(site: Deployment, chance: random.Random) -> tuple[Host, int]:
    """The same, but one that runs a job, as soon as there is any such, and within a few seconds."""
    busy = _wait_for(lambda: [(host, pid) for host in site.hosts for pid in host.workers() if _list_runs(site, [pid])])
    return chance.choice(busy) if busy else _pick(site, chance)


def _wait_for_work(site: Deployment, hosts: Collection[Host]) -> int:
    """Wait a few seconds until jobs run on these hosts. How many do."""
    return len(_wait_for(lambda: _list_runs(site, [pid for host in hosts for pid in host.workers()])))


def _wait_for(look: Callable[[], list[T]]) -> list[T]:
    """Look until there is something, but only for a few seconds: that it comes is no promise."""
    with contextlib.suppress(AssertionError):
        return wait_until(look, _WORK_COMES_WITHIN)
    return []


def _list_runs(site: Deployment, pids: Collection[int]) -> list[Mark]:
    """The jobs that are at work in these processes."""
    return [mark for mark in runs.find_open(runs.read(site.folder)) if mark.pid in pids]


def _list_marks(site: Deployment, job: int) -> list[Mark]:
    return [mark for mark in runs.read(site.folder) if mark.job == job]


def _has_left(site: Deployment, job: int) -> bool:
    """Has this job begun, and is its process gone or at something else?"""
    marks = _list_marks(site, job)
    return bool(marks) and (marks[-1].what != runs.BEGIN or not is_running(marks[-1].pid))


@fault(SERVER, kills=True)
def kill_a_worker(site: Deployment, chance: random.Random) -> None:
    """SIGKILL of a worker, mostly of one that runs a job."""
    host, worker = (_pick_busy if chance.random() < _MOSTLY else _pick)(site, chance)
    host.kill(worker)


@fault(SERVER, kills=True)
def kill_everything(site: Deployment, chance: random.Random) -> None:
    """SIGKILL of all processes of all hosts, and a new start."""
    _wait_for_work(site, site.hosts)
    for host in site.hosts:
        host.kill_all()
    time.sleep(chance.uniform(0, 1))
    for host in site.hosts:
        host.start()


@fault(SERVER)
def stop_and_start(site: Deployment, chance: random.Random) -> None:
    """SIGTERM of a server under load, and a new start."""
    host = chance.choice(site.hosts)
    _wait_for_work(site, [host])
    host.stop()
    time.sleep(chance.uniform(0, 1))
    host.start()


@fault(SERVER, lambda blueprint: blueprint.is_gunicorn)
def reload(site: Deployment, chance: random.Random) -> None:
    """SIGHUP: gunicorn replaces its workers under load."""
    host = chance.choice(site.hosts)
    _wait_for_work(site, [host])
    host.reload()


@fault(SERVER, lambda blueprint: blueprint.is_gunicorn and blueprint.recycle > 0)
def recycle(site: Deployment, chance: random.Random) -> None:
    """--max-requests: wait until a worker has gone by itself and another one has come."""
    host = chance.choice(site.hosts)
    before = set(host.wait_for_workers())
    wait_until(lambda: before - set(host.workers()) and len(host.workers()) >= len(before), _LONGEST_RECYCLE)
    gone = before - set(host.workers())
    host.struck += sum(mark.what == runs.BEGIN and mark.pid in gone for mark in runs.read(site.folder))


@fault(SERVER, lambda blueprint: blueprint.server == "sync")
def overrun(site: Deployment, chance: random.Random) -> None:
    """A job takes longer than the --timeout of gunicorn's sync workers."""
    job = site.start_job(HOG, chance) if site.start_job else None
    if job is not None:
        wait_until(lambda: _has_left(site, job), _LONGEST_OVERRUN)
        site.struck_around += 1


@fault(SERVER)
def freeze_a_worker(site: Deployment, chance: random.Random) -> None:
    """SIGSTOP of a worker for longer than the lease, then SIGCONT."""
    job = site.start_job(PATIENT, chance) if site.start_job else None
    begun = _wait_for(lambda: _list_marks(site, job)) if job is not None else []
    homes = {pid: host for host in site.hosts for pid in host.workers()}
    worker = begun[-1].pid if begun else 0
    host, worker = (homes[worker], worker) if worker in homes else _pick_busy(site, chance)
    with host.frozen(worker):
        time.sleep(LEASE * chance.uniform(1.5, 2.5))


@fault(SERVER)
def rotate_the_key(site: Deployment, chance: random.Random) -> None:
    """A new key is added, and then made the newest one, in all processes: the steps of docs/security.md."""
    _wait_for_work(site, site.hosts)
    newest, *older = site.read_keys()
    key = f"key {len(older) + 2} of a chaotic deployment, and of no other"
    for keys in ([newest, key, *older], [key, newest, *older]):
        site.write_keys(keys)
        site.renew_processes()


@fault(SERVER)
def skew_the_versions(site: Deployment, chance: random.Random) -> None:
    """A release whose records the older one can't read is deployed, rolled back, and deployed again."""
    _wait_for_work(site, site.hosts)
    older, newer = site.version, site.version + 1
    for version in (newer, older, newer):
        site.release(version)
        site.renew_processes()
        time.sleep(chance.uniform(0.5, 1.5))
    assert wait_until(lambda: newer in site.read_versions(), _LONGEST_RECYCLE), "the newer release has recorded no job"


@fault(SERVER, _has_database_server, kills=True)
def reference_old_jobs(site: Deployment, chance: random.Random) -> None:
    """A foreign key of the app keeps old jobs from being pruned, while all processes are killed and come back."""
    _wait_for(site.list_ended)
    _wait_for_work(site, site.hosts)
    with site.referencing_old_jobs():
        for host in site.hosts:
            host.kill_all()
        for host in site.hosts:
            host.start()
        time.sleep(LEASE * chance.uniform(1, 2))


@fault(AROUND)
def refuse_a_write(site: Deployment, chance: random.Random) -> None:
    """The database refuses the texts of one job, whatever it does, with a CHECK or a trigger."""
    site.struck_around += _wait_for_work(site, site.hosts)
    with site.refusing("poison"):
        job = site.start_job(POISON, chance) if site.start_job else None
        if job is not None:
            wait_until(lambda: site.read_statuses().get(job, FINAL_FROM) >= FINAL_FROM, _LONGEST_POISON)


@fault(AROUND, _has_database_server)
def restart_the_database(site: Deployment, chance: random.Random) -> None:
    """PostgreSQL or MariaDB is stopped in order, and started again after up to 3 s."""
    name = site.blueprint.database
    site.struck_around += _wait_for_work(site, site.hosts)
    site.services.stop(name)
    time.sleep(chance.uniform(0, 3))
    site.services.start(name)


@fault(AROUND, _has_database_server)
def crash_the_database(site: Deployment, chance: random.Random) -> None:
    """PostgreSQL or MariaDB is killed, and started again at once."""
    name = site.blueprint.database
    site.struck_around += _wait_for_work(site, site.hosts)
    site.services.crash(name)
    site.services.start(name)


@fault(AROUND, lambda blueprint: blueprint.database == "sqlite")
def lock_the_database(site: Deployment, chance: random.Random) -> None:
    """Another program locks the SQLite file for longer than its busy time-out of 5 s."""
    site.struck_around += _wait_for_work(site, site.hosts)
    with closing(sqlite3.connect(site.sqlite_file, isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(chance.uniform(5.5, 7))
        other.execute("ROLLBACK")


@fault(AROUND, lambda blueprint: blueprint.has_cache)
def stop_the_cache(site: Deployment, chance: random.Random) -> None:
    """Redis, in front of the database, is stopped for up to 4 s, and comes back empty."""
    site.struck_around += _wait_for_work(site, site.hosts)
    site.services.stop("redis")
    time.sleep(chance.uniform(1, 4))
    site.services.start("redis")


@fault(AROUND, lambda blueprint: blueprint.has_relay)
def refuse_connections(site: Deployment, chance: random.Random) -> None:
    """The app's own address, connect=, cuts off who is connected and refuses connections for up to 5 s."""
    assert site.gate
    site.struck_around += _wait_for_work(site, site.hosts)
    site.gate.close()
    time.sleep(chance.uniform(1, 5))
    site.gate.open(site.hosts[0].port)
