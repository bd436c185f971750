"""A server of the test's own in a directory of its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.nginx import Nginx, nginx
from support.places import Place, reserve
from support.servers import Certificate, Server, Setup, serve

Serve = Callable[..., Server]
Reserve = Callable[..., Place]
RunNginx = Callable[..., Nginx]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """What the servers over TLS show."""
    return Certificate.make(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def run_server(tmp_path: Path, certificate: Certificate) -> Iterator[Serve]:
    """Start a server that runs until the test ends: ``run_server(setup, …)`` as ``support.servers.serve()``."""
    with contextlib.ExitStack() as stack:

        def run(setup: Setup, **options: Any) -> Server:
            return stack.enter_context(serve(setup, tmp_path, certificate=certificate, **options))

        yield run


@pytest.fixture
def reserved() -> Iterator[Reserve]:
    """Places of the test's own, as ``support.places.reserve()``."""
    with contextlib.ExitStack() as stack:
        yield lambda *where: stack.enter_context(reserve(*where))


@pytest.fixture
def run_nginx(tmp_path: Path) -> Iterator[RunNginx]:
    """Run an nginx until the test ends: ``run_nginx(http, place, …)`` as ``support.nginx.nginx()``."""
    with contextlib.ExitStack() as stack:
        yield lambda http, *places: stack.enter_context(nginx(tmp_path / "nginx", http, *places))


def ran_in(server: Server, end: dict[str, Any]) -> bool:
    """Did this /echo run in a process of this server?"""
    pid = json.loads(end["status_text"])["pid"]
    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    return int(parent) == server.process.pid
