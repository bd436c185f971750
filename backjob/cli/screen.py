"""The output of a command: tables and lines on a terminal, plain text in a pipe, or JSON.

A job's text may contain control characters. They are escaped before it reaches a terminal. Knows no command.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from backjob import JobStatus, Status
from backjob.model.text import escape_controls

STYLES = {
    Status.STARTED: "",
    Status.INPROGRESS: "cyan",
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "yellow",
}
_COLUMNS = ("ID", "STATUS", "PROGRESS", "ATTEMPT", "SCOPE", "STARTED", "TEXT")
_LONGEST_SCOPE = 24


def clean(text: str) -> str:
    """Return the text with escapes in place of control characters other than line ends and tabs."""
    return escape_controls(text.replace("\r\n", "\n"), keep="\n\t")


def clean_line(text: str) -> str:
    """Return the clean text as one line."""
    return clean(" ".join(text.split()))


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    return next((line for each in reversed(text.split("\n")) if (line := clean_line(each))), "")


def name_status(job: JobStatus) -> str:
    """Return the status in a word, and whether the job is being cancelled."""
    return job.status_name + (", to be cancelled" if job.is_cancelling else "")


def write_time(time: datetime | None) -> str:
    """Return the time in UTC, to the second."""
    return time.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") if time is not None else "-"


def write_age(time: datetime) -> str:
    """Return the time since then, in the largest unit that fits."""
    seconds = max((datetime.now(timezone.utc) - time).total_seconds(), 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


@dataclass(frozen=True)
class Screen:
    """Standard output, for people or for programs."""

    console: Console
    is_json: bool

    @property
    def is_terminal(self) -> bool:
        """Return whether lines on it can be overwritten."""
        return self.console.is_terminal and not self.is_json

    def write(self, text: str, document: Any) -> None:
        """Write the clean text for people, or the document as JSON."""
        self.write_json(document) if self.is_json else self.write_line(text)

    def write_json(self, document: Any) -> None:
        """Write a document on one line."""
        print(json.dumps(document), flush=True)

    def write_line(self, text: str, style: str = "") -> None:
        """Write text without markup, uncut."""
        self._write_text(Text(text, style))

    def _write_text(self, text: Text) -> None:
        if self.console.is_terminal:
            self.console.print(text, soft_wrap=True)
        else:
            print(text.plain, flush=True)

    def write_jobs(self, jobs: Sequence[JobStatus]) -> None:
        """Write a table of jobs."""
        if self.is_json:
            self.write_json([job.as_dict() for job in jobs])
            return
        is_terminal, columns = self.console.is_terminal, os.environ.get("COLUMNS", "")
        width = self.console.width if is_terminal else int(columns) if columns.isdecimal() else 0
        for line in _draw_table(jobs, width, is_terminal):
            self._write_text(line)

    def write_job(self, job: JobStatus) -> None:
        """Write all fields of a job."""
        if self.is_json:
            self.write_json(job.as_dict())
            return
        facts = {
            "id": str(job.id),
            "status": name_status(job),
            "progress": f"{job.progress} %",
            "attempt": str(job.attempt),
            "scope": clean_line(job.scope) or "-",
            "started": write_time(job.start_time),
            "updated": write_time(job.updated_time),
            "ended": write_time(job.end_time),
        }
        for name, fact in facts.items():
            self.write_line(f"{name:<10}{fact}", STYLES[job.status] if name == "status" else "")
        if job.location:
            self.write_line(f"{'location':<10}{clean_line(job.location)}")
        for end in job.past:
            self.write_line(f"attempt {end.attempt} ended {write_time(end.ended_at)}: {last_line(end.text)}")
        if job.status_text:
            self.write_line(f"\n{clean(job.status_text).rstrip()}")


def open_screen(is_json: bool) -> Screen:
    """Return standard output, as a terminal if it can move its cursor. rich respects NO_COLOR and COLUMNS."""
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return Screen(Console(force_terminal=is_terminal, markup=False, emoji=False, highlight=False), is_json)


def _draw_table(jobs: Sequence[JobStatus], width: int, is_terminal: bool) -> Iterator[Text]:
    """Yield the lines of a table. They are cut at ``width`` characters, unless that is 0."""
    rows = [_COLUMNS, *(_make_row(job, is_terminal) for job in jobs)]
    widths = [max(map(cell_len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    styles = ["bold", *(STYLES[job.status] for job in jobs)]
    for row, style in zip(rows, styles, strict=True):
        texts = [Text(set_cell_size(text, size)) for text, size in zip(row, widths, strict=False)]
        texts.append(Text(row[-1]))
        if row is not _COLUMNS:
            texts[_COLUMNS.index("STATUS")].style = style
        line = Text("  ", style if row is _COLUMNS else "").join(texts)
        line.rstrip()
        if width:
            line.truncate(width, overflow="ellipsis")
        yield line


def _make_row(job: JobStatus, is_terminal: bool) -> tuple[str, ...]:
    """Return the texts of a row. On a terminal the scope is cut, to leave space for the status text."""
    scope = clean_line(job.scope) or "-"
    if is_terminal and cell_len(scope) > _LONGEST_SCOPE:
        scope = set_cell_size(scope, _LONGEST_SCOPE - 1) + "…"
    started = write_age(job.start_time) if is_terminal else write_time(job.start_time)
    progress = f"{job.progress} %"
    text = clean_line(job.error) if job.status is Status.FAILED and job.error else last_line(job.status_text)
    return str(job.id), job.status_name, progress, str(job.attempt), scope, started, text
