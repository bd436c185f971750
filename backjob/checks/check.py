"""The measurements of check(): one request to the application's own address, with the facts of both processes.

Asks the store, the addresses that a launch would try, and the process that answers there. Makes no findings of the
facts: see report. The request contains no user, credential or key.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from backjob.client.backend import Backend
from backjob.client.capture import mount_request
from backjob.config import Config, __version__
from backjob.errors import AddressError, KeyringError, LaunchError, StoreError
from backjob.keyring import CHECK, KeySource, Token
from backjob.messages import compose
from backjob.model.address import Address
from backjob.model.job import JobRequest
from backjob.runtime.server_info import ServerFacts, detect_server
from backjob.storage.cache.entries import CacheEntries
from backjob.storage.store import Store
from backjob.transport.connection_failures import NoAnswer
from backjob.transport.error_hints import explain, sum_up
from backjob.transport.protocol import WireOutcome
from backjob.wsgi.outer import digest_outer_values, find_outer_objects

from .exposure import find_exposures
from .report import (
    CacheFacts,
    Check,
    Finding,
    Reply,
    StoreFacts,
    Trial,
    find_lost_slots,
    find_other_app,
    find_other_version,
    find_outer_middleware,
    find_problems,
    find_warnings,
)
from .site_check import find_site_problem, find_site_warnings, visit_site

Facts = TypeVar("Facts", ServerFacts, StoreFacts, Reply)

PATIENCE = 2.0
"""Seconds to wait for an answer, over all addresses. The caller may occupy the only slot of the server."""
_LEAST_PATIENCE = 0.2
_NO_JOB = 0
_NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "smbfs"}
    | {"fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"}
)
_MOUNTS = Path("/proc/self/mountinfo")


@dataclasses.dataclass(frozen=True)
class Deployment:
    """The parts of one application that a check examines. ``place`` and ``file`` are those of its database."""

    app: Callable[..., Iterable[bytes]]
    config: Config
    keys: KeySource
    place: str
    file: Path | None
    cache: CacheEntries | None
    find_backend: Callable[[], Backend]

    def check(self, environ: Mapping[str, Any] | None) -> Check:
        """Send a request as a launch from here would. Failures are findings in the result, not exceptions."""
        here, cache = StoreFacts(self.place), ask_cache(self.cache, self.config.cache_prefix)
        try:
            count = len(self.keys.read())
            backend = self.find_backend()
        except KeyringError as error:
            return Check((Finding("key", str(error)),), (), (), None, "", self.keys.name, 0, here, cache)
        here = self._ask_store(backend.store)
        trials, reply, problem = _try_addresses(backend, environ)
        site = visit_site(self.app, self.config) if environ is None and reply is not None else None
        if reply is None and environ is not None and self.config.address is None:
            # No process answered, but the server of this request is the one that was asked.
            reply = self._reply(backend, here, environ)
        of_site = [*find_site_problem(site, self.config)]
        problems = [*([problem] if problem else []), *of_site, *find_problems(self.config, here, cache, reply)]
        warnings = [*find_warnings(self.config, self.keys.name, here, cache, reply)]
        warnings += find_exposures(self.file, self.keys.file)
        warnings += find_other_app(backend.self_request.app, reply)
        warnings += find_other_version(self.config.app_version or "", reply)
        warnings += find_outer_middleware(reply, self._digest_outer(environ) if environ is not None else None)
        warnings += find_site_warnings(site, self.config) if not of_site else ()
        warnings += find_lost_slots(backend.limits.lost_slots, reply)
        server, monitor = (reply.server, reply.monitor) if reply else (None, "")
        return Check(tuple(problems), tuple(warnings), trials, server, monitor, self.keys.name, count, here, cache)

    def answer(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> str:
        """Return the facts of this process, as JSON, for another one's check. Only a holder of the key can ask."""
        backend = self.find_backend()
        reply = self._reply(backend, self._ask_store(backend.store), environ, start_response)
        return json.dumps(dataclasses.asdict(reply))

    def _reply(
        self,
        backend: Backend,
        store: StoreFacts,
        environ: Mapping[str, Any],
        start_response: Callable[..., Any] | None = None,
    ) -> Reply:
        server = detect_server(environ, start_response)
        outer = find_outer_objects(environ, self.config.environ_key)
        names = tuple(f"{key} ({kind})" for key, kind in outer.items())
        way, app = backend.dispatcher.choose_way(environ), backend.self_request.app
        values, version = self._digest_outer(environ), self.config.app_version or ""
        return Reply(__version__, server, way, store, app, names, values, version, backend.limits.lost_slots)

    def _digest_outer(self, environ: Mapping[str, Any]) -> dict[str, str]:
        return digest_outer_values(environ, self.config.environ_key, self.config.forward_environ)

    def _ask_store(self, store: Store) -> StoreFacts:
        file_system = find_network_file_system(self.file) if self.file else ""
        try:
            store.get(_NO_JOB)  # the first use may make the table
            begin = time.perf_counter()
            store.request_cancel(_NO_JOB)  # a write that changes nothing, because a read would not prove write access
        except StoreError as error:
            return StoreFacts(self.place, error=str(error), file_system=file_system)
        return StoreFacts(self.place, time.perf_counter() - begin, file_system=file_system)


