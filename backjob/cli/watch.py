"""Watching jobs to their end: live bars on a terminal, plain lines in a pipe, a JSON line for each change.

Only asks. Knows no command and no server.
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
"""Seconds between two looks: as often as a job's signs are written."""
_PACE = 600.0
"""Seconds whose steps tell how fast a job goes: a slow one has not many of them."""

_CUT = re.compile(r"\[\d+ bytes of earlier output were cut: ")
"""The first line of an output of which only the end is kept."""

Show = Callable[[JobStatus], None]


def watch_jobs(jobs: Jobs, ids: Sequence[int], screen: Screen) -> bool:
    """Show these jobs until all of them have ended. Have all completed? Raises JobNotFound, StoreError."""
    ends: list[Status] = []
    live = list(dict.fromkeys(ids))
    with _open_view(screen, len(live)) as show:
        while live:
            looks = [jobs.status(job_id) for job_id in live]
            for look in looks:
                show(look)
            ends += [look.status for look in looks if look.status.is_final]
            live = [look.id for look in looks if not look.status.is_final]
            if live:
                time.sleep(_PAUSE)
    return all(end is Status.COMPLETED for end in ends)


class GrowingText:
    """A job's text as it grows: gives the lines that are new at each look.

    A line without its end is given once it stays as it was for a look, or the job has ended.
    """

    def __init__(self) -> None:
        self._text = ""
        self._given = 0

    def take(self, text: str, is_last: bool) -> list[str]:
        """The lines that are new."""
        given = self._text[: self._given]
        if not text.startswith(given):
            self._given = _find_common(given, text)
        elif text[self._given : self._given + 1] not in ("", "\n"):
            self._given = given.rfind("\n") + 1  # a line that was given goes on, or is another one: whole again
        stands = is_last or text == self._text
        end = max(len(text) if stands else text.rfind("\n") + 1, self._given)
        new = text[self._given : end]
        self._text, self._given = text, end
        return [line for each in new.split("\n") if (line := clean(each.rstrip()))]


def _find_common(given: str, text: str) -> int:
    """Return the length of the known part of a text, in whole lines, although its beginning has changed.

    Its last line may have been overwritten, or its first lines cut off: then the first line says so.
    """
    kept = given[: given.rfind("\n") + 1]
    if text.startswith(kept):
        return len(kept)
    begin = text.find("\n") + 1
    place = given.find(text[begin : text.find("\n", begin) + 1])
    if not begin or not _CUT.match(text) or place < 0:
        return 0
    for common in (given[place:], kept[place:]):
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
    """For each job the lines that are new, and one line for its progress and status when they have changed."""

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
    """A bar for each job below the lines, which stays in its place."""

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
            self.progress.remove_task(task)  # its pace was that of another run
            task = None
        if task is None:
            task = self.progress.add_task(f"job {job.id}", total=100, completed=job.progress, job=job)
            self._tasks[job.id] = task, job.attempt
        self.progress.update(task, completed=job.progress, job=job)
        if job.status.is_final and len(self._tasks) > self._most:
            self.progress.remove_task(task)  # there is no room but for those that run
            self._screen.write_line(state, STYLES[job.status])
        elif job.status.is_final:
            self.progress.stop_task(task)


class _Percent(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:3.0f} %")


class _Pace(ProgressColumn):
    """How fast it goes, and how long it takes if it goes on like that."""

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
