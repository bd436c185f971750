"""A cache in front of the database: it makes status() faster, and nothing else different.

Several stores on one database and one cache stand for several processes; each has a monotonic clock of its own. What
only a race would show is made to happen: a store that is stopped between its look at the database and the cache.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import pickle
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dogpile.cache import CacheRegion, make_region
from dogpile.cache.util import sha1_mangle_key
from sqlalchemy import NullPool, create_engine, event
from support import wait_until
from support.caches import PATIENT, close_region, empty_region, opened, own_server, region_of, shared_server
from support.records import TABLE, Clock, add, bring_to
from support.served import serve_site, wrap
from support.services import new_database

from backjob import JobNotFound
from backjob.errors import StoreError
from backjob.keyring import Keyring
from backjob.model.job import Job, JobStatus, Move, Status
from backjob.storage.cache.cached_store import FINAL_FOR, LIVE_FOR, PAUSE, CachedStore, Entry
from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import find_table

SHARED = ("redis", "memcached")
KEY = "a key that is long enough for the tests"
MOMENT = 0.000001


class Process(CachedStore):
    """One process of several, which may be held up: ``before_look`` is called once when it is about to read the
    database, ``after_look`` when it just did so, ``before_keep`` when it is about to put that into the cache."""

    ahead = 0.0
    before_look: Callable[[], object] | None = None
    after_look: Callable[[], object] | None = None
    before_keep: Callable[[], object] | None = None

    def look_at(self, job_id: int) -> Job | None:
        if self.before_look is not None:
            before_look, self.before_look = self.before_look, None
            before_look()
        job = super().look_at(job_id)
        if self.after_look is not None:
            after_look, self.after_look = self.after_look, None
            after_look()
        return job

    def _keep(self, entry: Entry) -> Entry:
        if self.before_keep is not None:
            before_keep, self.before_keep = self.before_keep, None
            before_keep()
        return super()._keep(entry)

    def progress(self, job_id: int) -> int:
        """How far people see it."""
        status = self.status(job_id)
        assert status is not None
        return status.progress

    def is_status_kept(self, job_id: int) -> bool:
        """Does status() do without the database?"""

        def fail() -> None:
            raise LookupError

        self.after_look = fail
        try:
            self.status(job_id)
            return True
        except LookupError:
            return False
        finally:
            self.after_look = None


class Deployment:
    """Processes on one database and one cache."""

    def __init__(self, folder: Path, region: CacheRegion, clock: Clock, stack: contextlib.ExitStack) -> None:
        self.file = folder / "jobs.sqlite3"
        self.region = region
        self.clock = clock
        self._stack = stack
        self._began = clock.now
        self._processes = 0

    def process(
        self,
        *,
        key: str | list[str] = KEY,
        table: str = TABLE,
        prefix: str = "backjob-",
        file: Path | None = None,
        seconds: float = 30,
        is_real: bool = False,
    ) -> Process:
        """Another one. ``is_real``: time goes by."""
        database = Database(f"sqlite:///{file or self.file}", find_table(table), True)
        self._stack.callback(database.dispose)
        cells = self._stack.enter_context(opened(self.region, seconds))
        self._processes += 1
        base = 10_000.0 * self._processes

        def monotonic() -> float:
            return base + (self.clock.now - self._began).total_seconds() - process.ahead

        keyring = Keyring([key] if isinstance(key, str) else key)
        if is_real:
            return Process(database, cells, keyring, prefix)
        process = Process(database, cells, keyring, prefix, self.clock, monotonic)
        return process

    def processes(self, count: int) -> list[Process]:
        """Several, each of which has read the database before."""
        made = [self.process() for _ in range(count)]
        other = add(made[0])
        for process in made:
            process.status(other)
        return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=SHARED)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.contextmanager
def deploy(folder: Path, region: CacheRegion, clock: Clock) -> Iterator[Deployment]:
    with contextlib.ExitStack() as stack:
        yield Deployment(folder, region, clock, stack)


@pytest.fixture
def deployment(tmp_path: Path, kind: str, clock: Clock) -> Iterator[Deployment]:
    with empty_region(kind) as region, deploy(tmp_path, region, clock) as deployment:
        yield deployment


@pytest.fixture
def in_memory(tmp_path: Path, clock: Clock) -> Iterator[Deployment]:
    with empty_region("memory") as region, deploy(tmp_path, region, clock) as deployment:
        yield deployment


def touch(store: CachedStore, job_id: int, progress: int) -> None:
    assert store.touch(job_id, 2, progress, f"at {progress}", 30)


def begin(store: CachedStore, clock: Clock) -> int:
    """A job that runs, at 40, of which the cache has nothing young."""
    job_id = bring_to(store, Status.INPROGRESS)
    clock.advance(LIVE_FOR)
    return job_id


# --- How old ---------------------------------------------------------------------------------------------------------


def test_a_live_status_is_a_second_old_at_most(deployment: Deployment, clock: Clock) -> None:
    worker, first, second = deployment.processes(3)
    job_id = begin(worker, clock)
    assert first.progress(job_id) == 40
    clock.advance(LIVE_FOR / 2)
    touch(worker, job_id, 50)
    clock.advance(LIVE_FOR / 2 - MOMENT)
    assert [each.progress(job_id) for each in (first, second)] == [40, 40]
    clock.advance(MOMENT)
    assert [each.progress(job_id) for each in (second, first)] == [50, 50]


def test_a_kept_status_does_without_the_database(deployment: Deployment, clock: Clock) -> None:
    first, second = deployment.processes(2)
    job_id = begin(first, clock)
    assert not first.is_status_kept(job_id)
    told = first.status(job_id)
    assert second.is_status_kept(job_id)
    assert second.status(job_id) == told == first.get(job_id).as_status()  # type: ignore[union-attr]


def test_a_slow_look_at_the_database_counts_as_age(deployment: Deployment, clock: Clock) -> None:
    """When in it the row was read nobody knows: it may have been at its begin."""
    first, second = deployment.processes(2)
    job_id = begin(first, clock)
    first.before_look = lambda: clock.advance(LIVE_FOR - 0.25)
    first.status(job_id)
    second.status(add(second))
    clock.advance(0.25 - 0.001)
    assert second.is_status_kept(job_id)
    clock.advance(0.002)
    assert not second.is_status_kept(job_id)


def test_a_slow_look_at_the_clock_counts_as_well(deployment: Deployment, clock: Clock) -> None:
    """The database told its time at the begin of the look, may be: since then it has gone on."""
    first, second = deployment.processes(2)
    job_id = begin(first, clock)
    first.status(job_id)
    second.after_look = lambda: clock.advance(0.6)
    second.status(add(second))
    clock.advance(0.5)
    assert not second.is_status_kept(job_id)


def test_a_look_at_the_clock_counts_for_a_minute(deployment: Deployment, clock: Clock) -> None:
    """Clocks drift."""
    (process,) = deployment.processes(1)
    job_id = bring_to(process, Status.COMPLETED)
    clock.advance(60)
    assert process.is_status_kept(job_id)
    clock.advance(MOMENT)
    assert not process.is_status_kept(job_id)


def test_a_process_that_does_not_know_the_time_looks_for_itself(deployment: Deployment, clock: Clock) -> None:
    (first,) = deployment.processes(1)
    job_id = bring_to(first, Status.INPROGRESS)
    first.status(job_id)
    second = deployment.process()
    assert not second.is_status_kept(job_id)
    second.status(job_id)
    assert second.is_status_kept(job_id)


@pytest.mark.parametrize("step", [-3600, -2, 2, 3600])
def test_a_database_whose_clock_is_set(deployment: Deployment, clock: Clock, step: float) -> None:
    """Nothing gets older than a second by that, and statuses are kept again at once."""
    first, second = deployment.processes(2)
    job_id = begin(first, clock)
    assert [each.progress(job_id) for each in (first, second)] == [40, 40]
    clock.advance(step)
    for process in (first, second):  # no time has gone by
        process.ahead += step
    touch(first, job_id, 60)
    clock.advance(LIVE_FOR)
    assert [each.progress(job_id) for each in (first, second, first)] == [60, 60, 60]
    assert [each.is_status_kept(job_id) for each in (first, second)] == [True, True]


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
def test_a_final_status_is_kept_in_any_backend(in_memory: Deployment, clock: Clock, status: Status) -> None:
    (process,) = in_memory.processes(1)
    job_id = bring_to(process, status)
    told = process.status(job_id)
    clock.advance(FINAL_FOR - MOMENT)
    process.status(add(process))  # it reads the database now and then
    assert process.is_status_kept(job_id)
    assert process.status(job_id) == told


def test_a_deleted_record_is_missed_after_a_while(deployment: Deployment, clock: Clock) -> None:
    (process,) = deployment.processes(1)
    job_id = bring_to(process, Status.COMPLETED)
    with contextlib.closing(sqlite3.connect(deployment.file)) as connection, connection:
        connection.execute(f"DELETE FROM {TABLE} WHERE id = {job_id}")
    assert process.status(job_id) is not None
    clock.advance(FINAL_FOR)
    process.status(add(process))
    assert process.status(job_id) is None


@pytest.mark.parametrize("status", [Status.STARTED, Status.INPROGRESS])
def test_a_live_status_is_not_taken_from_memory(in_memory: Deployment, status: Status) -> None:
    (process,) = in_memory.processes(1)
    job_id = bring_to(process, status)
    process.status(job_id)
    assert not process.is_status_kept(job_id)
    assert len(in_memory.region.actual_backend._cache) == 0


def test_memory_does_not_fill_up(in_memory: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backjob.storage.cache.cached_store._MOST_LOCAL", 3)
    (process,) = in_memory.processes(1)
    job_ids = [bring_to(process, Status.COMPLETED) for _ in range(5)]
    assert len(in_memory.region.actual_backend._cache) == 3
    assert [process.is_status_kept(job_id) for job_id in job_ids] == [False, False, True, True, True]


MOVES = {
    "claim": (Status.STARTED, lambda store, job_id: store.claim(job_id, 2, "run", 30, 0), Status.INPROGRESS),
    "cancel": (Status.STARTED, lambda store, job_id: store.move(Move.CANCEL, job_id), Status.CANCELLED),
    "fail": (Status.INPROGRESS, lambda store, job_id: store.move(Move.FAIL, job_id), Status.FAILED),
    "complete": (Status.INPROGRESS, lambda store, job_id: store.move(Move.COMPLETE, job_id), Status.COMPLETED),
    "retry": (Status.INPROGRESS, lambda store, job_id: store.move(Move.RETRY, job_id, progress=0), Status.STARTED),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_move_is_seen_by_all_at_once(deployment: Deployment, name: str) -> None:
    before, move, after = MOVES[name]
    mover, reader = deployment.processes(2)
    job_id = bring_to(mover, before)
    assert [each.status(job_id).status for each in (mover, reader)] == [before, before]  # type: ignore[union-attr]
    assert move(mover, job_id)
    assert [each.status(job_id).status for each in (reader, mover)] == [after, after]  # type: ignore[union-attr]


def test_a_job_that_is_not_there(deployment: Deployment) -> None:
    (process,) = deployment.processes(1)
    job_id = add(process) + 1
    assert process.status(job_id) is None
    assert add(process) == job_id
    assert process.status(job_id) is not None


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_a_live_status_in_front_of_a_server(server: str, kind: str) -> None:
    """By its clock, and as time goes by: what a job says is seen within the second, and mostly without the server."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(new_database(server)).render_as_string(hide_password=False)
        region = stack.enter_context(empty_region(kind))
        stores = []
        for _ in range(2):
            database = Database(url, find_table(TABLE), True)
            stack.callback(database.dispose)
            stores.append(Process(database, stack.enter_context(opened(region, 5)), Keyring([KEY]), "backjob-"))
        worker, reader = stores
        job_id = bring_to(worker, Status.INPROGRESS)
        wait_until(lambda: reader.progress(job_id) == 40)
        for progress in (50, 60, 70):
            wait_until(lambda: reader.is_status_kept(job_id) or not reader.progress(job_id))
            began = time.monotonic()
            touch(worker, job_id, progress)
            told, asked, kept = time.monotonic(), 0.0, False
            while reader.progress(job_id) != progress:
                assert asked < told + 1
                kept = reader.is_status_kept(job_id) or kept
                asked = time.monotonic()
            assert kept or told > began + LIVE_FOR / 2  # so late that what was kept had its time
        assert worker.move(Move.COMPLETE, job_id)
        assert reader.status(job_id).status is Status.COMPLETED  # type: ignore[union-attr]
        assert reader.is_status_kept(job_id)


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_engines_whose_url_does_not_tell_the_database(server: str, kind: str, clock: Clock) -> None:
    """Their driver is told by another way where to connect: two databases have jobs of the same number all the same."""
    with contextlib.ExitStack() as stack:
        region = stack.enter_context(empty_region(kind))

        def open_store() -> CachedStore:
            url = stack.enter_context(new_database(server))
            engine = create_engine(f"{url.drivername}://", poolclass=NullPool)
            arguments, named = engine.dialect.create_connect_args(url)
            event.listen(engine, "do_connect", lambda *_: engine.dialect.connect(*arguments, **named))
            stack.callback(engine.dispose)
            database = Database(engine, find_table(TABLE), True)
            return CachedStore(database, stack.enter_context(opened(region)), Keyring([KEY]), "backjob-", clock)

        ours, theirs = open_store(), open_store()
        job_id = bring_to(ours, Status.COMPLETED)
        assert add(theirs) == job_id
        for _ in range(2):
            assert ours.status(job_id).status is Status.COMPLETED  # type: ignore[union-attr]
            assert theirs.status(job_id).status is Status.STARTED  # type: ignore[union-attr]


