"""The thread, the lock and the store calls of a job's progress; progress.py decides when and what is written.

Knows nothing of how a job ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from backjob.client.arguments import check_progress
from backjob.config import Config
from backjob.errors import Refused, StoreError
from backjob.logs import about, running
from backjob.model.job import Glance, Job
from backjob.model.text import clean_text
from backjob.runtime.backoff import between
from backjob.scheduling.leases import TRIES
from backjob.storage.store import Store
from backjob.wsgi.output import Output

from .progress import RETRY, Progress, State

log = logging.getLogger("backjob")

INTERVAL = 0.2
"""Seconds between two writes of one job."""
_LONGEST_WRITE = 30.0
"""Seconds for which stop() waits for a write. After that the store's guard refuses it."""


@dataclass(eq=False, repr=False)
class Reporter:
    """Writer of one attempt's progress and output. Several threads of the job may use it, and children of a fork.

    ``on_refusal`` is called when the store does not take a write. It returns the record if the attempt runs, else None.
    ``on_unstorable`` is called when the store has refused what is written a few times. Nothing is written after that.
    """

    store: Store
    job: Job
    output: Output
    config: Config
    on_refusal: Callable[[], Glance | None]
    on_unstorable: Callable[[Refused], None]

    def __post_init__(self) -> None:
        self._progress = Progress(self.config.max_output, 0.0 if self.config.is_inline else INTERVAL)
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._writer: int | None = None
        self._refusals = 0

    @property
    def progress(self) -> int:
        """Progress in percent, 0-100."""
        return round(self._progress.percent)

    @property
    def is_in_child(self) -> bool:
        """Is this a child that the process of the job has forked?"""
        self._notice_fork()
        return self._progress.is_child

    @property
    def has_ended(self) -> bool:
        """Is nothing written any more?"""
        return self._progress.state is State.ENDED

    def report(self, progress: float | None = None, text: object = None, *, step: float = 0) -> None:
        """Report a progress, a step on from there, and a status text. Raises ValueError for an invalid progress."""
        percent, step = 0.0 if progress is None else check_progress(progress), check_progress(step)
        if text is not None and not isinstance(text, str):
            text = clean_text(text)  # a text is cut when it is written: most are never
        self._notice_fork()
        self.output.show_line()
        self._take(percent, step, text)

    def report_output(self, *, may_write: bool = True) -> None:
        """Report new output: at once, or a moment later if it is an unfinished line.

        Without ``may_write`` the caller neither waits for the store nor learns of the end of the job.
        """
        self._notice_fork()
        if self.config.is_inline or not self.output.wait:
            self._take(may_write=may_write or self.config.is_inline)
            return
        with self._changed:
            self._changed.notify_all()
            self._ensure_thread()

    def hasten(self) -> None:
        """Write the next report at once."""
        self._notice_fork()
        with self._changed:
            self._progress.due_at = 0.0
            self._changed.notify_all()

    def stop(self) -> bool:
        """Write nothing more. Return False if that was so already, and in a child, which must not end the job."""
        self._notice_fork()
        free = (None, threading.get_ident())  # a hook that the write has called may end the job
        with self._changed:
            self._changed.wait_for(lambda: self._writer in free, _LONGEST_WRITE)
            had_ended, self._progress.state = self.has_ended, State.ENDED
            self._changed.notify_all()
        return not had_ended and not self._progress.is_child

    def text(self, *, is_whole: bool = True) -> str:
        """Return the status text. ``is_whole``: no more output is to come."""
        if is_whole:
            self.output.show_line()
        output = self.output.text(is_whole=is_whole)
        return self._progress.show(output, self.output.shown_size)

    def _notice_fork(self) -> None:
        """Begin anew in a child: its parent's threads are gone, maybe with the lock, and the output is the parent's."""
        if os.getpid() != self._process:
            self._changed, self._writer = threading.Condition(), None
            self.output = Output(self.config.max_output)
            self._progress, self._process = self._progress.fork(), os.getpid()

    def _take(
        self, percent: float = 0.0, step: float = 0.0, text: str | None = None, *, may_write: bool = True
    ) -> None:
        with self._changed:
            if self._progress.report(percent, step, text, self.output.size):
                self._changed.notify_all()
            if not may_write or not self._progress.is_due(time.monotonic()):
                self._ensure_thread()
                return
            self._begin_write()
        self._write()

    def _ensure_thread(self) -> None:
        if not self.has_ended and (self._thread is None or not self._thread.is_alive()):  # in a child it is not
            thread = threading.Thread(target=self._work, name="backjob-progress", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads here: the next report tries again
                thread.start()
                self._thread = thread

    def _work(self) -> None:
        """Write each report when it is due, until the end of the job."""
        while True:
            with self._changed:
                while (delay := self._progress.delay(time.monotonic(), self.output.wait)) != 0.0:
                    if self.has_ended:
                        return
                    self._changed.wait(delay)
                self._begin_write()
            self._write()

    def _begin_write(self) -> None:
        self._progress.state, self._writer = State.WRITING, threading.get_ident()

    def _write(self) -> None:
        """Write the newest report. Without the lock, because a database may be slow."""
        is_written, retry = False, None
        try:
            with running(None):  # what the store logs is not the job's
                is_written = self._send()
            self._refusals = 0
        except StoreError as error:
            retry = RETRY * between(0.8, 1.2)
            self._note_failure(error)
        finally:
            with self._changed:
                self._progress.end_write(time.monotonic(), is_written=is_written, retry=retry)
                self._writer = None
                self._changed.notify_all()
                if self._progress.state is State.CHANGED:
                    self._ensure_thread()

    def _note_failure(self, error: StoreError) -> None:
        self._refusals += isinstance(error, Refused)
        if isinstance(error, Refused) and self._refusals >= TRIES:
            with running(None):
                self.on_unstorable(error)
            self._progress.state = State.ENDED
        elif not self._progress.is_unreachable:
            job = self.job
            log.warning("Job %d goes on, its update waits: %s", job.id, error, extra=about(job.id, job.attempt))

    def _send(self) -> bool:
        """Return False if another write is needed. Raises StoreError."""
        text = self.text(is_whole=False)
        if self._touch(text):
            return True
        glance = self.on_refusal()
        if glance is None:
            self._progress.state = State.ENDED
            return True
        # It runs, but the record has changed: a child of this process has reported too, or the database can't append
        # more to a text. If it has ended just now, the next write finds that.
        with self._changed:
            self._progress.catch_up(glance.signs, glance.progress)
        return self._touch(text)

    def _touch(self, text: str) -> bool:
        with self._changed:
            write, job = self._progress.make_write(text), self.job
        args = (job.id, job.attempt, write.progress, write.text, self.config.lease, write.number)
        return self.store.touch(*args, is_more=write.is_more)
