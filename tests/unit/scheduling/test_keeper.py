"""The keeper: what it vouches for, what it settles and in which words, and what it leaves alone.

Keepers of several processes on one database, at a given time. Their steps are taken here, not by their threads.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support.caches import make_memory_region, opened
from support.processes import Bearer, Threads, name_dead
from support.records import TABLE, Clock, add, count_jobs, new_job, record, seal
from support.served import KEY, PATIENCE, serve_site, wrap

import backjob.scheduling.grace_period
import backjob.scheduling.pruning
from backjob import JobEnded, Status
from backjob.config import make_config
from backjob.errors import StoreError
from backjob.keyring import Keyring
from backjob.model.history import AttemptEnd, read_ends
from backjob.model.job import Move
from backjob.model.recovery import LEASE_LAPSED, PROCESS_GONE, REQUEST_GONE, TIMED_OUT, Policy, decide
from backjob.runtime.process_identity import is_dead, name_process, name_response
from backjob.scheduling.concurrency import Limits
from backjob.scheduling.keeper import Keeper
from backjob.scheduling.leases import Renewals
from backjob.storage.cache.store import CacheStore
from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import find_table
from backjob.storage.sql.store import SQLStore
from backjob.storage.store import Store
from backjob.transport.launcher import SelfRequest

STARTED, INPROGRESS, COMPLETED, FAILED, CANCELLED = Status
KEYRING = Keyring([KEY])
LEASE = 30.0
LAPSED = LEASE_LAPSED.format(lease=LEASE)


class Process:
    """What a process has that keeps jobs; of several, each has a store of its own."""

    def __init__(self, store: Store, **options: Any) -> None:
        config = make_config({"key": KEY, "lease": LEASE, **options})
        self.name = name_process()
        self.store = store
        self.renewals = Renewals()
        self.self_request = SelfRequest(config, KEYRING, "the app")
        self.looks: list[float] = []
        self.limits = Limits(config, store, self.name)
        look = lambda: self.looks.append(time.monotonic())  # noqa: E731 - one line of a list
        self.keeper = Keeper(config, KEYRING, store, self.self_request, self.renewals, self.limits, look)

    def step(self) -> float:
        """Time has gone by: all that its keeper does now and then is due."""
        self.keeper._next = type(self.keeper._next)()
        return self.keeper.step()

    def has_been_awake(self) -> None:
        """Its keeper has renewed until now, as it does while it is left alone."""
        self.keeper._grace.renewed_at = self.store.time()

    def sweep(self) -> None:
        """The sweep of one that has been awake, and another one by which all had their chance to be heard."""
        self.has_been_awake()
        for _ in range(2):
            self.keeper.sweep()

    def add(self, **changes: Any) -> int:
        """Record a job of this app."""
        return add(self.store, key_id=KEYRING.key_id, app_id=self.self_request.app_id, **changes)

    def run(self, runner: str, attempt: int = 1, job_id: int | None = None, **changes: Any) -> int:
        """A job that runs in the process with this name, and has put out a line."""
        job_id = self.add(**changes) if job_id is None else job_id
        assert self.store.claim(job_id, attempt, f"{runner}-nonce", LEASE, 0)
        assert self.store.touch(job_id, attempt, 40, "so far", LEASE, 1)
        return job_id


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """It stands still: who is silent has his chance to be heard from one sweep to the next."""
    monkeypatch.setattr(backjob.scheduling.grace_period, "_GRACE", 0)
    return Clock()


@pytest.fixture(params=["sqlite", "memory"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Callable[[], Store]]:
    """Open the same store once more, as another process does."""
    with contextlib.ExitStack() as stack:
        cells = stack.enter_context(opened(make_memory_region())) if request.param == "memory" else None

        def open_store() -> Store:
            if cells is not None:
                return CacheStore(cells, "backjob-", now=clock)
            database = Database(f"sqlite:///{tmp_path}/jobs.sqlite3", find_table(TABLE), True)
            stack.callback(database.dispose)
            return SQLStore(database, clock)

        yield open_store


@pytest.fixture
def ours(open_store: Callable[[], Store]) -> Process:
    process = Process(open_store())
    process.keeper.sweep()  # it has reached the store since before anything happened
    return process


@pytest.fixture(scope="module")
def dead() -> str:
    name = name_dead()
    assert is_dead(name)
    return name


@pytest.fixture(scope="module")
def alive() -> Iterator[str]:
    bearer = Bearer()
    yield bearer.name
    bearer.reap()


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "backjob")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of settlements."""
    ends = [each for each in caplog.records if getattr(each, "outcome", None)]
    return [f"Job {each.job}, attempt {each.attempt}{each.args[-1]}" for each in ends]  # type: ignore[attr-defined,index]