# --- Races -----------------------------------------------------------------------------------------------------------


def test_a_slower_process_does_not_put_progress_back(deployment: Deployment, clock: Clock) -> None:
    """It has read the older row, and comes to the cache when another one has shown the newer one."""
    worker, quick, slow, reader = deployment.processes(4)
    job_id = begin(worker, clock)

    def overtake() -> None:
        touch(worker, job_id, 50)
        assert quick.progress(job_id) == 50

    slow.after_look = overtake
    assert slow.progress(job_id) == 50
    assert reader.is_status_kept(job_id)
    assert reader.progress(job_id) == 50


def test_a_slower_process_does_not_put_progress_back_by_a_later_clock(deployment: Deployment, clock: Clock) -> None:
    """The same when its look counts as the younger one: the row tells what is newer, not when somebody looked."""
    worker, quick, slow, reader = deployment.processes(4)
    job_id = begin(worker, clock)

    def overtake() -> None:
        touch(worker, job_id, 50)
        quick.before_look = lambda: clock.advance(0.1)
        quick.after_look = lambda: clock.advance(0.1)
        assert quick.progress(job_id) == 50

    slow.before_keep = overtake
    assert slow.progress(job_id) == 50
    assert reader.progress(job_id) == 50


def test_a_job_is_shown_as_being_cancelled_at_once_and_from_then_on(deployment: Deployment, clock: Clock) -> None:
    """Also when a slower process has read the row before, and takes its own look for the younger one."""
    worker, slow, reader = deployment.processes(3)
    job_id = begin(worker, clock)
    touch(worker, job_id, 50)

    def cancel() -> None:
        assert worker.request_cancel(job_id)
        clock.advance(0.1)

    slow.after_look = cancel
    for each in (slow, reader):
        status = each.status(job_id)
        assert status is not None
        assert (status.status, status.progress, status.is_cancelling) == (Status.INPROGRESS, 50, True)
        assert each.is_status_kept(job_id)


