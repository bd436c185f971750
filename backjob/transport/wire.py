"""One exchange of a self-request with one address: the connection, the bytes, and the whole answer.

Knows the options that shape a self-request. Judges no answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from backjob._socket import Answer, Connection, Step, build_request, is_done
from backjob.config import Config
from backjob.errors import Busy, LaunchError
from backjob.keyring import Token
from backjob.model.address import Address
from backjob.model.job import JobRequest
from backjob.wsgi.mounts import mount_target

from .connection_failures import explain_failure, explain_loss, explain_queue, explain_silence
from .protocol import TOKEN_HEADER

CONNECT_TIMEOUT = 1.0
PROBE_PATIENCE = 2.0
UNANSWERED = 10.0
"""Seconds without an answer until a later request shows whether this one is lost."""
_LONGEST_UNANSWERED = 60.0
_SERVED_AT_ONCE = 1.0
"""Seconds until a request shows that it was served just before a later one."""


class Wire:
    """Sends self-requests with the headers and the certificates that the options ask for."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.queue = ""
        """Why requests wait for an answer: a text for people. Empty while none waits for long."""

    def connect(self, address: Address, timeout: float) -> Connection:
        """Open a connection. Raises OSError."""
        # A server of several sites over TLS wants to know by the handshake which one is meant.
        site = "" if address.is_verified else address.site
        return Connection(address, timeout=max(timeout, 0.01), ca_file=self._config.ca_file, site=site)

    def build(
        self,
        token: Token,
        address: Address,
        method: str,
        target: str,
        body: bytes = b"",
        content_type: str = "",
    ) -> bytes:
        """Return the bytes of one self-request."""
        return build_request(
            method,
            target,
            host=address.wire_host,
            user_agent=self._config.user_agent,
            # The headers that open the app's own address are not sent to that of another app.
            headers={**({} if address.is_recorded else self._config.connect_headers), TOKEN_HEADER: token.text},
            body=body,
            content_type=content_type,
        )

    def build_for_mount(self, token: Token, request: JobRequest, address: Address) -> bytes:
        """Return the bytes of a request to the mount, without a body."""
        return self.build(token, address, _choose_mount_method(request), mount_target(request))

    def ask(
        self, address: Address, token: Token, request: JobRequest, patience: float, path: str | None = None
    ) -> Answer:
        """Return the answer to a GET of this path, or without one to a request to the mount.

        ``patience``: seconds to wait for the whole answer. If it is infinite, see wait_in_queue(). Raises LaunchError
        without an answer: Busy if the request could not be sent, and Silence if it was.
        """

        def take(step: Step) -> bool:
            if patience < float("inf"):
                return is_done(step, end - time.monotonic())
            self.wait_in_queue(step, address, lambda: self._is_answered(address, token, request, path))
            return True

        at_path = self.build(token, address, "GET", path) if path is not None else b""
        end = time.monotonic() + patience
        try:
            with self.connect(address, min(patience, CONNECT_TIMEOUT)) as connection:
                if not take(connection.shake_hands):
                    raise Busy(explain_silence(address, patience))
                connection.send(at_path or self.build_for_mount(token, request, address), CONNECT_TIMEOUT)
                if not take(connection.receive):
                    raise explain_silence(address, patience)
                return connection.answer
        except OSError as error:
            raise explain_failure(error, address) from error

    def wait_in_queue(self, step: Step, address: Address, answers_later: Callable[[], bool]) -> None:
        """Take a step of a connection, as long as it takes: all slots of the server may be busy for hours.

        Requests are served in the order in which they come. If a later one is answered first, this one is lost: a proxy
        or relay was silent when it came, for example. Raises Silence then. ``answers_later`` sends a later request.
        """
        began, pause = time.monotonic(), UNANSWERED
        try:
            while not is_done(step, pause):
                waited = time.monotonic() - began
                if not answers_later():
                    self.queue = explain_queue(address, waited).public
                elif not is_done(step, _SERVED_AT_ONCE):
                    raise explain_loss(address, waited)
                pause = min(2 * pause, _LONGEST_UNANSWERED)
        finally:
            self.queue = ""

    def _is_answered(self, address: Address, token: Token, request: JobRequest, path: str | None) -> bool:
        try:
            return bool(self.ask(address, token, request, PROBE_PATIENCE, path).raw)
        except LaunchError:
            return False


def _choose_mount_method(request: JobRequest) -> str:
    """GET if the mount is unknown: the request then goes to a path of the job, where a foreign app may answer."""
    return "GET" if request.script_name is None else "POST"
