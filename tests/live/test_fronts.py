"""Recipes of docs/deployments.md: prefixes, https outside, and apps that are mounted."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.apache import express
from support.places import Place
from support.recipes import read_gunicorn, recipe, write_app
from support.servers import GTHREAD, Certificate, Server, Setup
from support.uwsgi import uwsgi

from backjob import Status

from .conftest import Reserve, RunNginx, Serve

pytestmark = pytest.mark.live

PREFIX = "A prefix that nginx strips"
HTTPS = "https outside and http inside"
MOUNT = "An app that is mounted somewhere"
UNTRUSTING = GTHREAD.with_options("--forwarded-allow-ips", "192.0.2.99")
"""A gunicorn that does not believe this nginx, as one whose nginx is on another machine and was not named."""
WORKSHOP = "workshop:application"


@pytest.fixture
def front(reserved: Reserve) -> Place:
    """Where nginx listens."""
    return reserved()


@pytest.fixture
def place(reserved: Reserve) -> Place:
    """Where the app's server listens."""
    return reserved()


def see(site: Server, target: str, mount: str = "", **options: Any) -> dict[str, Any]:
    """What a job of this target sees."""
    job_id = site.start(target, mount=mount, **options)
    end = site.end_of(job_id, mount=mount)
    assert end["status"] == Status.COMPLETED, end["status_text"]
    site.assert_ran_once([job_id])
    return json.loads(end["status_text"])


@pytest.fixture
def behind_prefix(run_nginx: RunNginx, front: Place, place: Place) -> None:
    changes = {"listen 80;": f"listen {front.authority};", "127.0.0.1:8000": place.authority}
    run_nginx(recipe(PREFIX, "nginx", changes), front)


@pytest.mark.usefixtures("behind_prefix")
@pytest.mark.parametrize("as_user", [True, False])
@pytest.mark.parametrize(
    ("number", "mount"), [(0, ""), (1, "/tool"), (2, "/tool")], ids=["unknown", "around", "within"]
)
def test_prefix(
    run_server: Serve, front: Place, place: Place, tmp_path: Path, number: int, mount: str, as_user: bool
) -> None:
    """An app is told where it is, or it is not: the job is told the same as the page that starts it."""
    app = write_app(tmp_path, recipe(PREFIX, "python", number=number)) if number else WORKSHOP
    site = replace(run_server(GTHREAD, app=app, place=place), address=front.address)
    for method in ("GET", "POST"):
        seen = see(site, f"{mount}/echo?q=1", "/tool", method=method, as_user=as_user)
        assert (seen["mount"], seen["path"], seen["query"]) == (mount, f"{mount}/echo", "q=1")
    if mount:
        outside = site.ask("POST", "/tool/start", {"target": "/echo"})
        assert outside.status == 400
        assert b"mounted at '/tool'" in outside.body


@pytest.mark.usefixtures("behind_prefix")
def test_prefix_that_the_self_requests_miss(run_server: Serve, front: Place, place: Place) -> None:
    site = replace(run_server(GTHREAD, place=place, connect=front.connect), address=front.address)
    end = site.end_of(site.start("/echo", mount="/tool"), mount="/tool")
    assert end["status"] == Status.FAILED
    assert "answered 404: " in end["status_text"]
    assert "connect=" in end["status_text"]


@pytest.fixture
def behind_tls(run_nginx: RunNginx, front: Place, place: Place, certificate: Certificate) -> None:
    changes = {
        "listen 443": f"listen {front.authority}",
        "127.0.0.1:8000": place.authority,
        "/etc/ssl/mysite.pem": str(certificate.chain),
    }
    run_nginx(recipe(HTTPS, "nginx", changes), front)


def over_tls(server: Server, front: Place, certificate: Certificate) -> Server:
    return replace(server, address=front.address, tls=certificate.trusting())


@pytest.mark.usefixtures("behind_tls")
@pytest.mark.parametrize("as_user", [True, False])
@pytest.mark.parametrize(
    ("setup", "scheme"), [(GTHREAD, "https"), (UNTRUSTING, "http")], ids=["trusting", "untrusting"]
)
def test_https_outside(
    run_server: Serve, front: Place, place: Place, certificate: Certificate, setup: Setup, scheme: str, as_user: bool
) -> None:
    site = over_tls(run_server(setup, place=place), front, certificate)
    site.headers["Host"] = "mysite.example"
    for method in ("GET", "POST"):
        seen = see(site, "/echo", method=method, as_user=as_user)
        assert (seen["scheme"], seen["url"]) == (scheme, f"{scheme}://mysite.example/echo")
        # An app that asks the proxy's header itself, such as Django with SECURE_PROXY_SSL_HEADER, is told as well.
        assert seen["headers"]["X-Forwarded-Proto"] == "https"
        assert seen["headers"].get("Origin") == (None if method == "GET" else "https://mysite.example")


