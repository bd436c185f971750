"""The life of jobs as a plain model: what processes tell the store, in whatever order, and what each write may do.

Processes act on what they knew of a job when they last looked: their attempt and their hold may be long gone. The
model says what each write may do. Their keepers, their deaths and what must be true are in test_life_cycle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, rule

from backjob.model.job import RECORD_VERSION, Job, Move, Status
from backjob.runtime.process_identity import RESPONSE
from backjob.storage.queries import APP_GRACE
from backjob.storage.sql.database import Database
from backjob.storage.store import Store
from backjob.worker.outcome import Outcome

from .keepers import APP, KEY, LEASE, OTHER_APP, OTHER_KEY, Process, Run
from .records import Clock, new_job, seal

STARTED, INPROGRESS, COMPLETED, FAILED, CANCELLED = Status
_BROKEN = "ValueError: no figures"
ENDS = {Move.COMPLETE: ({INPROGRESS}, COMPLETED)}
ENDS |= {Move.FAIL: ({STARTED, INPROGRESS}, FAILED), Move.CANCEL: ({STARTED, INPROGRESS}, CANCELLED)}
NOTHING = dict.fromkeys(["held_by", "held_until", "lease_by", "lease_until", "launch_failed_at"])

Row = dict[str, Any]
writers = st.sampled_from([0, 1])
seconds = st.sampled_from([0.0, 0.5, 5.0, 30.0])
texts = st.sampled_from(["", "one", "two ü"])
jobs = Bundle("jobs")


def keep_sealed(row: Row, end: Status) -> Any:
    """What is kept of a request when the job has ended so: of nobody's job what it could be started again with."""
    return row["sealed"] if row["anonymous"] and end is not Status.COMPLETED else None


