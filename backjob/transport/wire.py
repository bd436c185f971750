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

from .connection_failures import describe_queue, explain_failure, explain_lost_request, explain_no_answer
from .protocol import TOKEN_HEADER

CONNECT_TIMEOUT = 1.0
PROBE_TIMEOUT = 2.0
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
        """Reason why requests wait for an answer, for people. Empty while none waits for long."""

    def connect(self, address: Address, timeout: float) -> Connection:
        """Open a connection. Raises OSError."""
        # A server of several sites chooses one by the name in the TLS handshake.
        site = "" if address.is_verified else address.site
        return Connection(address, timeout=max(timeout, 0.01), ca_file=self._config.ca_file, site=site)

    def build(
        self, token: Token, address: Address, method: str, target: str, body: bytes = b"", content_type: str = ""
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
        """Return the bytes of a request without a body to the mount: a POST, or a GET if the mount is unknown.

        That GET goes to a path of the job, where another app may answer.
        """
        method = "GET" if request.script_name is None else "POST"
        return self.build(token, address, method, mount_target(request))

    def ask(
        self, address: Address, token: Token, request: JobRequest, timeout: float, path: str | None = None
    ) -> Answer:
        """Return the answer to a GET of this path, or without one to a request to the mount.

        ``timeout``: seconds to wait for the whole answer. If it is infinite, see wait_in_queue(). Raises LaunchError
        without an answer: Busy if the request could not be sent, and NoAnswer if it was.
        """

        def take(step: Step) -> bool:
            if timeout < float("inf"):
                return is_done(step, end - time.monotonic())
            self.wait_in_queue(step, address, lambda: self._is_answered(address, token, request, path))
            return True

        at_path = self.build(token, address, "GET", path) if path is not None else b""
        end = time.monotonic() + timeout
        try:
            with self.connect(address, min(timeout, CONNECT_TIMEOUT)) as connection:
                if not take(connection.shake_hands):
                    raise Busy(explain_no_answer(address, timeout))
                connection.send(at_path or self.build_for_mount(token, request, address), CONNECT_TIMEOUT)
                if not take(connection.receive):
                    raise explain_no_answer(address, timeout)
                return connection.answer
        except OSError as error:
            raise explain_failure(error, address) from error

    def wait_in_queue(self, step: Step, address: Address, answers_later: Callable[[], bool]) -> None:
        """Take a step of a connection without a time-out, because all slots of the server may be busy for hours.

        Requests are served in the order in which they arrive. If a later one is answered first, this one is lost, for
        example in a proxy. Raises NoAnswer then. ``answers_later`` sends a later request.
        """
        began, pause = time.monotonic(), UNANSWERED
        try:
            while not is_done(step, pause):
                waited = time.monotonic() - began
                if not answers_later():
                    self.queue = describe_queue(address, waited).public
                elif not is_done(step, _SERVED_AT_ONCE):
                    raise explain_lost_request(address, waited)
                pause = min(2 * pause, _LONGEST_UNANSWERED)
        finally:
            self.queue = ""

    def _is_answered(self, address: Address, token: Token, request: JobRequest, path: str | None) -> bool:
        try:
            return bool(self.ask(address, token, request, PROBE_TIMEOUT, path).raw)
        except LaunchError:
            return False
