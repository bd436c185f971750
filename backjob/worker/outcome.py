"""The outcome of an attempt, until it is written. It is kept while the database is unreachable.

Knows the moves that end an attempt, and nothing of the app that ran.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from backjob.errors import Refused, StoreError
from backjob.logs import about
from backjob.model.events import log_ended, log_late
from backjob.model.history import AttemptEnd, add_end
from backjob.model.job import Job, Move, Status
from backjob.model.text import first_line
from backjob.runtime.backoff import retry_delay
from backjob.runtime.threads import is_native
from backjob.scheduling.leases import TRIES, Renewals
from backjob.storage.store import Store

log = logging.getLogger("backjob")

PATIENCE = 5.0
"""Seconds for which the request of a job tries to write its outcome."""
_PAUSE = 0.2
_RETRY_EVERY = 1.0
"""Seconds between two tries to write postponed outcomes under gevent."""
_NOT_STORED = "The job store refuses the text of this job"


def _write_others(store: Store, renewals: Renewals) -> None:
    """Write the postponed outcomes of other jobs: the keeper may be the one that gets no connection."""
    with contextlib.suppress(StoreError):
        renewals.write_postponed(store)


def _retry_in_greenlet(store: Store, renewals: Renewals) -> None:
    """Under gevent, retry postponed writes in a greenlet: the keeper's thread can't borrow a greenlet's connection."""

    def write_later() -> None:
        while renewals.has_postponed:
            time.sleep(_RETRY_EVERY)
            _write_others(store, renewals)

    if not is_native():
        threading.Thread(target=write_later, name="backjob-outcome", daemon=True).start()


@dataclass(eq=False, repr=False)
class Outcome:
    """The move that ends this attempt of a job, with its last text and progress.

    ``seconds``: duration of the attempt. ``cause``: exception of a failure, for the log. ``error``: reason of a failure
    in one line. ``location``: target of the redirect with which it ended.
    """

    job: Job
    move: Move
    text: str
    progress: int | None
    seconds: float | None = None
    cause: BaseException | None = None
    error: str = ""
    location: str = ""

    def __post_init__(self) -> None:
        self._is_tried, self._refusals = False, 0
        self._call: Callable[[bool], None] | None = None
        self.delay = retry_delay(self.job.attempt) if self.move is Move.RETRY else 0.0
        """Seconds until the next attempt, if there is one."""
        self.is_known = False
        """True once the move was made, or another writer was first."""
        self.is_completed = False

    def write_patiently(self, store: Store, renewals: Renewals) -> None:
        """Write the outcome now or in a few seconds, and else leave it to the keeper."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.write(store)
                return _write_others(store, renewals)
            except StoreError as error:
                if time.monotonic() > end:
                    self._log_error("Job %d has ended, its outcome waits: %s", error, exc_info=self._take_cause())
                    renewals.postpone(self._write_late)
                    return _retry_in_greenlet(store, renewals)
            time.sleep(_PAUSE)

    def _write_late(self, store: Store) -> None:
        self.write(store)
        log.info("Job %d: its outcome is written", self.job.id, extra=about(self.job.id, self.job.attempt))

    def write(self, store: Store) -> None:
        """Write the outcome. Raises StoreError if that failed and is to be repeated.

        An outcome whose content the store refuses becomes a failure with a short text. If even that is refused, it is
        given up, and the job is recovered like a lost one.
        """
        while not self.is_known:
            try:
                self.is_completed = self._make(store)
                self.is_known = True
            except Refused as error:
                self._note_refusal(error)
        self._call_once()

    def _note_refusal(self, error: Refused) -> None:
        """Prepare the next try: after a pause, and with a shorter text after a few refusals."""
        self._refusals += 1
        if self._refusals % TRIES:
            time.sleep(_PAUSE)
        elif self._refusals == TRIES:
            self._log_error("Job %d fails, its outcome can't be stored: %s", error)
            self.text = describe_refusal(error, self.move)
            self.error, self.location = first_line(self.text), ""
            self.move, self.progress, self.delay = Move.FAIL, None, 0.0
        elif self._refusals == 2 * TRIES:
            self.text = self.error = _NOT_STORED  # the reason may quote the refused text
        else:
            self._log_error("Job %d has ended, its outcome is given up: %s", error)
            self.is_known = True

    def _log_error(self, message: str, error: StoreError, exc_info: BaseException | None = None) -> None:
        log.error(message, self.job.id, error, extra=about(self.job.id, self.job.attempt), exc_info=exc_info)

    def when_known(self, call: Callable[[bool], None]) -> None:
        """Call ``call(is_completed)`` once: now, or as soon as the outcome is known."""
        self._call = call
        if self.is_known:
            self._call_once()

    def _call_once(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call(self.is_completed)

    def _make(self, store: Store) -> bool:
        """Make the move. Return whether the job has completed."""
        job, again = self.job, self.move is Move.RETRY
        was_tried, self._is_tried = self._is_tried, True
        if self._move(store, self.move, self.error):
            return self.move is Move.COMPLETE
        # Another writer was first, or this move was made before, and the answer was lost.
        glance = store.glance(job.id)
        is_ours = glance is not None and glance.attempt == job.attempt
        if glance is not None and is_ours and again and glance.status is Status.INPROGRESS:
            last = Move.CANCEL if glance.cancel_requested else Move.FAIL
            self._move(store, last, self.error if last is Move.FAIL else "")
        elif was_tried and glance is not None and glance.status is self.move.target and (again or is_ours):
            self._log(self.move)
        log_late(job, self._take_cause())
        return glance is not None and is_ours and glance.status is Status.COMPLETED

    def _move(self, store: Store, move: Move, error: str) -> bool:
        job, is_retry = self.job, move is Move.RETRY
        is_made = store.move(
            move,
            job.id,
            attempt=job.attempt,
            text=self.text,
            error=error,
            location=self.location,
            progress={Move.COMPLETE: 100, Move.RETRY: 0}.get(move, self.progress),
            delay=self.delay if is_retry else 0.0,
            past=add_end(job.past, AttemptEnd(job.attempt, store.time(), self.text)) if is_retry else None,
        )
        if is_made:
            self._log(move)
        return is_made

    def _log(self, move: Move) -> None:
        job, cause = self.job, self._take_cause()
        log_ended(move, job.id, job.attempt, job, seconds=self.seconds, reason=self.error, error=cause)

    def _take_cause(self) -> BaseException | None:
        """Return the exception, to be logged once. Its traceback is then released."""
        cause, self.cause = self.cause, None
        return cause


def describe_refusal(error: Refused, move: Move | None) -> str:
    """Return the text of a job whose own text the store refuses. ``move``: its refused move, None while it runs."""
    ended = {None: "was running", Move.COMPLETE: "had completed", Move.CANCEL: "was cancelled"}.get(move, "had failed")
    return f"{_NOT_STORED}; it {ended}. {error}"
