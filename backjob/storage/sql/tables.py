"""The tables in a database: checks that they exist and fit this version, and their unique name.

Writes only SQLite's counter of ids and the id of the deployment. Knows nothing of jobs.
"""

from __future__ import annotations

import contextlib
import secrets
from datetime import datetime, timezone

from sqlalchemy import Connection, Engine, QueuePool, Table, false, insert, inspect, literal_column, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from backjob.errors import StoreError

from . import schema
from .dialects import COUNT_FROM, ENCODINGS, LAST_NUMBER, TABLE_PLACE
from .schema import DEPLOYMENT, find_process_table

_FOR_EVER = datetime(9999, 1, 1, tzinfo=timezone.utc)


def describe_location(url: URL, table: Table) -> str:
    """Return the SQLite file, or the server, database and table, for messages. Omits user and password."""
    file = url.database if url.get_backend_name() == "sqlite" else None
    where = f"SQLite file {file}" if file else f"{url.get_backend_name()} database {url.database or ''}"
    host = f" at {url.host}:{url.port or 'its usual port'}" if url.host else ""
    return f"{where.rstrip()}{host}, table {table.name}"


def _qualify(connection: Connection, table: Table) -> str:
    """Return the quoted name of this table, with its schema if the engine's schema_translate_map gives one."""
    preparer, schema = connection.dialect.identifier_preparer, connection.schema_for_object(table)
    return f"{preparer.quote_schema(schema)}.{preparer.quote(table.name)}" if schema else preparer.quote(table.name)


def read_name(connection: Connection, kind: str, table: Table) -> str:
    """Return the unique name of this table. Records are sealed to it. Creates the deployment's id if it is missing.

    It consists of the table's name and the random id of the deployment, on a server also of the database's name and
    PostgreSQL's schema. SQLite files may be renamed.
    """
    names = []
    if kind != "sqlite":
        key = "table" if kind == "postgresql" else "schema"
        value = _qualify(connection, table) if kind == "postgresql" else connection.schema_for_object(table)
        names = [str(name) for name in connection.execute(TABLE_PLACE[kind], {key: value}).one()]
    return " ".join([*names, table.name, _read_deployment(connection, table)])


def _read_deployment(connection: Connection, table: Table) -> str:
    """Return the id of the deployment. The first process creates it."""
    process = find_process_table(table)
    query = select(process.c.app_version).where(process.c.name == DEPLOYMENT)
    if (found := connection.scalar(query)) is None:
        row = {"name": DEPLOYMENT, "slots": 0, "app_version": secrets.token_hex(16), "alive_until": _FOR_EVER}
        with contextlib.suppress(IntegrityError):  # another process was faster
            connection.execute(insert(process), row)
        found = connection.scalar(query)
    return str(found)


def check_encodings(connection: Connection, kind: str) -> None:
    """Raise StoreError for encodings other than UTF-8. With them, the outcome of a job could fail to be written."""
    found = connection.execute(ENCODINGS[kind]).one()
    needed = "UTF8" if kind == "postgresql" else "utf8mb4"
    for what, encoding in zip(("The database", "A connection to the database"), found, strict=True):
        if encoding != needed:
            raise StoreError(f"{what} has the encoding {encoding}, and the job table needs {needed}")


def find_missing_tables(connection: Connection, table: Table) -> list[Table]:
    """Return the missing ones of the two tables. Raises StoreError if one has another version."""
    missing = []
    for each in (table, find_process_table(table)):
        if inspect(connection).has_table(each.name, schema=connection.schema_for_object(each)):
            check_columns(connection, each, table)
        else:
            missing.append(each)
    return missing


def check_columns(connection: Connection, table: Table, job_table: Table) -> None:
    """Raise StoreError if the table lacks a column of this version."""
    there = set(connection.execute(select(literal_column("*")).select_from(table).where(false())).keys())
    missing = sorted({column.name for column in table.columns} - there)
    if missing:
        kind = "job table" if table is job_table else "table of processes"
        raise StoreError(
            f"Table {table.name!r} is not the {kind} of schema version {schema.VERSION}: it lacks "
            f"{', '.join(missing)}. Set another table_name, or move the old table away."
        )


def count_from(connection: Connection, table: Table, least: int) -> None:
    """Make the next id in this SQLite table larger than ``least``."""
    for statement in COUNT_FROM:
        connection.execute(statement, {"table": table.name, "least": least})


def read_last_number(engine: Engine, table: Table) -> int:
    """Return the last id in an SQLite file that was replaced; 0 if no idle connection has it open any more."""
    if not isinstance(engine.pool, QueuePool) or not engine.pool.checkedin():
        return 0
    with contextlib.suppress(SQLAlchemyError), engine.connect() as connection:
        return int(connection.scalar(LAST_NUMBER, {"table": table.name}) or 0)
    return 0