@pytest.mark.usefixtures("behind_tls")
@pytest.mark.parametrize("setup", [GTHREAD, UNTRUSTING], ids=["trusting", "untrusting"])
def test_a_framework_that_checks_origin_and_token(
    run_server: Serve, front: Place, place: Place, certificate: Certificate, setup: Setup
) -> None:
    """A form and the job that it starts are let in, and none of them without its token."""
    site = over_tls(run_server(setup, app="guarded_site:application", place=place), front, certificate)
    given = site.ask("GET", "/token")
    cookie, token = given.headers["Set-Cookie"].partition(";")[0], given.json()["token"]
    site.headers.update({"Cookie": cookie, "X-CSRFToken": token, "Origin": "https://localhost"})
    for method, query in [("POST", ""), ("GET", ""), ("GET", "?anonymous")]:
        end = site.end_of(site.ask(method, f"/start{query}").json()["ids"][0])
        assert (end["status"], end["status_text"]) == (Status.COMPLETED, '{"secure": true}')
    end = site.end_of(site.ask("POST", "/start?anonymous").json()["ids"][0])
    assert end["status"] == Status.FAILED
    assert "HTTP 403 Forbidden" in end["status_text"]


@pytest.mark.usefixtures("behind_tls")
@pytest.mark.parametrize("number", [1, 2], ids=["within", "around"])
def test_what_insists_on_https(
    run_server: Serve, front: Place, place: Place, certificate: Certificate, tmp_path: Path, number: int
) -> None:
    app = write_app(tmp_path, recipe(HTTPS, "python", number=number))
    server = run_server(GTHREAD, app=app, place=place)
    assert server.ask("GET", "/").status == 301
    site = over_tls(server, front, certificate)
    for method in ("GET", "POST"):
        seen = see(site, "/echo", method=method)
        assert (seen["scheme"], seen["headers"]["X-Forwarded-Proto"]) == ("https", "https")


@pytest.mark.usefixtures("behind_tls")
def test_what_insists_on_https_and_sends_self_requests_there_too(
    run_server: Serve, front: Place, place: Place, certificate: Certificate
) -> None:
    site = over_tls(run_server(GTHREAD, app="fronts:https_around", place=place), front, certificate)
    end = site.end_of(site.start("/echo"))
    assert end["status"] == Status.FAILED
    assert "answered 301: something before BackJob redirects elsewhere" in end["status_text"]
    assert "wrap what does that in BackJob" in end["status_text"]
    assert "connect_headers={'X-Forwarded-Proto': 'https'}" in end["status_text"]


def test_server_that_is_told_its_mount(run_server: Serve) -> None:
    command = recipe(MOUNT, "console").strip()
    setup = read_gunicorn(command)
    assert command.startswith("SCRIPT_NAME=/app ")
    server = run_server(setup, environ={"SCRIPT_NAME": "/app"})
    for method in ("GET", "POST"):
        seen = see(server, "/app/echo?q=1", "/app", method=method)
        assert (seen["mount"], seen["path"], seen["query"]) == ("/app", "/app/echo", "q=1")


UWSGI_MOUNT = shlex.split(recipe(MOUNT, "console", {"deploy:application": WORKSHOP}, number=2))
MOUNTED = [
    uwsgi("http-socket", *UWSGI_MOUNT[UWSGI_MOUNT.index("--threads") :], slots=4, kind="mount"),
    express(4).with_options("--mount-point", "/app").named("mount"),
]


@pytest.mark.parametrize("setup", MOUNTED, ids=str)
def test_server_that_mounts_the_app(run_server: Serve, setup: Setup) -> None:
    server = run_server(setup)
    for method in ("GET", "POST"):
        seen = see(server, "/app/echo?q=1", "/app", method=method)
        assert (seen["mount"], seen["path"], seen["query"]) == ("/app", "/app/echo", "q=1")


def test_mount_that_nginx_tells(run_server: Serve, run_nginx: RunNginx, front: Place, place: Place) -> None:
    """gunicorn takes SCRIPT_NAME from a header; a self-request does not have it."""
    location = f"location / {{ proxy_pass http://{place.authority}; proxy_set_header SCRIPT_NAME /app; }}"
    run_nginx(f"server {{ listen {front.authority}; {location} }}", front)
    site = replace(run_server(GTHREAD, place=place), address=front.address)
    seen = see(site, "/app/echo", "/app")
    assert (seen["mount"], seen["path"]) == ("/app", "/app/echo")


def test_mounts_within(run_server: Serve, tmp_path: Path) -> None:
    server = run_server(GTHREAD, app=write_app(tmp_path, recipe(MOUNT, "python")))
    for page, job in [("", "/shop"), ("/shop", "/shop"), ("/shop", ""), ("", "")]:
        seen = see(server, f"{job}/echo?q=1", page)
        assert (seen["mount"], seen["path"], seen["query"]) == (job, f"{job}/echo", "q=1")


def test_backjob_within_backjob(run_server: Serve) -> None:
    """The inner one steps aside: both pages start jobs of both apps, in one table."""
    server = run_server(GTHREAD, app="fronts:nested")
    ids = []
    for page, job in [("", "/inner"), ("/inner", "/inner"), ("/inner", ""), ("", "")]:
        seen = see(server, f"{job}/echo", page)
        assert (seen["mount"], seen["is_worker"]) == (job, True)
        ids.append(server.start(f"{job}/walk", mount=page))
    server.open_gate("gate-20"), server.open_gate("gate-40"), server.open_gate("gate-80")
    for job_id in ids:
        assert server.end_of(job_id, mount="/inner")["status_text"].endswith("Job done.\n")
    server.assert_ran_once(ids)