# Renewals.


def test_what_runs_and_waits_here_is_renewed(ours: Process, clock: Clock) -> None:
    runs, waits = ours.run(ours.name), ours.add(held_by=ours.name, hold=LEASE)
    follows = ours.add(held_by=name_response(ours.name), hold=LEASE)
    ours.renewals.lease(runs, f"{ours.name}-nonce")
    for job_id in (waits, follows):
        ours.renewals.hold(job_id, str(record(ours.store, job_id).held_by))
    clock.advance(20)
    ours.keeper.step()
    assert record(ours.store, runs).lease_until == clock.after(LEASE)
    assert {record(ours.store, job_id).held_until for job_id in (waits, follows)} == {clock.after(LEASE)}
    # It is the process that vouches. The job itself has given no sign.
    assert record(ours.store, runs).updated_at == clock.after(-20)


def test_what_is_over_here_is_renewed_no_more(ours: Process, clock: Clock) -> None:
    runs, waits = ours.run(ours.name), ours.add(held_by=ours.name, hold=LEASE)
    ours.renewals.lease(runs, f"{ours.name}-nonce")
    ours.renewals.hold(waits, ours.name)
    ours.renewals.end_lease(f"{ours.name}-nonce")
    ours.renewals.end_hold(waits)
    until = record(ours.store, runs).lease_until, record(ours.store, waits).held_until
    clock.advance(20)
    ours.keeper.step()
    assert (record(ours.store, runs).lease_until, record(ours.store, waits).held_until) == until


def test_it_is_renewed_each_third_of_a_lease(open_store: Callable[[], Store], clock: Clock) -> None:
    ours = Process(open_store(), lease=1)
    job_id = ours.run(ours.name)
    ours.renewals.lease(job_id, f"{ours.name}-nonce")
    pause = ours.keeper.step()
    assert 0 < pause <= 1 / 3
    clock.advance(0.25)
    ours.keeper.step()  # too soon
    assert record(ours.store, job_id).lease_until == clock.after(0.75)
    wait_until(lambda: ours.keeper.step() and record(ours.store, job_id).lease_until == clock.after(1), 3)


@pytest.mark.parametrize(
    ("lease", "timeouts", "pause"),
    [
        (30, [], 2.0),
        (30, [120.0], 2.0),
        (30, [120.0, 0.0, 3.0], 1.5),
        (30, [0.01], 0.1),
        (3, [120.0], 1.0),
        (1, [], 1 / 3),
    ],
)
def test_it_looks_as_often_as_is_needed(
    open_store: Callable[[], Store], lease: float, timeouts: list[float], pause: float
) -> None:
    """A third of a lease, half of the shortest error_timeout of what runs, and two seconds at most."""
    ours = Process(open_store(), lease=lease)
    for timeout in timeouts:
        ours.run(ours.name, error_timeout=timeout)
    ours.add(error_timeout=0.01)  # it does not run
    assert ours.keeper.sweep() == pytest.approx(pause)


# Settling.


@pytest.mark.parametrize(
    ("retries", "is_to_end", "status"), [(0, False, FAILED), (0, True, CANCELLED), (2, True, CANCELLED)]
)
def test_a_job_whose_process_died_ends(
    ours: Process,
    dead: str,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    retries: int,
    is_to_end: bool,
    status: Status,
) -> None:
    job_id = ours.run(dead, retries=retries)
    if is_to_end:
        assert ours.store.request_cancel(job_id)
    clock.advance(1)  # long before its lease is over
    ours.keeper.sweep()
    job = record(ours.store, job_id)
    assert (job.status, job.progress, job.ended_at) == (status, 40, clock.now)
    assert job.status_text == f"so far\n{PROCESS_GONE}"
    assert (job.sealed, job.lease_by, job.past) == (None, None, "")
    assert told(caplog) == [f"Job {job_id}, attempt 1: {PROCESS_GONE}"]


