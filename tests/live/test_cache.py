"""Jobs on a cache, on real servers with several processes: alone, in front of a database, and when it goes away."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support import wait_until
from support.caches import CacheServer, own_server, region_of
from support.servers import GEVENT, GTHREAD, SYNC, Server, Setup

from backjob import BackJob, Status

from .conftest import Serve

pytestmark = pytest.mark.live

TWO_GTHREAD = GTHREAD.with_options("--workers", "2")
KEY = "the key of the tests with a cache"


@pytest.fixture(params=["redis", "memcached"])
def cache(request: pytest.FixtureRequest) -> Iterator[CacheServer]:
    with own_server(request.param) as cache:
        yield cache


@pytest.fixture
def run_on_cache(run_server: Serve, cache: CacheServer) -> Callable[..., Server]:
    """Run the workshop with jobs in the cache alone, or, with a ``database``, in front of it."""

    def run(
        setup: Setup = TWO_GTHREAD,
        app: str = "cached:application",
        is_trouble_expected: bool = False,
        **options: Any,
    ) -> Server:
        workshop = json.dumps([cache.kind, cache.url, {"database": None, "key": KEY, **options}])
        environ = {"WORKSHOP_CACHE": workshop}
        return run_server(setup, app=app, environ=environ, is_trouble_expected=is_trouble_expected)

    return run


@contextlib.contextmanager
def outsider(cache: CacheServer) -> Iterator[BackJob]:
    """A script beside the server, on the same cache and key."""
    with region_of(cache) as region:
        application = BackJob(lambda environ, start_response: [], database=None, cache=region, key=KEY)
        try:
            yield application
        finally:
            application.close()


def assert_all_done(server: Server, count: int) -> None:
    """Start so many jobs at once, from several users, and see each of them run once."""
    with ThreadPoolExecutor(count) as users:
        job_ids = list(users.map(lambda _: server.start("/work?seconds=0.1"), range(count)))
    ends = [server.end_of(job_id) for job_id in job_ids]
    assert [end["status"] for end in ends] == [Status.COMPLETED] * count, ends
    server.assert_ran_once(job_ids)
    assert server.ask("GET", "/live").json() == 0


@pytest.mark.parametrize("setup", [TWO_GTHREAD, SYNC, GEVENT], ids=str)
def test_six_jobs_at_once(run_on_cache: Callable[..., Server], setup: Setup) -> None:
    assert_all_done(run_on_cache(setup), 6)


def test_not_more_at_once_than_may(run_on_cache: Callable[..., Server]) -> None:
    assert_all_done(run_on_cache(max_running=1), 6)


def test_jobs_that_nobody_watches(run_on_cache: Callable[..., Server]) -> None:
    assert_all_done(run_on_cache(monitor="leave"), 6)


def test_caches_that_were_used_before_the_fork(run_on_cache: Callable[..., Server]) -> None:
    """gunicorn --preload: children that went on with their parent's connection would get each other's answers."""
    server = run_on_cache(TWO_GTHREAD.with_options("--preload"), app="preloaded_cache:application")
    assert_all_done(server, 8)


def test_a_walk_that_is_cancelled(run_on_cache: Callable[..., Server], cache: CacheServer) -> None:
    server = run_on_cache()
    job_id = server.start("/walk")
    wait_until(lambda: server.status(job_id)["progress"] == 1)
    with outsider(cache) as application:
        assert application.jobs.cancel(job_id)
        server.open_gate("gate-20")
        assert server.end_of(job_id)["status"] == Status.CANCELLED
        assert not application.jobs.cancel(job_id)
    assert server.runs() == {(job_id, "begin"): 1}


def test_an_equal_job_is_started_once(run_on_cache: Callable[..., Server]) -> None:
    server = run_on_cache()
    with ThreadPoolExecutor(6) as users:
        job_ids = set(users.map(lambda _: server.start("/hang", unique=True), range(6)))
    assert len(job_ids) == 1
    server.open_gate("gate-hang")
    assert server.end_of(*job_ids)["status"] == Status.COMPLETED
    server.assert_ran_once(list(job_ids))


def assert_only_jobs_fail(server: Server) -> None:
    """Pages come as ever, and who asks for a job is told in time that there are none."""
    begin = time.monotonic()
    assert server.ask("GET", "/").body == b"A page."
    assert time.monotonic() - begin < 2
    begin = time.monotonic()
    assert server.ask("POST", "/start", {"target": "/work"}).status == 500
    assert time.monotonic() - begin < 8
    assert server.ask("GET", "/").body == b"A page."
    assert "StoreError: The cache" in server.log


def test_a_cache_that_does_not_answer_for_a_while(run_on_cache: Callable[..., Server], cache: CacheServer) -> None:
    """The job that runs goes on, and to its end."""
    server = run_on_cache(TWO_GTHREAD, is_trouble_expected=True)
    job_id = server.start("/walk")
    wait_until(lambda: server.status(job_id)["progress"] == 1)
    with cache.frozen():
        assert_only_jobs_fail(server)
        server.open_gate("gate-20")
        server.open_gate("gate-40")
        assert_only_jobs_fail(server)
    server.open_gate("gate-80")
    wait_until(lambda: server.ask("GET", f"/status?id={job_id}").status == 200)
    assert server.end_of(job_id)["status"] == Status.COMPLETED
    server.assert_ran_once([job_id])
    wait_until(lambda: server.ask("POST", "/start", {"target": "/work"}).status == 200)


def test_a_cache_that_is_lost(run_on_cache: Callable[..., Server], cache: CacheServer) -> None:
    """The job that runs is gone with it, and ends at its next sign; new ones run as soon as the cache is back."""
    server = run_on_cache(TWO_GTHREAD, is_trouble_expected=True)
    job_id = server.start("/walk")
    wait_until(lambda: server.status(job_id)["progress"] == 1)
    cache.kill()
    assert_only_jobs_fail(server)
    cache.start()

    def start() -> int | None:
        answer = server.ask("POST", "/start", {"target": "/work"})
        return answer.json()["ids"][0] if answer.status == 200 else None

    # Each process finds by itself that its connections are dead, one by one.
    wait_until(lambda: all(server.ask("GET", f"/status?id={job_id}").status == 404 for _ in range(20)))
    server.open_gate("gate-20")
    second = wait_until(start)
    assert second > job_id
    assert server.end_of(second)["status"] == Status.COMPLETED
    assert server.ask("GET", f"/status?id={job_id}").status == 404
    assert (job_id, "end") not in server.runs()


def test_in_front_of_a_database(run_on_cache: Callable[..., Server], cache: CacheServer) -> None:
    """Pages that poll see a job get on and never back, whichever process they ask; and without the cache as well."""
    # They never see it go back as long as the cache answers each process: on a busy machine, not within 0.2 s.
    server = run_on_cache(database="sqlite:///backjob.sqlite3", longest_call=2.0)
    job_id = server.start("/walk")
    seen = [0]

    def poll(_: int) -> None:
        progress = server.status(job_id)["progress"]
        assert progress >= seen[-1]
        seen.append(progress)

    for gate, progress in (("gate-20", 20), ("gate-40", 40)):
        server.open_gate(gate)
        wait_until(lambda progress=progress: poll(0) or seen[-1] == progress)
    cache.kill()
    wait_until(lambda: poll(0) or seen[-1] == 40)
    server.open_gate("gate-80")
    end = server.end_of(job_id)
    assert (end["status"], end["progress"]) == (Status.COMPLETED, 100)
    server.assert_ran_once([job_id])
    assert_all_done(server, 6)
    assert server.log.count("Statuses come from the database alone") <= 2  # processes
