"""Jobs of a Pyramid site over https, with transactions and CSRF checks: who they are, and what they leave behind."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from support import wait_until
from support.servers import GTHREAD, Certificate, Server, serve
from support.visitor import Visitor

from backjob import Status

pytestmark = pytest.mark.live

ENDED = (
    "The session of the user who started this job has ended or was replaced "
    "(log-out, another login or a changed password)"
)
OTHER = "The session of the user who started this job belongs to another user by now"


@dataclass
class Shop:
    server: Server
    ada: Visitor
    token: str

    def sql(self, statement: str) -> list[Any]:
        """Another writer, who does not wait."""
        file = self.server.directory / "shop.sqlite3"
        with contextlib.closing(sqlite3.connect(file, timeout=0)) as connection, connection:
            return connection.execute(statement).fetchall()

    def run(self, how: str, meanwhile: str = "", method: str = "POST", **options: Any) -> dict[str, Any]:
        """Start a job with these options; its status when it has ended."""
        sent = {"params": {"how": how}} if method == "GET" else {"data": {"how": how}}
        job = {"target": "/work", "method": method, **sent, **options}
        body = json.dumps({"job": job, "meanwhile": meanwhile}).encode()
        headers = {"Content-Type": "application/json", "X-CSRF-Token": self.token}
        return self.ada.end_of(self.ada.ask("/start", body, headers).json()["id"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("shop")
    # The log has the tracebacks of jobs that crash.
    app = "pyramid_more:application"
    with serve(GTHREAD.over("tls"), directory, app, certificate, is_trouble_expected=True) as server:
        server.wait_until_it_listens()
        yield server


@pytest.fixture
def shop(server: Server) -> Iterator[Shop]:
    host, port = server.address
    ada = Visitor(f"https://{host}:{port}", server.tls)
    token = ada.ask("/token").json()
    assert ada.post("/login", name="ada", csrf_token="nonsense").status == 400
    assert ada.post("/login", name="ada", csrf_token=token).status == 200
    yield (shop := Shop(server, ada, token))
    shop.sql("DELETE FROM note")
    shop.sql("DELETE FROM login")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(("as_user", "user"), [(True, "ada"), (False, None)])
def test_a_job_is_its_users_or_nobodys(shop, method, as_user, user):
    end = shop.run("write", method=method, as_user=as_user)
    assert (end["status"], end["status_text"]) == (Status.COMPLETED, f"write by {user}")
    assert shop.sql("SELECT * FROM note") == [("write",)]


@pytest.mark.parametrize(
    ("meanwhile", "reason"), [("DELETE FROM login", ENDED), ("UPDATE login SET user = 'eve'", OTHER)]
)
def test_a_job_whose_session_is_no_more_its_users_does_not_run(shop, meanwhile, reason):
    end = shop.run("write", meanwhile, retries=2)
    assert (end["status"], end["status_text"], end["attempt"]) == (Status.FAILED, reason, 1)
    assert shop.sql("SELECT * FROM note") == []


@pytest.mark.parametrize(
    ("how", "status", "text"),
    [
        ("fail", Status.FAILED, "out of paper"),
        ("cancel", Status.CANCELLED, ""),
        ("crash", Status.FAILED, "HTTP 500 Internal Server Error: ValueError: no such book"),
        ("finish", Status.COMPLETED, "finished"),
    ],
)
def test_a_job_leaves_no_transaction_open(shop, how, status, text):
    end = shop.run(how)
    assert (end["status"], end["status_text"]) == (status, text)
    wait_until(lambda: shop.ada.ask("/connections").json() == 0)
    shop.sql("INSERT INTO note VALUES ('from elsewhere')")
    assert ((how,) in shop.sql("SELECT * FROM note")) is (status is Status.COMPLETED)
