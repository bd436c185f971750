"""A database server without a free connection: jobs of processes that can't connect are not recovered as lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy.engine import URL
from support import TESTS
from support.few_connections import limited_role, use_up_connections
from support.patched import run_patched
from support.records import TABLE, new_job, seal
from support.services import new_database

from backjob import Status
from backjob.config import Config
from backjob.errors import StoreError
from backjob.keyring import Keyring
from backjob.scheduling.concurrency import Limits
from backjob.scheduling.keeper import Keeper
from backjob.scheduling.leases import Renewals
from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import find_table
from backjob.storage.sql.store import SQLStore
from backjob.transport.launcher import SelfRequest

LIMIT = 3
CONFIG = Config(key="key12345" * 4, lease=1)
KEYRING = Keyring(["k" * 32])


@pytest.fixture
def url() -> Iterator[URL]:
    """A database of a role that may have few connections."""
    with new_database("postgresql") as admin, limited_role(admin, LIMIT) as few:
        yield few


@pytest.fixture
def open_database(url: URL) -> Iterator[Callable[[], Database]]:
    opened = []

    def open_one() -> Database:
        opened.append(Database(url, find_table(TABLE), True))
        return opened[-1]

    yield open_one
    for each in opened:
        each.dispose()


def make_keeper(database: Database) -> Keeper:
    store = SQLStore(database)
    self_request, limits = SelfRequest(CONFIG, KEYRING), Limits(CONFIG, store, "us")
    return Keeper(CONFIG, KEYRING, store, self_request, Renewals(), limits, lambda: None)


def test_a_job_is_not_recovered_before_its_process_could_connect(
    open_database: Callable[[], Database], url: URL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("backjob.scheduling.grace_period._GRACE", 0)
    monkeypatch.setattr("backjob.scheduling.keeper._LONGEST_GRACE", 1)
    database = open_database()
    store, keeper = SQLStore(database), make_keeper(database)
    job_id, _ = store.add(new_job(key_id=KEYRING.key_id, app_id=keeper._self_request.app_id), seal)
    assert store.claim(job_id, 1, "a process without a connection", -60, 0)
    with use_up_connections(url), caplog.at_level(logging.WARNING):
        assert keeper.recover_all() == 0
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    job = store.get(job_id)
    assert job is not None
    assert job.status is Status.INPROGRESS
    monkeypatch.setattr(
        "backjob.scheduling.keeper._LONGEST_GRACE", 30
    )  # the server may take a while to free the connections
    assert keeper.recover_all() == 1


def test_a_keeper_without_a_connection_uses_an_idle_one_of_the_requests(
    open_database: Callable[[], Database], url: URL
) -> None:
    database = open_database()
    store, keeper_store = SQLStore(database), SQLStore(database.make_twin(1))
    job_id, _ = store.add(new_job(), seal)
    assert store.claim(job_id, 1, "us", 1, 0)
    with use_up_connections(url):
        keeper_store.renew({"us": job_id}, {}, 60)
        with database.connect(), pytest.raises(StoreError, match="too many connections"):
            keeper_store.renew({"us": job_id}, {}, 60)
        store.get(job_id)  # the borrowed connection was given back


GREENLETS = """
import sys
import gevent
sys.path.insert(0, {tests!r})
from sqlalchemy.engine import make_url
from support.few_connections import use_up_connections
from support.patched import run_patched
from support.records import TABLE, add
from backjob.worker import outcome
from backjob.storage.sql.database import Database
from backjob.model.job import Move
from backjob.storage.sql.schema import find_table
from backjob.storage.sql.store import SQLStore
from backjob.scheduling.leases import Renewals

outcome.PATIENCE = outcome._RETRY_EVERY = 0.1
database, renewals = Database({url!r}, find_table(TABLE), True), Renewals()
store = SQLStore(database)
job_id = add(store)
store.claim(job_id, 1, "us", 30, 0)
job = store.get(job_id)
database.dispose()
with use_up_connections(make_url({url!r})):
    outcome.Outcome(job, Move.COMPLETE, "Done.", 100).write_patiently(store, renewals)
    print(renewals.has_postponed)
with gevent.Timeout(20):
    while store.get(job_id).status.name != "COMPLETED":  # the write may be under way
        gevent.sleep(0.01)
print(store.get(job_id).status.name)
"""


def test_greenlets_write_an_outcome_that_waits(url: URL) -> None:
    """The keeper's thread can't use the greenlets' connections, and may have none of its own."""
    shown = url.render_as_string(hide_password=False)
    assert run_patched(GREENLETS.format(tests=str(TESTS), url=shown)).split() == ["True", "COMPLETED"]
