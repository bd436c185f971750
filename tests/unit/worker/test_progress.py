"""The progress of a job as values: reports, output and the time go in, and what is written comes out."""

from __future__ import annotations

import pytest

from backjob.worker.progress import RETRY, Progress, State, Write

LIMIT = 100
INTERVAL = 0.25


@pytest.fixture
def progress() -> Progress:
    return Progress(LIMIT, INTERVAL)


def write(progress: Progress, text: str, now: float = 0.0) -> Write:
    """Write a text, and have the store take it."""
    progress.state = State.WRITING
    made = progress.make_write(text)
    progress.end_write(now, is_written=True)
    return made


def test_the_first_report_is_due_at_once_and_the_next_after_the_interval(progress: Progress) -> None:
    assert (progress.state, progress.delay(5.0), progress.is_due(5.0)) == (State.SAVED, None, False)
    assert progress.report(10) is True
    assert (progress.state, progress.delay(5.0), progress.is_due(5.0)) == (State.CHANGED, 0.0, True)
    write(progress, "", now=5.0)
    assert (progress.state, progress.delay(5.0)) == (State.SAVED, None)
    progress.report(20)
    assert (progress.delay(5.0), progress.is_due(5.0)) == (INTERVAL, False)
    assert (progress.delay(5.25), progress.is_due(5.25)) == (0.0, True)


def test_reports_without_end_are_written_once_per_interval(progress: Progress) -> None:
    written = []
    for n in range(1001):
        now = n / 256
        progress.report(n / 10, text=f"step {n}")
        if progress.is_due(now):
            written.append((now, write(progress, progress.show("", 0), now).text))
    assert written == [(n / 4, f"step {n * 64}") for n in range(16)]
    assert progress.state is State.CHANGED  # and the last one is still to be written
    assert progress.delay(now) == 4 - now


def test_only_the_first_report_after_a_write_changes_the_state(progress: Progress) -> None:
    assert [progress.report(n) for n in range(3)] == [True, False, False]
    progress.state = State.WRITING
    assert [progress.report(n) for n in range(3)] == [True, False, False]
    assert (progress.state, progress.delay(0.0), progress.is_due(0.0)) == (State.OUTDATED, None, False)


def test_a_report_during_a_write_is_written_after_it(progress: Progress) -> None:
    progress.state = State.WRITING
    progress.report(10)
    progress.end_write(5.0, is_written=True)
    assert (progress.state, progress.delay(5.0)) == (State.CHANGED, INTERVAL)


@pytest.mark.parametrize(("unfinished", "delay"), [(None, None), (0.0, 0.2), (0.1, 0.2), (0.3, 0.3)])
def test_an_unfinished_line_is_written_when_it_is_shown(
    progress: Progress, unfinished: float | None, delay: float | None
) -> None:
    write(progress, "", now=5.0)
    assert progress.delay(5.05, unfinished) == (delay if delay is None else pytest.approx(delay))
    assert not progress.is_due(9.0)


def test_progress_never_goes_back_and_steps_add_up(progress: Progress) -> None:
    shown = []
    for percent, step in [(50, 0), (20, 0), (-9, 0.4), (0, 0.4), (60, 2), (0, -3), (0, 99)]:
        progress.report(percent, step)
        shown.append(write(progress, "").progress)
    assert shown == [50, 50, 50, 51, 62, 62, 100]


def test_a_status_text_is_shown_until_output_follows_it(progress: Progress) -> None:
    assert progress.show("output", 6) == "output"
    progress.report(text="half", size=6)
    assert progress.show("output", 6) == "half"
    progress.report(60)
    assert progress.show("output", 6) == "half"
    assert progress.show("output, more", 12) == "output, more"
    progress.report(text="x" * 1000, size=12)
    assert progress.show("", 12) == "x" * LIMIT + "\n[900 more bytes of text were cut]"


@pytest.mark.parametrize(
    "texts",
    [
        [("one", "one", True), ("one, two", ", two", True), ("two", "two", False), ("two", "", True)],
        [("", "", True), ("t", "t", True), ("two", "wo", True), ("", "", False), ("x", "x", True)],
    ],
)
def test_only_the_new_part_of_a_text_is_sent(progress: Progress, texts: list[tuple[str, str, bool]]) -> None:
    first = write(progress, "")
    assert first == Write(0, "", 1, is_more=True)
    for number, (text, sent, is_more) in enumerate(texts, 2):
        assert write(progress, text) == Write(0, sent, number, is_more)


def test_a_write_that_failed_is_repeated_with_the_whole_text(progress: Progress) -> None:
    """It may have been stored, and its answer lost."""
    write(progress, "one")
    progress.report(10)
    progress.state = State.WRITING
    assert progress.make_write("one, two").text == ", two"
    progress.end_write(5.0, is_written=False, retry=0.75)
    assert (progress.state, progress.delay(5.0), progress.is_unreachable) == (State.CHANGED, 0.75, True)
    assert write(progress, "one, two") == Write(10, "one, two", 3, is_more=False)
    assert (progress.state, progress.is_unreachable) == (State.SAVED, False)


def test_the_job_leaves_an_unreachable_store_to_the_other_thread_for_a_while(progress: Progress) -> None:
    progress.report(10)
    progress.state = State.WRITING
    progress.end_write(5.0, is_written=False, retry=1.0)
    assert progress.delay(6.0) == 0.0
    assert [progress.is_due(now) for now in (5.0, 6.0, 5.9 + RETRY, 6.0 + RETRY)] == [False, False, False, True]


def test_after_a_refusal_the_record_is_written_whole_with_the_next_number(progress: Progress) -> None:
    write(progress, "one")
    progress.report(10)
    progress.state = State.WRITING
    progress.make_write("one, two")
    progress.catch_up(7, 50)
    assert progress.make_write("one, two") == Write(50, "one, two", 8, is_more=False)
    progress.end_write(5.0, is_written=False)
    assert (progress.state, progress.delay(5.0), progress.is_unreachable) == (State.CHANGED, INTERVAL, False)


@pytest.mark.parametrize("is_written", [True, False])
def test_nothing_follows_the_end(progress: Progress, is_written: bool) -> None:
    progress.report(10)
    progress.state = State.ENDED  # during a write
    progress.end_write(5.0, is_written=is_written)
    assert progress.report(20, text="late") is False
    assert (progress.state, progress.percent, progress.show("", 0)) == (State.ENDED, 10, "")
    assert (progress.delay(9.0, 0.0), progress.is_due(9.0)) == (None, False)


def test_the_text_of_a_child_replaces_that_of_its_parent(progress: Progress) -> None:
    progress.report(10, text="begun")
    write(progress, "begun", now=5.0)
    child = progress.fork()
    assert child.show("", 0) == ""
    child.report(20)
    assert child.is_due(5.0)
    assert write(child, "") == Write(20, "", 2, is_more=True)  # leaves the text
    assert write(child, "half") == Write(20, "half", 3, is_more=False)
    assert write(child, "halfway") == Write(20, "way", 4, is_more=True)
    assert write(child.fork(), "most") == Write(20, "most", 5, is_more=False)


@pytest.mark.parametrize("state", State)
def test_a_child_does_not_wait_for_a_write_of_its_parent(progress: Progress, state: State) -> None:
    progress.state = state
    assert progress.fork().state is (State.ENDED if state is State.ENDED else State.SAVED)
