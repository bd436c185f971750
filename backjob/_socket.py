"""The raw-socket core: builds the bytes of an HTTP/1.1 request, and makes one exchange with a time-out for each step.

Bytes in, bytes out. Refuses values that could break out of a line. Knows nothing of jobs, tokens or WSGI.
"""

from __future__ import annotations

import functools
import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping

from ._uwsgi import build_packet
from .model.address import Address

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_FIELD_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?|")  # RFC 9110, section 5.5, ASCII only
_TARGET = re.compile(r"/(?!/)[\x21-\x22\x24-\x7e]*")  # RFC 9112, section 3.2.1: no space, no fragment, no //host
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_CONTENT_LENGTH = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r?\n", re.IGNORECASE)
_SITE = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}")
_NO_STORE = (("Cache-Control", "no-store"), ("Pragma", "no-cache"), ("Connection", "close"))
_WAIT_SLICE = 10.0
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE"})

Step = Callable[[float], bool]
"""Function that takes a step of a connection for at most so many seconds. It returns True when the step is done."""


def check_method(method: str) -> str:
    """Return the method. Raises ValueError for CONNECT, and for anything but a token of RFC 9110."""
    if not isinstance(method, str) or not _TOKEN.fullmatch(method):
        raise ValueError(f"method {method!r} is not a token of RFC 9110: letters, digits and !#$%&'*+-.^_`|~")
    if method.upper() == "CONNECT":
        raise ValueError("method must not be CONNECT, which asks a proxy for a tunnel")
    return method


def check_target(target: str) -> str:
    """Return the target. Raises ValueError unless it is an encoded path of this app, with or without a query."""
    if not isinstance(target, str) or not _TARGET.fullmatch(target):
        shown = re.sub("//[^/]*@", "//…@", re.split("[?#]", target)[0]) if isinstance(target, str) else type(target)
        raise ValueError(
            f"target {shown!r} is not an absolute path of this app: it starts with one '/', has no host, no fragment, "
            "no space and no control character, and what is not ASCII is percent-encoded"
        )
    return target


def check_header(name: str, value: str) -> tuple[str, str]:
    """Return the header. Raises ValueError, which never shows the value, if it would not be one valid line."""
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ValueError("the name of a header is not a token of RFC 9110")  # not shown: it may be the value
    if not is_header_value(value):
        raise ValueError(f"the value of header {name} has a character that is not printable ASCII")
    return name, value


def is_header_value(value: object) -> bool:
    """Return whether this can be the value of a header."""
    return isinstance(value, str) and _FIELD_VALUE.fullmatch(value) is not None


