"""Forks that Python knows of, and forks that it does not: a server may fork in C."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, json, os, sys

from backjob import BackJob
from backjob.forks import call_in_child, notice_fork

class Witness:
    def __init__(self):
        self.calls = 0

    def note(self):
        self.calls += 1

witness, gone = Witness(), Witness()
call_in_child(witness.note)
call_in_child(gone.note)
del gone
application = BackJob(lambda environ, start_response: [], database="sqlite:///jobs.sqlite3", key="k" * 32)
application.jobs.find()
parents = application._find_backend()
notice_fork()
sys.stdout.flush()
if ({fork})() == 0:
    children = application._find_backend()
    application.jobs.find()
    notice_fork()
    is_new = children is not parents and children is application._find_backend()
    print(json.dumps([is_new, parents.monitor.owner != children.monitor.owner, witness.calls]), flush=True)
    os._exit(0)
os.wait()
application.jobs.find()
print(json.dumps([parents is application._find_backend(), witness.calls]))
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
