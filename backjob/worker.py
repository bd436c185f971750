"""The worker session: runs the wrapped app as a job, keeps what it writes, and says how it ended.

``environ["backjob"]`` in a job. It alone ends a job that was claimed: whoever watches may be gone by then.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .arguments import check_exception, check_text, parse_id
from .backend import REQUEST_FAILED, UNDONE, Backend, Launch
from .errors import JobEnded, Refused, describe, explain_stop
from .job import Glance, Job, JobRequest, Move, Status
from .jobs import Jobs
from .logs import about, running
from .no_job import Row
from .outcome import Outcome, describe_refusal
from .output import Output, append_line, clean_text, cut_text
from .request import find_user, restore_environ
from .response import Response
from .signs import Signs

log = logging.getLogger("backjob")

_LONGEST_REASON = 4096
"""Bytes of a failure's reason: an exception's message may hold anything, and is not to push the output out."""

_SESSION_ENDED = "The session of the user who started this job has ended"
_OTHER_USER = "The session of the user who started this job belongs to another user by now"


class CurrentJob(Jobs):
    """The job that runs in this request."""

    __slots__ = (
        *("_backend", "_cause", "_ended", "_failure", "_followers"),
        "_job",
        "_outcome",
        "_output",
        "_redirect_ok",
        "_response",
        "_signs",
        "_user",
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
        self._output = Output(backend.config.max_output)
        self._signs = Signs(
            backend.store,
            job,
            self._output,
            limit=backend.config.max_output,
            lease=backend.config.lease,
            is_prompt=backend.config.is_inline,
            on_refusal=self._find_out,
            on_unstorable=self._fail_unstorable,
        )
        self._ended: str | None = None
        self._failure: str | None = None
        self._cause = ""
        self._user = request.user
        self._outcome: Outcome | None = None
        self._followers: list[Launch] = []
        self._redirect_ok = request.redirect_ok
        self._response = Response(self._output, self._give_sign)

    def update(self, progress: float | None = None, text: str | None = None) -> None:
        """Tell how far the job is: 0-100, rounded, never less than before. Without ``text`` its output is shown.

        Call it as often as you like: it is written a few times a second at most, and the last one always is. Raises
        JobEnded when the job was cancelled, timed out or taken over; ValueError for a progress that is none.

        A child that the job forks may call it too; a last update that is not written yet ends with the child.
        """
        self._check_live()
        self._signs.tell(progress, text)
        self._check_live()

    def increment_progress(self, n: float, text: str | None = None) -> None:
        """Like update(), with what is to be added. Several threads of the job may call it."""
        self._check_live()
        self._signs.tell(None, text, step=n)
        self._check_live()

    def write(self, text: str) -> int:
        """Add to the job's output; ``print(…, file=…)`` works. In a child of a fork it is a sign alone."""
        check_text(text)
        if self._signs.is_at_home:
            self._output.write_text(text)
        self._give_sign()
        return len(text)

    def show(self, text: str) -> None:
        """Add to the output, raise nothing and wait for nothing: for who does not know of the job (see logs)."""
        if self._signs.is_at_home:
            self._output.write_text(text)
        self._signs.leave()

    def check_user(self) -> None:
        if self._user is None or not self._signs.is_at_home:
            return
        user = find_user(self._environ or {}, self._backend.config)
        if user is not None and user != self._user:
            self.fail(_OTHER_USER if user else _SESSION_ENDED, retry=False)

    def note_exception(self, error: BaseException) -> None:
        self._cause = describe(check_exception(error))

    def cancel(self, job_id: int | str, *, scope: str | None = None) -> bool:
        """As elsewhere. A job that cancels itself ends at its next sign, however soon that comes."""
        was_live = super().cancel(job_id, scope=scope)
        if parse_id(job_id) == self.job_id:
            self._signs.hasten()
        return was_live

    def finish(self, text: str | None = None, job_id: int | str | None = None) -> None:
        """Complete this job now (or, by id, another that runs). What it writes later is dropped.

        In a child of a fork it does what it does outside of a job: nothing, without an id.
        """
        if self._is_other(job_id):
            super().finish(text, job_id)
            return
        self._check_live()
        self._complete(cut_text(text, self._backend.config.max_output) if text is not None else None)

    def fail(self, text: str | None = None, job_id: int | str | None = None, retry: bool = True) -> None:
        """Fail this job and end the application at once, by raising JobEnded; or, by id, another live job.

        In a child of a fork it does what it does outside of a job: without an id it raises JobFailed.
        """
        if self._is_other(job_id):
            super().fail(text, job_id)
            return
        self._check_live()
        if self._may_retry(retry):
            # The next attempt must not begin before this one's code has ended: run() makes the move.
            self._failure = text
        else:
            self._settle_failure(text, retry=False)
        self._ended = "This job has failed: fail() was called"
        raise JobEnded(self._ended)

    def run(self, app: Callable[..., Iterable[bytes]], claim: str) -> bool:
        """Run the app to its end, close() included, and write the outcome. Raises what is meant for the server only.

        ``claim`` is by which the record is leased: the process vouches for it until the outcome is written. False in a
        child that the app has forked, where that comes back to here: the job goes on in its parent, who alone ends it.
        """
        job = self._job
        self._backend.vouching.lease(job.id, claim)
        try:
            with running(self):
                self._response.take(app, self._environ)
        except JobEnded:
            self._settle_failure(self._failure if self._ended else "JobEnded was raised by the app itself")
        except Exception as error:
            log.exception("%s raised an exception", self._name_process(), extra=about(job.id, job.attempt))
            self._settle_failure(self._failure if self._ended else describe(error))
        except BaseException as error:
            if self._signs.is_at_home:  # sys.exit() is how many a child ends
                log.exception("%s was stopped", self._name_process(), extra=about(job.id, job.attempt))
            self._settle_failure(explain_stop(error))
            raise
        else:
            if self._ended:
                self._settle_failure(self._failure)
            else:
                self._settle_response()
        finally:
            self._signs.stop()
            self._response.forget()
            if self._signs.is_at_home:
                self._let_go(claim)
        return self._signs.is_at_home

    def _name_process(self) -> str:
        whose = "Job" if self._signs.is_at_home else "A process that was forked by job"
        return f"{whose} {self._job.id}, attempt {self._job.attempt},"

    def _let_go(self, claim: str) -> None:
        """The run is over: what was to follow it may, now or as soon as its outcome is written."""
        if self._outcome is None or self._outcome.is_known:
            is_failed = self._outcome is None or not self._outcome.is_completed
            self._backend.vouching.end_lease(claim)
            self._backend.launch_followers(self._followers, self._environ, REQUEST_FAILED if is_failed else "")
            if self._outcome is not None and self._outcome.delay and not self._backend.config.is_inline:
                self._backend.dispatcher.look_after(self._outcome.delay)
        else:
            self._outcome.when_known(functools.partial(self._end_late, claim))

    def _is_other(self, job_id: int | str | None) -> bool:
        """Is this not about the job that this very process runs?"""
        return not self._signs.is_at_home or (job_id is not None and parse_id(job_id) != self.job_id)

    def _check_after_response(self) -> None:
        """A job's response is its outcome: what is to follow it waits for that."""

    def _launch_after_response(self, launch: Launch) -> None:
        self._followers.append(launch)

    def cancel_waiting(self, job_id: int) -> None:
        launches = [each for each in self._followers if each.job_id == job_id]
        self._followers = [each for each in self._followers if each.job_id != job_id]
        self._backend.launch_followers(launches, self._environ, UNDONE)

    def _end_late(self, claim: str, is_completed: bool) -> None:
        self._backend.vouching.end_lease(claim)
        for launch in self._followers:
            self._backend.postpone_follower(launch, "" if is_completed else REQUEST_FAILED)

    def _track(self, rows: Iterable[Row], total: float | None, to: float) -> Iterator[Row]:
        begin = self._signs.progress
        for number, row in enumerate(rows, 1):
            yield row
            self.update(begin + (to - begin) * min(number / total, 1.0) if total else None)
        self.update(to)

    def _settle_response(self) -> None:
        code, line = self._response.code, f"HTTP {self._response.status}"
        cause = self._cause or self._response.error
        if code >= 500 and cause:
            line += f": {cause}"
        if 200 <= code < 300:
            self._complete()
        elif not 300 <= code < 400:
            self._settle_failure(line if code else "The app ended without a call of start_response")
        elif self._redirect_ok:
            self._complete()
        else:
            location = self._response.headers.get("location", "nowhere").partition("?")[0]
            reason = "mostly a login page: the job did not run. For a redirect after its work: redirect_ok=True"
            self._settle_failure(f"{line}, to {clean_text(location)[:200]}: {reason}")

    def _give_sign(self) -> None:
        """Output is a sign of life, and shown a moment later at most."""
        self._check_live()
        self._signs.give()
        self._check_live()

    def _check_live(self) -> None:
        if self._ended is not None:
            raise JobEnded(self._ended)

    def _find_out(self) -> Glance | None:
        """No sign was taken: why? How the record stands if this attempt runs all the same."""
        job, store = self._job, self._backend.store
        glance = store.glance(job.id)
        if glance is None:
            self._ended = "The record of this job is gone"
        elif glance.attempt != job.attempt or glance.status is Status.STARTED:
            self._ended = "This job was taken over by another attempt"
        elif glance.status is not Status.INPROGRESS:
            self._ended = f"This job has ended: it is {glance.status.name}"
        elif not glance.cancel_requested:
            return glance
        else:
            if self._signs.is_at_home:
                text, progress = self._signs.text(), self._signs.progress
                store.move(Move.CANCEL, job.id, attempt=job.attempt, text=text, progress=progress)
            self._ended = "This job was cancelled"
        return None

    def _fail_unstorable(self, error: Refused) -> None:
        if self._signs.is_at_home:
            self._settle(Move.FAIL, describe_refusal(error, None))
        self._ended = "This job has failed: the job store refuses what it has to show"

    def _complete(self, text: str | None = None) -> None:
        if self._signs.stop():
            if text is None:
                self._response.finish()
            self._settle(Move.COMPLETE, self._signs.text() if text is None else text)

    def _settle_failure(self, reason: str | None, retry: bool = True) -> None:
        move = Move.RETRY if self._may_retry(retry) else Move.FAIL
        if self._signs.stop():
            shown = self._signs.text()
            self._settle(move, append_line(shown, cut_text(reason, _LONGEST_REASON)) if reason else shown)

    def _may_retry(self, retry: bool) -> bool:
        return retry and not self._signs.is_over and self._job.attempt <= self._job.retries

    def _settle(self, move: Move, text: str) -> None:
        self._outcome = Outcome(self._job, move, text, self._signs.progress)
        self._outcome.write_patiently(self._backend.store, self._backend.vouching)
