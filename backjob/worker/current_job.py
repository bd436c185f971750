"""The worker session: runs the wrapped app as a job, keeps what it writes, and says how it ended.

``environ["backjob"]`` in a job. It alone ends a job that was claimed: whoever watches may be gone by then.
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
from .progress import Signs
from .shutdown import explain_reason, explain_stop

_LONGEST_REASON = 4096
"""Bytes of a failure's reason: an exception's message may hold anything, and is not to push the output out."""


class CurrentJob(Jobs):
    """The job that runs in this request."""

    __slots__ = (
        *("_backend", "_ending", "_failure", "_followers", "_job", "_location", "_outcome"),
        *("_output", "_response", "_run", "_signs", "attempt", "job_id"),
    )

    is_worker = True
    _came_through = True

    def __init__(self, backend: Backend, job: Job, request: JobRequest, server: Mapping[str, Any]) -> None:
        config = backend.config
        environ = restore_environ(server, request, forward_environ=config.forward_environ, user_agent=config.user_agent)
        environ[config.environ_key] = self
        super().__init__(lambda: backend, environ)
        self.job_id = job.id
        self.attempt = job.attempt
        self._backend = backend
        self._job = job
        self._output = Output(config.max_output)
        self._signs = Signs(
            *(backend.store, job, self._output),
            limit=config.max_output,
            lease=config.lease,
            is_prompt=config.is_inline,
            on_refusal=self._find_out,
            on_unstorable=self._fail_unstorable,
        )
        self._ending = Ending(self._find_end)
        self._failure: str | None = None
        left_out = LeftOut(request, server, environ, config)
        backend.warn_once(left_out.other_values)
        self._run = Run(job, request, environ, config, left_out, environ.get("SCRIPT_NAME", ""))
        self._location = ""
        self._outcome: Outcome | None = None
        self._followers = Followers(backend, environ)
        self._response = Response(self._output, self._ending.is_live, self._give_sign)

    def __reduce__(self) -> NoReturn:
        refuse_pickling()

    def update(self, progress: float | None = None, text: str | None = None) -> None:
        """Tell how far the job is: 0-100, rounded, never less than before. Without ``text`` its output is shown.

        Call it as often as you like: it is written a few times a second at most, and the last one always is. Raises
        JobEnded once when the job was cancelled, timed out or taken over; ValueError for an invalid progress.

        A child that the job forks may call it too; a last update that is not written yet ends with the child.
        """
        if self._ending.is_live():
            self._signs.tell(progress, text)
            self._ending.is_live()

    def increment_progress(self, n: float, text: str | None = None) -> None:
        """Like update(), with what is to be added. Several threads of the job may call it."""
        if self._ending.is_live():
            self._signs.tell(None, text, step=n)
            self._ending.is_live()

    def write(self, text: str) -> int:
        """Add to the job's output; ``print(…, file=…)`` works. In a child of a fork it is a sign alone."""
        check_text(text)
        if self._ending.is_live():
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
        if self._run.request.user is None or not self._signs.is_at_home:
            return
        user = find_user(self._environ or {}, self._backend.config)
        if user is not None and user != self._run.request.user:
            self.fail(explain_user(user, self._run), retry=False)

    def note_exception(self, error: BaseException) -> None:
        self._run.note_exception(check_exception(error))

    def note_login_url(self, url: str) -> None:
        self._run.login_url = url

    def cancel(self, job_id: int | str, *, scope: str | None = None) -> bool:
        """As elsewhere. A job that cancels itself ends at its next sign, however soon that comes."""
        was_live = super().cancel(job_id, scope=scope)
        if parse_id(job_id) == self.job_id:
            self._signs.hasten()
        return was_live

    def finish(self, text: str | None = None, job_id: AnyId = None, *, scope: str | None = None) -> None:
        """Complete this job now (or, by id, another that runs). What it writes later is dropped.

        In a child of a fork it does nothing without an id, as outside of a job.
        """
        if self._is_other(job_id, scope):
            super().finish(text, job_id, scope=scope)
        elif self._ending.is_live():
            self._complete(cut_text(text, self._backend.config.max_output) if text is not None else None)

    def fail(
        self, text: str | None = None, job_id: AnyId = None, retry: bool = False, *, scope: str | None = None
    ) -> None:
        """Fail this job and end the application at once, by raising JobEnded; or, by id, another live job.

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
            self._settle_failure(text, retry=False)
        self._ending.reason = "This job has failed: fail() was called"
        self._ending.tell()

    def run(self, app: Callable[..., Iterable[bytes]], claim: str) -> bool:
        """Run the app to its end, close() included, and write the outcome. Raises what is meant for the server only.

        ``claim`` is by which the record is leased: the process vouches for it until the outcome is written. False in a
        child that the app has forked, where that comes back to here: the job goes on in its parent, who alone ends it.
        """
        self._backend.vouching.lease(self._job.id, claim)
        log_begun(self._job.id, self._job.attempt, self._job)
        try:
            with running(self), self._ending.children.watching():
                self._response.take(app, self._environ)
                judgement = judge_answer(self._response, self._run)
        except BaseException as error:  # noqa: BLE001 - the edge around the app
            stop = self._settle_exception(error)
            if stop is not None:
                raise stop  # noqa: B904 - alone, not in the group in which it came: servers know no groups
        else:
            self._find_end()
            if self._ending.reason:
                self._settle_failure(self._failure)
            else:
                self._settle_judgement(judgement)
        finally:
            self._signs.stop()
            cookie = self._run.request.headers.get("HTTP_COOKIE", "")
            warn_of_changed(cookie, self._response.set_cookies, self._job.id, self._job.attempt)
            self._response.forget()
            self._run.error = None
            if self._signs.is_at_home:
                self._followers.release(claim, self._outcome)
        return self._signs.is_at_home

    def _settle_exception(self, error: BaseException) -> BaseException | None:
        """Write the outcome of a job that was left by this exception. Return the one that is the server's, if any."""
        stop, is_alone = find_stop(error), all(isinstance(leaf, JobEnded) for leaf in leaves(error))
        cause = None if is_alone or (stop and not self._signs.is_at_home) else error  # sys.exit() ends many a child
        self._find_end(holds_job_ended(error))
        if stop is not None:
            self._settle_failure(explain_stop(stop, self._environ or {}), cause=cause)
        elif self._ending.reason:
            self._settle_failure(self._failure, cause=cause)
        elif is_alone:
            self._settle_failure("JobEnded was raised by the app itself")
        else:
            self._settle_judgement(judge_exception(error, self._run))
        return stop

    def _find_end(self, was_met: bool = False) -> None:
        """Look how the record stands if JobEnded was met, here or in a child, which leaves the record to its parent."""
        is_open = self._ending.reason is None and self._signs.is_at_home
        if is_open and (was_met or self._ending.children.have_reported_end):
            with contextlib.suppress(StoreError):
                if self._find_out() is None:
                    self._signs.stop()

    def _is_other(self, job_id: AnyId, scope: str | None) -> bool:
        """Return whether the id, scope or process is not that of the running job. Another scope is refused."""
        is_own = job_id is None or (parse_id(job_id) == self.job_id and scope in (None, self._job.scope))
        return not self._signs.is_at_home or not is_own

    def _check_after_response(self) -> None:
        """A job's response is its outcome: what is to follow it waits for that."""

    def _launch_after_response(self, launch: Launch) -> None:
        self._followers.add(launch)

    def cancel_waiting(self, job_id: int) -> None:
        self._followers.cancel(job_id)

    def _track(self, rows: Iterable[Row], total: float | None, to: float) -> Iterator[Row]:
        begin = self._signs.progress
        for number, row in enumerate(rows, 1):
            yield row
            self.update(begin + (to - begin) * min(number / total, 1.0) if total else None)
        self.update(to)

    def _settle_judgement(self, judgement: Judgement) -> None:
        self._location = judgement.location
        if judgement.reason:
            self._settle_failure(judgement.reason, judgement.may_retry, judgement.error)
        else:
            self._complete()

    def _give_sign(self) -> None:
        self._signs.give_output()
        self._ending.is_live()

    def _find_out(self) -> Glance | None:
        """No sign was taken: why? How the record stands if this attempt runs all the same."""
        job, store = self._job, self._backend.store
        glance = store.glance(job.id)
        if glance is None:
            self._ending.reason = "The record of this job is gone"
        elif glance.attempt != job.attempt or glance.status is Status.STARTED:
            self._ending.reason = "This job was taken over by another attempt"
        elif glance.status is not Status.INPROGRESS:
            self._ending.reason = f"This job has ended: it is {glance.status.name}"
        elif not glance.cancel_requested:
            return glance
        else:
            if self._signs.is_at_home:
                text, progress = self._signs.text(), max(self._signs.progress, glance.progress)
                if store.move(Move.CANCEL, job.id, attempt=job.attempt, text=text, progress=progress):
                    log_ended(Move.CANCEL, job.id, job.attempt, job, seconds=self._run.seconds)
            self._ending.reason = "This job was cancelled"
        return None

    def _fail_unstorable(self, error: Refused) -> None:
        if self._signs.is_at_home:
            text = describe_refusal(error, None)
            self._settle(Move.FAIL, text, first_line(text))
        self._ending.reason = "This job has failed: the job store refuses what it has to show"

    def _complete(self, text: str | None = None) -> None:
        if self._signs.stop():
            if text is None:
                self._response.finish()
            self._settle(Move.COMPLETE, self._signs.text() if text is None else text)

    def _settle_failure(self, reason: str | None, retry: bool = True, cause: BaseException | None = None) -> None:
        move = Move.RETRY if self._may_retry(retry) else Move.FAIL
        if self._signs.stop():
            self._response.finish()
            shown = self._signs.text()
            told = explain_reason(cut_text(reason, _LONGEST_REASON), self._environ or {}) if reason else ""
            self._settle(move, append_line(shown, told) if told else shown, first_line(told), cause)
        else:
            log_late(self._job, cause, is_child=not self._signs.is_at_home)

    def _may_retry(self, retry: bool) -> bool:
        return retry and not self._signs.is_over and self._job.attempt <= self._job.retries

    def _settle(self, move: Move, text: str, error: str = "", cause: BaseException | None = None) -> None:
        told = {"error": error, "location": self._location}
        self._outcome = Outcome(self._job, move, text, self._signs.progress, self._run.seconds, cause, **told)
        self._outcome.write_patiently(self._backend.store, self._backend.vouching)
