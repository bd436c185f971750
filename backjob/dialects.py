"""What is said to each kind of database in its own words, by SQLAlchemy's names for the kinds. Runs nothing."""

from __future__ import annotations

from sqlalchemy import text

# On SQLite a write transaction from its first moment on: it refuses one that begins as a reader and turns writer.
BEGIN = {
    "sqlite": ("BEGIN IMMEDIATE",),
    "postgresql": ("BEGIN ISOLATION LEVEL READ COMMITTED",),
    "mysql": ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", "START TRANSACTION"),
}
BEGIN["mariadb"] = BEGIN["mysql"]
# PostgreSQL: BEGIN with lock and statement time-outs in milliseconds, in one round trip. A session setting would also
# apply to the app's own queries behind a connection pooler.
BEGIN_PATIENT = (
    f"{BEGIN['postgresql'][0]}; SET LOCAL lock_timeout = {{lock:.0f}}; SET LOCAL statement_timeout = {{statement:.0f}}"
)
# Of the database, where that matters, and of the connection.
ENCODINGS = {
    "postgresql": text("SELECT getdatabaseencoding()::text, current_setting('client_encoding')"),
    "mysql": text("SELECT 'utf8mb4', @@character_set_client"),
}
ENCODINGS["mariadb"] = ENCODINGS["mysql"]
TOLD_PLACE = {
    "postgresql": text(
        "SELECT current_database(), inet_server_addr(), current_setting('port'),"
        " CAST(to_regclass(CAST(:table AS text)) AS oid)"
    ),
    "mysql": text("SELECT database(), @@hostname, @@port, @@socket, @@datadir"),
}
"""What a server says of where a connection has come to. An URL need not say it: the driver may know better."""
TOLD_PLACE["mariadb"] = TOLD_PLACE["mysql"]
TABLE_PLACE = {
    "postgresql": text(
        "SELECT current_database(), CAST(relnamespace AS regnamespace)"
        " FROM pg_class WHERE oid = to_regclass(CAST(:table AS text))"
    ),
    "mysql": text("SELECT lower(coalesce(:schema, database()))"),
}
"""Queries for the names above the table's own that stay the same when the server moves to another host."""
TABLE_PLACE["mariadb"] = TABLE_PLACE["mysql"]
# SQLite keeps the last number of a table with AUTOINCREMENT there.
LAST_NUMBER = text("SELECT seq FROM sqlite_sequence WHERE name = :table")
COUNT_FROM = (
    text("UPDATE sqlite_sequence SET seq = :least WHERE name = :table AND seq < :least"),
    text(
        "INSERT INTO sqlite_sequence (name, seq) SELECT :table, :least"
        " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = :table)"
    ),
)
