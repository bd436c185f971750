"""One exchange over real sockets: whatever the peer does, each step ends in time, with the answer or an OSError."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest
from pytest_httpserver import HTTPServer
from support.peers import (
    Authority,
    Call,
    Peer,
    answer,
    answer_and_reset,
    answer_and_stay,
    full_backlog,
    has_ipv6,
    never_read,
)
from werkzeug import Request, Response

from backjob._socket import Connection, build_request
from backjob.model.address import Address

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PATIENCE = 5.0
SHORT = 0.1
"""Seconds after which a step gives up, where that is what the test waits for."""
MARGIN = 1.0
"""Seconds that a busy machine may add to it."""

IPV6 = pytest.param(
    socket.AF_INET6, id="ipv6", marks=pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6 loopback")
)
FAMILIES = [
    pytest.param(socket.AF_INET, id="tcp"),
    IPV6,
    pytest.param(socket.AF_UNIX, id="unix"),
]
TRANSPORTS = [
    *[pytest.param(family, False, id=name) for family, name in ((socket.AF_INET, "tcp"), (socket.AF_UNIX, "unix"))],
    pytest.param(*IPV6.values, False, id="ipv6", marks=IPV6.marks),
    *[
        pytest.param(family, True, id=f"{name} tls")
        for family, name in ((socket.AF_INET, "tcp"), (socket.AF_UNIX, "unix"))
    ],
]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def make_request(method: str = "POST", body: bytes = b"") -> bytes:
    return build_request(method, "/a?b=c", host="h", user_agent="a", body=body, content_type="text/plain")


def exchange(address: Address, request: bytes, ca_file: str | None = None) -> Connection:
    """One whole exchange, as the launcher does it."""
    with Connection(address, timeout=PATIENCE, ca_file=ca_file) as connection:
        assert connection.shake_hands(PATIENCE)
        connection.send(request, PATIENCE)
        while not connection.receive(PATIENCE):
            pass
    return connection


@contextmanager
def takes_about(seconds: float) -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert seconds * 0.9 <= time.monotonic() - begin <= seconds + MARGIN


@pytest.mark.parametrize(("family", "is_tls"), TRANSPORTS)
def test_a_request_gets_there_whole_and_its_answer_back(family: int, is_tls: bool, authority: Authority) -> None:
    request = make_request(body=bytes(range(256)) * 4000)
    with Peer(answer(OK), family=family, tls=authority.certify("app.test") if is_tls else None) as peer:
        connection = exchange(peer.address, request)
        assert peer.next_request() == request
    assert connection.answer.status == 200
    assert bytes(connection.answer.raw) == OK


@pytest.mark.parametrize(
    ("script", "status"),
    [
        pytest.param(answer(), None, id="hangs up at once"),
        pytest.param(answer_and_reset(), None, id="resets at once"),
        pytest.param(answer(OK[:20]), None, id="half a head"),
        pytest.param(answer_and_reset(OK[:20]), None, id="half a head, reset"),
        pytest.param(answer(OK.replace(b"2\r", b"9\r")), 200, id="less than its length"),
        pytest.param(answer_and_stay(OK + b"more"), 200, id="more than its length"),
        pytest.param(answer_and_stay(*[OK[i : i + 1] for i in range(len(OK))]), 200, id="byte by byte"),
        pytest.param(answer(OK.replace(b"Content-Length", b"X")), 200, id="ends by closing"),
        pytest.param(answer(b"SSH-2.0-x\r\n"), None, id="no HTTP"),
    ],
)
@pytest.mark.parametrize(("family", "is_tls"), TRANSPORTS)
def test_every_end_of_an_answer_is_one(script, status: int | None, family: int, is_tls: bool, authority) -> None:
    with Peer(script, family=family, tls=authority.certify("app.test") if is_tls else None) as peer:
        assert exchange(peer.address, make_request()).answer.status == status


def test_broken_tls_record_ends_the_answer(authority: Authority) -> None:
    def break_the_record(call: Call) -> None:
        call.read_request()
        call.send_beneath_tls(b"\x17\x03\x03\x00\x20" + b"x" * 32)

    with Peer(break_the_record, tls=authority.certify("app.test")) as peer:
        assert exchange(peer.address, make_request()).answer.status is None


def test_an_answer_that_is_complete_is_not_read_on() -> None:
    with Peer(answer_and_stay(OK)) as peer, Connection(peer.address, timeout=PATIENCE) as connection:
        connection.send(make_request(), PATIENCE)
        while not connection.receive(PATIENCE):
            pass
        with takes_about(0):
            assert connection.receive(PATIENCE)


def test_what_was_sent_arrives_when_the_sender_leaves_at_once() -> None:
    request = make_request(body=b"x" * 1000)
    with Peer(answer(OK)) as peer:
        with Connection(peer.address, timeout=PATIENCE) as connection:
            connection.send(request, PATIENCE)
        assert peer.next_request() == request


@pytest.mark.parametrize("family", [pytest.param(socket.AF_INET, id="tcp"), IPV6])
def test_connect_gives_up_in_time(family: int) -> None:
    with full_backlog(family) as address, takes_about(SHORT), pytest.raises(TimeoutError):
        Connection(address, timeout=SHORT)


def test_connect_to_a_full_unix_socket_gives_up_in_time() -> None:
    with full_backlog(socket.AF_UNIX) as address, takes_about(SHORT), pytest.raises(TimeoutError):
        Connection(address, timeout=SHORT)


@pytest.mark.parametrize("family", FAMILIES)
def test_connect_where_nobody_listens_fails(family: int) -> None:
    with Peer(answer(OK), family=family) as peer:
        address = peer.address
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        Connection(address, timeout=PATIENCE)


@pytest.mark.parametrize(("family", "is_tls"), TRANSPORTS)
def test_send_gives_up_in_time(family: int, is_tls: bool, authority: Authority) -> None:
    """A peer that does not read takes what its buffers hold, and no more."""
    with (
        Peer(never_read, family=family, tls=authority.certify("app.test") if is_tls else None) as peer,
        Connection(peer.address, timeout=PATIENCE) as connection,
    ):
        assert connection.shake_hands(PATIENCE)
        with takes_about(SHORT), pytest.raises(TimeoutError):
            connection.send(make_request(body=b"x" * 20_000_000), SHORT)


@pytest.mark.parametrize("before", [b"", OK[:-1]], ids=["nothing", "all but its last byte"])
@pytest.mark.parametrize(("family", "is_tls"), TRANSPORTS)
def test_receive_gives_up_in_time_and_may_go_on(family: int, is_tls: bool, before: bytes, authority) -> None:
    def answer_when_asked_again(call: Call) -> None:
        call.read_request()
        call.send(before)
        call.read_request()
        call.send(OK[len(before) :])

    with (
        Peer(answer_when_asked_again, family=family, tls=authority.certify("app.test") if is_tls else None) as peer,
        Connection(peer.address, timeout=PATIENCE) as connection,
    ):
        assert connection.shake_hands(PATIENCE)
        connection.send(make_request(), PATIENCE)
        if before:
            assert not connection.receive(PATIENCE)
        with takes_about(SHORT):
            assert not connection.receive(SHORT)
        connection._socket.sendall(make_request())
        while not connection.receive(PATIENCE):
            pass
        assert bytes(connection.answer.raw) == OK


def test_handshake_gives_up_in_time_and_may_go_on(authority: Authority) -> None:
    """gunicorn shakes hands in a slot: until one is free, nothing comes."""
    listener = socket.create_server(("127.0.0.1", 0))
    with (
        listener,
        Connection(Address("127.0.0.1", listener.getsockname()[1], tls=True), timeout=PATIENCE) as connection,
    ):
        with takes_about(SHORT):
            assert not connection.shake_hands(SHORT)
        accepted, _ = listener.accept()
        with accepted:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            server = authority.certify("app.test").wrap_bio(incoming, outgoing, server_side=True)
            incoming.write(accepted.recv(65536))
            with pytest.raises(ssl.SSLWantReadError):
                server.do_handshake()
            accepted.sendall(outgoing.read())
            assert connection.shake_hands(PATIENCE)


class TestCertificates:
    """An address that was set is verified; one that was found stands by its proof."""

    @staticmethod
    def connect(peer: Peer, host: str, ca_file: str | None, is_verified: bool = True) -> int | None:
        address = replace(peer.address, host=host, is_verified=is_verified)
        return exchange(address, make_request(), ca_file).answer.status

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    def test_right_host_and_authority(self, host: str, authority: Authority, tmp_path: Path) -> None:
        with Peer(answer(OK), tls=authority.certify(host)) as peer:
            assert self.connect(peer, host, authority.write_to(tmp_path)) == 200

    @pytest.mark.parametrize("name", ["other.test", "127.0.0.2"])
    def test_another_host_is_refused(self, name: str, authority: Authority, tmp_path: Path) -> None:
        with Peer(answer(OK), tls=authority.certify(name)) as peer:
            with pytest.raises(ssl.SSLCertVerificationError):
                self.connect(peer, "127.0.0.1", authority.write_to(tmp_path))
            assert peer.requests.empty()

    def test_another_authority_is_refused(self, authority: Authority, tmp_path: Path) -> None:
        with Peer(answer(OK), tls=authority.certify("localhost")) as peer:
            for ca_file in (None, Authority().write_to(tmp_path)):
                with pytest.raises(ssl.SSLCertVerificationError):
                    self.connect(peer, "localhost", ca_file)
            assert peer.requests.empty()

    def test_own_address_that_was_found_needs_no_certificate(self, authority: Authority) -> None:
        with Peer(answer(OK), tls=authority.certify("what.people.use.test")) as peer:
            assert self.connect(peer, "127.0.0.1", None, is_verified=False) == 200

    def test_plain_http_at_a_tls_address(self) -> None:
        def refuse(call: Call) -> None:
            call.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            call.wait_for_the_end()

        with (
            Peer(refuse) as peer,
            Connection(replace(peer.address, tls=True), timeout=PATIENCE) as connection,
            pytest.raises(ssl.SSLError),
        ):
            connection.shake_hands(PATIENCE)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "CHICKEN", "GET"])
def test_a_real_server_gets_any_method_with_its_form(method: str) -> None:
    form = {"name": "Ärger & Öl", "n": "1\r\n2", "empty": ""}
    seen: list[tuple[object, ...]] = []

    def see(request: Request) -> Response:
        seen.append((request.method, request.path, request.args["q"], request.form.to_dict(), request.headers["X-One"]))
        return Response("seen", status=201)

    with HTTPServer() as server:
        server.expect_request("/mount/a b").respond_with_handler(see)
        request = build_request(
            method,
            "/mount/a%20b?q=%C3%A4",
            host=f"127.0.0.1:{server.port}",
            user_agent="tester/1",
            headers={"X-One": "two"},
            body=urlencode(form).encode(),
            content_type="application/x-www-form-urlencoded",
        )
        connection = exchange(Address("127.0.0.1", server.port), request)
    assert seen == [(method, "/mount/a b", "ä", form, "two")]
    assert connection.answer.status == 201
    assert connection.answer.raw.endswith(b"seen")
