"""Several processes on one database or cache: what they race for, one of them gets, and none is told of a lock."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from support.caches import opened, region_at, shared_server
from support.races import Racers, racing, wait_for_all
from support.records import KEY_IDS, SERVERS, TABLE, Databases, add, count_jobs, new_job, open_store, run, seal

from backjob.keyring import read_or_make_key_file
from backjob.model.job import Job, Move, Status
from backjob.storage.cache.store import CacheStore
from backjob.storage.store import Store

PROCESSES = 8
ENDS = (Move.COMPLETE, Move.FAIL, Move.CANCEL)
Place = str | tuple[str, str]
"""A database by its URL, or a cache server by its kind and URL."""


@contextlib.contextmanager
def open_at(place: Place) -> Iterator[Store]:
    """A store there, which has not been used yet."""
    if isinstance(place, str):
        with open_store(place) as store:
            yield store
        return
    with region_at(*place) as region, opened(region) as cells:
        yield CacheStore(cells, "race-")


class StoreRacers:
    """The racers, each with a store of its own at the same place."""

    def __init__(self, racers: Racers, place: Place) -> None:
        self._racers = racers
        self.place = place

    def race(self, call: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call it in each process with its store, its number and the arguments; what each returned."""
        return self._racers.race(_open_and_call, self.place, call, *arguments)


def _open_and_call(place: Place, number: int, call: Callable[..., Any], *arguments: Any) -> Any:
    with open_at(place) as store:
        wait_for_all()
        return call(store, number, *arguments)


@pytest.fixture(scope="module")
def processes() -> Iterator[Racers]:
    with racing(PROCESSES) as started:
        yield started


@pytest.fixture(params=["sqlite", *SERVERS, "redis", "memcached"])
def racers(request: pytest.FixtureRequest, processes: Racers, databases: Databases, tmp_path: Path) -> StoreRacers:
    """On a database without a table, or an empty cache."""
    if request.param not in ("redis", "memcached"):
        return StoreRacers(processes, databases.url(request.param, tmp_path))
    server = shared_server(request.param)
    server.empty()
    return StoreRacers(processes, (server.kind, server.url))


@pytest.fixture
def store(racers: StoreRacers) -> Iterator[Store]:
    with open_at(racers.place) as store:
        yield store


def find_all(store: Store) -> list[Job]:
    """Every record, the oldest first."""
    return store.find(None, None, 1000, None)[::-1]


# The first use of a database.


def add_one(store: Store, number: int) -> int:
    return add(store, scope=f"process {number}")


@pytest.mark.parametrize("turn", range(3))
def test_the_first_use_is_raced_for(racers: StoreRacers, store: Store, turn: int) -> None:
    job_ids = racers.race(add_one)
    assert len(set(job_ids)) == PROCESSES
    assert sorted(job.scope for job in find_all(store)) == [f"process {number}" for number in range(PROCESSES)]


def make_everything(url: str, number: int) -> tuple[str, int]:
    file = Path(url.removeprefix("sqlite:///"))
    with open_store(url) as store:
        return read_or_make_key_file(file.with_name("jobs.sqlite3.key")), add_one(store, number)


@pytest.mark.parametrize("turn", range(4))
def test_the_first_use_of_a_file_is_raced_for(processes: Racers, tmp_path: Path, turn: int) -> None:
    file = tmp_path / "jobs.sqlite3"
    keys, job_ids = zip(*processes.race(make_everything, f"sqlite:///{file}"), strict=True)
    assert len(set(keys)) == 1
    assert sorted(job_ids) == list(range(1, PROCESSES + 1))
    assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# Recording.


def add_many(store: Store, number: int, count: int) -> list[int]:
    return [add(store, scope=f"process {number}") for _ in range(count)]


def test_numbers_are_given_once(racers: StoreRacers, store: Store) -> None:
    given = racers.race(add_many, 40)
    job_ids = [job_id for some in given for job_id in some]
    assert len(set(job_ids)) == len(job_ids)
    found = find_all(store)
    assert [job.id for job in found] == sorted(job_ids)
    assert {(job.id, job.scope) for job in found} == {
        (job_id, f"process {number}") for number, some in enumerate(given) for job_id in some
    }


def start_unique(store: Store, number: int, rounds: int) -> list[tuple[int, bool]]:
    found = []
    for turn in range(rounds):
        wait_for_all()
        found.append(store.add(new_job(unique_key=f"turn {turn}"), seal, [f"turn {turn}"]))
    return found


def test_a_unique_job_is_recorded_once(racers: StoreRacers, store: Store) -> None:
    rounds = 20
    for answers in zip(*racers.race(start_unique, rounds), strict=True):
        assert len({job_id for job_id, _ in answers}) == 1
        assert [is_new for _, is_new in answers].count(True) == 1
    assert len(find_all(store)) == rounds


