"""Where am I: what is found from real sockets and from what servers tell, and that no client decides it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.peers import Authority, has_ipv6

from backjob.model.address import Address
from backjob.transport.discovery import discover

# Under these, a process's own descriptors don't speak HTTP: what is left comes from the environ alone.
NO_DESCRIPTORS = {"mod_wsgi.version": (4, 9, 4)}


@contextlib.contextmanager
def accepted_on(family: int, name: Any) -> Iterator[socket.socket]:
    """The server's end of a real connection to a listener at this place."""
    with socket.socket(family) as listener, socket.socket(family) as client:
        listener.bind(name)
        listener.listen()
        client.connect(listener.getsockname())
        sock, _ = listener.accept()
        with sock:
            yield sock


class Channel:
    """What waitress has of a connection; it shows itself by a bound method only."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def check_client_disconnected(self) -> bool:
        return False


def environ_of(key: str, sock: socket.socket) -> dict[str, Any]:
    shown = Channel(sock).check_client_disconnected if key.startswith("waitress") else sock
    return {key: shown, **NO_DESCRIPTORS}


@pytest.mark.parametrize("key", ["gunicorn.socket", "werkzeug.socket", "waitress.client_disconnected"])
class TestAcceptedConnection:
    def test_tcp(self, key: str) -> None:
        with accepted_on(socket.AF_INET, ("127.0.0.1", 0)) as sock:
            (address,) = discover(environ_of(key, sock))
            assert address == Address("127.0.0.1", sock.getsockname()[1])
            assert address.is_sure
            assert not address.is_verified

    @pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6 loopback")
    def test_ipv6(self, key: str) -> None:
        with accepted_on(socket.AF_INET6, ("::1", 0)) as sock:
            assert discover(environ_of(key, sock)) == [Address("::1", sock.getsockname()[1])]

    def test_unix_path_is_made_absolute(self, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with accepted_on(socket.AF_UNIX, "app.sock") as sock:
            assert discover(environ_of(key, sock)) == [Address(unix=str(tmp_path / "app.sock"))]

    def test_abstract_unix_name(self, key: str) -> None:
        with accepted_on(socket.AF_UNIX, "") as sock:  # Linux gives a name of its own
            (address,) = discover(environ_of(key, sock))
            assert address.unix.startswith("\0")
            assert str(address).startswith("unix:@")

    def test_tls_is_known_from_the_object(self, key: str) -> None:
        context = Authority().certify("app.test")
        with accepted_on(socket.AF_INET, ("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
            with context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) as wrapped:
                assert isinstance(wrapped, ssl.SSLSocket)
                # Not by the scheme, which follows a client's header on some servers.
                for scheme in ("http", "https"):
                    environ = {**environ_of(key, wrapped), "wsgi.url_scheme": scheme}
                    assert discover(environ) == [Address("127.0.0.1", port, tls=True)]
            assert not discover(environ_of(key, wrapped))  # closed by now

    def test_scheme_does_not_make_it_tls(self, key: str) -> None:
        with accepted_on(socket.AF_INET, ("127.0.0.1", 0)) as sock:
            (address,) = discover({**environ_of(key, sock), "wsgi.url_scheme": "https"})
            assert not address.tls

    def test_it_comes_first_and_once(self, key: str) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as other,
            accepted_on(socket.AF_INET, ("127.0.0.1", 0)) as sock,
        ):
            port = sock.getsockname()[1]
            environ = {**environ_of(key, sock), "SERVER_PORT": str(other.getsockname()[1])}
            del environ["mod_wsgi.version"]
            found = discover(environ)
            assert (found[0].port, found[0].is_sure) == (port, True)
            assert [address.port for address in found].count(port) == 1
            assert Address("127.0.0.1", other.getsockname()[1]) in found

    @pytest.mark.parametrize("thing", [None, "x", 7, object(), lambda: False])
    def test_anything_else_is_passed_over(self, key: str, thing: object) -> None:
        assert discover({key: thing, **NO_DESCRIPTORS}) == []


class TestModWsgi:
    """Its own descriptors carry another protocol; what Apache listens at stands in the environ."""

    @pytest.mark.parametrize(
        ("host", "found"), [("", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("192.0.2.7", "192.0.2.7")]
    )
    def test_the_listener(self, host: str, found: str) -> None:
        environ = {**NO_DESCRIPTORS, "mod_wsgi.listener_host": host, "mod_wsgi.listener_port": "8080"}
        (address,) = discover(environ)
        assert address == Address(found, 8080)
        assert not address.is_sure
        assert address.found == "mod_wsgi.listener_port"

    @pytest.mark.parametrize("port", ["", "x", "0", "65536", "-1", "8080 ", "\u0663"])
    def test_what_is_no_port_is_passed_over(self, port: str) -> None:
        assert discover({**NO_DESCRIPTORS, "mod_wsgi.listener_port": port}) == []

    @pytest.mark.parametrize(
        ("sent", "order"), [({}, [True, False]), ({"HTTP_X_FORWARDED_PROTO": "https"}, [False, True])]
    )
    def test_https_is_tried_both_ways(self, sent: dict[str, str], order: list[bool]) -> None:
        environ = {**NO_DESCRIPTORS, "mod_wsgi.listener_port": "443", "wsgi.url_scheme": "https", **sent}
        assert [address.tls for address in discover(environ)] == order


class TestAsgiBridge:
    @pytest.mark.parametrize(
        ("server", "address"),
        [
            (("127.0.0.1", 8000), Address("127.0.0.1", 8000)),
            (("127.0.0.1", "8000"), Address("127.0.0.1", 8000)),  # granian
            (["::", 8000], Address("::1", 8000)),
            (("/run/app.sock", None), Address(unix="/run/app.sock")),
            (("/run/app.sock", "0"), Address(unix="/run/app.sock")),  # granian
        ],
    )
    def test_the_server_of_the_scope(self, server: Any, address: Address) -> None:
        (found,) = discover({"asgi.scope": {"server": server}, **NO_DESCRIPTORS})
        assert found == address
        assert not found.is_sure

    @pytest.mark.parametrize("scope", [None, "x", {}, {"server": None}, {"server": ("h",)}, {"server": (None, 80)}])
    def test_anything_else_is_passed_over(self, scope: Any) -> None:
        assert discover({"asgi.scope": scope, **NO_DESCRIPTORS}) == []

    def test_it_comes_before_the_listening_descriptors(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            found = discover({"asgi.scope": {"server": ("127.0.0.1", 1)}, "SERVER_PORT": str(port)})
            assert [address.port for address in found[:2]] == [1, port]


class TestUwsgi:
    """The module that uWSGI puts into its interpreters: the live tests run the real one."""

    @pytest.fixture
    def uwsgi(self, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
        module = types.ModuleType("uwsgi")
        module.opt, module.sockets = {}, []  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "uwsgi", module)
        return module

    @pytest.mark.parametrize(
        ("option", "value", "address"),
        [
            ("http-socket", b"127.0.0.1:8000", Address("127.0.0.1", 8000)),
            ("http-socket", b":8000", Address("127.0.0.1", 8000)),
            ("http-socket", b"0.0.0.0:8000", Address("127.0.0.1", 8000)),
            ("http-socket", b"[::]:8000", Address("::1", 8000)),
            ("http-socket", b"[::1]:8000", Address("::1", 8000)),
            ("http11-socket", b":8000", Address("127.0.0.1", 8000)),
            ("http-socket", b"/run/app.sock", Address(unix="/run/app.sock")),
            ("http-socket", b"@app", Address(unix="\0app")),
            ("http", b"app.test:80", Address("app.test", 80)),
            ("https", b":443,chain.pem,key.pem", Address("127.0.0.1", 443, tls=True)),
            ("https-socket", "127.0.0.1:443,chain.pem,key.pem", Address("127.0.0.1", 443, tls=True)),
        ],
    )
    def test_an_option(self, uwsgi: Any, option: str, value: Any, address: Address) -> None:
        uwsgi.opt = {option: value}
        (found,) = discover({"uwsgi.version": b"2.0.31"})
        assert found == address
        assert not found.is_sure
        assert option in found.found

    @pytest.mark.parametrize("value", [b"=0", b"app.sock", b"", True, b":0", b":65536", b":x"])
    def test_what_is_no_address_is_passed_over(self, uwsgi: Any, value: Any) -> None:
        uwsgi.opt = {"http-socket": value}
        assert discover({"uwsgi.version": b"2.0.31"}) == []

    def test_the_workers_own_comes_before_the_router(self, uwsgi: Any) -> None:
        uwsgi.opt = {"http": b":2", "https": b":3,c,k", b"http-socket": [b":1", b":4"]}
        assert [address.port for address in discover({"uwsgi.version": b"2"})] == [1, 4, 2, 3]

    def test_behind_nginx_its_own_protocol_is_left(self, uwsgi: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as other:
            uwsgi.sockets = [listener.fileno(), other.fileno(), -1, 10**6]
            over_uwsgi = Address("127.0.0.1", listener.getsockname()[1], uwsgi=True)
            over_http = Address("127.0.0.1", listener.getsockname()[1])
            found = discover({"uwsgi.version": b"2.0.31"})
            assert found == [over_uwsgi, over_http]
            assert not any(address.is_sure for address in found)
            for options in ({"protocol": b"http"}, {"http-socket": b"=0"}, {b"http-socket": b"app.sock"}):
                uwsgi.opt = options
                assert discover({"uwsgi.version": b"2.0.31"}) == [over_http, over_uwsgi]

    def test_a_module_of_that_name_elsewhere_says_nothing(self, uwsgi: Any) -> None:
        uwsgi.opt = {"http-socket": b":1"}
        assert Address("127.0.0.1", 1) not in discover({})


class TestListeningDescriptors:
    def test_the_port_of_the_server_comes_first(self) -> None:
        with contextlib.ExitStack() as stack:
            listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
            ports = [listener.getsockname()[1] for listener in listeners]
            for port in ports:
                found = discover({"SERVER_PORT": str(port)})
                assert found[0] == Address("127.0.0.1", port)
                assert {address.port for address in found} >= set(ports)
                assert not any(address.is_sure or address.tls for address in found)

    @pytest.mark.parametrize(
        ("family", "wildcard", "loopback"),
        [
            (socket.AF_INET, "0.0.0.0", "127.0.0.1"),
            pytest.param(
                socket.AF_INET6, "::", "::1", marks=pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6")
            ),
        ],
    )
    def test_a_wildcard_becomes_loopback(self, family: int, wildcard: str, loopback: str) -> None:
        with socket.create_server((wildcard, 0), family=socket.AddressFamily(family)) as listener:
            port = listener.getsockname()[1]
            found = discover({"SERVER_PORT": str(port)})
            assert found[0] == Address(loopback, port)
            with socket.create_connection((found[0].host, found[0].port), timeout=5):
                pass

    def test_the_port_of_the_server_may_be_a_number(self) -> None:
        with socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0)) as second:
            port = second.getsockname()[1]
            assert discover({"SERVER_PORT": port})[0].port == port  # as hypercorn has it

    def test_unix_socket(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("app.sock")
            listener.listen()
            assert Address(unix=str(tmp_path / "app.sock")) in discover({})

    def test_https_adds_a_second_try(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            found = discover({"SERVER_PORT": str(port), "wsgi.url_scheme": "https"})
            assert [address.tls for address in found if address.port == port] == [True, False]
            assert not any(address.is_verified for address in found)

    def test_what_does_not_listen_is_passed_over(self) -> None:
        before = set(discover({}))
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
            socket.socket(socket.AF_INET) as bound,
            accepted_on(socket.AF_INET, ("127.0.0.1", 0)) as sock,
        ):
            datagrams.bind(("127.0.0.1", 0))
            bound.bind(("127.0.0.1", 0))
            assert {address.port for address in set(discover({})) - before} == {sock.getsockname()[1]}

    def test_the_servers_own_descriptor_stays_as_it_is(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            discover({})
            assert listener.getblocking() is False
            with socket.create_connection(listener.getsockname(), timeout=5):
                listener.settimeout(5)
                listener.accept()[0].close()

    @pytest.mark.parametrize("key", ["uwsgi.version", "mod_wsgi.version", "mod_wsgi.process_group"])
    def test_not_where_they_carry_another_protocol(self, key: str) -> None:
        with socket.create_server(("127.0.0.1", 0)):
            assert discover({key: "x"}) == []

    def test_not_under_passenger(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)):
            assert discover({})
            monkeypatch.setenv("PASSENGER_APP_ENV", "production")
            assert discover({}) == []


def test_what_a_client_can_send_is_never_believed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as victim:
        victim.bind(("127.0.0.1", 0))
        port = str(victim.getsockname()[1])
        sent = {
            "HTTP_HOST": f"evil.test:{port}",
            "SERVER_NAME": "evil.test",
            "SERVER_PORT": port,
            "REMOTE_ADDR": "192.0.2.1",
            "REMOTE_PORT": port,
            "HTTP_FORWARDED": f"host=evil.test:{port}",
            "HTTP_X_FORWARDED_HOST": "evil.test",
            "HTTP_X_FORWARDED_PORT": port,
            "REQUEST_URI": f"http://evil.test:{port}/",
            "SCRIPT_NAME": f"//evil.test:{port}",
        }
        assert set(discover(sent)) == set(discover({}))
        assert listener.getsockname()[1] in {address.port for address in discover(sent)}
        assert discover({**sent, **NO_DESCRIPTORS}) == []
