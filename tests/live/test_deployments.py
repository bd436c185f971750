"""Recipes of docs/deployments.md: a pool of servers for jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from support import wait_until
from support.places import Place
from support.recipes import read_gunicorn, recipe, write_app
from support.servers import GTHREAD, ONE_GTHREAD, Certificate, Server, Setup

from backjob import Status

from .conftest import Reserve, Serve, ran_in

pytestmark = pytest.mark.live

POOL = "Jobs in a pool of their own"
WEB, JOBS = (read_gunicorn(line) for line in recipe(POOL, "console").splitlines())


@dataclass
class Deployment:
    """The recipe, of which the pool may come up later."""

    run_server: Serve
    pool: Place
    transport: str
    app: str

    def run_web(self, setup: Setup = WEB) -> Server:
        return self.run_server(setup, app=self.app)

    def run_pool(self) -> Server:
        return self.run_server(JOBS.over(self.transport), app=self.app, place=self.pool)


@pytest.fixture(params=["tcp", "unix", "tls"])
def deployment(
    request: pytest.FixtureRequest, run_server: Serve, reserved: Reserve, tmp_path: Path, certificate: Certificate
) -> Deployment:
    pool = reserved(tmp_path / "pool.sock") if request.param == "unix" else reserved()
    connect = f'"{pool.connect}"'
    if request.param == "tls":
        connect = f'"https://{pool.authority}", ca_file="{certificate.authority}"'
    app = write_app(tmp_path, recipe(POOL, "python", {'"http://127.0.0.1:8001"': connect}))
    return Deployment(run_server, pool, request.param, app)


def test_every_job_runs_in_the_pool(deployment: Deployment) -> None:
    pool, web = deployment.run_pool(), deployment.run_web()
    ids = web.start_all("/echo?seconds=0.2", count=12)["ids"]  # more than one process has places for
    ids.append(web.start("/echo", method="POST", data={"a": 1}))
    ids.append(web.start("/echo", delay=1))
    ids.append(web.start("/echo", after_response=True))
    ids.append(web.start("/echo?seconds=1", unique=True))
    assert web.start("/echo?seconds=1", unique=True) == ids[-1]
    again = web.start("/stumble", retries=1)
    for job_id in (*ids, again):
        end = web.end_of(job_id)
        assert end["status"] == Status.COMPLETED, end["status_text"]
        assert ran_in(pool, end)
    web.assert_ran_once(ids)
    assert web.runs()[again, "begin"] == 2


def test_pages_are_served_while_jobs_fill_the_pool(deployment: Deployment) -> None:
    """The one slot of the web's would be full with the first of them."""
    deployment.run_pool()
    web = deployment.run_web(ONE_GTHREAD)
    ids = web.start_all("/hang", count=4)["ids"]
    wait_until(lambda: web.runs().total() == 4)
    for _ in range(20):
        assert web.ask("GET", "/", timeout=15).body == b"A page."
    assert [web.status(job_id)["status"] for job_id in ids] == [Status.INPROGRESS] * 4
    web.open_gate("gate-hang")
    assert [web.end_of(job_id)["status"] for job_id in ids] == [Status.COMPLETED] * 4
    web.assert_ran_once(ids)


def test_jobs_wait_for_a_pool_that_is_down(deployment: Deployment) -> None:
    web = deployment.run_web()
    ids = web.start_all("/echo", count=6)["ids"]
    ids.append(web.start("/echo", delay=1))
    ids.append(web.start("/echo", after_response=True))
    wait_until(lambda: "can't be reached" in web.status(ids[-1])["status_text"])
    assert {web.status(job_id)["status"] for job_id in ids} == {Status.STARTED}
    pool = deployment.run_pool()
    for job_id in ids:
        end = web.end_of(job_id, 30)
        assert end["status"] == Status.COMPLETED, end["status_text"]
        assert ran_in(pool, end)
    web.assert_ran_once(ids)


def test_a_pool_that_does_not_come_up(run_server: Serve, reserved: Reserve) -> None:
    pool = reserved()
    web = run_server(GTHREAD, connect=pool.connect, launch_timeout=1)
    end = web.end_of(web.start("/echo"))
    assert end["status"] == Status.FAILED
    assert end["status_text"].startswith("The job can't be launched: the app's own address can't be reached")
    assert not web.runs()


def test_pool_that_is_told_nothing_finds_itself(run_server: Serve, reserved: Reserve) -> None:
    place = reserved()
    pool, web = run_server(GTHREAD, place=place), run_server(GTHREAD, connect=place.connect)
    for job_id in [web.start("/echo"), web.start("/stumble", retries=1)]:
        assert ran_in(pool, web.end_of(job_id))


def test_pool_that_is_told_to_go_to_the_web_has_its_jobs_run_there(run_server: Serve, reserved: Reserve) -> None:
    """The mistake that the recipe warns of."""
    web_place, pool_place = reserved(), reserved()
    run_server(GTHREAD, place=pool_place, connect=web_place.connect)
    web = run_server(GTHREAD, place=web_place, connect=pool_place.connect)
    assert ran_in(web, web.end_of(web.start("/echo")))
