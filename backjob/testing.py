"""Jobs in unit tests: ``BackJob(app, launcher=Inline())`` runs them with no socket, no thread and no server.

Imports the standard library and backjob's public names alone. Its fixture for pytest stands in pytest_plugin.py.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from . import BackJob, BackJobError, Jobs, JobStatus, Status

WSGIApp = Callable[..., Iterable[bytes]]

_MOST_JOBS = 1000
_PAUSE = 0.02


class Step(NamedTuple):
    """What a job told while it ran: its progress (0-100) and its text."""

    progress: int
    text: str


class _Here(threading.local):
    """What one thread is at."""

    depth = 0

    def __init__(self) -> None:
        self.due: deque[int] = deque()


class Inline:
    """A launcher that runs jobs right here, one after the other, in the thread that starts them.

    A job that a request starts runs when the app has answered, before the answer goes out; one that is started outside
    of a request, in that call. One with a ``delay`` waits for ``run_waiting()``, and so does the next attempt of one
    that failed and has ``retries`` left. In all else the job goes through the app as on a server: as its user, with its
    status, output and progress in the database.
    """

    is_inline = True
    """No keeper runs, and each update is written at once: there is no other thread."""

    def __init__(self) -> None:
        self._application: BackJob | None = None
        self._here = _Here()
        self._steps: dict[int, list[Step]] = {}

    @property
    def application(self) -> BackJob:
        """That whose jobs it runs. Raises BackJobError before it has one."""
        if self._application is None:
            raise BackJobError("This Inline() runs nobody's jobs yet: give it to BackJob(app, launcher=…)")
        return self._application

    def bind(self, application: BackJob, app: WSGIApp) -> WSGIApp:
        """What BackJob wraps: the app, and after each answer of it the jobs that are due.

        Raises BackJobError for a second application.
        """
        if self._application is not None:
            raise BackJobError("An Inline() runs the jobs of one application: make another one for this")
        self._application = application

        def answer_and_run(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            with self.answering():
                return app(environ, start_response)

        return answer_and_run

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Within it a request is answered, and the jobs that it starts run at the end.

        For a client that calls no WSGI app, such as Django's.
        """
        self._here.depth += 1
        try:
            yield
        finally:
            self._here.depth -= 1
            self._run_due()  # also when it raises: what was started runs on a server too

    def check(self, environ: Mapping[str, Any] | None) -> None:
        """Jobs can be launched from anywhere."""

    def launch(self, token: Any, request: Any, environ: Mapping[str, Any] | None) -> bool:
        """Run this job as soon as the app has answered, or now, if no request is under way in this thread."""
        self._here.due.append(token.job_id)
        self._run_due()
        return True

    def on_update(self, job: JobStatus) -> None:
        """BackJob calls it with each update of a job: that is a step."""
        self._steps.setdefault(job.id, []).append(Step(job.progress, job.status_text))

    def steps(self, job_id: int) -> list[Step]:
        """All that a job told while it ran. How it ended is its status."""
        return list(self._steps.get(job_id, ()))

    def run_waiting(self) -> list[int]:
        """Run each job that waits, as if its delay were over, and give their ids. What they start runs as well."""
        jobs = self.application.jobs.find(Status.STARTED, limit=_MOST_JOBS)
        ran = [job.id for job in reversed(jobs) if self.application.run_job(job.id, early=True)]
        self._run_due()
        return ran

    def _run_due(self) -> None:
        """Run one job after the other, those too that they start; but not within an answer or another job."""
        here = self._here
        if here.depth:
            return
        here.depth += 1
        try:
            for _ in range(_MOST_JOBS):
                if not here.due:
                    return
                self.application.run_job(here.due.popleft())
            here.due.clear()
            raise BackJobError(f"{_MOST_JOBS} jobs ran at once, and more are due: does a job start itself?")
        finally:
            here.depth -= 1


class JobTester:
    """What a test asks of an application's jobs: the fixture ``backjob``. With Inline() it need not wait for them."""

    def __init__(self, application: BackJob) -> None:
        self.application = application

    @property
    def jobs(self) -> Jobs:
        """The client session outside of a request: status(), find(), cancel() …"""
        return self.application.jobs

    def wait(self, job_id: int, timeout: float = 10.0) -> JobStatus:
        """The job's status once it has ended. Raises AssertionError when it has not within ``timeout`` seconds."""
        __tracebackhide__ = True
        end = time.monotonic() + timeout
        while not (status := self.jobs.status(job_id)).status.is_final:
            is_waiting = status.status is Status.STARTED and isinstance(self.application.config.launcher, Inline)
            _expect(not is_waiting, f"job {job_id} waits for its delay or a retry: run_waiting() runs it")
            _expect(time.monotonic() < end, f"job {job_id} has not ended in {timeout:g} s: {_describe(status)}")
            time.sleep(_PAUSE)
        return status

    def steps(self, job_id: int) -> list[Step]:
        """All that a job told while it ran. Raises BackJobError where its launcher is no Inline()."""
        return self._inline.steps(job_id)

    def run_waiting(self) -> list[int]:
        """Run each job that waits for its delay or its next attempt. Raises BackJobError as steps() does."""
        return self._inline.run_waiting()

    def assert_completed(
        self, job_id: int, *, text: str | None = None, progress: Sequence[int] | None = None
    ) -> JobStatus:
        """The job ends as completed: with this in its text, and after these steps of its progress, each counted once.

        Raises AssertionError, which shows how it ended instead.
        """
        __tracebackhide__ = True
        return self._assert_ended(job_id, Status.COMPLETED, text, progress)

    def assert_failed(
        self, job_id: int, *, text: str | None = None, progress: Sequence[int] | None = None
    ) -> JobStatus:
        """The job ends as failed: with this in its text, and after these steps of its progress, each counted once."""
        __tracebackhide__ = True
        return self._assert_ended(job_id, Status.FAILED, text, progress)

    def _assert_ended(self, job_id: int, status: Status, text: str | None, progress: Sequence[int] | None) -> JobStatus:
        __tracebackhide__ = True
        found = self.wait(job_id)
        _expect(found.status is status, f"job {job_id} is not {status.name}: {_describe(found)}")
        if text is not None:
            _expect(text in found.status_text, f"job {job_id} has no {text!r} in its text: {_describe(found)}")
        if progress is not None:
            told = list(dict.fromkeys(step.progress for step in self.steps(job_id)))
            _expect(told == list(progress), f"job {job_id} told the progress {told}, not {list(progress)}")
        return found

    @property
    def _inline(self) -> Inline:
        launcher = self.application.config.launcher
        if not isinstance(launcher, Inline):
            raise BackJobError("Steps are known, and waiting jobs run, with BackJob(app, launcher=Inline()) only")
        return launcher


def _expect(is_so: bool, otherwise: str) -> None:
    __tracebackhide__ = True
    if not is_so:
        raise AssertionError(otherwise)  # also with python -O


def _describe(job: JobStatus) -> str:
    return f"{job.status.name}, {job.progress} %\n{job.status_text}"
