"""The running job: calls the wrapped app, keeps its output, and writes the outcome.

``environ["backjob"]`` in a job. It alone ends a claimed job, because the monitor may be gone by then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

from backjob.client.arguments import AnyId, check_exception, check_text, parse_id
from backjob.client.backend import Backend, Launch
from backjob.client.capture import find_user
from backjob.client.foreground import Row
from backjob.client.jobs import Jobs
from backjob.errors import JobEnded, Refused, StoreError, leaves
from backjob.logs import running
from backjob.model.events import log_begun, log_ended, log_late
from backjob.model.job import Glance, Job, JobRequest, Move, Status
from backjob.model.text import append_line, cut_text, first_line
from backjob.runtime.child_processes import refuse_pickling
from backjob.wsgi.environ import restore_environ
from backjob.wsgi.output import Output
from backjob.wsgi.response import Response

from .cookies import warn_of_changed
from .ending import Ending, find_stop, holds_job_ended
from .followers import Followers
from .judgement import Judgement, Run, explain_user, judge_answer, judge_exception
from .left_out import LeftOut
from .outcome import Outcome, describe_refusal
from .reporter import Reporter
from .shutdown import explain_reason, explain_stop

_LONGEST_REASON = 4096
"""Bytes of a failure's reason. The message of an exception may be long, and must leave space for the output."""


