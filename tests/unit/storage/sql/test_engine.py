"""The engine under the store: made from a URL or a user's own, its files, its faults, its threads and its forks.

Every fault is a real one: a lock, a broken file, a commit that fails or whose answer is lost. Whatever happens, a
StoreError tells of it without a word of what was written, and every connection is given back.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from support.records import TABLE, add, count_jobs, live_a_life, new_job, open_sqlite_store, read_rows, record, seal

import backjob.storage.sql.errors
from backjob.errors import ConfigError, StoreError
from backjob.model.job import Move, Status
from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import build_table
from backjob.storage.sql.store import SQLStore

CANARY = "canary-of-a-user"


def _with_wal(file: Path) -> Engine:
    engine = create_engine(f"sqlite:///{file}")

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL").close()

    return engine


def _with_begin_listener(file: Path) -> Engine:
    """SQLAlchemy's own recipe for transactions on SQLite that hold what they promise."""
    engine = create_engine(f"sqlite:///{file}")

    @event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


DATABASES: dict[str, Callable[[Path], str | URL | Engine]] = {
    "ours": lambda file: f"sqlite:///{file}",
    "user's own": lambda file: create_engine(f"sqlite:///{file}"),
    "user's own WAL": _with_wal,
    "begin listener": _with_begin_listener,
    "NullPool": lambda file: create_engine(f"sqlite:///{file}", poolclass=NullPool),
    "pool of one": lambda file: create_engine(f"sqlite:///{file}", pool_size=1, max_overflow=0),
    "with options": lambda file: create_engine(f"sqlite:///{file}").execution_options(user_option=1),
    "with a level": lambda file: create_engine(
        f"sqlite:///{file}", execution_options={"isolation_level": "SERIALIZABLE"}
    ),
    "with a later level": lambda file: create_engine(f"sqlite:///{file}").execution_options(
        isolation_level="SERIALIZABLE"
    ),
}
USERS = {name: make for name, make in DATABASES.items() if name != "ours"}


class Lent:
    """Counts the connections of an engine that are in use, whatever pool it has."""

    def __init__(self, engine: Engine) -> None:
        self.count = 0
        event.listen(engine, "checkout", lambda *_: self._add(1))
        event.listen(engine, "checkin", lambda *_: self._add(-1))

    def _add(self, number: int) -> None:
        self.count += number


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


@pytest.fixture
def open_database(file: Path) -> Iterator[Callable[..., Database]]:
    """Open a database of some kind on the file. In the end none of its connections is in use, and all are closed."""
    with contextlib.ExitStack() as stack:

        def open_one(kind: str | Callable[[Path], str | URL | Engine] = "ours", at: Path = file) -> Database:
            make = DATABASES[kind] if isinstance(kind, str) else kind
            database = Database(make(at), build_table(TABLE), True)
            stack.callback(database._engine.dispose)
            lent = Lent(database._engine)
            stack.callback(lambda: lent.count == 0 or pytest.fail(f"{lent.count} connections were not given back"))
            return database

        yield open_one


@pytest.fixture
def open_store(open_database: Callable[..., Database]) -> Callable[..., SQLStore]:
    return lambda *options: SQLStore(open_database(*options))


# --- Which databases ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DATABASES)
def test_a_life_on_every_kind_of_engine(open_store: Callable[..., SQLStore], file: Path, kind: str) -> None:
    store = open_store(kind)
    job_ids = [live_a_life(store, unique_key="u") for _ in range(3)]
    rows = read_rows(file)
    assert [(row["id"], row["status"], row["progress"]) for row in rows] == [(job_id, 2, 100) for job_id in job_ids]


@pytest.mark.parametrize("kind", USERS)
def test_a_users_own_transactions_stay_what_they_were(
    open_database: Callable[..., Database], file: Path, kind: str
) -> None:
    database = open_database(kind)
    engine = database._engine
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE users_own (word TEXT)"))
    live_a_life(SQLStore(database))
    with contextlib.suppress(LookupError), engine.begin() as connection:
        connection.execute(text("INSERT INTO users_own VALUES ('rolled back')"))
        raise LookupError
    with engine.connect() as connection:
        connection.execute(text("INSERT INTO users_own VALUES ('not committed')"))
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO users_own VALUES ('committed')"))
    assert [row["word"] for row in read_rows_of(file, "users_own")] == ["committed"]