def test_or_runs_again_while_it_has_retries(ours: Process, dead: str, clock: Clock) -> None:
    job_id, sealed = ours.run(dead, retries=2), None
    for attempt in (1, 2):
        sealed = sealed or record(ours.store, job_id).sealed
        clock.advance(1)
        ours.keeper.sweep()
        job = record(ours.store, job_id)
        assert (job.status, job.attempt, job.progress, job.lease_by) == (STARTED, attempt + 1, 0, None)
        assert job.status_text == f"so far\n{PROCESS_GONE}"
        assert (job.sealed, job.cancel_requested) == (sealed, False)
        wait = (job.due_at - clock.now).total_seconds()
        assert 0.5 * 2 ** (attempt - 1) <= wait <= 1.5 * 2 ** (attempt - 1)
        assert ours.store.take_due([KEYRING.key_id], ours.name, 30, ours.self_request.app_id) is None
        clock.advance(wait)
        assert ours.store.take_due([KEYRING.key_id], ours.name, 30, ours.self_request.app_id).id == job_id  # type: ignore[union-attr]
        ours.run(dead, attempt + 1, job_id)
    ours.keeper.sweep()
    job = record(ours.store, job_id)
    assert (job.status, job.attempt) == (FAILED, 3)
    status = ours.store.status(job_id)
    assert status is not None
    assert [(end.attempt, end.text) for end in status.past] == [(n, f"so far\n{PROCESS_GONE}") for n in (1, 2)]
    assert status.past[0].ended_at < status.past[1].ended_at < clock.now


def test_the_end_of_an_attempt_is_when_it_was_settled(ours: Process, dead: str, clock: Clock) -> None:
    job_id = ours.run(dead, retries=1)
    clock.advance(7)
    ours.keeper.sweep()
    assert read_ends(record(ours.store, job_id).past) == (AttemptEnd(1, clock.now, f"so far\n{PROCESS_GONE}"),)


@pytest.mark.parametrize(("retries", "status"), [(0, FAILED), (1, STARTED)])
def test_a_job_for_which_nobody_vouches_is_settled_when_its_lease_is_over(
    ours: Process, alive: str, clock: Clock, retries: int, status: Status
) -> None:
    """Its process is on another host, or frozen: nothing is known of it."""
    job_id = ours.run(alive, retries=retries, error_timeout=0)
    clock.advance(LEASE - 0.000001)
    ours.sweep()
    assert record(ours.store, job_id).status is INPROGRESS
    clock.advance(0.000001)
    ours.sweep()
    job = record(ours.store, job_id)
    assert (job.status, job.status_text) == (status, f"so far\n{LAPSED}")


def test_it_never_depends_on_the_age_of_a_job(ours: Process, alive: str, clock: Clock) -> None:
    """A day at work, with a sign now and then and a lease that is renewed."""
    job_id = ours.run(alive)
    ours.renewals.lease(job_id, f"{alive}-nonce")
    for hour in range(24):
        clock.advance(3600)
        ours.store.renew(ours.renewals.leases, {}, LEASE)
        assert ours.store.touch(job_id, 1, 40, f"hour {hour}", LEASE, hour + 2)
        ours.keeper.sweep()
    assert record(ours.store, job_id).status is INPROGRESS


@pytest.mark.parametrize(("is_to_end", "status"), [(False, FAILED), (True, CANCELLED)])
def test_a_silent_job_is_timed_out(
    ours: Process, clock: Clock, caplog: pytest.LogCaptureFixture, is_to_end: bool, status: Status
) -> None:
    """Counted from its last sign, and not tried again: its code may still run."""
    job_id = ours.run(ours.name, error_timeout=9.5, retries=3)
    ours.renewals.lease(job_id, f"{ours.name}-nonce")
    if is_to_end:
        assert ours.store.request_cancel(job_id)
    clock.advance(9.499999)
    ours.has_been_awake()
    ours.keeper.step()
    ours.sweep()
    assert record(ours.store, job_id).status is INPROGRESS
    clock.advance(0.000001)
    ours.sweep()
    job = record(ours.store, job_id)
    reason = "job timeout: no update for 9.5 s (error_timeout)"
    assert (job.status, job.attempt, job.progress, job.status_text) == (status, 1, 40, f"so far\n{reason}")
    assert told(caplog) == [f"Job {job_id}, attempt 1: {reason}"]


def test_a_job_that_never_gave_a_sign_is_timed_out_from_its_claim(ours: Process, clock: Clock) -> None:
    job_id = ours.add(error_timeout=5)
    clock.advance(100)  # it waited for a slot
    assert ours.store.claim(job_id, 1, f"{ours.name}-nonce", LEASE, 0)
    clock.advance(4.9)
    ours.sweep()
    assert record(ours.store, job_id).status is INPROGRESS
    clock.advance(0.1)
    ours.sweep()
    assert record(ours.store, job_id).status_text == TIMED_OUT.format(timeout=5)


