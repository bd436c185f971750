"""Jobs and Django's database connections: start() waits for the commit, and a view's cursors are closed in time.

Also the system check for SQLite with ATOMIC_REQUESTS. Knows Django's connections and no requests.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

from django.core import checks
from django.db import connections, transaction

from backjob import BackJobError


class JobsInTransaction:
    """``environ["backjob"]`` with jobs that wait for the commit of the transaction in which they are started."""

    def __init__(self, jobs: Any) -> None:
        self._jobs = jobs
        self._is_answered = False
        self._uncommitted: dict[tuple[int, str], Callable[[], Any]] = {}
        """Callbacks of commits, by job id and database."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)

    def start(self, target: Any, params: Any = None, *, after_response: bool | None = None, **options: Any) -> int:
        """Start a job. Within atomic() the job is launched when the response has ended, or cancelled after a rollback.

        With ``after_response=False`` it is launched at once there too. Raises BackJobError within atomic() while a
        StreamingHttpResponse is sent, because it can no longer wait for the commit.
        """
        aliases = [each.alias for each in connections.all(initialized_only=True) if each.in_atomic_block]
        if after_response is None and aliases and self._is_answered:
            raise BackJobError(
                "start() within atomic() comes too late to wait for the commit: the response is being sent. Call "
                "transaction.on_commit(lambda: request.backjob.start(…)), or start() after the atomic() block"
            )
        waits = bool(aliases) if after_response is None else after_response
        job_id: int = self._jobs.start(target, params, after_response=waits, **options)
        for alias in aliases if waits else []:
            key = (job_id, alias)
            self._uncommitted[key] = on_commit = functools.partial(self._uncommitted.pop, key, None)
            transaction.on_commit(on_commit, using=alias)
        return job_id

    def end_transactions(self) -> None:
        """Cancel the jobs whose transaction was rolled back, because the request's transactions have ended."""
        self._is_answered = True
        # A transaction around the request, such as a TestCase's, still holds its callbacks.
        kept = [call for each in connections.all(initialized_only=True) for _, call, *_ in each.run_on_commit]
        for job_id in sorted({job_id for (job_id, _), call in self._uncommitted.items() if call not in kept}):
            self._jobs.cancel_waiting(job_id)

    def __repr__(self) -> str:
        return repr(self._jobs)


def clear_frames(error: BaseException | None) -> None:
    """Release the view's local objects, such as an open cursor, before the connection is closed."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        for each in getattr(error, "exceptions", ()):
            clear_frames(each)
        error = error.__cause__ or error.__context__


def check_sqlite(**_: Any) -> list[checks.CheckMessage]:
    """Return a warning for each SQLite database with ATOMIC_REQUESTS: a job that has written locks it to its end."""
    return [
        checks.Warning(
            f"DATABASES[{alias!r}] is SQLite with ATOMIC_REQUESTS: once a job has written, all other writes to it, "
            "such as log-ins, fail until the job has ended",
            hint="Decorate long views with background(atomic=False) or transaction.non_atomic_requests, and write in "
            "short atomic() blocks; or use a database server",
            id="backjob.W001",
        )
        for alias, database in connections.settings.items()
        if database["ENGINE"] == "django.db.backends.sqlite3" and database["ATOMIC_REQUESTS"]
    ]


checks.register(check_sqlite, "backjob")
