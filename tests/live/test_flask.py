"""The Flask example as its user would try it, over http and https; an app with Flask-Login, -WTF and -SQLAlchemy."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import demo
import pytest
from support import wait_until
from support.servers import APPS, GTHREAD, Certificate, Server, Setup, Site, serve
from support.visitor import Visitor

from backjob import Status

pytestmark = pytest.mark.live

EXAMPLE = Path(demo.__file__).parent / "flask_site.py"


def visit(server: Server) -> Visitor:
    host, port = server.address
    return Visitor(f"{'https' if server.tls else 'http'}://{host}:{port}", server.tls)


def log_in(server: Server, name: str) -> Visitor:
    visitor = visit(server)
    page = visitor.submit("/login", name=name)
    assert page.status == 200, page.text
    return visitor


def _run_flask(site: Site) -> list[str]:
    where = ["--host", site.host, "--port", site.port]
    return [sys.executable, "-m", "flask", "--app", site.app, "run", *where]


SERVERS = {
    "http": GTHREAD,
    "https": GTHREAD.over("tls"),
    "flask-run": Setup("flask-run", 4, command=_run_flask, is_inheriting=False),
}


@pytest.mark.parametrize("kind", SERVERS)
def test_a_user_starts_a_report_and_watches_it(tmp_path, certificate, kind):
    shutil.copy(EXAMPLE, tmp_path)
    environ = {"PROGRESS_PAUSE": "0.4"}
    app = "flask_site" if kind == "flask-run" else "flask_site:app"
    with serve(SERVERS[kind], tmp_path, app, certificate, apps=tmp_path, environ=environ) as server:
        server.wait_until_it_listens()
        ada = log_in(server, "Ada")
        assert ada.post("/start", title="without a token").status == 400
        page = ada.submit("/", "/start", title="Zürich & more")
        assert page.path.startswith("/progress/"), page.text
        job_id = int(page.path.removeprefix("/progress/"))
        assert log_in(server, "Eve").ask(f"/status/{job_id}").status == 404
        seen = set()

        def ended() -> dict[str, Any] | None:
            status = ada.ask(f"/status/{job_id}").json()
            seen.add(status["progress"])
            return status if status["end_time"] else None

        status = wait_until(ended)
        assert (status["status"], status["progress"]) == (Status.COMPLETED, 100), status
        assert status["status_text"] == "'Zürich & more' for Ada: started.\nThe report is done."
        assert seen & {20, 40, 60, 80}
        assert "completed, 100 %" in ada.ask("/").text


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Server]:
    """The app with the extensions, over https."""
    directory = tmp_path_factory.mktemp("flask")
    shutil.copy(APPS / "flask_more.py", directory)
    options: dict[str, Any] = {"apps": directory, "is_trouble_expected": True}  # Flask logs what a view raises
    with serve(GTHREAD.over("tls"), directory, "flask_more:create_app()", certificate, **options) as server:
        yield server


def begin(visitor: Visitor, target: str, query: str = "") -> tuple[int, str]:
    """Start a job, and give its end."""
    end = visitor.end_of(visitor.ask(f"/begin?target={target}&{query}").json()["id"], "/state")
    return end["status"], end["status_text"]


def names_of(visitor: Visitor) -> list[str]:
    """What was written for good. Nothing of the database stays in use, and nobody is locked out."""

    def look() -> list[str] | None:
        seen = visitor.ask("/entries").json()
        return seen["names"] if not seen["in_use"] else None

    return wait_until(look)  # type: ignore[return-value]


def test_a_job_by_get_and_by_post_and_of_nobody(server):
    ada = log_in(server, "ada")
    done = Status.COMPLETED
    assert begin(ada, "/work/get") == (done, "GET by ada\n")
    assert begin(ada, "/work/post", "method=POST") == (done, "POST by ada\n")
    assert begin(ada, "/work/put", "method=PUT") == (done, "PUT by ada\n")
    assert begin(ada, "/work/anonymous", "method=POST&anonymous=yes") == (done, "POST by nobody\n")
    assert begin(visit(server), "/work/guest", "method=POST") == (done, "POST by nobody\n")
    assert {"get", "post", "put", "anonymous", "guest"} <= set(names_of(ada))
    # The session is bound to the browser, and the form has a check of its own.
    assert begin(ada, "/fresh", "method=POST") == (done, "True for ada")


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("leave", "The session of the user who started this job has ended"),
        ("eve", "The session of the user who started this job belongs to another user by now"),
    ],
)
def test_a_job_whose_user_is_no_more_does_not_run(server, then, words):
    user = log_in(server, f"who-{then}")
    status, text = begin(user, f"/work/never-{then}", f"method=POST&then={then}")
    assert (status, text.startswith(words)) == (Status.FAILED, True)
    assert f"never-{then}" not in names_of(user)


def test_what_a_job_leaves_behind(server):
    ada = log_in(server, "ada")
    error = "HTTP 500 INTERNAL SERVER ERROR: ValueError: the figures don't add up"
    assert begin(ada, "/work/error")[1].endswith(error)
    handled = "GET by ada\nHTTP 503 SERVICE UNAVAILABLE: ConnectionError: the other side is away"
    assert begin(ada, "/work/handled") == (Status.FAILED, handled)
    assert begin(ada, "/work/fail") == (Status.FAILED, "GET by ada\ntold to fail")
    assert begin(ada, "/work/stream") == (Status.FAILED, "GET by ada\none\nno more")
    job_id = ada.ask("/begin?target=/work/cancel").json()["id"]
    wait_until(lambda: ada.ask(f"/state/{job_id}").json()["progress"])
    assert ada.ask(f"/cancel?id={job_id}").json() == {"was_live": True}
    assert ada.end_of(job_id, "/state")["status"] == Status.CANCELLED
    assert begin(ada, "/work/finish") == (Status.COMPLETED, "all is well")
    ways = {"error", "handled", "fail", "stream", "cancel", "finish"}
    assert ways.intersection(names_of(ada)) == {"finish"}


def test_background(server):
    ada = log_in(server, "ada")
    token = ada.fields("/login")["csrf_token"]
    csrf = {"X-CSRFToken": token}
    as_json = {"Content-Type": "application/json"}
    assert ada.ask("/sum", b"{}", as_json).status == 400

    def ask(*request: Any) -> tuple[int, str]:
        page = ada.ask(*request)
        assert (page.status, list(page.json())) == (202, ["id"])
        end = ada.end_of(page.json()["id"], "/state")
        assert end["scope"] == "ada"
        return end["status"], end["status_text"]

    done = Status.COMPLETED
    form = urlencode({"figures": "1 & 2", "csrf_token": token}).encode()
    of_form = "application/x-www-form-urlencoded"
    assert ask("/sum?of=a%20b", form) == (done, f"('POST', '/sum?of=a%20b', '{of_form}') 1 & 2")
    figures = json.dumps([1, "ü"]).encode()
    assert ask("/sum", figures, as_json | csrf) == (done, f"('POST', '/sum?', 'application/json') {figures.decode()}")
    assert [ada.ask("/sum?q=1", method=method).status for method in ("GET", "HEAD")] == [405, 405]
    assert "starts no job here: send DELETE or PATCH or POST or PUT" in ada.ask("/sum?q=1").text
    parts = '--part\r\nContent-Disposition: form-data; name="figures"{}\r\n\r\n3 & 4\r\n--part--\r\n'
    multipart = {"Content-Type": "multipart/form-data; boundary=part", **csrf}
    assert ask("/sum", parts.format("").encode(), multipart) == (done, f"('POST', '/sum?', '{of_form}') 3 & 4")
    mixed = {**csrf, "Content-Type": "multipart/mixed; boundary=part"}
    for body, headers in ((parts.format('; filename="a.txt"'), multipart), (parts.format(""), mixed)):
        refused = ada.ask("/sum", body.encode(), headers)
        assert (refused.status, "uploaded files" in refused.text) == (415, True)


def test_a_view_in_the_background_refuses_a_forged_request_itself(server):
    ada = log_in(server, "ada")

    def pay(figures: str, **token: str) -> tuple[int, bool]:
        body = urlencode({"figures": figures, **token}).encode()
        page = ada.ask("/pay", body, {"Origin": "https://evil.example"} if not token else {})
        end = ada.end_of(page.json()["id"], "/state")
        return end["status"], f"paid {figures}" in names_of(ada)

    assert pay("1000") == (Status.FAILED, False)
    assert pay("5", csrf_token=ada.fields("/login")["csrf_token"]) == (Status.COMPLETED, True)
