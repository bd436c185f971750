"""The job table: its columns, its named constraints and its version. Built for any table name.

Knows the statuses and SQLAlchemy. Defines which rows are valid. The store defines how they change.
"""

from __future__ import annotations

import functools
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    types,
)
from sqlalchemy.dialects import mysql

from backjob.model.invariants import INVARIANTS
from backjob.model.job import MOST_REASON

from .updates import compile_condition

VERSION = 4
"""Version of the tables, raised by each change of them.

During a deploy, processes of several versions may share the tables. An older one inserts rows without the columns of a
newer one, so each new column is nullable or has a server default.
"""


_MYSQL = ("mysql", "mariadb")
_PROCESSES = "_process"
DEPLOYMENT = "deployment"
"""Name of the row in the table of processes whose ``app_version`` is the random id of this deployment. Sealed requests
in the job table are bound to it. It is stored there because that table exists everywhere."""
# Set explicitly: the defaults of servers and databases differ.
_OPTIONS: dict[str, Any] = {f"{name}_engine": "InnoDB" for name in _MYSQL}
_OPTIONS |= {f"{name}_charset": "utf8mb4" for name in _MYSQL}


class UtcDateTime(types.TypeDecorator[datetime]):
    """Aware UTC datetimes, stored without a zone, so that every database compares and shows them alike."""

    # By default MySQL and MariaDB store whole seconds.
    impl = DateTime().with_variant(mysql.DATETIME(fsp=6), *_MYSQL)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(timezone.utc).replace(tzinfo=None) if value is not None else None

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=timezone.utc) if value is not None else None


class ExactString(types.TypeDecorator[str]):
    """Text that is compared exactly. By default "a", "A", "á" and "a " are equal in MySQL and MariaDB."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> types.TypeEngine[Any]:
        if dialect.name not in _MYSQL:
            return self.impl_instance
        collation = "utf8mb4_nopad_bin" if getattr(dialect, "is_mariadb", False) else "utf8mb4_0900_bin"
        exact = mysql.VARCHAR(self.impl_instance.length, charset="utf8mb4", collation=collation)  # type: ignore[attr-defined]
        return dialect.type_descriptor(exact)


@functools.lru_cache(maxsize=16)
def find_table(name: str) -> Table:
    """Return the job table of this name, the same object each time. Do not change it."""
    return build_table(name)


def build_table(name: str) -> Table:
    """Return a new job table of this name. It has a MetaData of its own, with the table of processes."""

    def named(kind: str, what: str) -> str:
        return f"{kind}_{name}_{what}"

    table = Table(
        name,
        MetaData(),
        # SQLite numbers rows only in an INTEGER. With AUTOINCREMENT it never reuses the id of a pruned job.
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        Column("uid", ExactString(32), nullable=False),
        Column("status", SmallInteger, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("retries", Integer, nullable=False),
        Column("progress", SmallInteger, nullable=False),
        # The number of the attempt's newest progress report. An older one that comes late is refused.
        Column("signs", Integer, nullable=False),
        # MySQL's TEXT ends at 64 kB.
        Column("status_text", Text().with_variant(mysql.LONGTEXT(), *_MYSQL), nullable=False),
        # Not TEXT, which has no default in MySQL: a process of an older version inserts without them.
        Column("error", String(MOST_REASON), nullable=False, server_default=""),
        Column("location", String(MOST_REASON), nullable=False, server_default=""),
        Column("scope", ExactString(255), nullable=False),
        # In clear, only to be shown. The sealed request is what runs.
        Column("method", String(64), nullable=False),
        Column("path", String(255), nullable=False),
        Column("key_id", ExactString(16), nullable=False),
        Column("app_id", ExactString(16), nullable=False),
        # The version of the app that runs it, and the version of the record: see job.RECORD_VERSION.
        Column("app_version", ExactString(64), nullable=False, server_default=""),
        Column("record_version", SmallInteger, nullable=False, server_default="1"),
        Column("anonymous", Boolean(create_constraint=False), nullable=False),
        Column("sealed", LargeBinary().with_variant(mysql.LONGBLOB(), *_MYSQL)),
        Column("unique_key", ExactString(64)),
        Column("priority", Integer, nullable=False),
        Column("error_timeout", Double, nullable=False),
        Column("created_at", UtcDateTime, nullable=False),
        Column("due_at", UtcDateTime, nullable=False),
        Column("started_at", UtcDateTime),
        Column("updated_at", UtcDateTime, nullable=False),
        Column("ended_at", UtcDateTime),
        Column("held_by", ExactString(64)),
        Column("held_until", UtcDateTime),
        Column("lease_by", ExactString(64)),
        Column("lease_until", UtcDateTime),
        Column("launch_failed_at", UtcDateTime),
        Column("cancel_requested", Boolean(create_constraint=False), nullable=False),
        Column("past", Text().with_variant(mysql.LONGTEXT(), *_MYSQL), nullable=False),
        UniqueConstraint("uid", name=named("uq", "uid")),
        UniqueConstraint("unique_key", name=named("uq", "unique_key")),
        # For the search for old jobs.
        Index(named("ix", "ended"), "status", "ended_at"),
        sqlite_autoincrement=True,
        **_OPTIONS,
    )
    for what, condition in INVARIANTS.items():
        table.append_constraint(CheckConstraint(compile_condition(condition, table), name=named("ck", what)))
    Table(
        name + _PROCESSES,
        table.metadata,
        Column("name", ExactString(64), primary_key=True),
        Column("slots", Integer),
        Column("app_version", ExactString(64), nullable=False, server_default=""),
        Column("alive_until", UtcDateTime, nullable=False),
        **_OPTIONS,
    )
    # Many jobs may wait, but only a few of them are held.
    Index(named("ix", "held_by"), table.c.status, table.c.held_by)
    # The order in which waiting jobs are launched.
    Index(named("ix", "due"), table.c.status, table.c.priority.desc(), table.c.due_at, table.c.id)
    return table


def find_process_table(table: Table) -> Table:
    """Return the table of the processes that share this job table."""
    found: Table = table.metadata.tables[table.name + _PROCESSES]
    return found
