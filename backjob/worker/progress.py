"""The progress of one attempt: the newest report of a job, and when and what of it is written to the store.

Pure: time and output come in as values, and the arguments of a write go out. Knows no thread, clock or store.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from backjob.model.text import cut_text

RETRY = 1.0
"""Seconds until a failed write is repeated, and from then on until the thread of the job repeats it itself."""


class State(enum.Enum):
    """State of the newest report."""

    SAVED = "stored"
    CHANGED = "to be written"
    WRITING = "being written"
    OUTDATED = "an older one is being written"
    ENDED = "dropped, like all that follow"


_AFTER_REPORT = {State.SAVED: State.CHANGED, State.WRITING: State.OUTDATED}


class Write(NamedTuple):
    """Arguments of the store's write. ``is_more``: the text is appended to the stored one."""

    progress: int
    text: str
    number: int
    is_more: bool


@dataclass
class Progress:
    """Progress and status text. ``limit``: bytes of a text. ``interval``: seconds between two writes."""

    limit: int
    interval: float
    percent: float = 0.0  # small steps add up; what is stored is rounded
    state: State = State.SAVED
    is_child: bool = False
    is_unreachable: bool = False
    due_at: float = 0.0  # when the next write may begin
    _text: tuple[str, int] | None = None  # with the size of the output that it replaces
    _stored: str | None = ""  # None: not known
    _number: int = 0

    def fork(self) -> Progress:
        """Return the progress for a child process. Until it has a text of its own, it keeps the stored one."""
        state = self.state if self.state is State.ENDED else State.SAVED
        child = Progress(self.limit, self.interval, self.percent, state, is_child=True)
        child._stored, child._number = None, self._number
        return child

    def report(self, percent: float = 0.0, step: float = 0.0, text: str | None = None, size: int = 0) -> bool:
        """Take a report, without arguments of new output only. Return whether the state has changed.

        The progress never goes back; ``step`` is added to it. ``size``: bytes of output so far.
        """
        before, self.state = self.state, _AFTER_REPORT.get(self.state, self.state)
        if self.state is not State.ENDED:
            self.percent = min(max(self.percent, percent) + max(step, 0.0), 100.0)
            self._text = self._text if text is None else (text, size)
        return self.state is not before

    def show(self, output: str, shown_size: int) -> str:
        """Return the status text: the reported one until more output is shown. ``shown_size``: bytes shown so far."""
        return output if self._text is None or self._text[1] < shown_size else cut_text(self._text[0], self.limit)

    def delay(self, now: float, unfinished: float | None = None) -> float | None:
        """Return the seconds until a write is due, None if there is nothing to write.

        ``unfinished``: seconds until an unfinished line of the output is shown.
        """
        wait = {State.CHANGED: 0.0, State.SAVED: unfinished}.get(self.state)
        return None if wait is None else max(self.due_at - now, wait)

    def is_due(self, now: float) -> bool:
        """Is the job's own thread to write? If the store was unreachable, the reporter's thread is first."""
        return self.delay(now - RETRY * self.is_unreachable) == 0.0

    def make_write(self, text: str) -> Write:
        """Return the next write. Only the new part of a text that has grown is sent."""
        self._number += 1
        stored, self._stored = self._stored, text
        if self.is_child and not text:
            stored, self._stored = "", None
        if stored is None or not text.startswith(stored):
            return Write(round(self.percent), text, self._number, is_more=False)
        return Write(round(self.percent), text[len(stored) :], self._number, is_more=True)

    def catch_up(self, number: int, percent: int) -> None:
        """Go on from the stored record, which another process has changed, or to whose text nothing can be added."""
        self._number, self._stored, self.percent = number, None, max(self.percent, float(percent))

    def end_write(self, now: float, *, is_written: bool, retry: float | None = None) -> None:
        """End a write. ``retry``: seconds until the next one if the store was unreachable."""
        self.is_unreachable = retry is not None
        self.due_at = now + (self.interval if retry is None else retry)
        if not is_written:
            self._stored = None  # the answer may be lost
        if self.state is not State.ENDED:
            self.state = State.SAVED if is_written and self.state is State.WRITING else State.CHANGED
