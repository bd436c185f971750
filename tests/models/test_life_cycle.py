"""The life of jobs, whatever happens in whatever order: processes with keepers, which die, freeze and come back.

What they tell the store, and the plain model of it, are in support.life. Keepers decide by themselves, on a given
clock; what they may do, and what they must have done, is checked on the rows, and so are the promises, after each step.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test
from support.keepers import APP, KEY, LEASE, Process
from support.life import CANCELLED, COMPLETED, FAILED, INPROGRESS, STARTED, Life, Row, as_row, read_whole, writers
from support.records import SERVERS, Databases, count_jobs, open_store

from backjob.model.history import read_ends
from backjob.model.job import Status
from backjob.runtime import backoff
from backjob.runtime.process_identity import PROCESS, RESPONSE
from backjob.scheduling import grace_period, keeper
from backjob.storage.sql.database import Database

LOST_SLOTS = "slots for jobs are held by code that goes on after its job ended"


class LifeCycle(Life):
    """What may happen, and what must be true whatever happened."""

    def __init__(self, databases: Sequence[Database], monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(databases)
        self.databases = databases
        self.ended: dict[int, Row] = {}
        self.progress: dict[tuple[int, int], int] = {}
        self.dead: set[str] = set()
        self.begin = self.now
        # The keepers' clock is the given one, who is dead they are told, and chance is the same each time.
        monkeypatch.setattr(keeper, "time", SimpleNamespace(monotonic=self.read_clock))
        monkeypatch.setattr(keeper, "is_dead", self.is_dead)
        monkeypatch.setattr(grace_period, "_GRACE", 0)
        monkeypatch.setattr(backoff, "_random", random.Random(0))

    def read_clock(self) -> float:
        return (self.now - self.begin).total_seconds()

    def is_dead(self, holder: str | None) -> bool:
        return _owner(holder) in self.dead

    # What happens to processes.

    @rule(writer=writers, is_noticed=st.booleans())
    def die(self, writer: int, is_noticed: bool) -> None:
        """It is killed, with all that it ran and was about to write, and another one begins in its place.

        ``is_noticed``: on this host. Of one on another host nobody is certain.
        """
        if is_noticed:
            self.dead.add(_owner(self.processes[writer].name))
        self.processes[writer] = self.start(self.databases[writer])

    @rule(writer=writers)
    def freeze(self, writer: int) -> None:
        if not any(each.is_frozen for each in self.processes):
            self.processes[writer].is_frozen = True

    @rule()
    def thaw(self) -> None:
        """It goes on as if no time had gone by: what it writes is late."""
        for each in self.processes:
            each.is_frozen = False

    # What keepers do.

    @rule(writer=writers)
    def step(self, writer: int) -> None:
        """All that a keeper has to do by now."""
        me = self.find_awake(writer)
        postponed = me.renewals.leases
        me.renewals.write_postponed(me.store)  # as the step does first: what comes then is renewed no more
        assert set(me.renewals.leases) <= set(postponed)
        if me.renewal_at is None or me.renewal_at <= self.now:
            me.renewal_at = self.now + timedelta(seconds=LEASE / 3)
            self.renew(me)
            self.listen(me)
            me.renewed_at = self.now
        pause = me.keeper.step()
        assert 0 <= pause <= LEASE / 3
        self.check_sweep(me)

    def listen(self, me: Process) -> None:
        """Whoever has not renewed for long does not know whether anybody else could."""
        if me.renewed_at is None or (self.now - me.renewed_at).total_seconds() > LEASE / 2:
            me.listens_since = self.now

    def renew(self, me: Process) -> None:
        """What the model makes of a renewal."""
        until = self.clock.after(LEASE)
        for claim, job_id in me.renewals.leases.items():
            row = self.rows[job_id]
            if (row["status"], row["lease_by"]) == (INPROGRESS, claim):
                row["lease_until"] = me.runs[job_id].until = until
        for job_id, holder in me.renewals.holds.items():
            row = self.rows[job_id]
            if (row["status"], row["held_by"]) == (STARTED, holder):
                row["held_until"] = until

    @rule(writer=writers, meanwhile=st.sampled_from(["nothing", "nothing", "step", "signs", "death"]))
    def sweep(self, writer: int, meanwhile: str) -> None:
        """A sweep, and what the other process does between its look and its moves: it may just have woken up."""
        me = self.find_awake(writer)
        other = self.processes[self.processes[0] is me]
        number = self.processes.index(other)

        def do_meanwhile() -> None:
            if meanwhile != "nothing":
                self.check_sweep(me)
                other.is_frozen = False
            if meanwhile == "step":
                self.step(number)
            elif meanwhile == "signs":
                for job_id in tuple(other.runs):
                    self.touch(number, job_id, 1, "", False, 0)
            elif meanwhile == "death":
                self.die(number, True)

        self.listen(me)
        me.keeper.sweep()  # who is silent has his chance to be heard until the next one
        self.check_sweep(me)
        me.store.in_between = do_meanwhile
        pause = me.keeper.sweep()
        assert 0 < pause <= LEASE / 3
        self.check_sweep(me)
        if meanwhile == "nothing":
            self.nothing_is_left_behind(me)

    @rule()
    def let_a_lease_go_by(self) -> None:
        """After a lease and a sweep nothing belongs to the dead, and whatever lives has a way on."""
        for _ in range(5):
            self.clock.advance(LEASE / 3)
            for number, each in enumerate(self.processes):
                if not each.is_frozen:
                    self.step(number)
        awake = [each for each in self.processes if not each.is_frozen]
        leases = {claim for each in awake for claim in each.renewals.leases}
        holders = {holder for each in awake for holder in each.renewals.holds.values()}
        for row in self.rows.values():
            if row["app_id"] != APP or row["key_id"] != KEY:
                continue  # these are left to those who have the key, and to their app
            if row["status"] is INPROGRESS:
                assert row["lease_by"] in leases, "nobody vouches for a job that runs"
            elif row["status"] is STARTED:
                assert row["held_by"] in holders or self.is_free(row), "nobody is going to launch a job"

    def check_sweep(self, me: Process) -> None:
        """What this keeper has changed since, it may; from now on it is what the model knows."""
        found = {job.id: as_row(job) for job in read_whole(self.processes[0].store)}
        assert found.keys() == self.rows.keys()
        for job_id, row in found.items():
            if row != self.rows[job_id]:
                self.check_settlement(me, self.rows[job_id], row)
                self.rows[job_id].update(row)

    def check_settlement(self, me: Process, old: Row, row: Row) -> None:
        changed = {name: value for name, value in row.items() if value != old[name]}
        if old["status"] is row["status"]:
            self.pop_renewal(me, row, changed)
        if old["status"] is row["status"] is STARTED:
            if "status_text" in changed:
                self.check_wait(me, old, changed.pop("status_text"))
            if changed:
                assert changed == {"held_by": None, "held_until": None}
                assert old["held_by"].startswith(PROCESS)
                assert self.is_dead(old["held_by"])
            return
        if not changed:
            return
        is_response = old["status"] is STARTED
        assert (old["key_id"], old["app_id"]) == (KEY, APP)
        assert is_response is (old["held_by"] or "").startswith(RESPONSE)
        assert row["updated_at"] == self.now
        changed.pop("updated_at", None)
        kept = "" if LOST_SLOTS in old["status_text"] else old["status_text"]
        assert changed.pop("status_text").startswith(kept), "the output was lost"
        changed.pop("error", None)
        assert bool(row["error"]) is (row["status"] is not CANCELLED), "a failure has a reason"
        is_gone = self.is_dead(old["held_by"] or old["lease_by"])
        until, timeout = old["held_until"] or old["lease_until"], old["error_timeout"]
        is_gone |= self.is_past(old, until) and self.has_heard(me, until - timedelta(seconds=LEASE))
        is_silent = bool(timeout) and self.is_past(old, old["updated_at"] + timedelta(seconds=timeout))
        is_silent &= self.has_heard(me, old["updated_at"])
        assert is_gone or (is_silent and not is_response), "a job was settled that somebody vouched for"
        again = is_gone and not is_response and not old["cancel_requested"] and old["attempt"] <= old["retries"]
        no_lease = {name: None for name in ("lease_by", "lease_until") if old[name] is not None}
        if row["status"] is STARTED:
            assert again
            earliest, latest = (self.clock.after(times * 2.0 ** (old["attempt"] - 1)) for times in (0.5, 1.5))
            assert earliest <= changed.pop("due_at") <= latest
            changed.pop("past")
            changed.pop("progress", None)
            assert row["progress"] == 0
            assert changed == {"status": STARTED, "attempt": old["attempt"] + 1, "started_at": None, **no_lease}
            return
        assert not again or is_silent
        status = CANCELLED if is_response or old["cancel_requested"] else FAILED
        no_hold = {name: None for name in ("held_by", "held_until", "launch_failed_at") if old[name] is not None}
        wiped = {} if old["anonymous"] else {"sealed": None}
        assert changed == {"status": status, "ended_at": self.now, **wiped, **no_lease, **no_hold}

    def pop_renewal(self, me: Process, row: Row, changed: Row) -> None:
        """A sweep that finds something that may be lost renews first what its own process runs and holds."""
        until = self.clock.after(LEASE)
        if row["lease_by"] in me.renewals.leases and changed.get("lease_until") == until:
            me.runs[row["id"]].until = changed.pop("lease_until")
        if row["held_by"] == me.renewals.holds.get(row["id"]) and changed.get("held_until") == until:
            del changed["held_until"]

    def check_wait(self, me: Process, old: Row, text: str) -> None:
        """A waiting job shows that its key is missing, or that slots of this process are lost or no longer lost."""
        if text == keeper._MISSING_KEY:
            since = self.now - timedelta(seconds=keeper._KEYS_EVERY)
            assert (old["key_id"] == KEY, old["status_text"]) == (False, "")
            assert max(old["due_at"], old["held_until"] or old["due_at"]) <= since
        else:
            assert text == me.limits.lost_slots
            assert not old["status_text"] or LOST_SLOTS in old["status_text"]
        assert old["launch_failed_at"] is None
        assert (old["app_id"], old["due_at"] <= self.now) == (APP, True)

    def has_heard(self, me: Process, last_heard: datetime) -> bool:
        """Would it have heard of the job since then, or else for a whole lease, had there been something to hear?"""
        assert me.listens_since is not None
        return me.listens_since <= last_heard or me.listens_since + timedelta(seconds=LEASE) <= self.now

    def is_past(self, row: Row, end: Any) -> bool:
        return bool(end <= self.now)

    def nothing_is_left_behind(self, me: Process) -> None:
        """By this keeper's sweep, which has just ended."""
        has_heard_all = self.has_heard(me, datetime.min.replace(tzinfo=timezone.utc))
        for row in self.rows.values():
            if row["status"].is_final:
                continue
            is_known = (row["key_id"], row["app_id"]) == (KEY, APP)
            is_response = (row["held_by"] or "").startswith(RESPONSE)
            if is_known or not (is_response or row["lease_by"]):
                assert not self.is_dead(row["held_by"] or row["lease_by"]), "a dead process was not noticed"
            if has_heard_all and is_known and (is_response or row["lease_by"]):
                assert not self.is_past(row, row["held_until"] or row["lease_until"]), "a lost job was left"

    # What is true after each step.

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        found = {job.id: as_row(job) for job in read_whole(self.processes[0].store)}
        assert found == self.rows

    @invariant()
    def no_job_runs_twice(self) -> None:
        """Not while the process of the first run vouches for it; and never oftener than was asked for."""
        runs = Counter(job_id for each in self.processes for job_id, run in each.runs.items() if run.until > self.now)
        assert all(times == 1 for times in runs.values()), "a second attempt while the first one is vouched for"
        attempts = Counter(job_id for job_id, _ in self.claims)
        assert all(times <= self.rows[job_id]["retries"] + 1 for job_id, times in attempts.items())

    @invariant()
    def promises_hold(self) -> None:
        for job in read_whole(self.processes[1].store):
            assert job.status.is_final is (job.ended_at is not None)
            assert (job.sealed is None) is (job.status.is_final and not (job.anonymous and job.status is not COMPLETED))
            assert 0 <= job.progress <= 100
            assert 1 <= job.attempt <= job.retries + 1
            assert [end.attempt for end in read_ends(job.past)] == [*range(1, job.attempt)]
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
        store = self.processes[0].store
        statuses = [row["status"] for row in self.rows.values()]
        assert [count_jobs(store, status) for status in Status] == [statuses.count(status) for status in Status]
        running = Counter(row["scope"] for row in self.rows.values() if row["status"] is INPROGRESS)
        assert store.count_running() == running


def _owner(holder: str | None) -> str:
    """Whose name this is: the process's, its response's, or that of a claim."""
    return (holder or "").removeprefix(PROCESS).removeprefix(RESPONSE).partition("-")[0]


EXAMPLES = {"sqlite": 50, **dict.fromkeys(SERVERS, 4)}
"""What the rules of life are is tried on SQLite; that each server keeps them, on some lives."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_life_cycle(databases: Databases, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = databases.url(name, tmp_path)
    with open_store(url) as first, open_store(url) as second:
        pair = (first._database, second._database)
        run_state_machine_as_test(
            functools.partial(LifeCycle, pair, monkeypatch),
            settings=settings(max_examples=EXAMPLES[name], stateful_step_count=40, deadline=None),
        )
