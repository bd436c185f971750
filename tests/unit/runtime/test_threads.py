"""Threads and locks of the system, also where gevent has put greenlets in their place."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import wait_until
from support.patched import run_patched
from support.served import PATIENCE

from backjob.runtime.threads import AutoResetEvent, Threads, is_native

COMPUTE = """
import threading, time
from backjob.runtime.threads import AutoResetEvent, Threads, is_native

def compute(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))

"""


@pytest.mark.parametrize("native", [True, False])
def test_a_thread_runs_beside_us(native: bool) -> None:
    assert is_native()
    ran: list[threading.Thread] = []
    threads = Threads(native)
    threads.start(lambda: ran.append(threading.current_thread()), "backjob-test", threads.make_lock())
    wait_until(lambda: ran)
    assert (ran[0].name, ran[0].daemon) == ("backjob-test", True)


def test_a_bell_ends_a_wait() -> None:
    event = AutoResetEvent(Threads(True))
    heard: list[bool] = []
    thread = threading.Thread(target=lambda: heard.append(event.wait(PATIENCE)))
    thread.start()
    event.set()
    thread.join(PATIENCE)
    assert heard == [True]


def test_a_bell_that_nobody_rings_is_waited_for_so_long() -> None:
    event = AutoResetEvent(Threads(True))
    begin = time.monotonic()
    assert event.wait(0.2) is False
    assert time.monotonic() - begin >= 0.2
    for seconds in (0.0, -1.0):
        assert event.wait(seconds) is False


def test_a_bell_that_was_rung_before_ends_the_next_wait_and_no_other() -> None:
    event = AutoResetEvent(Threads(True))
    for _ in range(3):
        event.set()
    assert event.wait(float("inf")) is True
    assert event.wait(0) is False


def test_a_greenlet_that_computes_does_not_stop_a_native_thread() -> None:
    printed = run_patched(
        COMPUTE
        + """
ticks, is_over = [], []
threads = Threads(native=True)
event = AutoResetEvent(threads)

def tick():
    while not is_over:
        event.wait(0.05)
        ticks.append(time.monotonic())

threads.start(tick, "test", threads.make_lock())
begin = time.monotonic()
compute(1.5)
is_over.append(True)
print(is_native(), len([t for t in ticks if t < begin + 1.5]))
"""
    )
    native, count = printed.split()
    assert native == "False"
    assert int(count) >= 5


@pytest.mark.live
def test_a_native_thread_that_ends_as_the_process_ends_does_not_keep_it() -> None:
    """Both may come to want gevent's hub at the same moment, and two that are made at once wait for each other."""
    program = (
        COMPUTE
        + """
is_over = []
event = AutoResetEvent(threads := Threads(native=True))

def wait():
    while not is_over:
        event.wait(0.005)

threads.start(wait, "test", threads.make_lock())
compute(0.1)
is_over.append(True)
print("end")
"""
    )
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run_patched, [program] * 16)) == ["end"] * 16


def test_a_thread_that_need_not_be_native_is_a_greenlet_there() -> None:
    """It shares the locks of the others: without a database there is nothing else to share."""
    printed = run_patched(
        COMPUTE
        + """
ticks = []

def tick():
    while len(ticks) < 5:
        ticks.append(threading.current_thread().name)
        time.sleep(0.01)

Threads(native=False).start(tick, "test", threading.Lock())
before = len(ticks)
compute(0.5)
assert len(ticks) == before, ticks
while len(ticks) < 5:
    time.sleep(0.01)
print(ticks[0])
"""
    )
    assert printed == "test"


def test_a_greenlet_rings_for_a_native_thread() -> None:
    printed = run_patched(
        COMPUTE
        + """
heard = []
threads = Threads(native=True)
event = AutoResetEvent(threads)
threads.start(lambda: heard.append(event.wait(30)), "test", threads.make_lock())
time.sleep(0.2)
event.set()
begin = time.monotonic()
while not heard and time.monotonic() < begin + 20:
    time.sleep(0.01)
print(heard)
"""
    )
    assert printed == "[True]"


def test_a_thread_leaves_nothing_of_gevents_behind() -> None:
    """A keeper's thread is begun anew at each fork, and waits for a database by gevent's sockets."""
    printed = run_patched(
        """
import os, socket
from backjob.runtime.threads import AutoResetEvent, Threads

threads = Threads(native=True)

def wait_for_a_socket():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.01)
        try:
            ours.recv(1)
        except TimeoutError:
            event.set()

counts = set()
for _ in range(5):
    event = AutoResetEvent(threads)
    threads.start(wait_for_a_socket, "backjob-test", threads.make_lock())
    assert event.wait(60)
    while len(os.listdir("/proc/self/task")) > 1:
        pass
    counts.add(len(os.listdir("/proc/self/fd")))
print(len(counts))
"""
    )
    assert printed == "1"


def test_who_logged_in_a_thread_is_gone_before_the_thread() -> None:
    """Else gevent prints a traceback now and then as the process ends: 3 of 120 times on a busy machine."""
    printed = run_patched(
        """
import threading
from backjob.runtime.threads import AutoResetEvent, Threads

threads = Threads(native=True)
event = AutoResetEvent(threads)
counts = []

class Lock:
    def __enter__(self):
        pass

    def __exit__(self, *_):
        counts.append(len(threading.enumerate()))
        event.set()

def log():
    threading.current_thread()
    counts.append(len(threading.enumerate()))

threads.start(log, "backjob-test", Lock())
assert event.wait(60)
print(counts)
"""
    )
    assert printed == "[2, 1]"
