"""Errors of the deletion of old jobs. After an error of one job, that job is left alone. After an outage, none is.

A trigger of the app can raise any code, even one that means a lock, a deadlock or an unreachable server.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from support import services
from support.records import TABLE, Databases, add, open_store, run
from support.served import KEY

from backjob.config import make_config
from backjob.errors import StoreError
from backjob.model.job import Move
from backjob.scheduling.pruning import Pruning
from backjob.storage.retention import Passed
from backjob.storage.sql.database import Database
from backjob.storage.sql.errors import Unreachable
from backjob.storage.sql.schema import build_table
from backjob.storage.sql.store import SQLStore

LEASE = 30.0
AT_MOST = Passed.seconds + 1
CODES = [
    *[("postgresql", code) for code in ("40001", "53100", "57P01", "42P01", "25006")],
    *[("mariadb", code) for code in ("1213", "1114", "2006")],
    *[("sqlite", reason) for reason in ("database is locked", "disk is full")],
]


@contextlib.contextmanager
def open_keepers(url: str) -> Iterator[SQLStore]:
    """Open the store of a keeper, which has shorter time-outs than that of requests."""
    database = Database(url, build_table(TABLE), True)
    twin = database.make_twin(LEASE / 3)
    try:
        yield SQLStore(twin)
    finally:
        twin.dispose()
        database.dispose()


def make_pruning(store: SQLStore) -> Pruning:
    return Pruning(make_config({"key": KEY, "lease": LEASE, "all_backlog_days": 1}), store)


def add_old(store: SQLStore, url: str, count: int) -> list[int]:
    """Add jobs that ended long ago, and return their ids."""
    job_ids = [add(store) for _ in range(count)]
    for job_id in job_ids:
        assert store.move(Move.CANCEL, job_id)
    run(url, f"UPDATE {TABLE} SET ended_at = '2020-01-02 03:04:05'")
    return job_ids


def raise_on_delete(url: str, code: str, condition: str) -> None:
    """Create a trigger that raises this code for jobs that meet the condition."""
    if "sqlite" in url:
        raising = f"SELECT RAISE(ABORT, '{code}')"
        run(url, f"CREATE TRIGGER refusal BEFORE DELETE ON {TABLE} WHEN {condition} BEGIN {raising}; END")
    elif "postgresql" in url:
        raising = f"BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = 'of a trigger'; END"
        run(url, f"CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {raising} $$")
        each = f"FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse()"
        run(url, f"CREATE TRIGGER refusal BEFORE DELETE ON {TABLE} {each}")
    else:
        raising = f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'of a trigger'"
        body = f"BEGIN IF {condition} THEN {raising}; END IF; END"
        run(url, f"CREATE TRIGGER refusal BEFORE DELETE ON {TABLE} FOR EACH ROW {body}")


def ids(url: str) -> list[int]:
    return [row["id"] for row in run(url, f"SELECT id FROM {TABLE} ORDER BY id")]


@pytest.mark.parametrize(("place", "code"), CODES)
def test_a_job_whose_deletion_fails_is_left_alone_whatever_the_code(
    databases: Databases, tmp_path: Path, place: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = databases.url(place, tmp_path)
    with open_keepers(url) as store:
        old = add_old(store, url, 10)
        raise_on_delete(url, code, f"OLD.id = {old[3]}")
        pruning = make_pruning(store)
        longest, begin = 0.0, time.monotonic()
        while len(ids(url)) > 1 or not caplog.records:
            pruning.prune()
            longest, begin = max(longest, time.monotonic() - begin), time.monotonic()
        assert longest < AT_MOST
        assert ids(url) == [old[3]]
        pruning.prune()
        (record,) = caplog.records
    assert f"1 old job(s) can't be deleted and are left alone for an hour: {old[3]}. " in record.getMessage()


@pytest.mark.parametrize(("place", "code"), [("postgresql", "40001"), ("mariadb", "1213"), ("sqlite", "locked")])
def test_deletions_that_all_give_way_keep_the_keeper_for_a_moment(
    databases: Databases, tmp_path: Path, place: str, code: str
) -> None:
    url = databases.url(place, tmp_path)
    with open_keepers(url) as store:
        add_old(store, url, 20)
        raise_on_delete(url, code, "OLD.id > 0")
        pruning = make_pruning(store)
        for _ in range(2):  # all at once, then one by one
            begin = time.monotonic()
            pruning.prune()
            assert time.monotonic() - begin < AT_MOST


@contextlib.contextmanager
def read_only(url: str) -> Iterator[None]:
    name = make_url(url).database
    run(url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        yield
    finally:
        run(url, f"SET TRANSACTION READ WRITE; ALTER DATABASE {name} RESET default_transaction_read_only")


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """Lock the table as CREATE INDEX does."""
    with services.engine(make_url(url)).begin() as other:
        other.execute(text(f"LOCK TABLE {TABLE} IN SHARE MODE"))
        yield


@contextlib.contextmanager
def missing(url: str) -> Iterator[None]:
    run(url, f"ALTER TABLE {TABLE} RENAME TO elsewhere")
    try:
        yield
    finally:
        run(url, f"ALTER TABLE elsewhere RENAME TO {TABLE}")


OUTAGES = [("postgresql", read_only), ("postgresql", locked), ("postgresql", missing), ("mariadb", missing)]


@pytest.mark.parametrize(("place", "outage"), OUTAGES)
def test_an_outage_is_no_fault_of_a_job(
    databases: Databases,
    tmp_path: Path,
    place: str,
    outage: Callable[[str], contextlib.AbstractContextManager[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The outage begins during a call, after the old jobs were read."""
    url = databases.url(place, tmp_path)
    with open_keepers(url) as store:
        old = add_old(store, url, 3)
        values = {"in_status": 4, "before": store.time()}
        for is_one_by_one in (False, True):
            passed = Passed(is_one_by_one=is_one_by_one)
            store._database._create_table = False
            with outage(url):
                if outage is read_only:
                    store._database.dispose()
                begin = time.monotonic()
                with pytest.raises(StoreError):
                    store._delete(values, old, passed, begin + passed.seconds)
                assert time.monotonic() - begin < AT_MOST
            assert not passed.refusals
        assert make_pruning(store).prune_all() == 3
    assert not caplog.records


def test_a_server_that_is_gone_is_an_outage(databases: Databases, tmp_path: Path, free_port: int) -> None:
    url = make_url(databases.url("postgresql", tmp_path)).set(port=free_port)
    with open_store(url) as store, pytest.raises(Unreachable):
        store._delete({"in_status": 4, "before": None}, [1], Passed(is_one_by_one=True), time.monotonic())
