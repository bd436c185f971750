"""The judge of the chaos suite can fail: for each promise, a story in which it is broken, and one beside it in which it
is not."""

from __future__ import annotations

from typing import Any

import pytest

from backjob import Status
from backjob.model.recovery import LEASE_LAPSED, PROCESS_GONE, REQUEST_GONE, TIMED_OUT
from chaos.host import Freeze
from chaos.kinds import KINDS
from chaos.load import Asked, Journal, find_steps_back
from chaos.runs import Mark, find_open
from chaos.verdict import REQUEST_FAILED, Verdict, judge

LEASE = 3.0
DIED = PROCESS_GONE
LAPSED = LEASE_LAPSED.format(lease=LEASE)


def try_job(
    kind: str,
    lines: str,
    status: Status | None,
    text: str = "",
    attempt: int = 1,
    *,
    job: int | None = 7,
    is_refused: bool = False,
    is_cancelled: bool = False,
    freezes: tuple[Freeze, ...] = (),
    survivors: tuple[int, ...] = (),
) -> Verdict:
    """One job of this kind: what its runs wrote ("attempt what seconds pid word", …), and how it stands in the end.

    Process 40 has answered the client.
    """
    journal = Journal([Asked("tag", KINDS[kind], job, is_refused, pid=40)], cancelled={7} if is_cancelled else set())
    marks = [Mark.parse(f"7 {line.strip()}") for line in lines.split(",") if line]
    shown: dict[int, dict[str, Any]] = {}
    if status is not None:
        shown[7] = {"id": 7, "status": int(status), "attempt": attempt, "status_text": text, "progress": 0}
    return judge(journal, marks, shown, freezes, LEASE, survivors)


ONE_RUN = "1 begin 1 50 tag, 1 end 2 50 -"
RETRIED = "1 begin 1 50 tag, 2 begin 9 60 tag, 2 end 10 60 -"
BESIDE = "1 begin 1 50 tag, 2 begin 9 60 tag, 2 beside 9 50 1, 2 end 10 60 -"
TAKEN = "1 begin 1 50 tag, 1 left 9 50 JobEnded"


@pytest.mark.parametrize(
    "verdict",
    [
        try_job("short", ONE_RUN, Status.COMPLETED),
        try_job("short", "1 begin 1 50 tag", Status.FAILED, DIED),
        try_job("steps", RETRIED, Status.COMPLETED, attempt=2),
        try_job("steps", BESIDE, Status.COMPLETED, attempt=2, freezes=(Freeze(50, 2, 8),)),
        try_job("steps", TAKEN, Status.FAILED, DIED, attempt=3, freezes=(Freeze(50, 2, 8),)),
        try_job("unwanted", TAKEN, Status.CANCELLED, is_cancelled=True),
        try_job("unwanted", ONE_RUN, Status.COMPLETED, is_cancelled=True),
        try_job("short", "1 begin 1 50 tag", Status.FAILED, f"Line 3\n{LAPSED}", freezes=(Freeze(50, 2, 8),)),
        try_job("short", "1 begin 1 50 tag, 1 left 2 50 SystemExit", Status.FAILED, "SystemExit: 1 (the server …)"),
        try_job("orphan", "", Status.CANCELLED, REQUEST_FAILED, survivors=(40,)),
        try_job("follower", "", Status.CANCELLED, REQUEST_GONE),
        try_job("follower", "", Status.CANCELLED, REQUEST_GONE, survivors=(40,), freezes=(Freeze(40, 2, 8),)),
        try_job("flaky", "1 begin 1 50 tag, 1 left 2 50 X, 4 begin 9 50 tag", Status.FAILED, "HTTP 503 X", attempt=4),
        try_job("mute", "1 begin 1 50 tag", Status.FAILED, TIMED_OUT.format(timeout=2)),
        try_job("short", ONE_RUN, Status.COMPLETED, job=None),
        try_job("short", "", Status.CANCELLED, job=None),
        try_job("short", "", None, job=None),
        try_job("short", "", None, job=None, is_refused=True),
    ],
)
def test_good(verdict: Verdict) -> None:
    assert verdict.is_good, verdict.explain()


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (try_job("short", "", None), "lost: job 7"),
        (try_job("short", "", Status.STARTED), "lost: job 7"),
        (try_job("short", "1 begin 1 50 tag", Status.INPROGRESS), "lost: job 7"),
        (try_job("short", "1 begin 1 50 tag", Status.INPROGRESS, job=None), "recorded and did not end"),
        (try_job("short", ONE_RUN, None, job=None), "there is no record of it"),
        (try_job("short", f"{ONE_RUN}, 1 begin 3 60 tag", Status.COMPLETED), "attempt 1, began twice"),
        (try_job("short", f"{ONE_RUN}, 1 begin 3 60 tag", Status.COMPLETED, job=None), "attempt 1, began twice"),
        (try_job("steps", BESIDE, Status.COMPLETED, attempt=2), "began while attempt 1 was at work"),
        (
            try_job("steps", BESIDE, Status.COMPLETED, attempt=2, freezes=(Freeze(51, 2, 8),)),
            "began while attempt 1 was at work",
        ),
        (
            try_job("steps", BESIDE, Status.COMPLETED, attempt=2, freezes=(Freeze(50, 2, 4.5),)),
            "began while attempt 1 was at work",
        ),
        (try_job("short", RETRIED, Status.COMPLETED, attempt=2), "made attempt 2 with 0 retries"),
        (try_job("short", "1 begin 1 50 tag", Status.COMPLETED), "did not come to its end"),
        (try_job("steps", RETRIED, Status.COMPLETED, attempt=1), "did not come to its end"),
        (try_job("short", "", Status.COMPLETED), "did not come to its end"),
        (try_job("broken", ONE_RUN, Status.COMPLETED), "did not come to its end"),
        (try_job("short", "1 begin 1 50 tag", Status.FAILED, ""), "without a cause"),
        (try_job("short", "1 begin 1 50 tag", Status.FAILED, "Line 19 of 20."), "without a cause"),
        (try_job("short", "1 begin 1 50 tag", Status.FAILED, "HTTP 503 Service Unavailable"), "without a cause"),
        (try_job("short", "1 begin 1 50 tag", Status.FAILED, "My lease is over."), "without a cause"),
        (try_job("short", "1 begin 1 50 tag", Status.FAILED, f"{DIED}\nLine 19 of 20."), "without a cause"),
        (try_job("short", "1 begin 1 50 tag", Status.FAILED, LEASE_LAPSED.format(lease=1)), "without a cause"),
        (try_job("short", "1 begin 1 50 tag", Status.FAILED, DIED, survivors=(50,)), "and 50 is there"),
        (try_job("short", "1 begin 1 50 tag", Status.FAILED, LAPSED), "and 50 never stood still"),
        (
            try_job("short", "1 begin 1 50 tag", Status.FAILED, LAPSED, freezes=(Freeze(50, 2, 4.5),)),
            "never stood still",
        ),
        (try_job("short", "", Status.FAILED, TIMED_OUT.format(timeout=20)), "without a cause"),
        (try_job("short", "", Status.FAILED, "The job can't be launched: refused"), "without a cause"),
        (try_job("steps", "1 begin 1 50 tag", Status.FAILED, DIED), "with retries left"),
        (try_job("short", "", Status.CANCELLED), "nobody asked for"),
        (try_job("short", "", Status.CANCELLED, REQUEST_GONE), "nobody asked for"),
        (try_job("follower", "", Status.CANCELLED), "nobody asked for"),
        (try_job("follower", "", Status.CANCELLED, REQUEST_GONE, survivors=(40,)), "nobody asked for"),
        (try_job("follower", "", Status.CANCELLED, REQUEST_FAILED, survivors=(40,)), "nobody asked for"),
        (try_job("orphan", "", Status.CANCELLED, REQUEST_GONE, survivors=(40,)), "nobody asked for"),
        (try_job("orphan", ONE_RUN, Status.COMPLETED), "though the request that started it failed"),
        (try_job("steps", TAKEN, Status.FAILED, DIED, attempt=3), "was taken from attempt 1"),
    ],
)
def test_broken_promise(verdict: Verdict, words: str) -> None:
    assert not verdict.is_good
    assert words in verdict.explain()


