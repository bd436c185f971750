"""The hooks: what an app wants to be told of its jobs, each after the write that it tells of.

A Store around the Store, so that whoever makes a write need not think of it. What a hook does is its own affair: an
exception in it is logged and harms nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from backjob.config import HOOKS, Config
from backjob.errors import StoreError
from backjob.logs import about
from backjob.model.job import JobStatus, Move, NewJob
from backjob.runtime.threads import Threads

from .store import Store

log = logging.getLogger("backjob")

Hook = Callable[[JobStatus], object]


def tell_of_writes(store: Store, config: Config, *, apart: bool = False) -> Store:
    """The store, which calls the hooks of these options and of their launcher.

    ``apart``: in a thread apart, one by one, for whoever must not wait for a hook.
    """
    givers = (config, config.launcher)
    hooks = {name: [hook for giver in givers if (hook := getattr(giver, name, None))] for name in HOOKS}
    return cast(Store, Notices(store, hooks, _Apart().call if apart else _call)) if any(hooks.values()) else store


class Notices:
    """A store that tells of jobs that were recorded, that gave a sign, and that have ended. All else it passes on."""

    def __init__(
        self, store: Store, hooks: dict[str, list[Hook]], call: Callable[[str, Sequence[Hook], JobStatus], None]
    ) -> None:
        self._store = store
        self._hooks = hooks
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def add(self, new: NewJob, seal: Callable[[int], bytes], unique_keys: Sequence[str] = ()) -> tuple[int, bool]:
        job_id, is_new = self._store.add(new, seal, unique_keys)
        if is_new:
            self._tell("on_start", job_id)
        return job_id, is_new

    def touch(self, job_id: int, *args: Any, **kwargs: Any) -> bool:
        is_made = self._store.touch(job_id, *args, **kwargs)
        if is_made:
            self._tell("on_update", job_id)
        return is_made

    def move(self, move: Move, job_id: int, **kwargs: Any) -> bool:
        is_made = self._store.move(move, job_id, **kwargs)
        if is_made and move.target.is_final:
            self._tell("on_end", job_id)
        return is_made

    def _tell(self, name: str, job_id: int) -> None:
        hooks = self._hooks[name]
        if not hooks:
            return
        try:
            job = self._store.get(job_id)
            status = job.as_status() if job is not None else None
        except Exception as error:  # noqa: BLE001 - the write was made, whatever its record looks like
            reason = error if isinstance(error, StoreError) else f"its record can't be read ({type(error).__name__})"
            log.warning("Job %d: %s is not called: %s", job_id, name, reason, extra=about(job_id))
        else:
            if status is not None:
                self._call(name, hooks, status)


def _call(name: str, hooks: Sequence[Hook], job: JobStatus) -> None:
    for hook in hooks:
        try:
            hook(job)
        except KeyboardInterrupt:
            raise
        except BaseException:  # the write was made, whatever becomes of a hook
            log.exception("Job %d: %s raised an exception", job.id, name, extra=about(job.id, job.attempt))


class _Apart:
    """Calls hooks one after the other, in a thread that is there as long as there are any to call."""

    def __init__(self) -> None:
        self._threads = Threads(native=True)
        self._lock = self._threads.make_lock()
        self._waiting: deque[tuple[str, Sequence[Hook], JobStatus]] = deque()
        self._is_working = False

    def call(self, name: str, hooks: Sequence[Hook], job: JobStatus) -> None:
        with self._lock:
            self._waiting.append((name, hooks, job))
            if self._is_working:
                return
            self._is_working = True
        try:
            self._threads.start(self._work, "backjob-hooks", self._threads.make_lock())
        except RuntimeError as error:
            self._is_working = False  # no more threads: the next one takes this along
            log.error("Job %d: no thread for %s: %s", job.id, name, error, extra=about(job.id, job.attempt))

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_working = False
                    return
                call = self._waiting.popleft()
            _call(*call)
