"""What only a database server does: answers that get lost, locks and deadlocks, restarts, clocks, odd settings.

Every trouble is a real one, made by a second session, by the server's own administrator or on the wire.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from support import DOCS, needs, services, wait_until
from support.records import (
    PROCESSES,
    SERVERS,
    TABLE,
    Clock,
    Databases,
    add,
    bring_to,
    live_a_life,
    new_job,
    open_store,
    run,
    seal,
)
from support.relay import Relay
from support.served import wrap

import backjob.storage.sql.clock
import backjob.storage.sql.errors
from backjob.errors import ConfigError, StoreError
from backjob.model.job import Move, Status
from backjob.storage.sql.database import Database
from backjob.storage.sql.errors import AnswerLost, Duplicate, Unreachable
from backjob.storage.sql.schema import find_table
from backjob.storage.sql.store import SQLStore
from backjob.worker import reporter

CANARY = "canary-of-a-user"
MYSQL = [name for name in SERVERS if name != "postgresql"]


@pytest.fixture(params=SERVERS)
def name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def url(name: str, databases: Databases, tmp_path: Path) -> URL:
    """A database on each server, without a record."""
    return make_url(databases.url(name, tmp_path, has_table=True))


@pytest.fixture
def store(url: URL) -> Iterator[SQLStore]:
    with open_store(url) as opened:
        yield opened


@pytest.fixture
def relay(url: URL) -> Iterator[Relay]:
    with Relay(url.port or 0) as opened:
        yield opened


@pytest.fixture
def far_store(url: URL, relay: Relay) -> Iterator[SQLStore]:
    """The same database at the other end of a wire that can break."""
    with open_store(url.set(port=relay.port)) as opened:
        yield opened


@contextlib.contextmanager
def session(url: URL) -> Iterator[Any]:
    """Somebody else's session."""
    with services.engine(url).connect() as connection:
        yield connection


def rows(url: URL) -> list[dict[str, Any]]:
    return run(url, f"SELECT * FROM {TABLE} ORDER BY id")


# --- Answers that get lost -------------------------------------------------------------------------------------------

WRITES: dict[str, tuple[Status, Callable[[SQLStore, int], bool]]] = {
    "claim": (Status.STARTED, lambda store, job_id: store.claim(job_id, 2, "me", 30, 0)),
    "claim if few": (Status.STARTED, lambda store, job_id: store.claim(job_id, 2, "me", 30, 5)),
    "touch": (Status.INPROGRESS, lambda store, job_id: store.touch(job_id, 2, 50, "so far, on", 30, 2)),
    "touch with more": (
        Status.INPROGRESS,
        lambda store, job_id: store.touch(job_id, 2, 50, ", on", 30, 2, is_more=True),
    ),
    "touch without text": (
        Status.INPROGRESS,
        lambda store, job_id: store.touch(job_id, 2, 50, "", 30, 2, is_more=True),
    ),
    "hold": (Status.STARTED, lambda store, job_id: store.hold(job_id, 2, "holder", "me", 30)),
    "give up": (Status.STARTED, lambda store, job_id: store.hold(job_id, 2, "holder", None, 0)),
    "note": (Status.STARTED, lambda store, job_id: store.note_launch_failure(job_id, 2, "holder", "no", 30)),
    "note full": (Status.STARTED, lambda store, job_id: store.note_full(job_id, 2, "holder")),
    "request cancel": (Status.INPROGRESS, lambda store, job_id: store.request_cancel(job_id)),
    "complete": (Status.INPROGRESS, lambda store, job_id: store.move(Move.COMPLETE, job_id, attempt=2)),
    "cancel by id": (Status.STARTED, lambda store, job_id: store.move(Move.CANCEL, job_id)),
    "retry": (Status.INPROGRESS, lambda store, job_id: store.move(Move.RETRY, job_id, attempt=2)),
}


@pytest.mark.parametrize("is_heard", [True, False], ids=["made", "not made"])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_whose_answer_is_lost_is_made_once_and_said_to_be(
    far_store: SQLStore, relay: Relay, write: str, is_heard: bool
) -> None:
    status, call = WRITES[write]
    job_id = bring_to(far_store, status)
    before = far_store.get(job_id)
    relay.break_at("UPDATE", is_heard=is_heard)
    assert call(far_store, job_id) is True
    assert relay.cuts == 1
    after = far_store.get(job_id)
    assert after != before
    assert after is not None
    assert after.attempt == (3 if write == "retry" else 2)
    if write.startswith("touch"):
        assert after.status_text == ("so far" if write == "touch without text" else "so far, on")


def test_a_lost_write_that_another_one_was_quicker_than_is_said_to_be_lost(
    far_store: SQLStore, store: SQLStore, relay: Relay
) -> None:
    """The claim was not heard, and when it is made again the job is another's."""
    job_id = add(far_store)
    relay.break_at("UPDATE", is_heard=False)

    @event.listens_for(far_store._database._engine, "handle_error")
    def be_quicker(_: Any) -> None:
        assert store.claim(job_id, 1, "other", 30, 0) or relay.cuts > 1

    assert far_store.claim(job_id, 1, "me", 30, 0) is False
    assert store.get(job_id).lease_by == "other"  # type: ignore[union-attr]


