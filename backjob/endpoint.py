"""The application's requests to itself: monitor, worker, probe and check. The verified token says which one it is.

Only the worker's request reaches the app, with the content of the sealed record.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .application import Assembly
from .checks.check import prove_facts
from .client.backend import Backend
from .client.capture import may_run_in
from .client.security_log import EVERY
from .errors import KeyringError, OutsideMount, StoreError
from .keyring import CHECK, MONITOR, PROBE, SealError, Token, TokenError
from .model.app_id import may_have
from .model.job import Job, Status
from .transport.error_hints import SIGNATURE
from .transport.path_proofs import is_ahead
from .transport.protocol import PROOF_HEADER, TOKEN_HEADER, WireOutcome, name_app_here
from .transport.short_tokens import REMEMBERED
from .worker.current_job import CurrentJob
from .wsgi.iterables import AfterFirstChunk

log = logging.getLogger("backjob")

TOKEN_KEY = "HTTP_" + TOKEN_HEADER.upper().replace("-", "_")
_DRAIN_CHUNK = 65536

Responder = Callable[..., list[bytes]]


class Endpoint:
    """Answers to requests with a token. ``app`` runs the jobs."""

    def __init__(self, assembly: Assembly, app: Callable[..., Iterable[bytes]]) -> None:
        self._assembly = assembly
        self._get_backend = assembly.get_backend
        self._app = app
        self._unserved_until = float("-inf")

    def answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request with a token. It reaches the app only as a job."""
        respond: Responder = functools.partial(_respond_with, environ, start_response)
        token = None
        try:
            backend = self._get_backend()
            token = backend.keyring.verify(environ[TOKEN_KEY])
            if token.kind == PROBE:
                return self._prove(backend, token, environ, respond)
            if token.kind == CHECK:
                return self._report_facts(backend, token, environ, start_response)
            job = backend.store.get(token.job_id)
            if job is None or job.attempt != token.attempt or not token.is_bound_to(job.sealed):
                return respond(WireOutcome.UNKNOWN, token)
            if not may_have(backend.self_request.app_id, job.app_id):
                return respond(WireOutcome.UNKNOWN, token)
            self._note_arrival(backend, environ)
            backend.limits.note_process(environ, start_response)
            if token.kind == MONITOR:
                return self._monitor(backend, job, token, environ, respond)
            return self._work(backend, job, token, environ, respond)
        except (TokenError, SealError):
            self._assembly.refused_tokens.note(environ)
            return _respond(environ, start_response, "403 Forbidden")
        except (StoreError, KeyringError) as error:
            self._report_unserved(error, is_own=token is not None)
            return respond(WireOutcome.UNAVAILABLE, token)

    def _report_unserved(self, error: Exception, *, is_own: bool) -> None:
        """Log the error. For unverified tokens log it once a minute at most, because anyone can send them."""
        now = time.monotonic()
        if not is_own:
            if now < self._unserved_until:
                return
            self._unserved_until = now + EVERY
        log.error("A self-request can't be served: %s", error)

    def _prove(self, backend: Backend, token: Token, environ: dict[str, Any], respond: Responder) -> Iterable[bytes]:
        """Prove that this app answers here. A token that is too old, or comes again, has no other effect.

        It gets the same proof, which reveals nothing new. A probe may have waited long in the server's backlog, and
        some proxies send a request twice.
        """
        of_app = token.prove(name_app_here(backend.self_request.app))
        if not backend.self_request.paths.tokens.take(token):
            self._assembly.refused_tokens.note(environ, is_stale=True)
            return respond(WireOutcome.STALE_PROBE, token, of_app)
        self._note_arrival(backend, environ)
        if backend.has_dispatcher(environ):
            backend.dispatcher.start_looking()
        return respond(WireOutcome.HERE, token, of_app)

    def _report_facts(
        self, backend: Backend, token: Token, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a check, if no other process of the deployment has answered its token."""
        with contextlib.suppress(StoreError):
            backend.store.time()  # this process may not have read the time yet
        is_fresh = backend.self_request.paths.tokens.take(token)
        with contextlib.suppress(StoreError):  # a check must report that the store is unreachable
            is_fresh = is_fresh and backend.store.use_once(f"token-{token.nonce}"[:64], REMEMBERED)
        if not is_fresh:
            self._assembly.refused_tokens.note(environ, is_stale=True)
            return _respond_with(environ, start_response, WireOutcome.STALE_CHECK, token)
        self._note_arrival(backend, environ)
        facts = self._assembly.deployment.answer(environ, start_response)
        return _respond(environ, start_response, "200 OK", prove_facts(token, facts), facts)

    def _note_arrival(self, backend: Backend, environ: dict[str, Any]) -> None:
        backend.self_request.learn(environ)
        self._assembly.note_job_request()

    def _monitor(
        self, backend: Backend, job: Job, token: Token, environ: dict[str, Any], respond: Responder
    ) -> Iterable[bytes]:
        backend.self_request.note_arrival(job, token)
        if is_ahead(token.nonce):
            backend.self_request.note_path(job.path, token.nonce)
        backend.monitor.end_outage()
        if job.status is not Status.STARTED:
            return respond(WireOutcome.REFUSED, token)
        go_on = backend.accept(job, token.nonce, environ)
        if go_on is None:
            return respond(WireOutcome.REFUSED, token)
        return AfterFirstChunk(respond(WireOutcome.ACCEPTED, token), go_on)

    def _work(
        self, backend: Backend, job: Job, token: Token, environ: dict[str, Any], respond: Responder
    ) -> Iterable[bytes]:
        if job.status is not Status.STARTED:
            return respond(WireOutcome.REFUSED, token)
        way = backend.dispatcher.choose_way(environ)
        _drain(environ)
        if backend.can_run(job):
            request = backend.keyring.unseal(job.id, job.uid, job.sealed)
            if not may_run_in(backend.self_request.app, request):
                return respond(WireOutcome.UNKNOWN, token)
            try:
                current = CurrentJob(backend, job, request, environ)
            except OutsideMount as error:  # started outside of a request, where the mount is not known
                backend.monitor.refuse_target(job, error)
                return respond(WireOutcome.REFUSED, token)
            outcome = self._run_if_slot_is_free(backend, job, token, current)
        else:
            outcome = backend.choose_refusal(job)
        is_full = outcome is WireOutcome.FULL
        if way != "thread" and is_full and job.held_by:
            # The launching process may be gone. With the hold released first, this process finds the job, or the next
            # one that finishes a job.
            backend.store.note_full(job.id, job.attempt, job.held_by)
        if way != "thread" and (outcome is WireOutcome.ENDED or (is_full and backend.limits.has_room_here)):
            backend.dispatcher.take_up_here(way, backend.has_dispatcher(environ))
        return respond(outcome, token)

    def _run_if_slot_is_free(self, backend: Backend, job: Job, token: Token, current: CurrentJob) -> WireOutcome:
        """Claim the job and run it, unless the limit is reached."""
        limits, owner = backend.limits, backend.monitor.name_claim(token)
        if not limits.enter():
            return WireOutcome.FULL
        try:
            most = limits.max_running, limits.of_scope(job.scope)
            if not backend.store.claim(job.id, job.attempt, owner, backend.config.lease, *most):
                glance = backend.store.glance(job.id)
                is_full = glance is not None and glance.status is Status.STARTED and glance.attempt == job.attempt
                return WireOutcome.FULL if is_full else WireOutcome.REFUSED
            backend.dispatcher.note_claim(job.id)
            return WireOutcome.ENDED if current.run(self._app, owner) else WireOutcome.FORKED
        finally:
            limits.leave()


def _respond_with(
    environ: Mapping[str, Any],
    start_response: Callable[..., Any],
    outcome: WireOutcome,
    token: Token | None,
    further_proof: str = "",
) -> list[bytes]:
    """Return an answer with the proof of this outcome, or without a proof if the token could not be verified."""
    proof = f"{token.prove(outcome.text)} {further_proof}".rstrip() if token is not None else ""
    return _respond(environ, start_response, outcome.status, proof)


def _respond(
    environ: Mapping[str, Any], start_response: Callable[..., Any], status: str, proof: str = "", text: str = ""
) -> list[bytes]:
    """Return an answer of backjob itself, in ASCII, with a length. Proxies must not cache or buffer it."""
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
    """Read the body, because a server that closes with unread input may cut off the answer."""
    try:
        left = int(environ.get("CONTENT_LENGTH") or 0)
        while left > 0:
            chunk = environ["wsgi.input"].read(min(left, _DRAIN_CHUNK))
            if not chunk:
                break
            left -= len(chunk)
    except (ValueError, OSError):
        pass  # the record has the body
