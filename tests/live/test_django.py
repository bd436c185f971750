"""The Django example as its user would try it, over http and https; and what jobs leave behind in Django's hands.

The https site has CSRF_USE_SESSIONS and more pages; the http site is the example as it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import demo
import pytest
from support import wait_until
from support.servers import APPS, GTHREAD, PACKAGE, Certificate, Server, Setup, Site, serve
from support.visitor import Visitor

from backjob import Status

pytestmark = pytest.mark.live

EXAMPLE = Path(demo.__file__).parent / "django_site"
SET_UP = """
import django
django.setup()
from django.contrib.auth import get_user_model
from django.core.management import call_command
call_command("migrate", verbosity=0)
for name in ("ada", "eve"):
    get_user_model().objects.create_user(name, password=f"{name}'s own")
"""


@dataclass
class DjangoSite:
    """A copy of the example that is served."""

    server: Server

    def visit(self) -> Visitor:
        scheme = "https" if self.server.tls else "http"
        host, port = self.server.address
        return Visitor(f"{scheme}://{host}:{port}", self.server.tls)

    def log_in(self, name: str) -> Visitor:
        visitor = self.visit()
        page = visitor.submit("/login", username=name, password=f"{name}'s own")
        assert (page.status, page.path) == (200, "/"), page.text
        return visitor

    def open_databases(self) -> list[str]:
        """The descriptors of the server's processes that are Django's database."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(process.name)) == self.server.process.pid:
                    found += [os.readlink(each) for each in (process / "fd").iterdir()]
            except OSError:
                continue  # it has ended, or closed that one
        return [each for each in found if each.endswith("/db.sqlite3")]


def make_site(directory: Path, settings: str) -> dict[str, str]:
    """A copy of the example with two users. The environment that it is served in."""
    shutil.copytree(EXAMPLE, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sqlite3*", "__pycache__"))
    own = {"DJANGO_SETTINGS_MODULE": settings, "PROGRESS_PAUSE": "0.4"}
    for each in APPS.glob("django_more*.py"):
        shutil.copy(each, directory)
    environ = os.environ | own | {"PYTHONPATH": os.pathsep.join([str(directory), str(PACKAGE.parent)])}
    subprocess.run([sys.executable, "-c", SET_UP], cwd=directory, env=environ, check=True, timeout=60)
    return own


@pytest.fixture(scope="module")
def http_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DjangoSite]:
    directory = tmp_path_factory.mktemp("http")
    environ = make_site(directory, "mysite.settings")
    with serve(GTHREAD, directory, "mysite.wsgi", apps=directory, environ=environ) as server:
        yield DjangoSite(server)


@pytest.fixture(scope="module")
def https_site(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[DjangoSite]:
    directory = tmp_path_factory.mktemp("https")
    environ = make_site(directory, "django_more_settings")
    options = {"apps": directory, "environ": environ, "is_trouble_expected": True}  # Django logs what a view raises
    with serve(GTHREAD.over("tls"), directory, "mysite.wsgi", certificate, **options) as server:
        yield DjangoSite(server)


@pytest.fixture(params=["http", "https"])
def site(request: pytest.FixtureRequest) -> DjangoSite:
    return request.getfixturevalue(f"{request.param}_site")


def test_a_user_starts_a_report_and_watches_it(site):
    ada = site.log_in("ada")
    assert ada.post("/start", title="without a token").status == 403
    page = ada.submit("/", "/start", title="Zürich & more")
    assert page.path.startswith("/progress/"), page.text
    job_id = int(page.path.removeprefix("/progress/"))
    assert site.log_in("eve").ask(f"/status/{job_id}").status == 404
    seen = set()

    def ended():
        status = ada.ask(f"/status/{job_id}").json()
        seen.add(status["progress"])
        return status if status["end_time"] else None

    status = wait_until(ended)
    assert (status["status"], status["progress"]) == (Status.COMPLETED, 100), status
    assert status["status_text"] == "'Zürich & more' for ada: started.\nThe report is done."
    assert seen & {20, 40, 60, 80}
    assert f"Job {job_id}</a>, completed, 100 %" in ada.ask("/").text


def begin(site: DjangoSite, target: str, visitor: Visitor | None = None, query: str = "") -> dict[str, Any]:
    """Start a job, as a user who has just logged in if nobody else is named, and give its end."""
    visitor = visitor or site.log_in("ada")
    return visitor.end_of(visitor.ask(f"/begin?target={target}&{query}").json()["id"], "/state")


def test_a_job_by_get_and_by_post_and_of_nobody(https_site):
    for query, said in (
        ("", "GET by ada"),
        ("method=POST", "POST by ada"),
        ("method=DELETE", "DELETE by ada"),
        ("method=POST&anonymous=yes", "POST by nobody"),
    ):
        end = begin(https_site, f"/work/done-{len(said)}{len(query)}", query=query)
        assert (end["status"], end["status_text"]) == (Status.COMPLETED, f"{said}\n"), query
    end = begin(https_site, "/work/of-a-guest", https_site.visit(), "method=POST")
    assert (end["status"], end["status_text"]) == (Status.COMPLETED, "POST by nobody\n")


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("user-leaves", "The session of the user who started this job has ended"),
        ("user-changes", "The session of the user who started this job belongs to another user by now"),
    ],
)
def test_a_job_whose_session_is_no_more_does_not_run(https_site, then, words):
    end = begin(https_site, f"/work/{then}", query=f"then={then}&method=POST")
    assert (end["status"], end["status_text"].startswith(words)) == (Status.FAILED, True)
    assert then not in https_site.visit().ask("/entries").json()["names"]


