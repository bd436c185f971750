"""Several processes on one cache and no database: whatever they race for, one of them gets it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.caches import CacheServer, close_region, make_shared_region, opened, shared_server
from support.races import Racers, racing, wait_for_all
from support.records import KEY_IDS, add, new_job, seal

from backjob.cache_store import CacheStore
from backjob.job import Move, Status

PROCESSES = 6
ENDS = (Move.COMPLETE, Move.FAIL, Move.CANCEL)


class CacheRacers:
    """The racers, each with a store of its own on the same cache."""

    def __init__(self, racers: Racers, server: CacheServer) -> None:
        self._racers = racers
        self.server = server

    def race(self, call: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call it in each process with its store, its number and the arguments; what each returned."""
        return self._racers.race(_open_and_call, (self.server.kind, self.server.url), call, *arguments)


def _open_and_call(where: tuple[str, str], number: int, call: Callable[..., Any], *arguments: Any) -> Any:
    region = make_shared_region(*where)
    try:
        with opened(region) as cells:
            store = CacheStore(cells, "race-")
            wait_for_all()
            return call(store, number, *arguments)
    finally:
        close_region(region)


@pytest.fixture(scope="module")
def processes() -> Iterator[Racers]:
    with racing(PROCESSES) as started:
        yield started


@pytest.fixture(params=["redis", "memcached"])
def racers(request: pytest.FixtureRequest, processes: Racers) -> CacheRacers:
    server = shared_server(request.param)
    server.empty()
    return CacheRacers(processes, server)


@pytest.fixture
def store(racers: CacheRacers) -> Iterator[CacheStore]:
    region = make_shared_region(racers.server.kind, racers.server.url)
    with opened(region) as cells:
        yield CacheStore(cells, "race-")
    close_region(region)


def add_many(store: CacheStore, number: int, count: int) -> list[int]:
    return [add(store, scope=f"process {number}") for _ in range(count)]


def test_numbers_are_given_once(racers: CacheRacers, store: CacheStore) -> None:
    given = racers.race(add_many, 40)
    job_ids = list(itertools.chain(*given))
    assert len(set(job_ids)) == len(job_ids)
    found = store.find(None, None, 1000, None)
    assert [job.id for job in found] == sorted(job_ids, reverse=True)
    assert {(job.id, job.scope) for job in found} == {
        (job_id, f"process {number}") for number, some in enumerate(given) for job_id in some
    }


def start_unique(store: CacheStore, number: int, rounds: int) -> list[tuple[int, bool]]:
    found = []
    for turn in range(rounds):
        wait_for_all()
        found.append(store.add(new_job(unique_key=f"turn {turn}"), seal, [f"turn {turn}"]))
    return found


def test_a_unique_job_is_recorded_once(racers: CacheRacers, store: CacheStore) -> None:
    rounds = 15
    answers = zip(*racers.race(start_unique, rounds), strict=True)
    for answer in answers:
        assert len({job_id for job_id, _ in answer}) == 1
        assert [is_new for _, is_new in answer].count(True) == 1
    assert len(store.find(None, None, 1000, None)) == rounds


def restart_unique(store: CacheStore, number: int, rounds: int) -> list[int]:
    recorded = []
    for _ in range(rounds):
        job_id, is_new = store.add(new_job(unique_key="the one"), seal, ["the one"])
        if is_new:
            recorded.append(job_id)
        store.move(Move.CANCEL, job_id)
    return recorded


def test_a_unique_job_that_ends_meanwhile_is_recorded_anew(racers: CacheRacers, store: CacheStore) -> None:
    recorded = sorted(job_id for some in racers.race(restart_unique, 15) for job_id in some)
    jobs = store.find(None, None, 1000, None)
    assert [job.id for job in jobs][::-1] == recorded
    assert {job.status for job in jobs} == {Status.CANCELLED}


def claim_each(store: CacheStore, number: int, job_ids: list[int]) -> list[bool]:
    claimed = []
    for job_id in job_ids:
        wait_for_all()
        claimed.append(store.claim(job_id, 1, f"process {number}", 30, 0))
    return claimed