@pytest.mark.parametrize("move", [Move.COMPLETE, Move.FAIL, Move.CANCEL, Move.RETRY])
def test_a_slower_process_does_not_bring_a_job_back(deployment: Deployment, clock: Clock, move: Move) -> None:
    worker, slow, reader = deployment.processes(3)
    job_id = begin(worker, clock)
    slow.after_look = lambda: worker.move(move, job_id, progress=0)
    for each in (slow, reader):
        status = each.status(job_id)
        assert status is not None
        assert (status.status, status.attempt) == (move.target, 3 if move is Move.RETRY else 2)


def test_a_database_that_went_back_is_believed_after_a_second(deployment: Deployment, clock: Clock) -> None:
    """As one that was restored from a backup."""
    (process,) = deployment.processes(1)
    job_id = begin(process, clock)
    touch(process, job_id, 90)
    assert process.progress(job_id) == 90
    with contextlib.closing(sqlite3.connect(deployment.file)) as connection, connection:
        connection.execute(f"UPDATE {TABLE} SET progress = 10 WHERE id = {job_id}")
    clock.advance(LIVE_FOR)
    assert process.progress(job_id) == 10
    assert process.is_status_kept(job_id)


# --- What is in the cache --------------------------------------------------------------------------------------------


def test_what_is_kept_is_what_people_see(deployment: Deployment) -> None:
    (process,) = deployment.processes(1)
    job_id = bring_to(process, Status.STARTED, unique_key="the unique key", scope="office")
    status = process.status(job_id)
    assert status is not None
    value = (process._entries.read(process._key(job_id)) or b"").partition(b" ")[2]
    fields = json.loads(value)
    del fields["at"]
    assert fields == status.as_dict()
    record = process.get(job_id)
    assert record is not None
    for secret in (record.sealed, record.uid, record.held_by, record.key_id, "the unique key"):
        assert secret
        assert (secret if isinstance(secret, bytes) else secret.encode()) not in value