def restart_unique(store: Store, number: int, rounds: int) -> list[int]:
    """Start the one unique job, and end it, again and again: others find it, just miss it, or record the next."""
    recorded = []
    for _ in range(rounds):
        job_id, is_new = store.add(new_job(unique_key="the one"), seal, ["the one"])
        if is_new:
            recorded.append(job_id)
        store.move(Move.CANCEL, job_id)
    return recorded


def test_a_unique_job_that_ends_meanwhile_is_recorded_anew(racers: StoreRacers, store: Store) -> None:
    recorded = sorted(job_id for some in racers.race(restart_unique, 25) for job_id in some)
    jobs = find_all(store)
    assert [job.id for job in jobs] == recorded
    assert {job.status for job in jobs} == {Status.CANCELLED}


# Claims.


def claim_each(store: Store, number: int, job_ids: list[int]) -> list[bool]:
    claimed = []
    for job_id in job_ids:
        wait_for_all()
        claimed.append(store.claim(job_id, 1, f"process {number}", 30, 0))
    return claimed


def test_a_job_is_claimed_by_one(racers: StoreRacers, store: Store) -> None:
    job_ids = [add(store) for _ in range(50)]
    answers = racers.race(claim_each, job_ids)
    assert [job.id for job in find_all(store)] == job_ids
    for job, claims in zip(find_all(store), zip(*answers, strict=True), strict=True):
        assert claims.count(True) == 1
        assert (job.status, job.lease_by) == (Status.INPROGRESS, f"process {claims.index(True)}")


def claim_few(store: Store, number: int, job_ids: list[int], *limits: int) -> int:
    return sum(store.claim(job_id, 1, "run", 30, *limits) for job_id in job_ids[number::PROCESSES])


def test_no_more_than_max_running_are_claimed(racers: StoreRacers, store: Store) -> None:
    job_ids = [add(store) for _ in range(5 * PROCESSES)]
    assert sum(racers.race(claim_few, job_ids, 3)) == 3
    assert count_jobs(store, Status.INPROGRESS) == 3


@pytest.mark.parametrize(("limits", "in_a"), [((0, 3), 3), ((5, 3), 3), ((9, 2), 2)])
def test_no_more_of_a_scope_than_may_are_claimed(
    racers: StoreRacers, store: Store, limits: tuple[int, int], in_a: int
) -> None:
    """Three scopes are claimed for at once."""
    job_ids = [add(store, scope=scope) for scope in "abc" * PROCESSES]
    running = sum(racers.race(claim_few, job_ids, *limits))
    assert running == min(limits[0] or 99, 3 * in_a)
    assert sum(store.count_running().values()) == running
    assert max(store.count_running().values()) <= in_a


def run_all(store: Store, number: int, max_running: int, max_in_scope: int = 0) -> tuple[list[int], int, int]:
    """Take, claim and end jobs until none is left; the most that were seen to run at once, in all and in a scope."""
    done, most, most_in_scope = [], 0, 0
    while store.seconds_to_next(KEY_IDS) is not None:
        job = store.take_due(KEY_IDS, f"process {number}", 3600)
        if job is None:
            continue
        while not store.claim(job.id, job.attempt, f"run {job.id}", 30, max_running, max_in_scope):
            pass
        running = store.count_running()
        most, most_in_scope = max(most, sum(running.values())), max(most_in_scope, *running.values())
        assert store.move(Move.COMPLETE, job.id, attempt=1)
        done.append(job.id)
    return done, most, most_in_scope


def test_every_job_is_run_once_and_not_too_many_at_a_time(racers: StoreRacers, store: Store) -> None:
    job_ids = [add(store) for _ in range(60)]
    answers = racers.race(run_all, 2)
    assert sorted(job_id for done, *_ in answers for job_id in done) == job_ids
    assert max(most for _, most, _ in answers) <= 2
    assert count_jobs(store, Status.COMPLETED) == len(job_ids)
    assert [count_jobs(store, status) for status in (Status.STARTED, Status.INPROGRESS)] == [0, 0]


def test_every_job_is_run_once_and_not_too_many_of_a_scope(racers: StoreRacers, store: Store) -> None:
    job_ids = [add(store, scope=scope) for scope in "abc" * 20]
    answers = racers.race(run_all, 2, 1)
    assert sorted(job_id for done, *_ in answers for job_id in done) == job_ids
    assert max(most for _, most, _ in answers) <= 2
    # One that came when all were done has seen none.
    assert {most_in_scope for done, _, most_in_scope in answers if done} == {1}


