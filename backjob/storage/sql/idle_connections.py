"""Closing of idle connections to a database server, which may allow few of them for many processes.

A pool of SQLAlchemy keeps its connections for ever. Another process that needs one, to renew its leases or to write the
outcome of a job, could get none. Knows nothing of jobs.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from sqlalchemy import Engine, QueuePool, event

from backjob.runtime.threads import is_native

SECONDS = 5.0
"""Seconds after which an unused connection is closed."""


def can_lend(engine: Engine) -> bool:
    """Return whether the engine's pool has an idle server connection that another thread may use."""
    pool = engine.pool
    return is_native() and engine.dialect.name != "sqlite" and isinstance(pool, QueuePool) and pool.checkedin() > 0


class IdleConnections:
    """Idle connections in the pool of an engine.

    Call ``give_back()`` regularly. Under gevent no other thread may use the pool: there a greenlet calls it.
    """

    def __init__(self, engine: Engine, seconds: float = SECONDS) -> None:
        self._engine = engine
        self._seconds = min(seconds, SECONDS)
        self._most_used = 0
        """The largest number of connections in use at once, since the last look."""
        self._next_look = 0.0
        self._is_timed = False
        event.listen(engine, "checkout", self._note_use)

    def give_back(self) -> None:
        """Close the idle connections if some were not needed since the last look. Do nothing if that was recent."""
        pool: Any = self._engine.pool
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._seconds
            most_used, self._most_used = self._most_used, pool.checkedout()
            if pool.checkedin() > most_used:
                self.close()

    def close(self) -> None:
        """Close the idle connections now. While others are in use, the pool is left as it is.

        A connection that is taken at this moment is not counted as one in use later, which does no harm.
        """
        pool: Any = self._engine.pool
        if pool.checkedout() <= 0:
            pool.dispose()

    def _note_use(self, *_: Any) -> None:
        pool: Any = self._engine.pool
        self._most_used = max(self._most_used, pool.checkedout())
        if not is_native() and not self._is_timed:
            self._is_timed = True
            timer = threading.Timer(self._seconds, self._look_again)
            timer.daemon = True
            timer.start()

    def _look_again(self) -> None:
        self._is_timed = False
        self.give_back()
        pool: Any = self._engine.pool
        if pool.checkedin() or pool.checkedout() > 0:
            self._note_use()
