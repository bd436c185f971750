"""Answers to the app's requests to itself: read to one end however they are cut, bounded, and no proof is believed that
the app has not given to this very request."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from backjob._socket import Answer
from backjob.errors import LaunchError
from backjob.keyring import MONITOR, WORKER, Keyring
from backjob.model.address import parse_connect
from backjob.transport.error_hints import explain
from backjob.transport.protocol import WireOutcome

from .mutations import mutate_bytes

PIECE = 16384
"""Bytes that one recv() takes."""
SHAPES = (
    b"HTTP/1.1 %d Oh\r\nServer: x\r\nContent-Length: 2\r\nBackjob-Proof: %s\r\n\r\nok",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 %d Oh\r\nBackjob-Proof: %s\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok",
    b"HTTP/1.0 %d\r\nLocation: /login\r\nX-Echo: %s\r\n\r\nbackjob: no",
    b"%d SSH-2.0 %s\r\n\r\n",
)
STATUSES = (200, 202, 204, 302, 304, 400, 403, 409, 410, 421, 500, 503)


def read(method: str, raw: bytes, sizes: Iterator[int]) -> Answer:
    """Feed it in pieces until it is complete, as a connection does; at its end the peer closes."""
    answer, place = Answer(method), 0
    while not answer.is_complete:
        piece = raw[place : place + next(sizes)]
        answer.feed(piece)
        place += len(piece)
        assert len(answer.raw) <= Answer.LIMIT + PIECE, "it is kept without a limit"
    return answer


def sizes_of(choose: random.Random, most: int) -> Iterator[int]:
    while True:
        yield choose.randint(1, most)


@contextlib.contextmanager
def fuzz(folder: Path) -> Iterator[Callable[[random.Random], None]]:
    keyring, stranger = Keyring(["a key for tests, and for nothing but tests"]), Keyring(["another key" * 4])
    address = parse_connect("http://127.0.0.1:8000")

    def do_round(choose: random.Random) -> None:
        token = keyring.sign(choose.choice((MONITOR, WORKER)), choose.randrange(1, 99), 1, b"sealed")
        outcome = choose.choice(list(WireOutcome))
        others = [
            keyring.sign(token.kind, token.job_id, 1, b"sealed").prove(outcome.text),  # another request's
            stranger.sign(token.kind, token.job_id, 1, b"sealed", token.nonce).prove(outcome.text),
            token.prove(outcome.text)[:-8],  # more than a mutation completes by chance
            token.text,
            *(token.prove(each.text) for each in WireOutcome if each.text != outcome.text),
        ]
        shape, method = choose.choice(SHAPES), choose.choice(("GET", "POST", "HEAD"))
        code = int(outcome.status[:3])
        status = choose.choice((*STATUSES, *[code] * 9))
        raw = shape % (status, choose.choice(others).encode())
        if choose.random() < 0.8:
            raw = mutate_bytes(choose, raw, choose.choice(SHAPES))
        if choose.random() < 0.05:
            raw += choose.choice((b"\r\n", b"x", b"HTTP/1.1 100 \r\n\r\n")) * choose.choice((1, 10_000, 70_000))
        whole = read(method, raw, sizes_of(choose, PIECE))
        if len(raw) < Answer.LIMIT:
            cut = read(method, raw, sizes_of(choose, choose.choice((1, 7, 200))))
            assert whole.status == cut.status, raw
            assert whole.header("Server") == cut.header("Server"), raw
        assert not outcome.is_proven_by(whole, token), f"{outcome}, of another request: {raw!r}"
        told = explain(whole, address)
        assert isinstance(told, LaunchError)
        assert len(str(told)) < 2000, raw
        assert str(told).isprintable(), raw
        # The sound one is believed, and no other status with it.
        true = read("POST", SHAPES[0] % (status, token.prove(outcome.text).encode()), sizes_of(choose, PIECE))
        assert outcome.is_proven_by(true, token) == (status == code), (status, outcome)

    yield do_round
