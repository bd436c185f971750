"""Single keys of a cache, changed by compare-and-set, and the calls that are over in time: on every kind of backend."""

from __future__ import annotations

import contextlib
import gc
import logging
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dogpile.cache import CacheRegion, make_region
from support import DOCS, wait_until
from support.caches import PATIENT, cluster_region, empty_region, make_memory_region, opened, own_server, region_of

from backjob import BackJob, ConfigError
from backjob.errors import StoreError
from backjob.runtime.call_timeout import MOST_THREADS, BoundedCalls
from backjob.storage.cache.backends import check_region
from backjob.storage.cache.entries import CacheEntries, open_entries

SHARED = ("redis", "memcached")
KINDS = ("memory", *SHARED)
KEY = "the key of a test, and of no user"


@pytest.fixture(params=KINDS)
def region(request: pytest.FixtureRequest) -> Iterator[CacheRegion]:
    with empty_region(request.param) as region:
        yield region


@pytest.fixture
def cells(region: CacheRegion) -> Iterator[CacheEntries]:
    with opened(region) as cells:
        yield cells


# --- CacheEntries ----------------------------------------------------------------------------------------------------


def test_a_cell(cells: CacheEntries) -> None:
    assert cells.read("a") is None
    cells.change("a", lambda old: b"1" if old is None else None)
    cells.change("a", lambda old: b"2" if old is None else None)
    assert cells.read("a") == b"1"
    cells.change("a", lambda old: (old or b"") + b"\0\xff\r\n")
    cells.change("b", lambda old: b"x" * 100_000)
    assert cells.read_many(["b", "c", "a"]) == [b"x" * 100_000, None, b"1\0\xff\r\n"]
    assert cells.read_many([]) == []
    cells.delete("a")
    cells.delete("a")
    assert cells.read("a") is None


@pytest.mark.parametrize("region", SHARED, indirect=True)
def test_what_comes_between_is_seen(region: CacheRegion, cells: CacheEntries) -> None:
    """A change that was made meanwhile is not overwritten: the next try begins with it."""
    seen: list[bytes | None] = []
    with opened(region) as others:

        def count(old: bytes | None) -> bytes:
            seen.append(old)
            if len(seen) <= 5:
                others.change("a", lambda old: b"%d" % len(seen))
            return (old or b"") + b" and mine"

        cells.change("a", count)
    assert seen == [None, b"1", b"2", b"3", b"4", b"5"]
    assert cells.read("a") == b"5 and mine"


@pytest.mark.parametrize("region", SHARED, indirect=True)
def test_a_change_that_was_given_up_is_not_begun(region: CacheRegion, cells: CacheEntries) -> None:
    """Whoever asked for it was told that it failed."""
    is_given_up, is_over = threading.Event(), threading.Event()

    class Hasty(type(open_entries(region, 1))):  # type: ignore[misc]
        def _change(self, *arguments: Any) -> None:
            try:
                super()._change(*arguments)
            finally:
                is_over.set()

    hasty = Hasty(region, 0.05)
    with pytest.raises(StoreError, match="not answer within"):
        hasty.change("a", lambda _: b"1" if is_given_up.wait(PATIENT) else None)
    is_given_up.set()
    assert is_over.wait(PATIENT)
    assert cells.read("a") is None
    hasty.dispose()


def test_threads_that_count(cells: CacheEntries) -> None:
    """Nothing is counted twice or forgotten."""
    threads, turns = 8, 50

    def add_one(old: bytes | None) -> bytes:
        time.sleep(0)  # let another thread run
        return b"%d" % (int(old or 0) + 1)

    def count() -> None:
        for _ in range(turns):
            cells.change("count", add_one)

    counting = [threading.Thread(target=count) for _ in range(threads)]
    for thread in counting:
        thread.start()
    for thread in counting:
        thread.join()
    assert cells.read("count") == b"%d" % (threads * turns)


@pytest.mark.parametrize("region", SHARED, indirect=True)
def test_an_answer_that_was_lost(region: CacheRegion, cells: CacheEntries) -> None:
    """The value was set, and the client asked again: that is no refusal."""
    calls = []
    set_really = cells._set  # type: ignore[attr-defined]

    def lose_answer(*arguments: Any) -> bool:
        calls.append(set_really(*arguments))
        return False

    cells._set = lose_answer  # type: ignore[attr-defined]
    cells.change("a", lambda old: (old or b"") + b"once")
    assert cells.read("a") == b"once"
    cells.change("a", lambda old: (old or b"") + b"more")
    assert cells.read("a") == b"oncemore"
    assert calls == [True, True]


