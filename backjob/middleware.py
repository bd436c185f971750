"""BackJob, the WSGI middleware: tells the three kinds of requests apart and lets ordinary ones through.

A request with a token is ours and never reaches the app, but for the worker's, which the app sees as the sealed record
has it. Everything else costs one look-up and one small object.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .backend import Backend
from .config import Config, make_config, read_settings
from .dispatcher import Dispatcher
from .engine import Database
from .errors import ConfigError, KeyringError, StoreError
from .forks import call_in_child
from .job import Job, Status
from .jobs import Jobs
from .keyring import MONITOR, PROBE, Keyring, SealError, Token, TokenError, check_keys, read_or_make_key_file
from .launcher import PROOF_HEADER, TOKEN_HEADER, SelfRequest
from .monitor import Monitor
from .schema import build_table
from .session import AfterFirstChunk, AfterResponse, RequestJobs
from .sqlstore import SQLStore
from .worker import CurrentJob

log = logging.getLogger("backjob")

TOKEN_KEY = "HTTP_" + TOKEN_HEADER.upper().replace("-", "_")
_DRAIN_CHUNK = 65536

WSGIApp = Callable[..., Iterable[bytes]]
Responder = Callable[..., list[bytes]]


class BackJob:
    """WSGI middleware: any URL of the wrapped app can run as a background job.

    The options are those of :class:`backjob.config.Config`, all of them by name, none of them needed. Raises
    ConfigError for a wrong one. Nothing is connected, read or written before the first job or question for one.
    """

    def __init__(self, app: WSGIApp, **options: Any) -> None:
        if not callable(app):
            raise ConfigError("app is no WSGI application: it can't be called")
        self._app = app
        self.config = make_config(options)
        self._key = self.config.environ_key
        self._database = self._make_database()
        self._get_keys = _find_keys(self.config, self._database)
        self._lock = threading.Lock()
        self._backend: Backend | None = None
        call_in_child(self._begin_anew)
        self._find_backend = self._get_backend
        self.jobs = Jobs(self._find_backend)
        """The client side for code outside of a request. Starting jobs there needs ``connect=``."""

    @classmethod
    def from_settings(cls, app: WSGIApp, settings: Mapping[str, Any], prefix: str = "backjob.") -> BackJob:
        """Wrap the app with the options among these settings, such as an ini file's, whose names have the prefix."""
        return cls(app, **read_settings(settings, prefix))

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if TOKEN_KEY in environ:
            return self._answer_internal(environ, start_response)
        # This path is counted in fractions of a microsecond: make bench shows them.
        environ[self._key] = session = RequestJobs(self._find_backend, environ, start_response)
        try:
            iterable = self._app(environ, session.start_response)
        except BaseException:
            session.end(is_failed=True)
            raise
        if session.waiting is None:
            session.waiting = ()
            return iterable
        return AfterResponse(iterable, session.end)

    def close(self) -> None:
        """Stop looking for jobs that wait, and close the connections that are not in use. A later call begins anew."""
        with self._lock:
            backend, self._backend = self._backend, None
        if backend is not None:
            backend.dispatcher.close()
        self._database.dispose()

    def _make_database(self) -> Database:
        config = self.config
        return Database(config.database, build_table(config.table_name), config.create_table)

    def _begin_anew(self) -> None:
        """In a child of a fork: its parent's threads are not there, and locks are made after gevent's patches."""
        self._lock = threading.Lock()
        self._database = self._make_database()
        self._backend = None

    def _get_backend(self) -> Backend:
        if self._backend is None:
            with self._lock:
                self._backend = self._backend or self._make_backend()
        return self._backend

    def _make_backend(self) -> Backend:
        config = self.config
        keyring = Keyring(self._get_keys())
        store = SQLStore(self._database)
        self_request = SelfRequest(config, keyring)
        monitor = Monitor(config, keyring, store, self_request)
        dispatcher = Dispatcher(config, keyring, store, monitor)
        return Backend(config, keyring, store, self_request, monitor, dispatcher)

    # Requests with a token.

    def _answer_internal(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        respond: Responder = functools.partial(_respond, environ, start_response)
        try:
            backend = self._get_backend()
            token = backend.keyring.verify(environ[TOKEN_KEY])
            backend.self_request.learn(environ)
            if token.kind == PROBE:
                return respond("200 OK", token.prove("here"))
            job = backend.store.get(token.job_id)
            if job is None or job.attempt != token.attempt or not token.is_bound_to(job.sealed):
                return respond("410 Gone", token.prove("refused"))
            if token.kind == MONITOR:
                return self._monitor(backend, job, token, environ, respond)
            return self._work(backend, job, token, environ, respond)
        except (TokenError, SealError):
            return respond("403 Forbidden")
        except (StoreError, KeyringError) as error:
            log.error("A request of backjob's own can't be served: %s", error)
            return respond("503 Service Unavailable")

    def _monitor(
        self, backend: Backend, job: Job, token: Token, environ: dict[str, Any], respond: Responder
    ) -> Iterable[bytes]:
        if job.status is not Status.STARTED:
            return respond("409 Conflict", token.prove("refused"))
        way, has_threads = backend.dispatcher.choose_way(environ), backend.has_dispatcher(environ)
        go_on = backend.dispatcher.accept(job, token.nonce, way, has_threads)
        if go_on is None:
            return respond("409 Conflict", token.prove("refused"))
        return AfterFirstChunk(respond("202 Accepted", token.prove("monitor")), go_on)

    def _work(
        self, backend: Backend, job: Job, token: Token, environ: dict[str, Any], respond: Responder
    ) -> Iterable[bytes]:
        if job.status is not Status.STARTED:
            return respond("409 Conflict", token.prove("refused"))
        request = backend.keyring.unseal(job.id, job.uid, job.sealed)
        current = CurrentJob(backend, job, request, environ)
        _drain(environ)
        owner = f"{backend.monitor.owner}-{token.nonce}"
        if not backend.store.claim(job.id, job.attempt, owner, backend.config.lease, backend.config.running_limit):
            glance = backend.store.glance(job.id)
            is_full = glance is not None and glance.status is Status.STARTED and glance.attempt == job.attempt
            return respond("409 Conflict", token.prove("full" if is_full else "refused"))
        backend.dispatcher.note_claim(job.id)
        current.run(self._app)
        way = backend.dispatcher.choose_way(environ)
        if way != "thread":
            backend.dispatcher.take_up_here(way)
        return respond("200 OK", token.prove("ended"))


def _find_keys(config: Config, database: Database) -> Callable[[], list[str]]:
    """Where the keys come from. Raises ConfigError when there is no such place; a key file is read at first use."""
    if config.key is not None:
        keys = check_keys(config.key, "key")
        return lambda: keys
    if os.environ.get("BACKJOB_KEY"):
        keys = check_keys(os.environ["BACKJOB_KEY"].split(), "$BACKJOB_KEY")
        return lambda: keys
    if database.file is None:
        raise ConfigError("key must be set (or $BACKJOB_KEY): a key file is kept beside an SQLite file only")
    path = database.file.with_name(database.file.name + ".key")
    return lambda: [read_or_make_key_file(path)]


def _respond(
    environ: Mapping[str, Any], start_response: Callable[..., Any], status: str, proof: str = ""
) -> list[bytes]:
    """One of our own answers: fixed, of known length, never kept or held back by a proxy."""
    body = status.partition(" ")[2].lower().encode() + b"\n"
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Accel-Buffering", "no"),
    ]
    if proof:
        headers.append((PROOF_HEADER, proof))
    start_response(status, headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _drain(environ: Mapping[str, Any]) -> None:
    """Read the body that travelled: a server that closes with unread input cuts our answer off."""
    try:
        left = int(environ.get("CONTENT_LENGTH") or 0)
        while left > 0:
            chunk = environ["wsgi.input"].read(min(left, _DRAIN_CHUNK))
            if not chunk:
                break
            left -= len(chunk)
    except (ValueError, OSError):
        pass  # the record has the body all the same


def make_filter(app: WSGIApp, global_conf: Mapping[str, str], **settings: str) -> BackJob:
    """A ``paste.filter_app_factory``: ``[filter:backjob]`` with the options in an ini file."""
    return BackJob.from_settings(app, settings, prefix="")
