"""Self-requests against scripted peers: what is sent, whom it is sent to, and what each answer is taken for."""

from __future__ import annotations

import os
import socket
import threading
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import support
from support.peers import (
    Authority,
    Call,
    Peer,
    Script,
    answer,
    answer_and_reset,
    answer_and_stay,
    full_backlog,
    proof_answer,
    prove,
    read_header,
)

from backjob._socket import is_done
from backjob.config import make_config
from backjob.errors import AddressError, Busy, LaunchError
from backjob.keyring import MONITOR, WORKER, Keyring, Token
from backjob.model.address import Address
from backjob.model.job import JobRequest
from backjob.transport.launcher import MOST_UNANSWERED, SelfRequest
from backjob.transport.protocol import name_app_here

KEYRING = Keyring(["k" * 32])
COOKIE, CREDENTIAL, FORM_VALUE, QUERY_VALUE = "canary-cookie", "canary-credential", "canary-form", "canary-query"
JOB = JobRequest(
    method="CHICKEN",
    target=f"/mount/report?q={QUERY_VALUE}",
    script_name="/mount",
    path_info="/report",
    query_string=f"q={QUERY_VALUE}",
    body=f"field={FORM_VALUE}".encode(),
    content_type="application/x-www-form-urlencoded",
    headers={"HTTP_HOST": "people.test", "HTTP_COOKIE": COOKIE, "HTTP_AUTHORIZATION": CREDENTIAL},
    remote_user="canary-user",
)
ACK = prove(KEYRING, "202 Accepted", "monitor")
SOON = 3.0
"""Seconds within which anything is done that waits for nothing, on a busy machine too."""


def sign(kind: str = MONITOR) -> Token:
    return KEYRING.sign(kind, 7, 1, b"sealed")


def self_request(address: Address | None = None, **options: Any) -> SelfRequest:
    if address is not None:
        options["connect"] = str(address)
    return SelfRequest(make_config({"close_delay": 5, **options}), KEYRING)


def answer_as(app: str) -> Script:
    """As our own server does, with this app in it."""

    def answer_probe_and_job(call: Call) -> None:
        token = KEYRING.verify(read_header(call.read_request(), "Backjob-Token"))
        here = f"{token.prove('here')} {token.prove(name_app_here(app))}"
        call.send(proof_answer("200 OK", here if token.kind == "probe" else token.prove("ended")))

    return answer_probe_and_job


answer_probe_and_job = answer_as("")


def launch(launcher: SelfRequest, environ: dict[str, Any] | None = None, request: JobRequest = JOB) -> bool:
    return launcher.launch(sign(), request, environ)


def served_at(peer: Peer) -> dict[str, Any]:
    """The environ of a request to a server in this process: its listener is among the process's own."""
    return {"SERVER_PORT": str(peer.address.port), "wsgi.url_scheme": "http"}