def test_the_same_owners_other_claim_is_not_taken_for_this_one(
    far_store: SQLStore, store: SQLStore, relay: Relay
) -> None:
    """A request that came twice: both runs have one name, and only one of them may run."""
    job_id = add(far_store)
    relay.break_at("UPDATE", is_heard=False)

    @event.listens_for(far_store._database._engine, "handle_error")
    def come_twice(_: Any) -> None:
        assert store.claim(job_id, 1, "me", 30, 0)

    assert far_store.claim(job_id, 1, "me", 30, 0) is False


@pytest.mark.parametrize("statement", ["BEGIN|START", "INSERT", "UPDATE", "COMMIT(?!TED)"])
@pytest.mark.parametrize("is_heard", [True, False], ids=["made", "not made"])
@pytest.mark.parametrize("unique_key", [None, "u"], ids=["plain", "unique"])
def test_a_record_whose_answer_is_lost_is_there_once(
    far_store: SQLStore, url: URL, relay: Relay, statement: str, is_heard: bool, unique_key: str | None
) -> None:
    add(far_store)
    relay.break_at(statement, is_heard=is_heard)
    new = new_job(unique_key=unique_key)
    job_id, is_new = far_store.add(new, seal, [unique_key] if unique_key else [])
    assert relay.cuts == 1
    assert is_new
    assert [(row["id"], row["uid"], bytes(row["sealed"])) for row in rows(url)[1:]] == [(job_id, new.uid, seal(job_id))]


def test_when_every_answer_is_lost_it_is_said(far_store: SQLStore, relay: Relay) -> None:
    job_id = bring_to(far_store, Status.INPROGRESS)
    relay.break_at("UPDATE", is_heard=False, times=99)
    with pytest.raises(AnswerLost):
        far_store.touch(job_id, 2, 50, "on", 30)
    assert relay.cuts == 2
    relay.break_at("", is_heard=False, times=0)
    assert far_store.touch(job_id, 2, 50, "on", 30)


def test_a_server_that_stays_silent_is_waited_for_once(url: URL, relay: Relay) -> None:
    """The server accepts connections, as a proxy may. Neither the second try nor the look-up of the row is made."""
    patience = 2.0
    database = Database(url.set(port=relay.port), find_table(TABLE), True, patience=patience)
    store = SQLStore(database)
    try:
        add(store)
        relay.silence_at("BEGIN|START|FROM background_job")
        begin = time.monotonic()
        with pytest.raises(AnswerLost):
            add(store)
        assert time.monotonic() - begin < 1.5 * patience
    finally:
        database.dispose()


# --- A server that is away -------------------------------------------------------------------------------------------


def test_a_server_that_was_restarted_is_found_again(store: SQLStore, url: URL) -> None:
    job_id = add(store)
    end_all_sessions(url)
    assert store.claim(job_id, 1, "run", 30, 0)
    end_all_sessions(url)
    assert store.touch(job_id, 1, 50, "on", 30)
    end_all_sessions(url)
    assert add(store) == job_id + 1