def test_a_job_is_claimed_by_one(racers: CacheRacers, store: CacheStore) -> None:
    job_ids = [add(store) for _ in range(30)]
    answers = racers.race(claim_each, job_ids)
    for job_id, claims in zip(job_ids, zip(*answers, strict=True), strict=True):
        assert claims.count(True) == 1
        job = store.get(job_id)
        assert job is not None
        assert (job.status, job.lease_by) == (Status.INPROGRESS, f"process {claims.index(True)}")


def claim_few(store: CacheStore, number: int, job_ids: list[int], max_running: int) -> int:
    return sum(store.claim(job_id, 1, "run", 30, max_running) for job_id in job_ids[number::PROCESSES])


def test_no_more_than_max_running_are_claimed(racers: CacheRacers, store: CacheStore) -> None:
    job_ids = [add(store) for _ in range(5 * PROCESSES)]
    assert sum(racers.race(claim_few, job_ids, 3)) == 3
    assert store.count(Status.INPROGRESS) == 3


def run_all(store: CacheStore, number: int, max_running: int) -> tuple[list[int], int]:
    """Take, claim and end jobs until none is left; the most that were seen to run at once."""
    done, most = [], 0
    while store.seconds_to_next(KEY_IDS) is not None:
        job = store.take_due(KEY_IDS, f"process {number}", 3600)
        if job is None:
            continue
        while not store.claim(job.id, job.attempt, f"run {job.id}", 30, max_running):
            pass
        most = max(most, store.count(Status.INPROGRESS))
        assert store.move(Move.COMPLETE, job.id, attempt=1)
        done.append(job.id)
    return done, most


def test_every_job_is_run_once_and_not_too_many_at_a_time(racers: CacheRacers, store: CacheStore) -> None:
    job_ids = [add(store) for _ in range(60)]
    answers = racers.race(run_all, 2)
    assert sorted(job_id for done, _ in answers for job_id in done) == job_ids
    assert max(most for _, most in answers) <= 2
    assert store.count(Status.COMPLETED) == len(job_ids)
    assert [store.count(status) for status in (Status.STARTED, Status.INPROGRESS)] == [0, 0]


def take_all(store: CacheStore, number: int) -> list[int]:
    taken = []
    while (job := store.take_due(KEY_IDS, f"process {number}", 3600)) or store.seconds_to_next(KEY_IDS) == 0:
        if job is not None:
            assert job.held_by == f"process {number}"
            taken.append(job.id)
    return taken


def test_a_due_job_is_taken_by_one(racers: CacheRacers, store: CacheStore) -> None:
    job_ids = [add(store) for _ in range(60)]
    taken = racers.race(take_all)
    assert sorted(job_id for some in taken for job_id in some) == job_ids


def end_each(store: CacheStore, number: int, job_ids: list[int]) -> list[bool]:
    ended = []
    for job_id in job_ids:
        wait_for_all()
        ended.append(store.move(ENDS[number % len(ENDS)], job_id, attempt=1, text=f"process {number}"))
    return ended


def test_the_first_to_end_a_job_wins(racers: CacheRacers, store: CacheStore) -> None:
    job_ids = [add(store) for _ in range(15)]
    assert all(store.claim(job_id, 1, "run", 30, 0) for job_id in job_ids)
    answers = zip(*racers.race(end_each, job_ids), strict=True)
    for job_id, ended in zip(job_ids, answers, strict=True):
        assert ended.count(True) == 1
        winner = ended.index(True)
        job = store.get(job_id)
        assert job is not None
        assert (job.status, job.status_text) == (ENDS[winner % len(ENDS)].target, f"process {winner}")


def give_signs(store: CacheStore, number: int, job_id: int) -> int:
    """Signs of one running job while others cancel it: how many were taken after the end."""
    late, is_over = 0, False
    for turn in range(60):
        if number == 0 and turn == 30:
            assert store.move(Move.CANCEL, job_id)
        is_taken = store.touch(job_id, 1, turn, f"turn {turn}", 30)
        late += is_taken and is_over
        is_over = is_over or not is_taken
    return late


def test_no_sign_brings_an_ended_job_back(racers: CacheRacers, store: CacheStore) -> None:
    job_id = add(store)
    assert store.claim(job_id, 1, "run", 30, 0)
    assert racers.race(give_signs, job_id) == [0] * PROCESSES
    assert store.get(job_id).status is Status.CANCELLED  # type: ignore[union-attr]