class Life(RuleBasedStateMachine):
    """What processes tell the store."""

    def __init__(self, databases: Sequence[Database]) -> None:
        super().__init__()
        self.clock = Clock()
        self.numbers = count(1)
        self.rows: dict[int, Row] = {}
        self.unique: dict[str, int] = {}
        self.claims: set[tuple[int, int]] = set()
        with databases[0].connect() as connection:
            connection.execute(databases[0].table.delete())
        self.processes = [self.start(database) for database in databases]

    def start(self, database: Database) -> Process:
        """A process that never was before."""
        process = Process(str(next(self.numbers)), database, self.clock)
        for job_id in self.rows:
            process.known[job_id] = process.store.get(job_id)  # type: ignore[assignment]
        return process

    def find_awake(self, writer: int) -> Process:
        """This one, or the other one while this is frozen: one of them never is."""
        return next(each for each in (self.processes[writer], *self.processes) if not each.is_frozen)

    @property
    def now(self) -> datetime:
        return self.clock.now

    def is_free(self, row: Row) -> bool:
        is_lapsed = row["held_until"] is None or row["held_until"] <= self.now
        return is_lapsed and not (row["held_by"] or "").startswith(RESPONSE)

    def is_abandoned(self, row: Row) -> bool:
        """Has no process of its app taken it for a day, while none of the app's jobs ran or ended?"""
        since = self.clock.after(-APP_GRACE)
        others = [other for other in self.rows.values() if other["app_id"] == row["app_id"]]
        is_served = any(o["status"] is INPROGRESS or (o["ended_at"] or since) > since for o in others)
        return max(row["due_at"], row["updated_at"]) <= since and not is_served

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
        holder=st.sampled_from([None, "nonce", RESPONSE]),
        unique=st.sampled_from([None, None, "u", "v"]),
        key_id=st.sampled_from([KEY, KEY, KEY, OTHER_KEY]),
        app_id=st.sampled_from([APP, APP, APP, OTHER_APP]),
        error_timeout=st.sampled_from([0, 20, 120]),
        anonymous=st.booleans(),
    )
    def add(self, writer: int, unique: str | None, holder: str | None, delay: float, **fields: Any) -> Any:
        me = self.find_awake(writer)
        store = me.store
        if holder == RESPONSE:
            holder = f"{me.response}{next(self.numbers)}"
        new = new_job(unique_key=unique, held_by=holder, hold=LEASE, delay=delay, **fields)
        job_id, is_new = store.add(new, seal, [unique] if unique else [])
        live = (each for each, row in self.rows.items() if row["ended_at"] is None)
        lives = [each for each in live if unique and self.unique.get(unique) == each]
        assert is_new is not bool(lives)
        if not is_new:
            assert [job_id] == lives
            return multiple()
        assert job_id not in self.rows
        self.rows[job_id] = dict.fromkeys(each.name for each in dataclasses.fields(Job))
        self.rows[job_id] |= {"id": job_id, "uid": new.uid, "sealed": seal(job_id), "method": "POST", "path": "/report"}
        self.rows[job_id] |= {"status": STARTED, "attempt": 1, "past": ""}
        self.rows[job_id] |= {"progress": 0, "signs": 0, "status_text": "", "error": "", "location": ""}
        self.rows[job_id] |= {"created_at": self.now, "updated_at": self.now, "cancel_requested": False, **fields}
        self.rows[job_id] |= {"app_version": "", "record_version": RECORD_VERSION}
        self.rows[job_id] |= {"due_at": self.clock.after(delay), "held_by": holder}
        self.rows[job_id] |= {"held_until": self.clock.after(LEASE) if holder else None}
        if (holder or "").startswith(RESPONSE):
            me.renewals.hold(job_id, holder or "")
        if unique:
            self.unique[unique] = job_id
        for each in self.processes:
            each.known[job_id] = each.store.get(job_id)  # type: ignore[assignment]
        return job_id

    @rule(writer=writers, job_id=jobs)
    def look(self, writer: int, job_id: int) -> None:
        me = self.find_awake(writer)
        me.known[job_id] = me.store.get(job_id)  # type: ignore[assignment]

    @rule(by=st.sampled_from([0.5, 5.0, 5.0, 10.0, 30.0, 30.0, 86400.0]))
    def wait(self, by: float) -> None:
        self.clock.advance(by)

    @rule(writer=writers, job_id=jobs, is_holder=st.booleans(), gives_up=st.booleans(), hold=seconds)
    def hold(self, writer: int, job_id: int, is_holder: bool, gives_up: bool, hold: float) -> None:
        me = self.find_awake(writer)
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

    @rule(writer=writers, job_id=jobs, text=texts, hold=seconds, failed_for=seconds)
    def note_launch_failure(self, writer: int, job_id: int, text: str, hold: float, failed_for: float) -> None:
        me = self.find_awake(writer)
        attempt, holder = me.known[job_id].attempt, me.known[job_id].held_by or me.name
        self.expect(
            me.store.note_launch_failure(job_id, attempt, holder, text, hold, failed_for),
            job_id,
            lambda row: (row["status"], row["attempt"], row["held_by"]) == (STARTED, attempt, holder),
            status_text=text,
            updated_at=self.now,
            launch_failed_at=self.clock.after(-failed_for),
            held_until=self.clock.after(hold),
        )

    @rule(writer=writers, job_id=jobs)
    def note_full(self, writer: int, job_id: int) -> None:
        me = self.find_awake(writer)
        attempt, holder = me.known[job_id].attempt, me.known[job_id].held_by or me.name
        has_failed = self.rows[job_id]["launch_failed_at"] is not None
        self.expect(
            me.store.note_full(job_id, attempt, holder),
            job_id,
            lambda row: (row["status"], row["attempt"], row["held_by"]) == (STARTED, attempt, holder),
            status_text="" if has_failed else self.rows[job_id]["status_text"],
            launch_failed_at=None,
            held_by=None,
            held_until=None,
        )

    @rule(
        writer=writers,
        hold=seconds,
        key_ids=st.sampled_from([[KEY], [KEY, OTHER_KEY]]),
        app_id=st.sampled_from([APP, APP, OTHER_APP]),
        full=st.sampled_from([[], [], ["a"], ["a", ""]]),
    )
    def take_due(self, writer: int, hold: float, key_ids: list[str], app_id: str, full: list[str]) -> None:
        me = self.find_awake(writer)
        waiting = [row for row in self.rows.values() if row["status"] is STARTED and row["key_id"] in key_ids]
        waiting = [row for row in waiting if row["scope"] not in full]
        waiting = [row for row in waiting if row["app_id"] == app_id or self.is_abandoned(row)]
        due = [row for row in waiting if row["due_at"] <= self.now and self.is_free(row)]
        times = [max(row["due_at"], row["held_until"] or row["due_at"], self.now) - self.now for row in waiting]
        seconds_to_next = me.store.seconds_to_next(key_ids, app_id, full)
        assert seconds_to_next == (min(times) / timedelta(seconds=1) if times else None)
        job = me.store.take_due(key_ids, me.name, hold, app_id, full)
        if not due:
            assert job is None
            return
        row = min(due, key=lambda row: (-row["priority"], row["due_at"], row["id"]))
        row |= {"held_by": me.name, "held_until": self.clock.after(hold)}
        assert job is not None
        assert as_row(job) == row
        me.known[job.id] = job
        me.renewals.hold(job.id, me.name)

    @rule(
        writer=writers, job_id=jobs, max_running=st.sampled_from([0, 0, 1, 2]), max_in_scope=st.sampled_from([0, 0, 1])
    )
    def claim(self, writer: int, job_id: int, max_running: int, max_in_scope: int) -> None:
        me = self.find_awake(writer)
        attempt = me.known[job_id].attempt
        claim = f"{me.name}{next(self.numbers)}"
        running = [row["scope"] for row in self.rows.values() if row["status"] is INPROGRESS]
        if self.expect(
            me.store.claim(job_id, attempt, claim, LEASE, max_running, max_in_scope),
            job_id,
            lambda row: (
                (row["status"], row["attempt"]) == (STARTED, attempt)
                and (not max_running or len(running) < max_running)
                and (not max_in_scope or running.count(row["scope"]) < max_in_scope)
            ),
            status=INPROGRESS,
            status_text="",
            error="",
            signs=0,
            started_at=self.now,
            updated_at=self.now,
            lease_by=claim,
            lease_until=self.clock.after(LEASE),
            held_by=None,
            held_until=None,
            launch_failed_at=None,
        ):
            assert (job_id, attempt) not in self.claims, "an attempt ran twice"
            self.claims.add((job_id, attempt))
            if job_id in me.runs:
                assert me.runs[job_id].until <= self.now, "a second attempt while the first one was vouched for"
                me.stop_run(job_id)  # in truth it would go on, and find out at its next sign, as another's does
            me.runs[job_id] = Run(attempt, claim, self.clock.after(LEASE))
            me.renewals.lease(job_id, claim)
            me.renewals.end_hold(job_id)

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
        me = self.find_awake(writer)
        if job_id not in me.runs or me.runs[job_id].has_ended:
            return
        run = me.runs[job_id]
        attempt, signs = run.attempt, run.signs
        if late and len(signs) > 1:
            number = max(len(signs) - late, 1)
            progress, text, is_more = signs[number]
        else:
            number = len(signs)
            progress = min(signs[-1][0] + more, 100)
            signs.append((progress, text, is_more))

        def is_at_work(row: Row) -> bool:
            return (row["status"], row["attempt"], row["cancel_requested"]) == (INPROGRESS, attempt, False)

        def is_allowed(row: Row) -> bool:
            return is_at_work(row) and (row["signs"] == number - 1 if is_more else row["signs"] <= number)

        before = self.rows[job_id]["status_text"]
        is_made = self.expect(
            me.store.touch(job_id, attempt, progress, text, LEASE, number, is_more=is_more),
            job_id,
            is_allowed,
            progress=progress,
            signs=number,
            status_text=before + text if is_more else text,
            updated_at=self.now,
            lease_until=self.clock.after(LEASE),
        )
        if is_made:
            run.until = self.clock.after(LEASE)
        elif not is_at_work(self.rows[job_id]):
            self.end(writer, job_id, Move.CANCEL, attempt, None, 0.0)
            me.stop_run(job_id)

    @rule(
        writer=writers,
        job_id=jobs,
        move=st.sampled_from(list(ENDS)),
        is_fenced=st.booleans(),
        text=st.none() | texts,
        idle_for=st.sampled_from([0.0, 0.0, 20.0]),
    )
    def end_by_id(
        self, writer: int, job_id: int, move: Move, is_fenced: bool, text: str | None, idle_for: float
    ) -> None:
        """Whoever knows its id: its code may run on until its next sign."""
        attempt = self.find_awake(writer).known[job_id].attempt if is_fenced else None
        self.end(writer, job_id, move, attempt, text, idle_for)

    def end(self, writer: int, job_id: int, move: Move, attempt: int | None, text: str | None, idle_for: float) -> None:
        progress = 100 if move is Move.COMPLETE else None
        sources, target = ENDS[move]
        row = self.rows[job_id]
        self.expect(
            self.find_awake(writer).store.move(
                move, job_id, attempt=attempt, text=text, progress=progress, idle_for=idle_for
            ),
            job_id,
            lambda row: (
                row["status"] in sources
                and attempt in (None, row["attempt"])
                and row["updated_at"] <= self.now - timedelta(seconds=idle_for)
            ),
            status=target,
            updated_at=self.now,
            ended_at=self.now,
            sealed=keep_sealed(row, target),
            status_text=row["status_text"] if text is None else text,
            error="",
            progress=row["progress"] if progress is None else progress,
            **NOTHING,
        )

    @rule(
        writer=writers,
        job_id=jobs,
        move=st.sampled_from([Move.COMPLETE, Move.FAIL, Move.RETRY, Move.RETRY]),
        text=texts,
        is_away=st.sampled_from([False, False, True]),
    )
    def end_run(self, writer: int, job_id: int, move: Move, text: str, is_away: bool) -> None:
        """The code of a job has come to its end, and its worker writes that: at the keeper's next step if the database
        is away."""
        me = self.find_awake(writer)
        if job_id not in me.runs or me.runs[job_id].has_ended:
            return
        run = me.runs[job_id]
        run.has_ended = True
        job = dataclasses.replace(me.known[job_id], attempt=run.attempt, past=self.rows[job_id]["past"])
        if move is Move.RETRY and run.attempt > job.retries:
            move = Move.FAIL
        outcome = Outcome(job, move, text, run.signs[-1][0], error="" if move is Move.COMPLETE else _BROKEN)

        def write(store: Any) -> None:
            row = self.rows[job_id]
            outcome.write(store)
            if (row["status"], row["attempt"]) == (INPROGRESS, run.attempt):
                self.note_end(row, move, text, run.signs[-1][0], outcome.delay)
            if me.runs.get(job_id) is run:
                me.stop_run(job_id)

        if is_away:
            me.renewals.postpone(write)
        else:
            write(me.store)

    def note_end(self, row: Row, move: Move, text: str, progress: int, delay: float) -> None:
        """What a worker's outcome makes of a job that runs."""
        if move is Move.RETRY and row["cancel_requested"]:
            move = Move.CANCEL
        row |= {"status_text": text, "updated_at": self.now}
        row["error"] = _BROKEN if move in (Move.FAIL, Move.RETRY) else ""
        if move is not Move.RETRY:
            row |= {"status": move.target, "progress": 100 if move is Move.COMPLETE else progress}
            row |= {"ended_at": self.now, "sealed": keep_sealed(row, move.target), **NOTHING}
            return
        row |= {"status": STARTED, "progress": 0, "started_at": None, "lease_by": None, "lease_until": None}
        row |= {"due_at": self.clock.after(delay), "attempt": row["attempt"] + 1}
        found = self.processes[0].store.get(row["id"])
        assert found is not None
        row["past"] = found.past

    @rule(writer=writers, job_id=jobs)
    def request_cancel(self, writer: int, job_id: int) -> None:
        self.expect(
            self.find_awake(writer).store.request_cancel(job_id),
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
        found = self.find_awake(writer).store.find(statuses, scope, limit, before)
        wanted = [
            row
            for job_id, row in sorted(self.rows.items(), reverse=True)
            if (statuses is None or row["status"] in statuses)
            and scope in (None, row["scope"])
            and (before is None or job_id < before)
        ]
        assert [as_row(job) for job in found] == [{**row, "sealed": None} for row in wanted[:limit]]


def read_whole(store: Store) -> list[Job]:
    """Return all records, with what is sealed, which find() leaves out."""
    found = [store.get(job.id) for job in store.find(None, None, 1000, None)]
    return [job for job in found if job is not None]


def as_row(job: Job) -> Row:
    """The row itself, whenever it was read."""
    return {**dataclasses.asdict(job), "read_at": None}