def forge(process: Process, job_id: int) -> dict[str, bytes]:
    """What somebody without the key can put in the place of an entry."""
    other = bring_to(process, Status.COMPLETED)
    process.status(other)
    entry = process._entries.read(process._key(job_id))
    other_entry = process._entries.read(process._key(other))
    assert entry
    assert other_entry
    mac, _, text = entry.partition(b" ")
    return {
        "nothing": b"",
        "noise": b"\xff\xfe\x00 \xff",
        "no JSON": b"a b",
        "unsigned": text,
        "changed": mac + b" " + text.replace(b'"progress": 40', b'"progress": 99'),
        "another job's": other_entry,
        "a pickle": pickle.dumps(Bomb(process)),
    }


class Bomb:
    """What makes a folder when it is unpickled."""

    def __init__(self, process: Process) -> None:
        self.folder = f"{process._database.file}.exploded"

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


def test_what_the_key_did_not_sign_is_not_there(deployment: Deployment, clock: Clock) -> None:
    (process,) = deployment.processes(1)
    job_id = begin(process, clock)
    status = process.status(job_id)
    for name, value in forge(process, job_id).items():
        process._entries.change(process._key(job_id), lambda _, value=value: value)
        assert not process.is_status_kept(job_id), name
        assert process.status(job_id) == status, name
        assert process.is_status_kept(job_id), f"{name} was not replaced"
    assert not Path(Bomb(process).folder).exists()