def take_all(store: Store, number: int) -> list[int]:
    taken = []
    # None may mean that others were quicker with all that one look showed: it is over when nothing is free.
    while (job := store.take_due(KEY_IDS, f"process {number}", 3600)) or store.seconds_to_next(KEY_IDS) == 0:
        if job is not None:
            assert job.held_by == f"process {number}"
            taken.append(job.id)
    return taken


def test_a_due_job_is_taken_by_one(racers: StoreRacers, store: Store) -> None:
    job_ids = [add(store) for _ in range(200)]
    taken = racers.race(take_all)
    assert sorted(job_id for some in taken for job_id in some) == job_ids
    # Each in the order in which they are due, whatever the others took from between.
    assert all(some == sorted(some) for some in taken)


# Signs and ends.


def end_each(store: Store, number: int, job_ids: list[int]) -> list[bool]:
    ended = []
    for job_id in job_ids:
        wait_for_all()
        ended.append(store.move(ENDS[number % len(ENDS)], job_id, attempt=1, text=f"process {number}"))
    return ended


def test_the_first_to_end_a_job_wins(racers: StoreRacers, store: Store) -> None:
    job_ids = [add(store) for _ in range(20)]
    assert all(store.claim(job_id, 1, "run", 30, 0) for job_id in job_ids)
    answers = zip(*racers.race(end_each, job_ids), strict=True)
    for job, ended in zip(find_all(store), answers, strict=True):
        assert ended.count(True) == 1
        winner = ended.index(True)
        assert (job.status, job.status_text) == (ENDS[winner % len(ENDS)].target, f"process {winner}")


def give_signs(store: Store, number: int, job_id: int) -> int:
    """Signs of one running job while others cancel it: how many were taken after the end."""
    late, is_over = 0, False
    for turn in range(60):
        if number == 0 and turn == 30:
            assert store.move(Move.CANCEL, job_id)
        is_taken = store.touch(job_id, 1, turn, f"turn {turn}", 30)
        late += is_taken and is_over
        is_over = is_over or not is_taken
    return late


def test_no_sign_brings_an_ended_job_back(racers: StoreRacers, store: Store) -> None:
    job_id = add(store)
    assert store.claim(job_id, 1, "run", 30, 0)
    assert racers.race(give_signs, job_id) == [0] * PROCESSES
    assert store.get(job_id).status is Status.CANCELLED  # type: ignore[union-attr]


def write_on(store: Store, number: int, jobs: int) -> None:
    """A process with every kind of write and read, as fast as it can."""
    for _ in range(jobs):
        job_id = add(store, scope=f"process {number}", held_by="nonce", hold=30)
        assert store.hold(job_id, 1, "nonce", "owner", 30)
        assert store.claim(job_id, 1, "run", 30, 0)
        for progress in range(0, 100, 20):
            assert store.touch(job_id, 1, progress, f"{progress} %", 30)
            store.find(None, None, 5, None)
        assert store.move(Move.COMPLETE, job_id, attempt=1, progress=100)


def test_no_writer_is_told_that_it_is_locked(racers: StoreRacers, store: Store) -> None:
    racers.race(write_on, 20)
    jobs = find_all(store)
    assert Counter((job.scope, job.status, job.progress, job.status_text) for job in jobs) == {
        (f"process {number}", Status.COMPLETED, 100, "80 %"): 20 for number in range(PROCESSES)
    }
    url = racers.place
    if isinstance(url, str) and url.startswith("sqlite"):
        assert run(url, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]
        assert run(url, f"SELECT seq FROM sqlite_sequence WHERE name = '{TABLE}'") == [{"seq": len(jobs)}]


# The processes themselves, and what is old.


def register(store: Store, number: int) -> None:
    for _ in range(10):
        store.register(f"process {number}", number, 3600)


def test_every_process_is_counted_once(racers: StoreRacers, store: Store) -> None:
    racers.race(register)
    assert sorted(store.read_slots().values(), key=str) == list(range(PROCESSES))


def prune(store: Store, number: int, before: datetime) -> int:
    pruned = 0
    while found := store.prune(before, before, 7):
        pruned += found
    return pruned


def test_what_is_old_is_pruned_by_several_at_once(racers: StoreRacers, store: Store) -> None:
    job_ids = [add(store) for _ in range(60)]
    assert all(store.claim(job_id, 1, "run", 30, 0) for job_id in job_ids)
    for job_id in job_ids[::2]:
        assert store.move(ENDS[job_id % len(ENDS)], job_id, attempt=1)
    pruned = racers.race(prune, datetime(2200, 1, 1, tzinfo=timezone.utc))
    if not isinstance(racers.place, tuple):  # a cache's list tells nobody who was the first
        assert sum(pruned) == 30
    assert [job.id for job in find_all(store)] == job_ids[1::2]
