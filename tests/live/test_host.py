"""Whatever Host a client sends, the self-requests go to the app's own server, and the job sees that Host as a value."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator

import pytest
from support.servers import GTHREAD, SYNC, WAITRESS, WSGIREF, Setup

from backjob import Status

from .conftest import Serve

pytestmark = pytest.mark.live


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    """A listener of the test's own, to which nobody should connect."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize("setup", [SYNC, GTHREAD, SYNC.over("unix"), GTHREAD.over("unix"), WAITRESS, WSGIREF], ids=str)
def test_host_is_only_a_value(run_server: Serve, stranger: socket.socket, setup: Setup) -> None:
    server = run_server(setup)
    host = f"127.0.0.1:{stranger.getsockname()[1]}"
    server.headers["Host"] = host
    for method in ("GET", "POST"):
        end = server.end_of(server.start("/echo", method=method))
        assert end["status"] == Status.COMPLETED, end["status_text"]
        seen = json.loads(end["status_text"])
        assert seen["headers"]["Host"] == host
        assert seen["url"] == f"http://{host}/echo"
    # A connection that was made and closed again would still wait to be accepted.
    assert not select.select([stranger], [], [], 0)[0], "somebody connected to the Host of a client"


@pytest.mark.parametrize("setup", [GTHREAD, WAITRESS, WSGIREF], ids=str)
def test_server_at_one_address_of_several(run_server: Serve, setup: Setup) -> None:
    """Bound to one interface, it does not answer at 127.0.0.1."""
    server = run_server(setup.at("127.0.0.2"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.address[1]), timeout=5)
    end = server.end_of(server.start("/echo"))
    assert end["status"] == Status.COMPLETED, end["status_text"]