def end_all_sessions(url: URL) -> None:
    with session(url) as connection:
        if url.get_backend_name() == "postgresql":
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            connection.execute(text(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}"))
        else:
            found = connection.execute(
                text("SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()")
            )
            for (number,) in found.all():
                connection.execute(text(f"KILL {number}"))


def test_a_port_at_which_nobody_listens(url: URL, free_port: int) -> None:
    with open_store(url.set(port=free_port)) as store:
        for call in (lambda: add(store), lambda: store.get(1), lambda: store.claim(1, 1, "me", 30, 2)):
            with pytest.raises(Unreachable):
                call()


@pytest.mark.parametrize("name", MYSQL)
def test_what_a_driver_raises_while_it_connects_is_a_store_error(url: URL, name: str) -> None:
    wrong = url.update_query_dict({"foo": CANARY})
    with open_store(wrong) as store, pytest.raises(Unreachable, match=r"TypeError.*foo") as caught:
        add(store)
    assert CANARY not in "".join(traceback.format_exception(caught.value)).replace(__file__, "")


def test_what_a_users_function_raises_while_it_connects_is_a_store_error() -> None:
    def connect() -> Any:
        raise RuntimeError(CANARY)

    with own_engine(make_url("postgresql+psycopg://"), creator=connect) as engine:
        store = SQLStore(Database(engine, find_table(TABLE), True))
        with pytest.raises(Unreachable, match="RuntimeError") as caught:
            add(store)
    assert CANARY not in str(caught.value)


def test_a_server_that_takes_connections_and_never_answers(url: URL) -> None:
    """A frozen host, or a firewall that forgot the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = url.set(port=listener.getsockname()[1])
        # What users may set, so that the test need not wait for our defaults.
        silent = silent.update_query_dict({"connect_timeout": "2"})
        if "pymysql" in url.drivername:
            silent = silent.update_query_dict({"read_timeout": "2"})
        begin = time.monotonic()
        with open_store(silent) as store, pytest.raises(StoreError):
            add(store)
        assert time.monotonic() - begin < 5


def test_our_own_engines_have_patience_but_not_for_ever(url: URL) -> None:
    with open_store(url) as store:
        query = store._database._engine.url.query
    assert query["connect_timeout"] == "5"
    assert query.get("read_timeout", query.get("tcp_user_timeout")) in ("10", "10000")
    if "tcp_user_timeout" in query:
        # While an answer is waited for, a host that vanished is noticed by a keepalive and the one after it.
        assert int(str(query["keepalives_idle"])) + int(str(query["keepalives_interval"])) <= 10


def test_a_twin_has_the_patience_of_whoever_it_is_for(url: URL) -> None:
    """But what a URL says goes."""
    for patience, seconds in ((0.3, 1), (2.9, 2), (100, 10)):
        query = Database(url, find_table(TABLE), True).make_twin(patience).url.query
        assert query["connect_timeout"] == str(min(seconds, 5))
        assert query.get("read_timeout", query.get("tcp_user_timeout")) in (str(seconds), str(seconds * 1000))
    told = Database(url.update_query_dict({"connect_timeout": "4"}), find_table(TABLE), True)
    assert told.make_twin(1).url.query["connect_timeout"] == "4"


def test_a_keeper_gives_up_before_it_is_to_renew_again(
    url: URL, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A short lease would be over while its process waits for the answer of a server that went away."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = url.set(port=listener.getsockname()[1])
        told = silent.render_as_string(hide_password=False)
        with wrap(tmp_path, database=told, key="key12345" * 4, lease=6) as application:
            begin = time.monotonic()
            application.backend.keeper.step()
            assert time.monotonic() - begin < 4
    caplog.clear()  # its records have the errors, and those the driver's sockets


@pytest.mark.parametrize("url", ["mysql://ada:secret@db/jobs", "postgresql://ada:secret@db/jobs", "mariadb://db/jobs"])
def test_a_url_without_a_driver_means_those_of_the_extras(url: str) -> None:
    driver = Database(url, find_table(TABLE), True)._engine.driver
    assert driver == ("psycopg" if url.startswith("postgresql") else "pymysql")


@pytest.mark.parametrize("dialect", ["oracle", "mssql"])
def test_other_databases_are_refused(dialect: str) -> None:
    with pytest.raises(ConfigError, match=f"must be SQLite, PostgreSQL, MariaDB or MySQL, not {dialect}"):
        Database(f"{dialect}://ada:{CANARY}@db/jobs", find_table(TABLE), True)


# --- Locks -----------------------------------------------------------------------------------------------------------


def test_a_write_waits_for_a_lock_and_goes_on(store: SQLStore, url: URL) -> None:
    job_id = add(store)
    with session(url) as other, ThreadPoolExecutor(1) as pool:
        other.execute(text(f"UPDATE {TABLE} SET priority = 1 WHERE id = {job_id}"))
        claim = pool.submit(store.claim, job_id, 1, "run", 30, 0)
        wait_until(lambda: is_waiting(url))
        other.commit()
        assert claim.result(20) is True


def is_waiting(url: URL) -> bool:
    """Does a session of this database wait for a lock? None of these updates lasts otherwise."""
    if url.get_backend_name() == "postgresql":
        here = "datname = current_database() AND wait_event_type = 'Lock'"
        found = run(url, f"SELECT 1 FROM pg_stat_activity WHERE {here}")
    else:
        # Not innodb_trx: InnoDB makes that anew only when nobody has read it for a tenth of a second.
        here = "db = database() AND command = 'Query' AND info LIKE 'UPDATE%'"
        found = run(url, f"SELECT 1 FROM information_schema.processlist WHERE {here}")
    return bool(found)


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_a_lock_that_lasts_ends_in_an_error(url: URL, name: str) -> None:
    with open_store(url) as store:
        job_id = add(store)
        with session(url) as other:
            other.execute(text(f"UPDATE {TABLE} SET priority = 1 WHERE id = {job_id}"))
            begin = time.monotonic()
            with pytest.raises(StoreError, match=r"(?i)lock"):
                store.claim(job_id, 1, "run", 30, 0)
            assert 4 < time.monotonic() - begin < 8
            other.rollback()
        assert store.claim(job_id, 1, "run", 30, 0)


@pytest.mark.parametrize(
    "use", [add, lambda store: store.get(1), lambda store: store.free("me")], ids=["add", "get", "free"]
)
def test_a_lock_of_the_whole_table_ends_in_an_error(
    databases: Databases, tmp_path: Path, use: Callable[[SQLStore], Any]
) -> None:
    """As during ALTER TABLE. psycopg2 has no limit for an answer: without one for the lock it would wait for ever."""
    needs.package("psycopg2")
    url = make_url(databases.url("postgresql", tmp_path, has_table=True))
    with open_store(url.set(drivername="postgresql+psycopg2")) as store:
        store.get(add(store))
        with session(url) as other:
            other.execute(text(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE"))
            with pytest.raises(StoreError, match="lock"):
                use(store)


def test_a_deadlock_is_tried_again(store: SQLStore, url: URL) -> None:
    first, second = add(store), add(store)
    for _ in range(20):
        add(store)
    tries = []
    update = f"UPDATE {TABLE} SET priority = priority + 1 WHERE id "
    with session(url) as other, ThreadPoolExecutor(1) as pool:
        # The other one has written more, or waits longer before it looks: it is not the one who gives way.
        if url.get_backend_name() == "postgresql":
            other.execute(text("SET deadlock_timeout = '60s'"))
        other.execute(text(update + f">= {second}"))

        def take_what_the_other_one_has(connection: Any) -> None:
            tries.append(1)
            connection.execute(text(update + f"= {first}"))
            if len(tries) == 1:
                waiting.append(pool.submit(lambda: [other.execute(text(update + f"= {first}")), other.commit()]))
                wait_until(lambda: is_waiting(url))
            connection.execute(text(update + f"= {second}"))

        waiting: list[Any] = []
        store._database.transact(take_what_the_other_one_has)
        waiting[0].result(20)
    assert len(tries) == 2
    assert [row["priority"] for row in rows(url)[:2]] == [2, 2]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_serialization_failure_is_tried_again(databases: Databases, tmp_path: Path, driver: str) -> None:
    """A user's own engine whose every statement is serializable."""
    needs.package(driver)
    url = make_url(databases.url("postgresql", tmp_path)).set(drivername=f"postgresql+{driver}")
    connect_args = {"options": "-c default_transaction_isolation=serializable"}
    with own_engine(url, connect_args=connect_args) as engine:
        store = SQLStore(Database(engine, find_table(TABLE), True))
        job_id = add(store)
        with session(url) as other, ThreadPoolExecutor(1) as pool:
            other.execute(text(f"UPDATE {TABLE} SET priority = 1 WHERE id = {job_id}"))
            claim = pool.submit(store.claim, job_id, 1, "run", 30, 0)
            wait_until(lambda: is_waiting(url))
            other.commit()
            assert claim.result(20) is True


def test_psycopg2_tells_of_a_duplicate(databases: Databases, tmp_path: Path) -> None:
    """PostgreSQL by its older driver, whose errors have other names for the same."""
    needs.package("psycopg2")
    url = make_url(databases.url("postgresql", tmp_path, has_table=True))
    with open_store(url.set(drivername="postgresql+psycopg2")) as store:
        job_id = live_a_life(store)
        unique_id = add(store, unique_key="u")
        assert unique_id == job_id + 1
        barrier = threading.Barrier(8, timeout=30)

        def start(_: int) -> int:
            barrier.wait()
            return store.add(new_job(unique_key="v"), seal, ["v"])[0]

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(start, range(8)))) == 1
        with pytest.raises(Duplicate, match="uq_background_job_unique_key"):
            store.add(new_job(unique_key="u"), seal)


