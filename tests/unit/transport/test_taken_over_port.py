"""A program that takes over the port of ``connect=`` gets no query, no form and no worker's token."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support.peers import Call, Peer, Script, answer, answer_and_stay
from support.served import Site, serve, serve_site, wrap

from backjob import Status
from backjob.config import make_config
from backjob.model.address import Address
from backjob.transport.own_address import OwnAddress

PROBES = ("monitor.", "probe.")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Site, int]]:
    """A process that has run a job at ``connect=``, whose server then ends, and the port of it."""
    with serve_site(tmp_path) as pool:
        port = pool.server.port
        options = {"connect": f"http://127.0.0.1:{port}", "lease": 1, "close_delay": 0.1}
        stack = contextlib.ExitStack()
        site = stack.enter_context(wrap(tmp_path, launcher=None, **options))
        for method in ("GET", "POST"):
            assert site.wait_for_end(site.start("/job", method=method)).status is Status.COMPLETED
    with stack:
        yield site, port


def serve_503(call: Call) -> None:
    call.read_request()
    call.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


def assert_got_no_job(taker: Peer) -> None:
    requests = taker.all_requests()
    kinds = [raw.partition(b"Backjob-Token: ")[2].decode().partition(".")[0] + "." for raw in requests if raw]
    assert set(kinds) <= set(PROBES)
    assert not any(b"secret" in raw for raw in requests)


@pytest.mark.parametrize(
    ("method", "script"),
    [
        pytest.param("GET", serve_503, id="503"),
        pytest.param("POST", answer(), id="hangs up"),
        pytest.param("GET", answer_and_stay(), id="silent"),
    ],
)
def test_it_gets_no_job(web: tuple[Site, int], script: Script, method: str) -> None:
    site, port = web
    with Peer(script, port=port) as taker:
        job_id = site.start("/job?q=secret", method=method, data={"a": "secret"} if method == "POST" else None)
        seen: list[bytes] = []

        def has_asked_again() -> bool:
            seen.extend(taker.all_requests())
            return len(seen) >= 2

        wait_until(has_asked_again, 20)
        for raw in seen:
            taker.requests.put(raw)
    assert_got_no_job(taker)
    assert site.status(job_id).status is Status.STARTED
    with serve(site.application, port=port):
        assert site.wait_for_end(job_id, 40).status is Status.COMPLETED


def test_it_gets_no_job_before_anything_has_failed(tmp_path: Path) -> None:
    """The process that is to launch a job has sent nothing since the port changed hands."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with serve_site(tmp_path, connect=f"http://127.0.0.1:{port}") as site:
        with serve(site.application, port=port):
            assert site.wait_for_end(site.start("/job")).status is Status.COMPLETED
            site.start("/job?q=secret", delay=1)
        with Peer(answer_and_stay(), port=port) as taker:
            assert b"secret" not in taker.requests.get(timeout=10)


def test_a_discovered_address_counts_as_proven_until_a_request_fails() -> None:
    own = OwnAddress(make_config({}))
    address = Address("127.0.0.1", 80, found="gunicorn.socket")
    assert own.is_proven(address, 60)
    own.forget()
    assert not own.is_proven(address, 60)
    assert own.needs_proof(60)
    own.note_proof(address)
    assert own.is_proven(address, 60)


def test_a_process_asks_once_and_not_for_each_job(tmp_path: Path) -> None:
    seen: list[str] = []

    def count(app: Any) -> Any:
        def counting(environ: dict[str, Any], start_response: Any) -> Any:
            seen.append(environ.get("HTTP_BACKJOB_TOKEN", "visitor").partition(".")[0])
            return app(environ, start_response)

        return counting

    with serve_site(tmp_path, front=count) as pool:
        # A launch that is not answered in time, on a busy machine, would cost a probe.
        with wrap(tmp_path, launcher=None, connect=f"http://127.0.0.1:{pool.server.port}", close_delay=10) as site:
            for _ in range(3):
                assert site.wait_for_end(site.start("/job")).status is Status.COMPLETED
        assert seen.count("worker") == seen.count("monitor") == 3
        assert seen.count("probe") <= 1
