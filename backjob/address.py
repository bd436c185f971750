"""Where am I: the app's own address, from what the server says of itself and never from what a client can send.

The order: ``connect=``, the accepted connection's own socket, then this process's listening sockets. Opens no
connection and sends nothing.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound
_HOST = re.compile(r"[A-Za-z0-9._~:%-]+")


@dataclass(frozen=True)
class Address:
    """One place where the app may listen: TCP (``host``, ``port``) or a unix socket (``unix``), plain or TLS.

    ``is_verified`` asks for a certificate that fits the host; otherwise the proof alone stands for the peer.
    ``is_sure``: it was set, or a request came in by it; a listening socket is a guess until it has proved itself.
    """

    host: str = ""
    port: int = 0
    unix: str = ""
    tls: bool = False
    is_verified: bool = False
    found: str = field(default="", compare=False)
    is_sure: bool = field(default=True, compare=False)

    @property
    def authority(self) -> str:
        """``host:port`` as a Host header has it (RFC 9110, section 7.2)."""
        if self.unix:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        if self.unix:
            return f"unix:{self.unix}".replace("\0", "@")
        return f"{'https' if self.tls else 'http'}://{self.authority}"


def parse_connect(text: str) -> Address:
    """Read a ``connect=`` option. Raises ValueError with what is allowed."""
    allowed = f'{text!r} is not "http://host:port", "https://host:port" or "unix:/path"'
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        path = path.removeprefix("//") if path.startswith("///") else path
        if not path.startswith("/") or "\0" in path:
            raise ValueError(allowed)
        return Address(unix=path, found="connect=")
    if "@" in text:
        raise ValueError("a user or password does not belong into connect=: put it into connect_headers=")
    try:
        parts = urlsplit(text)
        port = parts.port
        (parts.hostname or "").encode("idna")  # what a name look-up does first
    except ValueError:
        raise ValueError(allowed) from None
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or port == 0:
        raise ValueError(allowed)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{allowed}: the path comes from each request's own SCRIPT_NAME")
    tls = parts.scheme == "https"
    return Address(host=host, port=port or (443 if tls else 80), tls=tls, is_verified=tls, found="connect=")


def discover(environ: Mapping[str, Any]) -> list[Address]:
    """The places where the server of this request may be reached, the surest first, without doubles."""
    return list(dict.fromkeys(_candidates(environ)))


def _candidates(environ: Mapping[str, Any]) -> Iterator[Address]:
    for key in ("gunicorn.socket", "werkzeug.socket"):
        yield from _of_socket(environ.get(key), key)
    client_disconnected = environ.get("waitress.client_disconnected")
    channel = getattr(client_disconnected, "__self__", None)
    yield from _of_socket(getattr(channel, "socket", None), "waitress.client_disconnected")
    if _descriptors_speak_http(environ):
        listeners = sorted(_listeners(), key=lambda address: str(address.port) != environ.get("SERVER_PORT"))
        yield from listeners
        # An own listener does not show whether it speaks TLS. The scheme may come from a client's header on some
        # servers, so it only adds a second try at the same place.
        if environ.get("wsgi.url_scheme") == "https":
            yield from (replace(address, tls=True) for address in listeners)


def _of_socket(sock: Any, found: str) -> Iterator[Address]:
    """The local end of an accepted connection. TLS sockets (stdlib's and gevent's) can tell their cipher."""
    if sock is None:
        return
    try:
        address = _of_name(sock.family, sock.getsockname(), found)
    except (OSError, AttributeError):
        return
    if address:
        yield replace(address, tls=hasattr(sock, "cipher"))


def _of_name(family: int, name: Any, found: str) -> Address | None:
    if family in (socket.AF_INET, socket.AF_INET6):
        return Address(host=_LOOPBACK.get(name[0], name[0]), port=name[1], found=found)
    if family == getattr(socket, "AF_UNIX", None) and name:
        path = os.fsdecode(name)
        return Address(unix=path if path.startswith("\0") else os.path.abspath(path), found=found)
    return None


def _listeners() -> Iterator[Address]:
    """The listening sockets among this process's own file descriptors."""
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    for name in sorted(os.listdir(folder), key=int):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            # The copy is ours to close; the server's own descriptor stays as it is.
            with socket.socket(fileno=os.dup(int(name))) as listener:
                if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    continue
                address = _of_name(listener.family, listener.getsockname(), f"listening descriptor {name}")
        except OSError:
            continue
        if address:
            yield replace(address, is_sure=False)


def _descriptors_speak_http(environ: Mapping[str, Any]) -> bool:
    """Not under uWSGI, mod_wsgi and Passenger: their descriptors carry protocols of their own."""
    foreign = ("uwsgi.version", "mod_wsgi.version", "mod_wsgi.process_group")
    return not any(key in environ for key in foreign) and "PASSENGER_APP_ENV" not in os.environ
