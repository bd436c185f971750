"""Addresses that are a test's own before anything runs there, so that two programs can know of each other."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """A bound socket, TCP or unix, for a program that inherits it. Until it listens, who connects is refused."""

    socket: socket.socket
    address: tuple[str, int] | str
    """Where to connect."""

    @property
    def authority(self) -> str:
        """As it stands in a URL and in a server's configuration: ``127.0.0.1:8000``, ``unix:/run/app.sock``."""
        if isinstance(self.address, str):
            return f"unix:{self.address}"
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def connect(self) -> str:
        """As ``connect=`` has it, without TLS."""
        return self.authority if isinstance(self.address, str) else f"http://{self.authority}"

    @contextlib.contextmanager
    def handing_over(self) -> Iterator[int]:
        """The descriptor for a program that is started in the block: who connects now waits until it accepts.

        Afterwards the place is the program's alone, so that who connects is refused again when it has died.
        """
        with self.socket:
            self.socket.listen(128)
            yield self.socket.fileno()

    @contextlib.contextmanager
    def lending(self) -> Iterator[int]:
        """The descriptor for a program that is started in the block and binds by itself; until it listens, who connects
        is refused. As long as it has this descriptor nobody else gets the port, and Linux lets it bind there, for both
        sockets say SO_REUSEADDR and this one never listens.
        """
        with self.socket:
            if isinstance(self.address, str):
                os.unlink(self.address)  # nobody else comes to this directory
            yield self.socket.fileno()


def make_place(where: str | Path = "127.0.0.1") -> Place:
    """A free port of a host, or a unix socket at a Path. Who makes it hands it over, or closes its socket."""
    is_unix = isinstance(where, Path)
    family = socket.AF_UNIX if is_unix else socket.AF_INET6 if ":" in str(where) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(str(where) if is_unix else (where, 0))
        name = sock.getsockname()
    except BaseException:
        sock.close()
        raise
    return Place(sock, name if is_unix else name[:2])


@contextlib.contextmanager
def reserve(where: str | Path = "127.0.0.1") -> Iterator[Place]:
    """A place that nobody else gets until the block ends, or until it is handed over."""
    place = make_place(where)
    with place.socket:
        yield place
