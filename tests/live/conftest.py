"""A server of the test's own in a directory of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers import Certificate, Server, Setup, serve

Serve = Callable[..., Server]


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