def refusal(status: str, *headers: str, server: str = "thing/1.0") -> bytes:
    """A whole answer of something that is not ours."""
    lines = [f"HTTP/1.1 {status}", f"Server: {server}", *headers, "Content-Length: 2", "", "no"]
    return "\r\n".join(lines).encode()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class TestAcknowledged:
    @pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
    def test_right_proof(self, family: int) -> None:
        with Peer(ACK, family=family) as peer:
            assert launch(self_request(peer.address)) is True

    def test_right_proof_over_tls(self, authority: Authority, tmp_path: Path) -> None:
        with Peer(ACK, tls=authority.certify("127.0.0.1")) as peer:
            assert launch(self_request(peer.address, ca_file=authority.write_to(tmp_path))) is True

    def test_right_proof_byte_by_byte(self) -> None:
        def answer_byte_by_byte(call: Call) -> None:
            token = KEYRING.verify(read_header(call.read_request(), "Backjob-Token"))
            call.send(*(bytes([byte]) for byte in proof_answer("202 Accepted", token.prove("monitor"))))
            call.wait_for_the_end()

        with Peer(answer_byte_by_byte) as peer:
            assert launch(self_request(peer.address)) is True

    def test_a_launch_that_a_proxy_sent_twice_was_taken_over_before(self) -> None:
        with Peer(prove(KEYRING, "409 Conflict", "refused")) as peer:
            assert launch(self_request(peer.address)) is True

    def test_the_address_that_proved_itself_is_kept(self) -> None:
        launcher = self_request()
        with pytest.raises(AddressError, match="connect="):
            launcher.check(None)
        with Peer(ACK) as peer, Peer(answer(refusal("200 OK"))) as other:
            assert launch(launcher, served_at(peer)) is True
            assert launch(launcher) is True
            assert launch(launcher, served_at(other)) is True
            assert other.requests.empty()

    def test_an_address_that_fails_proves_itself_again(self) -> None:
        launcher = self_request()
        with Peer(ACK) as peer:
            assert launch(launcher, served_at(peer)) is True
        with Peer(ACK) as moved:
            with pytest.raises(LaunchError):
                launch(launcher, served_at(moved))
            assert launch(launcher, served_at(moved)) is True

    def test_another_program_is_noticed_and_the_next_place_tried(self) -> None:
        with Peer(answer(proof_answer("202 Accepted", "x" * 43))) as other, Peer(ACK) as ours:
            assert launch(self_request(), served_at(other)) is True
            assert other.next_request()
            assert ours.next_request()

    def test_a_place_learnt_from_a_request_serves_without_one(self) -> None:
        launcher = self_request()
        with Peer(ACK) as peer:
            launcher.learn(served_at(peer))
            launcher.check(None)
            assert launch(launcher) is True


NOT_OURS: list[Any] = [
    pytest.param(answer(proof_answer("202 Accepted", "x" * 43)), True, ["202", "another"], id="wrong proof"),
    pytest.param(answer(refusal("202 Accepted")), True, ["202", "thing/1.0", "another key"], id="no proof"),
    pytest.param(prove(KEYRING, "202 Accepted", "ended"), True, ["202"], id="proof of something else"),
    pytest.param(prove(KEYRING, "200 OK", "monitor"), True, ["200"], id="proof with another status"),
    pytest.param(prove(KEYRING, "200 OK", "refused"), True, ["200"], id="refusal with another status"),
    pytest.param(
        prove(KEYRING, "410 Gone", "unknown"), True, ["410", "table_name", "connect=", "cache"], id="another table"
    ),
    pytest.param(answer(refusal("401 Unauthorized")), True, ["401", "thing/1.0", "connect_headers"], id="401"),
    pytest.param(
        answer(refusal("302 Found", "Location: https://a.test/mount/?next=secret")),
        True,
        ["302", "thing/1.0", "https://a.test/mount/", "it wants https", "X-Forwarded-Proto"],
        id="302 to https",
    ),
    pytest.param(
        answer(refusal("301 Moved", "Location: http://a.test/")), True, ["301", "connect="], id="301 to another host"
    ),
    pytest.param(answer(refusal("301 Moved")), True, ["301", "elsewhere"], id="301 to nowhere"),
    pytest.param(answer(refusal("403 Forbidden")), True, ["403", "thing/1.0", "key"], id="403"),
    pytest.param(answer(refusal("404 Not Found")), True, ["404", "thing/1.0"], id="404"),
    pytest.param(answer(refusal("413 Too Large")), True, ["413", "client_max_body_size"], id="413"),
    pytest.param(answer(refusal("431 Too Large")), True, ["431", "user_agent"], id="431"),
    pytest.param(answer(refusal("429 Too Many")), False, ["429", "thing/1.0"], id="429"),
    pytest.param(answer(refusal("500 Oh")), False, ["500", "thing/1.0"], id="500"),
    pytest.param(answer(refusal("502 Bad Gateway", server="nginx")), False, ["502", "nginx"], id="502"),
    pytest.param(answer(refusal("503 Wait")), False, ["503", "thing/1.0"], id="503"),
    pytest.param(answer(refusal("504 Late")), False, ["504", "thing/1.0"], id="504"),
    pytest.param(answer(b"HTTP/1.1 404 \r\n\r\n"), True, ["404", "does not say its name"], id="404 of nobody"),
    pytest.param(answer(b"SSH-2.0-x\r\n"), True, ["HTTP"], id="no HTTP"),
    pytest.param(answer(b"\x15\x03\x01\x00\x02\x02\x46"), True, ["TLS", "https://"], id="TLS"),
    pytest.param(answer(), False, ["without a"], id="closed at once"),
    pytest.param(answer_and_reset(), False, [], id="reset at once"),
    pytest.param(answer(b"HTTP/1.1 20"), False, [], id="half a head"),
    pytest.param(answer_and_reset(b"HTTP/1.1 202 Accepted\r\nServer: x\r\n"), False, [], id="half a head, reset"),
]