def test_what_a_job_leaves_behind(https_site):
    ada = https_site.log_in("ada")
    error = begin(https_site, "/work/error", ada)
    assert error["status_text"].endswith("HTTP 500 Internal Server Error: ValueError: the figures don't add up")
    fail = begin(https_site, "/work/fail", ada)
    assert (fail["status"], fail["status_text"]) == (Status.FAILED, "GET by ada\ntold to fail")
    job_id = ada.ask("/begin?target=/work/cancel").json()["id"]
    wait_until(lambda: ada.ask(f"/state/{job_id}").json()["progress"])
    assert ada.ask(f"/cancel?id={job_id}").json() == {"was_live": True}
    assert ada.end_of(job_id, "/state")["status"] == Status.CANCELLED
    job_id = ada.ask("/wait?then=/wait").json()["id"]
    wait = ada.end_of(job_id, "/state")
    assert (wait["status"], wait["status_text"]) == (Status.FAILED, "an async view ends too")
    wait_until(lambda: not https_site.open_databases())
    finish = begin(https_site, "/work/finish", ada)
    assert (finish["status"], finish["status_text"]) == (Status.COMPLETED, "all is well")
    names = ada.ask("/entries").json()["names"]
    assert [name for name in ("error", "fail", "cancel", "finish") if name in names] == ["finish"]


def test_a_job_follows_the_transaction_that_it_was_started_in(https_site):
    ada = https_site.log_in("ada")
    begun = ada.ask("/begin?target=/work/after-commit&entry=yes").json()
    assert ada.end_of(begun["id"], "/state")["status"] == Status.COMPLETED
    end = begin(https_site, "/work/after-rollback", ada, "then=rollback&entry=yes")
    assert end["status"] == Status.CANCELLED
    names = ada.ask("/entries").json()["names"]
    assert {"after-commit", "by the start of /work/after-commit"} < set(names)
    assert not {"after-rollback", "by the start of /work/after-rollback"} & set(names)


def test_background(https_site):
    ada = https_site.log_in("ada")
    token = ada.fields("/", "/start")["csrfmiddlewaretoken"]
    csrf = {"X-CSRFToken": token}
    assert ada.ask("/sum", b"{}", {"Content-Type": "application/json"}).status == 403

    def ask(*request: Any) -> tuple[int, str]:
        page = ada.ask(*request)
        assert (page.status, list(page.json())) == (202, ["id"])
        end = ada.end_of(page.json()["id"], "/state")
        assert end["scope"] == ("" if "/count" in request[0] else "ada")
        return end["status"], end["status_text"]

    done = Status.COMPLETED
    form = urlencode({"figures": "1 & 2", "csrfmiddlewaretoken": token}).encode()
    assert ask("/sum?of=a%20b", form) == (done, "POST /sum?of=a%20b application/x-www-form-urlencoded\n1 & 2")
    figures = json.dumps([1, "ü"]).encode()
    as_json = {"Content-Type": "application/json", **csrf}
    assert ask("/sum", figures, as_json) == (done, 'POST /sum application/json\n[1, "\\u00fc"]')
    for target, method in [("/sum?q=1", "GET"), ("/sum", "HEAD"), ("/sum", "OPTIONS"), ("/count/7", "OPTIONS")]:
        assert ada.ask(target, method=method).status == 405
    assert ask("/count/7", b"", csrf) == (done, "counted to 7 for ada")
    name = 'Content-Disposition: form-data; name="figures"'
    parts = f"--part\r\n{name}{{}}\r\n\r\n3 & 4\r\n--part--\r\n"
    multipart = {"Content-Type": "multipart/form-data; boundary=part", **csrf}
    assert ask("/sum", parts.format("").encode(), multipart)[1].endswith("\n3 & 4")
    refused = ada.ask("/sum", parts.format('; filename="a.txt"').encode(), multipart)
    assert (refused.status, "uploaded files" in refused.text) == (415, True)


def test_a_view_in_the_background_refuses_a_forged_request_itself(https_site):
    ada = https_site.log_in("ada")
    token = ada.fields("/", "/start")["csrfmiddlewaretoken"]

    def pay(to: str, headers: dict[str, str], **fields: str) -> tuple[int, bool]:
        page = ada.ask("/pay", urlencode({"to": to, **fields}).encode(), headers)
        end = ada.end_of(page.json()["id"], "/state")
        return end["status"], f"to {to}" in ada.ask("/entries").json()["names"]

    evil = {"Origin": "https://evil.example"}
    assert pay("eve", evil) == (Status.FAILED, False)
    assert pay("eve", evil, csrfmiddlewaretoken=token) == (Status.FAILED, False)
    assert pay("bob", {}, csrfmiddlewaretoken=token) == (Status.COMPLETED, True)


def test_runserver(tmp_path):
    environ = make_site(tmp_path, "mysite.settings")
    setup = Setup("runserver", 4, ("runserver", "--noreload"), command=_run_manage, is_inheriting=False)
    with serve(setup, tmp_path, apps=tmp_path, environ=environ) as server:
        server.wait_until_it_listens()
        site = DjangoSite(server)
        ada = site.log_in("ada")
        page = ada.submit("/", "/start", title="Under runserver")
        end = ada.end_of(int(page.path.removeprefix("/progress/")))
    assert (end["status"], end["status_text"].endswith("The report is done.")) == (Status.COMPLETED, True)


def _run_manage(site: Site) -> list[str]:
    return [sys.executable, "manage.py", *site.setup.options, f"{site.host}:{site.port}"]
