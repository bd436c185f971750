"""The uwsgi packet, read back by the description of the protocol; the live tests send it to a real uWSGI."""

from __future__ import annotations

import errno
import struct

import pytest

from backjob._socket import build_request
from backjob._uwsgi import build_packet


def read_packet(packet: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """The variables of a packet, and what follows them."""
    modifier1, size, modifier2 = struct.unpack_from("<BHB", packet)
    assert (modifier1, modifier2) == (0, 0)
    block, body = packet[4 : 4 + size], packet[4 + size :]
    assert len(block) == size
    texts = []
    while block:
        (length,) = struct.unpack_from("<H", block)
        assert len(block) >= 2 + length
        texts.append(block[2 : 2 + length])
        block = block[2 + length :]
    names, values = texts[::2], texts[1::2]
    assert len(set(names)) == len(names) == len(values)
    return dict(zip(names, values, strict=True)), body


def test_a_request_with_a_body() -> None:
    body = b"a=1\r\n\r\nb=2"
    request = build_request(
        "CHICKEN",
        "/tool/caf%C3%A9%2Fx?q=%20&r=1",
        host="people.test:9999",
        user_agent="backjob/1",
        headers={"Backjob-Token": "t", "X-Two": "a: b"},
        body=body,
        content_type="application/x-www-form-urlencoded",
    )
    variables, after = read_packet(build_packet(request))
    assert after == body
    assert variables == {
        b"REQUEST_METHOD": b"CHICKEN",
        b"REQUEST_URI": b"/tool/caf%C3%A9%2Fx?q=%20&r=1",
        b"PATH_INFO": "/tool/caf\u00e9/x".encode(),
        b"QUERY_STRING": b"q=%20&r=1",
        b"SERVER_PROTOCOL": b"HTTP/1.1",
        b"SERVER_NAME": b"localhost",
        b"SERVER_PORT": b"80",
        b"REMOTE_ADDR": b"127.0.0.1",
        b"CONTENT_LENGTH": str(len(body)).encode(),
        b"CONTENT_TYPE": b"application/x-www-form-urlencoded",
        b"HTTP_HOST": b"people.test:9999",
        b"HTTP_USER_AGENT": b"backjob/1",
        b"HTTP_CACHE_CONTROL": b"no-store",
        b"HTTP_PRAGMA": b"no-cache",
        b"HTTP_CONNECTION": b"close",
        b"HTTP_BACKJOB_TOKEN": b"t",
        b"HTTP_X_TWO": b"a: b",
    }


def test_a_request_without_a_body() -> None:
    variables, after = read_packet(build_packet(build_request("GET", "/", host="a.test", user_agent="x")))
    assert after == b""
    assert (variables[b"CONTENT_LENGTH"], variables[b"QUERY_STRING"], variables[b"PATH_INFO"]) == (b"0", b"", b"/")


def test_the_size_is_two_bytes() -> None:
    fits = build_request("GET", "/" + "x" * 32_000, host="a.test", user_agent="x")
    assert read_packet(build_packet(fits))[0][b"PATH_INFO"] == b"/" + b"x" * 32_000
    with pytest.raises(OSError, match="uwsgi") as caught:
        build_packet(build_request("GET", "/" + "x" * 33_000, host="a.test", user_agent="x"))
    assert caught.value.errno == errno.EMSGSIZE
