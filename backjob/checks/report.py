"""The result of a check: one frozen record, readable as text and as JSON, with its problems and warnings.

Makes findings of facts that were measured in check. Opens no file and no connection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backjob.config import Config, __version__
from backjob.runtime.server_info import ServerFacts
from backjob.scheduling.concurrency import share_slots
from backjob.wsgi.outer import explain_outer, find_other_values

_LOOPBACK = ("127.", "localhost", "::1")
_LONG_LEASE = 600


@dataclass(frozen=True)
class Finding:
    """A problem or a warning, and its remedy. ``name`` stays the same over versions."""

    name: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return " ".join(f"{part.rstrip('.')}." for part in (self.text, self.remedy) if part)


@dataclass(frozen=True)
class Trial:
    """One address that was tried, with the seconds of its answer, or the reason why it gave none."""

    address: str
    found: str
    """Source of the address: ``connect=``, or the value of the server that has it."""
    seconds: float | None = None
    error: str = ""
    is_final: bool = False
    """True if the same request would get the same answer again."""

    def __str__(self) -> str:
        if self.seconds is None:
            return f"{self.error} (found by {self.found})"
        return f"{self.address} (found by {self.found}) {_answers_in(self.seconds)}"


@dataclass(frozen=True)
class StoreFacts:
    """The job table, with the seconds of a write that changes nothing, or the error that prevented it."""

    place: str
    seconds: float | None = None
    error: str = ""
    file_system: str = ""
    """Type of the network file system with the SQLite file; "" on a local disk, or if that is not known."""

    def __str__(self) -> str:
        answer = "not tried" if self.seconds is None else _answers_in(self.seconds)
        return f"{self.place}: {self.error or answer}"


@dataclass(frozen=True)
class CacheFacts:
    """The cache: its kind, whether all processes share it, and the seconds of a read or the error."""

    kind: str
    is_shared: bool
    seconds: float | None = None
    error: str = ""

    def __str__(self) -> str:
        sharing = "shared" if self.is_shared else "one for each process"
        return f"{self.kind}, {sharing}: {self.error or _answers_in(self.seconds or 0)}"


@dataclass(frozen=True)
class Reply:
    """The facts of the process that answered. With ``connect=`` it may be on another server."""

    version: str
    server: ServerFacts
    monitor: str
    store: StoreFacts
    app: str = ""
    outer: tuple[str, ...] = ()
    """Environ keys of objects from middleware outside of BackJob, with their types."""
    outer_values: dict[str, str] | None = None
    """Digests of the user's plain values that such middleware put into the environ of the self-request."""
    app_version: str | None = None
    """Its option ``app_version``, "" without one; None if that is not known."""
    lost_slots: str = ""
    """A text with the number of its lost slots for jobs, if it is half of them or more."""


@dataclass(frozen=True)
class Check:
    """The result of ``BackJob.check()``: problems, warnings and measured facts. Durations are in seconds."""

    problems: tuple[Finding, ...]
    """Reasons why jobs will not work, or why that is not known. Empty if jobs will work."""
    warnings: tuple[Finding, ...]
    tried: tuple[Trial, ...]
    server: ServerFacts | None
    monitor: str
    """Mode of the monitor: "thread", "request" or "leave"; "" without an answer."""
    key: str
    """Source of the key."""
    keys: int
    store: StoreFacts
    cache: CacheFacts | None = None

    @property
    def is_ok(self) -> bool:
        """Will jobs work here?"""
        return not self.problems

    @property
    def problem(self) -> Finding | None:
        """The first problem, None without one."""
        return self.problems[0] if self.problems else None

    @property
    def address(self) -> str:
        """Address at which the app answered, "" without an answer."""
        return self._answered.address if self._answered else ""

    @property
    def round_trip(self) -> float | None:
        """Seconds until its answer, None without one."""
        return self._answered.seconds if self._answered else None

    @property
    def _answered(self) -> Trial | None:
        return next((trial for trial in self.tried if trial.seconds is not None), None)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        problem = dataclasses.asdict(self.problem) if self.problem else None
        own = {"is_ok": self.is_ok, "problem": problem, "address": self.address, "round_trip": self.round_trip}
        fields: dict[str, Any] = {**own, **dataclasses.asdict(self)}
        if self.server is not None:
            fields["server"]["slots"] = self.server.slots
        return fields

    def __str__(self) -> str:
        verdict = "jobs will work here" if self.is_ok else "jobs will not work here, or that is not known"
        lines = [f"backjob {__version__}: {verdict}"]
        lines += [f"problem  {problem}" for problem in self.problems]
        lines += [f"warning  {warning}" for warning in self.warnings]
        # Without an answer, the problem has the reasons for each address.
        lines += [f"address  {trial}" for trial in self.tried if self.address]
        lines += [f"server   {self.server}"] if self.server else []
        lines += [f"monitor  {self.monitor}"] if self.monitor else []
        lines += [f"key      {self.key} ({self.keys})", f"store    {self.store}", f"cache    {self.cache or 'none'}"]
        return "\n".join(lines)


def _answers_in(seconds: float) -> str:
    return f"answers in {seconds * 1000:.1f} ms"


def find_problems(config: Config, here: StoreFacts, cache: CacheFacts | None, reply: Reply | None) -> Iterator[Finding]:
    """Yield the problems that do not depend on the key or the address."""
    if here.error:
        yield Finding("store", here.error)
    if reply is None:
        return
    if reply.store.error and not here.error:
        yield Finding("store", f"The process that answers can't use its job database: {reply.store.error}")
    if config.database is None and cache is not None and not cache.is_shared and reply.server.has_processes:
        text = f"Jobs are kept in a cache ({cache.kind}) that processes do not share, and the server has several"
        yield Finding("cache", text, "Set database=, or set cache= to a shared region, such as Redis or memcached")
    if reply.monitor == "request" and reply.server.slots == 1:
        yield Finding(
            "monitor",
            'monitor="request" occupies a slot while the job waits for another one, and the server has only one',
            'Leave monitor="auto", or give the server more threads',
        )


