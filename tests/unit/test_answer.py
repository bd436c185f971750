"""Answers: whatever a server sends, byte by byte and in one piece, is read to the same end."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backjob._socket import Answer

LONG = b"x" * (Answer.LIMIT + 1)


@dataclass(frozen=True)
class Case:
    """What a server sends before it closes or waits, and what is to be read in it."""

    raw: bytes
    status: int | None
    is_complete: bool = True
    """Is the answer complete although the server has not closed?"""
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    extra: int = 0
    """Bytes at the end that are no part of the answer: it is complete without them."""


CASES = {
    "200 with a length": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
    "202 with a length": Case(
        b"HTTP/1.1 202 Accepted\r\nServer: x/1\r\nContent-Length: 9\r\nBackjob-Proof: p\r\n\r\naccepted\n",
        202,
        headers=(("Server", "x/1"), ("Backjob-Proof", "p"), ("Missing", "")),
    ),
    "length of zero": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    "more than its length": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1", 200, extra=8),
    "less than its length": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", 200, is_complete=False),
    "a length that is none": Case(b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok", 200, extra=2),
    "a length in the body": Case(b"HTTP/1.1 200 OK\r\n\r\n\r\nContent-Length: 0\r\n\r\n", 200, extra=23),
    "a header that ends like it": Case(b"HTTP/1.1 200 OK\r\nX-Content-Length: 0\r\n\r\n", 200),
    "closed at its end": Case(b"HTTP/1.1 200 OK\r\n\r\nok", 200, extra=2),
    "chunked": Case(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, extra=12),
    "two lengths": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nok", 200, extra=2),
    "a length twice": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200),
    "100 first": Case(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nServer: x\r\n\r\nok",
        202,
        headers=(("Server", "x"),),
    ),
    "two interim answers": Case(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 0\r\n\r\n"
        b"HTTP/1.1 204 No Content\r\n\r\n",
        204,
        headers=(("Link", ""),),
    ),
    "100 and no more": Case(b"HTTP/1.1 100 Continue\r\n\r\n", None, is_complete=False),
    "HEAD": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", 200, method="HEAD"),
    "HEAD without a length": Case(b"HTTP/1.1 200 OK\r\n\r\n", 200, method="HEAD"),
    "204": Case(b"HTTP/1.1 204 No Content\r\n\r\n", 204),
    "304": Case(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", 304),
    "HTTP/1.0": Case(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
    "empty reason": Case(b"HTTP/1.1 202 \r\nContent-Length: 2\r\n\r\nok", 202),
    "no reason": Case(b"HTTP/1.1 202\r\nContent-Length: 2\r\n\r\nok", 202),
    "a reason that is not ASCII": Case("HTTP/1.1 404 Página\r\nContent-Length: 0\r\n\r\n".encode(), 404),
    "lower-case names": Case(
        b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 2\r\n\r\nok", 200, headers=(("Server", "x"),)
    ),
    "upper-case names": Case(b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH:2\r\n\r\nok", 200),
    "spaces around the length": Case(b"HTTP/1.1 200 OK\r\nContent-Length: \t 2 \r\n\r\nok", 200),
    "no headers": Case(b"HTTP/1.1 500 Oh\r\n\r\n", 500, headers=(("Server", ""),)),
    "half a status line": Case(b"HTTP/1.1 20", None, is_complete=False),
    "half a head": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", None, is_complete=False),
    "nothing": Case(b"", None, is_complete=False),
    "garbage": Case(b"SSH-2.0-x\r\n", None, extra=10),
    "garbage that begins well": Case(b"HTTP/2 what\r\n", None, extra=7),
    "garbage with a head": Case(b"HTTP/1.1 hello\r\n\r\n", None),
    "a status out of range": Case(b"HTTP/1.1 999 Oh\r\n\r\n", None),
    "TLS alert": Case(b"\x15\x03\x03\x00\x02\x02\x46", None, extra=6),
    "an empty line first": Case(b"\r\nHTTP/1.1 200 OK\r\n\r\n", None, extra=20),
    "an endless body": Case(b"HTTP/1.1 200 OK\r\n\r\n" + LONG, 200, extra=len(LONG)),
    "an endless head": Case(b"HTTP/1.1 200 OK\r\nX: " + LONG, None, extra=len(b"HTTP/1.1 200 OK\r\nX: ")),
}


def read(case: Case, pieces: list[bytes]) -> Answer:
    """Feed the pieces as a connection does: no more once the answer is complete."""
    answer = Answer(case.method)
    for piece in pieces:
        assert not answer.is_complete or case.extra
        if not answer.is_complete:
            answer.feed(piece)
    assert answer.is_complete is case.is_complete
    answer.feed(b"")
    assert answer.is_complete
    return answer


def bytewise(raw: bytes) -> list[bytes]:
    return [raw[i : i + 1] for i in range(len(raw))]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("cut", [bytewise, lambda raw: [raw] if raw else []], ids=["byte by byte", "in one piece"])
def test_answer(case: Case, cut) -> None:
    answer = read(case, cut(case.raw))
    assert answer.status == case.status
    assert [(name, answer.header(name)) for name, _ in case.headers] == list(case.headers)


@given(st.sampled_from([case for case in CASES.values() if 0 < len(case.raw) < 500]), st.data())
def test_pieces_of_any_length_make_no_difference(case: Case, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(case.raw)), max_size=8)))
    pieces = [case.raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(case.raw)], strict=True) if a < b]
    answer, whole = read(case, pieces), read(case, bytewise(case.raw))
    assert answer.status == whole.status
    assert [answer.header(name) for name, _ in case.headers] == [whole.header(name) for name, _ in case.headers]


@pytest.mark.parametrize("case", [case for case in CASES.values() if case.is_complete and case.raw and not case.extra])
def test_answer_is_complete_with_its_last_byte_and_no_sooner(case: Case) -> None:
    answer = Answer(case.method)
    for byte in bytewise(case.raw):
        assert not answer.is_complete
        answer.feed(byte)
    assert answer.is_complete


@given(st.binary(max_size=400))
def test_nothing_that_a_server_sends_raises(raw: bytes) -> None:
    for prefix in (b"", b"HTTP/1.1 200 OK\r\n"):
        answer = Answer("GET")
        answer.feed(prefix + raw + b"\r\n\r\n")
        answer.feed(b"")
        assert isinstance(answer.header("Server"), str)
        assert answer.is_complete


def test_an_endless_answer_is_not_kept_whole() -> None:
    answer = Answer("GET")
    answer.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
    while not answer.is_complete:
        answer.feed(b"x" * 16384)
    assert len(answer.raw) <= Answer.LIMIT + 16384