@pytest.mark.parametrize(("script", "is_final", "words"), NOT_OURS)
@pytest.mark.parametrize("is_set", [True, False], ids=["set", "found"])
def test_answer_that_is_not_ours(script: Script, is_final: bool, words: list[str], is_set: bool) -> None:
    with Peer(script) as peer:
        launcher = self_request(peer.address if is_set else None)
        with pytest.raises(LaunchError) as caught:
            launch(launcher, served_at(peer))
    text = str(caught.value)
    assert caught.value.is_final is is_final
    for word in [str(peer.address), *words]:
        assert word in text
    for place in (str(peer.address), "thing/1.0", "a.test", "SSH"):
        assert place not in caught.value.public
    for secret in ("secret", COOKIE, CREDENTIAL, FORM_VALUE, QUERY_VALUE, sign().text[:20]):
        assert secret not in text


@pytest.mark.parametrize("header", ["Server: a\x1b[2Jb\x00c", "Server: " + "x" * 5000, "Location: a\x07b"])
def test_what_a_server_says_of_itself_is_harmless_in_a_log(header: str) -> None:
    raw = f"HTTP/1.1 302 Found\r\n{header}\r\nContent-Length: 0\r\n\r\n".encode()
    with Peer(answer(raw)) as peer, pytest.raises(LaunchError) as caught:
        launch(self_request(peer.address))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


class TestUnreachable:
    @pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["tcp", "unix"])
    def test_nobody_listens(self, family: int) -> None:
        with Peer(ACK, family=family) as peer:
            launcher = self_request(peer.address)
        with pytest.raises(LaunchError, match=r"can't be reached.*connect=") as caught:
            launch(launcher)
        assert str(peer.address) in str(caught.value)
        assert not caught.value.is_final

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
    def test_a_socket_that_may_not_be_written_to(self) -> None:
        with Peer(ACK, family=socket.AF_UNIX) as peer:
            launcher = self_request(peer.address)
            os.seteuid(65534)
            try:
                with pytest.raises(LaunchError, match=r"SocketGroup= and SocketMode=.*umask") as caught:
                    launch(launcher)
            finally:
                os.seteuid(0)
        assert (caught.value.is_final, caught.value.is_denied) == (True, True)

    def test_backlog_is_full(self) -> None:
        with full_backlog() as address:
            begin = time.monotonic()
            with pytest.raises(LaunchError, match="can't be reached") as caught:
                launch(self_request(address))
            assert time.monotonic() - begin < SOON
        assert not caught.value.is_final

    def test_host_name_is_unknown(self) -> None:
        with pytest.raises(LaunchError, match="can't be reached"):
            launch(self_request(Address("nowhere.invalid", 80)))

    def test_certificate_is_another_hosts(self, authority: Authority, tmp_path: Path) -> None:
        with Peer(ACK, tls=authority.certify("other.test")) as peer:
            with pytest.raises(LaunchError, match=r"certificate.*ca_file=") as caught:
                launch(self_request(peer.address, ca_file=authority.write_to(tmp_path)))
            assert caught.value.is_final
            assert peer.requests.empty()

    def test_no_slot_for_a_handshake(self) -> None:
        with Peer(answer()) as peer:
            address = Address(peer.address.host, peer.address.port, tls=True)
            with pytest.raises(Busy, match="handshake") as caught:
                launch(self_request(address, close_delay=0.05))
            assert not caught.value.is_final

    def test_plain_request_to_a_tls_port(self, authority: Authority) -> None:
        with Peer(ACK, tls=authority.certify("127.0.0.1")) as peer:
            address = Address(peer.address.host, peer.address.port)
            with pytest.raises(LaunchError, match=str(address)):
                launch(self_request(address))
            assert peer.requests.empty()

    def test_no_place_is_known(self) -> None:
        with pytest.raises(AddressError, match="connect="):
            launch(self_request(), None)
        with pytest.raises(LaunchError, match="connect="):
            self_request().open(sign(WORKER), JOB)


