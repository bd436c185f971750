"""What becomes of a job of which nothing is heard: every branch of the decision, to the microsecond."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backjob.model.job import FINAL, Move, Status
from backjob.model.recovery import (
    LEASE_LAPSED,
    PROCESS_GONE,
    REQUEST_GONE,
    TIMED_OUT,
    Policy,
    Recovery,
    RecoveryRecord,
    decide,
    find_timeout,
)

NOW = datetime(2031, 1, 31, 23, 59, 58, 123456, tzinfo=timezone.utc)
LEASE = 30.0
TICK = timedelta(microseconds=1)
DEAD, DEAD_RESPONSE = "process-dead", "response-dead"


def at(seconds: float) -> datetime:
    """So many seconds from now."""
    return NOW + timedelta(seconds=seconds)


def job(status: Status = Status.INPROGRESS, **changes: Any) -> RecoveryRecord:
    """A job in its first attempt that was vouched for, and gave a sign, ten seconds ago."""
    runs = status is Status.INPROGRESS
    fields: dict[str, Any] = {"id": 7, "status": status, "attempt": 1, "retries": 0}
    fields |= {"error_timeout": 120.0, "updated_at": at(-10), "cancel_requested": False}
    fields |= {"held_by": None if runs else "response-alive", "held_until": None if runs else at(LEASE - 10)}
    fields |= {"lease_by": "process-alive" if runs else None, "lease_until": at(LEASE - 10) if runs else None}
    return RecoveryRecord(**{**fields, **changes})


POLICY = Policy(
    lease=LEASE,
    reached_since=at(-86400),
    is_dead=lambda name: name in (DEAD, DEAD_RESPONSE),
)


def decided(job: RecoveryRecord, **changes: Any) -> Recovery | None:
    return decide(job, NOW, replace(POLICY, **changes))


def gone(move: Move) -> Recovery:
    return Recovery(move, PROCESS_GONE, is_certain=True)


def lapsed(move: Move) -> Recovery:
    return Recovery(move, LEASE_LAPSED.format(lease=LEASE))


def test_a_job_that_runs_and_is_vouched_for_goes_on() -> None:
    assert decided(job()) is None


# Its process is dead for certain.


@pytest.mark.parametrize(
    ("attempt", "retries", "is_to_end", "move"),
    [
        (1, 0, False, Move.FAIL),
        (1, 1, False, Move.RETRY),
        (2, 1, False, Move.FAIL),
        (3, 3, False, Move.RETRY),
        (4, 3, False, Move.FAIL),
        (1, 0, True, Move.CANCEL),
        (1, 5, True, Move.CANCEL),
    ],
)
def test_a_dead_process_runs_nothing(attempt: int, retries: int, is_to_end: bool, move: Move) -> None:
    fields = {"attempt": attempt, "retries": retries, "cancel_requested": is_to_end}
    assert decided(job(lease_by=DEAD, **fields)) == gone(move)
    # What became of the lease says the same, later, and in other words.
    assert decided(job(lease_until=at(0), **fields)) == lapsed(move)


@pytest.mark.parametrize("reached_since", [at(-86400), NOW])
@pytest.mark.parametrize("lease_until", [at(-1), at(0), at(LEASE)])
def test_a_death_is_certain_at_once(reached_since: datetime, lease_until: datetime) -> None:
    """Whoever sees it, and whatever was heard before."""
    lost = job(lease_by=DEAD, lease_until=lease_until)
    assert decided(lost, reached_since=reached_since) == gone(Move.FAIL)


# Its lease is past.


@pytest.mark.parametrize(("until", "is_past"), [(NOW + TICK, False), (NOW, True), (NOW - TICK, True)])
def test_a_lease_lasts_to_its_end(until: datetime, is_past: bool) -> None:
    assert decided(job(lease_until=until)) == (lapsed(Move.FAIL) if is_past else None)


def test_the_words_name_the_lease() -> None:
    recovery = decided(job(lease_until=at(0)), lease=2.5, reached_since=at(-3))
    assert recovery is not None
    assert "for 2.5 s" in recovery.reason
    assert "(lease)" in recovery.reason


@pytest.mark.parametrize(
    ("reached_since", "until", "is_settled"),
    [
        # The last time that somebody vouched for it is a lease before its end. Whoever could be heard since knows.
        (at(-31), at(-1), True),
        (at(-31) + TICK, at(-1), True),  # a whole lease has gone by since, too
        (at(-25), at(5), False),  # not past
        (at(-25), at(-1), False),  # between that time and ours there may have been something to hear
        (at(-30) + TICK, at(-1), False),
        (at(-30), at(-1), True),
        (NOW, at(-86400), False),  # who comes back after a day gives everybody a lease
        (at(-30), at(-86400), True),
    ],
)
def test_nobody_settles_who_may_only_not_have_heard(reached_since: datetime, until: datetime, is_settled: bool) -> None:
    found = decided(job(lease_until=until), reached_since=reached_since)
    assert found == (lapsed(Move.FAIL) if is_settled else None)


def test_a_job_without_a_lease_is_nobodys_loss() -> None:
    assert decided(job(lease_by=None, lease_until=None, error_timeout=0.0)) is None


# It gives no sign.


@pytest.mark.parametrize(
    ("idle_for", "is_over"),
    [(timedelta(0), False), (timedelta(seconds=9.5) - TICK, False), (timedelta(seconds=9.5), True)],
)
@pytest.mark.parametrize(("is_to_end", "move"), [(False, Move.FAIL), (True, Move.CANCEL)])
def test_a_silent_job_ends(idle_for: timedelta, is_over: bool, is_to_end: bool, move: Move) -> None:
    """It is not retried, for its code may still run; one that was to be cancelled is."""
    silent = job(error_timeout=9.5, updated_at=NOW - idle_for, retries=5, cancel_requested=is_to_end)
    text = "job timeout: no update for 9.5 s (error_timeout)"
    assert decided(silent) == (Recovery(move, text, is_timeout=True) if is_over else None)


def test_without_error_timeout_it_may_be_silent_for_ever() -> None:
    silent = job(error_timeout=0.0, updated_at=at(-3650 * 86400))
    assert decided(silent) is None
    assert find_timeout(silent) is None


def test_silence_is_counted_only_while_it_could_be_heard() -> None:
    silent = job(updated_at=at(-500), error_timeout=20.0)
    assert decided(silent, reached_since=at(-500)) is not None
    assert decided(silent, reached_since=at(-30) + TICK) is None
    assert decided(silent, reached_since=at(-30)) is not None


def test_what_is_known_best_is_told() -> None:
    """A dead process before a lapsed lease, and that before a silence: of those it is sure that nothing runs."""
    everything = job(lease_by=DEAD, lease_until=at(-1), updated_at=at(-500), retries=1)
    assert decided(everything) == gone(Move.RETRY)
    assert decided(replace(everything, lease_by="process-alive")) == lapsed(Move.RETRY)
    only_silent = replace(everything, lease_by="process-alive", lease_until=at(1))
    assert decided(only_silent) == Recovery(Move.FAIL, TIMED_OUT.format(timeout=120.0), is_timeout=True)


# It waits for a response.


def test_one_whose_request_goes_on_waits() -> None:
    assert decided(job(Status.STARTED)) is None


def test_one_whose_request_died_is_not_wanted() -> None:
    """Nothing has run: there is nothing to retry."""
    waiting = job(Status.STARTED, held_by=DEAD_RESPONSE, retries=5)
    assert decided(waiting, reached_since=NOW) == Recovery(Move.CANCEL, REQUEST_GONE, is_certain=True)


@pytest.mark.parametrize(("until", "is_past"), [(NOW + TICK, False), (NOW, True)])
def test_nor_is_one_for_which_nobody_vouches(until: datetime, is_past: bool) -> None:
    waiting = job(Status.STARTED, held_until=until)
    assert decided(waiting) == (Recovery(Move.CANCEL, REQUEST_GONE) if is_past else None)
    assert decided(waiting, reached_since=at(-10)) is None


@pytest.mark.parametrize("held_by", [None, DEAD, "KjGqO5fT1xQ7", "process-response-dead"])
def test_one_that_waits_for_anything_else_is_the_dispatchers(held_by: str | None) -> None:
    """A launch of it is lost at worst: whoever looks for what is due takes it up."""
    assert decided(job(Status.STARTED, held_by=held_by, held_until=at(-86400), updated_at=at(-86400))) is None


def test_the_silence_of_one_that_waits_counts_for_nothing() -> None:
    assert decided(job(Status.STARTED, updated_at=at(-86400))) is None
    assert find_timeout(job(Status.STARTED)) is None


@pytest.mark.parametrize("status", sorted(FINAL))
def test_an_end_is_an_end(status: Status) -> None:
    ended = job(status, held_by=DEAD_RESPONSE, lease_by=DEAD, lease_until=at(-86400), updated_at=at(-86400))
    assert decided(ended) is None


# Of all jobs.

seconds = st.floats(-3 * 86400, 3 * 86400, allow_nan=False)
some_time = seconds.map(at)
maybe = st.none() | some_time
vouched = st.builds(
    RecoveryRecord,
    id=st.just(7),
    status=st.sampled_from(Status),
    attempt=st.integers(1, 5),
    retries=st.integers(0, 5),
    error_timeout=st.just(0.0) | st.floats(0.1, 1000),
    updated_at=some_time,
    held_by=st.sampled_from([None, "process-alive", DEAD, "response-alive", DEAD_RESPONSE, "nonce"]),
    held_until=maybe,
    lease_by=st.sampled_from([None, "process-alive", DEAD]),
    lease_until=maybe,
    cancel_requested=st.booleans(),
)


@given(vouched, some_time)
def test_every_settlement_may_be_made(job: RecoveryRecord, reached_since: datetime) -> None:
    """It is a move that this status allows, and none that runs a job oftener than was asked for."""
    recovery = decided(job, reached_since=reached_since)
    if recovery is None:
        return
    assert job.status in recovery.move.sources
    assert recovery.move in (Move.FAIL, Move.CANCEL, Move.RETRY)
    if recovery.move is Move.RETRY:
        assert job.attempt <= job.retries
        assert not job.cancel_requested
        assert not recovery.is_timeout, "its code may still run"
    if job.cancel_requested and job.status is Status.INPROGRESS:
        assert recovery.move is Move.CANCEL


@given(vouched, some_time)
def test_what_is_alive_and_vouched_for_only_its_silence_ends(job: RecoveryRecord, reached_since: datetime) -> None:
    alive = replace(
        job, lease_by="process-alive", lease_until=NOW + TICK, held_by="response-alive", held_until=NOW + TICK
    )
    recovery = decided(alive, reached_since=reached_since)
    assert recovery is None or recovery.is_timeout
    if recovery is not None:
        assert job.error_timeout
        assert (NOW - job.updated_at).total_seconds() >= job.error_timeout


@given(vouched, some_time, st.floats(0, 10 * 86400))
def test_what_is_settled_now_is_settled_later_too(job: RecoveryRecord, reached_since: datetime, later: float) -> None:
    """Nothing but a sign can save it: no keeper that looks a moment later decides otherwise for the better."""
    if decided(job, reached_since=reached_since) is None:
        return
    assert decide(job, at(later), replace(POLICY, reached_since=reached_since)) is not None


@given(vouched, some_time)
def test_a_keeper_that_has_just_come_settles_deaths_alone(job: RecoveryRecord, updated_at: datetime) -> None:
    alive = replace(job, lease_by="process-alive", held_by="response-alive")
    heard_before = [
        alive.updated_at,
        *(t - timedelta(seconds=LEASE) for t in (alive.lease_until, alive.held_until) if t),
    ]
    if all(heard < NOW for heard in heard_before):
        assert decided(alive, reached_since=NOW) is None
