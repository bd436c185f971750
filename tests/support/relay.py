"""A wire between a client and a server that breaks where a test says: before a request, or before its answer."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import socketserver
import threading
import time


class Relay(socketserver.ThreadingTCPServer):
    """Passes bytes on between its own port of the loopback and a server's, for as long as the block lasts."""

    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True

    def __init__(self, port: int, own_port: int = 0, distance: float = 0.0) -> None:
        super().__init__(("127.0.0.1", own_port), _Wire)
        self.backend = ("127.0.0.1", port)
        self.distance = distance
        """Seconds that all takes which is said on either side."""
        self.port: int = self.server_address[1]
        self.cuts = 0
        """How often it has broken a connection."""
        self._pattern = re.compile(b"")
        self._is_heard = False
        self._left = 0
        self._silencing: re.Pattern[bytes] | None = None
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def break_at(self, pattern: str, *, is_heard: bool, times: int = 1) -> None:
        """Break the connection on which the client next says this: when the server has answered, or unheard."""
        self._pattern, self._is_heard, self._left = re.compile(pattern.encode()), is_heard, times

    def silence_at(self, pattern: str) -> None:
        """Pass nothing on from where the client sends this pattern, on each connection. The connection stays open."""
        self._silencing = re.compile(pattern.encode())

    def is_to_silence(self, said: bytes) -> bool:
        return self._silencing is not None and self._silencing.search(said) is not None

    def is_to_break(self, said: bytes) -> bool:
        is_it = self._left > 0 and self._pattern.search(said) is not None
        if is_it:
            self._left -= 1
            self.cuts += 1
        return is_it

    @property
    def is_heard(self) -> bool:
        return self._is_heard

    @property
    def is_closed(self) -> bool:
        return self._is_closed.is_set()

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_closed.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Wire(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        client: socket.socket = self.request
        with (
            contextlib.suppress(OSError),
            socket.create_connection(self.server.backend) as server,
            selectors.DefaultSelector() as selector,
        ):
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            is_broken = is_silent = False
            while not self.server.is_closed:
                for key, _ in selector.select(0.1):
                    said = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not said or (is_broken and key.fileobj is server):
                        return
                    is_silent = is_silent or (key.fileobj is client and self.server.is_to_silence(said))
                    if is_silent:
                        continue
                    if key.fileobj is client and self.server.is_to_break(said):
                        if not self.server.is_heard:
                            return
                        is_broken = True
                    time.sleep(self.server.distance)
                    key.data.sendall(said)