class TestSilence:
    """A server whose only slot is busy with the very request that starts the job answers later."""

    DELAY = 2.0

    @staticmethod
    def time_launch(launcher: SelfRequest) -> float:
        begin = time.monotonic()
        assert launch(launcher) is False
        return time.monotonic() - begin

    def test_close_delay_is_waited_once_and_then_hardly_anything(self) -> None:
        with Peer(answer_and_stay()) as peer:
            launcher = self_request(peer.address, close_delay=self.DELAY)
            assert self.DELAY <= self.time_launch(launcher) < self.DELAY + SOON
            assert 0.01 <= self.time_launch(launcher) < self.DELAY / 2
            assert peer.next_request().startswith(b"POST /mount/ ")
            assert peer.next_request().startswith(b"POST /mount/ ")

    def test_close_delay_may_be_shorter_than_that(self) -> None:
        with Peer(answer_and_stay()) as peer:
            launcher = self_request(peer.address, close_delay=0.01)
            assert self.time_launch(launcher) < self.DELAY / 2

    @pytest.mark.parametrize("pause", [0.01, 1.8], ids=["trickle", "one late piece"])
    def test_close_delay_is_the_upper_bound_for_an_answer_in_pieces_too(self, pause: float) -> None:
        def answer_in_pieces(call: Call) -> None:
            call.read_request()
            call.send(b"HTTP/1.1 202 Accepted\r\nServer: ")
            while not call.pause(pause):
                call.send(b"x")

        with Peer(answer_in_pieces) as peer:
            assert self.DELAY <= self.time_launch(self_request(peer.address, close_delay=self.DELAY)) < 3.6

    def test_a_server_that_never_answers_is_crowded_until_it_does(self) -> None:
        is_free = threading.Event()

        def answer_when_free(call: Call) -> None:
            (ACK if is_free.is_set() else answer_and_stay())(call)

        with Peer(answer_when_free) as peer:
            launcher = self_request(peer.address, close_delay=0.01)
            seen = [launcher.is_crowded]
            for _ in range(MOST_UNANSWERED):
                assert launch(launcher) is False
                seen.append(launcher.is_crowded)
            assert seen == [False] * MOST_UNANSWERED + [True]
            is_free.set()
            support.wait_until(lambda: launch(launcher))
            assert not launcher.is_crowded

    def test_an_answer_is_not_waited_for_any_longer_than_it_takes(self) -> None:
        with Peer(ACK) as peer:
            begin = time.monotonic()
            assert launch(self_request(peer.address, close_delay=30))
            assert time.monotonic() - begin < SOON


