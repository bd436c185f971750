"""The signs of a running job: its newest progress and text, and their way to the store, a few times a second at most.

A sign that can't be written waits here. Knows nothing of how a job ends: whoever made the signs is told when one is
refused.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable

from backjob.client.arguments import check_progress
from backjob.errors import Refused, StoreError
from backjob.logs import about, running
from backjob.model.job import Glance, Job
from backjob.model.text import clean_text, cut_text
from backjob.runtime.backoff import random_between
from backjob.scheduling.leases import TRIES
from backjob.storage.store import Store
from backjob.wsgi.output import Output

log = logging.getLogger("backjob")

QUIET = 0.2
"""Seconds between two writes of one job."""
_AWAY = 1.0
"""Seconds until a sign is tried again that the store did not take."""
_LONGEST_WRITE = 30.0
"""Seconds after which a write that is on its way is not waited for: its guard refuses it from then on."""


class Signs:
    """Those of one attempt. ``limit`` are the bytes of a text that are kept, ``lease`` the seconds that a sign buys.
    ``is_prompt``: each is written at once, by who gives it.

    ``on_refusal`` is called when the store takes no sign any more: it gives how the record stands where the attempt
    still runs, and None where it has ended. ``on_unstorable`` is called when the store has refused a sign
    for what it is, a few times in a row; no further sign is written. Several threads may give signs, and the children
    of a fork.
    """

    def __init__(
        self,
        store: Store,
        job: Job,
        output: Output,
        *,
        limit: int,
        lease: float,
        is_prompt: bool = False,
        on_refusal: Callable[[], Glance | None],
        on_unstorable: Callable[[Refused], None],
    ) -> None:
        self._store = store
        self._job = job
        self._output = output
        self._limit = limit
        self._lease = lease
        self._is_prompt = is_prompt
        self._quiet = 0.0 if is_prompt else QUIET
        self._on_refusal = on_refusal
        self._on_unstorable = on_unstorable
        self._refusals = 0
        self._home = self._pid = os.getpid()
        self._changed = threading.Condition()
        self._progress = 0.0  # small steps add up; what is stored is rounded
        self._text: tuple[str, int] | None = None  # and the size of the output that it stands for
        self._number = 0
        self._stored: str | None = ""  # None: not known, an answer was lost
        self._thread: threading.Thread | None = None
        self._next_at = -math.inf  # when the next write may be made, in time.monotonic()
        self._waits = False
        self._is_writing = False
        self._writer: int | None = None
        self._is_away = False
        self._is_over = False

    @property
    def progress(self) -> int:
        """0-100."""
        return round(self._progress)

    @property
    def is_at_home(self) -> bool:
        """Is this the process that runs the attempt, and not a child that it has forked?"""
        return os.getpid() == self._home

    @property
    def is_over(self) -> bool:
        """Is no sign written any more?"""
        return self._is_over

    def tell(self, progress: float | None = None, text: object = None, *, step: float = 0) -> None:
        """Give a sign: a progress, which never goes back, a step on from there, and a text, shown until output follows.

        Raises ValueError for an invalid progress.
        """
        progress, step = _clamp(progress) if progress is not None else 0.0, _clamp(step)
        if text is not None and not isinstance(text, str):
            text = clean_text(text)  # a text is cut when it is written: most are never
        self._notice_fork()
        with self._changed:
            if not self._is_over:
                self._output.show_line()
                self._progress = min(max(self._progress, progress) + step, 100.0)
                if text is not None:
                    self._text = text, self._output.size
        self.give()

    def give(self) -> None:
        """Give a sign, with what was told and what was put out so far. The first is written at once, and then those
        that come together when the last write is a moment ago: by a thread, so that none needs a next one to be seen.
        """
        self._notice_fork()
        with self._changed:
            if self._is_over:
                return
            if not self._waits:
                self._waits = True
                self._changed.notify_all()  # the thread may have had nothing to wait for
            # A database that is away is the thread's to wait for; but under gevent it may have no chance to run.
            own_turn = self._next_at + (_AWAY if self._is_away else 0)
            if self._is_writing or time.monotonic() < own_turn:
                self._see_to_thread()
                return
            self._is_writing = True
        self._write()

    def give_output(self) -> None:
        """Write new output: at once, or a moment later if it is an unfinished line."""
        self._notice_fork()
        if self._is_prompt or not self._output.wait:
            self.give()
            return
        with self._changed:
            if not self._is_over:
                self._changed.notify_all()
                self._see_to_thread()

    def leave(self) -> None:
        """Give a sign that another one writes: for who must not wait for a database, nor find out that all is over."""
        if self._is_prompt:
            self.give()
            return
        self._notice_fork()
        with self._changed:
            if not self._is_over:
                self._waits = True
                self._changed.notify_all()
                self._see_to_thread()

    def hasten(self) -> None:
        """Write the next sign at once."""
        self._notice_fork()
        with self._changed:
            self._next_at = -math.inf
            self._changed.notify_all()

    def stop(self) -> bool:
        """Let no sign be written any more, not even one that is on its way. False when that was so already, and in a
        child of a fork, where nothing may follow on it.
        """
        if not self.is_at_home:
            self._is_over = True
            return False
        me = threading.get_ident()  # whoever is told of a write within it may end the job
        with self._changed:
            self._changed.wait_for(lambda: not self._is_writing or self._writer == me, _LONGEST_WRITE)
            was_over, self._is_over = self._is_over, True
            self._changed.notify_all()
            return not was_over

    def text(self, *, is_whole: bool = True) -> str:
        """What is shown: an explicit text stays until output follows it. ``is_whole``: nothing more is to come."""
        if is_whole:
            self._output.show_line()
        told = self._text
        text = self._output.text(is_whole=is_whole)
        return text if told is None or told[1] < self._output.shown_size else cut_text(told[0], self._limit)

    def _notice_fork(self) -> None:
        """In a child the parent's threads are not there: what they held or were about to write is not to be waited for.

        The output is the parent's to show, who may have more of it by now.
        """
        if os.getpid() != self._pid:
            self._changed = threading.Condition()
            self._output, self._text, self._stored = Output(self._limit), None, ""
            self._waits = self._is_writing = False
            self._next_at = -math.inf
            self._pid = os.getpid()

    def _see_to_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():  # in the child of a fork it is not
            thread = threading.Thread(target=self._work, name="backjob-signs", daemon=True)
            with contextlib.suppress(RuntimeError):  # no more threads here: the next sign takes this one along
                thread.start()
                self._thread = thread

    def _work(self) -> None:
        """Write what waits, each time when it may be written, for as long as the job runs."""
        while True:
            with self._changed:
                while not self._is_over and (self._is_writing or (wait := self._wait()) > 0):
                    self._changed.wait(None if self._is_writing or wait == math.inf else wait)
                if self._is_over:
                    return
                self._is_writing = True
            self._write()

    def _wait(self) -> float:
        pause, unfinished = self._next_at - time.monotonic(), self._output.wait
        return pause if self._waits else max(pause, unfinished) if unfinished is not None else math.inf

    def _write(self) -> None:
        """Without the lock, for a database may be slow; by one thread at a time, which has set ``_is_writing``."""
        is_over, is_written, wait = False, False, self._quiet
        self._writer = threading.get_ident()
        try:
            self._waits = False
            with running(None):  # what the store logs is not the job's
                is_over = not self._write_or_give_up()
            is_written = True
        except StoreError as error:
            self._stored, wait, job = None, _AWAY * random_between(0.8, 1.2), self._job
            if not self._is_away:
                log.warning("Job %d goes on, its update waits: %s", job.id, error, extra=about(job.id, job.attempt))
        finally:
            with self._changed:
                self._is_away = wait > self._quiet
                self._waits = self._waits or not is_written
                self._is_over = self._is_over or is_over
                self._next_at = time.monotonic() + wait
                self._is_writing = False
                self._changed.notify_all()
                if self._waits and not self._is_over:
                    self._see_to_thread()

    def _write_or_give_up(self) -> bool:
        """Is there more to be written after this? Raises StoreError."""
        try:
            is_live = self._try_to_write()
        except Refused as error:
            self._refusals += 1
            if self._refusals < TRIES:
                raise
            self._on_unstorable(error)
            return False
        self._refusals = 0
        return is_live

    def _try_to_write(self) -> bool:
        progress, text = self.progress, self.text(is_whole=False)
        if self._touch(progress, text):
            return True
        glance = self._on_refusal()
        if glance is None:
            return False
        # It runs, and the record is not as it was left: a child of this process has given a sign too, or the database
        # takes no more of a text. Should it have ended just now, the next try finds that.
        self._number, self._stored = glance.signs, None
        with self._changed:
            self._progress = max(self._progress, float(glance.progress))
        self._waits = not self._touch(self.progress, text) or self._waits
        return True

    def _touch(self, progress: int, text: str) -> bool:
        self._number += 1
        stored, self._stored = self._stored, None
        if not text and not self.is_at_home:
            stored = ""  # a child that has told no text leaves the one that is there
        is_more = stored is not None and text.startswith(stored)
        told = text[len(stored) :] if stored is not None and is_more else text
        is_made = self._store.touch(
            self._job.id, self._job.attempt, progress, told, self._lease, self._number, is_more=is_more
        )
        self._stored = text if is_made else None
        return is_made


def _clamp(progress: float) -> float:
    return min(max(check_progress(progress), 0), 100)