def find_warnings(
    config: Config,
    key: str,
    here: StoreFacts,
    cache: CacheFacts | None,
    reply: Reply | None,
) -> Iterator[Finding]:
    """Yield warnings about settings with which jobs work, but have surprised users."""
    yield from _find_in_options(config)
    is_spread = False
    address = config.address
    if address is not None and address.host and not address.host.startswith(_LOOPBACK):
        is_spread = True
        if not address.tls:
            text = f"Self-requests, with the forms of jobs, go to {address.host} over plain http"
            yield Finding("plain-http", text, 'Set connect="https://…", unless that is this host')
    if here.file_system:
        is_spread = True
        text = f"The SQLite file is on a network file system ({here.file_system}), where its locks do not work"
        yield Finding("network-file", text, "Put it on a disk of this host, or set database= to a database server")
    if is_spread and key.startswith("key file"):
        text = f"The key is kept in a file of this host ({key}), and another host makes its own key"
        yield Finding("key-file", text, "If there are several hosts, set key= or $BACKJOB_KEY to the same key on each")
    if cache is not None and cache.error and config.database is not None:
        text = f"The cache is unreachable, so every status is read from the database. {cache.error}"
        yield Finding("cache", text, "Start the cache, or correct cache=")
    if reply is not None:
        yield from _find_in_reply(config, here, reply)
        has_several = config.database is not None and reply.server.has_processes
        if cache is not None and not cache.is_shared and has_several:
            text = f"Processes do not share the cache ({cache.kind}), and the server has several"
            yield Finding("memory-cache", text, "Set cache= to a shared region, such as Redis or memcached")


def find_other_app(app: str, reply: Reply | None) -> Iterator[Finding]:
    """Yield a finding if another app answers. It may be intended that jobs run there."""
    if reply is not None and reply.app and reply.app != app:
        text = f"The app that answers ({reply.app}) is not this one ({app}), and jobs run there"
        yield Finding("other-app", text, "Unless that is intended, set connect= to this app's own address")


def find_other_version(app_version: str, reply: Reply | None) -> Iterator[Finding]:
    """Yield a finding if the process that answers runs another version of the app."""
    if reply is not None and app_version and reply.app_version not in (None, app_version):
        text = f"The process that answers has app_version {reply.app_version!r}, and this one {app_version!r}"
        yield Finding("app-version", text, "Deploy the same version there. Until then, jobs of this process wait")


def find_outer_middleware(reply: Reply | None, outer_values: Mapping[str, str] | None) -> Iterator[Finding]:
    """Yield the values that a user's job lacks, because middleware outside of BackJob sets them.

    ``outer_values`` are digests of the plain values of this request's user, None outside of a request.
    """
    if reply is None:
        return
    here, there = outer_values, reply.outer_values
    values = find_other_values(here, there) if here is not None and there is not None else {}
    for each in (*(explain_outer([key]) for key in reply.outer), *values.values()):
        explained, _, remedy = each.partition(": ")
        yield Finding("outer-middleware", explained, f"{remedy[:1].upper()}{remedy[1:]}")


def find_lost_slots(here: str, reply: Reply | None) -> Iterator[Finding]:
    """Yield a finding for slots that are held by code after its job ended, here and in the process that answers."""
    for text in sorted({here, reply.lost_slots if reply else ""} - {""}):
        yield Finding("lost-slots", text, "Restart the server, and set time limits in the code of these jobs")


def _find_in_options(config: Config) -> Iterator[Finding]:
    if not config.error_timeout:
        text = "error_timeout=0: a job that hangs is never failed, and keeps its slot"
        remedy = "Set error_timeout= to more seconds than there are between two progress reports of a job"
        yield Finding("error-timeout", text, remedy)
    if config.lease >= _LONG_LEASE:
        text = f"lease={config.lease:g}: a job whose process died is recovered only after so many seconds"
        yield Finding("lease", text, "Set lease= to less. Running jobs renew it, however long they take")


def _find_in_reply(config: Config, here: StoreFacts, reply: Reply) -> Iterator[Finding]:
    server = reply.server
    if reply.version != __version__:
        text = f"The process that answers runs backjob {reply.version}, this one {__version__}"
        yield Finding("version", text, "Install the same on both")
    if reply.store.place != here.place:
        text = f"The process that answers keeps jobs in {reply.store.place}, this one in {here.place}"
        remedy = "Unless both are the same table, no job runs: give both the same database= and table_name="
        yield Finding("other-store", text, remedy)
    if server.slots == 1:
        text = "The server has one slot: while a job runs, visitors have to wait"
        yield Finding("one-slot", text, "Give the server more threads (gunicorn: --threads 8)")
    elif server.slots is not None and server.processes is not None:
        each = config.max_running_per_process * server.processes
        of_all = config.max_running
        if not isinstance(of_all, int):
            of_all = share_slots([server.threads_each] * server.processes)
        limit = min(filter(None, (of_all, each)), default=0)
        if not limit or server.slots <= limit:
            most = f"up to {limit}" if limit else "any number of"
            text = f"The server has {server.slots} slots, and {most} jobs run at once: then visitors have to wait"
            yield Finding("few-slots", text, "Give the server more threads, or set max_running= to less")
    if server.timeout:
        text = f"The server stops a {server.worker} worker, with the job in it, after {server.timeout:g} s"
        yield Finding("worker-timeout", text, "Raise gunicorn's --timeout, or use gthread workers")
