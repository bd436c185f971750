"""Recipes of docs/deployments.md: nginx in front, with time-outs, two servers, a password."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from support import wait_until
from support.places import Place
from support.recipes import recipe, write_app
from support.servers import GTHREAD, Server, Setup
from support.uwsgi import uwsgi

from backjob import Status

from .conftest import Reserve, RunNginx, Serve

pytestmark = pytest.mark.live

BEHIND = "Behind nginx"
UWSGI_PASS = "Behind nginx that speaks uwsgi"
TWO = "Two servers behind one nginx"
PASSWORD = "A password in front"
NASTY = "proxy_next_upstream error timeout http_502 http_504 non_idempotent"
AT_NGINX = "http://127.0.0.1:80"


@pytest.fixture
def front(reserved: Reserve) -> Place:
    """Where nginx listens."""
    return reserved()


@pytest.fixture
def places(reserved: Reserve) -> list[Place]:
    """Where the app's servers listen."""
    return [reserved(), reserved()]


def through(front: Place, server: Server) -> Server:
    """The server as people see it, through nginx."""
    server.ask("GET", "/")  # it has begun to serve: nginx has less patience than that may take
    return replace(server, address=front.address)


def at_places(front: Place, *places: Place) -> dict[str, str]:
    """What stands in a recipe of nginx, and what is to stand there."""
    ports = zip(("127.0.0.1:8000", "127.0.0.1:8001"), places, strict=False)
    return {"listen 80;": f"listen {front.authority};", **{port: place.authority for port, place in ports}}


def assert_completed(server: Server, job_ids: list[int], seconds: float = 20) -> None:
    for job_id in job_ids:
        end = server.end_of(job_id, seconds)
        assert end["status"] == Status.COMPLETED, end["status_text"]
    server.assert_ran_once(job_ids)


@pytest.mark.parametrize("goes_through", [False, True], ids=["past", "through"])
def test_a_time_out_of_nginx_ends_no_job(
    run_server: Serve, run_nginx: RunNginx, front: Place, places: list[Place], tmp_path: Path, goes_through: bool
) -> None:
    app = "workshop:application"
    if goes_through:
        app = write_app(tmp_path, recipe(BEHIND, "python", {AT_NGINX: front.connect}))
    server = run_server(GTHREAD, app=app, place=places[0])
    proxy = run_nginx(recipe(BEHIND, "nginx", {**at_places(front, places[0]), "_timeout 60s": "_timeout 2s"}), front)
    site = through(front, server)
    ids = [site.start("/work?seconds=4", method=method) for method in ("GET", "POST")]
    ids.append(site.start("/echo", data={"a": "ä" * 1000}, method="PUT"))
    assert_completed(server, ids)
    given_up = [request for request in proxy.finish() if "/work?seconds=4 504" in request]
    assert len(given_up) == (2 if goes_through else 0)


def test_a_job_that_nginx_gave_up_on_is_still_watched(
    run_server: Serve, run_nginx: RunNginx, front: Place, places: list[Place]
) -> None:
    """It gives no sign any more: its error_timeout counts, and nginx's does not."""
    # A keeper that begins after the claim gives it a lease.
    server = run_server(GTHREAD, place=places[0], connect=front.connect, error_timeout=3, lease=6)
    run_nginx(recipe(BEHIND, "nginx", {**at_places(front, places[0]), "_timeout 60s": "_timeout 2s"}), front)
    job_id = server.start("/hang")
    end = server.end_of(job_id)
    assert (end["status"], end["attempt"]) == (Status.FAILED, 1)
    assert "error_timeout" in end["status_text"]
    server.open_gate("gate-hang")
    wait_until(lambda: server.runs()[job_id, "end"])
    server.assert_ran_once([job_id])


UWSGI_THREADS = uwsgi("socket", "--threads", "4", slots=4, kind="threads")
UWSGI_PROCESSES = uwsgi("socket", "--processes", "3", slots=3, kind="processes")
"""Without threads nobody watches the jobs."""


