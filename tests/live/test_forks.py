"""Forks that Python knows of, and forks that it does not: a server may fork in C."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.live

PROGRAM = """
import ctypes, json, os, sys

from backjob import BackJob
from backjob.runtime.forks import call_in_child, detect_fork

class Witness:
    def __init__(self):
        self.calls = 0

    def note(self):
        self.calls += 1

witness, gone = Witness(), Witness()
call_in_child(witness.note)
call_in_child(gone.note)
del gone
application = BackJob(lambda environ, start_response: [], database="sqlite:///jobs.sqlite3", key="key1234-" * 4)
application.jobs.find()
parents = application._get_backend()
detect_fork()
sys.stdout.flush()
if ({fork})() == 0:
    children = application._get_backend()
    application.jobs.find()
    detect_fork()
    is_new = children is not parents and children is application._get_backend()
    print(json.dumps([is_new, parents.monitor.owner != children.monitor.owner, witness.calls]), flush=True)
    os._exit(0)
os.wait()
application.jobs.find()
print(json.dumps([parents is application._get_backend(), witness.calls]))
"""


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.CDLL(None).fork"])
def test_a_child_begins_anew_and_its_parent_goes_on(tmp_path: Path, fork: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(fork=fork)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    child, parent = map(json.loads, done.stdout.splitlines())
    assert child == [True, True, 1]
    assert parent == [True, 0]


KEEPERS = """
import json, os, sys
from wsgiref.util import setup_testing_defaults

from backjob import BackJob

def app(environ, start_response):
    return []

application = BackJob(app, database="sqlite:///jobs.sqlite3", key="key1234-" * 4, keeper={keeper})
thread = application._assembly._keeper_thread
before = thread.is_running
{use}
sys.stdout.flush()
if os.fork() == 0:
    child = application._assembly._keeper_thread
    print(json.dumps([child is not thread, child.is_running]), flush=True)
    os._exit(0)
os.wait()
print(json.dumps([before, thread.is_running and not application._assembly._is_paused]))
"""
OUTSIDE = "application.jobs.find()"
IN_A_REQUEST = "environ = {}; setup_testing_defaults(environ); application(environ, None)"


@pytest.mark.parametrize(
    ("keeper", "use", "in_child", "in_parent"),
    [
        (True, "", True, [True, False]),
        (True, OUTSIDE, True, [True, False]),
        (True, IN_A_REQUEST, False, [True, True]),
        (False, "", False, [False, False]),
        (False, OUTSIDE, False, [False, False]),
        (False, IN_A_REQUEST, False, [False, False]),
        (False, "application._assembly.note_job_request()", False, [False, False]),
        (False, f"{IN_A_REQUEST}; application._assembly.note_job_request()", False, [False, True]),
    ],
)
def test_the_keeper_goes_on_in_who_serves(
    tmp_path: Path, keeper: bool, use: str, in_child: bool, in_parent: list[bool]
) -> None:
    """A parent that has loaded the app for its children leaves the keeping to them; the child of one that serves, be it
    ordinary requests alone, is its tool, and keeps nothing until a request comes to it."""
    command = [sys.executable, "-W", "ignore", "-c", KEEPERS.format(keeper=keeper, use=use)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    child, parent = map(json.loads, done.stdout.splitlines())
    assert (child, parent) == ([True, in_child], in_parent)


FORKS_UNDER_STEPS = """
import os, time
from backjob import BackJob

application = BackJob(lambda environ, start: [], database="sqlite:///jobs.sqlite3", key="key1234-" * 4, lease=1)
backend = application._assembly.get_backend()
application._assembly.note_request()
application._assembly.note_job_request()
for turn in range(20):
    time.sleep(0.02)
    child = os.fork()
    if not child:
        # Whatever the keeper was at when its process forked: nothing of it is locked here.
        application.jobs.find()
        application._assembly.get_backend().keeper.step()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    backend.keeper._next = type(backend.keeper._next)()
    application._assembly._keeper_thread._wake.set()
assert application._assembly._keeper_thread.is_running
application.close()
"""


def test_forks_while_a_keeper_is_at_work(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKS_UNDER_STEPS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


GATE = """
import os, sys, threading
import backjob.runtime.forks

