"""Jobs that the running job has started with ``after_response=True``, and that wait for its end.

Knows the outcome of that job and its lease, which lasts as long; nothing of the app that ran.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from backjob.client.backend import REQUEST_FAILED, UNDONE, Backend, Launch

from .outcome import Outcome


class Followers:
    """Jobs that are launched after one attempt. ``environ``: of that attempt."""

    def __init__(self, backend: Backend, environ: Mapping[str, Any]) -> None:
        self._backend = backend
        self._environ = environ
        self._launches: list[Launch] = []

    def add(self, launch: Launch) -> None:
        """Add a launch, for the end of the job."""
        self._launches.append(launch)

    def cancel(self, job_id: int) -> None:
        """Cancel the launch of this job, if it waits here."""
        launches = [each for each in self._launches if each.job_id == job_id]
        self._launches = [each for each in self._launches if each.job_id != job_id]
        self._backend.launch_followers(launches, self._environ, UNDONE)

    def release(self, claim: str, outcome: Outcome | None) -> None:
        """End the lease of the attempt and launch the jobs, now or as soon as its outcome is written."""
        if outcome is None or outcome.is_known:
            is_failed = outcome is None or not outcome.is_completed
            self._backend.renewals.end_lease(claim)
            self._backend.launch_followers(self._launches, self._environ, REQUEST_FAILED if is_failed else "")
            if outcome is not None and outcome.delay and not self._backend.config.is_inline:
                self._backend.dispatcher.look_after(outcome.delay)
        else:
            outcome.when_known(functools.partial(self._release_late, claim))

    def _release_late(self, claim: str, is_completed: bool) -> None:
        self._backend.renewals.end_lease(claim)
        for launch in self._launches:
            self._backend.postpone_follower(launch, "" if is_completed else REQUEST_FAILED)