class TestOnTheWire:
    def test_monitor_request_tells_nothing_of_the_job_but_its_token(self) -> None:
        with Peer(ACK) as peer:
            launch(self_request(peer.address, connect_headers={"X-Proxy": "pass"}, user_agent="me/1"))
            request = peer.next_request()
        token = read_header(request, "Backjob-Token")
        assert request.decode().split("\r\n") == [
            "POST /mount/ HTTP/1.1",
            f"Host: 127.0.0.1:{peer.address.port}",
            "User-Agent: me/1",
            "Cache-Control: no-store",
            "Pragma: no-cache",
            "Connection: close",
            "X-Proxy: pass",
            f"Backjob-Token: {token}",
            "Content-Length: 0",
            "",
            "",
        ]
        assert (KEYRING.verify(token).kind, KEYRING.verify(token).job_id) == (MONITOR, 7)

    def test_worker_request_has_the_form_and_no_credential(self) -> None:
        with Peer(answer_probe_and_job) as peer:
            token = sign(WORKER)
            with self_request(peer.address, connect_headers={"X-Proxy": "pass"}).open(token, JOB) as connection:
                assert peer.next_request().startswith(b"POST /mount/ HTTP/1.1\r\n")
                assert peer.next_request().startswith(b"GET /mount/report HTTP/1.1\r\n")
                request = peer.next_request()
                while not connection.receive(SOON):
                    pass
            assert token.prove("ended").encode() in connection.answer.raw
        head, _, body = request.partition(b"\r\n\r\n")
        assert head.startswith(f"CHICKEN {JOB.target} HTTP/1.1\r\n".encode())
        assert body == JOB.body
        assert read_header(request, "Content-Type") == JOB.content_type
        assert read_header(request, "X-Proxy") == "pass"
        assert read_header(request, "Backjob-Token") == token.text
        for secret in (COOKIE, CREDENTIAL, "canary-user"):
            assert secret.encode() not in request

    @pytest.mark.parametrize("mount", ["/mount", "", None], ids=["mounted", "at the root", "outside of a request"])
    @pytest.mark.parametrize("character", ["x", "%C3%A4", "/", "a/"])
    def test_monitor_request_is_under_2_kb(self, mount: str | None, character: str) -> None:
        path = "/a" + character * 30_000
        request = JobRequest(
            method="M" * 1000,
            target=(mount or "") + path + "?" + "q" * 100_000,
            script_name=mount,
            path_info=path,
            body=b"b" * 100_000,
            headers={"HTTP_HOST": "h" * 255, "HTTP_COOKIE": "c" * 100_000},
        )
        token = KEYRING.sign(MONITOR, 2**63 - 1, 2**31 - 1, b"s" * 1_000_000)
        with Peer(ACK) as peer:
            launcher = self_request(
                peer.address, user_agent="u" * 200, connect_headers={f"X-{i}": "v" * 249 for i in range(4)}
            )
            assert launcher.launch(token, request, None)
            sent = peer.next_request()
        assert len(sent) < 2048
        target = sent.split(b" ")[1].decode()
        assert target == "/mount/" if mount else request.target.startswith(target)
        assert len(target.rpartition("%")[2]) >= 2 or "%" not in target

    @pytest.mark.parametrize(
        "wrong",
        [{"method": "GET / HTTP/1.1\r\nX: y"}, {"target": "/a\r\nX: y"}, {"target": "//host/"}, {"method": "CONNECT"}],
    )
    def test_what_could_break_out_of_a_line_is_refused_before_a_byte_is_sent(self, wrong: dict[str, str]) -> None:
        fields = {"method": "GET", "target": "/", **wrong}
        with Peer(answer()) as peer, pytest.raises(ValueError, match=r"method|target|CONNECT"):
            self_request(peer.address).open(sign(WORKER), JobRequest(script_name="", path_info="/", **fields))
        assert not any(peer.all_requests())