def read_rows_of(file: Path, table: str) -> list[dict[str, Any]]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]


def test_a_users_engine_is_not_disposed_of(open_database: Callable[..., Database]) -> None:
    database = open_database("user's own")
    live_a_life(SQLStore(database))
    pool = database._engine.pool
    database.dispose()
    assert database._engine.pool is pool


def test_a_user_may_dispose_of_the_engine_at_any_time(open_database: Callable[..., Database]) -> None:
    database = open_database("user's own")
    store = SQLStore(database)
    job_id = add(store)
    database._engine.dispose()
    assert store.claim(job_id, 1, "run", 30, 0)
    assert database._engine.pool.checkedin() == 1  # type: ignore[attr-defined]


def test_a_closed_database_opens_anew(open_database: Callable[..., Database]) -> None:
    database = open_database()
    store = SQLStore(database)
    job_id = add(store)
    database.dispose()
    assert record(store, job_id).id == job_id


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+pysqlite:///:memory:"),
        *("sqlite:///file::memory:?uri=true", "sqlite:///file:jobs?mode=memory&cache=shared&uri=true"),
    ],
)
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="database must name an SQLite file"):
        Database(url, build_table(TABLE), True)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "no SQLAlchemy URL"),
        ("jobs.sqlite3", "no SQLAlchemy URL"),
        (f"postgresql://ada:{CANARY}@db:port/jobs", "no SQLAlchemy URL"),
        (f"postgresql://ada:{CANARY}@[::1/jobs", "no SQLAlchemy URL"),
        (f"://ada:{CANARY}@db/jobs", "no SQLAlchemy URL"),
        (f"nosuch://ada:{CANARY}@db/jobs", "driver that is not installed"),
        (f"postgresq://ada:{CANARY}@db/jobs", "write postgresql://"),
        (f"Postgresql://ada:{CANARY}@db/jobs", "write postgresql://"),
        (f"psycopg://ada:{CANARY}@db/jobs", "write postgresql://"),
        (f"redis://:{CANARY}@db/0", "cache="),
        (f"postgresql+nosuch://ada:{CANARY}@db/jobs", "driver that is not installed"),
        ("sqlite+nosuch:///jobs.sqlite3", "driver that is not installed"),
        ("sqlite:///jobs.sqlite3?timeout=soon", "database"),
    ],
)
def test_wrong_urls_are_refused_at_construction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=reason) as caught:
        Database(url, build_table(TABLE), True)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert str(caught.value).startswith("database ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("driver", ["sqlite+aiosqlite", "postgresql+asyncpg", "postgresql+psycopg_async"])
def test_async_drivers_are_refused_at_construction(driver: str) -> None:
    with pytest.raises(ConfigError, match="database has an async driver") as caught:
        Database(f"{driver}://ada:{CANARY}@db/jobs", build_table(TABLE), True)
    assert CANARY not in str(caught.value)


def test_an_async_engine_is_refused_at_construction() -> None:
    engine = create_async_engine(f"postgresql+psycopg://ada:{CANARY}@db/jobs")
    with pytest.raises(ConfigError, match=r"database has an async driver \(psycopg\): .* create_engine") as caught:
        Database(engine, build_table(TABLE), True)  # type: ignore[arg-type]
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (f"mysql://ada:{CANARY}@db/jobs?read_timeout={CANARY}", "read_timeout"),
        (f"mysql://ada:{CANARY}@db/jobs?ssl_ca=a&read_timeout=b", "ssl_ca, read_timeout"),
        (f"sqlite:///jobs.sqlite3?timeout={CANARY}", "timeout"),
    ],
)
def test_an_option_that_can_not_be_read_is_named(url: str, options: str) -> None:
    with pytest.raises(ConfigError, match=f"database has an option in its URL that can't be read: {options}") as caught:
        Database(url, build_table(TABLE), True)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_url_may_be_an_object(open_database: Callable[..., Database], file: Path) -> None:
    store = SQLStore(open_database(lambda at: make_url(f"sqlite:///{at}")))
    job_id = live_a_life(store)
    assert [row["id"] for row in read_rows(file)] == [job_id]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_construction_connects_and_makes_nothing(tmp_path: Path, file: Path) -> None:
    Database(f"sqlite:///{tmp_path}/not there/jobs.sqlite3", build_table(TABLE), True)
    Database(f"sqlite:///{file}", build_table(TABLE), True)
    connected = []
    engine = create_engine(f"sqlite:///{file}")
    event.listen(engine, "connect", lambda *_: connected.append(1))
    SQLStore(Database(engine, build_table(TABLE), True))
    assert list(tmp_path.iterdir()) == connected == []