def test_code_that_goes_on_after_its_job_has_ended_has_a_slot(ours: Process, clock: Clock) -> None:
    """Until it comes to its end, this process has one less for jobs and people."""
    ours.limits.note_process(Threads(8).environ)
    claims = [f"{ours.name}-{number}" for number in range(3)]
    for claim in claims:
        job_id = ours.add(error_timeout=5)
        assert ours.store.claim(job_id, 1, claim, LEASE, 0)
        ours.renewals.lease(job_id, claim)
    ours.sweep()
    clock.advance(5)
    ours.sweep()  # which ends all three
    assert count_jobs(ours.store, FAILED) == 3
    ours.keeper.sweep()  # they may just be at their ends
    assert ours.store.read_slots() == {ours.name: 8}
    ours.renewals.end_lease(claims[0])
    ours.keeper.sweep()
    assert ours.store.read_slots() == {ours.name: 6}
    for claim in claims:
        ours.renewals.end_lease(claim)
    ours.keeper.sweep()
    assert ours.store.read_slots() == {ours.name: 8}


def test_error_timeout_0_is_never(ours: Process, clock: Clock) -> None:
    job_id = ours.run(ours.name, error_timeout=0)
    for _ in range(10):
        clock.advance(86400)
        ours.store.renew({f"{ours.name}-nonce": job_id}, {}, LEASE)
        ours.keeper.sweep()
    assert record(ours.store, job_id).status is INPROGRESS


def test_a_job_that_was_to_follow_a_request_ends_with_it(ours: Process, dead: str, alive: str, clock: Clock) -> None:
    lost, kept = (ours.add(held_by=name_response(name), hold=LEASE, retries=3) for name in (dead, alive))
    clock.advance(LEASE - 1)
    ours.sweep()
    assert (record(ours.store, lost).status, record(ours.store, lost).status_text) == (CANCELLED, REQUEST_GONE)
    assert record(ours.store, kept).status is STARTED
    clock.advance(1)  # nobody has vouched for it
    ours.sweep()
    assert (record(ours.store, kept).status, record(ours.store, kept).status_text) == (CANCELLED, REQUEST_GONE)


def test_what_a_dead_process_held_is_free_at_once(ours: Process, dead: str, alive: str, clock: Clock) -> None:
    held, others = ours.add(held_by=dead, hold=LEASE), [ours.add(held_by=name, hold=LEASE) for name in (alive, "nonce")]
    before = [record(ours.store, job_id) for job_id in others]
    clock.advance(1)
    ours.keeper.sweep()
    job = ours.store.take_due([KEYRING.key_id], ours.name, 30, ours.self_request.app_id)
    assert job is not None
    assert job.id == held
    assert ours.store.take_due([KEYRING.key_id], ours.name, 30, ours.self_request.app_id) is None
    assert [record(ours.store, job_id) for job_id in others] == before


def test_jobs_with_another_key_are_left_alone(ours: Process, dead: str, clock: Clock) -> None:
    job_id, _ = ours.store.add(new_job(key_id="foreign"), seal)
    assert ours.store.claim(job_id, 1, f"{dead}-nonce", LEASE, 0)
    waits = add(ours.store, key_id="foreign", held_by=name_response(dead), hold=LEASE)
    clock.advance(10 * 86400)
    ours.keeper.sweep()
    assert record(ours.store, job_id).status is INPROGRESS
    assert record(ours.store, waits).status is STARTED


def test_final_statuses_stay(ours: Process, dead: str, clock: Clock) -> None:
    job_ids = []
    for move in (Move.COMPLETE, Move.FAIL, Move.CANCEL):
        job_ids.append(ours.run(dead))
        assert ours.store.move(move, job_ids[-1], attempt=1)
    before = [record(ours.store, job_id) for job_id in job_ids]
    clock.advance(1000)
    ours.keeper.sweep()
    assert [record(ours.store, job_id) for job_id in job_ids] == before


# The look and the move are two things, and between them another one comes.


def look(process: Process, clock: Clock) -> Any:
    """What a sweep would settle now, and how; the move is still to be made."""
    policy = Policy(LEASE, clock.after(-86400), is_dead)
    [job] = process.store.find_leased([KEYRING.key_id], process.self_request.app_id)
    recovery = decide(job, clock.now, policy)
    assert recovery is not None
    return job, recovery


