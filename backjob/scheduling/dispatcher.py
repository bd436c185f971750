"""The dispatcher of one process: launches jobs in a bounded number of threads, and leaves the others as rows.

A launch lasts until its connection has ended. Only a few launches may wait for a slot of the server at once, because
visitors' requests wait in the same queue.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from backjob.config import Config
from backjob.errors import Refused, StoreError, TimedOut
from backjob.keyring import Keyring
from backjob.model.job import Job
from backjob.runtime.backoff import backoff
from backjob.runtime.server_info import threads_outlive_requests
from backjob.storage.store import Store

from .concurrency import Limits
from .monitor import Monitor, Verdict
from .queue import LOOK_EVERY, WaitingRows

log = logging.getLogger("backjob")

UNCLAIMED = 2
"""Worker requests of one process that may wait for a slot at once."""
LEFT_UNCLAIMED = 4
"""The same in the whole deployment, if no monitor watches."""
_LONGEST_PAUSE = 10.0
"""Longest pause in an outage of the database, before jitter. Without a keeper, nothing else ends it."""
_PATIENCE_IN_REQUEST = 5.0
"""Seconds for which a monitor in a request waits until its job has a slot. It may hold the only one."""
_NEVER = float("inf")


class Dispatcher:
    """Launches the jobs that are handed over to this process, or that wait as rows."""

    def __init__(self, config: Config, keyring: Keyring, store: Store, limits: Limits, monitor: Monitor) -> None:
        self._config = config
        self._store = store
        self._limits = limits
        self._monitor = monitor
        self._rows = WaitingRows(config, keyring, store, limits, monitor)
        self._changed = threading.Condition()
        self._handed: deque[Job] = deque()
        self._claims: dict[int, Callable[[], None]] = {}
        self._is_paused = False
        self._threads = 0
        self._launches = 0  # with those that only look for a row
        self._unclaimed = 0  # of them, those that wait for a slot
        self._look_at = _NEVER  # when to look for rows that wait, in time.monotonic()
        self._outage_since: float | None = None  # start of a database outage, in time.monotonic()

    def pause(self) -> None:
        """Launch nothing until resume(), and wait a moment for threads that are about to end.

        Jobs that were launched are watched to their end.
        """
        with self._changed:
            self._is_paused = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._threads, timeout=1.0)

    def resume(self) -> None:
        """End a pause: launch what was handed over or is due. Without a pause it does nothing."""
        with self._changed:
            if self._is_paused:
                self._is_paused = False
                self._look_at = time.monotonic()
                self._wake()

    def choose_way(self, environ: Mapping[str, Any]) -> str:
        """Return how a monitor waits on this server: "thread", "request" or "leave"."""
        if self._config.monitor != "auto":
            return self._config.monitor
        return "thread" if threads_outlive_requests(environ) else "leave"

    def accept(self, job: Job, nonce: str, way: str, has_threads: bool) -> Callable[[], None] | None:
        """Take over a job from start(). Return None if that was done before.

        Otherwise return what to call after the response, because the job would delay it.
        """
        if way == "thread":
            # Rows that wait go first.
            may_launch = job.due_in <= 0 and not self._rows.are_there and self._begin_launch()
        elif job.due_in > 0:
            may_launch = not has_threads  # without threads, only this request can wait
        else:
            may_launch = way == "request" or self._store.count_launched() < LEFT_UNCLAIMED
        holder = self._monitor.owner if may_launch else None
        app_id = self._monitor.app_id  # also of a job without one, from now on
        is_taken = self._store.hold(job.id, job.attempt, nonce, holder, job.due_in + self._config.lease, app_id)
        if not is_taken:
            if may_launch and way == "thread":
                self._leave_queue()
                self._end_launch()
            return None
        if not may_launch:
            if job.due_in <= 0:
                self._rows.note_left()
            return functools.partial(self.look_after, job.due_in) if has_threads else _nothing
        if way == "thread":
            return functools.partial(self._hand_over, replace(job, app_id=app_id))
        return functools.partial(self._run_here, job.id, way, has_threads)

    def _hand_over(self, job: Job) -> None:
        with self._changed:
            self._handed.append(job)
            self._wake()

    def _run_here(self, job_id: int, way: str, has_threads: bool) -> None:
        """Wait in this request until the job is due, then launch it and watch it ("request") or leave ("leave")."""

        def wait_for_time() -> Job | None:
            job = self._store.get(job_id)
            if job is not None and job.due_in > 0 and job.held_by == self._monitor.owner:
                threading.Event().wait(job.due_in)
                job = self._store.get(job_id)
            return job if job is not None and job.held_by == self._monitor.owner else None

        self._run_in_request(wait_for_time, way, has_threads)

    def take_up_here(self, way: str, has_threads: bool) -> None:
        """Launch the next waiting row in this request, in case no thread looks for rows."""
        self._run_in_request(self._rows.take, way, has_threads)

    def _run_in_request(self, find: Callable[[], Job | None], way: str, has_threads: bool) -> None:
        try:
            job = find()
            if job is not None:
                run = functools.partial(self._monitor.run, on_claim=_nothing, patience=_PATIENCE_IN_REQUEST)
                verdict = run(job) if way == "request" else self._monitor.leave(job)
                wait = self._rows.note_verdict(job, verdict)
                if verdict is Verdict.FULL and has_threads:
                    self.look_after(wait)
        except StoreError as error:
            log.warning("Jobs wait for their database: %s", error)

    def start_looking(self) -> None:
        """Look for waiting rows now, unless a thread does. End the pause for a database outage."""
        if not self._threads or self._outage_since is not None:
            self.look_after(0)

    def look_after(self, seconds: float) -> None:
        """Look for waiting rows after so many seconds, or later if no launch is possible then."""
        with self._changed:
            self._look_at = min(self._look_at, time.monotonic() + max(seconds, 0))
            self._wake()

    def note_claim(self, job_id: int) -> None:
        """Note that this job has its slot: the next launch may wait for one."""
        leave_queue = self._claims.get(job_id)
        if leave_queue:
            leave_queue()

    def _begin_launch(self) -> bool:
        with self._changed:
            is_free = self._may_launch()
            if is_free:
                self._launches += 1
                self._unclaimed += 1
            return is_free

    def _may_launch(self) -> bool:
        return self._launches < self._limits.places and self._unclaimed < UNCLAIMED

    def _end_launch(self) -> None:
        with self._changed:
            self._launches -= 1
            self._changed.notify()

    def _leave_queue(self) -> None:
        with self._changed:
            self._unclaimed -= 1
            self._changed.notify()

    def _wake(self) -> None:
        """Start a thread if a launch or a look for rows lacks one. The caller holds the lock."""
        self._changed.notify()
        if not self._is_paused and self._threads < min(self._limits.places, self._launches + (self._look_at < _NEVER)):
            try:
                threading.Thread(target=self._work, name="backjob-monitor", daemon=True).start()
                self._threads += 1
            except RuntimeError as error:  # the job stays in the queue for a later thread
                log.warning("Jobs wait, no thread can be started: %s", error)

    def _work(self) -> None:
        try:
            while not self._is_paused:
                job = self._next()
                leave_queue = _once(self._leave_queue)
                try:
                    job = job or self._look()
                    if job is not None:
                        self._run(job, leave_queue)
                except (Refused, TimedOut) as error:  # of this job alone; the others go on
                    log.error("A waiting job can't be written: %s", error)
                    self.look_after(LOOK_EVERY)
                except StoreError as error:
                    self.look_after(self._note_outage(error))
                finally:
                    leave_queue()
                    self._end_launch()
        finally:
            with self._changed:
                self._threads -= 1
                self._changed.notify_all()

    def _next(self) -> Job | None:
        """Wait for a job that is handed over, or (None) for the time to look for one. Both count as launches."""
        with self._changed:
            while not self._handed:
                wait = self._look_at - time.monotonic()
                if not self._may_launch():
                    wait = _NEVER
                if wait <= 0 or self._is_paused:
                    self._look_at = _NEVER
                    self._launches += 1
                    self._unclaimed += 1
                    return None
                self._changed.wait(wait if wait < _NEVER else None)
            return self._handed.popleft()

    def _look(self) -> Job | None:
        """Return the next row that is due and may run, held by this process."""
        if self._is_paused:
            return None
        look = self._rows.look()
        if self._outage_since is not None:
            self._outage_since = None
            log.info("The database of the jobs is back")
        self.look_after(look.next_in)
        return look.job

    def _note_outage(self, error: StoreError) -> float:
        """Note an outage of the database. Return the seconds until the next try, which grow."""
        with self._changed:
            now, since = time.monotonic(), self._outage_since
            self._outage_since = now if since is None else since
        if since is None:
            log.warning("Jobs wait for their database: %s", error)
            since = now
        return backoff(min(now - since, _LONGEST_PAUSE))

    def _run(self, job: Job, leave_queue: Callable[[], None]) -> None:
        self._claims[job.id] = leave_queue
        try:
            verdict = self._monitor.run(job, leave_queue)
        finally:
            self._claims.pop(job.id, None)
        self.look_after(self._rows.note_verdict(job, verdict))


def _once(call: Callable[[], None]) -> Callable[[], None]:
    """Return a function that makes this call at most once, from any thread."""
    calls = [call]

    def call_once() -> None:
        with contextlib.suppress(IndexError):
            calls.pop()()

    return call_once


def _nothing() -> None:
    pass
