"""Jobs in unit tests: ``BackJob(app, launcher=Inline())`` runs them without a socket, a thread or a server.

Imports only the standard library and backjob's public names. The pytest fixture is in pytest_plugin.
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
    """One progress report of a job: its progress (0-100) and its status text."""

    progress: int
    text: str


class _Here(threading.local):
    """The state of one thread: the depth of nested requests and jobs, and the jobs that are due."""

    depth = 0

    def __init__(self) -> None:
        self.due: deque[int] = deque()


class Inline:
    """A launcher that runs jobs in the thread that starts them, one after the other.

    A job that is started in a request runs when the app has returned, before the response is sent. A job that is
    started outside of a request runs in that call. A job with a ``delay``, or with a retry left, waits for
    ``run_waiting()``. Apart from that, it runs in the app as on a server: as its user, with status, output and progress
    in the database.
    """

    is_inline = True
    """True: no keeper runs, and each update is written at once, because there is no other thread."""

    def __init__(self) -> None:
        self._application: BackJob | None = None
        self._here = _Here()
        self._steps: dict[int, list[Step]] = {}

    @property
    def application(self) -> BackJob:
        """The application whose jobs it runs. Raises BackJobError before bind() was called."""
        if self._application is None:
            raise BackJobError("This Inline() has no application yet. Pass it to BackJob(app, launcher=…)")
        return self._application

    def bind(self, application: BackJob, app: WSGIApp) -> WSGIApp:
        """Return the app for BackJob to wrap: it runs the due jobs after each of its responses.

        Raises BackJobError for a second application.
        """
        if self._application is not None:
            raise BackJobError("An Inline() runs the jobs of one application only. Make another one for this one")
        self._application = application

        def answer_and_run(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            with self.answering():
                return app(environ, start_response)

        return answer_and_run

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Return a context manager for a request. The jobs that the request starts run at its end.

        For a test client that calls no WSGI app, such as Django's.
        """
        self._here.depth += 1
        try:
            yield
        finally:
            self._here.depth -= 1
            self._run_due()  # also after an exception, as on a server

    def check(self, environ: Mapping[str, Any] | None) -> None:
        """Accept jobs from anywhere."""

    def launch(self, token: Any, request: Any, environ: Mapping[str, Any] | None) -> bool:
        """Run this job as soon as the app has returned, or now, if this thread is not in a request."""
        self._here.due.append(token.job_id)
        self._run_due()
        return True

    def on_update(self, job: JobStatus) -> None:
        """Record an update of a job as a step. BackJob calls it."""
        self._steps.setdefault(job.id, []).append(Step(job.progress, job.status_text))

    def steps(self, job_id: int) -> list[Step]:
        """Return the progress reports of a job, in order. Its outcome is in its status."""
        return list(self._steps.get(job_id, ()))

    def run_waiting(self) -> list[int]:
        """Run all waiting jobs, as if their delay were over. Return their ids. Jobs that they start run too."""
        jobs = self.application.jobs.find(Status.STARTED, limit=_MOST_JOBS)
        ran = [job.id for job in reversed(jobs) if self.application.run_job(job.id, early=True)]
        self._run_due()
        return ran

    def _run_due(self) -> None:
        """Run all due jobs, and the jobs that they start. Within a request or a job, do nothing."""
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
            raise BackJobError(f"{_MOST_JOBS} jobs ran in a row, and more are due. Check that no job starts itself")
        finally:
            here.depth -= 1


class JobTester:
    """The jobs of an application, for a test: the fixture ``backjob``. With Inline() it never has to wait."""

    def __init__(self, application: BackJob) -> None:
        self.application = application

    @property
    def jobs(self) -> Jobs:
        """The client outside of a request, with status(), find(), cancel() and so on."""
        return self.application.jobs

    def wait(self, job_id: int, timeout: float = 10.0) -> JobStatus:
        """Wait until the job has ended. Return its status. Raises AssertionError after ``timeout`` seconds."""
        __tracebackhide__ = True
        end = time.monotonic() + timeout
        while not (status := self.jobs.status(job_id)).status.is_final:
            is_waiting = status.status is Status.STARTED and isinstance(self.application.config.launcher, Inline)
            _expect(not is_waiting, f"job {job_id} waits for its delay or a retry. Call run_waiting() to run it")
            _expect(time.monotonic() < end, f"job {job_id} has not ended in {timeout:g} s: {_describe(status)}")
            time.sleep(_PAUSE)
        return status

    def steps(self, job_id: int) -> list[Step]:
        """Return the progress reports of a job, in order. Raises BackJobError without Inline()."""
        return self._inline.steps(job_id)

    def run_waiting(self) -> list[int]:
        """Run all jobs that wait for their delay or a retry. Return their ids. Raises BackJobError without Inline()."""
        return self._inline.run_waiting()

    def assert_completed(
        self, job_id: int, *, text: str | None = None, progress: Sequence[int] | None = None
    ) -> JobStatus:
        """Assert that the job completes, with ``text`` in its status text and with these distinct values of progress.

        Return its status. Raises AssertionError with its outcome.
        """
        __tracebackhide__ = True
        return self._assert_ended(job_id, Status.COMPLETED, text, progress)

    def assert_failed(
        self, job_id: int, *, text: str | None = None, progress: Sequence[int] | None = None
    ) -> JobStatus:
        """Assert that the job fails, as assert_completed() does for a completed one."""
        __tracebackhide__ = True
        return self._assert_ended(job_id, Status.FAILED, text, progress)

    def _assert_ended(self, job_id: int, status: Status, text: str | None, progress: Sequence[int] | None) -> JobStatus:
        __tracebackhide__ = True
        found = self.wait(job_id)
        _expect(found.status is status, f"job {job_id} is not {status.word}: {_describe(found)}")
        if text is not None:
            _expect(text in found.status_text, f"job {job_id} has no {text!r} in its text: {_describe(found)}")
        if progress is not None:
            reported = list(dict.fromkeys(step.progress for step in self.steps(job_id)))
            _expect(reported == list(progress), f"job {job_id} reported the progress {reported}, not {list(progress)}")
        return found

    @property
    def _inline(self) -> Inline:
        launcher = self.application.config.launcher
        if not isinstance(launcher, Inline):
            raise BackJobError("steps() and run_waiting() need BackJob(app, launcher=Inline())")
        return launcher


def _expect(is_so: bool, otherwise: str) -> None:
    __tracebackhide__ = True
    if not is_so:
        raise AssertionError(otherwise)  # also with python -O


def _describe(job: JobStatus) -> str:
    return f"{job.status_name}, {job.progress} %\n{job.status_text}"