# --- Texts -----------------------------------------------------------------------------------------------------------

ODD = "a\0b \N{CHICKEN}"
AS_KEPT = "a\N{REPLACEMENT CHARACTER}b \N{CHICKEN}"


def _raise(text: str) -> NoReturn:
    raise RuntimeError(text)


TELLING: dict[str, Callable[[Any], Any]] = {
    "write": lambda jobs: jobs.write(ODD),
    "update": lambda jobs: jobs.update(50, ODD),
    "finish": lambda jobs: jobs.finish(ODD),
    "fail": lambda jobs: jobs.fail(ODD),
    "an exception": lambda _: _raise(ODD),
    "output": lambda _: None,
}


@pytest.mark.parametrize("way", TELLING)
def test_no_server_meets_a_nul(url: URL, tmp_path: Path, way: str) -> None:
    """PostgreSQL refuses a text with one: a job must not fail to end because of what its app tells."""

    def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
        TELLING[way](environ["backjob"])
        return [ODD.encode()] if way == "output" else []

    with wrap(tmp_path, job, database=url.render_as_string(hide_password=False)) as site:
        end = site.run("/job?" + urlencode({"q": ODD}))
        other = site.start("/job")
        site.application.jobs.fail(ODD, job_id=other)
        assert site.status(other).status_text == AS_KEPT
    assert end.status is (Status.FAILED if way in ("fail", "an exception") else Status.COMPLETED)
    assert AS_KEPT in end.status_text


# --- Users' own engines ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_engine(url: URL, **options: Any) -> Iterator[Engine]:
    engine = create_engine(url, **options)
    try:
        yield engine
    finally:
        engine.dispose()


def _say(engine: Engine, *statements: str) -> Engine:
    """Let each new connection begin with this, committed."""

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()
        connection.commit()

    return engine


def _with_creator(url: URL) -> Engine:
    """Connections that somebody else makes; on MySQL they count the rows that changed, and not those that matched."""
    dialect = url.get_dialect()()
    dialect.dbapi = url.get_dialect().import_dbapi()
    arguments, options = dialect.create_connect_args(url)
    options.pop("client_flag", None)
    return create_engine(f"{url.drivername}://", creator=lambda: dialect.dbapi.connect(*arguments, **options))


def _with_listeners(url: URL) -> Engine:
    """An engine that counts on having the connections for itself."""
    engine = create_engine(url)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("SELECT 1"))
    event.listen(engine, "engine_connect", lambda connection: connection.exec_driver_sql("SELECT 2"))
    return engine


