"""Hooks of the app, each called after the write that it is about.

A store calls them after its writes. An exception in a hook is logged and changes nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

from backjob.config import HOOKS, Config
from backjob.errors import StoreError
from backjob.logs import about
from backjob.model.job import JobStatus
from backjob.runtime.threads import Threads

from .store import Event, Store

log = logging.getLogger("backjob")

Hook = Callable[[JobStatus], object]
_Caller = Callable[[Event, Sequence[Hook], JobStatus], None]


def add_hooks(store: Store, config: Config, *, in_thread: bool = False) -> None:
    """Let this store call the hooks of these options and of their launcher.

    ``in_thread``: one after the other in a thread of their own, for a caller that can't wait for a hook.
    """
    givers = (config, config.launcher)
    hooks = {name: [hook for giver in givers if (hook := getattr(giver, name, None))] for name in HOOKS}
    call: _Caller = _HookThread().call if in_thread else _call

    def listen(event: Event, job_id: int) -> None:
        if hooks[event] and (status := _read_status(store, event, job_id)) is not None:
            call(event, hooks[event], status)

    store.listen(listen)


def _read_status(store: Store, event: Event, job_id: int) -> JobStatus | None:
    try:
        job = store.get(job_id)
        return job.as_status() if job is not None else None
    except Exception as error:  # noqa: BLE001 - the write was made, and must not fail now
        reason = error if isinstance(error, StoreError) else f"its record can't be read ({type(error).__name__})"
        log.warning("Job %d: %s is not called: %s", job_id, event, reason, extra=about(job_id))
        return None


def _call(name: Event, hooks: Sequence[Hook], job: JobStatus) -> None:
    for hook in hooks:
        try:
            hook(job)
        except KeyboardInterrupt:
            raise
        except BaseException:  # the write was made, and must not fail now
            log.exception("Job %d: %s raised an exception", job.id, name, extra=about(job.id, job.attempt))


class _HookThread:
    """A thread that calls hooks one after the other. It ends when there are no more calls."""

    def __init__(self) -> None:
        self._threads = Threads(native=True)
        self._lock = self._threads.make_lock()
        self._waiting: deque[tuple[Event, Sequence[Hook], JobStatus]] = deque()
        self._is_working = False

    def call(self, name: Event, hooks: Sequence[Hook], job: JobStatus) -> None:
        with self._lock:
            self._waiting.append((name, hooks, job))
            if self._is_working:
                return
            self._is_working = True
        try:
            self._threads.start(self._work, "backjob-hooks", self._threads.make_lock())
        except RuntimeError as error:
            self._is_working = False  # no more threads: the next call retries this one too
            log.error("Job %d: no thread for %s: %s", job.id, name, error, extra=about(job.id, job.attempt))

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_working = False
                    return
                call = self._waiting.popleft()
            _call(*call)
