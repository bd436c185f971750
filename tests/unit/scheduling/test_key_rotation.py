"""Changing the key, step by step: processes before and after each step do each other's jobs."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from support import wait_until
from support.records import SERVERS, Databases, count_jobs, new_job, open_store, seal
from support.served import Site, wrap

import backjob.scheduling.grace_period
from backjob import Status
from backjob.keyring import MONITOR
from backjob.storage.sql.store import SQLStore

OLD, NEW = "the old key of these tests, and of nothing else", "the new key of these tests, and of nothing else"
LISTS = [[OLD], [OLD, NEW], [NEW, OLD], [NEW]]
STEPS = [pair for before, after in itertools.pairwise(LISTS) for pair in ((before, after), (after, before))]

Pair = tuple[Site, Site]


def describe(step: tuple[list[str], list[str]]) -> str:
    return " and ".join("".join("N" if key == NEW else "O" for key in keys) for keys in step)


@pytest.fixture(params=STEPS, ids=describe)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """Two processes on one database: one that starts jobs, and another one on the other side of a step."""
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(wrap(tmp_path, key=keys)) for keys in request.param)
        yield first, second


def test_the_other_process_takes_a_job_over(pair: Pair) -> None:
    starter, other = pair
    job_id = starter.start("/job")
    assert other.send(starter.launches.tokens[-1].text).code == 202
    assert other.row(job_id).held_by == other.backend.monitor.owner


def test_the_other_process_runs_a_job(pair: Pair) -> None:
    starter, other = pair
    job_id = starter.start("/job")
    assert other.send(starter.token(job_id), "/job").code == 200
    assert starter.status(job_id).status is Status.COMPLETED


def test_the_other_process_takes_a_row_that_is_due(pair: Pair) -> None:
    starter, other = pair
    starter.pause_launches()
    job_id = starter.start("/job")
    starter.backend.store.hold(job_id, 1, starter.launches.tokens[-1].nonce, None, 0)
    backend = other.backend
    taken = backend.store.take_due(backend.keyring.key_ids, "holder", 30, backend.monitor.app_id)
    assert taken is not None
    assert taken.id == job_id


@pytest.mark.parametrize("app_id", [None, "", "keyed"])
def test_the_other_process_recovers_a_lost_job_at_once(
    pair: Pair, app_id: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose row is from an earlier release: its app_id was a digest made with the key."""
    monkeypatch.setattr(backjob.scheduling.grace_period, "_GRACE", 0)
    starter, other = pair
    job_id = starter.start("/job")
    if app_id == "keyed":
        home = f"home {starter.backend.self_request.app}"
        app_id = "a" + starter.backend.keyring.digest(home)[0][:15]
    if app_id is not None:
        starter.sql("UPDATE background_job SET app_id = ?", app_id)
    assert starter.backend.store.claim(job_id, 1, "a process that is gone", -1, 0)
    keeper = other.backend.make_keeper()
    keeper._grace.renewed_at = other.backend.store.time()
    keeper._grace.reached_since = keeper._grace.renewed_at - timedelta(seconds=99)  # it has been awake for long
    for _ in range(2):
        keeper.sweep()
    assert starter.status(job_id).status is Status.FAILED


def test_a_job_whose_key_is_gone_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with wrap(tmp_path, key=[OLD]) as before:
        before.pause_launches()
        job_id = before.start("/job")
        before.backend.store.hold(job_id, 1, before.launches.tokens[-1].nonce, None, 0)
        before.sql("UPDATE background_job SET due_at = '2020-01-01 00:00:00.000000'")
    with wrap(tmp_path, key=[NEW], keeper=True) as after:
        text = "This job waits for a process that has its key: add the old key to key=[new, old]"
        wait_until(lambda: "1 job(s) wait for a process that has their key" in caplog.text)
        assert after.row(job_id).status_text == text
    with wrap(tmp_path, key=[NEW, OLD]) as mended:
        assert mended.send(mended.token(job_id), "/job").code == 200
        assert mended.status(job_id).status is Status.COMPLETED


def test_equal_requests_are_one_job(pair: Pair) -> None:
    starter, other = pair
    assert starter.start("/job", unique=True) == other.start("/job", unique=True)


@pytest.mark.parametrize("kind", ["monitor", "worker"])
def test_a_job_of_a_key_that_is_not_in_the_list_is_left_alone(tmp_path: Path, kind: str) -> None:
    """The old key was removed too early: a launch by a process that still has it comes to one without it."""
    with (
        wrap(tmp_path, key=[OLD]) as before,
        wrap(tmp_path, key=[NEW, OLD]) as during,
        wrap(tmp_path, key=[NEW]) as site,
    ):
        job_id = before.start("/job")
        job = before.row(job_id)
        assert job.sealed is not None
        token = during.backend.keyring.sign(kind, job_id, 1, job.sealed, job.held_by)
        assert site.send(token.text, "/job").code == (202 if kind == MONITOR else 409)
        row = site.row(job_id)
        assert (row.status, row.attempt, row.status_text) == (Status.STARTED, 1, "")
        assert during.send(during.token(job_id), "/job").code == 200
        assert during.status(job_id).status is Status.COMPLETED


@pytest.mark.parametrize("name", ["sqlite", *SERVERS])
def test_equal_requests_at_the_same_time_are_one_job(name: str, databases: Databases, tmp_path: Path) -> None:
    """Two processes with the two orders of keys: each writes a digest that the other one does not write."""
    url, rounds = databases.url(name, tmp_path), 20
    found: list[set[int]] = [set() for _ in range(rounds)]
    with open_store(url) as first, open_store(url) as second:
        for store in (first, second):
            count_jobs(store, Status.STARTED)
        barrier = threading.Barrier(2)

        def add(store: SQLStore, order: Callable[[list[str]], list[str]]) -> None:
            for number in range(rounds):
                unique_keys = order([f"old {number}", f"new {number}"])
                barrier.wait(20)
                job_id, _ = store.add(new_job(unique_key=unique_keys[0]), seal, unique_keys)
                found[number].add(job_id)

        threads = [
            threading.Thread(target=add, args=(first, list)),
            threading.Thread(target=add, args=(second, lambda keys: keys[::-1])),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [len(ids) for ids in found] == [1] * rounds
