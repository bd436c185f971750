"""A row or cache entry that backjob has not written so keeps nobody else from being listed, launched or recovered."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import services
from support.caches import client_region, empty_region, shared_server
from support.processes import name_dead
from support.records import TABLE, add, open_store, run
from support.served import KEY, Site, wrap

from backjob import Status, StoreError
from backjob.config import make_config
from backjob.keyring import Keyring
from backjob.model.history import read_ends
from backjob.runtime.process_identity import name_process
from backjob.scheduling.concurrency import Limits
from backjob.scheduling.keeper import Keeper
from backjob.scheduling.leases import Renewals
from backjob.storage.cache.index import Index, _pack, decode_job, encode_job
from backjob.storage.sql.store import SQLStore
from backjob.transport.launcher import SelfRequest

KEYRING = Keyring([KEY])

SPOILED = [
    ("error_timeout", 1e300),
    ("error_timeout", float("inf")),
    ("error_timeout", "soon"),
    ("updated_at", "yesterday"),
    ("updated_at", "9999-12-31 23:59:59.999999"),
    ("lease_until", "0001-01-01 00:00:00.000000"),
    ("due_at", 12),
    ("created_at", b"\xff"),
    ("status_text", b"\xff\xfe"),
    ("past", "[" * 100_000),
    ("past", '[{"attempt": [], "ended_at": "2026-01-01T00:00:00+00:00", "text": 1}]'),
    ("past", '{"attempt": 1}'),
    ("past", "7"),
    ("progress", "abc"),
    ("attempt", 1e300),
    ("retries", "many"),
    ("scope", b"\x00"),
    ("sealed", "a text"),
    ("lease_by", 7),
    ("cancel_requested", "perhaps"),
]


def short(value: Any) -> str:
    return repr(value)[:30]


@pytest.fixture(scope="module")
def dead() -> str:
    return name_dead()


def spoil(folder: Path, job_id: int, column: str, value: Any) -> None:
    """Write past every rule: SQLite takes any value."""
    with contextlib.closing(sqlite3.connect(folder / "jobs.sqlite3", timeout=5)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(f"UPDATE {TABLE} SET {column} = ? WHERE id = ?", (value, job_id))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with wrap(tmp_path, lease=1.0) as site:
        yield site


@pytest.mark.parametrize(("column", "value"), [*SPOILED, ("status", 99)], ids=short)
def test_the_others_are_recovered_and_listed(site: Site, tmp_path: Path, dead: str, column: str, value: Any) -> None:
    first, spoiled, last = (site.start("/job", error_timeout=0) for _ in range(3))
    for job_id, owner in ((first, dead), (spoiled, "elsewhere"), (last, dead)):
        assert site.backend.store.claim(job_id, 1, f"{owner}-{job_id}", 600, 0)
    spoil(tmp_path, spoiled, column, value)
    assert site.application.sweep() == 2
    assert {site.status(job_id).status for job_id in (first, last)} == {Status.FAILED}
    listed = [job.id for job in site.application.jobs.find()]
    assert [job_id for job_id in listed if job_id != spoiled] == [last, first]
    try:
        site.status(spoiled).as_dict()
    except StoreError as error:
        assert f"job {spoiled}" in str(error)  # noqa: PT017 - it may be shown, too


@pytest.mark.parametrize(("column", "value"), SPOILED, ids=short)
def test_the_others_are_taken_up(site: Site, tmp_path: Path, column: str, value: Any) -> None:
    spoiled, sound = site.start("/job"), site.start("/job")
    site.sql(f"UPDATE {TABLE} SET held_by = NULL, held_until = NULL, due_at = '2020-01-01 00:00:00.000000'")
    spoil(tmp_path, spoiled, column, value)
    store, keyring = site.backend.store, site.backend.keyring
    taken = [store.take_due(keyring.key_ids, "me", 30, site.backend.monitor.app_id) for _ in range(3)]
    assert sound in [job.id for job in taken if job]
    assert store.seconds_to_next(keyring.key_ids, site.backend.monitor.app_id, within=1) is None or taken


def test_a_spoiled_record_is_named_once(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job_id = site.start("/job")
    spoil(tmp_path, job_id, "created_at", "yesterday")
    for _ in range(3):
        assert site.application.jobs.find() == []
    (told,) = [each.getMessage() for each in caplog.records if "left out" in each.getMessage()]
    assert told.startswith(f"Job {job_id} is left out: The record of job {job_id} can't be read")
    assert "yesterday" not in caplog.text


def test_a_row_that_can_not_be_held_keeps_no_other(site: Site) -> None:
    jobs = [site.start("/job") for _ in range(12)]
    site.sql(f"UPDATE {TABLE} SET held_by = NULL, held_until = NULL")
    site.sql(
        f"CREATE TRIGGER refusal BEFORE UPDATE ON {TABLE} WHEN OLD.id <> {jobs[-1]} "
        "BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    taken = site.backend.store.take_due(site.backend.keyring.key_ids, "me", 30, site.backend.monitor.app_id)
    assert taken is not None
    assert taken.id == jobs[-1]


@pytest.mark.parametrize("value", ["infinity", "4713-01-01 BC", "NaN"])
def test_what_only_postgresql_holds(dead: str, value: str) -> None:
    with services.new_database("postgresql") as at:
        url = at.render_as_string(hide_password=False)
        with open_store(url) as store:
            jobs = [add(store, key_id=KEYRING.key_ids[0], app_id="", error_timeout=0) for _ in range(3)]
            for job_id in jobs:
                assert store.claim(job_id, 1, f"{dead}-{job_id}", 30, 0)
            column = "error_timeout" if value == "NaN" else "updated_at"
            run(url, f"UPDATE {TABLE} SET {column} = '{value}' WHERE id = {jobs[1]}")
            assert make_keeper(store).recover_all() == 2
            assert [job.id for job in store.find(None, None, 9, None)] == [jobs[2], jobs[0]]
            with pytest.raises(StoreError, match=f"job {jobs[1]} "):
                store.status(jobs[1])


def make_keeper(store: SQLStore) -> Keeper:
    config = make_config({"key": KEY, "lease": 1.0})
    limits = Limits(config, store, name_process())
    return Keeper(config, KEYRING, store, SelfRequest(config, KEYRING), Renewals(), limits, list)


GARBAGE = [b"", b"\x00garbage", _pack(["x"] * 29), _pack([None] * 29), _pack([1e308] * 29)]


@pytest.mark.parametrize("garbage", [*GARBAGE, "a wrong type"], ids=short)
def test_garbage_in_a_cache_entry(tmp_path: Path, dead: str, garbage: Any) -> None:
    with empty_region("memory") as region, wrap(tmp_path, database=None, cache=region, lease=1.0) as site:
        jobs = [site.start("/job", error_timeout=0) for _ in range(3)]
        store: Any = site.backend.store
        for job_id in jobs:
            assert store.claim(job_id, 1, f"{dead}-{job_id}", 30, 0)
        if isinstance(garbage, str):
            fields = json.loads(zlib.decompress(encode_job(store.get(jobs[1]))))
            garbage = _pack([str(each) for each in fields])
        store._jobs._entries.change(store._jobs._key(jobs[1]), lambda old: garbage)
        assert site.application.sweep() == 2
        assert [job.id for job in site.application.jobs.find()] == [jobs[2], jobs[0]]


POISONS = {
    "redis": [("RPUSH", b"x"), ("HSET", b"a", b"b"), ("SET", b"")],
    "memcached": [(b"junk", 0), *((b"junk \xff", flags) for flags in (1, 2, 4, 8, 16, 24, 32))],
}
"""Commands for a Redis key, and values of memcached with their flags, which tell a client how to read them."""


def write_poison(region: Any, server: Any, key: str, poison: tuple[Any, ...]) -> None:
    if server.kind == "redis":
        region.actual_backend.writer_client.delete(key)
        region.actual_backend.writer_client.execute_command(poison[0], key, *poison[1:])
        return
    value, flags = poison
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.socket))
        client.sendall(f"set {key} {flags} 0 {len(value)}\r\n".encode() + value + b"\r\n")
        assert client.recv(100) == b"STORED\r\n"


@pytest.mark.parametrize("client", ["redis", "pymemcache", "pylibmc", "bmemcached"])
def test_what_the_client_of_a_cache_can_not_read(tmp_path: Path, client: str) -> None:
    """The list begins anew and the job is gone. All other jobs are started, found and ended."""
    if client == "pylibmc" and sys.flags.dev_mode:
        pytest.skip("with the debug allocator its gets() reports some keys as missing")
    server = shared_server("redis" if client == "redis" else "memcached")
    server.empty()
    with client_region(client, server) as region, wrap(tmp_path, database=None, cache=region) as site:
        store: Any = site.backend.store
        prefix, jobs = store._jobs._prefix, site.application.jobs
        for poison in POISONS[server.kind]:
            other, spoiled, last = (site.start("/job") for _ in range(3))
            write_poison(region, server, f"{prefix}job-{spoiled}", poison)
            assert [job.id for job in jobs.find(Status.STARTED)] == [last, other]
            assert store.get(spoiled) is None
            assert store.get(last) is not None
            assert (site.application.sweep(), site.application.prune()) == (0, 1)  # the one that is gone
            deployment = store._jobs._deployment
            write_poison(region, server, f"{prefix}deployment", poison)
            write_poison(region, server, f"{prefix}index", poison)
            assert jobs.find() == []
            assert (site.application.sweep(), site.application.prune()) == (0, 0)
            first = site.start("/job")
            assert [job.id for job in jobs.find()] == [first]
            if poison != (b"junk", 0):  # which would be an id like another
                assert store._jobs._entries.read(f"{prefix}deployment") == deployment
            assert jobs.cancel(first) is jobs.cancel(other) is True


def test_another_jobs_record_in_a_cache_entry_is_none(tmp_path: Path) -> None:
    """cancel() would look and write without end, because the two disagree."""
    with empty_region("memory") as region, wrap(tmp_path, database=None, cache=region) as site:
        one, other = site.start("/job"), site.start("/job")
        store: Any = site.backend.store
        copied = encode_job(store.get(other))
        store._jobs._entries.change(store._jobs._key(one), lambda old: copied)
        assert store.get(one) is None
        assert [job.id for job in site.application.jobs.find()] == [other]


def test_garbage_is_no_record_and_no_list(site: Site) -> None:
    job = site.row(site.start("/job"))
    for garbage in GARBAGE:
        assert decode_job(garbage, job.read_at) is None
        assert Index.decode(garbage) == Index()
    assert Index.decode(_pack([[[1, "uid", None, "key", "first", 1, ""]], [], []])) == Index()
    assert decode_job(encode_job(job), job.read_at) == job


@pytest.mark.parametrize("past", ["[" * 100_000, "{}", "7", '[{"attempt": 1, "ended_at": 1, "text": ""}]', "[[1]]"])
def test_a_past_that_is_none_is_left_out(past: str) -> None:
    assert read_ends(past) == ()
