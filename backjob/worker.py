"""The worker session: runs the wrapped app as a job, keeps what it writes, and writes the outcome.

``environ["backjob"]`` in a job. It alone ends a job that was claimed: whoever watches may be gone by then.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .backend import Backend, Launch
from .errors import JobEnded, StoreError, describe, explain_stop
from .jitter import retry_delay
from .job import Job, JobRequest, Move, Status
from .jobs import Jobs, check_text, parse_id
from .output import Output, append_line, clean_text, cut_text
from .request import restore_environ
from .response import Response

log = logging.getLogger("backjob")

_LONGEST_REASON = 4096
"""Bytes of a failure's reason: an exception's message may hold anything, and is not to push the output out."""
_QUIET = 0.2
"""Seconds between two writes of output that comes without an update()."""


class CurrentJob(Jobs):
    """The job that runs in this request."""

    __slots__ = (
        "_backend",
        "_ended",
        "_failure",
        "_followers",
        "_is_completed",
        "_is_settled",
        "_job",
        "_last_write",
        "_lock",
        "_output",
        "_progress",
        "_redirect_ok",
        "_response",
        "_text",
        "_text_size",
        "_timer",
        "attempt",
        "job_id",
    )

    is_worker = True

    def __init__(self, backend: Backend, job: Job, request: JobRequest, server: Mapping[str, Any]) -> None:
        environ = restore_environ(server, request, backend.config)
        environ[backend.config.environ_key] = self
        super().__init__(lambda: backend, environ)
        self.job_id = job.id
        self.attempt = job.attempt
        self._backend = backend
        self._job = job
        self._lock = threading.RLock()
        self._output = Output(backend.config.max_output)
        self._progress = 0.0  # small steps add up; what is stored is rounded
        self._text: str | None = None
        self._text_size = 0
        self._last_write = -math.inf
        self._ended: str | None = None
        self._failure: str | None = None
        self._is_settled = False
        self._is_completed = False
        self._followers: list[Launch] = []
        self._timer: threading.Timer | None = None
        self._redirect_ok = request.redirect_ok
        self._response = Response(self._output, self._take_output)

    def update(self, progress: float | None = None, text: str | None = None) -> None:
        """Tell how far the job is: 0-100, rounded, never less than before. Without ``text`` its output is shown.

        Raises JobEnded when the job was cancelled, timed out or taken over; ValueError for a progress that is none.
        """
        with self._lock:
            if progress is not None:
                self._progress = max(self._progress, _clamp(progress))
            if text is not None:
                limit = self._backend.config.max_output
                self._text, self._text_size = cut_text(text, limit), self._output.size
            self._give_sign()

    def increment_progress(self, n: float, text: str | None = None) -> None:
        """Like update(), with what is to be added. Several threads of the job may call it."""
        with self._lock:
            self.update(self._progress + _clamp(n), text)

    def write(self, text: str) -> int:
        """Add to the job's output; ``print(…, file=environ["backjob"])`` works."""
        with self._lock:
            self._output.write_text(check_text(text))
            self._take_output()
        return len(text)

    def finish(self, text: str | None = None, job_id: int | str | None = None) -> None:
        """Complete this job now (or, by id, another that runs). What it writes later is dropped."""
        if job_id is not None and parse_id(job_id) != self.job_id:
            super().finish(text, job_id)
            return
        with self._lock:
            self._check_live()
            if not self._is_settled:
                text = cut_text(text, self._backend.config.max_output) if text is not None else None
                self._settle(Move.COMPLETE, text, progress=100)

    def fail(self, text: str | None = None, job_id: int | str | None = None, retry: bool = True) -> None:
        """Fail this job and end the application at once, by raising JobEnded; or, by id, another live job."""
        if job_id is not None and parse_id(job_id) != self.job_id:
            super().fail(text, job_id)
            return
        with self._lock:
            self._check_live()
            if self._may_retry(retry):
                # The next attempt must not begin before this one's code has ended: run() makes the move.
                self._failure = text
            else:
                self._settle_failure(text, retry=False)
            self._ended = "This job has failed: fail() was called"
            raise JobEnded(self._ended)

    def run(self, app: Callable[..., Iterable[bytes]]) -> None:
        """Run the app to its end, close() included, and write the outcome. Raises what is meant for the server only."""
        where = {"job": self._job.id, "attempt": self._job.attempt}
        try:
            self._response.take(app, self._environ)
        except JobEnded:
            self._settle_failure(self._failure if self._ended else "JobEnded was raised by the app itself")
        except Exception as error:
            log.exception("Job %(job)d, attempt %(attempt)d, raised an exception", where)
            self._settle_failure(self._failure if self._ended else describe(error))
        except BaseException as error:
            log.exception("Job %(job)d, attempt %(attempt)d, was stopped", where)
            self._settle_failure(explain_stop(error))
            raise
        else:
            if self._ended:
                self._settle_failure(self._failure)
            else:
                self._settle_response()
        finally:
            self._response.forget()
            if self._timer is not None:
                self._timer.cancel()
            self._backend.launch_followers(self._followers, self._environ, is_failed=not self._is_completed)

    def _check_after_response(self) -> None:
        """A job's response is its outcome: what is to follow it waits for that."""

    def _launch_after_response(self, launch: Launch) -> None:
        self._followers.append(launch)

    def _settle_response(self) -> None:
        code, line = self._response.code, f"HTTP {self._response.status}"
        if 200 <= code < 300:
            self._settle(Move.COMPLETE, None, progress=100)
        elif not 300 <= code < 400:
            self._settle_failure(line if code else "The app ended without a call of start_response")
        elif self._redirect_ok:
            self._settle(Move.COMPLETE, None, progress=100)
        else:
            location = self._response.headers.get("location", "nowhere").partition("?")[0]
            reason = "mostly a login page: the job did not run. For a redirect after its work: redirect_ok=True"
            self._settle_failure(f"{line}, to {clean_text(location)[:200]}: {reason}")

    def _take_output(self) -> None:
        """Output is a sign of life, and shown a moment later at most."""
        with self._lock:
            wait = self._last_write + _QUIET - time.monotonic()
            if wait <= 0 or self._ended is not None:
                self._give_sign()
            elif self._timer is None:
                # What comes last before a long silence is to be seen too.
                self._timer = threading.Timer(wait, self._show_output)
                self._timer.daemon = True
                try:
                    self._timer.start()
                except RuntimeError:  # no more threads here: the next output or update() shows it
                    self._timer = None

    def _show_output(self) -> None:
        with self._lock:
            if self._timer is not None and not self._is_settled and self._ended is None:
                self._timer = None
                with contextlib.suppress(JobEnded):  # the job's own thread meets it at its next sign
                    self._give_sign()

    def _give_sign(self) -> None:
        if self._is_settled and self._ended is None:
            return  # finish() was called: the rest is dropped
        self._check_live()
        job, store = self._job, self._backend.store
        self._last_write = time.monotonic()
        try:
            if store.touch(job.id, job.attempt, round(self._progress), self._shown_text(), self._backend.config.lease):
                return
            self._ended = self._why_ended()
            self._is_settled = True
        except StoreError as error:
            log.warning("Job %d goes on, its update waits: %s", job.id, error)
            return
        raise JobEnded(self._ended)

    def _check_live(self) -> None:
        if self._ended is not None:
            raise JobEnded(self._ended)

    def _why_ended(self) -> str:
        job, store = self._job, self._backend.store
        glance = store.glance(job.id)
        if glance is None:
            return "The record of this job is gone"
        if glance.attempt != job.attempt or glance.status is Status.STARTED:
            return "This job was taken over by another attempt"
        if glance.status is Status.INPROGRESS and glance.cancel_requested:
            text, progress = self._shown_text(), round(self._progress)
            store.move(Move.CANCEL, job.id, attempt=job.attempt, text=text, progress=progress)
            return "This job was cancelled"
        return f"This job has ended: it is {glance.status.name}"

    def _shown_text(self) -> str:
        """An explicit text stays until output follows it."""
        if self._text is not None and self._output.size == self._text_size:
            return self._text
        return self._output.text()

    def _settle_failure(self, reason: str | None, retry: bool = True) -> None:
        with self._lock:
            if self._is_settled:
                return
            shown = self._shown_text()
            text = append_line(shown, cut_text(reason, _LONGEST_REASON)) if reason else shown
            job = self._job
            if self._may_retry(retry):
                delay = retry_delay(job.attempt)
                if self._settle(Move.RETRY, text, progress=0, delay=delay):
                    self._backend.dispatcher.look_after(delay)
                    return
                # It was to be cancelled meanwhile, or is not ours any more: then this changes nothing either.
                self._is_settled = False
                self._settle(Move.CANCEL if self._is_to_be_cancelled() else Move.FAIL, text)
                return
            self._settle(Move.FAIL, text)

    def _may_retry(self, retry: bool) -> bool:
        return retry and not self._is_settled and self._job.attempt <= self._job.retries

    def _is_to_be_cancelled(self) -> bool:
        try:
            glance = self._backend.store.glance(self._job.id)
        except StoreError:
            return False
        return glance is not None and glance.cancel_requested

    def _settle(self, move: Move, text: str | None, *, progress: int | None = None, delay: float = 0) -> bool:
        """Write the outcome once. While the store is away, try again for as long as the lease lets."""
        with self._lock:
            if self._is_settled:
                return False
            if text is None:
                self._response.finish()
            text = self._shown_text() if text is None else text
            self._is_settled = True
            progress = round(self._progress) if progress is None else progress
            job, end = self._job, time.monotonic() + self._backend.config.lease
            while True:
                try:
                    is_made = self._backend.store.move(
                        move, job.id, attempt=job.attempt, text=text, progress=progress, delay=delay
                    )
                    self._is_completed = is_made and move is Move.COMPLETE
                    return is_made
                except StoreError as error:
                    if time.monotonic() > end:
                        log.error("Job %d has ended, but its outcome can't be written: %s", job.id, error)
                        return False
                    time.sleep(_QUIET)


def _number(value: float) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"progress must be a number, not {value!r}")
    return value


def _clamp(progress: float) -> float:
    return min(max(_number(progress), 0), 100)