def test_a_lease_that_is_renewed_between_look_and_move_settles_nothing(
    ours: Process, alive: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = ours.run(alive, retries=1, error_timeout=0)
    clock.advance(LEASE + 5)
    seen = look(ours, clock)
    ours.store.renew({f"{alive}-nonce": job_id}, {}, LEASE)
    before = record(ours.store, job_id)
    ours.keeper._recover(*seen)
    assert record(ours.store, job_id) == before
    assert told(caplog) == []


def test_so_does_a_sign_of_a_job_that_was_silent(ours: Process, alive: str, clock: Clock) -> None:
    job_id = ours.run(alive, error_timeout=5)
    clock.advance(5)
    seen = look(ours, clock)
    assert ours.store.touch(job_id, 1, 41, "at last", LEASE, 2)
    before = record(ours.store, job_id)
    ours.keeper._recover(*seen)
    assert record(ours.store, job_id) == before


def test_so_does_an_end(ours: Process, dead: str, clock: Clock) -> None:
    job_id = ours.run(dead, retries=1)
    seen = look(ours, clock)
    assert ours.store.move(Move.COMPLETE, job_id, attempt=1, text="done", progress=100)
    before = record(ours.store, job_id)
    ours.keeper._recover(*seen)
    assert record(ours.store, job_id) == before


def test_so_does_the_next_attempt(ours: Process, dead: str, alive: str, clock: Clock) -> None:
    job_id = ours.run(dead, retries=2)
    seen = look(ours, clock)
    assert ours.store.move(Move.RETRY, job_id, attempt=1)
    ours.run(alive, 2, job_id)
    before = record(ours.store, job_id)
    ours.keeper._recover(*seen)
    assert record(ours.store, job_id) == before


def test_so_does_a_hold_that_is_renewed(ours: Process, alive: str, clock: Clock) -> None:
    holder = name_response(alive)
    job_id = ours.add(held_by=holder, hold=LEASE)
    clock.advance(LEASE)
    seen = look(ours, clock)
    ours.store.renew({}, {job_id: holder}, LEASE)
    before = record(ours.store, job_id)
    ours.keeper._recover(*seen)
    assert record(ours.store, job_id) == before


def test_a_job_that_is_to_be_cancelled_since_the_look_is_not_retried(ours: Process, dead: str, clock: Clock) -> None:
    job_id = ours.run(dead, retries=1)
    seen = look(ours, clock)
    assert ours.store.request_cancel(job_id)
    ours.keeper._recover(*seen)
    assert record(ours.store, job_id).status is INPROGRESS
    ours.keeper.sweep()
    assert record(ours.store, job_id).status is CANCELLED


def test_several_keepers_settle_each_job_once(
    open_store: Callable[[], Store], dead: str, caplog: pytest.LogCaptureFixture
) -> None:
    keepers = [Process(open_store()) for _ in range(4)]
    first = keepers[0]
    job_ids = [first.run(dead, retries=number % 2) for number in range(20)]
    barrier = threading.Barrier(len(keepers))

    def sweep(process: Process) -> None:
        barrier.wait()
        process.keeper.sweep()

    threads = [threading.Thread(target=sweep, args=(process,)) for process in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = [record(first.store, job_id) for job_id in job_ids]
    assert [(job.status, job.attempt) for job in jobs] == [(FAILED, 1), (STARTED, 2)] * 10
    assert [len(read_ends(job.past)) for job in jobs] == [0, 1] * 10
    assert {job.status_text for job in jobs} == {f"so far\n{PROCESS_GONE}"}
    assert sorted(told(caplog)) == sorted(f"Job {job_id}, attempt 1: {PROCESS_GONE}" for job_id in job_ids)


# Who has just come, and who was away.


def test_one_that_has_just_come_listens_for_a_lease_first(
    ours: Process, open_store: Callable[[], Store], alive: str, clock: Clock
) -> None:
    """After everything was stopped for an hour, whoever comes back first does not take the others for dead."""
    lapsed, silent = ours.run(alive, error_timeout=0), ours.run(ours.name, error_timeout=60)
    clock.advance(3600)
    new = Process(open_store())
    new.store.renew({f"{ours.name}-nonce": silent}, {}, LEASE)
    new.keeper.sweep()
    clock.advance(LEASE - 1)
    new.sweep()
    assert {record(new.store, job_id).status for job_id in (lapsed, silent)} == {INPROGRESS}
    clock.advance(1)
    new.sweep()
    assert record(new.store, lapsed).status_text == f"so far\n{LAPSED}"
    assert {record(new.store, job_id).status for job_id in (lapsed, silent)} == {FAILED}


def test_one_that_stood_still_listens_for_a_lease_first(ours: Process, alive: str, clock: Clock) -> None:
    """Meanwhile the store may have been away: then nobody could renew, and who was frozen has seen nothing of it."""
    ours.step()
    job_id = ours.run(alive, error_timeout=0)
    clock.advance(LEASE)
    ours.step()
    clock.advance(LEASE - 1)
    ours.sweep()
    assert record(ours.store, job_id).status is INPROGRESS
    clock.advance(1)
    ours.sweep()
    assert record(ours.store, job_id).status is FAILED


def test_a_clock_that_is_set_back_keeps_nobody_waiting(ours: Process, alive: str, clock: Clock) -> None:
    ours.step()
    clock.advance(-3600)
    ours.step()
    job_id = ours.run(alive, error_timeout=0)
    clock.advance(LEASE)
    ours.sweep()
    assert record(ours.store, job_id).status is FAILED


def test_but_of_deaths_it_is_certain(ours: Process, open_store: Callable[[], Store], dead: str, clock: Clock) -> None:
    """A new start after a crash: nobody has to wait."""
    job_ids = [ours.run(dead), ours.add(held_by=name_response(dead), hold=LEASE)]
    clock.advance(3600)
    Process(open_store()).keeper.step()
    assert [record(ours.store, job_id).status for job_id in job_ids] == [FAILED, CANCELLED]


class Outage:
    """A database file that can't be opened while a folder stands in its place."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.file = folder / "jobs.sqlite3"
        self.database = Database(f"sqlite:///{self.file}", find_table(TABLE), True)
        self.store = SQLStore(self.database, clock)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        self.database.dispose()
        aside = self.file.with_name("aside")
        self.file.rename(aside)
        self.file.mkdir()
        try:
            with pytest.raises(StoreError):
                count_jobs(self.store, STARTED)
            yield
        finally:
            self.file.rmdir()
            aside.rename(self.file)


@pytest.fixture
def outage(tmp_path: Path, clock: Clock) -> Iterator[Outage]:
    outage = Outage(tmp_path, clock)
    yield outage
    outage.database.dispose()


def test_while_the_store_is_away_it_says_so_once(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ours = Process(outage.store)
    ours.step()
    with outage.away():
        pauses = [ours.step() for _ in range(3)]
    assert min(pauses) >= 0.5
    assert max(pauses) <= 2
    [warning] = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "until the job store is back" in warning.message
    assert "can't be" in warning.message
    ours.step()
    ours.step()
    assert [each.message for each in caplog.records][1:] == ["The job store is back"]
    with outage.away():
        ours.step()
    assert len(caplog.records) == 3


def test_after_an_outage_nobody_is_taken_for_lost_who_could_not_be_heard(
    outage: Outage, alive: str, clock: Clock
) -> None:
    """The other process could not renew either."""
    ours = Process(outage.store)
    ours.step()
    lapsed, silent = ours.run(alive, error_timeout=0), ours.run(alive, error_timeout=60)
    follows = ours.add(held_by=name_response(alive), hold=LEASE)
    with outage.away():
        ours.step()
        clock.advance(100)
    ours.step()
    assert {record(ours.store, job_id).status for job_id in (lapsed, silent)} == {INPROGRESS}
    assert record(ours.store, follows).status is STARTED
    # One of them renews, as soon as it can.
    ours.store.renew({f"{alive}-nonce": silent}, {}, LEASE)
    clock.advance(LEASE - 1)
    ours.sweep()
    assert {record(ours.store, job_id).status for job_id in (lapsed, silent)} == {INPROGRESS}
    assert record(ours.store, follows).status is STARTED
    clock.advance(1)
    ours.sweep()
    assert record(ours.store, lapsed).status_text == f"so far\n{LAPSED}"
    assert record(ours.store, follows).status is CANCELLED


def test_what_it_vouches_for_is_renewed_as_soon_as_the_store_is_back(outage: Outage, clock: Clock) -> None:
    ours = Process(outage.store)
    job_id = ours.run(ours.name)
    ours.renewals.lease(job_id, f"{ours.name}-nonce")
    ours.step()
    with outage.away():
        ours.step()
        clock.advance(100)
    ours.step()
    assert record(ours.store, job_id).lease_until == clock.after(LEASE)
    assert record(ours.store, job_id).status is INPROGRESS


def test_what_could_not_be_written_is_written_then(outage: Outage, dead: str, clock: Clock) -> None:
    ours = Process(outage.store)
    first, second = ours.run(ours.name), ours.run(ours.name)
    for job_id in (first, second):
        ours.renewals.lease(job_id, f"{ours.name}-nonce")
        ours.renewals.postpone(lambda store, job_id=job_id: store.move(Move.COMPLETE, job_id, text="done"))
    with outage.away():
        ours.step()
        clock.advance(100)
    ours.step()
    assert [record(ours.store, job_id).status_text for job_id in (first, second)] == ["done", "done"]
    before = record(ours.store, first)
    ours.step()
    assert record(ours.store, first) == before


def test_a_write_that_never_succeeds_is_in_nobodys_way(ours: Process, clock: Clock) -> None:
    """The store refuses it for what it is: the others are written, and what runs is vouched for."""
    job_id, runs = ours.run(ours.name), ours.run(ours.name)
    ours.renewals.lease(runs, f"{ours.name}-nonce")
    ours.renewals.postpone(lambda store: store.move(Move.COMPLETE, job_id, progress=101))
    ours.renewals.postpone(lambda store: store.move(Move.COMPLETE, job_id, progress=99))
    for _ in range(3):
        clock.advance(10)
        ours.step()
    assert record(ours.store, job_id).progress == 99
    assert record(ours.store, runs).lease_until == clock.after(LEASE)


# Launches.


# Who comes once.


def test_who_comes_once_lets_everybody_be_heard_for_a_lease(
    open_store: Callable[[], Store], alive: str, clock: Clock
) -> None:
    """It knows of nobody, and of no outage: who seems to be lost has a whole lease to renew."""
    theirs, visitor = Process(open_store()), Process(open_store())
    lost, lives = theirs.run(alive, error_timeout=0), theirs.run(alive, error_timeout=0)
    clock.advance(LEASE + 1)
    waits: list[float] = []

    def wait(seconds: float) -> None:
        theirs.store.renew({f"{alive}-nonce": lives}, {}, LEASE)
        waits.append(seconds)
        clock.advance(seconds)

    assert visitor.keeper.recover_all(wait) == 1
    assert LEASE <= sum(waits) <= LEASE + 2 * max(waits)
    assert [record(theirs.store, job_id).status for job_id in (lost, lives)] == [FAILED, INPROGRESS]


def test_where_nothing_seems_to_be_lost_it_does_not_wait(
    open_store: Callable[[], Store], alive: str, dead: str, clock: Clock
) -> None:
    theirs, visitor = Process(open_store()), Process(open_store())
    theirs.run(alive)
    assert visitor.keeper.recover_all(pytest.fail) == 0
    job_id = theirs.run(dead)
    assert visitor.keeper.recover_all(pytest.fail) == 1
    assert record(theirs.store, job_id).status_text == f"so far\n{PROCESS_GONE}"


def test_all_that_is_old_is_deleted_however_much_it_is(
    open_store: Callable[[], Store], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backjob.scheduling.pruning, "_AT_ONCE", 2)
    process = Process(open_store(), backlog_days=1, all_backlog_days=2)
    for _ in range(5):
        process.store.move(Move.CANCEL, process.add())
    clock.advance(2 * 86400 + 1)
    process.store.move(Move.CANCEL, process.add())
    assert process.keeper.prune_all() == 5
    assert len(process.store.find(None, None, 10, None)) == 1


def test_after_each_look_somebody_looks_for_what_is_due(ours: Process) -> None:
    assert ours.looks == []
    ours.keeper.step()
    assert len(ours.looks) == 1
    ours.keeper.step()  # too soon for another look
    assert len(ours.looks) == 1
    wait_until(lambda: ours.keeper.step() and len(ours.looks) == 2, 5)


def test_a_process_that_keeps_no_others_jobs_vouches_for_its_own(
    open_store: Callable[[], Store], dead: str, clock: Clock
) -> None:
    script = Process(open_store(), keeper=False)
    lost, runs = script.run(dead), script.run(script.name)
    script.renewals.lease(runs, f"{script.name}-nonce")
    clock.advance(10)
    assert script.keeper.step() <= LEASE / 3
    assert record(script.store, lost).status is INPROGRESS
    assert record(script.store, runs).lease_until == clock.after(LEASE)
    assert script.looks == []


# Leaving.


def test_who_leaves_lets_go_of_what_it_holds(ours: Process, open_store: Callable[[], Store], alive: str) -> None:
    held, others = ours.add(held_by=ours.name, hold=LEASE), ours.add(held_by=alive, hold=LEASE)
    follows = ours.add(held_by=name_response(ours.name), hold=LEASE)
    runs = ours.run(ours.name)
    ours.renewals.postpone(lambda store: store.move(Move.COMPLETE, runs, text="done"))
    before = [record(ours.store, job_id) for job_id in (others, follows)]
    ours.keeper.leave()
    other = open_store()
    job = other.take_due([KEYRING.key_id], "another process", 30, ours.self_request.app_id)
    assert job is not None
    assert job.id == held
    assert other.take_due([KEYRING.key_id], "another process", 30, ours.self_request.app_id) is None
    assert [record(other, job_id) for job_id in (others, follows)] == before
    assert record(other, runs).status_text == "done"


def test_who_leaves_while_the_store_is_away_just_goes(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    ours = Process(outage.store)
    ours.add(held_by=ours.name, hold=LEASE)
    with outage.away():
        ours.keeper.leave()
    assert [each.levelno for each in caplog.records] == [logging.WARNING]


# On a server, in real time.


TEXT = [("Content-Type", "text/plain; charset=utf-8")]


@pytest.mark.parametrize(
    ("option", "of_start", "sign"), [(0.5, None, "update"), (60, 0.5, "write"), (0, 0.5, "output")]
)
def test_the_code_of_a_silent_job_meets_its_end_at_its_next_sign(
    tmp_path: Path, option: float, of_start: float | None, sign: str
) -> None:
    ended: list[str] = []

    def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        jobs = environ["backjob"]
        write = start_response("200 OK", TEXT)
        jobs.write("begun")
        jobs.update(20)
        wait_until(lambda: jobs.status(jobs.job_id).status.is_final)
        give = {"update": lambda: jobs.update(99, "late"), "write": lambda: jobs.write("late")}
        try:
            # The first may be on its way while it is looked whether the job has ended.
            for _ in range(2):
                give.get(sign, lambda: write(b"late"))()
                time.sleep(0.3)
        except JobEnded as error:
            ended.append(str(error))
            raise
        return []

    with serve_site(tmp_path, job, error_timeout=option, lease=1, keeper=True) as site:
        end = site.wait_for_end(site.start("/job", error_timeout=of_start, retries=3))
        wait_until(lambda: ended)
        assert site.status(end.id) == end
    assert (end.status, end.progress, end.attempt) == (FAILED, 20, 1)
    assert end.status_text == "begun\njob timeout: no update for 0.5 s (error_timeout)"
    assert ended == ["This job has ended: it is failed"]


def test_without_error_timeout_a_job_may_be_silent_for_ever(tmp_path: Path) -> None:
    """Beside it another one times out: it would have, too."""
    go_on = threading.Event()

    def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", TEXT)
        if environ["PATH_INFO"] == "/silent":
            assert go_on.wait(PATIENCE)
            return [b"after all"]
        jobs = environ["backjob"]
        wait_until(lambda: jobs.status(jobs.job_id).status.is_final)
        return []

    with serve_site(tmp_path, job, error_timeout=0, lease=1, keeper=True) as site:
        silent = site.start("/silent")
        for _ in range(2):
            assert "job timeout" in site.wait_for_end(site.start("/other", error_timeout=0.5)).status_text
        assert site.status(silent).status is INPROGRESS
        go_on.set()
        assert site.wait_for_end(silent).status_text == "after all"


@pytest.mark.parametrize("sign", ["update", "output"])
def test_every_sign_counts(tmp_path: Path, sign: str) -> None:
    """A job that runs for three times its error_timeout, with signs."""

    def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        write = start_response("200 OK", TEXT)
        end = time.monotonic() + 4.5
        while time.monotonic() < end:
            threading.Event().wait(0.1)
            environ["backjob"].update() if sign == "update" else write(b".")
        return [b"done"]

    with serve_site(tmp_path, job, error_timeout=1.5, lease=1, keeper=True) as site:
        assert site.wait_for_end(site.start("/job")).status is COMPLETED


def test_a_job_that_says_nothing_is_vouched_for_as_long_as_it_runs(tmp_path: Path) -> None:
    """For three leases; another keeper on the same database looks on. It has no sign of it, but the process's word."""
    go_on = threading.Event()

    def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", TEXT)
        assert go_on.wait(PATIENCE)
        return [b"done"]

    with serve_site(tmp_path, job, error_timeout=0, lease=1, keeper=True) as site, wrap(tmp_path, lease=1) as other:
        job_id = site.start("/job")
        begin = wait_until(lambda: site.row(job_id).started_at)
        while site.row(job_id).read_at < begin + timedelta(seconds=3.5):
            other.backend.keeper.sweep()
            assert site.status(job_id).status is INPROGRESS
            time.sleep(0.1)
        go_on.set()
        assert site.wait_for_end(job_id).status is COMPLETED
        wait_until(lambda: site.backend.renewals.leases == {})


def test_a_run_that_died_runs_again_with_what_its_user_sent(tmp_path: Path, dead: str) -> None:
    def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [f"{environ['backjob'].attempt} {environ.get('HTTP_COOKIE')}".encode()]

    with wrap(tmp_path, job) as site:
        job_id = site.start("/job", retries=1, by={"HTTP_COOKIE": "user=ada"})
        assert site.backend.store.claim(job_id, 1, f"{dead}-nonce", 30, 0)
        old = site.token(job_id)
        site.backend.keeper.sweep()
        assert site.send(old, "/job").code == 410  # the attempt that died begins no more
        site.work(job_id)
        status = site.status(job_id)
    assert (status.status, status.status_text, status.attempt) == (COMPLETED, "2 user=ada", 2)
    assert [(end.attempt, end.text) for end in status.past] == [(1, PROCESS_GONE)]
