"""How a run ended, until it is written: a database that is away keeps it waiting, and it is not lost.

Knows the moves that end an attempt, and nothing of the app that ran.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from backjob.errors import Refused, StoreError
from backjob.logs import about
from backjob.model.events import log_ended, log_late
from backjob.model.history import AttemptEnd, add_end
from backjob.model.job import Job, Move, Status
from backjob.model.text import first_line
from backjob.runtime.backoff import retry_delay
from backjob.runtime.threads import is_native
from backjob.scheduling.leases import TRIES, Vouching
from backjob.storage.store import Store

log = logging.getLogger("backjob")

PATIENCE = 5.0
"""Seconds for which the request of a job tries to write its outcome."""
_PAUSE = 0.2
_RETRY_EVERY = 1.0
"""Seconds between two tries to write postponed outcomes under gevent."""
_NOT_STORED = "The job store refuses what this job has to say"


def _write_others(store: Store, vouching: Vouching) -> None:
    """Write what other jobs have postponed: the keeper may be the one that gets no connection."""
    with contextlib.suppress(StoreError):
        vouching.write_postponed(store)


def _retry_in_greenlet(store: Store, vouching: Vouching) -> None:
    """Under gevent, retry postponed writes in a greenlet: the keeper's thread can't borrow a greenlet's connection."""

    def write_later() -> None:
        while vouching.has_postponed:
            time.sleep(_RETRY_EVERY)
            _write_others(store, vouching)

    if not is_native():
        threading.Thread(target=write_later, name="backjob-outcome", daemon=True).start()


class Outcome:
    """The move that ends this attempt of a job, with its last text and progress.

    ``error``: the reason of a failure in one line. ``location``: where the redirect leads with which it ended.
    ``seconds``: duration of the attempt. ``cause``: the exception of a failure, for the log.
    """

    def __init__(
        self,
        job: Job,
        move: Move,
        text: str,
        progress: int,
        seconds: float | None = None,
        cause: BaseException | None = None,
        *,
        error: str = "",
        location: str = "",
    ) -> None:
        self._job = job
        self._told = about(job.id, job.attempt)
        self._move = move
        self._text = text
        self._error = error
        self._location = location
        self._progress: int | None = progress
        self._seconds = seconds
        self._cause = cause
        self._is_tried = False
        self._refusals = 0
        self.delay = retry_delay(job.attempt) if move is Move.RETRY else 0.0
        """Seconds until the next attempt, if there is one."""
        self._call: Callable[[bool], None] | None = None
        self.is_known = False
        """Is it known how the job stands? Then the move was made, or somebody else was first."""
        self.is_completed = False

    def write_patiently(self, store: Store, vouching: Vouching) -> None:
        """Write it now, or in a few seconds; or leave it to the keeper, as long as the process lives."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.write(store)
                return _write_others(store, vouching)
            except StoreError as error:
                if time.monotonic() > end:
                    what, cause = "Job %d has ended, its outcome waits: %s", self._take_cause()
                    log.error(what, self._job.id, error, extra=self._told, exc_info=cause)
                    vouching.postpone(self._write_late)
                    return _retry_in_greenlet(store, vouching)
            time.sleep(_PAUSE)

    def _write_late(self, store: Store) -> None:
        self.write(store)
        log.info("Job %d: its outcome is written", self._job.id, extra=self._told)

    def write(self, store: Store) -> None:
        """Write it. Raises StoreError, and then it is to be tried again.

        An outcome that the store refuses for what it is becomes a failure with a short text. If even that is refused,
        it is given up, and the job is recovered like one whose process is gone.
        """
        while not self.is_known:
            try:
                self.is_completed = self._make(store)
                self.is_known = True
            except Refused as error:
                self._note_refusal(error)
        self._call_once()

    def _note_refusal(self, error: Refused) -> None:
        """Try it again after a pause, and, when it was refused a few times, with less to say."""
        self._refusals += 1
        if self._refusals % TRIES:
            time.sleep(_PAUSE)
        elif self._refusals == TRIES:
            log.error("Job %d fails, its outcome can't be stored: %s", self._job.id, error, extra=self._told)
            self._text = describe_refusal(error, self._move)
            self._error, self._location = first_line(self._text), ""
            self._move, self._progress, self.delay = Move.FAIL, None, 0.0
        elif self._refusals == 2 * TRIES:
            self._text = self._error = _NOT_STORED  # the reason may quote what is refused
        else:
            log.error("Job %d has ended, its outcome is given up: %s", self._job.id, error, extra=self._told)
            self.is_known = True

    def when_known(self, call: Callable[[bool], None]) -> None:
        """Call this once, with whether the job has completed: now, or as soon as that is known."""
        self._call = call
        if self.is_known:
            self._call_once()

    def _call_once(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call(self.is_completed)

    def _make(self, store: Store) -> bool:
        job, again = self._job, self._move is Move.RETRY
        was_tried, self._is_tried = self._is_tried, True
        is_made = store.move(
            self._move,
            job.id,
            attempt=job.attempt,
            text=self._text,
            error=self._error,
            location=self._location,
            progress=self._shown(self._move),
            delay=self.delay,
            past=add_end(job.past, AttemptEnd(job.attempt, store.time(), self._text)) if again else None,
        )
        if is_made:
            self._log(self._move)
            return self._move is Move.COMPLETE
        # Somebody else was first, or we were, and the answer was lost.
        glance = store.glance(job.id)
        is_ours = glance is not None and glance.attempt == job.attempt
        if glance is not None and is_ours and again and glance.status is Status.INPROGRESS:
            last = Move.CANCEL if glance.cancel_requested else Move.FAIL
            error = self._error if last is Move.FAIL else ""
            is_made = store.move(
                last,
                job.id,
                attempt=job.attempt,
                text=self._text,
                error=error,
                location=self._location,
                progress=self._shown(last),
            )
            if is_made:
                self._log(last)
        elif was_tried and glance is not None and glance.status is self._move.target and (again or is_ours):
            self._log(self._move)  # the answer to the write was lost
        log_late(job, self._take_cause())
        return glance is not None and is_ours and glance.status is Status.COMPLETED

    def _log(self, move: Move) -> None:
        job, cause = self._job, self._take_cause()
        log_ended(move, job.id, job.attempt, job, seconds=self._seconds, reason=self._error, error=cause)

    def _take_cause(self) -> BaseException | None:
        """Return the exception, to be logged once. Its traceback is then released."""
        cause, self._cause = self._cause, None
        return cause

    def _shown(self, move: Move) -> int | None:
        return {Move.COMPLETE: 100, Move.RETRY: 0}.get(move, self._progress)


def describe_refusal(error: Refused, move: Move | None) -> str:
    """Return the text of a job whose own text the store refuses. ``move``: how it would have ended; None: it ran on."""
    ended = {None: "was running", Move.COMPLETE: "had completed", Move.CANCEL: "was cancelled"}.get(move, "had failed")
    return f"{_NOT_STORED}; it {ended}. {error}"