@pytest.mark.parametrize(
    ("setup", "way"),
    [
        *((UWSGI_THREADS, way) for way in ("found", "told", "through")),
        *((UWSGI_PROCESSES, way) for way in ("found", "through")),
    ],
    ids=str,
)
def test_a_time_out_of_nginx_that_speaks_uwsgi_ends_no_job(
    run_server: Serve, run_nginx: RunNginx, front: Place, places: list[Place], setup: Setup, way: str
) -> None:
    connect = {
        "found": {},
        "told": {"connect": f"uwsgi://{places[0].authority}"},
        "through": {"connect": front.connect},
    }
    server = run_server(setup, place=places[0], **connect[way])
    parameters = {"include uwsgi_params": "include /etc/nginx/uwsgi_params", "_timeout 60s": "_timeout 2s"}
    proxy = run_nginx(recipe(UWSGI_PASS, "nginx", {**at_places(front, places[0]), **parameters}), front)
    site = replace(server, address=front.address)
    wait_until(lambda: site.ask("GET", "/").status == 200)  # uWSGI binds by itself, and speaks no HTTP
    ids = [site.start("/work?seconds=4", method=method) for method in ("GET", "POST")]
    assert_completed(site, ids)
    given_up = [request for request in proxy.finish() if "/work?seconds=4 504" in request]
    assert len(given_up) == (2 if way == "through" else 0)


def test_a_form_that_is_too_large_for_nginx(
    run_server: Serve, run_nginx: RunNginx, front: Place, places: list[Place]
) -> None:
    server = run_server(GTHREAD, place=places[0], connect=front.connect, max_request=0)
    run_nginx(recipe(BEHIND, "nginx", at_places(front, places[0])), front)
    job_id = server.start("/echo", method="POST", data={"a": "x" * 1_100_000})
    end = server.end_of(job_id)
    assert end["status"] == Status.FAILED
    assert "413" in end["status_text"]
    assert "client_max_body_size" in end["status_text"]
    assert not server.runs()


@pytest.fixture(params=["default", "nasty"])
def two_upstreams(request: pytest.FixtureRequest, front: Place, places: list[Place]) -> str:
    """The recipe, also with an nginx that sends everything again and soon sends nothing to whom it gave up on."""
    header = "proxy_set_header Host $host;"
    changes = {header: f"{header} proxy_read_timeout 2s;"}
    if request.param == "nasty":
        changes = {header: f"{header} proxy_read_timeout 2s; {NASTY};", " max_fails=0": ""}
    return recipe(TWO, "nginx", {**at_places(front, *places), **changes})


def test_what_nginx_sends_again_runs_once(
    run_server: Serve, run_nginx: RunNginx, front: Place, places: list[Place], two_upstreams: str, tmp_path: Path
) -> None:
    app = write_app(tmp_path, recipe(TWO, "python", {AT_NGINX: front.connect}))
    servers = [run_server(GTHREAD, app=app, place=place) for place in places]
    proxy = run_nginx(two_upstreams, front)
    site, _ = (through(front, server) for server in servers)
    ids = [site.start("/work?seconds=4", method=method) for method in ("GET", "POST", "CHICKEN", "PUT")]
    # With places for two at first, the others' launches may meet an nginx that gave up on both: for ten seconds it
    # sends nothing, and what can't be launched is tried again after waits that have grown by then.
    assert_completed(servers[0], ids, 60)
    assert any("/work" in request and ", " in request for request in proxy.finish()), "nginx has sent nothing again"