def build_request(
    method: str,
    target: str,
    *,
    host: str,
    user_agent: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    content_type: str = "",
) -> bytes:
    """Return the bytes of one request. Raises ValueError for a method, target or header that is not valid."""
    method = check_method(method)
    fields = [("Host", host), ("User-Agent", user_agent), *_NO_STORE]
    fields += headers.items() if isinstance(headers, Mapping) else headers
    if body and content_type:
        fields.append(("Content-Type", content_type))
    if body or method not in _BODILESS:
        fields.append(("Content-Length", str(len(body))))
    lines = [f"{method} {check_target(target)} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in (check_header(*field) for field in fields)]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


class Answer:
    """Parser of an HTTP/1.x answer: feed it bytes until it is complete."""

    LIMIT = 65536
    """Bytes after which an answer counts as complete. BackJob's are shorter."""

    def __init__(self, method: str) -> None:
        self.raw = bytearray()
        self.is_complete = False
        self.status: int | None = None
        self.error: OSError | None = None  # the error that ended the connection before the answer's end
        self._is_head = method == "HEAD"
        self._end: int | None = None

    def feed(self, received: bytes) -> None:
        """Take received bytes. b"" means that the peer has closed the connection."""
        self.raw += received
        while self.status is None and self._read_head():
            pass
        at_end = self._end is not None and len(self.raw) >= self._end
        self.is_complete = self.is_complete or not received or at_end or len(self.raw) > self.LIMIT

    def _read_head(self) -> bool:
        """Read one head, if it is complete. Return True for an interim answer (RFC 9110, section 15.2)."""
        line_is_wrong = not b"HTTP/1.".startswith(self.raw[:7]) and not self.raw.startswith(b"HTTP/1.")
        blank = self.raw.find(b"\r\n\r\n")
        if blank < 0 and not line_is_wrong:
            return False
        line = _STATUS_LINE.match(self.raw)
        if line is None:
            self.is_complete = True
            return False
        head_end = blank + 4
        status = int(line[1])
        if status < 200:
            del self.raw[:head_end]
            return True
        self.status = status
        lengths = set(_CONTENT_LENGTH.findall(self.raw, 0, head_end))
        # Each of BackJob's answers has one length. For others the body is not needed.
        has_body = len(lengths) == 1 and not self._is_head and status not in (204, 304)
        self._end = head_end + (int(lengths.pop()) if has_body else 0)
        return False

    def header(self, name: str) -> str:
        """Return a header of a complete answer, or ""."""
        if self.status is None:
            return ""
        lines = io.BytesIO(bytes(self.raw).partition(b"\n")[2])
        try:
            return str(http.client.parse_headers(lines).get(name, ""))
        except http.client.HTTPException:
            return ""

    @property
    def body(self) -> bytes:
        """Body of a complete answer with one length."""
        return bytes(self.raw).partition(b"\r\n\r\n")[2]


class Connection:
    """One exchange: connect, shake hands, send, receive. Each step raises OSError, such as TimeoutError.

    ``site``: a Host header's value whose name is sent in the handshake if it is valid (SNI, RFC 6066, section 3).
    """

    def __init__(self, address: Address, *, timeout: float, ca_file: str | None = None, site: str = "") -> None:
        self.address = address
        self._socket = _connect(address, timeout)
        self.answer = Answer("")
        self._needs_handshake = address.tls
        if address.tls:
            try:
                self._socket = _wrap(self._socket, address, ca_file, site)
            except BaseException:
                self._socket.close()
                raise

    def shake_hands(self, timeout: float) -> bool:
        """Go on with the TLS handshake for ``timeout`` seconds. Return True when it is done, or if none is needed."""
        if self._needs_handshake:
            self._socket.settimeout(max(timeout, 0.001))
            try:
                self._socket.do_handshake()  # type: ignore[attr-defined]
            except TimeoutError:
                return False
            self._needs_handshake = False
        return True

    def send(self, request: bytes, timeout: float) -> None:
        """Send the whole request. ``request`` is HTTP, also if the peer speaks uwsgi."""
        self.answer = Answer(request.partition(b" ")[0].decode("ascii"))
        self._socket.settimeout(max(timeout, 0.001))
        try:
            self._socket.sendall(build_packet(request) if self.address.uwsgi else request)
        except ConnectionError:
            # With TLS 1.3 a server that refuses the client sends an alert after the handshake, and closes.
            if not self.address.tls or not (self.receive(timeout) and self.answer.error):
                raise

    def receive(self, timeout: float) -> bool:
        """Wait ``timeout`` seconds for the next bytes. Return True when the answer is complete."""
        if not self.answer.is_complete:
            self._socket.settimeout(max(timeout, 0.001))
            try:
                self.answer.feed(self._socket.recv(16384))
            except TimeoutError:
                return False
            except OSError as error:  # such as a reset, or a broken TLS record
                self.answer.error = error
                self.answer.feed(b"")
        return self.answer.is_complete

    def close(self) -> None:
        """Close the socket. The server still gets the bytes that were sent."""
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _connect(address: Address, timeout: float) -> socket.socket:
    family = _family(address)
    if family is None:
        sock = socket.create_connection((address.host, address.port), timeout=timeout)
    else:
        sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        if address.unix:
            _connect_unix(sock, address.unix, timeout)
            return sock
        if family is not None:
            sock.connect((address.host, address.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A job may take hours. Meanwhile keep-alive detects that the host is gone.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
    except BaseException:
        sock.close()
        raise
    return sock


def _family(address: Address) -> int | None:
    """Return the family, or None for a name. A look-up costs as much as the connection, and under gevent a thread."""
    if address.unix:
        return socket.AF_UNIX
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        socket.inet_pton(family, address.host)
    except OSError:
        return None
    return family


def _connect_unix(sock: socket.socket, path: str, timeout: float) -> None:
    """Connect, and wait while the backlog is full, as connect() does only for TCP on Linux."""
    end = time.monotonic() + timeout
    while True:
        try:
            sock.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise TimeoutError("its backlog is full") from None
            time.sleep(0.01)


def _wrap(sock: socket.socket, address: Address, ca_file: str | None, site: str) -> ssl.SSLSocket:
    context = _tls_context(address.is_verified, ca_file)
    name = site.rpartition(":")[0] or site
    name = name if len(name) < 254 and _SITE.fullmatch(name) else address.host
    return context.wrap_socket(sock, server_hostname=name or None, do_handshake_on_connect=False)


def check_ca_file(path: str) -> None:
    """Raise OSError or ValueError if there are no certificates in this file."""
    if not path or not _tls_context(True, path).get_ca_certs():
        raise ValueError("there is no certificate of an authority in it")


@functools.lru_cache
def _tls_context(is_verified: bool, ca_file: str | None) -> ssl.SSLContext:
    if is_verified:
        return ssl.create_default_context(cafile=ca_file)
    # The certificate at a discovered address is for the name that people use. The proof authenticates the server.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def is_done(step: Step, timeout: float = float("inf")) -> bool:
    """Take a step of a connection until it is done, or for ``timeout`` seconds. Return whether it is done."""
    end = time.monotonic() + timeout
    while not step(min(end - time.monotonic(), _WAIT_SLICE)):
        if time.monotonic() >= end:
            return False
    return True