ENGINES: dict[str, Callable[[URL], Engine]] = {
    "default": create_engine,
    "pool of one": lambda url: create_engine(url, pool_size=1, max_overflow=0, pool_timeout=5),
    "NullPool": lambda url: create_engine(url, poolclass=NullPool),
    "creator": _with_creator,
    "listeners": _with_listeners,
    **{
        level: lambda url, level=level: create_engine(url, isolation_level=level)  # type: ignore[misc]
        for level in ("AUTOCOMMIT", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
    },
    **{
        f"option {level}": lambda url, level=level: create_engine(url, execution_options={"isolation_level": level})  # type: ignore[misc]
        for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
    },
    "later option": lambda url: create_engine(url).execution_options(isolation_level="SERIALIZABLE"),
    "read only": lambda url: create_engine(url, execution_options={"postgresql_readonly": True}),
}
POSTGRESQL_SESSIONS = {
    "statement time-out": "SET statement_timeout = '3s'",
    "lock time-out": "SET lock_timeout = '1s'",
    "zone": "SET TimeZone = 'Pacific/Auckland'",
    "serializable": "SET default_transaction_isolation = 'serializable'",
    "schema": "CREATE SCHEMA IF NOT EXISTS own; SET search_path = own, public",
}
MYSQL_SESSIONS = {
    "statement time-out": "SET SESSION max_statement_time = 3",
    "zone": "SET SESSION time_zone = '+13:00'",
    "serializable": "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "lax": "SET SESSION sql_mode = ''",
    "strict": "SET SESSION sql_mode = 'TRADITIONAL,NO_AUTO_VALUE_ON_ZERO,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES'",
    "quotes": "SET SESSION sql_mode = 'ANSI_QUOTES'",
}


@pytest.mark.parametrize("kind", ENGINES)
def test_a_life_on_every_kind_of_engine(url: URL, kind: str) -> None:
    engine = ENGINES[kind](url)
    try:
        store = SQLStore(Database(engine, find_table(TABLE), True))
        job_ids = [live_a_life(store, unique_key="u") for _ in range(2)]
        expected = [(job_id, Status.COMPLETED, 100) for job_id in job_ids]
        assert [(row["id"], row["status"], row["progress"]) for row in rows(url)] == expected
        # What the user does with it is not committed by us, and not rolled back.
        if kind not in ("AUTOCOMMIT", "read only"):
            with engine.connect() as connection:
                connection.execute(text(f"DELETE FROM {TABLE}"))
                connection.rollback()
            assert len(rows(url)) == 2
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *(("postgresql", each) for each in POSTGRESQL_SESSIONS),
        *((name, each) for name in MYSQL for each in MYSQL_SESSIONS),
    ],
)
def test_a_life_in_every_kind_of_session(url: URL, name: str, setting: str) -> None:
    statement = (POSTGRESQL_SESSIONS if name == "postgresql" else MYSQL_SESSIONS)[setting]
    with own_engine(url) as engine:
        store = SQLStore(Database(_say(engine, statement), find_table(TABLE), True))
        before = datetime.now(timezone.utc)
        job_id = live_a_life(store, unique_key="u", scope='back\\slash\'s "quote" %s :x')
        job = store.get(job_id)
        assert job is not None
        assert job.scope == 'back\\slash\'s "quote" %s :x'
        # Every time is UTC, whatever the session thinks.
        for moment in (job.created_at, job.started_at, job.ended_at, job.read_at):
            assert moment is not None
            assert abs(moment - before) < timedelta(seconds=20)


@pytest.mark.parametrize("name", MYSQL)
def test_a_driver_that_counts_changed_rows_tells_no_owner_that_it_lost(url: URL, name: str) -> None:
    with contextlib.closing(_Disposed(_with_creator(url))) as made:
        clock = Clock()
        store = SQLStore(Database(made.engine, find_table(TABLE), True), clock)
        job_id = bring_to(store, Status.STARTED)
        for _ in range(2):  # at the same moment, so that the second changes nothing
            assert store.hold(job_id, 2, "holder", "holder", 30)
            assert store.note_launch_failure(job_id, 2, "holder", "no", 30)
        assert store.claim(job_id, 2, "run", 30, 0)
        assert not store.claim(job_id, 2, "run", 30, 0)
        for _ in range(2):
            assert store.touch(job_id, 2, 50, "on", 30)
        for _ in range(2):
            assert store.request_cancel(job_id)
        assert not store.touch(job_id, 2, 50, "on", 30)
        assert not store.hold(job_id, 2, "holder", "holder", 30)
        assert store.move(Move.CANCEL, job_id, attempt=2)
        assert not store.move(Move.CANCEL, job_id, attempt=2)
        assert not store.request_cancel(job_id)


class _Disposed:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def close(self) -> None:
        self.engine.dispose()


def test_a_users_engine_without_pre_ping_finds_a_restarted_server(url: URL) -> None:
    with own_engine(url, pool_size=3) as engine:
        store = SQLStore(Database(engine, find_table(TABLE), True))
        job_id = add(store)
        for call in (
            lambda: store.get(job_id),
            lambda: store.claim(job_id, 1, "run", 30, 2),
            lambda: store.touch(job_id, 1, 50, "on", 30),
            lambda: store.seconds_to_next(["key"]) is None,
            lambda: add(store),
        ):
            with contextlib.ExitStack() as stack:
                for _ in range(3):
                    stack.enter_context(engine.connect())
            end_all_sessions(url)
            assert call()
        assert len(rows(url)) == 2


