"""Several processes on one database: what they race for, one of them gets, and none is told that it is locked."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.races import Racers, racing, wait_for_all
from support.records import KEY_IDS, SERVERS, TABLE, Databases, add, new_job, open_store, run, seal

from backjob.job import Move, Status
from backjob.keyring import read_or_make_key_file

PROCESSES = 8


@pytest.fixture(scope="module")
def racers() -> Iterator[Racers]:
    with racing(PROCESSES) as started:
        yield started


def read_rows(url: str) -> list[dict[str, Any]]:
    return run(url, f"SELECT * FROM {TABLE} ORDER BY id")


@pytest.fixture(params=["sqlite", *SERVERS])
def url(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> str:
    """A database without a table."""
    return databases.url(request.param, tmp_path)


def add_one(url: str, number: int) -> int:
    with open_store(url) as store:
        return add(store, scope=f"process {number}")


@pytest.mark.parametrize("turn", range(3))
def test_the_first_use_is_raced_for(racers: Racers, url: str, turn: int) -> None:
    job_ids = racers.race(add_one, url)
    assert len(set(job_ids)) == PROCESSES
    assert sorted(row["scope"] for row in read_rows(url)) == [f"process {number}" for number in range(PROCESSES)]


def make_everything(url: str, number: int) -> tuple[str, int]:
    file = Path(url.removeprefix("sqlite:///"))
    return read_or_make_key_file(file.with_name("jobs.sqlite3.key")), add_one(url, number)


@pytest.mark.parametrize("turn", range(4))
def test_the_first_use_of_a_file_is_raced_for(racers: Racers, tmp_path: Path, turn: int) -> None:
    file = tmp_path / "jobs.sqlite3"
    keys, job_ids = zip(*racers.race(make_everything, f"sqlite:///{file}"), strict=True)
    assert len(set(keys)) == 1
    assert sorted(job_ids) == list(range(1, PROCESSES + 1))
    assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def start_unique(url: str, number: int, rounds: int) -> list[tuple[int, bool]]:
    found = []
    with open_store(url) as store:
        for turn in range(rounds):
            wait_for_all()
            found.append(store.add(new_job(unique_key=f"turn {turn}"), seal, [f"turn {turn}"]))
    return found


def test_a_unique_job_is_recorded_once(racers: Racers, url: str) -> None:
    rounds = 20
    for answers in zip(*racers.race(start_unique, url, rounds), strict=True):
        assert len({job_id for job_id, _ in answers}) == 1
        assert [is_new for _, is_new in answers].count(True) == 1
    assert len(read_rows(url)) == rounds


def restart_unique(url: str, number: int, rounds: int) -> list[int]:
    """Start the one unique job, and end it, again and again: others find it, just miss it, or record the next."""
    recorded = []
    with open_store(url) as store:
        for _ in range(rounds):
            job_id, is_new = store.add(new_job(unique_key="the one"), seal, ["the one"])
            if is_new:
                recorded.append(job_id)
            store.move(Move.CANCEL, job_id)
    return recorded


def test_a_unique_job_that_ends_meanwhile_is_recorded_anew(racers: Racers, url: str) -> None:
    recorded = sorted(job_id for some in racers.race(restart_unique, url, 25) for job_id in some)
    rows = read_rows(url)
    assert [row["id"] for row in rows] == recorded
    assert {row["status"] for row in rows} == {Status.CANCELLED}


def claim_each(url: str, number: int, job_ids: list[int]) -> list[bool]:
    with open_store(url) as store:
        claimed = []
        for job_id in job_ids:
            wait_for_all()
            claimed.append(store.claim(job_id, 1, f"process {number}", 30, 0))
        return claimed


def test_a_job_is_claimed_by_one(racers: Racers, url: str) -> None:
    with open_store(url) as store:
        job_ids = [add(store) for _ in range(50)]
    answers = racers.race(claim_each, url, job_ids)
    assert [sum(claims) for claims in zip(*answers, strict=True)] == [1] * len(job_ids)
    for row, claims in zip(read_rows(url), zip(*answers, strict=True), strict=True):
        assert (row["status"], row["lease_by"]) == (Status.INPROGRESS, f"process {claims.index(True)}")


def claim_few(url: str, number: int, job_ids: list[int], max_running: int) -> int:
    with open_store(url) as store:
        return sum(store.claim(job_id, 1, "run", 30, max_running) for job_id in job_ids[number::PROCESSES])


def test_no_more_than_max_running_are_claimed(racers: Racers, url: str) -> None:
    with open_store(url) as store:
        job_ids = [add(store) for _ in range(5 * PROCESSES)]
    assert sum(racers.race(claim_few, url, job_ids, 3)) == 3


def take_all(url: str, number: int) -> list[int]:
    taken = []
    with open_store(url) as store:
        # None may mean that others were quicker with all that one look showed: it is over when nothing is free.
        while (job := store.take_due(KEY_IDS, f"process {number}", 3600)) or store.seconds_to_next(KEY_IDS) == 0:
            if job is not None:
                assert job.held_by == f"process {number}"
                taken.append(job.id)
    return taken


def test_a_due_job_is_taken_by_one(racers: Racers, url: str) -> None:
    with open_store(url) as store:
        job_ids = [add(store) for _ in range(200)]
    taken = racers.race(take_all, url)
    assert sorted(job_id for some in taken for job_id in some) == job_ids
    # Each in the order in which they are due, whatever the others took from between.
    assert all(some == sorted(some) for some in taken)


ENDS = (Move.COMPLETE, Move.FAIL, Move.CANCEL)


def end_each(url: str, number: int, job_ids: list[int]) -> list[bool]:
    move = ENDS[number % len(ENDS)]
    with open_store(url) as store:
        ended = []
        for job_id in job_ids:
            wait_for_all()
            ended.append(store.move(move, job_id, attempt=1, text=f"process {number}"))
        return ended


def test_the_first_to_end_a_job_wins(racers: Racers, url: str) -> None:
    with open_store(url) as store:
        job_ids = [add(store) for _ in range(20)]
        assert all(store.claim(job_id, 1, "run", 30, 0) for job_id in job_ids)
    answers = zip(*racers.race(end_each, url, job_ids), strict=True)
    for row, ended in zip(read_rows(url), answers, strict=True):
        assert ended.count(True) == 1
        winner = ended.index(True)
        assert (row["status"], row["status_text"]) == (ENDS[winner % len(ENDS)].target, f"process {winner}")


def write_on(url: str, number: int, jobs: int) -> None:
    """A process with every kind of write and read, as fast as it can."""
    with open_store(url) as store:
        for _ in range(jobs):
            job_id = add(store, scope=f"process {number}", held_by="nonce", hold=30)
            assert store.hold(job_id, 1, "nonce", "owner", 30)
            assert store.claim(job_id, 1, "run", 30, 0)
            for progress in range(0, 100, 20):
                assert store.touch(job_id, 1, progress, f"{progress} %", 30)
                store.find(None, None, 5, None)
            assert store.move(Move.COMPLETE, job_id, attempt=1, progress=100)


def test_no_writer_is_told_that_it_is_locked(racers: Racers, url: str) -> None:
    racers.race(write_on, url, 20)
    rows = read_rows(url)
    assert Counter((row["scope"], row["status"], row["progress"], row["status_text"]) for row in rows) == {
        (f"process {number}", Status.COMPLETED, 100, "80 %"): 20 for number in range(PROCESSES)
    }
    if url.startswith("sqlite"):
        assert run(url, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]
        assert run(url, f"SELECT seq FROM sqlite_sequence WHERE name = '{TABLE}'") == [{"seq": len(rows)}]