class TestOpen:
    """The worker's request carries a form: it goes to our own server and to no other program."""

    def test_a_place_that_was_only_found_proves_itself_first(self) -> None:
        launcher = self_request()
        with Peer(answer(refusal("200 OK"))) as other, Peer(answer_probe_and_job) as ours:
            launcher.learn(served_at(other))
            for _ in range(2):
                with launcher.open(sign(WORKER), JOB) as connection:
                    while not connection.receive(SOON):
                        pass
                    assert connection.answer.status == 200
            probes = [other.next_request(), ours.next_request(), ours.next_request()]
            assert [probe[:12] for probe in probes] == [b"POST /mount/", b"POST /mount/", b"GET /mount/r"]
            assert not any(FORM_VALUE.encode() in probe for probe in probes)
            workers = [request for request in ours.all_requests() if not request.startswith(b"GET ")]
            assert [FORM_VALUE.encode() in worker for worker in workers] == [True, True]
            assert other.requests.empty()

    def test_nobody_there_is_ours(self) -> None:
        launcher = self_request()
        with Peer(answer(refusal("401 Unauthorized"))) as peer:
            launcher.learn(served_at(peer))
            with pytest.raises(LaunchError, match="connect_headers") as caught:
                launcher.open(sign(WORKER), JOB)
            assert caught.value.is_final
            assert FORM_VALUE.encode() not in peer.next_request()

    def test_nobody_listens(self) -> None:
        with Peer(ACK) as peer:
            launcher = self_request(peer.address)
        with pytest.raises(LaunchError, match="can't be reached") as caught:
            launcher.open(sign(WORKER), JOB)
        assert not caught.value.is_final

    def test_a_doubtful_answer_is_explained_and_the_place_proves_itself_anew(self) -> None:
        def serve(call: Call) -> None:
            token = KEYRING.verify(read_header(call.read_request(), "Backjob-Token"))
            call.send(
                proof_answer("200 OK", token.prove("here")) if token.kind == "probe" else refusal("413 Too Large")
            )

        launcher = self_request()
        with Peer(serve) as peer:
            launcher.learn(served_at(peer))
            for _ in range(2):
                with launcher.open(sign(WORKER), JOB) as connection:
                    while not connection.receive(SOON):
                        pass
                error = launcher.doubt(connection, sign(WORKER), JOB)
                assert [peer.next_request()[:7] for _ in range(3)] == [b"POST /m", b"GET /mo", b"CHICKEN"]
        assert str(peer.address) in str(error)
        assert "client_max_body_size" in str(error)
        assert error.is_final

    @pytest.mark.parametrize("kind", [MONITOR, WORKER])
    def test_the_connection_is_closed_before_its_answer_is_explained(self, kind: str) -> None:
        """gunicorn's gthread worker waits for that after an exception, up to 2 s, and serves no other request."""
        is_closed = threading.Event()

        def serve(call: Call) -> None:
            token = KEYRING.verify(read_header(call.read_request(), "Backjob-Token"))
            if token.kind == "probe":
                assert is_closed.wait(SOON)
                call.send(proof_answer("200 OK", token.prove("here")))
            else:
                call.send(refusal("500 Internal Server Error"))
                call.read_request()  # until the end of the connection
                is_closed.set()

        request = replace(JOB, method="GET", body=b"", script_name=None)
        with Peer(serve) as peer:
            launcher = self_request(peer.address)

            def explain() -> None:
                if kind == MONITOR:
                    launcher.launch(sign(), request, None)
                launcher.note_proof(launcher.candidates(None)[0])
                with launcher.open(sign(WORKER), request) as connection:
                    assert is_done(connection.receive, SOON)
                    raise launcher.doubt(connection, sign(WORKER), request)

            with pytest.raises(LaunchError, match="something in front of BackJob answers"):
                explain()

    def test_a_launch_that_came_in_has_proved_its_place(self) -> None:
        """On a server with one slot nobody could answer a probe: the slot is where the probe would come from."""
        launcher = self_request(close_delay=0.05)
        token = sign()
        with Peer(answer_and_stay(b"")) as silent, Peer(answer_probe_and_job) as other:
            launcher.learn(served_at(silent))
            assert launcher.launch(token, JOB, served_at(silent)) is False
            assert not launcher.own.note_arrival("of another process")
            assert launcher.own.note_arrival(token.nonce)
            with launcher.open(sign(WORKER), replace(JOB, method="GET", body=b""), from_slot=True):
                assert silent.next_request().startswith(b"POST /mount/ ")
                assert QUERY_VALUE.encode() in silent.next_request()
            assert other.requests.empty()

    def test_where_a_surer_place_has_answered_no_guess_is_told_of(self) -> None:
        with Peer(answer(refusal("401 Unauthorized"))) as sure, Peer(ACK) as guess:
            with socket.create_connection(("127.0.0.1", sure.address.port)) as client:
                accepted = types.SimpleNamespace(family=socket.AF_INET, getsockname=client.getpeername)
                with pytest.raises(LaunchError, match="401") as caught:
                    launch(self_request(), {**served_at(guess), "gunicorn.socket": accepted})
            assert str(guess.address) not in str(caught.value)
            assert guess.requests.empty()


