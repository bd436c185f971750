"""Settings for PostgreSQL and psycopg: a time limit for answers, and a lock time-out for one transaction.

Behind a connection pooler such as PgBouncer, the server's session is shared with others: a plain ``SET`` would apply to
their queries too. Nothing is connected here.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Generator
from typing import Any

from sqlalchemy import Engine, Executable, event, func, select

from .errors import BUSY_TIMEOUT
from .lost_answers import is_opening, note_lost, seconds_left

_TOO_LATE = "the server has not answered within {:.2g} s"
_CANCEL_WITHIN = 1.0
_STATEMENTS = 128
"""Size of the cache of statements. A job table has fewer."""


def lock_patience(seconds: float = BUSY_TIMEOUT) -> Any:
    """Return an expression that limits the waits for locks until the end of the transaction."""
    return func.set_config("lock_timeout", f"{seconds * 1000:.0f}", True)


@functools.lru_cache(_STATEMENTS)
def add_lock_patience(statement: Any) -> Executable:
    """Return this update or delete with a limit for its waits for row locks.

    It is a condition that is always true. PostgreSQL evaluates it once, before it looks for rows, so that a single
    statement needs no transaction around it.
    """
    limited: Executable = statement.where(select(lock_patience()).scalar_subquery().is_not(None))
    return limited


def limit_answers(engine: Engine, patience: float) -> None:
    """Limit the waits of this engine's psycopg connections for answers.

    ``patience``: the limit in seconds. All waits of one call of the store that end without an answer share it.
    libpq has no such limit: ``tcp_user_timeout`` detects unreachable hosts, not frozen servers. When the time is
    over, the connection is closed and ``OperationalError`` is raised.
    """
    classes: list[Any] = []

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _: Any, arguments: Any, options: Any) -> Any:
        # Prepared statements belong to a session, which a pooler may share.
        options.setdefault("prepare_threshold", None)
        if not classes:
            classes.append(_make_connection_class(dialect.loaded_dbapi, patience))
        return classes[0].connect(*arguments, **options)


def _make_connection_class(psycopg: Any, patience: float) -> Any:
    class PatientConnection(psycopg.Connection):  # type: ignore[misc]  # psycopg need not be installed
        def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
            seconds, begin = seconds_left(patience), time.monotonic()
            try:
                return super().wait(_limit(gen, seconds), *arguments, **options)
            except _TooLateError:
                note_lost(time.monotonic() - begin)
                if not is_opening() and psycopg.capabilities.has_cancel_safe():
                    # Otherwise a statement that waits for a lock would keep waiting, and occupy its session.
                    with contextlib.suppress(psycopg.Error):
                        self.cancel_safe(timeout=_CANCEL_WITHIN)
                self.close()
                raise psycopg.OperationalError(_TOO_LATE.format(seconds)) from None

    return PatientConnection


class _TooLateError(Exception):
    """The time for an answer is over."""


def _limit(exchange: Generator[Any, Any, Any], patience: float) -> Generator[Any, Any, Any]:
    """Pass on psycopg's exchange with the server until the time is over.

    psycopg 3.2 and later resume it each 0.1 s, with 0 when there is nothing to read or write.
    """
    end = time.monotonic() + patience
    try:
        wanted = next(exchange)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > end:
                raise _TooLateError
            wanted = exchange.send(ready)
    except StopIteration as stopped:
        return stopped.value
    finally:
        exchange.close()
