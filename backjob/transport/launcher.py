"""The self-request: how a job's requests get to the app's own server, and what an answer means.

Knows addresses, tokens and the raw socket. Decides nothing about a job: it says what it met, in words that mend it.
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
from .protocol import is_taken
from .short_tokens import Clock, ShortTokens, host_time
from .wire import CONNECT_TIMEOUT, PROBE_PATIENCE, Wire

SEND_TIMEOUT = 30.0
MOST_UNANSWERED = 2
_PAGE_CONNECT_TIMEOUT = 0.5
_SHORT_PATIENCE = 0.01
_NO_POST = plain("no POST has reached BackJob: slots are busy, or something in front of it refuses POSTs")


class Launcher(Protocol):
    """What start() needs: can a job be launched from here, and launch it. What else one may have: see testing.py."""

    def check(self, environ: Mapping[str, Any] | None) -> None:
        """Raise AddressError when nothing can be launched from here."""

    def launch(self, token: Token, request: JobRequest, environ: Mapping[str, Any] | None) -> bool:
        """Start the monitor. True when it has answered, False when it will later. Raises LaunchError (or Busy)."""


class SelfRequest:
    """The Launcher that writes requests to the app's own address. ``app`` tells apps apart that share their jobs."""

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
        """Has a request of this process reached this app? If so, a failure is an outage, not a wrong setting."""
        self._patience = config.close_delay
        self._unanswered, self._last_unanswered = 0, 0.0

    def learn(self, environ: Mapping[str, Any]) -> None:
        """Remember the address of an incoming self-request, for use outside of requests."""
        self.paths.note_arrival(environ.get("REQUEST_METHOD", ""), environ.get("SCRIPT_NAME", ""))
        self.own.learn_from_own(environ)

    def check(self, environ: Mapping[str, Any] | None) -> None:
        """Raise AddressError when the own address is not known."""
        self.candidates(environ)
        if environ is not None:
            self.own.learn(environ)

    def candidates(self, environ: Mapping[str, Any] | None) -> list[Address]:
        """The addresses that a launch from here would try. Raises AddressError when none is known."""
        return self.own.candidates(environ)

    def note_arrival(self, job: Job, token: Token) -> None:
        """Record the arrival of this launch, which proves the address to which it was sent (see docs/decisions, 11)."""
        if self.own.note_arrival(token.nonce):
            self.has_worked = True
        elif self.own.is_doubted(FRESH):
            with contextlib.suppress(SealError):  # such a record is handled elsewhere
                self.own.note_arrival_of(self._keyring.unseal(job.id, job.uid, job.sealed))

    def note_path(self, path: str, nonce: str) -> None:
        """A request that was sent to this path of a job has come in."""
        with contextlib.suppress(AddressError):
            self.paths.note_ahead(self.candidates(None)[0], path, nonce)

    def note_origin(self, request: JobRequest, environ: Mapping[str, Any] | None) -> JobRequest:
        """The request with what is to be known should another process launch it: whose job it is, and where from."""
        return replace(self.own.note_origin(request, environ), app=self.app)

    def unseal(self, job: Job) -> JobRequest:
        """Return the request of a job; a job that this app has adopted is as good as its own. Raises SealError."""
        request = self._keyring.unseal(job.id, job.uid, job.sealed)
        is_adopted = request.by_connect and job.app_id == self.app_id
        return replace(request, app=self.app, by_connect=False) if is_adopted else request

    @property
    def is_crowded(self) -> bool:
        """Do so many launches lie in the server's backlog just now that one more would only be in people's way?"""
        return self._unanswered >= MOST_UNANSWERED and time.monotonic() - self._last_unanswered < CONNECT_TIMEOUT

    def launch(self, token: Token, request: JobRequest, environ: Mapping[str, Any] | None) -> bool:
        """Send the monitor's request and leave: read its answer if it comes within close_delay, close in any case."""
        failures: list[LaunchError] = []
        end = time.monotonic() + _PAGE_CONNECT_TIMEOUT
        for address in self.candidates(environ):
            try:
                with self._connect(address, end - time.monotonic()) as connection:
                    self.own.keep_sent(token.nonce, address)
                    self._send_monitor(connection, token, request, address)
                    if not is_done(connection.receive, self._patience):
                        # Its only slot may be busy with this very request: what was sent is in its backlog.
                        self._patience = min(self._patience, _SHORT_PATIENCE)
                        self._unanswered += 1
                        self.own.doubt()
                        self._last_unanswered = time.monotonic()
                        return False
                    if is_taken(connection.answer, token):
                        self.note_proof(address)
                        self._unanswered = 0
                        return True
                    connection.close()  # some servers serve no other request before that
                    failures.append(self.paths.explain_monitor(connection.answer, address, token, request))
                    if address.is_sure:
                        break  # what answers there is what is to be told: guesses would only add to it
            except OSError as error:
                failures.append(explain_failure(error, address))
        self.own.forget()
        raise sum_up(failures)

    def open(self, token: Token, request: JobRequest, *, from_slot: bool = False) -> Connection:
        """Send the worker's request and keep its connection open. Raises LaunchError, also when no address is known.

        ``from_slot``: the caller holds a slot of the server, maybe its only one, and can't wait for an answer of it.
        It raises Busy if the server makes the TLS handshake in a slot and none is free.
        """
        check_method(request.method), check_target(request.target)
        try:
            address = self._proven_address(token, request, from_slot)
            target = request.target
            wire = self._build(token, address, request.method, target, request.body, request.content_type)
            if not self.paths.covers(address, request, from_slot=from_slot):
                self.paths.prove(address, token, request, PROBE_PATIENCE if from_slot else float("inf"))
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
        """Some servers make the TLS handshake in a slot: outside of one, wait until one is free."""
        if not from_slot:
            self.wait_in_queue(connection.shake_hands, connection, token, request)
        elif not is_done(connection.shake_hands, self._config.close_delay):
            raise Busy

    def wait_in_queue(self, step: Step, connection: Connection, token: Token, request: JobRequest) -> None:
        """Take a step of the worker's connection, as long as it takes. Raises LaunchError if its request is lost."""
        answers_later = functools.partial(self.paths.answers, connection.address, token, request, request.path)
        try:
            self.wire.wait_in_queue(step, connection.address, answers_later)
        except LaunchError:
            self.forget_proofs()
            raise

    def doubt(self, connection: Connection, token: Token, request: JobRequest) -> LaunchError:
        """Explain an answer to the worker's request that is not our worker's. The address has to prove itself anew."""
        connection.close()  # gunicorn's gthread worker waits for that, up to 2 s, and answers no probe meanwhile
        self.forget_proofs()
        return self.paths.explain_worker(connection.answer, connection.address, token, request)

    def covers(self, request: JobRequest) -> bool:
        """Can the worker's request be sent from a slot, where no probe could be waited for?

        Always for a job that is sent elsewhere and if no address is known: open() decides about those.
        """
        try:
            address = self.candidates(None)[0]
        except AddressError:
            return True
        if self.own.find_elsewhere(request, self.app):
            return True
        return not self.own.is_doubted(FRESH_FROM_SLOT) and self.paths.covers(address, request, from_slot=True)

    def post_ahead(self, token: Token, request: JobRequest, *, is_again: bool) -> bool:
        """Call ``PathProofs.post_ahead()``. ``is_again``: the job was launched before. Raises LaunchError."""
        address = self.candidates(None)[0]
        if is_again and self.paths.has_come_ahead(address, request):
            raise LaunchError(_NO_POST)
        return self.paths.post_ahead(address, token, request, self._config.close_delay)

    def send_ahead(self, token: Token, request: JobRequest) -> None:
        """Send the monitor's request to the job's own path. Raises LaunchError if something else answers at once."""
        address = self.candidates(None)[0]
        self.own.keep_sent(token.nonce, address)
        self.paths.send_ahead(address, token, request, self._config.close_delay)

    def note_proof(self, address: Address) -> None:
        """Record that the app has just answered at this address, or what a job was started for elsewhere."""
        self.own.note_proof(address)
        self.has_worked = True

    def forget_proofs(self) -> None:
        """Make each address prove itself again, after a failure or an answer of another program."""
        self.own.forget()
        self.paths.clear()

    def _proven_address(self, token: Token, request: JobRequest, from_slot: bool) -> Address:
        """Where a request with a user's form in it may go: to our own server and to no other program."""
        candidates = self.own.guess(request, self.app)
        fresh = FRESH_FROM_SLOT if from_slot else FRESH
        is_only = len(candidates) == 1 and not candidates[0].is_recorded and not self.own.is_doubted(fresh)
        if self.own.is_proven(candidates[0], fresh) or (from_slot and is_only):
            return candidates[0]
        # The only one may be as busy as it likes; of several one may be a program that never says a word.
        is_one = len({replace(address, site="") for address in candidates}) == 1
        patience = float("inf") if is_one and not from_slot else PROBE_PATIENCE
        try:
            address = self._prove_one(candidates, token, request, patience)
        except LaunchError as error:
            if not error.is_final or candidates[0].is_recorded or self.own.is_known(candidates[0]):
                raise
            # No request has come here. What listens is something else, and this may be no server of the app at all.
            text = compose("what listens in this process is not this app: {error}", error=error)
            raise Busy(text, is_final=True) from None
        self.note_proof(address)
        return address

    def _prove_one(self, candidates: list[Address], token: Token, request: JobRequest, patience: float) -> Address:
        failures: list[LaunchError] = []
        for address in candidates:
            try:
                self.paths.prove_mount(address, token, request, patience)
                return address
            except LaunchError as error:
                failures.append(error)
        raise sum_up(failures)

    def knock(self, token: Token, request: JobRequest, patience: float) -> None:
        """Have a request come to this app, in whichever process. Raises AddressError where no address is known."""
        for address in self.own.guess(replace(request, app=self.app), self.app):
            with contextlib.suppress(LaunchError):
                self.paths.prove_mount(address, token, request, patience)
                break

    def _send_monitor(self, connection: Connection, token: Token, request: JobRequest, address: Address) -> None:
        if not connection.shake_hands(self._patience):
            self._patience = min(self._patience, _SHORT_PATIENCE)
            raise Busy
        connection.send(self.wire.build_for_mount(token, request, address), _PAGE_CONNECT_TIMEOUT)