begun, forked, entered = threading.Event(), threading.Event(), threading.Event()
seen = []
look = None
os.register_at_fork(before=lambda: look and look(), after_in_parent=forked.set)  # "before" is called once it is closed
gate = backjob.runtime.forks.ForkGate()

def start(target):
    threading.Thread(target=target, daemon=True).start()

def enter():
    with gate:
        entered.set()

def hold(longest):
    with gate:
        begun.set()
        seen.append(forked.wait(longest))

def fork(in_child=lambda: True):
    child = os.fork()
    if not child:
        os._exit(0 if in_child() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
A_FORK_WAITS_FOR_WHO_IS_WITHIN = """
start(lambda: hold(0.3))
begun.wait()
assert fork() == 0 and seen == [False], seen
"""
NOBODY_ENTERS_BUT_WHO_FORKS = """
backjob.runtime.forks._LONGEST_FORK = 1000
def look():
    start(enter)
    seen.append(entered.wait(0.1))
    with gate:
        seen.append("forking")
assert fork() == 0 and seen == [False, "forking"], seen
assert entered.wait(10)
"""
WHO_IS_WITHIN_ENTERS_AGAIN = """
def hold_twice():
    with gate:
        begun.set()
        seen.append(forked.wait(0.3))
        with gate:
            seen.append(forked.is_set())
start(hold_twice)
begun.wait()
assert fork() == 0 and seen == [False, False], seen
"""
WHO_FORKS_FROM_WITHIN_WAITS_FOR_NOBODY = """
holder = threading.Thread(target=hold, args=(0.5,))
holder.start()
begun.wait()
with gate:
    child = os.fork()
if not child:
    enter()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0 and forked.is_set()
start(enter)
assert entered.wait(10)
holder.join()
assert seen == [True], seen
"""
A_FORK_WAITS_FOR_SO_LONG_AND_ITS_CHILD_IS_FREE = """
start(lambda: hold(10))
begun.wait()
assert fork(lambda: (start(enter), entered.wait(2))[1]) == 0
start(enter)
assert entered.wait(2)
"""
A_GATE_THAT_STAYS_CLOSED_IS_NONE = """
backjob.runtime.forks._LONGEST_FORK = 0.1
look = lambda: (start(enter), seen.append(entered.wait(10)))
assert fork() == 0 and seen == [True], seen
"""
IN_GEVENTS_HUB = """
import gevent
holding = gevent.spawn(hold, 0.3)
begun.wait()
gevent.get_hub().loop.run_callback(lambda: os.fork() or os._exit(0))  # a signal's handler may be called there
assert forked.wait(10)
holding.join()
enter()
"""


def run_gate(program: str, *, gevent: bool) -> tuple[int, str]:
    patch = "from gevent import monkey; monkey.patch_all()\n" if gevent else ""
    command = [sys.executable, "-W", "ignore", "-c", patch + GATE + program]
    environ = {**os.environ, "GEVENT_NOWAITPID": "1"}  # gevent's own may miss a child that ends at once
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("gevent", [False, True], ids=["threads", "greenlets"])
@pytest.mark.parametrize(
    "program",
    [
        A_FORK_WAITS_FOR_WHO_IS_WITHIN,
        NOBODY_ENTERS_BUT_WHO_FORKS,
        WHO_IS_WITHIN_ENTERS_AGAIN,
        WHO_FORKS_FROM_WITHIN_WAITS_FOR_NOBODY,
        A_FORK_WAITS_FOR_SO_LONG_AND_ITS_CHILD_IS_FREE,
        A_GATE_THAT_STAYS_CLOSED_IS_NONE,
    ],
    ids=["a fork waits", "nobody enters", "within", "from within", "so long", "stays closed"],
)
def test_a_gate(program: str, gevent: bool) -> None:
    assert run_gate(program, gevent=gevent) == (0, "")


def test_a_fork_in_gevents_hub_waits_for_nobody() -> None:
    assert run_gate(IN_GEVENTS_HUB, gevent=True) == (0, "")