def test_counts() -> None:
    asked = [Asked(f"tag{number}", KINDS["short"], number) for number in range(1, 5)]
    asked += [Asked("tag5", KINDS["short"], None), Asked("tag6", KINDS["short"], None, is_refused=True)]
    marks = [Mark.parse(line) for line in ("1 1 begin 1 50 tag1", "1 1 end 2 50 -", "2 1 begin 1 50 tag2")]
    marks += [Mark.parse(line) for line in ("6 1 begin 1 50 tag6", "6 1 end 2 50 -")]
    ends = {1: Status.COMPLETED, 2: Status.FAILED, 3: Status.CANCELLED, 4: Status.STARTED, 6: Status.COMPLETED}
    shown = {job: {"status": int(status), "attempt": 1, "status_text": DIED} for job, status in ends.items()}
    verdict = judge(Journal(asked, cancelled={3}), marks, shown, [], LEASE)
    assert (verdict.accepted, verdict.completed, verdict.cancelled) == (4, 1, 1)
    assert verdict.causes == {"its process died": 1}
    assert verdict.lost == [4]
    assert {name: count for name, count in verdict.seen.items() if count} == {
        "unanswered": 1,
        "refused": 1,
        "refused, yet recorded": 1,
    }


def test_what_a_visitor_saw_counts() -> None:
    verdict = judge(Journal(breaches=["an ordinary page answered 500"]), [], {}, [], LEASE)
    assert verdict.explain() == "wrong: an ordinary page answered 500"


@pytest.mark.parametrize(
    ("before", "now", "is_back"),
    [
        ((1, 1, 50), (1, 1, 60), False),
        ((1, 1, 50), (1, 1, 40), True),
        ((1, 1, 50), (2, 0, 0), False),
        ((2, 1, 50), (1, 1, 60), True),
        ((1, 1, 50), (1, 0, 50), True),
        ((1, 2, 100), (1, 2, 100), False),
        ((1, 2, 100), (1, 3, 100), True),
        ((1, 3, 50), (2, 0, 0), True),
    ],
)
def test_steps_back(before: tuple[int, int, int], now: tuple[int, int, int], is_back: bool) -> None:
    def show(values: tuple[int, int, int]) -> dict[str, Any]:
        return {"id": 7, **dict(zip(("attempt", "status", "progress"), values, strict=True)), "status_text": ""}

    assert bool(find_steps_back(show(before), show(now))) is is_back
    assert find_steps_back(None, show(now)) == []


def test_open_runs() -> None:
    lines = ["7 1 begin 1 50 tag", "7 1 left 2 50 X", "7 2 begin 3 50 tag", "8 1 begin 3 51 tag", "8 1 end 4 51 -"]
    assert [(mark.job, mark.attempt) for mark in find_open(map(Mark.parse, lines))] == [(7, 2)]


def test_a_mark_is_read_as_it_was_written() -> None:
    mark = Mark(7, 2, "beside", 12.345, 50, "1")
    assert Mark.parse(str(mark)) == mark
