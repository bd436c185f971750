"""The processes that share the jobs of a database, each with its slots and the time until which it counts as alive.

A process updates only its own row. Knows nothing of jobs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update

from backjob.errors import Refused
from backjob.storage.queries import VERSION_GRACE

from .database import Database
from .errors import AnswerLost, Duplicate
from .schema import DEPLOYMENT, find_process_table

_GRACE = timedelta(seconds=VERSION_GRACE)


class ProcessTable:
    """The table of processes. ``now`` gives the time as an aware datetime. Each method raises StoreError."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now
        table = find_process_table(database.table)
        is_gone = table.c.alive_until <= bindparam("now", type_=table.c.alive_until.type)
        since = bindparam("since", type_=table.c.alive_until.type)
        is_it = table.c.name == bindparam("process")
        self._renew = update(table).where(is_it).values(slots=bindparam("new_slots"), alive_until=bindparam("until"))
        self._add = insert(table)
        # A row with a version is kept for a while, because it shows when that version was last alive.
        has_version = table.c.app_version != ""
        self._forget = delete(table).where(is_gone, ~has_version | (table.c.alive_until <= since))
        self._remove = delete(table).where(is_it, ~has_version)
        self._end = update(table).where(is_it, has_version, ~is_gone).values(alive_until=bindparam("now"))
        self._of_version = select(table.c.name).where(
            table.c.app_version == bindparam("version"), table.c.alive_until > since
        )
        self._of_version = self._of_version.limit(1)
        self._alive = select(table.c.name, table.c.slots).where(~is_gone, table.c.name != DEPLOYMENT)

    def register(self, name: str, slots: int | None, seconds: float, app_version: str = "") -> None:
        now = self._now()
        until = now + timedelta(seconds=seconds)
        if self._write_surely(self._renew, {"process": name, "new_slots": slots, "until": until}):
            return
        try:
            row = {"name": name, "slots": slots, "app_version": app_version, "alive_until": until}
            self._database.write(self._add, row)
        except (Duplicate, AnswerLost):
            # Another thread inserted it, it had these values already, or the next renewal inserts it.
            return
        with contextlib.suppress(Refused):  # no privilege to DELETE: expired rows are not counted anyway
            self._write_surely(self._forget, {"now": now, "since": now - _GRACE})

    def use_once(self, name: str, seconds: float) -> bool:
        """Return whether this is the first use of a name. Its row has no slots, and expires like a process's."""
        now = self._now()
        row = {"name": name, "slots": 0, "app_version": "", "alive_until": now + timedelta(seconds=seconds)}
        try:
            self._database.write(self._add, row)
        except (Duplicate, AnswerLost):  # after a lost answer the result is unknown, and a new token is cheap
            return False
        with contextlib.suppress(Refused):
            self._write_surely(self._forget, {"now": now, "since": now - _GRACE})
        return True

    def read_slots(self) -> dict[str, int | None]:
        found = self._database.read(self._alive, {"now": self._now()})
        return {name: slots if isinstance(slots, int) and slots >= 0 else None for name, slots in found}

    def unregister(self, name: str) -> None:
        self._write_surely(self._remove, {"process": name})
        self._write_surely(self._end, {"process": name, "now": self._now()})

    def is_version_alive(self, app_version: str) -> bool:
        values = {"version": app_version, "since": self._now() - _GRACE}
        return bool(self._database.read(self._of_version, values))

    def _write_surely(self, statement: Any, values: dict[str, Any]) -> int:
        """Make an idempotent write. Retry it once if its answer is lost."""
        try:
            return self._database.write(statement, values)
        except AnswerLost:
            return self._database.write(statement, values)