def test_a_cluster() -> None:
    """Its keys are on several servers."""
    with cluster_region() as region, opened(region) as cells:
        for key in ("a", "b", "c"):
            cells.change(key, lambda old: b"1")
            cells.change(key, lambda old: (old or b"") + b"2", expire=60)
        assert cells.read_many(["a", "none", "b", "c"]) == [b"12", None, b"12", b"12"]


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("days", [0, 1, 30, 60, 3650, 5000, 1_000_000])
def test_what_expires(kind: str, days: int) -> None:
    """memcached takes more than 30 days for a date, which would long be over."""
    with empty_region(kind) as region, opened(region) as cells:
        cells.change("a", lambda old: b"1", expire=days * 86400)
        assert cells.read("a") == b"1"
        cells.change("a", lambda old: b"2", expire=1)
        wait_until(lambda: cells.read("a") is None)


def test_another_kind_of_value_is_none(region: CacheRegion, cells: CacheEntries) -> None:
    region.actual_backend.set_serialized("a", "not ours" if not cells.is_shared else b"short")
    assert not cells.read("a")
    cells.change("a", lambda old: b"1")
    assert cells.read("a") == b"1"


def test_keys_are_mangled() -> None:
    region = make_region(key_mangler=lambda key: f"<{key}>").configure("dogpile.cache.memory")
    with opened(region) as cells:
        cells.change("a", lambda old: b"1")
        assert cells.read_many(["a"]) == [b"1"]
        assert list(region.actual_backend._cache) == ["<a>"]


def test_a_cache_that_keeps_nothing() -> None:
    with opened(make_region().configure("dogpile.cache.null")) as cells, pytest.raises(StoreError, match="NullBackend"):
        cells.change("a", lambda old: b"1")


@pytest.mark.parametrize("kind", SHARED)
def test_a_server_that_is_away_is_an_error_each_time(kind: str) -> None:
    """And never "not there": a job would seem not to exist."""
    with own_server(kind) as server, region_of(server) as region, opened(region, 5) as cells:
        cells.change("a", lambda old: b"1")
        server.kill()
        for _ in range(5):
            with pytest.raises(StoreError):
                cells.read("a")
            with pytest.raises(StoreError):
                cells.read_many(["a"])
            with pytest.raises(StoreError):
                cells.change("a", lambda old: b"2")
        server.start()
        assert cells.read("a") is None
        cells.change("a", lambda old: b"3")


@pytest.mark.parametrize("kind", SHARED)
def test_a_server_that_does_not_answer(kind: str) -> None:
    with own_server(kind) as server, region_of(server) as region, opened(region, 0.1) as cells:
        wait_until(lambda: _change(cells, "a", b"1"))
        with server.frozen():
            began = time.monotonic()
            for _ in range(2 * MOST_THREADS):
                with pytest.raises(StoreError, match=r"does not answer|down right now"):
                    cells.read("a")
            assert time.monotonic() - began < 10  # a client's own patience is longer, or has no end
        wait_until(lambda: _read(cells, "a") == b"1")


def _change(cells: CacheEntries, key: str, value: bytes) -> bool:
    with contextlib.suppress(StoreError):
        cells.change(key, lambda old: value)
        return True
    return False


def _read(cells: CacheEntries, key: str) -> bytes | None:
    try:
        return cells.read(key)
    except StoreError:
        return None


def test_nothing_is_connected_before_the_first_use() -> None:
    for name, arguments in (
        ("dogpile.cache.redis", {"url": "unix:///nowhere/at/all"}),
        ("dogpile.cache.pymemcache", {"url": ["unix:/nowhere/at/all"]}),
    ):
        cells = open_entries(make_region().configure(name, arguments=arguments), PATIENT)
        assert not cells._calls._threads
        with pytest.raises(StoreError):
            cells.read("a")
        cells.dispose()
        assert not cells._calls._threads


# --- Calls ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls() -> Iterator[BoundedCalls]:
    calls = BoundedCalls("test", lambda: None)
    yield calls
    calls.dispose()
    wait_until(lambda: not calls._threads)


def test_a_call_gives_what_the_function_gives(calls: BoundedCalls) -> None:
    assert calls.call(threading.get_ident, PATIENT) != threading.get_ident()
    with pytest.raises(KeyError, match="'a'"):
        calls.call(lambda: {}["a"], PATIENT)
    with pytest.raises(KeyboardInterrupt):
        calls.call(_interrupt, PATIENT)
    assert calls.call(lambda: 7, PATIENT) == 7
    assert len(calls._threads) == 1


def _interrupt() -> None:
    raise KeyboardInterrupt


def hang(calls: BoundedCalls, gate: threading.Event, threads: int) -> None:
    """So many of the threads make a call that does not end before the gate is open."""
    begun: list[int] = []

    def wait() -> None:
        begun.append(threading.get_ident())
        gate.wait()

    while len(set(begun)) < threads:  # one that was left before a thread came to it is not made
        with pytest.raises(TimeoutError):
            calls.call(wait, 0.01)