class CurrentJob(Jobs):
    """The job that runs in this request."""

    __slots__ = (
        *("_backend", "_ending", "_failure", "_followers", "_job", "_location", "_outcome"),
        *("_output", "_reporter", "_response", "_run", "attempt", "job_id"),
    )

    is_worker = True
    _came_through = True

    def __init__(self, backend: Backend, job: Job, request: JobRequest, server: Mapping[str, Any]) -> None:
        config = backend.config
        environ = restore_environ(server, request, forward_environ=config.forward_environ, user_agent=config.user_agent)
        environ[config.environ_key] = self
        super().__init__(lambda: backend, environ)
        self.job_id, self.attempt = job.id, job.attempt
        self._backend, self._job = backend, job
        self._output = Output(config.max_output)
        self._reporter = Reporter(backend.store, job, self._output, config, self._check_record, self._fail_unstorable)
        self._ending = Ending(self._check_for_end)
        self._failure: str | None = None
        left_out = LeftOut(request, server, environ, config)
        backend.warn_once(left_out.other_values)
        self._run = Run(job, request, environ, config, left_out, environ.get("SCRIPT_NAME", ""))
        self._location = ""
        self._outcome: Outcome | None = None
        self._followers = Followers(backend, environ)
        self._response = Response(self._output, self._ending.is_live, self._report_output)

    def __reduce__(self) -> NoReturn:
        refuse_pickling()

    def update(self, progress: float | None = None, text: str | None = None) -> None:
        """Report the progress, 0-100, rounded, never less than before. Without ``text`` the output is shown.

        Call it as often as you like: it is written a few times a second at most, and the last one always is. Raises
        JobEnded once when the job was cancelled, timed out or taken over; ValueError for an invalid progress.

        A child that the job forks may call it too. Its last update is lost if it exits before that is written.
        """
        if self._ending.is_live():
            self._reporter.report(progress, text)
            self._ending.is_live()

    def increment_progress(self, n: float, text: str | None = None) -> None:
        """Add to the progress; otherwise like update(). Several threads of the job may call it."""
        if self._ending.is_live():
            self._reporter.report(None, text, step=n)
            self._ending.is_live()

    def write(self, text: str) -> int:
        """Add to the job's output; ``print(…, file=…)`` works. A forked child only extends the lease by it."""
        check_text(text)
        if self._ending.is_live():
            if not self._reporter.is_in_child:
                self._output.write_text(text)
            self._report_output()
        return len(text)

    def show(self, text: str) -> None:
        """Add to the output. Raises nothing and waits for nothing: the caller may not know of the job (see logs)."""
        if not self._reporter.is_in_child:
            self._output.write_text(text)
        self._reporter.report_output(may_write=False)

    def check_user(self) -> None:
        if self._run.request.user is None or self._reporter.is_in_child:
            return
        user = find_user(self._environ or {}, self._backend.config)
        if user is not None and user != self._run.request.user:
            self.fail(explain_user(user, self._run), retry=False)

    def note_exception(self, error: BaseException) -> None:
        self._run.note_exception(check_exception(error))

    def note_login_url(self, url: str) -> None:
        self._run.login_url = url

    def cancel(self, job_id: int | str, *, scope: str | None = None) -> bool:
        """Cancel a job. One that cancels itself ends at its next report, even if that follows at once."""
        was_live = super().cancel(job_id, scope=scope)
        if parse_id(job_id) == self.job_id:
            self._reporter.hasten()
        return was_live

    def finish(self, text: str | None = None, job_id: AnyId = None, *, scope: str | None = None) -> None:
        """Complete this job now (or, by id, another running one). Later output is dropped.

        In a child of a fork it does nothing without an id, as outside of a job.
        """
        if self._is_other(job_id, scope):
            super().finish(text, job_id, scope=scope)
        elif self._ending.is_live():
            self._complete(cut_text(text, self._backend.config.max_output) if text is not None else None)

    def fail(
        self, text: str | None = None, job_id: AnyId = None, retry: bool = False, *, scope: str | None = None
    ) -> None:
        """Fail this job, and end the application at once by raising JobEnded; or, by id, fail another live job.

        With ``retry=True`` it runs again while it has ``retries`` left. In a child of a fork it raises JobFailed.
        """
        if self._is_other(job_id, scope):
            super().fail(text, job_id, scope=scope)
            return
        if not self._ending.is_live():
            return
        if self._may_retry(retry):
            # The next attempt must not begin before this one's code has ended: run() makes the move.
            self._failure = text
        else:
            self._end_as_failed(text, retry=False)
        # The thread of the progress may have found another end meanwhile.
        self._ending.reason = self._ending.reason or "This job has failed: fail() was called"
        self._ending.raise_job_ended()

    def run(self, app: Callable[..., Iterable[bytes]], claim: str) -> bool:
        """Run the app to its end, close() included, and write the outcome. Raises only exceptions for the server.

        ``claim`` identifies the lease, which the process renews until the outcome is written. Returns False in a child
        that the app has forked and that returns here: the job runs on in the parent, which alone ends it.
        """
        self._backend.renewals.lease(self._job.id, claim)
        log_begun(self._job.id, self._job.attempt, self._job)
        try:
            with running(self), self._ending.children.watching():
                self._response.take(app, self._environ)
                judgement = judge_answer(self._response, self._run)
        except BaseException as error:  # noqa: BLE001 - the edge around the app
            stop = self._end_after_exception(error)
            if stop is not None:
                raise stop  # noqa: B904 - alone, not in the group in which it came: servers know no groups
        else:
            self._check_for_end()
            if self._ending.reason:
                self._end_as_failed(self._failure)
            else:
                self._end_as_judged(judgement)
        finally:
            self._reporter.stop()
            cookie = self._run.request.headers.get("HTTP_COOKIE", "")
            warn_of_changed(cookie, self._response.set_cookies, self._job.id, self._job.attempt)
            self._response.forget()
            self._run.error = None
            if not self._reporter.is_in_child:
                self._followers.release(claim, self._outcome)
        return not self._reporter.is_in_child

    def _end_after_exception(self, error: BaseException) -> BaseException | None:
        """Write the outcome of a job that this exception has ended. Return the exception for the server, if any."""
        stop, is_alone = find_stop(error), all(isinstance(leaf, JobEnded) for leaf in leaves(error))
        cause = None if is_alone or (stop and self._reporter.is_in_child) else error  # sys.exit() ends many a child
        self._check_for_end(holds_job_ended(error))
        if stop is not None:
            self._end_as_failed(explain_stop(stop, self._environ or {}), cause=cause)
        elif self._ending.reason:
            self._end_as_failed(self._failure, cause=cause)
        elif is_alone:
            self._end_as_failed("JobEnded was raised by the app itself")
        else:
            self._end_as_judged(judge_exception(error, self._run))
        return stop

    def _check_for_end(self, was_raised: bool = False) -> None:
        """Read the record if JobEnded was raised, here or in a child, which leaves the record to its parent."""
        is_open = self._ending.reason is None and not self._reporter.is_in_child
        if is_open and (was_raised or self._ending.children.have_reported_end):
            with contextlib.suppress(StoreError):
                if self._check_record() is None:
                    self._reporter.stop()

    def _is_other(self, job_id: AnyId, scope: str | None) -> bool:
        """Is the id, scope or process not that of the running job? Another scope is refused."""
        is_own = job_id is None or (parse_id(job_id) == self.job_id and scope in (None, self._job.scope))
        return self._reporter.is_in_child or not is_own

    def _check_after_response(self) -> None:
        """Do nothing: jobs that are to follow the response of a job wait for its outcome."""

    def _launch_after_response(self, launch: Launch) -> None:
        self._followers.add(launch)

    def cancel_waiting(self, job_id: int) -> None:
        self._followers.cancel(job_id)

    def _track(self, rows: Iterable[Row], total: float | None, to: float) -> Iterator[Row]:
        begin = self._reporter.progress
        for number, row in enumerate(rows, 1):
            yield row
            self.update(begin + (to - begin) * min(number / total, 1.0) if total else None)
        self.update(to)

    def _end_as_judged(self, judgement: Judgement) -> None:
        self._location = judgement.location
        if judgement.reason:
            self._end_as_failed(judgement.reason, judgement.may_retry, judgement.error)
        else:
            self._complete()

    def _report_output(self) -> None:
        self._reporter.report_output()
        self._ending.is_live()

    def _check_record(self) -> Glance | None:
        """Return the record if the attempt still runs. Otherwise set the reason of the end, and cancel if asked to."""
        job, store = self._job, self._backend.store
        glance = store.glance(job.id)
        if glance is None:
            self._ending.reason = "The record of this job is gone"
        elif glance.attempt != job.attempt or glance.status is Status.STARTED:
            self._ending.reason = "This job was taken over by another attempt"
        elif glance.status is not Status.INPROGRESS:
            self._ending.reason = f"This job has ended: it is {glance.status.word}"
        elif not glance.cancel_requested:
            return glance
        else:
            if not self._reporter.is_in_child:
                text, progress = self._reporter.text(), max(self._reporter.progress, glance.progress)
                if store.move(Move.CANCEL, job.id, attempt=job.attempt, text=text, progress=progress):
                    log_ended(Move.CANCEL, job.id, job.attempt, job, seconds=self._run.seconds)
            self._ending.reason = "This job was cancelled"
        return None

    def _fail_unstorable(self, error: Refused) -> None:
        if not self._reporter.is_in_child:
            text = describe_refusal(error, None)
            self._write_outcome(Move.FAIL, text, first_line(text))
        self._ending.reason = "This job has failed: the job store refuses its text"

    def _complete(self, text: str | None = None) -> None:
        if self._reporter.stop():
            if text is None:
                self._response.finish()
            self._write_outcome(Move.COMPLETE, self._reporter.text() if text is None else text)

    def _end_as_failed(self, reason: str | None, retry: bool = True, cause: BaseException | None = None) -> None:
        move = Move.RETRY if self._may_retry(retry) else Move.FAIL
        if self._reporter.stop():
            self._response.finish()
            shown = self._reporter.text()
            line = explain_reason(cut_text(reason, _LONGEST_REASON), self._environ or {}) if reason else ""
            self._write_outcome(move, append_line(shown, line) if line else shown, first_line(line), cause)
        else:
            log_late(self._job, cause, is_child=self._reporter.is_in_child)

    def _may_retry(self, retry: bool) -> bool:
        return retry and not self._reporter.has_ended and self._job.attempt <= self._job.retries

    def _write_outcome(self, move: Move, text: str, error: str = "", cause: BaseException | None = None) -> None:
        progress, seconds = self._reporter.progress, self._run.seconds
        self._outcome = Outcome(self._job, move, text, progress, seconds, cause, error, self._location)
        self._outcome.write_patiently(self._backend.store, self._backend.renewals)
