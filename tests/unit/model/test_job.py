"""What a job is: the diagram of its life as data, the numbers of its statuses, and records that keep their secrets."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from support import DOCS
from support.records import new_job

from backjob.model.history import AttemptEnd, add_end
from backjob.model.job import FINAL, LIVE, Job, JobRequest, JobStatus, Move, Status
from backjob.model.transitions import TRANSITIONS, draw_diagram

NOW = datetime(2031, 1, 2, 3, 4, 5, 678, tzinfo=timezone.utc)
CANARY = "canary-of-a-user"


def make_job(**changes: Any) -> Job:
    fields: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(Job))
    fields |= {"id": 7, "uid": "u" * 32, "status": Status.INPROGRESS, "attempt": 1, "retries": 0, "progress": 40}
    fields |= {"status_text": "so far", "scope": "office", "method": "GET", "path": "/report"}
    fields |= {"error": "broken", "location": "/ticket/17"}
    fields |= {"key_id": "key", "app_id": "app", "sealed": b"sealed", "past": ""}
    fields |= {"app_version": "", "record_version": 1}
    fields |= {"priority": 0, "error_timeout": 120, "cancel_requested": False}
    fields |= dict.fromkeys(["created_at", "due_at", "started_at", "updated_at", "lease_until", "read_at"], NOW)
    return Job(**{**fields, **changes})


def test_statuses_have_the_originals_numbers() -> None:
    assert {status.name: status.value for status in Status} == {
        "STARTED": 0,
        "INPROGRESS": 1,
        "COMPLETED": 2,
        "FAILED": 3,
        "CANCELLED": 4,
    }


def test_people_see_a_word_for_each_status() -> None:
    words = ["waiting", "running", "completed", "failed", "cancelled"]
    assert [status.word for status in Status] == words
    assert [make_job(status=status).as_status().status_name for status in Status] == words


def test_three_statuses_are_final() -> None:
    assert {status for status in Status if status.is_final} == FINAL
    assert {Status.COMPLETED, Status.FAILED, Status.CANCELLED} == FINAL
    assert {Status.STARTED, Status.INPROGRESS} == LIVE


def test_transitions_are_the_diagram() -> None:
    diagram = {
        Status.STARTED: {Status.INPROGRESS, Status.FAILED, Status.CANCELLED},
        Status.INPROGRESS: {Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.STARTED},
        Status.COMPLETED: set(),
        Status.FAILED: set(),
        Status.CANCELLED: set(),
    }
    assert diagram == TRANSITIONS


def test_moves_are_the_diagrams_arrows() -> None:
    live = {Status.STARTED, Status.INPROGRESS}
    assert {move.name: (move.sources, move.target) for move in Move} == {
        "CLAIM": ({Status.STARTED}, Status.INPROGRESS),
        "COMPLETE": ({Status.INPROGRESS}, Status.COMPLETED),
        "FAIL": (live, Status.FAILED),
        "CANCEL": (live, Status.CANCELLED),
        "RETRY": ({Status.INPROGRESS}, Status.STARTED),
    }


@pytest.mark.parametrize(
    "record",
    [make_job(), make_job().as_status(), new_job(), new_job().request],
    ids=lambda record: type(record).__name__,
)
def test_records_are_frozen(record: Any) -> None:
    for field in dataclasses.fields(record):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field.name, None)


def test_the_public_part_of_a_record() -> None:
    job = make_job(status=Status.COMPLETED, attempt=3, ended_at=NOW + timedelta(1), updated_at=NOW + timedelta(2))
    assert job.as_status() == JobStatus(
        id=7,
        progress=40,
        status=Status.COMPLETED,
        status_text="so far",
        error="broken",
        location="/ticket/17",
        scope="office",
        start_time=NOW,
        updated_time=NOW + timedelta(2),
        end_time=NOW + timedelta(1),
        attempt=3,
        is_cancelling=False,
        past=(),
    )


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("is_asked", [False, True])
def test_only_what_runs_is_being_cancelled(status: Status, is_asked: bool) -> None:
    shown = make_job(status=status, cancel_requested=is_asked).as_status()
    assert shown.is_cancelling is (is_asked and status is Status.INPROGRESS)


@pytest.mark.parametrize("ended_at", [None, NOW + timedelta(1)])
def test_as_dict_is_ready_for_json(ended_at: datetime | None) -> None:
    past = add_end("", AttemptEnd(1, NOW, "broken"))
    status = make_job(ended_at=ended_at, status_text='a "quote"\n\x00 🐔', past=past).as_status()
    read = json.loads(json.dumps(status.as_dict()))
    assert read == {
        "id": 7,
        "progress": 40,
        "status": 1,
        "status_name": "running",
        "status_text": 'a "quote"\n\x00 🐔',
        "error": "broken",
        "location": "/ticket/17",
        "scope": "office",
        "start_time": "2031-01-02T03:04:05.000678+00:00",
        "updated_time": "2031-01-02T03:04:05.000678+00:00",
        "end_time": "2031-01-03T03:04:05.000678+00:00" if ended_at else None,
        "attempt": 1,
        "is_cancelling": False,
        "past": [{"attempt": 1, "ended_at": "2031-01-02T03:04:05.000678+00:00", "text": "broken"}],
    }
    assert list(read) == [*(field.name for field in dataclasses.fields(status)), "status_name"]
    assert datetime.fromisoformat(read["start_time"]) == status.start_time
    assert type(status.as_dict()["status"]) is int


def test_seconds_are_counted_from_when_it_was_read() -> None:
    job = make_job(due_at=NOW + timedelta(seconds=90), launch_failed_at=NOW - timedelta(seconds=2.5))
    assert (job.due_in, job.launch_failed_for) == (90, 2.5)
    later = dataclasses.replace(job, read_at=NOW + timedelta(seconds=100), launch_failed_at=None)
    assert (later.due_in, later.launch_failed_for) == (0, 0)


@pytest.mark.parametrize(
    ("failed_for", "since", "counted", "is_told"),
    [
        (0, 0.5, 0.5, True),
        (0, 1.5, 1.5, True),
        (0, 1.6, 1.5, False),
        (0, 86400, 1.5, False),
        (20, 30, 50, True),
        (20, 31, 50, False),
        (1000, 450, 1450, True),
        (1000, 451, 1450, False),
    ],
)
def test_a_launch_fails_for_the_pauses_between_the_tries(
    failed_for: float, since: float, counted: float, is_told: bool
) -> None:
    """Time beyond the longest pause is a wait for a slot: it does not count, and the failure may not be its reason."""
    failed_at, read_at = NOW - timedelta(seconds=failed_for), NOW + timedelta(seconds=since)
    text = "Not launched yet, next try in 3 s: refused"
    job = make_job(status=Status.STARTED, status_text=text, launch_failed_at=failed_at, read_at=read_at)
    assert job.launch_failed_for == counted
    assert job.as_status().status_text == (text if is_told else "Not launched yet, the last try failed: refused")
    job = dataclasses.replace(job, held_until=read_at + timedelta(seconds=1))
    assert job.as_status().status_text == (text if is_told else "")


def test_no_repr_shows_what_a_user_sent() -> None:
    names = ("script_name", "path_info", "query_string", "content_type", "remote_addr", "remote_user")
    secrets: dict[str, Any] = {**dict.fromkeys(names, CANARY), "headers": {"HTTP_COOKIE": CANARY}}
    request = JobRequest("POST", f"/report?name={CANARY}", body=CANARY.encode(), **secrets)
    new = new_job(request=request, uid=CANARY, unique_key=CANARY, held_by=CANARY)
    told = add_end("", AttemptEnd(1, NOW, CANARY))
    texts = {"uid": CANARY, "status_text": CANARY, "past": told, "held_by": CANARY, "lease_by": CANARY}
    job = make_job(sealed=CANARY.encode(), **texts)
    for shown in (repr(request), str(request), repr(new), repr(job), f"{[request, new, job]}"):
        assert CANARY not in shown
    assert "POST /report" in repr(request)


def test_the_diagram_in_the_docs_is_made_from_the_moves() -> None:
    page = (DOCS / "life-cycle.md").read_text()
    assert f"```mermaid\n{draw_diagram()}\n```\n" in page