def test_a_call_that_hangs_is_left(calls: BoundedCalls) -> None:
    gate = threading.Event()
    hang(calls, gate, 1)
    assert calls.call(lambda: "others go on", PATIENT)
    gate.set()


def test_a_call_that_was_not_begun_is_not_made_any_more(calls: BoundedCalls) -> None:
    gate = threading.Event()
    made: list[str] = []
    hang(calls, gate, MOST_THREADS)
    with pytest.raises(TimeoutError):
        calls.call(lambda: made.append("late"), 0.01)
    assert len(calls._threads) == MOST_THREADS
    gate.set()
    calls.call(lambda: made.append("later"), PATIENT)
    assert made == ["later"]


def test_threads_end_and_begin_anew() -> None:
    ended: list[int] = []
    calls = BoundedCalls("test", lambda: ended.append(threading.get_ident()))
    first = calls.call(threading.get_ident, PATIENT)
    calls.dispose()
    assert ended == [first]
    calls.call(threading.get_ident, PATIENT)
    calls.dispose()
    assert len(ended) == 2


def test_an_error_keeps_nothing_alive(calls: BoundedCalls) -> None:
    """It would keep a connection, and with it a socket, until the garbage collector comes."""

    class Held:
        pass

    held = Held()
    watch = weakref.ref(held)

    def fail(held: Held = held) -> None:
        raise ValueError

    gc.disable()
    try:
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            calls.call(fail, PATIENT)
        del held, fail, caught
        calls.call(lambda: None, PATIENT)
        assert watch() is None
    finally:
        gc.enable()


# --- Regions ---------------------------------------------------------------------------------------------------------


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    return []


NO_REGIONS = ["dogpile.cache.memory", 7, {}, object(), make_region]


@pytest.mark.parametrize("value", NO_REGIONS, ids=[type(each).__name__ for each in NO_REGIONS])
def test_what_is_no_region(value: Any) -> None:
    for database in (None, "sqlite:///x.sqlite3"):
        with pytest.raises(ConfigError, match=r"cache must be a dogpile\.cache region"):
            BackJob(app, cache=value, database=database, key=KEY)


def test_a_region_that_is_not_configured() -> None:
    with pytest.raises(ConfigError, match="not configured"):
        BackJob(app, cache=make_region())


def test_a_region_that_does_not_tell_whether_it_keeps_a_value() -> None:
    arguments = {"url": "127.0.0.1", "default_noreply": True}
    with pytest.raises(ConfigError, match="default_noreply"):
        check_region(make_region().configure("dogpile.cache.pymemcache", arguments=arguments), is_alone=False)


def test_what_the_docs_show_can_be_made() -> None:
    text = (DOCS / "caching.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    names: dict[str, Any] = {"app": app, "secret": KEY}
    for block in blocks:
        exec(compile(block, "docs/caching.md", "exec"), names)
        check_region(names["region"], is_alone=True)
        if application := names.pop("application", None):
            assert application.config.cache is names["region"]
            application.close()


def test_backjob_can_be_imported_without_dogpile() -> None:
    script = "import sys; sys.modules['dogpile'] = sys.modules['dogpile.cache'] = None; import backjob; print(backjob)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout


def test_no_database_needs_a_cache() -> None:
    with pytest.raises(ConfigError, match="or None with cache= set"):
        BackJob(app, database=None, key=KEY)


def test_no_database_needs_a_cache_that_keeps_something() -> None:
    region = make_region().configure("dogpile.cache.null")
    with pytest.raises(ConfigError, match="keeps nothing"):
        BackJob(app, database=None, cache=region, key=KEY)
    BackJob(app, database="sqlite:///x.sqlite3", cache=region, key=KEY).close()


def test_a_file_is_no_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    region = make_region().configure("dogpile.cache.dbm", arguments={"filename": str(tmp_path / "jobs.dbm")})
    BackJob(app, database=None, cache=region, key=KEY).close()
    (said,) = caplog.messages
    assert "memory" not in said
    assert "a file of this host" in said
    assert "one process at a time" in said


def test_no_database_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKJOB_KEY", raising=False)
    with pytest.raises(ConfigError, match="key must be set"):
        BackJob(app, database=None, cache=make_memory_region())


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_cache_alone_can_not_promise_is_said_once(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with empty_region(kind) as region:
        application = BackJob(app, database=None, cache=region, key=KEY)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        said = record.getMessage()
        assert "docs/caching.md" in said
        assert ("one process" in said) is (kind == "memory")
        assert region.actual_backend.__class__.__name__ in said
        caplog.clear()
        application.jobs.find()
        BackJob(app, cache=region, key=KEY, database="sqlite:///x.sqlite3").close()
        application.close()
        assert caplog.records == []
