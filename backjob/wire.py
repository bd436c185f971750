"""One exchange of a self-request with one address: the connection, the bytes, and the whole answer.

Knows the options that shape a self-request. Judges no answer.
"""

from __future__ import annotations

import time

from ._socket import Answer, Connection, build_request, is_done
from .address import Address
from .config import Config
from .diagnosis import explain_failure, explain_silence
from .errors import Busy
from .job import JobRequest
from .keyring import Token
from .mounts import mount_target
from .proofs import TOKEN_HEADER
from .request import wire_host

CONNECT_TIMEOUT = 1.0


class Wire:
    """Sends self-requests with the headers and the certificates that the options ask for."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def connect(self, address: Address, timeout: float, request: JobRequest) -> Connection:
        """Open a connection. Raises OSError."""
        # A server of several sites over TLS wants to know by the handshake which one is meant.
        site = wire_host(request, "") if address.tls and not address.is_verified else ""
        return Connection(address, timeout=max(timeout, 0.01), ca_file=self._config.ca_file, site=site)

    def build(
        self,
        token: Token,
        request: JobRequest,
        address: Address,
        method: str,
        target: str,
        body: bytes = b"",
        content_type: str = "",
    ) -> bytes:
        """Return the bytes of one self-request for this job."""
        return build_request(
            method,
            target,
            host=wire_host(request, address.authority),
            user_agent=self._config.user_agent,
            # The headers that open the app's own address are not sent to that of another app.
            headers={**({} if address.is_recorded else self._config.connect_headers), TOKEN_HEADER: token.text},
            body=body,
            content_type=content_type,
        )

    def build_for_mount(self, token: Token, request: JobRequest, address: Address) -> bytes:
        """Return the bytes of a request to the mount, without a body."""
        return self.build(token, request, address, _choose_mount_method(request), mount_target(request))

    def ask(
        self, address: Address, token: Token, request: JobRequest, patience: float, path: str | None = None
    ) -> Answer:
        """Return the answer to a GET of this path, or without one to a request to the mount.

        ``patience``: seconds to wait for the whole answer. Raises LaunchError without one: Busy if the request could
        not be sent, and Silence if it was.
        """
        at_path = self.build(token, request, address, "GET", path) if path is not None else b""
        end = time.monotonic() + patience
        try:
            with self.connect(address, min(patience, CONNECT_TIMEOUT), request) as connection:
                if not is_done(connection.shake_hands, end - time.monotonic()):
                    raise Busy(str(explain_silence(address, patience)))
                connection.send(at_path or self.build_for_mount(token, request, address), CONNECT_TIMEOUT)
                if not is_done(connection.receive, end - time.monotonic()):
                    raise explain_silence(address, patience)
                return connection.answer
        except OSError as error:
            raise explain_failure(error, address) from error


def _choose_mount_method(request: JobRequest) -> str:
    """GET if the mount is unknown: the request then goes to a path of the job, where a foreign app may answer."""
    return "GET" if request.script_name is None else "POST"
