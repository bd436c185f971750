"""An address as text: what may be set, what is refused, and what stands in a job's record."""

from __future__ import annotations

import pytest

from backjob.model.address import Address, parse_connect, read_origin, write_origin


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
            ("unix:@app", Address(unix="\0app"), "unix:@app"),
            ("uwsgi://127.0.0.1:3031", Address("127.0.0.1", 3031, uwsgi=True), "uwsgi://127.0.0.1:3031"),
            ("uwsgi://[::1]:80", Address("::1", 80, uwsgi=True), "uwsgi://[::1]:80"),
            ("uwsgi:/run/app.sock", Address(unix="/run/app.sock", uwsgi=True), "uwsgi:/run/app.sock"),
            ("uwsgi:///run/app.sock", Address(unix="/run/app.sock", uwsgi=True), "uwsgi:/run/app.sock"),
            ("uwsgi:@app", Address(unix="\0app", uwsgi=True), "uwsgi:@app"),
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
            *("unix:", "unix:run/app.sock", "unix:/run/a\0b", "unix://run/app.sock", "unix:@", "unix:@a\0b"),
            *("uwsgi://127.0.0.1", "uwsgi:", "uwsgi:run/app.sock", "uwsgi://127.0.0.1:3031/path", "uwsgi:@"),
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

    @pytest.mark.parametrize(
        "text", ["http://u:canary@h:80\n", "https://h/?token=canary", "http://h/#canary", "http://h\ncanary"]
    )
    def test_what_may_be_secret_is_not_shown(self, text: str) -> None:
        with pytest.raises(ValueError, match="http://host:port") as caught:
            parse_connect(text)
        assert "canary" not in str(caught.value)


class TestOrigin:
    """What stands in a job's record, for another app that shares its table."""

    @pytest.mark.parametrize(
        "address",
        [
            *(Address("127.0.0.1", 8000), Address("::1", 80), Address(unix="/run/app.sock"), Address(unix="\0app")),
            *(Address("127.0.0.1", 8443, tls=True), Address("a.test", 443, tls=True, is_verified=True)),
            *(Address("127.0.0.1", 3031, uwsgi=True), Address(unix="/run/app.sock", uwsgi=True)),
        ],
        ids=str,
    )
    def test_it_comes_back_as_a_guess(self, address: Address) -> None:
        read = read_origin(write_origin(address))
        assert read == address
        assert not read.is_sure
        assert read.is_recorded
        assert not address.is_recorded
