"""The limit of a job's request. A body that is too large is refused before it is in memory.

Knows WSGI environs (PEP 3333) and the record of a request; no options and no store.
"""

from __future__ import annotations

import io
import json
from collections.abc import MutableMapping
from typing import Any

from backjob.errors import RequestTooLarge
from backjob.model.job import JobRequest

_CHUNK = 65536
_MOST_DIGITS = 20
"""Digits of a length. int() refuses thousands of them."""


def limit_body(environ: MutableMapping[str, Any], most: int) -> None:
    """Raise RequestTooLarge if the body of this request is larger than ``most`` bytes; 0: no limit.

    A body of known length is not read. A chunked body is read here, up to the limit, and gets a length.
    """
    length = environ.get("CONTENT_LENGTH") or ""
    if not most:
        return
    if length.isascii() and length.isdigit():
        _check(int(length[:_MOST_DIGITS]), most)
    elif environ.get("wsgi.input_terminated"):  # without it the end of a chunked body is unknown
        body = _read_body(environ["wsgi.input"], most)
        environ.pop("HTTP_TRANSFER_ENCODING", None)  # it has no meaning beside a length (RFC 9112, section 6.2)
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))


def check_size(request: JobRequest, most: int) -> None:
    """Raise RequestTooLarge if all that is sealed of this request is larger than ``most`` bytes; 0: no limit."""
    if most:
        _check(len(request.body), most)
        rest = {name: value for name, value in request.__dict__.items() if name != "body"}
        _check(len(request.body) + len(json.dumps(rest)), most)


def _read_body(stream: Any, most: int) -> bytes:
    read = bytearray()
    while chunk := stream.read(_CHUNK):
        read += chunk
        _check(len(read), most)
    return bytes(read)


def _check(size: int, most: int) -> None:
    if size > most:
        raise RequestTooLarge(
            f"The job's request has {size} bytes or more, and max_request allows {most}: save large data first and "
            "start the job with its name, or raise max_request, which allows 65536 at most if a cache is the only store"
        )
