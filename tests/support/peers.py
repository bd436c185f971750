"""Scripted peers: listeners that play one script with every connection, as a server does on a bad day or a good one.

A peer takes what it got into ``requests``, and raises at its end what went wrong in a script.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import trustme

from backjob.keyring import Keyring
from backjob.model.address import Address

Script = Callable[["Call"], None]

_PATIENCE = 10.0
_TCP = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class Call:
    """One connection to a peer, for its script."""

    def __init__(self, sock: socket.socket, peer: Peer) -> None:
        self._socket = sock
        self._peer = peer

    def read_request(self) -> bytes:
        """Read one request to the end of its Content-Length, or as much as comes."""
        raw = bytearray()
        while not _is_whole(raw) and (received := self._socket.recv(65536)):
            raw += received
        self._peer.requests.put(bytes(raw))
        return bytes(raw)

    def send(self, *pieces: bytes) -> None:
        """Send each piece by itself."""
        # Whoever has read enough may have left.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            for piece in pieces:
                self._socket.sendall(piece)

    def send_beneath_tls(self, piece: bytes) -> None:
        """Send bytes that the TLS layer knows nothing of."""
        with socket.socket(fileno=self._socket.detach()) as bare:
            bare.sendall(piece)

    def reset(self) -> None:
        """End the connection with a reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def pause(self, seconds: float) -> bool:
        """Do nothing for so many seconds. True when the test is over by then."""
        return self._peer.is_closing.wait(seconds)

    def wait_for_the_end(self) -> None:
        """Do nothing until the test is over."""
        self._peer.is_closing.wait()


def answer(*pieces: bytes) -> Script:
    """Read the request, send each piece by itself, hang up."""

    def play(call: Call) -> None:
        call.read_request()
        call.send(*pieces)

    return play


def answer_and_stay(*pieces: bytes) -> Script:
    """Read the request, send each piece by itself, and keep the connection open."""

    def play(call: Call) -> None:
        call.read_request()
        call.send(*pieces)
        call.wait_for_the_end()

    return play


def answer_and_reset(*pieces: bytes) -> Script:
    """Read the request, send each piece by itself, reset the connection."""

    def play(call: Call) -> None:
        call.read_request()
        call.send(*pieces)
        call.reset()

    return play


def never_read(call: Call) -> None:
    """Accept, and neither read nor say anything."""
    call.wait_for_the_end()


def prove(keyring: Keyring, status: str, outcome: str) -> Script:
    """Answer as backjob's own middleware does, with the proof that only the key makes."""

    def play(call: Call) -> None:
        token = keyring.verify(read_header(call.read_request(), "Backjob-Token"))
        call.send(proof_answer(status, token.prove(outcome)))

    return play


def proof_answer(status: str, proof: str) -> bytes:
    """An answer of the middleware with this proof, be it right or wrong."""
    body = f"backjob: {status.partition(' ')[2].lower()}\n"
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nBackjob-Proof: {proof}\r\n\r\n{body}".encode()


def read_header(request: bytes, name: str) -> str:
    """A header of a request that is known to have it once."""
    (value,) = (line[len(name) + 2 :] for line in request.decode("latin-1").splitlines() if line.startswith(f"{name}:"))
    return value


class Peer:
    """A listener on TCP, IPv6 or a unix socket, with TLS or without; a context manager."""

    def __init__(
        self, script: Script, *, family: int = socket.AF_INET, tls: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.is_closing = threading.Event()
        self._script = script
        self._tls = tls
        self._errors: list[BaseException] = []
        self._open: set[socket.socket] = set()
        self._calls: list[threading.Thread] = []
        self._cleanup = contextlib.ExitStack()
        self._listener = self._cleanup.enter_context(_listen(family, self._cleanup, port=port))
        self.address = _address_of(self._listener, is_tls=tls is not None)
        self._thread = threading.Thread(target=self._accept)

    def next_request(self) -> bytes:
        """The next request that came in, as soon as it is there."""
        return self.requests.get(timeout=_PATIENCE)

    def all_requests(self) -> list[bytes]:
        """What came in and was not asked for yet; the whole of it once the peer has ended."""
        requests = []
        with contextlib.suppress(queue.Empty):
            while True:
                requests.append(self.requests.get_nowait())
        return requests

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.is_closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join(_PATIENCE)
        for sock in tuple(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for call in self._calls:
            call.join(_PATIENCE)
        self._cleanup.close()
        assert not any(call.is_alive() for call in self._calls), "a script hangs"
        if self._errors:
            raise self._errors[0]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._calls.append(threading.Thread(target=self._call, args=(sock,)))
            self._calls[-1].start()

    def _call(self, sock: socket.socket) -> None:
        try:
            with self._wrap(sock) as wrapped:
                self._open.add(wrapped)
                self._script(Call(wrapped, self))
        except (ConnectionError, ssl.SSLError, TimeoutError):
            pass  # the other side has left, or refused us
        except BaseException as error:  # noqa: BLE001 - raised again where the test sees it
            self._errors.append(error)

    def _wrap(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(_PATIENCE)
        if sock.family in _TCP:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            return sock
        with sock:  # a handshake that fails must close it; wrapping takes the descriptor over
            return self._tls.wrap_socket(sock, server_side=True)


class Authority:
    """A certificate authority that signs for peers and for nobody else."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    def certify(self, *names: str) -> ssl.SSLContext:
        """What a peer needs to be this host or address."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(context)
        return context

    def write_to(self, folder: Path) -> str:
        """The path of its own certificate, as a ``ca_file``."""
        path = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(str(path))
        return str(path)


@contextlib.contextmanager
def full_backlog(family: int = socket.AF_INET) -> Iterator[Address]:
    """A place whose backlog is full, so that one more connect() hangs."""
    with contextlib.ExitStack() as cleanup:
        listener = cleanup.enter_context(_listen(family, cleanup, backlog=0))
        for _ in range(64):
            waiting = cleanup.enter_context(socket.socket(family))
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
            if not select.select([], [waiting], [], 0.05)[1] or _is_unconnected(waiting):
                break
        else:
            raise AssertionError("the backlog takes more than 64 connections")
        yield _address_of(listener)


def _is_unconnected(sock: socket.socket) -> bool:
    """On a unix socket a connect() to a full backlog fails at once."""
    try:
        sock.getpeername()
    except OSError:
        return True
    return False


def has_ipv6() -> bool:
    """Has this host an IPv6 loopback?"""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def _listen(family: int, cleanup: contextlib.ExitStack, backlog: int = 16, port: int = 0) -> socket.socket:
    listener = socket.socket(family)
    try:
        if family == socket.AF_UNIX:
            # A unix socket's path has 107 bytes at most: pytest's own folders may be too deep.
            folder = cleanup.enter_context(tempfile.TemporaryDirectory())
            listener.bind(str(Path(folder, "peer.sock")))
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((_TCP[socket.AddressFamily(family)], port))
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _address_of(listener: socket.socket, is_tls: bool = False) -> Address:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return Address(unix=name, tls=is_tls)
    return Address(host=name[0], port=name[1], tls=is_tls)


def _is_whole(raw: bytearray) -> bool:
    head, blank, body = bytes(raw).partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.lower().splitlines() if line.startswith(b"content-length:")]
    return bool(blank) and len(body) >= int(lengths[0] if lengths else 0)
