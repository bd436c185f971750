"""Request bytes: another parser reads what was meant, and nothing gets out of its line."""

from __future__ import annotations

import io
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backjob._socket import build_request, check_header, check_method, check_target

CANARY = "canary-4711"
TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
OWN_FIELDS = ["Host", "User-Agent", "Cache-Control", "Pragma", "Connection"]

tokens = st.text(TOKEN_CHARACTERS, min_size=1, max_size=20)
methods = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "CHICKEN", "get"]) | tokens.filter(
    lambda token: token.upper() != "CONNECT"
)
targets = (
    st.text(VISIBLE.replace("#", ""), max_size=80)
    .map(lambda text: "/" + text)
    .filter(lambda target: not target.startswith("//"))
)
values = st.text(VISIBLE + " \t", max_size=60).map(str.strip)
fields = st.lists(st.tuples(tokens.filter(lambda name: not name.lower().startswith("content-")), values), max_size=8)


class Parser(BaseHTTPRequestHandler):
    """The standard library's own idea of a request."""

    def __init__(self, raw: bytes) -> None:
        self.rfile = io.BytesIO(raw)
        self.raw_requestline = self.rfile.readline()
        self.client_address = ("127.0.0.1", 1)
        assert self.parse_request()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        raise AssertionError(f"{code} {message} {explain}")

    def rest(self) -> bytes:
        return self.rfile.read()


def build(method: str = "GET", target: str = "/", *, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    return build_request(
        method, target, host="app.test", user_agent="tester", headers=headers or {}, body=body, content_type="text/x"
    )


def listed(headers: Message) -> list[tuple[str, str]]:
    return list(headers.items())


@given(methods, targets, fields, st.binary(max_size=200))
def test_another_parser_reads_the_same(method: str, target: str, extra: list[tuple[str, str]], body: bytes) -> None:
    raw = build_request(
        method, target, host="h.test:81", user_agent="a b/1", headers=extra, body=body, content_type="text/x; y=z"
    )
    parsed = Parser(raw)
    assert (parsed.command, parsed.requestline) == (method, f"{method} {target} HTTP/1.1")
    read = listed(parsed.headers)
    assert [name for name, _ in read[: len(OWN_FIELDS)]] == OWN_FIELDS
    assert (parsed.headers["Host"], parsed.headers["User-Agent"]) == ("h.test:81", "a b/1")
    rest = read[len(OWN_FIELDS) :]
    assert rest[: len(extra)] == extra
    framing = dict(rest[len(extra) :])
    assert framing.get("Content-Type") == ("text/x; y=z" if body else None)
    assert int(framing.get("Content-Length", "0")) == len(body)
    assert parsed.rest() == body


@given(methods, targets, fields, st.binary(max_size=50))
def test_exactly_one_blank_line_ends_the_head(
    method: str, target: str, extra: list[tuple[str, str]], body: bytes
) -> None:
    raw = build_request(method, target, host="h", user_agent="a", headers=extra, body=body, content_type="t/t")
    head, blank, rest = raw.partition(b"\r\n\r\n")
    assert (blank, rest) == (b"\r\n\r\n", body)
    assert all(head.split(b"\r\n"))
    assert not set(head.replace(b"\r\n", b"")) - set(b"\t" + bytes(range(0x20, 0x7F)))


@pytest.mark.parametrize(
    ("method", "body", "lengths"),
    [
        *[(method, b"", []) for method in ("GET", "HEAD", "DELETE", "OPTIONS", "TRACE")],
        *[(method, b"", ["0"]) for method in ("POST", "PUT", "PATCH", "CHICKEN")],
        *[(method, b"a=1", ["3"]) for method in ("GET", "POST", "DELETE", "CHICKEN")],
    ],
)
def test_length_is_told_where_a_server_waits_for_one(method: str, body: bytes, lengths: list[str]) -> None:
    assert Parser(build(method, body=body)).headers.get_all("Content-Length", []) == lengths


@given(st.text(max_size=20))
def test_a_method_is_one_token_or_refused(method: str) -> None:
    if method and set(method) <= set(TOKEN_CHARACTERS) and method.upper() != "CONNECT":
        assert check_method(method) == method
    else:
        with pytest.raises(ValueError, match=r"method|CONNECT"):
            build(method)


@pytest.mark.parametrize(
    "method", ["", "GE T", "GET\r\nX: y", "GET\n", "G\0T", "GÉT", "CONNECT", "connect", None, b"GET"]
)
def test_wrong_method_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"method|CONNECT"):
        build(method)


@given(st.text(max_size=30))
def test_a_target_is_one_path_or_refused(text: str) -> None:
    target = "/" + text
    if set(text) <= set(VISIBLE) - {"#"} and not text.startswith("/"):
        assert check_target(target) == target
    else:
        with pytest.raises(ValueError, match="target"):
            build(target=target)


@pytest.mark.parametrize(
    "target",
    [
        *("", "a", "report", "./a", "?a=1", "*", "//host", "//host/a", "http://host/", "https://host/a", "host:80"),
        *("/a b", "/a\tb", "/a\r\nX: y", "/a\n", "\n/a", "/a\r", "/a\0", "/a\x7f", "/é", "/\u2028", "/a#b", "/a?b#c"),
        *(None, b"/a", 7),
    ],
)
def test_wrong_target_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="target"):
        build(target=target)


@pytest.mark.parametrize(
    "value", ["a\rb", "a\nb", "a\r\nB: c", "a\0", "é", "\x7f", " a", "a ", "a\n", "\x1b[0m", None, b"a", 7]
)
def test_wrong_header_value_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="header X-Name"):
        build(headers={"X-Name": value})


@pytest.mark.parametrize("name", ["", "A B", "A:", "A\r\nB", "Ä", "A\n", "A\0", None, b"A"])
def test_wrong_header_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of a header"):
        build(headers={name: "value"})


@pytest.mark.parametrize("field", ["host", "user_agent", "content_type"])
def test_every_line_of_the_head_is_checked(field: str) -> None:
    lines = {"host": "h", "user_agent": "a", "content_type": "t/t", field: f"{CANARY}\r\nX: y"}
    with pytest.raises(ValueError, match="header") as caught:
        build_request("POST", "/", body=b"x", **lines)  # type: ignore[arg-type]
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GE T", f"/a?{CANARY}", {}),
        ("GET", f"/a b?{CANARY}", {}),
        ("GET", f"/a?{CANARY} b", {}),
        ("GET", f"/a?b#{CANARY}", {}),
        ("GET", f"//host/?{CANARY}", {}),
        ("GET", f"http://host/?{CANARY}", {}),
        ("GET", f"http://u:{CANARY}@host/", {}),
        ("GET", f"/a#{CANARY}", {}),
        ("GET", f"/a?{CANARY}".encode(), {}),
        ("GET", "/a", {f"Cookie: {CANARY}": ""}),
        ("GET", "/a", {"Cookie": f"{CANARY}\n"}),
        ("GET", "/a", {"B C": CANARY}),
    ],
)
def test_an_error_never_shows_what_a_user_typed(method: str, target: Any, headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"method|target|header") as caught:
        build(method, target, headers={"Cookie": CANARY, **headers}, body=CANARY.encode())
    assert CANARY not in repr(caught.value)


def test_a_checked_header_is_handed_back() -> None:
    assert check_header("X-Name", "a\tb c") == ("X-Name", "a\tb c")
