"""Both wordings of a failed launch: the log names addresses and what servers say, and status texts never do."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from backjob._socket import Answer
from backjob.errors import AddressError, Busy, LaunchError
from backjob.messages import Part, compose, join, plain
from backjob.model.address import Address, parse_connect
from backjob.transport.connection_failures import explain_failure, explain_loss, explain_queue, explain_silence
from backjob.transport.error_hints import explain, explain_path, explain_post, hint_at_mount, sum_up

CANARY = "canary7"
NAMES = [
    *(CANARY, f"my {CANARY}", f"a: {CANARY}", f"a, {CANARY}; b", f"a). {CANARY}; b", f"a): {CANARY} (b"),
    *(f"a? {CANARY}", f'it\'s "{CANARY}"', f"'a' \"{CANARY}\"", f"a]{CANARY}[", f"{{{{{CANARY}}}}}"),
    *(f"%s {CANARY} \\", f"…{CANARY}ü"),
]
STATUSES = (200, 302, 400, 401, 403, 404, 405, 407, 410, 418, 421, 429, 500, 503, 504, 599)
ADDRESSES = ("unix:/run/{}.sock", "unix:@{}", "uwsgi:/run/{}.sock", "uwsgi:@{}")
HOSTS = ("http://{}.test", "https://{}.test:8443", "uwsgi://{}:3031")


def receive(raw: str) -> Answer:
    answer = Answer("GET")
    answer.feed(raw.encode())
    answer.feed(b"")
    return answer


def answers_with(name: str) -> Iterator[Answer]:
    """Answers in which a server says this of itself."""
    for status in STATUSES:
        for more in ("", "Content-Length: 9\r\n\r\nbackjob: ", "\r\nThe plain HTTP request was sent to HTTPS port"):
            yield receive(f"HTTP/1.1 {status} Oh\r\nServer: {name}\r\n{more}\r\n")
    yield receive(f"220 {name} ESMTP\r\n")


def errors_with(name: str) -> Iterator[OSError]:
    """Errors of connections whose messages have this name in them."""
    for kind in (OSError, FileNotFoundError, ConnectionRefusedError, PermissionError, TimeoutError, ConnectionError):
        yield kind(name)
        yield kind(5, name)
    yield ssl.SSLError(1, name)
    refusal = ssl.SSLCertVerificationError(1, name)
    refusal.verify_message, refusal.verify_code = f"Hostname mismatch, certificate is not valid for '{name}'.", 62
    yield refusal


def explain_answer(answer: Answer, address: Address) -> Iterator[LaunchError]:
    """Everything that is said about an answer at an address."""
    failure = explain(answer, address)
    yield from (failure, explain_post(answer, address), hint_at_mount(failure), sum_up([failure, failure]))
    yield from (explain_path(answer, address, "POST", "/a", is_answered=each) for each in (False, True))
    yield Busy(compose("it does not answer: {error}", error=failure))


def texts_with(place: str, name: str) -> Iterator[Part]:
    """All that is said of a server with this name at this place, always in the same order."""
    address = parse_connect(place)
    for answer in answers_with(name):
        yield from explain_answer(answer, address)
    for error in errors_with(name):
        yield explain_failure(error, address)
    yield from (explain_silence(address, 1.5), explain_loss(address, 10), explain_queue(address, 10))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [*ADDRESSES, *HOSTS])
def test_no_name_changes_what_everybody_sees(place: str, name: str) -> None:
    there = place.format(CANARY if place in HOSTS else name)
    neutral = [text.public for text in texts_with(place.format("a"), "a")]
    found = list(texts_with(there, name))
    assert [text.public for text in found] == neutral
    for text in found:
        assert CANARY in str(text)
        assert CANARY not in text.public


@pytest.mark.parametrize("name", NAMES)
def test_the_log_has_what_a_server_says(name: str) -> None:
    address = parse_connect("http://127.0.0.1:8000")
    for text in [each for answer in answers_with(name) for each in explain_answer(answer, address)]:
        assert CANARY in str(text)


@pytest.mark.parametrize(
    "location",
    [
        *("https://{}.corp/login", "//{}.corp/x", "https:{}.corp", "ldap://{}", "//localhost/{}: x", "\\\\{}\\x"),
        *("https://a.{}:8443/x: y", "//a,{}/x", "//{}:x", "https://{}:", "//127.0.0.1/{}: https", "https://[{}"),
    ],
)
def test_a_redirect_names_no_place_to_everybody(location: str) -> None:
    answer = receive(f"HTTP/1.1 302 Found\r\nLocation: {location.format(CANARY)}\r\n\r\n")
    for text in explain_answer(answer, parse_connect("http://127.0.0.1:8000")):
        assert CANARY in str(text)
        assert CANARY not in text.public
        assert "redirects elsewhere" in text.public


def test_a_certificate_of_another_host() -> None:
    *_, error = errors_with(CANARY)
    text = explain_failure(error, parse_connect("https://127.0.0.1:8443"))
    assert CANARY in str(text)
    assert text.public.startswith("the app's own address has a certificate that can't be verified: connect= must")


def test_a_host_that_does_not_resolve() -> None:
    text = explain_failure(type("gaierror", (OSError,), {})(-2, "unknown"), parse_connect(f"http://{CANARY}"))
    assert f"the name {CANARY} does not resolve" in str(text)
    assert "its name does not resolve" in text.public


def test_a_message_in_one_wording_is_for_the_log() -> None:
    """A custom launcher's, for example: nothing is known of what it names."""
    assert (str(LaunchError(CANARY)), LaunchError(CANARY).public) == (CANARY, "A self-request got no answer of ours.")
    assert Busy(CANARY).public == str(Busy())
    assert LaunchError(AddressError()).public == str(AddressError())


def test_equal_sentences_are_joined_once() -> None:
    parts = [plain("a?"), Address(unix="/b"), Address("c", 1)]
    assert str(join("; ", parts)) == "a? unix:/b; http://c:1"
    assert join("; ", parts).public == "a? the app's own address"