OTHERS = [{"prefix": "other-"}, {"table": "other_job"}, {"file": "other.sqlite3"}]


@pytest.mark.parametrize("other", OTHERS, ids=str)
def test_two_applications_in_one_cache_do_not_meet(
    deployment: Deployment, other: dict[str, Any], tmp_path: Path
) -> None:
    if "file" in other:
        other = {"file": tmp_path / other["file"]}
    ours, theirs = deployment.process(), deployment.process(**other)
    ours_id, theirs_id = bring_to(ours, Status.COMPLETED, scope="ours"), bring_to(ours, Status.COMPLETED)
    for store in (ours, theirs):
        store.status(ours_id)
    if "prefix" not in other:  # that one shares the table
        assert theirs.status(ours_id) is None
        assert bring_to(theirs, Status.FAILED) == ours_id
        assert ours.status(ours_id).status is Status.COMPLETED  # type: ignore[union-attr]
        assert theirs.status(ours_id).status is Status.FAILED  # type: ignore[union-attr]
    assert ours._key(theirs_id) != theirs._key(theirs_id)


def test_applications_with_different_keys_share_no_status(deployment: Deployment) -> None:
    """Their entries have the same names, because the names depend on no key, and neither believes the other's."""
    ours, theirs = deployment.process(), deployment.process(key=KEY.upper())
    job_id = bring_to(ours, Status.COMPLETED)
    for store, other in ((ours, theirs), (theirs, ours)):
        assert store.status(job_id) == ours.get(job_id).as_status()  # type: ignore[union-attr]
        assert store.is_status_kept(job_id)
        assert not other.is_status_kept(job_id)