def test_the_lock_of_limits_is_given_back_whatever_happens(store: SQLStore, url: URL) -> None:
    """In each way in which the work under it can end: the next one, on another connection, gets it at once."""
    database = store._database

    def fail(_: Any) -> None:
        raise LookupError

    def stop(_: Any) -> None:
        raise SystemExit

    def misspell(connection: Any) -> None:
        connection.execute(text("SELEKT"))

    def die(connection: Any) -> None:
        end_all_sessions(url)
        connection.execute(text("SELECT 1"))

    for work, error in ((fail, LookupError), (stop, SystemExit), (misspell, StoreError), (die, StoreError)):
        with pytest.raises(error):
            database.run_alone(work)
        with open_store(url) as other:
            begin = time.monotonic()
            assert other._database.run_alone(lambda _: True)
            assert time.monotonic() - begin < 2
    assert database.run_alone(lambda _: True)


@pytest.mark.parametrize("create_table", [True, False])
def test_a_map_of_schemas_is_followed(url: URL, create_table: bool) -> None:
    """A user's engine whose tables are elsewhere, where there is a table of the same name here too, or none."""
    is_postgresql = url.get_backend_name() == "postgresql"
    schema = f"{url.database}_mapped"
    run(url, f"DROP TABLE IF EXISTS {TABLE}")
    run(url, f"CREATE SCHEMA {schema}")
    try:
        with own_engine(url, execution_options={"schema_translate_map": {None: schema}}) as engine:
            if not create_table:
                with pytest.raises(StoreError, match="There is no table"):
                    add(SQLStore(Database(engine, find_table(TABLE), create_table)))
                live_a_life(SQLStore(Database(engine, find_table(TABLE), True)))
            job_id = live_a_life(SQLStore(Database(engine, find_table(TABLE), create_table)))
        found = run(url, f"SELECT id FROM {schema}.{TABLE} ORDER BY id")
        assert [row["id"] for row in found] == list(range(1, job_id + 1))
        with session(url) as connection:
            assert not inspect(connection).has_table(TABLE)
    finally:
        run(url, f"DROP SCHEMA {schema} {'CASCADE' if is_postgresql else ''}")