def test_a_relative_path_is_of_where_it_was_constructed(
    open_database: Callable[..., Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    database = open_database("ours", Path("jobs.sqlite3"))
    monkeypatch.chdir("there")
    assert database.file == tmp_path / "jobs.sqlite3"
    job_id = add(SQLStore(database))
    assert [row["id"] for row in read_rows(tmp_path / "jobs.sqlite3")] == [job_id]
    assert list((tmp_path / "there").iterdir()) == []


def test_a_database_is_forgotten_when_nobody_has_it(file: Path) -> None:
    """The fork hooks, which can't be taken away again, hold none."""
    database = Database(f"sqlite:///{file}", build_table(TABLE), True)
    gone = weakref.ref(database)
    del database
    gc.collect()
    assert gone() is None


# --- The file -------------------------------------------------------------------------------------------------------


def test_all_files_are_the_owners_alone(open_store: Callable[..., SQLStore], tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        live_a_life(open_store())
    finally:
        os.umask(before)
    modes = {each.name: stat.filemode(each.stat().st_mode) for each in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["jobs.sqlite3", "jobs.sqlite3-wal", "jobs.sqlite3-shm"], "-rw-------")


def test_the_mode_of_a_file_that_was_there_is_kept(open_store: Callable[..., SQLStore], file: Path) -> None:
    file.touch()
    file.chmod(0o640)
    add(open_store())
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_our_own_files_have_a_wal(open_database: Callable[..., Database], file: Path) -> None:
    with open_database().connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1


# --- Faults -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backjob.storage.sql.errors, "BUSY_TIMEOUT", 0.1)


def test_a_file_that_can_not_be_made(open_store: Callable[..., SQLStore], tmp_path: Path) -> None:
    store = open_store("ours", tmp_path / "later" / "jobs.sqlite3")
    with pytest.raises(StoreError, match=r"later/jobs[.]sqlite3 can't be opened or made: No such file or directory"):
        add(store)
    (tmp_path / "later").mkdir()
    assert add(store)  # no restart is needed


def test_a_folder_in_the_files_place(open_store: Callable[..., SQLStore], file: Path) -> None:
    file.mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        add(open_store())


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no other user to be")
def test_a_folder_that_can_not_be_written() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        database = Database(f"sqlite:///{folder}/jobs.sqlite3", build_table(TABLE), True)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            with pytest.raises(StoreError, match="Permission denied"):
                add(SQLStore(database))
        finally:
            if is_root:
                os.seteuid(0)
            os.chmod(folder, 0o755)


@pytest.mark.parametrize("kind", DATABASES)
def test_a_file_that_is_no_database(open_store: Callable[..., SQLStore], file: Path, kind: str) -> None:
    file.write_bytes(b"This is no database. " * 99)
    store = open_store(kind)
    with pytest.raises(StoreError, match="file is not a database"):
        add(store)
    with pytest.raises(StoreError, match="file is not a database"):
        store.get(1)
    file.write_bytes(b"")
    assert add(store)


@pytest.mark.usefixtures("impatient")
def test_a_lock_that_lasts_longer_than_the_time_out(open_store: Callable[..., SQLStore], file: Path) -> None:
    store = open_store()
    job_id = add(store)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for write in (
            lambda: add(store),
            lambda: store.claim(job_id, 1, "run", 30, 0),
            lambda: store.move(Move.CANCEL, job_id),
        ):
            with pytest.raises(StoreError, match="database is locked"):
                write()
        assert record(store, job_id).status is Status.STARTED  # reading goes on
        other.execute("ROLLBACK")
    assert [row["id"] for row in read_rows(file)] == [job_id]
    assert live_a_life(store, priority=1) == job_id + 1


@pytest.mark.usefixtures("impatient")
def test_a_lock_that_is_there_from_the_start(open_store: Callable[..., SQLStore], file: Path) -> None:
    store = open_store()
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="database is locked"):
            add(store)
    assert live_a_life(store)


def test_a_switch_to_wal_while_another_process_writes(open_database: Callable[..., Database], file: Path) -> None:
    """SQLite does not wait for the lock that this needs: it is tried again."""
    database = open_database()
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = []

        @event.listens_for(database._engine, "handle_error")
        def give_way(context: Any) -> None:
            refused.append(str(context.original_exception))
            other.execute("COMMIT")

        assert add(SQLStore(database))
        assert refused == ["database is locked"]
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def all_calls(store: SQLStore, words: str) -> dict[str, Callable[[], object]]:
    """Each method of the store, with these words in every place that takes some."""
    changes = {"scope": words, "unique_key": words, "held_by": words, "hold": 30, "uid": words}
    return {
        "add": lambda: store.add(new_job(**changes), lambda _: words.encode(), [words]),
        "get": lambda: store.get(1),
        "glance": lambda: store.glance(1),
        "find": lambda: store.find(Status, words, 9, 9),
        "hold": lambda: store.hold(1, 1, words, words, 30),
        "take over": lambda: store.hold(1, 1, None, words, 30),
        "note_launch_failure": lambda: store.note_launch_failure(1, 1, words, words, 30),
        "note_full": lambda: store.note_full(1, 1, words),
        "take_due": lambda: store.take_due([words], words, 30),
        "seconds_to_next": lambda: store.seconds_to_next([words]),
        "count": lambda: count_jobs(store, Status.STARTED),
        "count_launched": store.count_launched,
        "claim": lambda: store.claim(1, 1, words, 30, 0),
        "claim if few": lambda: store.claim(1, 1, words, 30, 9),
        "touch": lambda: store.touch(1, 1, 50, words, 30),
        "request_cancel": lambda: store.request_cancel(1),
        **{move.name: lambda move=move: store.move(move, 1, text=words) for move in Move if move is not Move.CLAIM},  # type: ignore[misc]
    }


CALLS = list(all_calls(SQLStore(Database("sqlite:///not-opened.sqlite3", build_table(TABLE), True)), ""))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", DATABASES)
def test_every_call_gives_its_connection_back_and_keeps_secrets(
    open_database: Callable[..., Database], file: Path, caplog: pytest.LogCaptureFixture, kind: str, call: str
) -> None:
    """With a table that is there, and with one that has gone."""
    database = open_database(kind)
    lent = Lent(database._engine)
    store = SQLStore(database)
    add(store)
    all_calls(store, CANARY)[call]()
    assert lent.count == 0
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(f"DROP TABLE {TABLE}")
    with pytest.raises(StoreError, match="no such table") as caught:
        all_calls(store, CANARY)[call]()
    assert lent.count == 0
    assert is_silent(caught.value, caplog)


@pytest.mark.parametrize("kind", DATABASES)
def test_a_refused_record_is_not_shown(
    open_store: Callable[..., SQLStore], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    store = open_store(kind)
    job_id = add(store)
    assert store.claim(job_id, 1, "run", 30, 0)
    with pytest.raises(StoreError, match=f"ck_{TABLE}_progress") as caught:
        store.touch(job_id, 1, 101, CANARY, 30)
    assert is_silent(caught.value, caplog)
    with pytest.raises(StoreError, match=f"ck_{TABLE}_attempt") as caught:
        store.add(new_job(scope=CANARY, retries=-1), lambda _: CANARY.encode())
    assert is_silent(caught.value, caplog)


@pytest.mark.parametrize("kind", DATABASES)
def test_what_sqlalchemy_itself_refuses_is_not_shown(
    open_database: Callable[..., Database], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    database = open_database(kind)
    values = {"scope": CANARY, "created_at": "no time"}
    with pytest.raises(StoreError) as caught, database.connect() as connection:
        connection.execute(database.table.insert(), values)
    assert is_silent(caught.value, caplog)


def is_silent(error: BaseException, caplog: pytest.LogCaptureFixture) -> bool:
    """No word of what was to be written, in no way in which people come to see an error."""
    logging.getLogger("test").error("It went wrong: %r", error, exc_info=error)
    shown = "".join(traceback.format_exception(error)) + str(error) + repr(error) + caplog.text
    return CANARY not in shown and "INSERT" not in str(error) and "UPDATE" not in str(error)


def break_commits(engine: Engine, is_made: bool) -> list[str]:
    """Let one COMMIT fail, before or after it is made. Each string that is added to the answer breaks one more."""
    left = ["once"]

    @event.listens_for(engine, "do_execute")
    def commit(cursor: sqlite3.Cursor, statement: str, parameters: Any, context: Any) -> bool:
        if statement != "COMMIT" or not left:
            return False
        left.pop()
        if is_made:
            cursor.execute(statement)
        raise sqlite3.OperationalError("disk I/O error")

    return left


@pytest.mark.parametrize("unique_keys", [[], ["u"]], ids=["plain", "unique"])
@pytest.mark.parametrize("kind", DATABASES)
def test_a_commit_whose_answer_was_lost(
    open_database: Callable[..., Database], file: Path, kind: str, unique_keys: list[str]
) -> None:
    database = open_database(kind)
    store = SQLStore(database)
    add(store)
    left = break_commits(database._engine, is_made=True)
    new = new_job(unique_key="u" if unique_keys else None)
    job_id, is_new = store.add(new, seal, unique_keys)
    assert left == []
    assert is_new
    assert [(row["id"], row["uid"], row["sealed"]) for row in read_rows(file)[1:]] == [(job_id, new.uid, seal(job_id))]
    assert add(store) == job_id + 1


@pytest.mark.parametrize("kind", DATABASES)
def test_a_commit_that_was_not_made(open_database: Callable[..., Database], file: Path, kind: str) -> None:
    database = open_database(kind)
    store = SQLStore(database)
    job_id = add(store)
    left = break_commits(database._engine, is_made=False)
    with pytest.raises(StoreError, match="disk I/O error"):
        add(store, unique_key="u")
    assert left == []
    assert [row["id"] for row in read_rows(file)] == [job_id]
    # Nothing of it is left open: others write, and so does this store.
    with contextlib.closing(sqlite3.connect(file, timeout=0)) as other, other:
        other.execute(f"UPDATE {TABLE} SET priority = 1")
    assert live_a_life(store, unique_key="u", priority=2) == job_id + 1


@pytest.mark.parametrize("statement", ["BEGIN", "INSERT", "COMMIT"])
@pytest.mark.parametrize("kind", DATABASES)
def test_a_server_that_stops_the_request_is_heard(
    open_database: Callable[..., Database], file: Path, kind: str, statement: str
) -> None:
    """gunicorn ends a sync worker by an exception at whatever statement it is."""
    database = open_database(kind)
    store = SQLStore(database)
    job_id = add(store)
    left = ["once"]

    @event.listens_for(database._engine, "do_execute")
    def stop(cursor: sqlite3.Cursor, text: str, parameters: Any, context: Any) -> None:
        if text.startswith(statement) and left:
            left.pop()
            raise SystemExit(statement)

    with pytest.raises(SystemExit, match=statement):
        add(store)
    assert [row["id"] for row in read_rows(file)] == [job_id]
    assert live_a_life(store, priority=1) == job_id + 1


def test_a_commit_that_a_reader_keeps_from_being_made(open_store: Callable[..., SQLStore], file: Path) -> None:
    """Without a WAL a commit waits for those who read, and is given up after a time."""
    store = open_store(lambda at: create_engine(f"sqlite:///{at}", connect_args={"timeout": 0.1}))
    job_id = add(store)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute(f"SELECT count(*) FROM {TABLE}").fetchone()
        with pytest.raises(StoreError, match="database is locked"):
            add(store)
        reader.execute("COMMIT")
        assert [row["id"] for row in read_rows(file)] == [job_id]
    assert live_a_life(store, priority=1) == job_id + 1


def test_a_full_disk(open_database: Callable[..., Database], file: Path) -> None:
    database = open_database()
    store = SQLStore(database)
    job_id = add(store)
    pages = {"most": 1}

    @event.listens_for(database._engine, "engine_connect")
    def limit(connection: Any) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages['most']}").close()

    with pytest.raises(StoreError, match="database or disk is full"):
        store.add(new_job(), lambda _: b"x" * 100_000)
    assert store.claim(job_id, 1, "run", 30, 0)
    with pytest.raises(StoreError, match="database or disk is full"):
        store.touch(job_id, 1, 50, "x" * 100_000, 30)
    pages["most"] = 1_000_000
    assert store.touch(job_id, 1, 60, "x" * 100_000, 30)
    assert [(row["id"], row["progress"]) for row in read_rows(file)] == [(job_id, 60)]


# --- Threads and forks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DATABASES)
def test_many_threads_share_one_engine(open_store: Callable[..., SQLStore], file: Path, kind: str) -> None:
    store = open_store(kind)
    barrier = threading.Barrier(20, timeout=30)

    def live(number: int) -> list[int]:
        barrier.wait()
        return [write_a_job(store, number) for _ in range(3)]

    with ThreadPoolExecutor(20) as pool:
        job_ids = [job_id for some in pool.map(live, range(20)) for job_id in some]
    assert sorted(job_ids) == [row["id"] for row in read_rows(file)] == list(range(1, 61))
    assert {(row["status"], row["status_text"] == row["scope"]) for row in read_rows(file)} == {(2, True)}


def write_a_job(store: SQLStore, number: int) -> int:
    job_id = add(store, scope=f"writer {number}")
    assert store.claim(job_id, 1, "run", 30, 0)
    assert store.touch(job_id, 1, 50, f"writer {number}", 30)
    assert store.move(Move.COMPLETE, job_id, attempt=1)
    return job_id


FORKING = ["ours", "user's own", "user's own WAL", "begin listener", "NullPool"]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")


def run_alone(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in a fresh process: this one has threads that a fork would not take along."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result(60)


def fork(call: Callable[[], object]) -> int:
    """Call it in a child of this process. The child's exit code is 0 if it went well."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        call()
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait_for(*children: int) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def fork_writers(kind: str, file: Path) -> list[int]:
    """Use an engine, then let four children and this process write with it at once."""
    database = Database(DATABASES[kind](file), build_table(TABLE), True)
    store = SQLStore(database)
    write_a_job(store, 0)

    def write(number: int) -> None:
        for _ in range(10):
            write_a_job(store, number)
        database._engine.dispose()

    children = [fork(lambda number=number: write(number)) for number in range(1, 5)]  # type: ignore[misc]
    write(0)
    return wait_for(*children)


@needs_fork
@pytest.mark.parametrize("kind", FORKING)
def test_children_of_a_fork_write_at_once(file: Path, kind: str) -> None:
    assert run_alone(fork_writers, kind, file) == [0, 0, 0, 0]
    rows = read_rows(file)
    assert sorted(row["scope"] for row in rows) == ["writer 0"] * 11 + [
        f"writer {n}" for n in range(1, 5) for _ in range(10)
    ]
    assert {(row["status"], row["progress"], row["status_text"] == row["scope"]) for row in rows} == {(2, 50, True)}
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_second_engine_of_a_process_does_not_take_the_locks_of_the_first(
    open_database: Callable[..., Database], file: Path
) -> None:
    """Closing a file takes away all locks of the process on it: the next one to leave would drop the WAL under us."""
    first = SQLStore(open_database("ours"))
    add(first, scope="before")
    SQLStore(open_database("ours")).get(1)
    other = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM " + TABLE + "').fetchall()"
    subprocess.run([sys.executable, "-c", other, str(file)], check=True)
    add(first, scope="after")
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        seen = connection.execute(f"SELECT scope FROM {TABLE}").fetchall()
    assert seen == [("before",), ("after",)]
    assert file.with_name(file.name + "-wal").exists()


def fork_and_close(kind: str, file: Path) -> list[int]:
    """Use an engine, fork, close it here, and write in turns: here, there, and here again."""
    database = Database(DATABASES[kind](file), build_table(TABLE), True)
    store = SQLStore(database)
    write_a_job(store, 0)
    (go, let_go), (done, say_done) = os.pipe(), os.pipe()

    def write_in_turns() -> None:
        for number in (1, 3):
            os.read(go, 1)
            write_a_job(store, number)
            os.write(say_done, b".")
        os.read(go, 1)

    child = fork(write_in_turns)
    for number in (2, 4):
        database._engine.dispose()
        os.write(let_go, b".")
        os.read(done, 1)
        write_a_job(store, number)
    os.write(let_go, b".")
    codes = wait_for(child)
    database._engine.dispose()
    for descriptor in (go, let_go, done, say_done):
        os.close(descriptor)
    return codes


@needs_fork
@pytest.mark.parametrize("kind", FORKING)
def test_rows_survive_a_fork_and_a_parent_that_closes(file: Path, kind: str) -> None:
    """SQLite's locks are the process's: with a connection taken over, what a child wrote would be lost."""
    assert run_alone(fork_and_close, kind, file) == [0]
    assert [row["scope"] for row in read_rows(file)] == [f"writer {number}" for number in range(5)]


def fork_under_use(kind: str, file: Path) -> tuple[bool, list[int]]:
    """Fork while another thread is in the middle of a transaction, and write in the child. Was it still in it?"""
    begun, forked = threading.Event(), threading.Event()
    os.register_at_fork(after_in_parent=forked.set)
    database = Database(DATABASES[kind](file), build_table(TABLE), True)
    store = SQLStore(database)
    write_a_job(store, 0)

    def hold(_: Connection) -> bool:
        begun.set()
        return forked.wait(0.3)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(database.transact, hold)
        begun.wait()
        codes = wait_for(fork(lambda: write_a_job(store, 1)))
        write_a_job(store, 2)
    database._engine.dispose()
    return holding.result(), codes


@needs_fork
@pytest.mark.parametrize("kind", FORKING)
def test_a_fork_waits_for_connections_in_use(file: Path, kind: str) -> None:
    """SQLite notes for the whole process which locks it has: a child that takes them over waits for itself for ever."""
    assert run_alone(fork_under_use, kind, file) == (False, [0])
    assert [row["scope"] for row in read_rows(file)] == [f"writer {number}" for number in range(3)]


def test_a_table_that_is_dropped_is_made_again(tmp_path):
    with open_sqlite_store(tmp_path) as store:
        job_id = add(store)
        with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as somebody:
            somebody.execute(f"DROP TABLE {TABLE}")
        with pytest.raises(StoreError, match="no such table"):
            store.get(job_id)
        assert store.get(add(store)) is not None


def test_a_lock_lets_other_greenlets_go_on(tmp_path):
    """While somebody else writes, a write waits in Python, where gevent switches, and not inside of SQLite."""
    with open_sqlite_store(tmp_path) as store:
        job_id = add(store)
        with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)) as somebody:
            somebody.execute("BEGIN IMMEDIATE")
            refused = []

            @event.listens_for(store._database._engine, "handle_error")
            def give_way(context: Any) -> None:
                refused.append(time.monotonic())
                if len(refused) == 3:
                    somebody.execute("ROLLBACK")

            assert store.move(Move.CANCEL, job_id)
        assert len(refused) == 3
        assert refused[-1] - refused[0] < backjob.storage.sql.errors.BUSY_TIMEOUT / 10
