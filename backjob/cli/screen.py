"""What a command shows: tables and lines on a terminal, plain text in a pipe, or JSON. One home for what is safe there.

A job's text may hold anything. Nothing of it reaches a terminal but as characters that can be seen. Knows no command.
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
    """The same as one line."""
    return clean(" ".join(text.split()))


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line for each in reversed(text.split("\n")) if (line := clean_line(each))), "")


def name_status(job: JobStatus) -> str:
    """The status in a word, and whether the job is to end."""
    return job.status.name.lower() + (", to be cancelled" if job.is_cancelling else "")


def write_time(time: datetime | None) -> str:
    """To the second, in UTC."""
    return time.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ") if time is not None else "-"


def write_age(time: datetime) -> str:
    """How long ago that was, in the greatest unit that fits."""
    seconds = max((datetime.now(timezone.utc) - time).total_seconds(), 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


@dataclass(frozen=True)
class Screen:
    """Standard output, as a person or a program reads it."""

    console: Console
    is_json: bool

    @property
    def is_terminal(self) -> bool:
        """Can lines that stand there be written anew?"""
        return self.console.is_terminal and not self.is_json

    def write(self, text: str, document: Any) -> None:
        """The one or the other: a clean text for people, or what JSON makes of the document."""
        self.write_json(document) if self.is_json else self.write_line(text)

    def write_json(self, document: Any) -> None:
        """A document, on one line."""
        print(json.dumps(document), flush=True)

    def write_line(self, text: str, style: str = "") -> None:
        """Text without markup, as long as it is."""
        self._write_text(Text(text, style))

    def _write_text(self, text: Text) -> None:
        if self.console.is_terminal:
            self.console.print(text, soft_wrap=True)
        else:
            print(text.plain, flush=True)

    def write_jobs(self, jobs: Sequence[JobStatus]) -> None:
        """A table of jobs."""
        if self.is_json:
            self.write_json([job.as_dict() for job in jobs])
            return
        is_terminal, columns = self.console.is_terminal, os.environ.get("COLUMNS", "")
        width = self.console.width if is_terminal else int(columns) if columns.isdecimal() else 0
        for line in _draw_table(jobs, width, is_terminal):
            self._write_text(line)

    def write_job(self, job: JobStatus) -> None:
        """All that is told of a job."""
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
    """Standard output as it is: a terminal that can move its cursor, or not. rich heeds NO_COLOR and COLUMNS."""
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return Screen(Console(force_terminal=is_terminal, markup=False, emoji=False, highlight=False), is_json)


def _draw_table(jobs: Sequence[JobStatus], width: int, is_terminal: bool) -> Iterator[Text]:
    """Columns as wide as what is in them, and lines as long as they are, or so many characters where that is not 0."""
    rows = [_COLUMNS, *(_cells(job, is_terminal) for job in jobs)]
    widths = [max(map(cell_len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    styles = ["bold", *(STYLES[job.status] for job in jobs)]
    for row, style in zip(rows, styles, strict=True):
        cells = [Text(set_cell_size(cell, size)) for cell, size in zip(row, widths, strict=False)]
        cells.append(Text(row[-1]))
        if row is not _COLUMNS:
            cells[_COLUMNS.index("STATUS")].style = style
        line = Text("  ", style if row is _COLUMNS else "").join(cells)
        line.rstrip()
        if width:
            line.truncate(width, overflow="ellipsis")
        yield line


def _cells(job: JobStatus, is_terminal: bool) -> tuple[str, ...]:
    """On a terminal the last of them is to have room."""
    scope = clean_line(job.scope) or "-"
    if is_terminal and cell_len(scope) > _LONGEST_SCOPE:
        scope = set_cell_size(scope, _LONGEST_SCOPE - 1) + "…"
    started = write_age(job.start_time) if is_terminal else write_time(job.start_time)
    progress = f"{job.progress} %"
    text = clean_line(job.error) if job.status is Status.FAILED and job.error else last_line(job.status_text)
    return str(job.id), job.status.name.lower(), progress, str(job.attempt), scope, started, text
