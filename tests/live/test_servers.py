"""The whole mechanism on every server and transport: the seed's walk-through, methods and bodies, many jobs at once."""

from __future__ import annotations

import concurrent.futures
import json
import socket
from collections.abc import Iterator

import pytest
from support import wait_until
from support.servers import EVERYWHERE, GTHREAD, WAITRESS, WERKZEUG, WSGIREF, Certificate, Server, Setup, serve

from backjob import BackJob, Status

from .conftest import Serve

pytestmark = pytest.mark.live


@pytest.fixture(scope="module", params=EVERYWHERE, ids=str)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Certificate
) -> Iterator[Server]:
    """Each set-up once for all tests of this file."""
    with serve(request.param, tmp_path_factory.mktemp("live"), certificate=certificate) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    before = len(running.log)
    yield running
    print(running.log[before:])


@pytest.fixture
def records(server: Server) -> Iterator[BackJob]:
    """The records as another process sees them: a server with one slot answers no question while a job has it."""
    application = BackJob(lambda environ, start_response: [], database=f"sqlite:///{server.directory}/backjob.sqlite3")
    yield application
    application._database.dispose()


def test_walk_through(server: Server, records: BackJob) -> None:
    """EBackJob's complete example: a page starts the job, another tells how it stands, while it runs and after."""
    look = records.jobs.status if server.setup.slots == 1 else None

    def seen(job_id: int, progress: int) -> str:
        status = look(job_id).as_dict() if look else server.status(job_id)
        assert status["progress"] <= progress
        assert status["status"] in (Status.STARTED, Status.INPROGRESS)
        return status["status_text"] if status["progress"] == progress else ""

    job_id = server.start("/walk", {"Cookie": "user=Ada"})
    server.open_gate("gate-20")
    assert wait_until(lambda: seen(job_id, 20)) == "Job started for Ada.\n"
    server.open_gate("gate-40")
    assert wait_until(lambda: seen(job_id, 40)) == "Job started for Ada.\nJob in progress.\n"
    server.open_gate("gate-80")
    end = server.end_of(job_id)
    assert end["status"] == Status.COMPLETED
    assert end["progress"] == 100
    assert end["status_text"] == "Job started for Ada.\nJob in progress.\nJob done.\n"
    assert end["attempt"] == 1
    server.assert_ran_once([job_id])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "CHICKEN"])
def test_method_body_and_user_arrive(server: Server, method: str) -> None:
    """The job is the request that was asked for, by the user who asked."""
    user = {"Cookie": "user=Ada; theme=d%C3%A4mmrig", "Authorization": "Basic QWRhOmVuZ2luZQ=="}
    form = {"id": 5, "name": "Zoë & Łucja = 100 %", "tag": ["a", "b"]}
    job_id = server.start("/echo?page=1", user, params={"q": "ä b"}, method=method, data=form)
    end = server.end_of(job_id)
    assert end["status"] == Status.COMPLETED, end["status_text"]
    seen = json.loads(end["status_text"])
    assert (seen["method"], seen["path"], seen["query"]) == (method, "/echo", "page=1&q=%C3%A4+b")
    assert seen["body"] == "id=5&name=Zo%C3%AB+%26+%C5%81ucja+%3D+100+%25&tag=a&tag=b"
    headers = seen["headers"]
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert headers["Content-Length"] == str(len(seen["body"]))
    assert {name: headers[name] for name in user} == user
    assert headers["User-Agent"].startswith("backjob/")
    assert not any("backjob" in name.lower() for name in headers)
    assert seen["scheme"] == ("https" if server.setup.transport == "tls" else "http")
    server.assert_ran_once([job_id])


def test_twenty_at_once(server: Server) -> None:
    """Twenty people each start a job in the same moment; as few as wsgiref lets queue, if they start more each."""
    crowd = 4 if server.setup is WSGIREF else 20
    with concurrent.futures.ThreadPoolExecutor(crowd) as people:
        answers = people.map(lambda _: server.start_all("/work?seconds=0.02", count=20 // crowd), range(crowd))
        job_ids = [job_id for answer in answers for job_id in answer["ids"]]
    assert len(set(job_ids)) == 20
    ends = [server.end_of(job_id) for job_id in job_ids]
    assert [end["status"] for end in ends] == [Status.COMPLETED] * 20
    server.assert_ran_once(job_ids)


@pytest.mark.parametrize(
    "setup",
    [
        *(setup.at("0.0.0.0") for setup in (GTHREAD, WAITRESS, WSGIREF, WERKZEUG)),
        *(setup.at(host) for setup in (GTHREAD, WAITRESS) for host in ("::1", "::")),
    ],
    ids=str,
)
def test_server_at_other_addresses(run_server: Serve, setup: Setup) -> None:
    """Bound to all addresses, or over IPv6: the self-requests find their way too."""
    if ":" in setup.host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    server = run_server(setup)
    job_id = server.start("/work")
    end = server.end_of(job_id)
    assert end["status"] == Status.COMPLETED, end["status_text"]
    server.assert_ran_once([job_id])


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
