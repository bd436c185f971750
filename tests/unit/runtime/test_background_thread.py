"""The thread of a keeper: when it takes its steps, what wakes and stops it, and what survives an error in one."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
from support import wait_until
from support.served import PATIENCE

from backjob.runtime import background_thread
from backjob.runtime.background_thread import BackgroundThread

LONG = 3600.0


class Keeping:
    """Somebody who has something to do now and then."""

    def __init__(self, pause: float = LONG, native: bool = True) -> None:
        self.pause = pause
        self.steps: list[float] = []
        self.ends: list[int] = []
        self.in_step: Callable[[], object] = lambda: None
        self.thread = BackgroundThread(self.step, self.end, native)

    def step(self) -> float:
        self.steps.append(time.monotonic())
        self.in_step()
        return self.pause

    def end(self) -> None:
        self.ends.append(threading.get_ident())

    def wait_for_steps(self, count: int) -> None:
        wait_until(lambda: len(self.steps) >= count)


@pytest.fixture
def keeping() -> Iterator[Keeping]:
    keeping = Keeping()
    yield keeping
    keeping.in_step = lambda: None
    keeping.thread.stop()


def list_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "backjob-keeper"]


def test_makes_no_thread_by_itself(keeping: Keeping) -> None:
    assert list_threads() == []
    assert not keeping.thread.is_running
    keeping.thread.stop()
    assert keeping.steps == []


def test_steps_as_often_as_each_step_says(keeping: Keeping) -> None:
    keeping.pause = 0.05
    keeping.thread.start()
    keeping.wait_for_steps(4)
    assert min(after - before for before, after in zip(keeping.steps, keeping.steps[1:], strict=False)) >= 0.05
    keeping.pause = LONG
    assert keeping.thread.is_running


def test_begins_a_moment_later(keeping: Keeping) -> None:
    begin = time.monotonic()
    keeping.thread.start(after=0.3)
    keeping.wait_for_steps(1)
    assert keeping.steps[0] - begin >= 0.3


def test_does_not_keep_a_process_alive(keeping: Keeping) -> None:
    keeping.thread.start()
    assert [thread.daemon for thread in list_threads()] == [True]


def test_several_who_start_it_get_one_thread(keeping: Keeping) -> None:
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        keeping.thread.start()

    starters = [threading.Thread(target=start) for _ in range(8)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    keeping.wait_for_steps(1)
    assert len(list_threads()) == 1
    assert len(keeping.steps) == 1


def test_takes_no_step_after_it_was_stopped(keeping: Keeping) -> None:
    keeping.pause = 0.01
    keeping.thread.start()
    keeping.wait_for_steps(2)
    keeping.thread.stop()
    count = len(keeping.steps)
    wait_until(lambda: not list_threads())
    assert len(keeping.steps) == count
    assert not keeping.thread.is_running
    keeping.thread.stop()


def test_stopping_waits_for_the_step_that_is_under_way(keeping: Keeping) -> None:
    """A fork or the end of a process is to find nothing half done."""
    at_step, go_on, ended = threading.Event(), threading.Event(), []
    keeping.in_step = lambda: (at_step.set(), go_on.wait(PATIENCE), ended.append("step"))
    keeping.thread.start()
    assert at_step.wait(PATIENCE)
    stopper = threading.Thread(target=lambda: (keeping.thread.stop(), ended.append("stop")))
    stopper.start()
    wait_until(lambda: not keeping.thread.is_running)
    assert ended == []
    go_on.set()
    stopper.join()
    assert ended == ["step", "stop"]


def test_the_thread_lets_go_of_what_is_its_own(keeping: Keeping) -> None:
    """By itself, and before whoever stops it goes on."""
    keeping.thread.start()
    keeping.wait_for_steps(1)
    [thread] = list_threads()
    keeping.thread.stop()
    assert keeping.ends == [thread.ident]


def test_a_thread_without_a_step_has_nothing_to_let_go_of(keeping: Keeping) -> None:
    keeping.thread.start(after=LONG)
    keeping.thread.stop()
    wait_until(lambda: not list_threads())
    assert keeping.ends == []


def test_stopping_waits_no_longer_than_a_step_may_take(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs, in a database's driver say, is not to hold up the end of the process."""
    monkeypatch.setattr(background_thread, "_LONGEST_STEP", 0.1)
    at_step, go_on = threading.Event(), threading.Event()
    keeping.in_step = lambda: (at_step.set(), go_on.wait(PATIENCE))
    keeping.thread.start()
    assert at_step.wait(PATIENCE)
    keeping.thread.stop()
    assert not go_on.is_set()
    # Nor does the one that is begun then take its steps at the same time.
    keeping.thread.start()
    assert len(list_threads()) == 2
    assert len(keeping.steps) == 1
    go_on.set()
    keeping.wait_for_steps(2)
    wait_until(lambda: len(list_threads()) == 1)


def test_goes_on_where_it_is_started_again(keeping: Keeping) -> None:
    for count in (1, 2, 3):
        keeping.thread.start()
        keeping.wait_for_steps(count)
        keeping.thread.stop()
    wait_until(lambda: not list_threads())


def test_an_error_is_logged_and_the_next_step_is_taken(
    keeping: Keeping, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_thread, "_AFTER_ERROR", 0.1)

    def fail() -> None:
        keeping.in_step = lambda: None
        raise ZeroDivisionError("a keeper's own")

    keeping.in_step = fail
    keeping.thread.start()
    wait_until(lambda: caplog.records)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("backjob", logging.ERROR)
    assert "goes on" in record.message
    assert "ZeroDivisionError: a keeper's own" in caplog.text
    keeping.wait_for_steps(2)
    assert len(list_threads()) == 1


def test_after_an_error_it_takes_its_time(
    keeping: Keeping, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is not to be filled by what fails each time."""
    monkeypatch.setattr(background_thread, "_AFTER_ERROR", 0.1)
    keeping.pause = 0.0
    keeping.in_step = lambda: 1 // 0
    keeping.thread.start()
    keeping.wait_for_steps(3)
    assert min(after - before for before, after in zip(keeping.steps, keeping.steps[1:], strict=False)) >= 0.1


def test_ends_when_nobody_has_what_it_keeps() -> None:
    """An app that is dropped ends its keeper: this thread is none of those who have it."""
    keeping = Keeping()
    keeping.thread.start()
    keeping.wait_for_steps(1)
    gone = weakref.ref(keeping)
    del keeping
    gc.collect()
    assert gone() is None
    wait_until(lambda: not list_threads(), 3)


def test_ends_when_nobody_has_it_but_its_step() -> None:
    """The last one who lets go of it is then the thread itself."""
    at_step, go_on = threading.Event(), threading.Event()
    keeping = Keeping()
    keeping.in_step = lambda: (at_step.set(), go_on.wait(PATIENCE))
    keeping.thread.start()
    assert at_step.wait(PATIENCE)
    gone = weakref.ref(keeping)
    del keeping
    gc.collect()
    go_on.set()
    wait_until(lambda: gc.collect() is not None and gone() is None, 3)
    wait_until(lambda: not list_threads(), 3)
