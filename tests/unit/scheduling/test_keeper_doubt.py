"""A keeper that had to wait for the store itself settles nobody who may only have waited as well."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from support import wait_until
from support.records import add, open_sqlite_store

from backjob import Status
from backjob.config import make_config
from backjob.keyring import Keyring
from backjob.scheduling.concurrency import Limits
from backjob.scheduling.keeper import Keeper
from backjob.scheduling.leases import Renewals
from backjob.storage.sql.store import SQLStore
from backjob.transport.launcher import SelfRequest

LEASE = 1.0
KEYRING = Keyring(["a key for this test, and for nothing else"])


def make_keeper(store: SQLStore, **options: Any) -> Keeper:
    """One of a process that vouches for nothing."""
    config = make_config({"lease": LEASE, **options})
    limits = Limits(config, store, "process-of-this-test")
    return Keeper(config, KEYRING, store, SelfRequest(config, KEYRING), Renewals(), limits, lambda: None)


def test_who_had_to_wait_for_the_store_gives_the_others_a_lease(tmp_path: Path) -> None:
    """Another program locks the file: all can read it, and nobody can write that he vouches for his job."""
    with open_sqlite_store(tmp_path) as store, open_sqlite_store(tmp_path) as elsewhere:
        job_id = add(store, key_id=KEYRING.key_ids[0], app_id="", error_timeout=0)
        keeper, is_unlocked = make_keeper(store), threading.Event()
        assert elsewhere.claim(job_id, 1, "elsewhere", LEASE, 0)
        keeper.step()
        with closing(sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)) as locker:
            locker.execute("BEGIN EXCLUSIVE")
            with ThreadPoolExecutor(1) as pool:
                steps = pool.submit(go_on, keeper, is_unlocked)
                wait_until(lambda: overdue(elsewhere, job_id) > LEASE / 2)
                locker.execute("ROLLBACK")
                is_unlocked.set()
                steps.result()
        assert find_status(store, job_id) is Status.INPROGRESS
        begin = time.monotonic()
        wait_until(lambda: keeper.step() and find_status(store, job_id) is Status.FAILED)
        assert time.monotonic() - begin > LEASE / 2


def test_a_lock_kept_a_lively_job_from_giving_its_sign(tmp_path: Path) -> None:
    """For longer than its error_timeout, and not long enough to be taken for an outage. Whoever comes by first when the
    lock goes settles nothing."""
    with open_sqlite_store(tmp_path) as store, open_sqlite_store(tmp_path) as elsewhere:
        job_id = add(store, key_id=KEYRING.key_ids[0], app_id="", error_timeout=0.5)
        keeper = make_keeper(store, lease=30)
        keeper.step()
        assert elsewhere.claim(job_id, 1, "elsewhere", 30, 0)
        with closing(sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)) as locker:
            locker.execute("BEGIN EXCLUSIVE")
            begin = time.monotonic()
            wait_until(lambda: time.monotonic() - begin > 0.6)
            with ThreadPoolExecutor(1) as pool:
                sweep = pool.submit(keeper.sweep)
                wait_until(lambda: time.monotonic() - begin > 1)
                locker.execute("ROLLBACK")
                sweep.result()
        assert elsewhere.touch(job_id, 1, 40, "a sign", 30)


def go_on(keeper: Keeper, is_enough: threading.Event) -> None:
    """Step as often as it says, and once more at the end."""
    while not is_enough.wait(keeper.step()):
        pass
    keeper.step()


def overdue(store: SQLStore, job_id: int) -> float:
    """For how many seconds nobody has vouched for the job."""
    job = store.get(job_id)
    assert job is not None
    assert job.lease_until is not None
    return (store.time() - job.lease_until).total_seconds()


def find_status(store: SQLStore, job_id: int) -> Status:
    job = store.get(job_id)
    assert job is not None
    return job.status
