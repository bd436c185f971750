"""Rolling deploys: a job runs in the version of the app that recorded it, while that version is alive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dogpile.cache import make_region
from support.records import KEY_IDS, Clock, Databases, add, open_store
from support.served import Site, serve, wrap

from backjob import Status
from backjob.keyring import MONITOR, WORKER
from backjob.scheduling.monitor import Verdict
from backjob.storage.cache.entries import open_entries
from backjob.storage.cache.store import CacheStore
from backjob.storage.queries import VERSION_GRACE
from backjob.storage.store import Store

Pair = tuple[Site, Site]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb", "memory"])
def store(request: pytest.FixtureRequest, clock: Clock, databases: Databases, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        cells = open_entries(make_region().configure("dogpile.cache.memory"), 2)
        yield CacheStore(cells, "backjob-", now=clock)
        cells.dispose()
        return
    with open_store(databases.url(request.param, tmp_path), clock) as opened:
        yield opened


def takes(store: Store, version: str) -> int | None:
    """The job that a process of this version would launch now. It is given back."""
    job = store.take_due(KEY_IDS, "holder", 30, app_version=version)
    seconds = store.seconds_to_next(KEY_IDS, app_version=version)
    if job is None:
        assert seconds is None, "it would look again and again for a job that it may not take"
        return None
    assert store.hold(job.id, job.attempt, "holder", None, 0)
    return job.id


def test_a_job_is_left_to_its_version_until_that_is_gone_for_a_minute(store: Store, clock: Clock) -> None:
    job_id = add(store, app_version="new")
    store.register("process", 4, 30, "new")
    store.register("other process", 4, 10**6, "old")
    clock.advance(30 + VERSION_GRACE - 0.01)
    assert (takes(store, "new"), takes(store, "old"), takes(store, "")) == (job_id, None, None)
    assert store.is_version_alive("new")
    clock.advance(0.01)  # a rollback: the new version does not come back
    assert not store.is_version_alive("new")
    assert (takes(store, "new"), takes(store, "old"), takes(store, "")) == (job_id, job_id, job_id)


def test_an_orderly_end_counts_from_then_on(store: Store, clock: Clock) -> None:
    job_id = add(store, app_version="new")
    store.register("process", 4, 30, "new")
    store.unregister("process")
    assert store.read_slots() == {}, "its slots are not there any more"
    store.register("other process", 4, 10**6, "old")
    clock.advance(VERSION_GRACE - 0.01)
    assert takes(store, "old") is None
    store.unregister("process")  # another process finds it dead: that is no sign of life
    clock.advance(0.01)
    assert takes(store, "old") == job_id


def test_the_version_comes_back(store: Store, clock: Clock) -> None:
    add(store, app_version="new")
    store.register("process", 4, 30, "new")
    clock.advance(30 + VERSION_GRACE - 1)
    store.register("its successor", 4, 30, "new")
    clock.advance(29)
    assert takes(store, "old") is None
    assert list(store.read_slots()) == ["its successor"]


def test_a_job_without_a_version_is_for_any(store: Store) -> None:
    job_id = add(store)
    for version in ("new", "old"):
        store.register(f"process {version}", 4, 30, version)
    assert [takes(store, version) for version in ("new", "old", "")] == [job_id] * 3


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A process of the new version that starts jobs, and one of the old version."""
    with wrap(tmp_path, app_version="new") as new, wrap(tmp_path, app_version="old") as old:
        yield new, old


@pytest.mark.parametrize("kind", [MONITOR, WORKER])
def test_a_launch_that_comes_to_another_version_leaves_the_job_waiting(pair: Pair, kind: str) -> None:
    """Old and new processes share a listening socket for a while, or a load balancer chooses."""
    new, old = pair
    job_id = new.start("/job", retries=1)
    job = new.row(job_id)
    assert job.app_version == "new"
    token = new.backend.keyring.sign(kind, job_id, 1, job.sealed or b"", job.held_by)
    assert old.send(token.text, "/job").code == (202 if kind == MONITOR else 409)
    row = new.row(job_id)
    assert (row.status, row.attempt, row.status_text) == (Status.STARTED, 1, "")
    if kind == MONITOR:
        assert row.held_by is None, "a process of its version finds it"
        assert old.send(token.text, "/job").code == 409, "a replay changes nothing"
    assert new.send(new.token(job_id), "/job").code == 200
    assert new.status(job_id).status is Status.COMPLETED


def test_a_job_whose_version_does_not_answer_at_connect_says_so(tmp_path: Path) -> None:
    """A pool that was not deployed, and web processes that were."""
    with (
        wrap(tmp_path, app_version="old") as pool,
        serve(pool.application) as server,
        wrap(tmp_path, app_version="new", connect=server.url) as web,
    ):
        job_id = web.start("/job")
        backend = web.backend
        web.sql("UPDATE background_job SET held_by = NULL, held_until = NULL")

        def launch() -> Verdict:
            job = backend.store.take_due(backend.keyring.key_ids, backend.monitor.owner, 30, app_version="new")
            assert job is not None
            return backend.monitor.run(job, lambda: None)

        assert (launch(), web.status(job_id).status_text) == (Verdict.FULL, "")
        web.sql("UPDATE background_job SET due_at = datetime(due_at, '-11 seconds') || '.000000'")
        assert launch() is Verdict.REFUSED
        status = web.status(job_id)
        assert status.status is Status.STARTED
        assert status.status_text.endswith("the app's own address has another app_version than this job's, 'new'")
        [warning] = [each for each in web.application.check().warnings if each.name == "app-version"]
        assert "'old', and this one 'new'" in warning.text


def test_a_script_speaks_for_its_version(tmp_path: Path) -> None:
    """It records a job before the first server of its version is there, and ends."""
    with wrap(tmp_path, app_version="old") as old:
        with wrap(tmp_path, app_version="new") as script:
            job_id = script.application.jobs.start("/job")
            script.backend.store.hold(job_id, 1, script.row(job_id).held_by, None, 0)
            script.application.close()
        backend = old.backend
        assert backend.store.is_version_alive("new")
        assert (
            backend.store.take_due(backend.keyring.key_ids, "holder", 30, backend.monitor.app_id, app_version="old")
            is None
        )


def test_a_process_that_serves_pages_alone_speaks_for_its_version(tmp_path: Path) -> None:
    with wrap(tmp_path, app_version="new", keeper=True) as site, wrap(tmp_path, app_version="old") as old:
        site.application.create_table()
        site.within(lambda jobs: None)
        site.application._assembly._run_keeper()
        site.backend.limits.renew()
        assert old.backend.store.is_version_alive("new")
        assert list(old.backend.store.read_slots().values()) == [0]


def test_without_the_option_nothing_is_registered_or_left(tmp_path: Path) -> None:
    with wrap(tmp_path) as site:
        job_id = site.start("/job")
        assert site.row(job_id).app_version == ""
        assert site.sql("SELECT app_version FROM background_job_process WHERE name <> 'deployment'") in ([], [("",)])


def test_a_process_without_slots_does_not_change_max_running(tmp_path: Path) -> None:
    """With connect= the jobs run elsewhere: the recorder is there for its version only."""
    with wrap(tmp_path, app_version="new", connect="http://127.0.0.1:1") as site:
        before = site.backend.limits.max_running
        site.start("/job")
        assert list(site.backend.store.read_slots().values()) == [0]
        site.backend.limits.renew()
        assert site.backend.limits.max_running == before
