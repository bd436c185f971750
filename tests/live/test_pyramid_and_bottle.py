"""The examples of Pyramid and Bottle as their users would try them, over http and https, their CSRF checks on.

Over http gunicorn has the app's module; over https it has what the framework gives it, which is Pyramid's ini file, and
Bottle's ``run()``.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import demo
import pytest
from support import wait_until
from support.servers import GTHREAD, Certificate, Server, Setup, Site, serve
from support.visitor import Visitor

from backjob import Status

pytestmark = pytest.mark.live

EXAMPLES = Path(demo.__file__).parent
INI = """
[app:main]
paste.app_factory = pyramid_site:main
backjob.table_name = reports
"""
RUN = "import bottle_site; bottle_site.app.run(server='gunicorn', **eval({!r}))"


def run_bottle(site: Site) -> list[str]:
    options = {"bind": f"fd://{site.descriptor}", "threads": 4, "control_socket_disable": True, "graceful_timeout": 2}
    certificate = {"certfile": str(site.certificate), "keyfile": str(site.certificate)}
    return [sys.executable, "-c", RUN.format(repr({**options, **certificate, "quiet": True}))]


SITES = {
    "pyramid": (GTHREAD, "pyramid_site:application"),
    "pyramid by its ini file": (GTHREAD.over("tls").with_options("--paste", "site.ini"), ""),
    "bottle": (GTHREAD, "bottle_site:app"),
    "bottle by its run()": (Setup("bottle", 4, transport="tls", command=run_bottle), ""),
}


@pytest.fixture(params=SITES, scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Certificate
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("site")
    for each in ("pyramid_site.py", "bottle_site.py"):
        shutil.copy(EXAMPLES / each, directory)
    (directory / "site.ini").write_text(INI)
    setup, app = SITES[request.param]
    with serve(setup, directory, app, certificate, apps=directory, environ={"SITE_PAUSE": "0.1"}) as server:
        yield server


def log_in(site: Server, name: str) -> Visitor:
    scheme, (host, port) = "https" if site.tls else "http", site.address
    site.wait_until_it_listens()
    visitor = Visitor(f"{scheme}://{host}:{port}", site.tls)
    page = visitor.submit("/", "/login", name=name)
    assert (page.status, page.path) == (200, "/"), page.text
    return visitor


def test_a_user_starts_a_report_and_watches_it(site):
    ada = log_in(site, "Ada")
    assert ada.post("/start", pages="3").status in (400, 403)  # no token
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
    assert status["status_text"].endswith("The report for Ada is done.")
    assert seen - {0, 100}
    assert log_in(site, "Eve").ask(status_page).status == 404
    ada.submit("/", "/logout")
    assert 'action="/login"' in ada.ask(status_page).text


def test_a_report_is_no_page_of_a_browsers(site):
    ada = log_in(site, "Ada")
    token = ada.fields("/", "/start")["csrf_token"]
    assert ada.post("/report", pages="3", csrf_token=token).status == 404


def test_options_of_an_ini_file_are_options_of_backjob(site):
    log_in(site, "Ada").submit("/", "/start", pages="1")
    with contextlib.closing(sqlite3.connect(site.directory / "backjob.sqlite3")) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    assert ("reports" in tables) == ("--paste" in site.setup.options)
