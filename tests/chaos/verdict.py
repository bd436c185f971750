"""The verdict: what the clients know, what the runs wrote, and how the jobs stand in the end, held against each other.

Pure: three lists in, counts and wrongs out. It knows the promises, and nothing of how they are kept.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backjob import Status
from backjob.model.recovery import LEASE_LAPSED, PROCESS_GONE, REQUEST_GONE
from chaos.host import Freeze
from chaos.kinds import Kind
from chaos.load import Asked, Journal
from chaos.runs import BEGIN, BESIDE, END, LEFT, Mark

_GONE, _LAPSED, _STOPPED, _OWN = "its process died", "its process froze", "the server stopped it", "its own"
_STOP = re.compile(r"(SystemExit|KeyboardInterrupt|GreenletExit)\b")
REQUEST_FAILED = "The request that started this job failed"


@dataclass
class Verdict:
    """What came out. ``wrongs`` says of each breach of a promise what it was; there must be none."""

    accepted: int = 0
    completed: int = 0
    cancelled: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    """The failed jobs, by cause."""
    lost: list[int] = field(default_factory=list)
    """Accepted, and not final."""
    twice: list[str] = field(default_factory=list)
    """Runs that were one too many."""
    wrongs: list[str] = field(default_factory=list)
    """Whatever else must not be."""
    seen: Counter[str] = field(default_factory=Counter)
    """What is no breach, and worth a number."""

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.twice or self.wrongs)

    def explain(self) -> str:
        """What was not good, a line each."""
        lines = [f"lost: job {job}" for job in self.lost] + [f"run twice: {each}" for each in self.twice]
        return "\n".join(lines + [f"wrong: {each}" for each in self.wrongs])


@dataclass
class _Run:
    """One attempt of a job, as its marks tell."""

    begins: list[Mark] = field(default_factory=list)
    is_ended: bool = False
    left: Mark | None = None


def judge(
    journal: Journal,
    marks: Iterable[Mark],
    statuses: Mapping[int, Mapping[str, Any]],
    freezes: Iterable[Freeze],
    lease: float,
    survivors: Container[int] = (),
) -> Verdict:
    """``statuses``: of each job that is recorded, what the app shows of it in the end. ``survivors``: the processes of
    the app that are still there.
    """
    return _Trial(journal, list(marks), statuses, list(freezes), lease, survivors).verdict


class _Trial:
    def __init__(
        self,
        journal: Journal,
        marks: list[Mark],
        statuses: Mapping[int, Mapping[str, Any]],
        freezes: list[Freeze],
        lease: float,
        survivors: Container[int],
    ) -> None:
        self._statuses = statuses
        self._survivors = survivors
        self._freezes = freezes
        self._lease = lease
        self._runs: dict[int, dict[int, _Run]] = defaultdict(lambda: defaultdict(_Run))
        by_tag = {each.tag: each for each in journal.asked}
        self._asked: dict[int, Asked] = {each.job: each for each in journal.asked if each.job is not None}
        for mark in marks:
            if mark.what == BEGIN and mark.word in by_tag:
                self._asked.setdefault(mark.job, by_tag[mark.word])
        self._cancelled = journal.cancelled
        self.verdict = Verdict(accepted=journal.accepted, wrongs=list(journal.breaches))
        self.verdict.seen["unanswered"] = sum(each.job is None and not each.is_refused for each in journal.asked)
        self.verdict.seen["refused"] = sum(each.is_refused for each in journal.asked)
        self._read(marks)
        for job in sorted({*statuses, *self._runs, *self._asked}):
            self._try(job, is_accepted=job in self._asked and self._asked[job].job is not None)

    def _read(self, marks: list[Mark]) -> None:
        for mark in marks:
            run = self._runs[mark.job][mark.attempt]
            if mark.what == BEGIN:
                if run.begins:
                    self.verdict.twice.append(f"job {mark.job}, attempt {mark.attempt}, began twice")
                run.begins.append(mark)
            elif mark.what == END:
                run.is_ended = True
            elif mark.what == LEFT:
                run.left = mark
            elif mark.what == BESIDE:
                self._see_beside(mark)

    def _see_beside(self, mark: Mark) -> None:
        earlier = self._runs[mark.job][int(mark.word)].begins[0]
        if self._was_frozen(earlier.pid, earlier.at, mark.at):
            self.verdict.seen["overtaken while frozen"] += 1
        else:
            self.verdict.twice.append(
                f"job {mark.job}, attempt {mark.attempt}, began while attempt {mark.word} was at work in {mark.pid}"
            )

    def _was_frozen(self, pid: int, begin: float, end: float) -> bool:
        """Did it stand still within this time, for longer than a lease?"""
        return any(
            each.pid == pid and each.begin < end and each.end > begin and each.end - each.begin > self._lease
            for each in self._freezes
        )

    def _try(self, job: int, *, is_accepted: bool) -> None:
        wrongs = self.verdict.wrongs
        shown = self._statuses.get(job)
        if shown is None or not Status(shown["status"]).is_final:
            if is_accepted:
                self.verdict.lost.append(job)
            elif shown:
                wrongs.append(f"job {job} is recorded and did not end")
            else:
                wrongs.append(f"job {job} ran, and there is no record of it")
            return
        if job not in self._asked:
            # It never began, and its client got no answer: nothing more is known of it.
            self.verdict.seen["ended, unanswered"] += 1
            return
        asked, status = self._asked[job], Status(shown["status"])
        kind = asked.kind
        if not is_accepted:
            self.verdict.seen["refused, yet recorded" if asked.is_refused else "ended, unanswered"] += 1
        runs = self._runs.get(job, {})
        if runs and kind.never_begins:
            wrongs.append(f"job {job} ran, though the request that started it failed")
        if runs and max(runs) > kind.retries + 1:
            self.verdict.twice.append(f"job {job} made attempt {max(runs)} with {kind.retries} retries")
        self._look_for_theft(job, kind, shown)
        what = f"job {job} ({kind.name}, attempt {shown['attempt']})"
        if status is Status.COMPLETED:
            self.verdict.completed += is_accepted
            # Without an answer nothing waited for the job, and the database may refuse its texts no more.
            is_wrong = kind.never_completes and is_accepted
            if is_wrong or not runs.get(shown["attempt"], _Run()).is_ended:
                wrongs.append(f"{what} is COMPLETED and did not come to its end")
        elif status is Status.CANCELLED:
            self.verdict.cancelled += is_accepted
            if job not in self._cancelled and not self._may_have_lost_its_request(asked, shown["status_text"]):
                wrongs.append(f"{what} is CANCELLED, which nobody asked for: {_show_end(shown)}")
        else:
            self._try_failure(what, kind, shown, runs.get(shown["attempt"], _Run()), is_accepted=is_accepted)

    def _may_have_lost_its_request(self, asked: Asked, status_text: str) -> bool:
        """Was it to follow a response that failed, or that its process did not live to make?"""
        if not asked.kind.follows:
            return False
        if status_text == REQUEST_FAILED and asked.kind.page_fails:
            return True
        is_gone = asked.pid not in self._survivors or self._was_frozen(asked.pid, 0, float("inf"))
        return status_text in (REQUEST_GONE, REQUEST_FAILED) and is_gone

    def _try_failure(self, what: str, kind: Kind, shown: Mapping[str, Any], run: _Run, *, is_accepted: bool) -> None:
        cause = find_cause(kind, shown["status_text"], self._lease)
        if cause is None:
            self.verdict.wrongs.append(f"{what} is FAILED without a cause of its own: {_show_end(shown)}")
            return
        self.verdict.causes[cause] += is_accepted
        if shown["attempt"] <= kind.retries and not (kind.is_silent and cause == _OWN):
            self.verdict.wrongs.append(f"{what} is FAILED with retries left: {_show_end(shown)}")
        for pid in {begin.pid for begin in run.begins}:
            if cause == _GONE and pid in self._survivors:
                self.verdict.wrongs.append(f"{what} is FAILED because its process is gone, and {pid} is there")
            if cause == _LAPSED and not self._was_frozen(pid, 0, float("inf")):
                self.verdict.wrongs.append(f"{what} is FAILED because its lease lapsed, and {pid} never stood still")

    def _look_for_theft(self, job: int, kind: Kind, shown: Mapping[str, Any]) -> None:
        """Code that met its job's end at a sign, though its process lived on and nobody asked for that."""
        if job in self._cancelled or kind.is_silent:
            return
        for attempt, run in self._runs.get(job, {}).items():
            left = run.left
            if left is None or left.word != "JobEnded" or not run.begins:
                continue
            if self._was_frozen(left.pid, run.begins[0].at, left.at):
                self.verdict.seen["refused late"] += 1
            else:
                self.verdict.wrongs.append(
                    f"job {job} ({kind.name}) was taken from attempt {attempt}, which ran on: {shown['status_text']!r}"
                )


def find_cause(kind: Kind, status_text: str, lease: float) -> str | None:
    """Why a job has failed: the last line of its text says it, but for what is told of an answer before its body."""
    if kind.failure and re.search(kind.failure, status_text):
        return _OWN
    last = status_text.rpartition("\n")[2]
    if _STOP.match(last):
        return _STOPPED
    return {PROCESS_GONE: _GONE, LEASE_LAPSED.format(lease=lease): _LAPSED}.get(last)


def _show_end(shown: Mapping[str, Any]) -> str:
    return repr(shown["status_text"][-300:])
