"""Self-requests: sends a job's requests to the application's own server, and raises what went wrong.

Knows addresses, tokens and the raw socket. Decides nothing about a job.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from backjob._socket import Connection, Step, check_method, check_target, is_done
from backjob.config import Config
from backjob.errors import AddressError, Busy, LaunchError
from backjob.keyring import Keyring, SealError, Token
from backjob.messages import compose, plain
from backjob.model.address import Address
from backjob.model.app_id import name_app
from backjob.model.job import Job, JobRequest

from .connection_failures import explain_failure
from .error_hints import sum_up
from .own_address import OwnAddress
from .path_proofs import FRESH, FRESH_FROM_SLOT, PathProofs
from .protocol import Clock, ShortTokens, host_time, is_taken
from .wire import CONNECT_TIMEOUT, PROBE_TIMEOUT, Wire

SEND_TIMEOUT = 30.0
MOST_UNANSWERED = 2
_PAGE_CONNECT_TIMEOUT = 0.5
_SHORT_TIMEOUT = 0.01
_NO_POST = plain("no POST has reached BackJob: slots are busy, or something in front of it refuses POSTs")


class Launcher(Protocol):
    """Interface of the option ``launcher``: launches the jobs of start()."""

    def check(self, environ: Mapping[str, Any] | None) -> None:
        """Raise AddressError if no job can be launched from this request (None: outside of one)."""

    def launch(self, token: Token, request: JobRequest, environ: Mapping[str, Any] | None) -> bool:
        """Start the monitor. Return True if it has answered, False if it will later. Raises LaunchError (or Busy)."""


_NOT_THIS_APP = "what listens in this process is not this app"


class SelfRequest:
    """Launcher that sends requests to the application's own address. ``app`` is the application's name."""

    def __init__(self, config: Config, keyring: Keyring, app: str = "", now: Clock = host_time) -> None:
        self._config = config
        self._keyring = keyring
        self.app = app
        self.app_id = name_app(app)
        self.own = OwnAddress(config)
        self.wire = Wire(config)
        self._connect, self._build, self.ask = self.wire.connect, self.wire.build, self.wire.ask
        self.paths = PathProofs(ShortTokens(keyring, now), self.wire, app)
        self.has_worked = False
        """True once a request of this process has reached this app: later failures are outages, not wrong settings."""
        self._timeout = config.close_delay
        self._unanswered, self._last_unanswered = 0, 0.0

    def learn(self, environ: Mapping[str, Any]) -> None:
        """Store the address of an incoming self-request, for use outside of requests."""
        self.paths.note_arrival(environ.get("REQUEST_METHOD", ""), environ.get("SCRIPT_NAME", ""))
        self.own.learn_from_self_request(environ)

    def check(self, environ: Mapping[str, Any] | None) -> None:
        """Raise AddressError if the application's own address is not known."""
        self.candidates(environ)
        if environ is not None:
            self.own.learn(environ)

    def candidates(self, environ: Mapping[str, Any] | None) -> list[Address]:
        """Return the addresses that a launch from here would try. Raises AddressError if none is known."""
        return self.own.candidates(environ)

    def note_arrival(self, job: Job, token: Token) -> None:
        """Record the arrival of this launch, which proves the address to which it was sent (see docs/decisions, 11)."""
        if self.own.note_arrival(token.nonce):
            self.has_worked = True
        elif self.own.needs_proof(FRESH):
            with contextlib.suppress(SealError):  # such a record is handled elsewhere
                self.own.note_arrival_of(self._keyring.unseal(job.id, job.uid, job.sealed))

    def note_path(self, path: str, nonce: str) -> None:
        """Record the arrival of a request that was sent to this path of a job."""
        with contextlib.suppress(AddressError):
            self.paths.note_job_path(self.candidates(None)[0], path, nonce)

    def note_origin(self, request: JobRequest, environ: Mapping[str, Any] | None) -> JobRequest:
        """Return the request with what another process needs to launch it: the app and its address."""
        return replace(self.own.note_origin(request, environ), app=self.app)

    def unseal(self, job: Job) -> JobRequest:
        """Return the request of a job. One that this app has adopted becomes its own. Raises SealError."""
        request = self._keyring.unseal(job.id, job.uid, job.sealed)
        is_adopted = request.by_connect and job.app_id == self.app_id
        return replace(request, app=self.app, by_connect=False) if is_adopted else request

    @property
    def is_backlogged(self) -> bool:
        """True if launches are waiting in the server's backlog: another one would delay the requests of visitors."""
        return self._unanswered >= MOST_UNANSWERED and time.monotonic() - self._last_unanswered < CONNECT_TIMEOUT

    def launch(self, token: Token, request: JobRequest, environ: Mapping[str, Any] | None) -> bool:
        """Send the monitor's request. Read its answer if it comes within close_delay, and close in any case."""
        failures: list[LaunchError] = []
        end = time.monotonic() + _PAGE_CONNECT_TIMEOUT
        for address in self.candidates(environ):
            try:
                with self._connect(address, end - time.monotonic()) as connection:
                    self.own.keep_sent(token.nonce, address)
                    self._send_monitor(connection, token, request, address)
                    if not is_done(connection.receive, self._timeout):
                        # The server's only slot may be busy with this request: the new one is in its backlog.
                        self._timeout = min(self._timeout, _SHORT_TIMEOUT)
                        self._unanswered += 1
                        self.own.expire_proof()
                        self._last_unanswered = time.monotonic()
                        return False
                    if is_taken(connection.answer, token):
                        self.note_proof(address)
                        self._unanswered = 0
                        return True
                    connection.close()  # some servers serve no other request until then
                    failures.append(self.paths.explain_monitor(connection.answer, address, token, request))
                    if address.is_sure:
                        break  # failures at guessed addresses would only blur the message
            except OSError as error:
                failures.append(explain_failure(error, address))
        self.own.forget()
        raise sum_up(failures)

    def open(self, token: Token, request: JobRequest, *, from_slot: bool = False) -> Connection:
        """Send the worker's request and return its open connection. Raises LaunchError, also if no address is known.

        ``from_slot``: the caller holds a slot of the server, maybe its only one, and can't wait for an answer. Raises
        Busy if the server makes the TLS handshake in a slot and none is free.
        """
        check_method(request.method), check_target(request.target)
        try:
            address = self._proven_address(token, request, from_slot)
            target = request.target
            wire = self._build(token, address, request.method, target, request.body, request.content_type)
            if not self.paths.covers(address, request, from_slot=from_slot):
                self.paths.prove(address, token, request, PROBE_TIMEOUT if from_slot else float("inf"))
                self.has_worked = True
            connection = self._connect(address, CONNECT_TIMEOUT)
            try:
                self._shake_hands(connection, token, request, from_slot)
                connection.send(wire, SEND_TIMEOUT)
            except BaseException:
                connection.close()
                raise
            return connection
        except AddressError as error:
            raise LaunchError(error) from error
        except OSError as error:
            self.forget_proofs()
            raise explain_failure(error, address) from error

    def _shake_hands(self, connection: Connection, token: Token, request: JobRequest, from_slot: bool) -> None:
        """Make the TLS handshake. Some servers make it in a slot: only a caller outside of one can wait for that."""
        if not from_slot:
            self.wait_in_queue(connection.shake_hands, connection, token, request)
        elif not is_done(connection.shake_hands, self._config.close_delay):
            raise Busy

    def wait_in_queue(self, step: Step, connection: Connection, token: Token, request: JobRequest) -> None:
        """Take a step of the worker's connection, without a time-out. Raises LaunchError if its request is lost."""
        answers_later = functools.partial(self.paths.answers, connection.address, token, request, request.path)
        try:
            self.wire.wait_in_queue(step, connection.address, answers_later)
        except LaunchError:
            self.forget_proofs()
            raise

    def explain_worker_answer(self, connection: Connection, token: Token, request: JobRequest) -> LaunchError:
        """Explain an answer to the worker's request that is not BackJob's. The address then needs a new proof."""
        connection.close()  # gunicorn's gthread worker waits for that, up to 2 s, and answers no probe meanwhile
        self.forget_proofs()
        return self.paths.explain_worker(connection.answer, connection.address, token, request)

    def covers(self, request: JobRequest) -> bool:
        """Return whether the worker's request can be sent from a slot, which can't wait for a probe.

        True for a job that is sent to another address and if no address is known: open() decides about those.
        """
        try:
            address = self.candidates(None)[0]
        except AddressError:
            return True
        if self.own.find_elsewhere(request, self.app):
            return True
        return not self.own.needs_proof(FRESH_FROM_SLOT) and self.paths.covers(address, request, from_slot=True)

    def post_to_mount(self, token: Token, request: JobRequest, *, is_again: bool) -> bool:
        """Call ``PathProofs.post_to_mount()``. ``is_again``: the job was launched before. Raises LaunchError."""
        address = self.candidates(None)[0]
        if is_again and self.paths.has_reached_job_path(address, request):
            raise LaunchError(_NO_POST)
        return self.paths.post_to_mount(address, token, request, self._config.close_delay)

    def send_to_job_path(self, token: Token, request: JobRequest) -> None:
        """Send the monitor's request to the job's own path. Raises LaunchError if something else answers at once."""
        address = self.candidates(None)[0]
        self.own.keep_sent(token.nonce, address)
        self.paths.send_to_job_path(address, token, request, self._config.close_delay)

    def note_proof(self, address: Address) -> None:
        """Record that the app has just answered at this address, or what a job was started for elsewhere."""
        self.own.note_proof(address)
        self.has_worked = True

    def forget_proofs(self) -> None:
        """Make each address prove itself again, after a failure or an answer of another program."""
        self.own.forget()
        self.paths.clear()

    def _proven_address(self, token: Token, request: JobRequest, from_slot: bool) -> Address:
        """Return an address at which this app has proved that it answers: the request may hold a user's form."""
        candidates = self.own.guess(request, self.app)
        fresh = FRESH_FROM_SLOT if from_slot else FRESH
        is_only = len(candidates) == 1 and not candidates[0].is_recorded and not self.own.needs_proof(fresh)
        if self.own.is_proven(candidates[0], fresh) or (from_slot and is_only):
            return candidates[0]
        # A single address is waited for without limit. Of several, one may be a program that never answers.
        is_one = len({replace(address, site="") for address in candidates}) == 1
        timeout = float("inf") if is_one and not from_slot else PROBE_TIMEOUT
        try:
            address = self._prove_one(candidates, token, request, timeout)
        except LaunchError as error:
            if not error.is_final or self.own.is_known(candidates[0]):
                raise
            # No request has come to this process: it may be no server of the app, or lack the ca_file of the starter.
            what = "the address of its connect= is not usable here" if candidates[0].is_recorded else _NOT_THIS_APP
            raise Busy(compose(f"{what}: {{error}}", error=error), is_final=True) from None
        self.note_proof(address)
        return address

    def _prove_one(self, candidates: list[Address], token: Token, request: JobRequest, timeout: float) -> Address:
        failures: list[LaunchError] = []
        for address in candidates:
            try:
                self.paths.prove_mount(address, token, request, timeout)
                return address
            except LaunchError as error:
                failures.append(error)
        raise sum_up(failures)

    def send_wake_up(self, token: Token, request: JobRequest, timeout: float) -> None:
        """Send a probe, so that a process of this app has a request. Raises AddressError if no address is known."""
        for address in self.own.guess(replace(request, app=self.app), self.app):
            with contextlib.suppress(LaunchError):
                self.paths.prove_mount(address, token, request, timeout)
                break

    def _send_monitor(self, connection: Connection, token: Token, request: JobRequest, address: Address) -> None:
        if not connection.shake_hands(self._timeout):
            self._timeout = min(self._timeout, _SHORT_TIMEOUT)
            raise Busy
        connection.send(self.wire.build_for_mount(token, request, address), _PAGE_CONNECT_TIMEOUT)
