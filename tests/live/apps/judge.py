"""The judge: a file to which each run of a job appends its begin and its end, so that nobody has to believe backjob."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FILE = "judge.txt"
PLACES = "judge-places.txt"
"""In which process each run began."""
_PATIENCE = 60.0


@contextlib.contextmanager
def run(environ: Mapping[str, Any]) -> Iterator[None]:
    """The run of the job of this request: its begin and end (not reached when it is killed) go to the file."""
    job = environ["backjob"]
    note(job.job_id, os.getpid(), file=PLACES)
    note(job.job_id, job.attempt, "begin")
    yield
    note(job.job_id, job.attempt, "end")


def note(*words: object, file: str = FILE) -> None:
    """One whole line, on the disk when this returns."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def wait_for(gate: str) -> None:
    """Go on as soon as the test has made this file."""
    end = time.monotonic() + _PATIENCE
    while not Path(gate).exists():
        if time.monotonic() > end:
            raise TimeoutError(f"the test did not open {gate}")
        time.sleep(0.01)
