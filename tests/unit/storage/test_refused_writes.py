"""A row that can't be pruned, renewed or recovered, and a text that can't be stored, keep nobody else waiting.

The database itself refuses them: by a foreign key, a trigger or a size limit. Keepers are real, and their thread too.
"""

from __future__ import annotations

import contextlib
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import make_url
from support import services
from support.caches import PATIENT, empty_region
from support.records import TABLE, add, count_jobs, open_store, run
from support.served import KEY, wrap

from backjob import Status
from backjob.config import make_config
from backjob.errors import Refused, StoreError, TimedOut
from backjob.keyring import Keyring
from backjob.model.job import Move
from backjob.runtime.process_identity import name_process
from backjob.scheduling.concurrency import Limits
from backjob.scheduling.keeper import Keeper
from backjob.scheduling.leases import TRIES, Renewals
from backjob.storage.cache.entries import open_entries
from backjob.storage.retention import Passed
from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import find_table
from backjob.storage.sql.store import SQLStore
from backjob.transport.launcher import SelfRequest
from backjob.worker import outcome

LEASE = 30.0
KEYRING = Keyring([KEY])
PLACES = ("sqlite", "postgresql", "mariadb")
KEEPERS = [(place, kind) for place in PLACES[1:] for kind in ("url", "engine")] + [("postgresql", "psycopg2")]
PATIENCE = 1.5
"""Seconds for which a keeper with a short lease waits for an answer."""


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def url(place: str, tmp_path: Path) -> Iterator[str]:
    """A database of the test's own: it gets tables, triggers and constraints."""
    with new_database(place, tmp_path) as made:
        yield made


@contextlib.contextmanager
def new_database(place: str, folder: Path) -> Iterator[str]:
    if place == "sqlite":
        yield f"sqlite:///{folder / 'jobs.sqlite3'}"
        return
    with services.new_database(place) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    with new_database("postgresql", tmp_path) as made:
        yield made


@pytest.fixture
def store(url: str) -> Iterator[SQLStore]:
    with open_store(url) as opened:
        opened.time()
        count_jobs(opened, Status.STARTED)  # makes the table
        yield opened


def make_keeper(store: SQLStore, renewals: Renewals | None = None, **options: Any) -> Keeper:
    config = make_config({"key": KEY, "lease": LEASE, "all_backlog_days": 1, **options})
    limits = Limits(config, store, name_process())
    return Keeper(config, KEYRING, store, SelfRequest(config, KEYRING, "app"), renewals or Renewals(), limits, list)


def add_old(store: SQLStore, url: str, count: int) -> list[int]:
    """Jobs that ended long ago."""
    first = add(store)
    assert store.claim(first, 1, "run", LEASE, 0)
    assert store.move(Move.COMPLETE, first)
    names = ", ".join(column.name for column in store._database.table.columns if column.name not in ("id", "uid"))
    copies = [{"uid": f"copy {number}"} for number in range(count - 1)]
    with services.engine(make_url(url)).begin() as connection:
        insert = f"INSERT INTO {TABLE} (uid, {names}) SELECT :uid, {names} FROM {TABLE} WHERE id = {first}"
        if copies:
            connection.execute(text(insert), copies)
        connection.execute(text(f"UPDATE {TABLE} SET ended_at = '2020-01-02 03:04:05' WHERE status = 2"))
        return list(connection.scalars(text(f"SELECT id FROM {TABLE} WHERE status = 2 ORDER BY id")))


@contextlib.contextmanager
def referenced(store: SQLStore, url: str, *job_ids: int) -> Iterator[None]:
    """The app has a table of its own, whose foreign key keeps these jobs."""
    number = "BIGINT" if "sqlite" not in url else "INTEGER"
    run(url, f"CREATE TABLE app_report (job {number}, FOREIGN KEY (job) REFERENCES {TABLE} (id))")
    run(url, "INSERT INTO app_report VALUES " + ", ".join(f"({job_id})" for job_id in job_ids))
    if "sqlite" in url:

        def enforce(connection: Any, _: object) -> None:
            connection.execute("PRAGMA foreign_keys = ON").close()

        store._database.dispose()
        event.listen(store._database._engine, "connect", enforce)
    yield
    run(url, "DROP TABLE app_report")


