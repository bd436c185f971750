"""BackJob, the WSGI middleware: tells the three kinds of requests apart and lets ordinary ones through.

A request with a token is ours and never reaches the app, but for the worker's, which the app sees as the sealed record
has it. Everything else costs one look-up and one small object.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .assembly import Assembly
from .backend import Backend
from .check import prove_facts
from .config import make_config
from .diagnosis import SIGNATURE
from .errors import ConfigError, JobNotFound, KeyringError, OutsideMount, StoreError
from .findings import Check
from .job import Job, Status
from .jobs import Jobs
from .keyring import CHECK, MONITOR, PROBE, SealError, Token, TokenError, new_nonce
from .path_proofs import is_ahead
from .process import RESPONSE
from .proofs import PROOF_HEADER, TOKEN_HEADER, prove_app
from .request import may_run_in
from .response import make_server_environ
from .session import AfterFirstChunk, AfterResponse, RequestJobs
from .settings import read_settings
from .worker import CurrentJob

log = logging.getLogger("backjob")

TOKEN_KEY = "HTTP_" + TOKEN_HEADER.upper().replace("-", "_")
_DRAIN_CHUNK = 65536
_ON_THE_WAY = {__package__, "bottle", "pyramid"}
"""Whose calls stand between an app and its BackJob: an integration is called by its framework."""

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
        self.config = make_config(options)
        self._key = self.config.environ_key
        self._assembly = Assembly(app, self.config, _name_caller(app))
        # Looked up once: an ordinary request is counted in fractions of a microsecond.
        self._get_backend = self._assembly.get_backend
        bind = getattr(self.config.launcher, "bind", None)
        self._app = bind(self, app) if bind is not None else app
        self.jobs = Jobs(self._get_backend)
        """The client side for code outside of a request. Starting jobs there needs ``connect=``."""

    @classmethod
    def from_settings(cls, app: WSGIApp, settings: Mapping[str, Any], prefix: str = "backjob.") -> BackJob:
        """Wrap the app with the options among these settings, such as an ini file's, whose names have the prefix."""
        return cls(app, **read_settings(settings, prefix))

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not self._assembly.serves:
            self._assembly.note_request()
        if TOKEN_KEY in environ:
            return self._answer_internal(environ, start_response)
        # This path is counted in fractions of a microsecond: make bench shows them.
        if self._key in environ and isinstance(environ[self._key], Jobs):
            return self._app(environ, start_response)  # within another BackJob, to which the self-requests come
        environ[self._key] = session = RequestJobs(self._get_backend, environ, start_response)
        try:
            iterable = self._app(environ, session.start_response)
        except BaseException:
            session.end(is_failed=True)
            raise
        if session.waiting is None:
            session.waiting = ()
            return iterable
        return AfterResponse(iterable, session.end, session.end_late)

    def check(self, environ: Mapping[str, Any] | None = None) -> Check:
        """Will jobs work here? Makes one round trip to the app's own address, and takes a few seconds at most.

        In a request, give its ``environ``. Outside of one, ``connect=`` is needed, or a request that came before. If
        that request is a GET with a cookie, the app is asked for its page once more, up to this call, to see whether
        sessions lock.
        Raises nothing for what it finds: the record says what is wrong, and what mends it.
        """
        return self._assembly.deployment.check(environ)

    @property
    def missing_files(self) -> list[str]:
        """The files that are not there and would be made at first use: that of an SQLite database, and its key file."""
        return self._assembly.missing_files

    def run_job(self, job_id: int, *, early: bool = False) -> bool:
        """Run a job that waits here and now, in this thread: through the app, with no request of a server.

        For launchers and tests: no ``max_running`` counts. ``early``: also before it is due. False when it does not
        wait, is not due, waits for a response, or is another app's or of another key. Raises StoreError, JobNotFound.
        """
        backend = self._get_backend()
        job = backend.store.get(job_id)
        if job is None:
            raise JobNotFound(f"There is no job {job_id}")
        is_held = (job.held_by or "").startswith(RESPONSE)
        if job.status is not Status.STARTED or (job.due_in and not early) or is_held:
            return False
        try:
            request = backend.keyring.unseal(job.id, job.uid, job.sealed)
        except SealError:
            return False
        owner = f"{backend.monitor.owner}-{new_nonce()}"
        if not may_run_in(backend.self_request.app, request) or not backend.store.claim(
            job.id, job.attempt, owner, backend.config.lease, 0
        ):
            return False
        return CurrentJob(backend, job, request, make_server_environ()).run(self._app, owner)

    def jobs_of(self, environ: Mapping[str, Any]) -> Jobs:
        """The client session of a request that did not come through here, as with a framework's own test client.

        With ``after_response`` it can start nothing, for nobody tells it when the response has ended.
        """
        return Jobs(self._get_backend, environ)

    def sweep(self) -> int:
        """Settle the jobs that were lost, as the keeper of a serving process does all the time; how many it were.

        Where one looks lost it takes a little longer than ``lease``, in which everybody alive has to be heard. Raises
        StoreError.
        """
        return self._get_backend().make_keeper().settle_all()

    def prune(self) -> int:
        """Delete what is older than ``backlog_days`` and ``all_backlog_days``, and tell how many jobs it was.

        The keeper does the same, a few at a time. Raises StoreError.
        """
        return self._get_backend().make_keeper().prune_all()

    def create_table(self) -> None:
        """Make the job table now if it is not there, whatever ``create_table=`` says. Raises StoreError.

        Raises ConfigError where the jobs are in a cache alone.
        """
        self._assembly.create_table()

    def close(self) -> None:
        """Stop looking for jobs that wait, and close the connections that are not in use. A later call begins anew."""
        self._assembly.close()

    # Requests with a token.

    def _answer_internal(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        respond: Responder = functools.partial(_respond, environ, start_response)
        token = None
        try:
            backend = self._get_backend()
            token = backend.keyring.verify(environ[TOKEN_KEY])
            backend.self_request.learn(environ)
            self._assembly.note_job_request()
            if token.kind == PROBE:
                if backend.has_dispatcher(environ):
                    backend.dispatcher.start_looking()
                return respond("200 OK", f"{token.prove('here')} {token.prove(prove_app(backend.self_request.app))}")
            if token.kind == CHECK:
                facts = self._assembly.deployment.answer(environ, start_response)
                return respond("200 OK", prove_facts(token, facts), facts)
            job = backend.store.get(token.job_id)
            if job is None or job.attempt != token.attempt or not token.is_bound_to(job.sealed):
                return respond("410 Gone", token.prove("unknown"))
            backend.limits.note_process(environ, start_response)
            if token.kind == MONITOR:
                return self._monitor(backend, job, token, environ, respond)
            return self._work(backend, job, token, environ, respond)
        except (TokenError, SealError):
            return respond("403 Forbidden")
        except (StoreError, KeyringError) as error:
            log.error("A request of backjob's own can't be served: %s", error)
            return respond("503 Service Unavailable", token.prove("away") if token is not None else "")

    def _monitor(
        self, backend: Backend, job: Job, token: Token, environ: dict[str, Any], respond: Responder
    ) -> Iterable[bytes]:
        backend.self_request.note_arrival(job, token)
        if is_ahead(token.nonce):
            backend.self_request.note_path(job.path, token.nonce)
        backend.monitor.end_outage()
        if job.status is not Status.STARTED:
            return respond("409 Conflict", token.prove("refused"))
        if not backend.self_request.is_home_of(job.app_id):
            return respond("421 Misdirected Request", token.prove("elsewhere"))
        go_on = backend.accept(job, token.nonce, environ)
        if go_on is None:
            return respond("409 Conflict", token.prove("refused"))
        return AfterFirstChunk(respond("202 Accepted", token.prove("monitor")), go_on)

    def _work(
        self, backend: Backend, job: Job, token: Token, environ: dict[str, Any], respond: Responder
    ) -> Iterable[bytes]:
        if job.status is not Status.STARTED:
            return respond("409 Conflict", token.prove("refused"))
        outcome, way = "full", backend.dispatcher.choose_way(environ)
        _drain(environ)
        if backend.can_run(job):
            request = backend.keyring.unseal(job.id, job.uid, job.sealed)
            if not may_run_in(backend.self_request.app, request):
                return respond("421 Misdirected Request", token.prove("elsewhere"))
            try:
                current = CurrentJob(backend, job, request, environ)
            except OutsideMount as error:  # started outside of a request, where the mount is not known
                backend.monitor.refuse_target(job, error)
                return respond("409 Conflict", token.prove("refused"))
            outcome = self._run_if_room(backend, job, token, current)
        else:
            outcome = backend.name_refusal(job)
        if way != "thread" and outcome == "full" and job.held_by:
            # Who launched it may have left. Given back before the look, it is seen here or by the one who ends next.
            backend.store.note_full(job.id, job.attempt, job.held_by)
        if way != "thread" and (outcome == "ended" or (outcome == "full" and backend.limits.has_room_here)):
            backend.dispatcher.take_up_here(way, backend.has_dispatcher(environ))
        return respond("200 OK" if outcome == "ended" else "409 Conflict", token.prove(outcome))

    def _run_if_room(self, backend: Backend, job: Job, token: Token, current: CurrentJob) -> str:
        """Claim the job and run it, unless as many run as may. How that went, in the words of the proof."""
        limits, owner = backend.limits, backend.monitor.name_claim(token)
        if not limits.enter():
            return "full"
        try:
            most = limits.max_running, limits.of_scope(job.scope)
            if not backend.store.claim(job.id, job.attempt, owner, backend.config.lease, *most):
                glance = backend.store.glance(job.id)
                is_full = glance is not None and glance.status is Status.STARTED and glance.attempt == job.attempt
                return "full" if is_full else "refused"
            backend.dispatcher.note_claim(job.id)
            return "ended" if current.run(self._app, owner) else "forked"
        finally:
            limits.leave()


def _name_caller(app: WSGIApp) -> str:
    """What tells this app from others, in every process and after every restart: who wrapped it, and what it is."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _ON_THE_WAY:
        frame = frame.f_back
    where = frame.f_globals if frame is not None else {}
    module = getattr(where.get("__spec__"), "name", None) or where.get("__name__", "")
    if module == "__main__":
        module = Path(where.get("__file__") or "").stem
    what = app if hasattr(app, "__qualname__") else type(app)
    owner = getattr(app, "__self__", app)
    variable = next((name for name, value in where.items() if value is app or value is owner), "")
    return f"{module} {what.__module__}.{what.__qualname__} {variable}".rstrip()


def _respond(
    environ: Mapping[str, Any], start_response: Callable[..., Any], status: str, proof: str = "", text: str = ""
) -> list[bytes]:
    """One of our own answers: of known length, never kept or held back by a proxy. The text is ASCII."""
    body = (text or f"{SIGNATURE}{status.partition(' ')[2].lower()}\n").encode("ascii")
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
