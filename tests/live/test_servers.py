"""What goes beyond test_matrix.py's round, on the servers that most people have: other methods, a crowd of people."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Iterator

import pytest
from support.servers import EVERYWHERE, WSGIREF, Certificate, Server, serve

from backjob import Status

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


@pytest.mark.parametrize("method", ["PUT", "DELETE", "CHICKEN"])
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
