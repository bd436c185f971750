"""Where am I: what may be set, what is found from real sockets, and that no client decides it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.peers import Authority, has_ipv6

from backjob.address import Address, parse_connect
from backjob.discovery import discover

# Under these, a process's own descriptors don't speak HTTP: what is left comes from the environ alone.
NO_DESCRIPTORS = {"mod_wsgi.version": (4, 9, 4)}


class TestConnect:
    @pytest.mark.parametrize(
        ("text", "address", "shown"),
        [
            ("http://127.0.0.1:8000", Address("127.0.0.1", 8000), "http://127.0.0.1:8000"),
            ("http://127.0.0.1:8000/", Address("127.0.0.1", 8000), "http://127.0.0.1:8000"),
            ("http://localhost", Address("localhost", 80), "http://localhost"),
            ("HTTP://LocalHost:80", Address("localhost", 80), "http://localhost"),
            ("http://my_app.internal:81", Address("my_app.internal", 81), "http://my_app.internal:81"),
            ("http://[::1]:8000", Address("::1", 8000), "http://[::1]:8000"),
            ("http://[fe80::1%eth0]:8000", Address("fe80::1%eth0", 8000), "http://[fe80::1%eth0]:8000"),
            ("https://a.test", Address("a.test", 443, tls=True, is_verified=True), "https://a.test"),
            ("https://a.test:80", Address("a.test", 80, tls=True, is_verified=True), "https://a.test:80"),
            ("unix:/run/app.sock", Address(unix="/run/app.sock"), "unix:/run/app.sock"),
            ("unix:///run/app.sock", Address(unix="/run/app.sock"), "unix:/run/app.sock"),
            ("unix:/run/a b@c.sock", Address(unix="/run/a b@c.sock"), "unix:/run/a b@c.sock"),
        ],
    )
    def test_is_read(self, text: str, address: Address, shown: str) -> None:
        assert parse_connect(text) == address
        assert parse_connect(text).is_sure
        assert str(address) == shown
        assert parse_connect(shown) == address

    @pytest.mark.parametrize(
        "text",
        [
            *("", "127.0.0.1:8000", "localhost", ":8000", "//127.0.0.1:8000", "ftp://a.test", "http:127.0.0.1"),
            *("http://", "http://:80", "http://a.test:0", "http://a.test:65536", "http://a.test:x", "http://[::1"),
            *("http://a..b", "http://" + "a" * 64 + ".test", "http://a b", "http://ä.test", "http://a.test\\b"),
            *("http://a.test/path", "http://a.test/?q", "http://a.test/#f", "http://a.test?q"),
            *("unix:", "unix:run/app.sock", "unix:/run/a\0b"),
        ],
    )
    def test_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="http"):
            parse_connect(text)

    @pytest.mark.parametrize("userinfo", ["user:canary", "canary", ":canary", "canary%40x:y"])
    @pytest.mark.parametrize("scheme", ["http", "https", "ftp"])
    def test_a_password_is_refused_and_not_shown(self, scheme: str, userinfo: str) -> None:
        with pytest.raises(ValueError, match="connect_headers") as caught:
            parse_connect(f"{scheme}://{userinfo}@127.0.0.1:8000")
        assert "canary" not in str(caught.value)


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

    def test_unix_socket(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("app.sock")
            listener.listen()
            assert Address(unix=str(tmp_path / "app.sock")) in discover({})

    def test_https_adds_a_second_try_after_the_first(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            found = discover({"SERVER_PORT": str(port), "wsgi.url_scheme": "https"})
            assert [address.tls for address in found if address.port == port] == [False, True]
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