class TestAnotherAppsJob:
    """A job that is nobody's yet is launched where its connect= leads, whoever finds it waiting."""

    def open_as(self, launcher: SelfRequest, request: JobRequest, **options: Any) -> None:
        with launcher.open(sign(WORKER), request, **options) as connection:
            while not connection.receive(SOON):
                pass
            assert connection.answer.status == 200

    def started_at(self, peer: Peer, app: str = "theirs") -> JobRequest:
        launcher = SelfRequest(make_config({}), KEYRING, app)
        started = launcher.note_origin(JOB, served_at(peer))
        assert (started.app, started.address) == (app, str(peer.address))
        return started

    def test_where_connect_leads_to_any_app_is_the_right_one(self) -> None:
        with Peer(answer_as("a pool")) as pool, Peer(answer_as("ours")) as ours:
            web = SelfRequest(make_config({"connect": str(pool.address)}), KEYRING, "web")
            request = web.note_origin(JOB, None)
            assert (request.app, request.address, request.by_connect) == ("web", str(pool.address), True)
            self.open_as(SelfRequest(make_config({"connect": str(ours.address)}), KEYRING, "ours"), request)
            assert ours.requests.empty()

    def test_another_app_in_its_place_gets_nothing_of_it(self) -> None:
        """It may be the very one that asks, which has got that address meanwhile."""
        with Peer(answer_as("ours")) as ours:
            launcher = self_request(ours.address)
            launcher.learn(served_at(ours))
            with pytest.raises(LaunchError, match="another app with BackJob"):
                launcher.open(sign(WORKER), self.started_at(ours))
            assert FORM_VALUE.encode() not in b"".join(ours.all_requests())

    def test_it_is_asked_and_gets_it(self) -> None:
        with Peer(answer_as("theirs")) as theirs, Peer(answer_probe_and_job) as ours:
            headers = {"X-Proxy": "canary-of-ours"}
            launcher = SelfRequest(make_config({"connect": str(ours.address), "connect_headers": headers}), KEYRING, "")
            for _ in range(2):
                self.open_as(launcher, self.started_at(theirs))
            requests = theirs.all_requests()
            workers = [request for request in requests[1:] if not request.startswith(b"GET ")]
            forms = [FORM_VALUE.encode() in request for request in (requests[0], *workers)]
            assert forms == [False, True, False, True], "it proves itself each time"
            assert b"canary-of-ours" not in b"".join(requests)
            assert ours.requests.empty()

    def test_our_own_job_goes_to_our_own_address_wherever_it_was_started(self) -> None:
        """After a new start a container has another address, say."""
        with Peer(answer_as("ours")) as before, Peer(answer_as("ours")) as now:
            launcher = SelfRequest(make_config({"connect": str(now.address)}), KEYRING, "ours")
            self.open_as(launcher, self.started_at(before, "ours"))
            assert before.requests.empty()

    def test_while_it_is_away_nobody_else_gets_the_form(self) -> None:
        with Peer(answer_probe_and_job) as theirs:
            request = self.started_at(theirs)
        with Peer(answer_probe_and_job) as ours:
            with pytest.raises(LaunchError, match="refused"):
                self_request(ours.address).open(sign(WORKER), request)
            assert ours.requests.empty()

    def test_another_program_in_its_place_gets_nothing_of_it(self) -> None:
        with Peer(answer(refusal("200 OK"))) as stranger, Peer(answer_probe_and_job) as ours:
            with pytest.raises(LaunchError, match="another program"):
                self_request(ours.address).open(sign(WORKER), self.started_at(stranger))
            assert FORM_VALUE.encode() not in b"".join(stranger.all_requests())
            assert ours.requests.empty()
