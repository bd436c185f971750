"""The judge's file: what the runs of jobs append to it, each line on the disk before the job goes on, and its reader.

A line: job, attempt, what, seconds of the machine's monotonic clock, pid, and a word more. All processes are on one
machine, so that these seconds compare, whatever a host's clock says; the order of the lines is that of the file.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

FILE = "judge.txt"
BEGIN, END, LEFT, BESIDE = "begin", "end", "left", "beside"


@dataclass(frozen=True)
class Mark:
    """One line. ``word``: the tag of a begin, the exception of a left, the earlier attempt of a beside."""

    job: int
    attempt: int
    what: str
    at: float
    pid: int
    word: str = "-"

    @classmethod
    def parse(cls, line: str) -> Mark:
        job, attempt, what, at, pid, word = line.split()
        return cls(int(job), int(attempt), what, float(at), int(pid), word)

    def __str__(self) -> str:
        return f"{self.job} {self.attempt} {self.what} {self.at:.3f} {self.pid} {self.word}"


def begin(job: int, attempt: int, tag: str) -> None:
    """The app's code begins. A second attempt looks around for an earlier one that is at work."""
    _append(Mark(job, attempt, BEGIN, monotonic(), os.getpid(), tag))
    marks = [mark for mark in read(Path()) if mark.job == job]
    before = itertools.takewhile(lambda mark: mark.attempt < attempt, marks)
    for earlier in find_open(before):
        if _is_at_work(earlier):
            _append(Mark(job, attempt, BESIDE, monotonic(), earlier.pid, str(earlier.attempt)))


def end(job: int, attempt: int) -> None:
    """It has done all that it had to do."""
    _append(Mark(job, attempt, END, monotonic(), os.getpid()))


def leave(job: int, attempt: int, error: BaseException) -> None:
    """It does nothing more: this was raised."""
    _append(Mark(job, attempt, LEFT, monotonic(), os.getpid(), type(error).__name__))


def read(folder: Path) -> list[Mark]:
    """All lines so far."""
    path = folder / FILE
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [Mark.parse(line) for line in lines if line.endswith("\n")]


def _append(mark: Mark) -> None:
    descriptor = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{mark}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_open(marks: Iterable[Mark]) -> list[Mark]:
    """The begins among these that no end follows."""
    begun: dict[tuple[int, int], Mark] = {}
    for mark in marks:
        if mark.what == BEGIN:
            begun[mark.job, mark.attempt] = mark
        elif mark.what in (END, LEFT):
            begun.pop((mark.job, mark.attempt), None)
    return list(begun.values())


def _is_at_work(earlier: Mark) -> bool:
    """Does the process still exist that made this mark, and not another one that has its number now?"""
    try:
        words = Path(f"/proc/{earlier.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    state, started = words[0], int(words[19]) / os.sysconf("SC_CLK_TCK")
    return state not in "ZXx" and started <= earlier.at
