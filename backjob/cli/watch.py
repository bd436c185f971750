"""Watches jobs until they end: with bars on a terminal, plain lines in a pipe, or a JSON line for each change.

Only reads their status. Knows no command and no server.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from backjob import Jobs, JobStatus, Status

from .screen import STYLES, Screen, clean, name_status

_PAUSE = 0.2
"""Seconds between two polls: as often as progress reports are written."""
_PACE = 600.0
"""Seconds over which the pace is averaged. They are many, because a slow job has few steps."""

_CUT = re.compile(r"\[\d+ bytes of earlier output were cut: ")
"""The first line of an output whose beginning was cut."""

Show = Callable[[JobStatus], None]


def watch_jobs(jobs: Jobs, ids: Sequence[int], screen: Screen) -> bool:
    """Show jobs until all of them have ended. Return whether all completed. Raises JobNotFound, StoreError."""
    ends: list[Status] = []
    live = list(dict.fromkeys(ids))
    with _open_view(screen, len(live)) as show:
        while live:
            found = [jobs.status(job_id) for job_id in live]
            for job in found:
                show(job)
            ends += [job.status for job in found if job.status.is_final]
            live = [job.id for job in found if not job.status.is_final]
            if live:
                time.sleep(_PAUSE)
    return all(end is Status.COMPLETED for end in ends)


class GrowingText:
    """A job's growing text. Each call of take() returns the new lines.

    A line without a newline is returned once it is the same in two calls, or when the job has ended.
    """

    def __init__(self) -> None:
        self._text = ""
        self._given = 0

    def take(self, text: str, is_last: bool) -> list[str]:
        """Return the new lines of the text."""
        given = self._text[: self._given]
        if not text.startswith(given):
            self._given = _find_common(given, text)
        elif text[self._given : self._given + 1] not in ("", "\n"):
            self._given = given.rfind("\n") + 1  # the last line has changed: return all of it again
        is_stable = is_last or text == self._text
        end = max(len(text) if is_stable else text.rfind("\n") + 1, self._given)
        new = text[self._given : end]
        self._text, self._given = text, end
        return [line for each in new.split("\n") if (line := clean(each.rstrip()))]


def _find_common(given: str, text: str) -> int:
    """Return the length of the part of a text that was given before, in whole lines.

    Its last line may have been overwritten, or its first lines cut. The first line then says so.
    """
    kept = given[: given.rfind("\n") + 1]
    if text.startswith(kept):
        return len(kept)
    begin = text.find("\n") + 1
    offset = given.find(text[begin : text.find("\n", begin) + 1])
    if not begin or not _CUT.match(text) or offset < 0:
        return 0
    for common in (given[offset:], kept[offset:]):
        if text.startswith(common, begin):
            return begin + len(common)
    return 0


@contextlib.contextmanager
def _open_view(screen: Screen, count: int) -> Iterator[Show]:
    if screen.is_json:
        yield _JsonView(screen).show
    elif screen.is_terminal:
        view = BarView(screen, count)
        with view.progress:
            yield view.show
    else:
        yield _LineView(screen, count).show


class _JsonView:
    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._last: dict[int, JobStatus] = {}

    def show(self, job: JobStatus) -> None:
        if self._last.get(job.id) != job:
            self._last[job.id] = job
            self._screen.write_json(job.as_dict())


class _LineView:
    """The new lines of each job, and one line for its progress and status when they change."""

    def __init__(self, screen: Screen, count: int) -> None:
        self._screen = screen
        self._is_one = count == 1
        self._texts: dict[int, GrowingText] = {}
        self._states: dict[int, str] = {}

    def show(self, job: JobStatus) -> None:
        for line in self._texts.setdefault(job.id, GrowingText()).take(job.status_text, job.status.is_final):
            self._screen.write_line(f"  {line}" if self._is_one else f"  {job.id}: {line}")
        state = f"job {job.id}  {job.progress:3} %  {name_status(job)}"
        state += f", attempt {job.attempt}" if job.attempt > 1 else ""
        if self._states.get(job.id) != state:
            self._states[job.id] = state
            self.write_state(job, state)

    def write_state(self, job: JobStatus, state: str) -> None:
        self._screen.write_line(state)


class BarView(_LineView):
    """A bar for each job, below the lines."""

    def __init__(self, screen: Screen, count: int) -> None:
        super().__init__(screen, count)
        bar = BarColumn(complete_style="cyan", finished_style="green")
        columns = (TextColumn("{task.description}", markup=False), bar, _Percent(), _Pace(), _State())
        self.progress = Progress(*columns, console=screen.console, speed_estimate_period=_PACE)
        self._most = screen.console.height - 2
        self._tasks: dict[int, tuple[TaskID, int]] = {}

    def write_state(self, job: JobStatus, state: str) -> None:
        task, attempt = self._tasks.get(job.id, (None, 0))
        if task is not None and attempt != job.attempt:
            self.progress.remove_task(task)  # its pace is the last attempt's
            task = None
        if task is None:
            task = self.progress.add_task(f"job {job.id}", total=100, completed=job.progress, job=job)
            self._tasks[job.id] = task, job.attempt
        self.progress.update(task, completed=job.progress, job=job)
        if job.status.is_final and len(self._tasks) > self._most:
            self.progress.remove_task(task)  # leaves the space to running jobs
            self._screen.write_line(state, STYLES[job.status])
        elif job.status.is_final:
            self.progress.stop_task(task)


class _Percent(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:3.0f} %")


class _Pace(ProgressColumn):
    """The pace of a job, and the remaining time at this pace."""

    def render(self, task: Task) -> Text:
        speed, left = task.speed, task.time_remaining
        if task.fields["job"].status is not Status.INPROGRESS or not speed or left is None:
            return Text("")
        minutes, seconds = divmod(int(left), 60)
        return Text(f"{speed:.3g} %/s, {minutes // 60}:{minutes % 60:02}:{seconds:02} left")


class _State(ProgressColumn):
    def render(self, task: Task) -> Text:
        job: JobStatus = task.fields["job"]
        return Text(name_status(job), STYLES[job.status])
