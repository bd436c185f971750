"""The life of jobs, whatever happens in whatever order, against a plain model.

Two writers, each with a store of its own on one database, act on what they knew of a job when they last looked: their
attempt and their hold may be long gone. The model says what each write may do; the promises are checked after every
step on the rows themselves.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from support.records import SERVERS, Clock, Databases, new_job, open_store, seal

from backjob.engine import Database
from backjob.job import Job, Move, Status
from backjob.sqlstore import SQLStore

STARTED, INPROGRESS, COMPLETED, FAILED, CANCELLED = Status
ENDS = {Move.COMPLETE: ({INPROGRESS}, COMPLETED)}
ENDS |= {Move.FAIL: ({STARTED, INPROGRESS}, FAILED), Move.CANCEL: ({STARTED, INPROGRESS}, CANCELLED)}

Row = dict[str, Any]


@dataclass
class Writer:
    """A process: its store, what it knew of each job when it last looked, and the runs that it believes to be its."""

    name: str
    store: SQLStore
    known: dict[int, Job] = field(default_factory=dict)
    runs: dict[int, tuple[int, list[tuple[int, str, bool]]]] = field(default_factory=dict)
    """For each job, the attempt that this writer claimed, and the signs of that run: progress, text, does it go on."""


writers = st.sampled_from([0, 1])
seconds = st.sampled_from([0.0, 0.5, 5.0, 30.0])
texts = st.sampled_from(["", "one", "two ü"])
jobs = Bundle("jobs")


class LifeCycle(RuleBasedStateMachine):
    """What may happen, and what must be true whatever happened."""

    def __init__(self, databases: Sequence[Database]) -> None:
        super().__init__()
        self.clock = Clock()
        self.rows: dict[int, Row] = {}
        self.unique: dict[str, int] = {}
        self.ended: dict[int, Row] = {}
        self.claims: set[tuple[int, int]] = set()
        self.progress: dict[tuple[int, int], int] = {}
        with databases[0].connect() as connection:
            connection.execute(databases[0].table.delete())
        names = ("first", "second")
        self.writers = [
            Writer(name, SQLStore(database, self.clock)) for name, database in zip(names, databases, strict=True)
        ]

    @property
    def now(self) -> datetime:
        return self.clock.now

    def is_free(self, row: Row) -> bool:
        return row["held_until"] is None or row["held_until"] <= self.now

    def expect(self, answer: bool, job_id: int, is_allowed: Callable[[Row], bool], **changes: Any) -> bool:
        """The store must have said and done what the model says."""
        row = self.rows[job_id]
        assert answer is is_allowed(row)
        if answer:
            row.update(changes)
        return answer

    # What writers do, on what they know.

    @rule(
        target=jobs,
        writer=writers,
        scope=st.sampled_from(["", "a"]),
        retries=st.sampled_from([0, 1, 2]),
        delay=seconds,
        priority=st.sampled_from([0, 0, 1]),
        holder=st.sampled_from([None, "nonce"]),
        unique=st.sampled_from([None, None, "u", "v"]),
        key_id=st.sampled_from(["key", "key", "other"]),
        app_id=st.sampled_from(["app", "app", "another"]),
    )
    def add(self, writer: int, unique: str | None, holder: str | None, delay: float, **fields: Any) -> Any:
        store = self.writers[writer].store
        new = new_job(unique_key=unique, held_by=holder, hold=30, delay=delay, **fields)
        job_id, is_new = store.add(new, seal, [unique] if unique else [])
        lives = [
            each for each, row in self.rows.items() if unique and self.unique.get(unique) == each and row["sealed"]
        ]
        assert is_new is not bool(lives)
        if not is_new:
            assert [job_id] == lives
            return multiple()
        assert job_id not in self.rows
        self.rows[job_id] = dict.fromkeys(each.name for each in dataclasses.fields(Job))
        self.rows[job_id] |= {"id": job_id, "uid": new.uid, "sealed": seal(job_id), "method": "POST", "path": "/report"}
        self.rows[job_id] |= {"status": STARTED, "attempt": 1, "error_timeout": 120}
        self.rows[job_id] |= {"progress": 0, "signs": 0, "status_text": ""}
        self.rows[job_id] |= {"created_at": self.now, "updated_at": self.now, "cancel_requested": False, **fields}
        self.rows[job_id] |= {"due_at": self.clock.after(delay), "held_by": holder}
        self.rows[job_id] |= {"held_until": self.clock.after(30) if holder else None}
        if unique:
            self.unique[unique] = job_id
        for each in self.writers:
            each.known[job_id] = each.store.get(job_id)  # type: ignore[assignment]
        return job_id

    @rule(writer=writers, job_id=jobs)
    def look(self, writer: int, job_id: int) -> None:
        self.writers[writer].known[job_id] = self.writers[writer].store.get(job_id)  # type: ignore[assignment]

    @rule(by=seconds)
    def wait(self, by: float) -> None:
        self.clock.advance(by)

    @rule(writer=writers, job_id=jobs, is_holder=st.booleans(), gives_up=st.booleans(), hold=seconds)
    def hold(self, writer: int, job_id: int, is_holder: bool, gives_up: bool, hold: float) -> None:
        me = self.writers[writer]
        attempt = me.known[job_id].attempt
        held_by = me.known[job_id].held_by if is_holder else None
        holder = None if gives_up else me.name
        self.expect(
            me.store.hold(job_id, attempt, held_by, holder, hold),
            job_id,
            lambda row: (
                (row["status"], row["attempt"]) == (STARTED, attempt)
                and (row["held_by"] == held_by if held_by else self.is_free(row))
            ),
            held_by=holder,
            held_until=self.clock.after(hold) if holder else None,
        )

    @rule(writer=writers, job_id=jobs, text=texts, hold=seconds)
    def note_launch_failure(self, writer: int, job_id: int, text: str, hold: float) -> None:
        me = self.writers[writer]
        attempt, holder = me.known[job_id].attempt, me.known[job_id].held_by or me.name
        first = self.rows[job_id]["launch_failed_at"] or self.now
        self.expect(
            me.store.note_launch_failure(job_id, attempt, holder, text, hold),
            job_id,
            lambda row: (row["status"], row["attempt"], row["held_by"]) == (STARTED, attempt, holder),
            status_text=text,
            updated_at=self.now,
            launch_failed_at=first,
            held_until=self.clock.after(hold),
        )

    @rule(
        writer=writers,
        hold=seconds,
        key_ids=st.sampled_from([["key"], ["key", "other"]]),
        skipped=st.sampled_from([[], [], ["another"]]),
        full=st.sampled_from([[], [], ["a"], ["a", ""]]),
    )
    def take_due(self, writer: int, hold: float, key_ids: list[str], skipped: list[str], full: list[str]) -> None:
        me = self.writers[writer]
        waiting = [row for row in self.rows.values() if row["status"] is STARTED and row["key_id"] in key_ids]
        waiting = [row for row in waiting if row["app_id"] not in skipped and row["scope"] not in full]
        due = [row for row in waiting if row["due_at"] <= self.now and self.is_free(row)]
        times = [max(row["due_at"], row["held_until"] or row["due_at"], self.now) - self.now for row in waiting]
        seconds_to_next = me.store.seconds_to_next(key_ids, skipped, full)
        assert seconds_to_next == (min(times) / timedelta(seconds=1) if times else None)
        job = me.store.take_due(key_ids, me.name, hold, skipped, full)
        if not due:
            assert job is None
            return
        row = min(due, key=lambda row: (-row["priority"], row["due_at"], row["id"]))
        row |= {"held_by": me.name, "held_until": self.clock.after(hold)}
        assert job is not None
        assert as_row(job) == row
        me.known[job.id] = job

    @rule(
        writer=writers, job_id=jobs, max_running=st.sampled_from([0, 0, 1, 2]), max_in_scope=st.sampled_from([0, 0, 1])
    )
    def claim(self, writer: int, job_id: int, max_running: int, max_in_scope: int) -> None:
        me = self.writers[writer]
        attempt = me.known[job_id].attempt
        running = [row["scope"] for row in self.rows.values() if row["status"] is INPROGRESS]
        if self.expect(
            me.store.claim(job_id, attempt, me.name, 10, max_running, max_in_scope),
            job_id,
            lambda row: (
                (row["status"], row["attempt"]) == (STARTED, attempt)
                and (not max_running or len(running) < max_running)
                and (not max_in_scope or running.count(row["scope"]) < max_in_scope)
            ),
            status=INPROGRESS,
            status_text="",
            signs=0,
            started_at=self.now,
            updated_at=self.now,
            lease_by=me.name,
            lease_until=self.clock.after(10),
            held_by=None,
            held_until=None,
            launch_failed_at=None,
        ):
            assert (job_id, attempt) not in self.claims, "an attempt ran twice"
            self.claims.add((job_id, attempt))
            me.runs[job_id] = (attempt, [(0, "", False)])

    @rule(
        writer=writers,
        job_id=jobs,
        more=st.integers(0, 60),
        text=texts,
        is_more=st.booleans(),
        late=st.sampled_from([0, 0, 0, 1, 2]),
    )
    def touch(self, writer: int, job_id: int, more: int, text: str, is_more: bool, late: int) -> None:
        """Only who claimed a job does it, and goes on for as long as it believes that the job is its own.

        ``late``: not its newest sign, but one from before comes to the database once more, or only now.
        """
        me = self.writers[writer]
        if job_id not in me.runs:
            return
        attempt, signs = me.runs[job_id]
        if late and len(signs) > 1:
            number = max(len(signs) - late, 1)
            progress, text, is_more = signs[number]
        else:
            number = len(signs)
            progress = min(signs[-1][0] + more, 100)
            signs.append((progress, text, is_more))

        def is_allowed(row: Row) -> bool:
            runs = (row["status"], row["attempt"], row["cancel_requested"]) == (INPROGRESS, attempt, False)
            return runs and (row["signs"] == number - 1 if is_more else row["signs"] <= number)

        before = self.rows[job_id]["status_text"]
        self.expect(
            me.store.touch(job_id, attempt, progress, text, 10, number, is_more=is_more),
            job_id,
            is_allowed,
            progress=progress,
            signs=number,
            status_text=before + text if is_more else text,
            updated_at=self.now,
            lease_until=self.clock.after(10),
        )

    @rule(
        writer=writers,
        job_id=jobs,
        move=st.sampled_from(list(ENDS)),
        is_fenced=st.booleans(),
        text=st.none() | texts,
        silent_for=st.sampled_from([0.0, 0.0, 20.0]),
    )
    def end(self, writer: int, job_id: int, move: Move, is_fenced: bool, text: str | None, silent_for: float) -> None:
        me = self.writers[writer]
        attempt = me.known[job_id].attempt if is_fenced else None
        progress = 100 if move is Move.COMPLETE else None
        sources, target = ENDS[move]
        row = self.rows[job_id]
        self.expect(
            me.store.move(move, job_id, attempt=attempt, text=text, progress=progress, silent_for=silent_for),
            job_id,
            lambda row: (
                row["status"] in sources
                and attempt in (None, row["attempt"])
                and row["updated_at"] <= self.now - timedelta(seconds=silent_for)
            ),
            status=target,
            updated_at=self.now,
            ended_at=self.now,
            sealed=None,
            status_text=row["status_text"] if text is None else text,
            progress=row["progress"] if progress is None else progress,
            **dict.fromkeys(["held_by", "held_until", "lease_by", "lease_until", "launch_failed_at"]),
        )

    @rule(writer=writers, job_id=jobs, delay=seconds, text=texts)
    def retry(self, writer: int, job_id: int, delay: float, text: str) -> None:
        """As a worker or a keeper does it: by the attempt that it knows, while the job has retries left."""
        me = self.writers[writer]
        attempt = me.known[job_id].attempt
        if attempt > me.known[job_id].retries:
            return
        self.expect(
            me.store.move(Move.RETRY, job_id, attempt=attempt, text=text, progress=0, delay=delay),
            job_id,
            lambda row: (row["status"], row["attempt"], row["cancel_requested"]) == (INPROGRESS, attempt, False),
            status=STARTED,
            attempt=attempt + 1,
            status_text=text,
            progress=0,
            due_at=self.clock.after(delay),
            updated_at=self.now,
            started_at=None,
            lease_by=None,
            lease_until=None,
        )

    @rule(writer=writers, job_id=jobs)
    def request_cancel(self, writer: int, job_id: int) -> None:
        self.expect(
            self.writers[writer].store.request_cancel(job_id),
            job_id,
            lambda row: row["status"] is INPROGRESS,
            cancel_requested=True,
        )

    @rule(
        writer=writers,
        statuses=st.none() | st.sets(st.sampled_from(Status)),
        scope=st.sampled_from([None, None, "", "a"]),
        limit=st.integers(1, 5),
        before=st.none() | st.integers(0, 10),
    )
    def find(
        self, writer: int, statuses: set[Status] | None, scope: str | None, limit: int, before: int | None
    ) -> None:
        found = self.writers[writer].store.find(statuses, scope, limit, before)
        wanted = [
            row
            for job_id, row in sorted(self.rows.items(), reverse=True)
            if (statuses is None or row["status"] in statuses)
            and scope in (None, row["scope"])
            and (before is None or job_id < before)
        ]
        assert [as_row(job) for job in found] == wanted[:limit]

    # What is true after each step.

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        found = {job.id: as_row(job) for job in self.writers[0].store.find(None, None, 1000, None)}
        assert found == self.rows

    @invariant()
    def promises_hold(self) -> None:
        for job in self.writers[1].store.find(None, None, 1000, None):
            assert job.status.is_final is (job.ended_at is not None) is (job.sealed is None)
            assert 0 <= job.progress <= 100
            assert 1 <= job.attempt <= job.retries + 1
            assert job.status is not INPROGRESS or job.started_at is not None
            assert not (job.status is STARTED and job.cancel_requested)
            assert not job.status.is_final or (job.held_by, job.lease_by) == (None, None)
            assert job.status.is_final or (job.lease_until is not None) is (job.status is INPROGRESS)
            assert job.progress >= self.progress.get((job.id, job.attempt), 0), "progress went back in an attempt"
            self.progress[job.id, job.attempt] = job.progress
            if job.status.is_final:
                assert self.ended.setdefault(job.id, as_row(job)) == as_row(job), "a final status was left"
            else:
                assert job.id not in self.ended

    @invariant()
    def counts_are_right(self) -> None:
        store = self.writers[0].store
        statuses = [row["status"] for row in self.rows.values()]
        assert [store.count(status) for status in Status] == [statuses.count(status) for status in Status]
        running = Counter(row["scope"] for row in self.rows.values() if row["status"] is INPROGRESS)
        assert store.count_running() == running


def as_row(job: Job) -> Row:
    """The row itself, whenever it was read."""
    return {**dataclasses.asdict(job), "read_at": None}


EXAMPLES = {"sqlite": 50, **dict.fromkeys(SERVERS, 4)}
"""What the rules of life are is tried on SQLite; that each server keeps them, on some lives."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_life_cycle(databases: Databases, tmp_path: Path, name: str) -> None:
    url = databases.url(name, tmp_path)
    with open_store(url) as first, open_store(url) as second:
        pair = (first._database, second._database)
        run_state_machine_as_test(
            lambda: LifeCycle(pair),
            settings=settings(max_examples=EXAMPLES[name], stateful_step_count=40, deadline=None),
        )