def _try_addresses(
    backend: Backend, environ: Mapping[str, Any] | None
) -> tuple[tuple[Trial, ...], Reply | None, Finding | None]:
    """Ask at each address until one proves itself. Return the trials, the reply, and a finding if none did."""
    try:
        addresses = backend.self_request.candidates(environ)
    except AddressError as error:
        otherwise = "Or call check() in a request, with its environ" if environ is None else ""
        return (), None, Finding("no-address", str(error), otherwise)
    request = mount_request(environ, backend.config)
    trials: list[Trial] = []
    failures: list[LaunchError] = []
    end = time.monotonic() + PATIENCE
    for address in addresses:
        begin = time.perf_counter()
        try:
            reply = _ask(backend, address, request, max(end - time.monotonic(), _LEAST_PATIENCE))
        except LaunchError as error:
            if str(address) not in [trial.address for trial in trials]:  # or it was tried with another Host
                failures.append(error)
                trials.append(Trial(str(address), address.found, error=str(error), is_final=error.is_final))
        else:
            trials.append(Trial(str(address), address.found, time.perf_counter() - begin))
            return tuple(trials), reply, None
    if environ is not None and any(isinstance(failure, NoAnswer) for failure in failures):
        hint = (
            "If the server of this request has one slot, this request holds it: check from outside then, with connect="
        )
        return tuple(trials), None, Finding("busy", str(sum_up(failures)), hint)
    return tuple(trials), None, Finding("not-reached", str(sum_up(failures)))


def _ask(backend: Backend, address: Address, request: JobRequest, patience: float) -> Reply:
    """Return the reply of this application's middleware at this address. Raises LaunchError without one."""
    token = backend.self_request.paths.tokens.sign(CHECK, _NO_JOB, 1)
    answer = backend.self_request.ask(address, token, request, patience)
    if WireOutcome.STALE_CHECK.is_proven_by(answer, token):
        stale = (
            "{address} refuses the request as too old or repeated: something in front of it sends requests twice or "
            "delays them, or the clocks of two hosts differ by a minute while the job database is unreachable"
        )
        raise LaunchError(compose(stale, address=address))
    text = answer.body.decode("latin-1")
    if answer.status != 200 or prove_facts(token, text).encode() not in answer.raw:
        raise explain(answer, address)
    fields = json.loads(text)
    server, store = _read(ServerFacts, fields["server"]), _read(StoreFacts, fields["store"])
    return _read(Reply, {**fields, "server": server, "store": store, "outer": tuple(fields.get("outer", ()))})


def _read(kind: type[Facts], fields: Mapping[str, Any]) -> Facts:
    """Return the facts from JSON. Fields that this version of backjob does not know are ignored."""
    return kind(**{field.name: fields[field.name] for field in dataclasses.fields(kind) if field.name in fields})


def prove_facts(token: Token, facts: str) -> str:
    """Return the proof that these facts answer this token. Only a holder of the key can make it."""
    return token.prove(f"facts {facts}")


def ask_cache(cache: CacheEntries | None, prefix: str) -> CacheFacts | None:
    """Read a key that is never set, and return the facts of the cache. None without a cache."""
    if cache is None:
        return None
    begin = time.perf_counter()
    try:
        cache.read(f"{prefix}check")
    except StoreError as error:
        return CacheFacts(cache.backend_name, cache.is_shared, error=str(error))
    return CacheFacts(cache.backend_name, cache.is_shared, time.perf_counter() - begin)


def find_network_file_system(file: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of the network file system with this file; "" on a local disk, or if that is not known."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    path, nearest, kind = file.resolve(), Path(), ""
    for line in lines:
        # proc(5): the fifth field is the mount point, the first one after " - " the type of file system.
        point = Path(line.split(" ")[4].replace("\\040", " "))
        if path.is_relative_to(point) and len(point.parts) >= len(nearest.parts):
            nearest, kind = point, line.partition(" - ")[2].partition(" ")[0]
    return kind if kind in _NETWORK_FILE_SYSTEMS else ""