def test_a_change_of_keys_shows_no_older_status(deployment: Deployment, clock: Clock) -> None:
    """A poll that moves on to a process with the other order of keys sees what the first one saw, or more."""
    first, second = deployment.process(key=[KEY, KEY.upper()]), deployment.process(key=[KEY.upper(), KEY])
    job_id = begin(first, clock)
    second.status(job_id)
    assert first.touch(job_id, 2, 60, "further", 30, 9)
    first._look(job_id)
    assert first.status(job_id).progress == 60  # type: ignore[union-attr]
    assert second.status(job_id).progress == 60  # type: ignore[union-attr]


def test_any_region_will_do(tmp_path: Path, clock: Clock) -> None:
    """One that mangles keys and has a serializer and an expiration of its own; the longest prefix; the longest text."""
    for kind in SHARED:
        server = shared_server(kind)
        server.empty()
        arguments = {"url": server.url} if kind == "redis" else {"url": [server.url]}
        region = make_region(
            key_mangler=sha1_mangle_key, serializer=lambda value: json.dumps(value).encode(), deserializer=json.loads
        ).configure(f"dogpile.cache.{'redis' if kind == 'redis' else 'pymemcache'}", 0.001, arguments)
        with deploy(tmp_path, region, clock) as deployment:
            process = deployment.process(prefix="p" * 64)
            job_id = bring_to(process, Status.INPROGRESS)
            assert process.touch(job_id, 2, 50, "é\0🐔\n" * 1000, 30)
            status = process.status(job_id)
            assert process.is_status_kept(job_id)
            assert process.status(job_id) == status
        close_region(region)


