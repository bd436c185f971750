"""The Pyramid example as its user would try it: by its module over http, by an ini file over https, CSRF checks on."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import demo
import pytest
from support import wait_until
from support.servers import GTHREAD, Certificate, Server, Setup, serve
from support.visitor import Visitor

from backjob import Status

pytestmark = pytest.mark.live

EXAMPLE = Path(demo.__file__).parent / "pyramid_site.py"
PAUSE = {"SITE_PAUSE": "0.1"}
INI = """
[app:main]
paste.app_factory = pyramid_site:main
backjob.table_name = reports
backjob.max_output = 40
"""


def run(setup: Setup, directory: Path, certificate: Certificate | None = None) -> Iterator[Server]:
    shutil.copy(EXAMPLE, directory)
    with serve(setup, directory, "pyramid_site:application", certificate, apps=directory, environ=PAUSE) as server:
        yield server


@pytest.fixture(scope="module")
def http_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from run(GTHREAD, tmp_path_factory.mktemp("http"))


@pytest.fixture(scope="module")
def https_site(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("https")
    (directory / "site.ini").write_text(INI)
    # --paste: the ini file alone says what is served.
    yield from run(GTHREAD.over("tls").with_options("--paste", "site.ini"), directory, certificate)


@pytest.fixture(params=["http", "https"])
def site(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(f"{request.param}_site")


def log_in(site: Server, name: str) -> Visitor:
    scheme, (host, port) = "https" if site.tls else "http", site.address
    site.wait_until_it_listens()
    visitor = Visitor(f"{scheme}://{host}:{port}", site.tls)
    page = visitor.submit("/", "/login", name=name)
    assert (page.status, page.path) == (200, "/"), page.text
    return visitor


def test_a_user_starts_a_report_and_watches_it(site):
    ada = log_in(site, "Ada")
    assert ada.post("/start", pages="3").status == 400  # no token
    page = ada.submit("/", "/start", pages="8")
    assert page.path.startswith("/progress/"), page.text
    status_page = page.path.replace("progress", "status")
    assert status_page in page.text
    seen = set()

    def ended():
        status = ada.ask(status_page).json()
        seen.add(status["progress"])
        return status if status["end_time"] else None

    status = wait_until(ended)
    assert (status["status"], status["progress"]) == (Status.COMPLETED, 100), status
    assert status["status_text"].startswith("Page 1 is drawn.\nPage 2 is drawn.\n")
    assert seen - {0, 100}
    assert log_in(site, "Eve").ask(status_page).status == 404
    ada.submit("/", "/logout")
    assert 'action="/login"' in ada.ask(status_page).text


def test_a_report_is_no_page_of_a_browsers(site):
    ada = log_in(site, "Ada")
    token = ada.fields("/", "/start")["csrf_token"]
    assert ada.post("/report", pages="3", csrf_token=token).status == 404


def test_the_options_are_the_settings(https_site):
    ada = log_in(https_site, "Ada")
    page = ada.submit("/", "/start", pages="3")
    job_id = int(page.path.removeprefix("/progress/"))
    assert "cut" in ada.end_of(job_id)["status_text"]
    with contextlib.closing(sqlite3.connect(https_site.directory / "backjob.sqlite3")) as connection:
        assert connection.execute("SELECT id, status FROM reports WHERE id = ?", [job_id]).fetchall() == [(job_id, 2)]
