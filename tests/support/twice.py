"""A proxy that sends every request to the server twice, at the same time, and passes the first answer on."""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading

_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")


class TwiceProxy(socketserver.ThreadingTCPServer):
    """Listens at a port of the loopback for as long as the block lasts. ``doubled``: requests that it doubled."""

    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True

    def __init__(self, port: int, backend: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", port), _Exchange)
        self.backend = backend
        self.doubled = 0
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> TwiceProxy:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Exchange(socketserver.BaseRequestHandler):
    server: TwiceProxy

    def handle(self) -> None:
        request = self._read_request()
        if not request:
            return
        self.server.doubled += 1
        answers: list[bytes] = [b"", b""]
        is_answered = threading.Event()

        def send(place: int) -> None:
            with socket.create_connection(self.server.backend) as upstream:
                upstream.sendall(request)
                while received := upstream.recv(65536):
                    answers[place] += received
            is_answered.set()

        threads = [threading.Thread(target=send, args=(place,)) for place in (0, 1)]
        for thread in threads:
            thread.start()
        # The first answer wins, as with a proxy that gave up on its first upstream.
        is_answered.wait()
        first = max(answers, key=len) if not all(answers) else answers[0]
        with contextlib.suppress(OSError):  # start() may have left by now
            self.request.sendall(first)
        for thread in threads:
            thread.join()

    def _read_request(self) -> bytes:
        request = b""
        while b"\r\n\r\n" not in request:
            received = self.request.recv(65536)
            if not received:
                return b""
            request += received
        head, _, body = request.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        missing = (int(length[1]) if length else 0) - len(body)
        while missing > 0:
            received = self.request.recv(missing)
            request, missing = request + received, missing - len(received)
        return request