def test_a_status_too_long_for_the_cache(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """memcached takes 1 MB: such a status comes from the database each time, and the others as ever."""
    with empty_region("memcached") as region, deploy(tmp_path, region, clock) as deployment:
        (process,) = deployment.processes(1)
        job_id = bring_to(process, Status.INPROGRESS)
        assert process.touch(job_id, 2, 50, "é" * 524_288, 30)
        clock.advance(LIVE_FOR)
        with caplog.at_level(logging.INFO, "backjob"):
            assert process.progress(job_id) == 50
        assert ["too large" in record.getMessage() for record in caplog.records] == [True]


# --- A cache that is away --------------------------------------------------------------------------------------------


def statuses(process: Process, job_ids: list[int]) -> list[JobStatus | None]:
    return [process.status(job_id) for job_id in job_ids]


def test_a_cache_that_dies_and_comes_back(
    tmp_path: Path, kind: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with own_server(kind) as server, region_of(server) as region, deploy(tmp_path, region, clock) as deployment:
        (process,) = deployment.processes(1)
        job_ids = [bring_to(process, status) for status in Status]
        clock.advance(LIVE_FOR)
        before = statuses(process, job_ids)
        assert all(process.is_status_kept(job_id) for job_id in job_ids)
        server.kill()
        with caplog.at_level(logging.INFO, "backjob"):
            for _ in range(4):
                assert statuses(process, job_ids) == before
                clock.advance(PAUSE)
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            assert process.move(Move.CANCEL, job_ids[0])
            assert process.status(job_ids[0]).status is Status.CANCELLED  # type: ignore[union-attr]
            server.start()
            clock.advance(PAUSE)
            process.status(job_ids[0])
            assert process.is_status_kept(job_ids[0])
            assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_cache_that_does_not_answer_is_left_alone(
    tmp_path: Path, kind: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with own_server(kind) as server, region_of(server) as region, deploy(tmp_path, region, clock) as deployment:
        process = deployment.process(seconds=2.0, is_real=True)
        job_id = bring_to(process, Status.COMPLETED)
        status = process.status(job_id)
        with server.frozen():
            began = time.monotonic()
            assert process.status(job_id) == status
            assert time.monotonic() - began >= 2.0
            began = time.monotonic()
            for _ in range(20):
                assert process.status(job_id) == status
            assert time.monotonic() - began < 2.0  # not one of them waited
        assert [record.getMessage() for record in caplog.records] == [
            "Statuses come from the database alone for now: The cache does not answer within 2 s"
        ]


def test_a_move_is_made_whatever_becomes_of_its_showing(deployment: Deployment) -> None:
    """The database goes away between the move and the look that follows it."""
    (process,) = deployment.processes(1)
    job_id = bring_to(process, Status.INPROGRESS)

    def fail() -> None:
        raise StoreError

    process.after_look = fail
    assert process.move(Move.COMPLETE, job_id)
    assert process.get(job_id).status is Status.COMPLETED  # type: ignore[union-attr]


# --- Through the middleware ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHARED)
def test_nothing_is_decided_by_what_the_cache_says(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It still says STARTED while the job runs: cancel() asks the job to end, and does not pull it away."""
    # Both are short, and a busy machine may take longer for the next two lines.
    monkeypatch.setattr("backjob.storage.cache.cached_store.LIVE_FOR", PATIENT)
    monkeypatch.setattr("backjob.application.CACHE_TIMEOUT", PATIENT)
    with empty_region(kind) as region, wrap(tmp_path, cache=region) as site:
        job_id = site.start("/job")
        assert site.status(job_id).status is Status.STARTED
        site.sql("UPDATE background_job SET status = 1, started_at = created_at WHERE id = ?", job_id)
        assert site.status(job_id).status is Status.STARTED
        assert site.application.jobs.cancel(job_id)
        row = site.row(job_id)
        assert (row.status, row.cancel_requested) == (Status.INPROGRESS, True)


@pytest.mark.parametrize("kind", ["memory", *SHARED])
@pytest.mark.parametrize("database", [None, "sqlite"])
def test_a_job_runs_and_is_told_of(kind: str, database: str | None, tmp_path: Path) -> None:
    options = {"database": None} if database is None else {}
    with empty_region(kind) as region, serve_site(tmp_path, cache=region, **options) as site:
        job_id = site.start("/job", scope="office")
        end = site.wait_for_end(job_id)
        assert (end.status, end.status_text, end.scope) == (Status.COMPLETED, "done", "office")
        with pytest.raises(JobNotFound):
            site.application.jobs.status(job_id, scope="another")
        with pytest.raises(JobNotFound):
            site.status(job_id + 1)
        assert [job.id for job in site.application.jobs.find(scope="office")] == [job_id]


def test_a_fork_has_connections_of_its_own(kind: str, tmp_path: Path) -> None:
    """A child that went on with its parent's would read its answers."""
    with empty_region(kind) as region, wrap(tmp_path, database=None, cache=region) as site:
        job_ids = [site.start("/job", scope=f"{number}") for number in range(20)]

        def read_all() -> None:
            for _ in range(20):
                for number, job_id in enumerate(job_ids):
                    assert site.status(job_id).scope == f"{number}"

        context = multiprocessing.get_context("fork")
        children = [context.Process(target=read_all) for _ in range(3)]
        for child in children:
            child.start()
        read_all()
        for child in children:
            child.join(30)
        assert [child.exitcode for child in children] == [0, 0, 0]
