"""The parts that all clients of one application share, and the first launch of a recorded job.

Knows nothing of WSGI. It only passes the environ on.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backjob.config import Config
from backjob.errors import AddressError, Busy, LaunchError, StoreError
from backjob.keyring import MONITOR, Keyring, new_nonce
from backjob.logs import about
from backjob.model.events import log_ended
from backjob.model.job import NOT_LAUNCHED, Job, JobRequest, Move
from backjob.runtime.server_info import threads_outlive_requests
from backjob.scheduling.concurrency import Limits
from backjob.scheduling.dispatcher import Dispatcher
from backjob.scheduling.keeper import Keeper
from backjob.scheduling.leases import Renewals
from backjob.scheduling.monitor import Monitor
from backjob.storage.store import Store
from backjob.transport.connection_failures import explain_no_answer
from backjob.transport.launcher import Launcher, SelfRequest
from backjob.transport.protocol import WireOutcome
from backjob.wsgi.outer import explain_outer, find_outer_objects

log = logging.getLogger("backjob")

REQUEST_FAILED = "The request that started this job failed"
UNDONE = "What started this job was undone: its transaction was rolled back"
_MOST_TIME = 0.5
"""Seconds in which a response launches the jobs that waited for it. The response holds a slot meanwhile."""

_VERSION_PATIENCE = 10.0
"""Seconds in which a job waits for a process of its app_version without a reason in its status text."""


@dataclass(frozen=True)
class Launch:
    """The first launch of a job that was just recorded. ``held_by`` is the name under which the job is held."""

    job_id: int
    held_by: str
    sealed: bytes
    request: JobRequest
    pid: int = field(default_factory=os.getpid)
    """The process that recorded the job. A job that waits for a response waits for one of this process."""


@dataclass(frozen=True)
class Backend:
    """The parts of one application in this process."""

    config: Config
    keyring: Keyring
    store: Store
    limits: Limits
    self_request: SelfRequest
    monitor: Monitor
    dispatcher: Dispatcher
    renewals: Renewals
    keeper: Keeper
    warned: set[str] = field(default_factory=set, repr=False)
    """Environ keys for which a warning was logged."""

    @property
    def launcher(self) -> Launcher:
        """The launcher from the options, or the self-request."""
        return self.config.launcher or self.self_request

    @property
    def identity(self) -> dict[str, Any]:
        """The owner of the jobs that are recorded here, as fields of a NewJob."""
        app_id = "" if self.config.address else self.self_request.app_id  # connect= may lead to any application
        return {"key_id": self.keyring.key_id, "app_id": app_id, "app_version": self.config.app_version or ""}

    def can_run(self, job: Job) -> bool:
        """Return whether this process may run or launch a waiting job. If not, others may. Raises StoreError."""
        if not job.is_readable or job.key_id not in self.keyring.key_ids:
            return False
        return not self._is_of_other_version(job) or not self.store.is_version_alive(job.app_version)

    def _is_of_other_version(self, job: Job) -> bool:
        return job.app_version not in ("", self.config.app_version)

    def choose_refusal(self, job: Job) -> WireOutcome:
        """Return the outcome of the launch of a job that can't run here.

        It is FULL for the first seconds, in which a process of the job's version may be found, and then OTHER_VERSION.
        """
        is_other = job.is_readable and self._is_of_other_version(job)
        is_late = job.overdue_for > _VERSION_PATIENCE
        return WireOutcome.OTHER_VERSION if is_other and is_late else WireOutcome.FULL

    def accept(self, job: Job, nonce: str, environ: Mapping[str, Any]) -> Callable[[], None] | None:
        """Take over a job from start(), as Dispatcher.accept() does.

        A job that can't run here is released, and a process that can run it finds its row within a second.
        """
        if not self.can_run(job):
            app_id = self.self_request.app_id
            return _do_nothing if self.store.hold(job.id, job.attempt, nonce, None, 0, app_id) else None
        way, has_threads = self.dispatcher.choose_way(environ), self.has_dispatcher(environ)
        return self.dispatcher.accept(job, nonce, way, has_threads)

    def make_keeper(self) -> Keeper:
        """Return a keeper for a single run: it renews no lease, and shares nothing with the keeper of this process."""
        limits = Limits(self.config, self.store, self.limits.name)
        return Keeper(self.config, self.keyring, self.store, self.self_request, Renewals(), limits, lambda: None)

    def has_dispatcher(self, environ: Mapping[str, Any] | None) -> bool:
        """Return whether threads of this process can launch waiting jobs. ``monitor`` does not matter."""
        return not self.config.is_inline and (environ is None or threads_outlive_requests(environ))

    def warn_of_outer(self, environ: Mapping[str, Any]) -> None:
        """Log, once per key, the values from outside of BackJob that a starting request has and its job lacks."""
        outer = find_outer_objects(environ, self.config.environ_key)
        self.warn_once({key: f"{explain_outer([key])} (it is a {kind})" for key, kind in outer.items()})

    def warn_once(self, texts: Mapping[str, str]) -> None:
        """Log a warning about each of these environ keys, unless there was one."""
        for key, text in texts.items():
            if key not in self.warned:
                self.warned.add(key)
                log.warning("%s", text)

    def launch(self, launch: Launch, environ: Mapping[str, Any] | None) -> None:
        """Send the monitor's request. Raises no Exception: the job is recorded, and a failed launch is tried again."""
        try:
            self._launch(launch, environ)
        except Exception:
            if self.config.is_inline:
                raise  # it ran the job, in a test
            log.exception(
                "Job %d is recorded, but could not be launched. It is tried again",
                launch.job_id,
                extra=about(launch.job_id, 1),
            )
            self.dispatcher.look_after(self.config.lease)

    def _launch(self, launch: Launch, environ: Mapping[str, Any] | None) -> None:
        token = self.keyring.sign(MONITOR, launch.job_id, 1, launch.sealed, launch.held_by)
        try:
            if self.launcher.launch(token, launch.request, environ):
                return
            wait = self.config.lease  # this process takes the job if no process has done so by then
            if environ is None and not self.config.keeper:
                self._note_missing_answer(launch)
        except AddressError as error:
            wait = self._give_up(launch, LaunchError(error), is_for_thread=False)
        except LaunchError as error:
            wait = self._give_up(launch, error, isinstance(error, Busy) and self.has_dispatcher(environ))
        if self.has_dispatcher(environ):
            self.dispatcher.look_after(wait)

    def _note_missing_answer(self, launch: Launch) -> None:
        """Note in the status text that no answer came. A process without a keeper, a command, does not retry."""
        if self.launcher is self.self_request and self.config.address is not None:
            failure = explain_no_answer(self.config.address, self.config.close_delay)
            text = f"{NOT_LAUNCHED}: {failure.public}"
            self.store.note_launch_failure(launch.job_id, 1, launch.held_by, text, self.config.lease)

    def launch_followers(self, launches: Iterable[Launch], environ: Mapping[str, Any] | None, failure: str) -> None:
        """Launch jobs after the request or job that they waited for, or cancel them with the text ``failure``.

        After half a second, or while the server's backlog is full, the remaining jobs are only released: they are due,
        and any process launches them. A child of a fork launches no jobs of its parent, because the parent's response
        has not ended.
        """
        end = time.monotonic() + _MOST_TIME
        for launch in [each for each in launches if each.pid == os.getpid()]:
            self.renewals.end_hold(launch.job_id)
            try:
                if failure:
                    _cancel_follower(launch, self.store, failure)
                elif (self.self_request.is_backlogged or time.monotonic() > end) and self.has_dispatcher(environ):
                    self.store.hold(launch.job_id, 1, launch.held_by, None, 0)
                    self.dispatcher.look_after(0)
                elif self.store.hold(launch.job_id, 1, launch.held_by, nonce := new_nonce(), self.config.lease):
                    self.launch(replace(launch, held_by=nonce), environ)
            except StoreError as error:
                extra = about(launch.job_id, 1)
                log.warning("Job %d, which was to follow a request, waits: %s", launch.job_id, error, extra=extra)
                self.postpone_follower(launch, failure)

    def postpone_follower(self, launch: Launch, failure: str) -> None:
        """Have the keeper release or cancel the job as soon as it reaches the store."""
        self.renewals.hold(launch.job_id, launch.held_by)
        give_up = functools.partial(self.renewals.end_hold, launch.job_id)
        self.renewals.postpone(functools.partial(self._end_follower, launch, failure), give_up)

    def _end_follower(self, launch: Launch, failure: str, store: Store) -> None:
        if failure:
            _cancel_follower(launch, store, failure)
        else:
            store.hold(launch.job_id, 1, launch.held_by, None, 0)
        self.renewals.end_hold(launch.job_id)

    def _give_up(self, launch: Launch, error: LaunchError, is_for_thread: bool) -> float:
        """Note a failed launch. Return the seconds until this process looks for the job again.

        ``is_for_thread``: the job is left to a thread of this process, which can wait for a slot.
        """
        try:
            if not is_for_thread:
                return self.monitor.refuse(launch.job_id, 1, launch.held_by, error, launch.request)
            self.store.hold(launch.job_id, 1, launch.held_by, None, 0)
            return 0.0
        except StoreError as store_error:
            log.warning("Job %d waits: %s", launch.job_id, store_error, extra=about(launch.job_id, 1))
            return self.config.lease


def _do_nothing() -> None:
    pass


def _cancel_follower(launch: Launch, store: Store, failure: str) -> None:
    if store.move(Move.CANCEL, launch.job_id, attempt=1, text=failure):
        log_ended(Move.CANCEL, launch.job_id, 1, launch.request, reason=failure)