def refuse(url: str, when: str, condition: str) -> None:
    """Have a trigger refuse this: ``when`` is BEFORE UPDATE, say; it goes with the table."""
    if "sqlite" in url:
        run(url, f"CREATE TRIGGER refusal {when} ON {TABLE} WHEN {condition} BEGIN SELECT RAISE(ABORT, 'refused'); END")
    elif "postgresql" in url:
        raising = "BEGIN RAISE EXCEPTION 'refused'; END"
        run(url, f"CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {raising} $$")
        each = f"FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse()"
        run(url, f"CREATE TRIGGER refusal {when} ON {TABLE} {each}")
    else:
        raising = f"IF {condition} THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF"
        run(url, f"CREATE TRIGGER refusal {when} ON {TABLE} FOR EACH ROW BEGIN {raising}; END")


def ids(url: str) -> list[int]:
    return [row["id"] for row in run(url, f"SELECT id FROM {TABLE} ORDER BY id")]


# --- Pruning.


def test_old_jobs_are_deleted_but_for_those_that_are_referenced(
    store: SQLStore, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    old = add_old(store, url, 1000)
    kept = [old[0], old[500], old[501]]
    with referenced(store, url, *kept):
        keeper = make_keeper(store)
        assert keeper.prune_all() == 997
        assert ids(url) == kept
        told, count = caplog.text, len(caplog.records)
        assert all(re.search(rf"\b{job_id}\b", told) for job_id in kept)
        assert keeper.prune_all() == 0
        assert len(caplog.records) == count  # they are left alone for an hour
    assert make_keeper(store).prune_all() == 3


def test_no_right_to_delete_ends_too(store: SQLStore, url: str) -> None:
    add_old(store, url, 300)
    refuse(url, "BEFORE DELETE", "OLD.id > 0")
    assert make_keeper(store).prune_all() == 0
    passed = Passed()
    while store.prune(store.time(), store.time(), 200, passed) == 0 and passed.is_unfinished:
        pass
    assert passed.counts == {Status.COMPLETED: 300}


def test_a_trigger_that_keeps_rows_silently_is_no_endless_loop(postgresql: str) -> None:
    url = postgresql
    with open_store(url) as store:
        old = add_old(store, url, 30)
        run(url, "CREATE OR REPLACE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
        each = "FOR EACH ROW WHEN (OLD.id % 2 = 0) EXECUTE FUNCTION keep()"
        run(url, f"CREATE TRIGGER keeps BEFORE DELETE ON {TABLE} {each}")
        assert make_keeper(store).prune_all() == 15
        assert ids(url) == [job_id for job_id in old if job_id % 2 == 0]


def slow_down(url: str, condition: str, seconds: float) -> None:
    """Add a trigger that sleeps when a matching row is deleted: as slow as a foreign key without an index."""
    if "postgresql" in url:
        body = f"BEGIN PERFORM pg_sleep({seconds}); RETURN OLD; END"
        run(url, f"CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
        each = f"FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION slow()"
        run(url, f"CREATE TRIGGER slow BEFORE DELETE ON {TABLE} {each}")
    else:
        run(url, f"CREATE TRIGGER slow BEFORE DELETE ON {TABLE} FOR EACH ROW DO IF({condition}, SLEEP({seconds}), 0)")


@contextlib.contextmanager
def open_keepers(url: str, kind: str) -> Iterator[SQLStore]:
    """Yield the store of a keeper with a short lease. ``kind``: "url", "engine" or "psycopg2"."""
    engine = create_engine(url) if kind == "engine" else None
    if kind == "psycopg2":
        url = url.replace("+psycopg:", "+psycopg2:")
    database = Database(engine or url, find_table(TABLE), True)
    twin = database.make_twin(PATIENCE)
    try:
        yield SQLStore(twin)
    finally:
        twin.dispose()
        database.dispose()
        if engine is not None:
            engine.dispose()


@pytest.mark.parametrize(("place", "kind"), KEEPERS, indirect=["place"])
def test_only_the_job_that_is_slow_to_delete_is_skipped(url: str, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with open_keepers(url, kind) as store:
        old = add_old(store, url, 4)
        slow_down(url, f"OLD.id = {old[1]}", 30)
        assert make_keeper(store).prune_all() == 3
    assert ids(url) == [old[1]]
    assert f"1 old job(s) can't be deleted and are left alone for an hour: {old[1]}." in caplog.text
    assert "took too long" in caplog.text


@pytest.mark.parametrize(("place", "kind"), KEEPERS, indirect=["place"])
def test_a_keeper_waits_briefly_for_a_locked_row(url: str, kind: str) -> None:
    with open_keepers(url, kind) as store, services.engine(make_url(url)).connect() as other:
        job_id = add(store)
        other.execute(text(f"SELECT 1 FROM {TABLE} WHERE id = {job_id} FOR UPDATE"))
        with pytest.raises(TimedOut):
            store.move(Move.CANCEL, job_id)
        other.rollback()
        assert store.move(Move.CANCEL, job_id)


# --- What the keeper does besides.


def run_job(store: SQLStore, lease: float = LEASE, **changes: Any) -> int:
    job_id = add(store, key_id=KEYRING.key_ids[0], app_id="", **changes)
    assert store.claim(job_id, 1, f"elsewhere-{job_id}", lease, 0)
    return job_id


def test_recovery_goes_on_while_nothing_can_be_pruned(url: str, tmp_path: Path) -> None:
    """The keeper's own thread: a silent job and one whose lease lapses end, though pruning fails each time."""
    with open_store(url) as store:
        old = add_old(store, url, 30)
    refuse(url, "BEFORE DELETE", f"OLD.id = {old[0]}")
    with wrap(tmp_path, database=url, keeper=True, lease=3.0, all_backlog_days=1) as site:
        store = site.backend.store
        silent = site.start("/job", error_timeout=3)
        lapsed = site.start("/job", error_timeout=0)
        assert store.claim(silent, 1, "elsewhere-1", 600, 0)
        assert store.claim(lapsed, 1, "elsewhere-2", 3, 0)
        assert site.wait_for_end(silent).status is Status.FAILED
        assert site.wait_for_end(lapsed).status is Status.FAILED
        assert set(ids(url)) == {old[0], silent, lapsed}


def test_recovery_goes_on_while_pruning_is_too_slow(postgresql: str, tmp_path: Path) -> None:
    """A DELETE that never ends in time says nothing about the server: a silent job is still found."""
    url = postgresql
    with open_store(url) as store:
        old = add_old(store, url, 3)
    slow_down(url, "OLD.id > 0", 60)
    with wrap(tmp_path, database=url, keeper=True, lease=3.0, all_backlog_days=1) as site:
        silent = site.start("/job", error_timeout=3)
        assert site.backend.store.claim(silent, 1, "elsewhere-1", 600, 0)
        assert site.wait_for_end(silent).status is Status.FAILED
        assert set(ids(url)) == {*old, silent}


@pytest.mark.parametrize("spared", ["lease", "hold"])
def test_a_renewal_that_is_refused_keeps_no_other(
    store: SQLStore, url: str, spared: str, caplog: pytest.LogCaptureFixture
) -> None:
    renewals, keeper = Renewals(), None
    runs = [run_job(store, 5) for _ in range(4)]
    waits = [add(store, key_id=KEYRING.key_ids[0], held_by="me", hold=5) for _ in range(4)]
    for job_id in runs:
        renewals.lease(job_id, f"elsewhere-{job_id}")
    for job_id in waits:
        renewals.hold(job_id, "me")
    poisoned = (runs if spared == "lease" else waits)[1]
    refuse(url, "BEFORE UPDATE", f"NEW.id = {poisoned}")
    keeper = make_keeper(store, renewals, keeper=False)
    before = store.time()
    for _ in range(2):
        keeper._next.renewal = 0.0
        keeper.step()
    until = {job_id: store.get(job_id) for job_id in (*runs, *waits)}
    renewed = [
        job_id
        for job_id, job in until.items()
        if job and (job.lease_until or job.held_until or before) > before + timedelta(seconds=LEASE / 2)
    ]
    assert renewed == [job_id for job_id in (*runs, *waits) if job_id != poisoned]
    assert [each.getMessage() for each in caplog.records if "renewed" in each.getMessage()] == [
        next(each.getMessage() for each in caplog.records if f"Job {poisoned}:" in each.getMessage())
    ]


def test_a_recovery_that_is_refused_keeps_no_other(store: SQLStore, url: str, caplog: pytest.LogCaptureFixture) -> None:
    lost = [run_job(store, -1, error_timeout=0) for _ in range(3)]
    refuse(url, "BEFORE UPDATE", f"OLD.id = {lost[0]}")
    keeper = make_keeper(store, lease=1)
    assert keeper.recover_all() == 2
    assert [store.glance(job_id).status for job_id in lost] == [Status.INPROGRESS, Status.FAILED, Status.FAILED]  # type: ignore[union-attr]
    told = [each.getMessage() for each in caplog.records if "can't be recovered" in each.getMessage()]
    assert len(told) == 1
    assert told[0].startswith(f"Job {lost[0]} ")


def test_a_recovery_is_told_without_an_output_that_is_refused(store: SQLStore, url: str) -> None:
    lost = run_job(store, 0, error_timeout=0)
    assert store.touch(lost, 1, 40, "poison", 0)
    refuse(url, "BEFORE UPDATE", "NEW.status = 3 AND NEW.status_text LIKE '%poison%'")
    assert make_keeper(store, lease=1).recover_all() == 1
    assert store.status(lost).status_text.startswith("The process that ran this job")  # type: ignore[union-attr]


# --- What is refused is told from an outage.


def test_a_row_that_another_session_locks_keeps_no_other(postgresql: str) -> None:
    with open_keepers(postgresql, "url") as store:
        old = add_old(store, postgresql, 6)
        runs = [run_job(store, 5) for _ in range(3)]
        renewals = Renewals()
        for job_id in runs:
            renewals.lease(job_id, f"elsewhere-{job_id}")
        with services.engine(make_url(postgresql)).connect() as other:
            other.execute(text(f"SELECT 1 FROM {TABLE} WHERE id IN ({old[2]}, {runs[0]}) FOR UPDATE"))
            assert make_keeper(store).prune_all() == 5
            renewed_until = store.time() + timedelta(seconds=LEASE)
            renewals.renew(store, LEASE)
            until = [store.get(job_id).lease_until >= renewed_until for job_id in runs]  # type: ignore[union-attr, operator]
            assert until == [False, True, True]
            other.rollback()
        renewals.renew(store, LEASE)
        assert store.get(runs[0]).lease_until >= renewed_until  # type: ignore[union-attr, operator]


def test_kinds_of_failures(postgresql: str) -> None:
    url = postgresql
    with open_store(url) as store:
        job_id = run_job(store)
        old = add_old(store, url, 2)
        with referenced(store, url, old[1]), pytest.raises(Refused):
            store._database.write(text(f"DELETE FROM {TABLE} WHERE id = {old[1]}"), {})
        run(url, f"ALTER TABLE {TABLE} ADD CONSTRAINT own CHECK (progress < 50) NOT VALID")
        with pytest.raises(Refused):
            store.touch(job_id, 1, 60, "", LEASE)
        with pytest.raises(TimedOut):
            store._database.read(text("SET statement_timeout = 10; SELECT pg_sleep(5)"), {})
        store._database.dispose()
        run(url, f"ALTER TABLE {TABLE} RENAME TO elsewhere")
        for _ in range(2):  # the second time, the names of the indexes are in use
            with pytest.raises(StoreError) as caught:
                count_jobs(store, Status.STARTED)
            assert not isinstance(caught.value, (Refused, TimedOut))
        run(url, "DROP TABLE elsewhere")


@pytest.mark.parametrize("place", ["mariadb"], indirect=True)
@pytest.mark.parametrize("number", [1047, 1226])
def test_an_error_of_the_whole_server_is_an_outage(store: SQLStore, url: str, number: int) -> None:
    """Such as a Galera node that is not ready, or a limit of the user's connections."""
    job_id = add(store)
    raising = f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {number}"
    run(url, f"CREATE TRIGGER away BEFORE UPDATE ON {TABLE} FOR EACH ROW {raising}")
    with pytest.raises(StoreError) as caught:
        store.claim(job_id, 1, "us", 30, 0)
    assert not isinstance(caught.value, (Refused, TimedOut))


@contextlib.contextmanager
def all_refused(url: str) -> Iterator[None]:
    """Refuse the update of every row: by a REVOKE if the user is not the owner, else by a trigger."""
    user = make_url(url).username or ""
    if user.startswith("clerk"):
        owner = url.replace(f"//{user}@", "//postgres@")
        run(owner, f"REVOKE UPDATE ON {TABLE} FROM {user}")
        yield
        run(owner, f"GRANT UPDATE ON {TABLE} TO {user}")
    else:
        refuse(url, "BEFORE UPDATE", "NEW.attempt > 0")
        yield
        run(url, f"DROP TRIGGER refusal ON {TABLE}" if "postgresql" in url else "DROP TRIGGER refusal")


@pytest.fixture(params=[*PLACES, "revoke"])
def refusable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the tables, as the user whose writes ``all_refused`` refuses."""
    is_revoke = request.param == "revoke"
    with new_database("postgresql" if is_revoke else request.param, tmp_path) as url:
        with open_store(url) as opened:
            count_jobs(opened, Status.STARTED)
        if not is_revoke:
            yield url
            return
        user = f"clerk_{secrets.token_hex(8)}"  # the databases of a server share its users
        run(url, f"CREATE ROLE {user} LOGIN; GRANT ALL ON {TABLE}, {TABLE}_process, {TABLE}_id_seq TO {user}")
        try:
            yield url.replace("//postgres@", f"//{user}@")
        finally:
            run(url, f"DROP OWNED BY {user}; DROP ROLE {user}")


def test_an_outcome_waits_while_every_write_is_refused(
    refusable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outcome, "PATIENCE", 0.1)
    refusal = contextlib.ExitStack()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        refusal.enter_context(all_refused(refusable))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"worked"]

    with wrap(tmp_path, app, database=refusable) as site:
        renewals, store = site.backend.renewals, site.backend.store
        job_id = site.start("/job")
        site.work(job_id)
        for _ in range(TRIES + 1):
            with pytest.raises(StoreError) as caught:
                renewals.write_postponed(store)
            assert not isinstance(caught.value, Refused)
        assert list(renewals.leases.values()) == [job_id]
        refusal.close()
        renewals.write_postponed(store)
        status = site.status(job_id)
        assert (status.status, status.status_text) == (Status.COMPLETED, "worked")
    assert "given up" not in caplog.text


def test_keepers_see_an_outage_while_every_write_is_refused(refusable: str, caplog: pytest.LogCaptureFixture) -> None:
    with open_store(refusable) as store:
        lost, waiting = run_job(store, 0, error_timeout=0), add(store, key_id=KEYRING.key_ids[0])
        running = run_job(store)
        keeper, renewals = make_keeper(store, lease=1), Renewals()
        renewals.lease(running, f"elsewhere-{running}")
        with all_refused(refusable):
            for write in (
                store.check_writes,
                keeper.recover_all,
                lambda: renewals.renew(store, LEASE),
                lambda: store.take_due(KEYRING.key_ids, "me", LEASE),
            ):
                with pytest.raises(StoreError) as caught:
                    write()
                assert not isinstance(caught.value, Refused)
        assert store.take_due(KEYRING.key_ids, "me", LEASE).id == waiting  # type: ignore[union-attr]
        assert keeper.recover_all() == 1
        assert store.status(lost).status is Status.FAILED  # type: ignore[union-attr]
        assert add(store) == running + 1
    assert "left alone" not in caplog.text


# --- Texts that can't be stored.


def say(jobs: Any, said: str, how: str) -> None:
    if how == "update":
        end = time.monotonic() + 20
        while time.monotonic() < end:  # until it is told that it has failed
            jobs.update(40, said)
            time.sleep(0.01)
    elif how == "finish":
        jobs.finish(said)
    elif how == "fail":
        jobs.fail(said)


def make_app(said: str, how: str) -> Callable[..., Any]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        say(environ["backjob"], said, how)
        return [said.encode()] if how == "output" else []

    return app


HOWS = ["output", "finish", "fail", "update"]


@pytest.mark.parametrize("how", HOWS)
def test_a_text_that_the_database_refuses_fails_its_job(url: str, tmp_path: Path, how: str) -> None:
    with wrap(tmp_path, make_app("some poison", how), database=url) as site:
        count_jobs(site.backend.store, Status.STARTED)
        refuse(url, "BEFORE UPDATE", "NEW.status_text LIKE '%poison%'")
        job_id = site.start("/job")
        site.work(job_id)
        status = site.status(job_id)
        assert status.status is Status.FAILED
        assert "The job store refuses the text of this job" in status.status_text
        assert ("it was running" in status.status_text) == (how == "update")
        assert site.backend.renewals.leases == {}


def test_an_outcome_that_is_always_refused_is_left_to_recovery(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with wrap(tmp_path, database=url) as site:
        count_jobs(site.backend.store, Status.STARTED)
        refuse(url, "BEFORE UPDATE", "NEW.status = 2 OR NEW.status_text LIKE 'The job store%'")
        job_id = site.start("/job")
        site.work(job_id)
        assert site.status(job_id).status is Status.INPROGRESS
        assert site.backend.renewals.leases == {}  # so that its lease lapses
        assert f"Job {job_id} has ended, its outcome is given up" in caplog.text
        assert site.run("/job").id != job_id


@pytest.mark.parametrize("how", ["output", "finish", "update"])
def test_a_text_over_the_limit_of_memcached_fails_its_job(tmp_path: Path, how: str, incompressible: str) -> None:
    with (
        empty_region("memcached") as region,
        wrap(tmp_path, make_app(incompressible, how), database=None, cache=region, max_output=3_000_000) as site,
    ):
        job_id = site.start("/job")
        site.work(job_id)
        status = site.status(job_id)
        assert status.status is Status.FAILED
        assert "The job store refuses the text of this job" in status.status_text
        assert "large" in status.status_text


def test_a_long_text_does_not_turn_a_cache_off(
    tmp_path: Path, incompressible: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        empty_region("memcached") as region,
        wrap(tmp_path, make_app(incompressible, "output"), cache=region, max_output=3_000_000) as site,
    ):
        assert site.wait_for_end(site.run("/job").id).status is Status.COMPLETED
        assert "Statuses come from the database alone" not in caplog.text


@pytest.fixture(scope="module")
def incompressible() -> str:

    return "".join(random.Random(1).choices("0123456789abcdefghijklmnopqrstuvwxyz", k=2_000_000))


def test_a_value_that_is_too_large_is_told_from_a_cache_that_is_away() -> None:
    with empty_region("memcached") as region:
        cells = open_entries(region, PATIENT)
        with pytest.raises(Refused, match="large"):
            cells.change("key", lambda old: bytes(2_000_000))
        assert cells.read("key") is None
        cells.change("key", lambda old: b"small")
        cells.dispose()