def test_a_user_who_may_not_make_tables_uses_one_that_is_there(store: SQLStore, url: URL) -> None:
    add(store)
    is_postgresql = url.get_backend_name() == "postgresql"
    if is_postgresql:
        run(url, f"CREATE ROLE clerk LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLE}, {PROCESSES} TO clerk")
        run(url, f"GRANT USAGE ON SEQUENCE {TABLE}_id_seq TO clerk")
    else:
        run(url, "CREATE USER clerk@'%'")
        for table in (TABLE, PROCESSES):
            run(url, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {url.database}.{table} TO clerk@'%'")
    try:
        with open_store(url.set(username="clerk")) as clerk:
            live_a_life(clerk, priority=1)
        other = Database(
            url.set(username="clerk").render_as_string(hide_password=False), find_table("other"), create_table=True
        )
        try:
            with pytest.raises(StoreError, match=r"denied|CREATE"):
                add(SQLStore(other))
        finally:
            other.dispose()
    finally:
        run(url, "DROP OWNED BY clerk; DROP ROLE clerk" if is_postgresql else "DROP USER clerk@'%'")


def test_the_statements_that_the_documentation_prints_make_the_table(url: URL) -> None:
    page = (DOCS / "databases.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (recipe,) = [block for block in blocks if '"postgresql+psycopg://"' in block]
    recipe = recipe.replace("postgresql+psycopg://", f"{url.drivername}://".replace("mysql+", "mariadb+"))
    printed = subprocess.run([sys.executable, "-c", recipe], capture_output=True, text=True, check=True, timeout=60)
    run(url, f"DROP TABLE IF EXISTS {TABLE}, {PROCESSES}")
    for statement in printed.stdout.split(";"):
        if statement.strip():
            run(url, statement)
    database = Database(url.render_as_string(hide_password=False), find_table(TABLE), create_table=False)
    try:
        live_a_life(SQLStore(database), unique_key="u")
        with session(url) as connection:
            made = {index["name"] for index in inspect(connection).get_indexes(TABLE)}
        assert {index.name for index in database.table.indexes} <= made
    finally:
        database.dispose()


# --- What is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MYSQL)
def test_a_database_of_another_charset_keeps_every_text_exactly(name: str) -> None:
    with services.new_database(name, "CHARACTER SET latin1 COLLATE latin1_swedish_ci") as url, open_store(url) as store:
        scopes = ["a", "A", "a ", "\u00e1", "\U0001f414", "\U0001f986", ""]
        for scope in scopes:
            add(store, scope=scope, unique_key=scope)
        for scope in scopes:
            assert [job.scope for job in store.find(None, scope, 99, None)] == [scope]
        assert store.take_due(["KEY", "key "], "me", 30) is None
        job_id = bring_to(store, Status.STARTED, retries=1)
        for other in ("Holder", "holder "):
            assert not store.hold(job_id, 2, other, "me", 30)
            assert not store.note_launch_failure(job_id, 2, other, "no", 30)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_postgresql_database_that_is_not_utf8_is_refused_at_once(encoding: str) -> None:
    """A job could not end there when its text has a letter that the database does not know."""
    options = f"TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    with services.new_database("postgresql", options) as url, open_store(url) as store:
        for _ in range(2):
            with pytest.raises(StoreError, match=f"has the encoding {encoding}, and the job table needs UTF8"):
                add(store)
        with session(url.update_query_dict({"client_encoding": "utf8"})) as connection:
            assert not inspect(connection).has_table(TABLE)


@pytest.mark.parametrize("name", SERVERS)
def test_a_users_connection_that_can_not_send_every_text_is_refused_at_once(url: URL, name: str) -> None:
    is_postgresql = name == "postgresql"
    statement = "SET client_encoding = 'LATIN1'" if is_postgresql else "SET NAMES latin1"
    with own_engine(url) as engine:
        store = SQLStore(Database(_say(engine, statement), find_table(TABLE), True))
        with pytest.raises(StoreError, match=r"(?i)connection.* latin1, and .* needs utf8"):
            add(store)


def test_a_refused_record_is_not_shown(store: SQLStore, url: URL, caplog: pytest.LogCaptureFixture) -> None:
    job_id = add(store, unique_key=CANARY)
    with pytest.raises(StoreError, match="uq_background_job_unique_key") as caught:
        store.add(new_job(unique_key=CANARY), lambda _: CANARY.encode())
    shown = [caught.value]
    with pytest.raises(StoreError, match="ck_background_job_progress") as caught:
        store.touch(bring_to(store, Status.INPROGRESS), 2, 101, CANARY, 30)
    shown.append(caught.value)
    with pytest.raises(StoreError) as caught:
        store.add(new_job(scope=f"{CANARY}\ud800"), seal)
    shown.append(caught.value)
    with pytest.raises(StoreError) as caught:
        store.add(new_job(scope=f"{CANARY} for {'x' * 300}", uid=f"x' at row {CANARY}"), seal)
    shown.append(caught.value)
    with pytest.raises(StoreError) as caught, store._database.connect() as connection:
        connection.execute(text(f"SELECT * FROM nowhere WHERE x = '{CANARY}' AND ("))
    shown.append(caught.value)
    for error in shown:
        told = "".join(traceback.format_exception(error))
        assert CANARY not in told.replace(__file__, ""), told
    assert store.get(job_id) is not None


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
    """A MariaDB of this file's own that accepts 1 MiB at once, as old ones do. The setting is for the whole server."""
    own = services.OwnServices(tmp_path_factory.mktemp("own") / "services")
    try:
        server = make_url(own.start("mariadb"))
        run(server, "SET GLOBAL max_allowed_packet = 1048576")
        yield server
    finally:
        own.remove()


@pytest.fixture(params=MYSQL)
def small_packets(request: pytest.FixtureRequest, own_server: URL) -> Iterator[URL]:
    """A database there, with the address of each driver."""
    driver = make_url(services.url(request.param)).drivername
    with services.database_on(own_server.set(drivername=driver)) as url:
        yield url


def test_a_text_that_the_server_does_not_take_is_cut_and_the_job_ends(small_packets: URL) -> None:
    with open_store(small_packets) as store:
        job_id = bring_to(store, Status.INPROGRESS)
        output = "'\U0001f414" * 262_144
        assert store.touch(job_id, 2, 50, output, 30)
        assert store.move(Move.COMPLETE, job_id, attempt=2, text=output)
        job = store.get(job_id)
        assert job is not None
        kept, _, line = job.status_text.rpartition("\n")
        assert output.startswith(kept)
        assert len(kept.encode()) > 400_000
        assert "max_allowed_packet" in line
        assert job.signs == 1
        with pytest.raises(StoreError, match="bytes sealed, is more than max_allowed_packet"):
            store.add(new_job(), lambda _: b"x" * 1_100_000)
        assert [row["id"] for row in rows(small_packets)] == [job_id]


def test_a_text_that_grows_beyond_what_the_server_takes_is_cut(small_packets: URL) -> None:
    """To append would make one that nobody could read, or none: the server takes what is too long for NULL."""
    with open_store(small_packets) as store:
        job_id = bring_to(store, Status.INPROGRESS)
        piece = "\U0001f414" * 50_000
        for number in (2, 3):
            assert store.touch(job_id, 2, 50, piece, 30, number, is_more=True)
        before = store.get(job_id)
        assert not store.touch(job_id, 2, 50, piece, 30, 4, is_more=True)
        assert not store.touch(job_id, 2, 50, piece * 10, 30, 4, is_more=True)
        assert dataclasses.replace(store.get(job_id), read_at=before.read_at) == before  # type: ignore[union-attr,type-var]
        assert store.touch(job_id, 2, 50, "so far" + piece * 3, 30, 4)
        assert store.touch(job_id, 2, 60, "", 30, 5, is_more=True)
        job = store.get(job_id)
        assert job is not None
        assert "max_allowed_packet" in job.status_text
        assert not store.touch(job_id, 2, 50, "more", 30, 6, is_more=True)


def test_a_job_that_writes_more_than_the_server_takes_runs_to_its_end(
    small_packets: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "INTERVAL", 0.0)
    seen = []

    def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
        jobs = environ["backjob"]
        for number in range(12):
            jobs.write("\U0001f414" * 20_000)
            jobs.update(number)
            seen.append(jobs.status(jobs.job_id).progress)
        return []

    with wrap(tmp_path, job, database=small_packets.render_as_string(hide_password=False)) as site:
        status = site.run("/job")
    assert seen == list(range(12))
    assert status.status is Status.COMPLETED
    assert len(status.status_text.encode()) > 400_000
    assert "max_allowed_packet" in status.status_text


@pytest.mark.parametrize("text", ["\U0001f414" * 262_144, "'" * 1_048_576, "\\" * 1_048_576])
def test_1_mib_of_any_text_is_kept(store: SQLStore, text: str) -> None:
    job_id = bring_to(store, Status.INPROGRESS)
    assert store.move(Move.COMPLETE, job_id, attempt=2, text=text)
    assert store.get(job_id).status_text == text  # type: ignore[union-attr]


def test_every_microsecond_and_every_number_is_kept(url: URL) -> None:
    clock = Clock()
    with open_store(url, clock) as store:
        job_id = add(store, error_timeout=123456.789, delay=0.000001, priority=-(2**31))
        job = store.get(job_id)
        assert job is not None
        assert (job.error_timeout, job.due_at, job.priority) == (123456.789, clock.after(0.000001), -(2**31))


# --- The clock -------------------------------------------------------------------------------------------------------


def test_the_time_is_the_servers(store: SQLStore, url: URL) -> None:
    clock = backjob.storage.sql.clock.choose_clock(store._database)
    kind = "postgresql" if url.get_backend_name() == "postgresql" else "mysql"
    for _ in range(3):
        before = clock()
        (row,) = run(url, backjob.storage.sql.clock._UTC[kind].text + " AS utc")
        assert before - timedelta(seconds=0.05) < row["utc"].replace(tzinfo=timezone.utc)
        assert row["utc"].replace(tzinfo=timezone.utc) < clock() + timedelta(seconds=0.05)


def test_the_time_is_read_now_and_then_only(url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(url) as store:
        said: list[str] = []

        @event.listens_for(store._database._engine, "before_cursor_execute")
        def note(*arguments: Any) -> None:
            said.append(arguments[2])

        def reads() -> int:
            return sum("clock_timestamp" in each or "utc_timestamp" in each for each in said)

        for _ in range(5):
            add(store)
        assert reads() == 3
        monkeypatch.setattr(backjob.storage.sql.clock, "READ_EVERY", 0.0)
        store._now._next = 0.0  # type: ignore[attr-defined]
        add(store)
        assert reads() > 3


def test_the_time_can_not_be_read(far_store: SQLStore, relay: Relay) -> None:
    add(far_store)
    far_store._now._next = 0.0  # type: ignore[attr-defined]
    relay.break_at("_TIMESTAMP" if "mysql" in str(far_store._database._engine.url) else "clock_", is_heard=False)
    far_store._database.dispose()
    with contextlib.suppress(StoreError):
        add(far_store)
    assert add(far_store)


_WRITE_AND_LOOK = """
import sys
from support.records import KEY_IDS, add, open_store
with open_store(sys.argv[1]) as store:
    job_id = add(store, delay=30, held_by="other host", hold=30)
    print(store.get(job_id).created_at.isoformat(), store.seconds_to_next(KEY_IDS), store.hold(1, 1, None, "me", 1))
"""


@pytest.mark.parametrize(
    ("name", "offset"),
    [("postgresql", "-5m"), ("postgresql", "+5m"), ("mariadb", "+5m"), ("mariadb-mysqlclient", "-5m")],
)
def test_a_host_whose_clock_is_wrong_writes_and_compares_the_same_times(
    store: SQLStore, url: URL, name: str, offset: str
) -> None:
    """Another process, under a clock that is 5 minutes off."""
    job_id = add(store, delay=10, held_by="this host", hold=20)
    job = store.get(job_id)
    assert job is not None
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join(["tests", "."]),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    command = [needs.program("faketime"), "-f", offset, sys.executable, "-c", _WRITE_AND_LOOK]
    command.append(url.render_as_string(hide_password=False))
    told = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    created_at, seconds, is_held = datetime.fromisoformat(told[0]), float(told[1]), told[2]
    assert abs(created_at - job.created_at) < timedelta(seconds=10)
    assert 5 < seconds <= 20
    assert is_held == "False"


# --- Forks -----------------------------------------------------------------------------------------------------------

_FORK = """
import os, sys
from backjob.model.job import Move
from support.records import add, open_store

def write_jobs(store):
    for _ in range(5):
        job_id = add(store)
        assert store.claim(job_id, 1, "run", 30, 99)
        assert store.touch(job_id, 1, 50, "half", 30)
        assert store.move(Move.COMPLETE, job_id, attempt=1)

with open_store(sys.argv[1]) as store:
    write_jobs(store)
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            code = 1
            try:
                write_jobs(store)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    write_jobs(store)
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_children_of_a_fork_have_connections_of_their_own(url: URL) -> None:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(["tests", "."])}
    command = [sys.executable, "-c", _FORK, url.render_as_string(hide_password=False)]
    subprocess.run(command, env=environ, timeout=60, check=True)
    assert [row["status"] for row in rows(url)] == [Status.COMPLETED] * 25