def test_a_server_that_is_killed_while_jobs_are_started(
    run_server: Serve, run_nginx: RunNginx, front: Place, places: list[Place], two_upstreams: str
) -> None:
    """What was accepted completes, but for what ran in the killed process; and nothing runs twice."""
    options = {"connect": front.connect, "lease": 3, "is_trouble_expected": True}
    doomed, other = (run_server(GTHREAD, place=place, **options) for place in places)
    run_nginx(two_upstreams, front)
    doomed.ask("GET", "/")  # it has begun to serve, and has its process
    (doomed_pid,) = Path(f"/proc/{doomed.process.pid}/task/{doomed.process.pid}/children").read_text().split()
    site = through(front, other)
    accepted: list[int] = []
    is_over = threading.Event()

    def start_jobs() -> None:
        while not is_over.is_set():
            with contextlib.suppress(http.client.IncompleteRead):  # killed between the headers and the body
                answer = site.ask("POST", "/start", {"target": "/work?seconds=0.3"})
                if answer.status == 200:
                    accepted.extend(answer.json()["ids"])

    with ThreadPoolExecutor(2) as people:
        starting = [people.submit(start_jobs) for _ in range(2)]
        try:
            wait_until(lambda: len(accepted) > 10)
            os.killpg(doomed.process.pid, signal.SIGKILL)
            doomed.process.wait()
            at_death = len(accepted)
            wait_until(lambda: len(accepted) > at_death + 5)
        finally:
            is_over.set()
        for each in starting:
            each.result()

    def are_all_over() -> bool:
        return all(Status(other.status(job_id)["status"]).is_final for job_id in accepted)

    wait_until(are_all_over, 60)
    lines = (other.directory / "judge-places.txt").read_text().splitlines()
    places_of = dict(map(str.split, lines))
    lost = [end for job_id in accepted if (end := other.status(job_id))["status"] != Status.COMPLETED]
    for end in lost:
        assert end["status"] == Status.FAILED
        assert "The process that ran this job is gone" in end["status_text"]
        # One that has no place was killed between its claim and its first line.
        assert places_of.get(str(end["id"]), doomed_pid) == doomed_pid
    assert len(lost) <= GTHREAD.slots
    assert max(other.runs().values()) == 1
    other.assert_ran_once([job_id for job_id in accepted if job_id not in [end["id"] for end in lost]])


STAFF = "jobs:secret"
TOKEN_OF_STAFF = f"Basic {base64.b64encode(STAFF.encode()).decode()}"


@pytest.fixture
def guarded(front: Place, places: list[Place], tmp_path: Path) -> str:
    """The recipe of an nginx that asks for a password."""
    (tmp_path / "staff").write_text(STAFF.replace(":", ":{PLAIN}") + "\n")
    return recipe(PASSWORD, "nginx", {**at_places(front, places[0]), "/etc/nginx/staff": f"{tmp_path}/staff"})


def test_a_password_in_front_is_passed_by(
    run_server: Serve, run_nginx: RunNginx, front: Place, places: list[Place], guarded: str
) -> None:
    server = run_server(GTHREAD, place=places[0])
    run_nginx(guarded, front)
    site = through(front, server)
    assert site.ask("GET", "/").status == 401
    site.headers["Authorization"] = TOKEN_OF_STAFF
    assert_completed(site, [site.start("/echo", method=method) for method in ("GET", "POST")])


def test_a_password_in_front_that_nobody_gave(
    run_server: Serve, run_nginx: RunNginx, front: Place, places: list[Place], guarded: str
) -> None:
    server = run_server(GTHREAD, place=places[0], connect=front.connect)
    run_nginx(guarded, front)
    end = server.end_of(server.start("/echo"))
    assert end["status"] == Status.FAILED
    assert end["status_text"].startswith("The job can't be launched: the app's own address answered 401: ")
    assert "connect_headers" in end["status_text"]
    assert not server.runs()


def test_a_password_in_front_is_given_and_no_job_sees_it(
    run_server: Serve, run_nginx: RunNginx, front: Place, places: list[Place], guarded: str, tmp_path: Path
) -> None:
    ours = {AT_NGINX: front.connect}
    server = run_server(GTHREAD, app=write_app(tmp_path, recipe(PASSWORD, "python", ours)), place=places[0])
    proxy = run_nginx(guarded, front)
    mine = "Bearer of the user's own"
    for method in ("GET", "POST"):
        for own, as_user, expected in [({}, True, None), ({"Authorization": mine}, True, mine), ({}, False, None)]:
            end = server.end_of(server.start("/echo", own, method=method, as_user=as_user))
            assert end["status"] == Status.COMPLETED, end["status_text"]
            assert json.loads(end["status_text"])["headers"].get("Authorization") == expected
    # Each job went through nginx, as a monitor's request and as a worker's; the path of a POST is probed before.
    requests = Counter(" ".join(line.split()[1:3]) for line in proxy.finish())
    assert (requests["POST /"], requests["POST /echo"]) == (6, 3)
    assert requests["GET /echo"] > 3
    assert "secret" not in server.log
    assert TOKEN_OF_STAFF not in server.log
