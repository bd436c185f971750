"""How a run ended, until it is written: a database that is away keeps it waiting, and it is not lost.

Knows the moves that end an attempt, and nothing of the app that ran.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from .dispatcher import Dispatcher
from .errors import StoreError
from .jitter import between
from .job import Job, Move, Status
from .monitor import backoff
from .store import Store

log = logging.getLogger("backjob")

PATIENCE = 5.0
"""Seconds for which the request of a job tries to write its outcome."""
_PAUSE = 0.2
_LATER = 1.0
"""Seconds between two tries when the request has gone."""


class Outcome:
    """The move that ends this attempt of a job, with its last text and progress."""

    def __init__(self, store: Store, dispatcher: Dispatcher, job: Job, move: Move, text: str, progress: int) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._job = job
        self._move = move
        self._text = text
        self._progress = progress
        self._calls: list[Callable[[bool], None]] = []
        self.is_known = False
        """Is it known how the job stands? Then the move was made, or somebody else was first."""
        self.is_completed = False
        self.error: StoreError | None = None
        """Why it was not written when it was last tried."""

    @property
    def job_id(self) -> int:
        """The job's id."""
        return self._job.id

    def try_write(self) -> bool:
        """Write it: one thread at a time. False while the store can't be reached; after True nothing is left to do."""
        try:
            self.write(self._store)
        except StoreError as error:
            self.error = error
            return False
        return True

    def write(self, store: Store) -> None:
        """Write it by this store, another one on the same jobs. Raises StoreError, and then it is to be tried again."""
        if not self.is_known:
            self.is_completed = self._make(store)
            self.is_known = True
        self._call_all()

    def when_known(self, call: Callable[[bool], None]) -> None:
        """Call this once, with whether the job has completed: now, or as soon as that is known."""
        self._calls.append(call)
        if self.is_known:
            self._call_all()

    def _call_all(self) -> None:
        while self._calls:
            try:
                call = self._calls.pop(0)
            except IndexError:  # another thread was quicker
                return
            call(self.is_completed)

    def _make(self, store: Store) -> bool:
        job, delay = self._job, 0.0
        if self._move is Move.RETRY:
            delay = backoff(2.0 ** (job.attempt - 1))
        progress = self._shown(self._move)
        if store.move(self._move, job.id, attempt=job.attempt, text=self._text, progress=progress, delay=delay):
            if self._move is Move.RETRY:
                self._dispatcher.look_after(delay)
            return self._move is Move.COMPLETE
        # Somebody else was first, or we were, and the answer was lost.
        glance = store.glance(job.id)
        if self._move is not Move.RETRY or glance is None:
            return glance is not None and (glance.status, glance.attempt) == (Status.COMPLETED, job.attempt)
        if (glance.status, glance.attempt) == (Status.INPROGRESS, job.attempt):
            last = Move.CANCEL if glance.cancel_requested else Move.FAIL
            store.move(last, job.id, attempt=job.attempt, text=self._text, progress=self._shown(last))
        elif glance.status is Status.STARTED:
            self._dispatcher.look_after(delay)
        return False

    def _shown(self, move: Move) -> int:
        return {Move.COMPLETE: 100, Move.RETRY: 0}.get(move, self._progress)


class Outcomes:
    """Those of this process that could not be written yet: a thread tries again each second, until all are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Outcome] = []
        self._has_thread = False

    def write(self, outcome: Outcome) -> None:
        """Write it now, or in a few seconds, or keep it until it is written."""
        end = time.monotonic() + PATIENCE
        while not outcome.try_write():
            if time.monotonic() > end:
                log.error("Job %d has ended, its outcome waits: %s", outcome.job_id, outcome.error)
                self._keep(outcome)
                return
            time.sleep(_PAUSE)

    def _keep(self, outcome: Outcome) -> None:
        with self._lock:
            self._waiting.append(outcome)
            if not self._has_thread:
                with contextlib.suppress(RuntimeError):  # no more threads here: the next one takes this one along
                    threading.Thread(target=self._work, name="backjob-outcomes", daemon=True).start()
                    self._has_thread = True

    def _work(self) -> None:
        while True:
            time.sleep(_LATER * between(0.8, 1.2))
            written = [outcome for outcome in tuple(self._waiting) if outcome.try_write()]
            for outcome in written:
                log.info("Job %d: its outcome is written", outcome.job_id)
            with self._lock:
                self._waiting = [outcome for outcome in self._waiting if outcome not in written]
                if not self._waiting:
                    self._has_thread = False
                    return
