"""The uwsgi protocol, as nginx's ``uwsgi_pass`` uses it, for a uWSGI without HTTP. The answer is HTTP.

Bytes in, bytes out: one request becomes one packet. Knows no sockets and no jobs.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

_LONGEST = 0xFFFF


def build_packet(http_request: bytes) -> bytes:
    """Return the packet of a complete HTTP request, followed by its body.

    Source: uWSGI's documentation, "The uwsgi Protocol". A header has modifier1, the size of the variables, modifier2.
    Then follow each variable's name and value, each after its size. Sizes are 16 bit, little-endian. The variables are
    those of CGI (RFC 3875, section 4.1). Raises OSError (EMSGSIZE) for a request that does not fit.
    """
    head, _, body = http_request.partition(b"\r\n\r\n")
    request_line, *lines = head.split(b"\r\n")
    method, target, protocol = request_line.split(b" ")
    path, _, query = target.partition(b"?")
    variables = {
        b"REQUEST_METHOD": method,
        b"REQUEST_URI": target,
        b"PATH_INFO": unquote_to_bytes(path),
        b"QUERY_STRING": query,
        b"SERVER_PROTOCOL": protocol,
        # Nothing depends on these three, but PEP 3333 requires them.
        b"SERVER_NAME": b"localhost",
        b"SERVER_PORT": b"80",
        b"REMOTE_ADDR": b"127.0.0.1",
        b"CONTENT_LENGTH": str(len(body)).encode(),
        b"CONTENT_TYPE": b"",
    }
    for line in lines:
        name, _, value = line.partition(b": ")
        key = name.upper().replace(b"-", b"_")
        variables[key if key in (b"CONTENT_LENGTH", b"CONTENT_TYPE") else b"HTTP_" + key] = value
    return _frame(variables) + body


def _frame(variables: Mapping[bytes, bytes]) -> bytes:
    block = b"".join(_sized(name) + _sized(value) for name, value in variables.items())
    if len(block) > _LONGEST:
        raise OSError(errno.EMSGSIZE, f"a head of more than {_LONGEST} bytes does not fit into a uwsgi packet")
    return struct.pack("<BHB", 0, len(block), 0) + block


def _sized(text: bytes) -> bytes:
    return struct.pack("<H", len(text)) + text
