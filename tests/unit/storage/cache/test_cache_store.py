"""The store in a cache alone, in what the suite of all stores does not know: numbers, cut-off writes, lost records.

A process that dies between the writes of a record and of the list is one that makes only the first.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dogpile.cache import CacheRegion
from support.caches import empty_region, opened, own_server, region_of, shared_server
from support.records import KEY_IDS, Clock, add, bring_to, count_jobs, new_job, seal

from backjob.errors import StoreError
from backjob.keyring import Keyring
from backjob.model.evaluation import apply_write
from backjob.model.job import Job, Move, Status
from backjob.model.writes import Transition
from backjob.storage.cache.entries import CacheEntries
from backjob.storage.cache.index import to_microseconds
from backjob.storage.cache.job_list import RESERVED_FOR, UNTOUCHED_FOR
from backjob.storage.cache.store import CacheStore

DAY = 86400.0
KINDS = ("memory", "redis", "memcached")
PREFIX = "test-"
DEEP = zlib.compress(b"[" * 200_000 + b"]" * 200_000)
"""A value whose JSON is nested more deeply than Python reads."""


def name_value(value: bytes | None) -> str:
    return "deep" if value is DEEP else repr(value)


class Deployment:
    """Stores on one cache."""

    def __init__(self, region: CacheRegion, clock: Clock, stack: ExitStack) -> None:
        self.region = region
        self.clock = clock
        self._stack = stack

    def cells(self, seconds: float = 30) -> CacheEntries:
        return self._stack.enter_context(opened(self.region, seconds))

    def store(self, seconds: float = 30, prefix: str = PREFIX) -> CacheStore:
        """The store of another process."""
        cells = self.cells(seconds)
        return CacheStore(cells, prefix, keep_completed=30 * DAY, keep_ended=60 * DAY, now=self.clock)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KINDS)
def deployment(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Deployment]:
    with empty_region(request.param) as region, ExitStack() as stack:
        yield Deployment(region, clock, stack)


@pytest.fixture
def store(deployment: Deployment) -> CacheStore:
    return deployment.store()


def all_ids(store: CacheStore) -> list[int]:
    return [job.id for job in store.find(None, None, 1000, None)]


# --- Numbers ---------------------------------------------------------------------------------------------------------


def test_a_number_says_when_and_is_one_for_javascript(store: CacheStore, clock: Clock) -> None:
    job_id = add(store)
    assert job_id == clock.now.timestamp() * 1e6
    assert job_id < 2**53


def test_processes_give_different_numbers_at_the_same_time(deployment: Deployment) -> None:
    stores = [deployment.store() for _ in range(3)]
    job_ids = [add(store) for _ in range(4) for store in stores]
    assert len(set(job_ids)) == len(job_ids)
    assert all_ids(stores[0]) == sorted(job_ids, reverse=True)


def test_a_number_is_not_given_again_when_the_cache_has_lost_it(deployment: Deployment, clock: Clock) -> None:
    store = deployment.store()
    job_ids = [add(store) for _ in range(3)]
    cells = deployment.cells()
    for job_id in job_ids:
        cells.delete(f"{PREFIX}job-{job_id}")
    cells.delete(f"{PREFIX}index")
    assert add(store) > max(job_ids)
    clock.advance(0.001)
    assert add(deployment.store()) > max(job_ids)


# --- Writes that are cut off -----------------------------------------------------------------------------------------


def end_only(store: CacheStore, job_id: int, clock: Clock, move: Move = Move.FAIL) -> None:
    """What a process does that dies before it writes the list."""
    assert store._jobs.change(job_id, lambda job: apply_write(Transition(move), job, clock.now))


def test_a_record_that_was_never_listed_is_not_there(store: CacheStore, clock: Clock) -> None:
    job = store._create(new_job(unique_key="u"), seal)
    assert all_ids(store) == []
    assert store.take_due(KEY_IDS, "holder", 30) is None
    other = add(store, unique_key="u")
    assert all_ids(store) == [other]
    assert other != job.id


def test_a_job_that_has_ended_and_is_still_listed(store: CacheStore, clock: Clock) -> None:
    job_id = bring_to(store, Status.INPROGRESS, unique_key="u")
    end_only(store, job_id, clock)
    assert [job.status for job in store.find(None, None, 10, None)] == [Status.FAILED]
    assert store.find([Status.INPROGRESS], None, 10, None) == []
    assert [count_jobs(store, status) for status in Status] == [0, 0, 0, 1, 0]
    assert store.take_due(KEY_IDS, "holder", 30) is None
    assert store.seconds_to_next(KEY_IDS) is None
    assert store.add(new_job(unique_key="u"), seal, ["u"])[1]


def test_a_unique_key_whose_job_has_just_ended(store: CacheStore, clock: Clock) -> None:
    job_id = add(store, unique_key="u")
    end_only(store, job_id, clock)
    second, is_new = store.add(new_job(unique_key="u"), seal, ["u"])
    assert is_new
    assert store.add(new_job(unique_key="u"), seal, ["u"]) == (second, False)


def test_a_place_whose_job_has_just_ended(store: CacheStore, clock: Clock) -> None:
    first, second = add(store), add(store)
    assert store.claim(first, 1, "run", 30, 1)
    assert not store.claim(second, 1, "run", 30, 1)
    end_only(store, first, clock)
    assert store.claim(second, 1, "run", 30, 1)


def test_a_job_that_waits_again_and_is_still_listed_as_running(store: CacheStore, clock: Clock) -> None:
    job_id = add(store, retries=1)
    assert store.claim(job_id, 1, "run", 30, 1)
    end_only(store, job_id, clock, Move.RETRY)
    job = store.take_due(KEY_IDS, "holder", 30)
    assert job is not None
    assert (job.id, job.attempt) == (job_id, 2)
    assert store.claim(job_id, 2, "run", 30, 1)
    assert count_jobs(store, Status.INPROGRESS) == 1


def test_a_place_that_was_reserved_and_never_used(store: CacheStore, clock: Clock) -> None:
    first, second = add(store), add(store)
    assert store._jobs.reserve(first, 1, 1, 0)
    assert not store.claim(second, 1, "run", 30, 1)
    clock.advance(RESERVED_FOR - 1)
    assert not store.claim(second, 1, "run", 30, 1)
    assert [job.id for job in [store.take_due(KEY_IDS, "holder", 1)] if job] == [second]
    clock.advance(2)
    job = store.take_due(KEY_IDS, "holder", 30)
    assert job is not None
    assert store.claim(second, 1, "run", 30, 1)
    assert not store.claim(first, 1, "run", 30, 1)


def test_a_retry_gives_its_place_back_at_once(deployment: Deployment, store: CacheStore) -> None:
    job_id = add(store, retries=1)
    assert store.claim(job_id, 1, "run", 30, 1)
    assert list(store._jobs.read().running) == [(job_id, 1)]
    assert store.move(Move.RETRY, job_id, attempt=1)
    assert store._jobs.read().running == {}
    if hasattr(deployment.region.actual_backend, "writer_client"):
        assert deployment.region.actual_backend.writer_client.ttl(f"{PREFIX}job-{job_id}") == -1


def test_the_next_job_among_many(store: CacheStore) -> None:
    """More are due and held than one look reads, and the next one that may run comes behind them."""
    for _ in range(40):
        add(store, held_by="nonce", hold=50)
    add(store, delay=10)
    add(store, delay=20)
    assert store.seconds_to_next(KEY_IDS) == 10


def test_a_claim_that_comes_too_late_gives_its_place_back(store: CacheStore) -> None:
    late, other = add(store), add(store)
    get = store.get

    def get_and_cancel(job_id: int) -> Job | None:
        store.get = get  # type: ignore[method-assign]
        job = get(job_id)
        assert store.move(Move.CANCEL, job_id)
        return job

    store.get = get_and_cancel  # type: ignore[method-assign]
    assert not store.claim(late, 1, "run", 30, 1)
    assert store.claim(other, 1, "run", 30, 1)


def test_a_claim_that_another_one_was_quicker_with_keeps_the_place(store: CacheStore) -> None:
    job_id, other = add(store), add(store)
    get = store.get

    def get_and_claim(job_id: int) -> Job | None:
        store.get = get  # type: ignore[method-assign]
        job = get(job_id)
        assert store.claim(job_id, 1, "quick", 30, 1)
        return job

    store.get = get_and_claim  # type: ignore[method-assign]
    assert not store.claim(job_id, 1, "slow", 30, 1)
    assert store.get(job_id).lease_by == "quick"  # type: ignore[union-attr]
    assert not store.claim(other, 1, "run", 30, 1)


def test_an_equal_job_that_was_quicker(deployment: Deployment) -> None:
    """Another process records it between the look and the write: there is one job, and one record."""
    first, second = deployment.store(), deployment.store()
    quick: list[int] = []

    def be_overtaken(job_id: int) -> bytes:
        if not quick:
            quick.append(add(second, unique_key="u"))
        return seal(job_id)

    assert first.add(new_job(unique_key="u"), be_overtaken, ["u"]) == (quick[0], False)
    assert all_ids(first) == quick
    assert [first.get(quick[0] + step) for step in (-1, 1, 2)] == [None] * 3


class Late:
    """The next write of a key that ends like this is given up by its caller while it is on its way to the server."""

    def __init__(self, cells: CacheEntries, end: str) -> None:
        self._entries = cells
        self._end = end
        self._set = cells._set  # type: ignore[attr-defined]
        self._arguments: tuple[Any, ...] = ()
        cells._set = self._hold  # type: ignore[attr-defined]

    def _hold(self, key: str, *arguments: Any) -> bool:
        if not key.endswith(self._end):
            return bool(self._set(key, *arguments))
        self._entries._set = self._set  # type: ignore[attr-defined]
        self._arguments = (key, *arguments)
        raise TimeoutError

    def arrive(self) -> bool:
        """It does arrive: is it made?"""
        return self._entries._ask(lambda: bool(self._set(*self._arguments)))


@pytest.fixture(params=["redis", "memcached"])
def shared(request: pytest.FixtureRequest, clock: Clock) -> Iterator[CacheStore]:
    with empty_region(request.param) as region, ExitStack() as stack:
        yield Deployment(region, clock, stack).store()


def test_a_job_of_which_start_said_that_there_is_none_never_runs(shared: CacheStore) -> None:
    add(shared)
    late = Late(shared._jobs._entries, "index")
    with pytest.raises(StoreError, match="not answer"):
        add(shared, uid="late", priority=-1)
    assert late.arrive()
    assert "late" in [listed.uid for listed in shared._jobs.read().live.values()]
    taken = shared.take_due(KEY_IDS, "holder", 30)
    assert taken is not None
    assert taken.uid != "late"
    assert shared.take_due(KEY_IDS, "holder", 30) is None
    assert "late" not in [listed.uid for listed in shared._jobs.read().live.values()]
    assert len(all_ids(shared)) == 1


@pytest.mark.parametrize("is_in_time", [False, True])
def test_a_claim_that_was_given_up_is_made_at_once_or_never(shared: CacheStore, is_in_time: bool) -> None:
    job_id = add(shared)
    late = Late(shared._jobs._entries, f"job-{job_id}")
    fence = shared._jobs.fence

    def arrive_and_fence(job_id: int) -> Job | None:
        assert late.arrive()
        return fence(job_id)

    if is_in_time:
        shared._jobs.fence = arrive_and_fence  # type: ignore[method-assign]
    assert shared.claim(job_id, 1, "run", 30, 1) == is_in_time
    if not is_in_time:
        assert not late.arrive()
        assert shared.get(job_id).status is Status.STARTED  # type: ignore[union-attr]
        assert shared.claim(job_id, 1, "run", 30, 1)
    assert not shared.claim(job_id, 1, "run", 30, 1)


@pytest.mark.parametrize("move", [Move.COMPLETE, Move.FAIL, Move.CANCEL, Move.RETRY])
def test_a_move_whose_answer_came_too_late_is_made(shared: CacheStore, clock: Clock, move: Move) -> None:
    """By whoever asks for it again, and by nobody else."""
    job_id = bring_to(shared, Status.INPROGRESS, unique_key="u")
    late = Late(shared._jobs._entries, f"job-{job_id}")
    with pytest.raises(StoreError, match="not answer"):
        shared.move(move, job_id, attempt=2, text="end")
    assert late.arrive()
    ended_at = clock.now
    clock.advance(1)
    assert shared.move(move, job_id, attempt=2, text="end")
    assert not shared.move(move, job_id, attempt=2, text="end")
    assert shared.get(job_id).updated_at == ended_at  # type: ignore[union-attr]
    assert shared.add(new_job(unique_key="u"), seal, ["u"])[1] == (move is not Move.RETRY)


def test_a_move_that_another_one_was_quicker_with_is_not_made(shared: CacheStore, clock: Clock) -> None:
    job_id = bring_to(shared, Status.INPROGRESS)
    late = Late(shared._jobs._entries, f"job-{job_id}")
    with pytest.raises(StoreError, match="not answer"):
        shared.move(Move.FAIL, job_id, attempt=2, text="end")
    clock.advance(1)
    assert shared.move(Move.FAIL, job_id, text="another's")
    assert not late.arrive()
    assert not shared.move(Move.FAIL, job_id, attempt=2, text="end")
    assert shared.get(job_id).status_text == "another's"  # type: ignore[union-attr]


def test_a_record_that_is_never_listed_goes_away(clock: Clock) -> None:
    with empty_region("redis") as region, ExitStack() as stack:
        store = Deployment(region, clock, stack).store()
        ttl = region.actual_backend.writer_client.ttl
        job = store._create(new_job(delay=40 * DAY), seal)
        assert 0 <= 40 * DAY + UNTOUCHED_FOR - ttl(f"{PREFIX}job-{job.id}") < 60
        job_id = add(store)
        assert 0 <= UNTOUCHED_FOR - ttl(f"{PREFIX}job-{job_id}") < 60
        assert store.hold(job_id, 1, None, "holder", 30)
        assert ttl(f"{PREFIX}job-{job_id}") == -1


class LosesAnswers:
    """CacheEntries of which the next change of the list is made, and its answer lost."""

    def __init__(self, cells: CacheEntries, made: bool) -> None:
        self._change = cells.change
        self._made = made
        cells.change = self.change  # type: ignore[method-assign]
        self._entries = cells

    def change(self, key: str, *arguments: object) -> None:
        if key.endswith("index"):
            del self._entries.change  # type: ignore[method-assign]
            if self._made:
                self._change(key, *arguments)  # type: ignore[arg-type]
            raise StoreError("The answer is lost")
        self._change(key, *arguments)  # type: ignore[arg-type]


def test_a_job_whose_answer_was_lost_is_recorded(store: CacheStore) -> None:
    LosesAnswers(store._jobs._entries, made=True)
    job_id = add(store)
    assert all_ids(store) == [job_id]


def test_a_job_that_could_not_be_listed_is_none(store: CacheStore, clock: Clock) -> None:
    LosesAnswers(store._jobs._entries, made=False)
    with pytest.raises(StoreError, match="lost"):
        add(store)
    assert all_ids(store) == []
    assert store.get(to_microseconds(clock.now)) is None


def test_a_move_that_could_not_be_listed_is_made(store: CacheStore, caplog: pytest.LogCaptureFixture) -> None:
    job_id = bring_to(store, Status.INPROGRESS, unique_key="u")
    LosesAnswers(store._jobs._entries, made=False)
    assert store.move(Move.COMPLETE, job_id, attempt=2)
    assert store.get(job_id).status is Status.COMPLETED  # type: ignore[union-attr]
    assert "not up to date" in caplog.text
    assert store.add(new_job(unique_key="u"), seal, ["u"])[1]


# --- What a cache loses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, b"", b"garbage", b"x\x9c", DEEP], ids=name_value)
def test_a_record_that_is_gone(deployment: Deployment, value: bytes | None) -> None:
    store, cells = deployment.store(), deployment.cells()
    lost, other = add(store, unique_key="u"), add(store)
    cells.delete(f"{PREFIX}job-{lost}")
    if value is not None:
        cells.change(f"{PREFIX}job-{lost}", lambda _: value)
    assert store.get(lost) is store.status(lost) is store.glance(lost) is None
    assert not store.claim(lost, 1, "run", 30, 0)
    assert not store.move(Move.FAIL, lost)
    job = store.take_due(KEY_IDS, "holder", 30)
    assert job is not None
    assert job.id == other
    assert all_ids(store) == [other]
    assert store.add(new_job(unique_key="u"), seal, ["u"])[1]


@pytest.mark.parametrize("value", [None, b"", b"garbage", DEEP], ids=name_value)
def test_a_list_that_is_gone(deployment: Deployment, value: bytes | None) -> None:
    """What runs goes on to its end, and new jobs are found."""
    store, cells = deployment.store(), deployment.cells()
    runs, waits = bring_to(store, Status.INPROGRESS), add(store)
    cells.delete(f"{PREFIX}index")
    if value is not None:
        cells.change(f"{PREFIX}index", lambda _: value)
    assert all_ids(store) == []
    assert store.touch(runs, 2, 50, "on", 30)
    assert store.claim(waits, 1, "run", 30, 5)
    assert store.move(Move.COMPLETE, runs, attempt=2)
    assert store.status(runs).status is Status.COMPLETED  # type: ignore[union-attr]
    other = add(store)
    assert all_ids(store) == [other]


def test_the_list_of_ended_jobs_is_bounded(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond it are still known by number where the cache itself sees to their end, and gone where not."""
    monkeypatch.setattr("backjob.storage.cache.index.MOST_ENDED", 3)
    store = deployment.store()
    job_ids = [bring_to(store, Status.COMPLETED) for _ in range(5)]
    waits = add(store)
    assert all_ids(store) == [waits, *job_ids[:1:-1]]
    can_expire = store._jobs._entries.can_expire
    assert [store.get(job_id) is not None for job_id in job_ids[:2]] == [can_expire] * 2


@pytest.mark.parametrize("status", Status)
def test_records_stay_for_the_days_of_the_options(clock: Clock, status: Status) -> None:
    with empty_region("redis") as region, ExitStack() as stack:
        job_id = bring_to(Deployment(region, clock, stack).store(), status)
        seconds = region.actual_backend.writer_client.ttl(f"{PREFIX}job-{job_id}")
    days = {Status.COMPLETED: 30, Status.FAILED: 60, Status.CANCELLED: 60}.get(status)
    assert (seconds == -1) if days is None else (0 <= days * DAY - seconds < 60)


@pytest.mark.parametrize(("completed", "ended", "days"), [(0, 0, -1), (0, 5, 5), (5, 0, 5), (9, 5, 5), (5, 9, 5)])
def test_a_completed_job_stays_for_the_shorter_time(clock: Clock, completed: int, ended: int, days: int) -> None:
    with empty_region("redis") as region, opened(region) as cells:
        store = CacheStore(cells, PREFIX, keep_completed=completed * DAY, keep_ended=ended * DAY, now=clock)
        job_id = bring_to(store, Status.COMPLETED)
        seconds = region.actual_backend.writer_client.ttl(f"{PREFIX}job-{job_id}")
    assert (seconds == -1) if days == -1 else (0 <= days * DAY - seconds < 60)


def test_two_applications_in_one_cache_do_not_meet(deployment: Deployment, clock: Clock) -> None:
    ours, theirs = deployment.store(), deployment.store(prefix="other-")
    job_id = add(ours, unique_key="u")
    assert add(theirs, unique_key="u") == job_id  # at the same moment
    assert ours.claim(job_id, 1, "run", 30, 1)
    assert theirs.get(job_id).status is Status.STARTED  # type: ignore[union-attr]


def test_hosts_whose_clocks_differ(deployment: Deployment, clock: Clock) -> None:
    """A move that has nothing to do with time is made all the same."""
    slow = deployment.store()
    slow._now = lambda: clock.now - timedelta(seconds=5)
    first, second = [bring_to(deployment.store(), Status.INPROGRESS) for _ in range(2)]
    assert slow.touch(first, 2, 50, "on", 30)
    assert slow.move(Move.COMPLETE, first, attempt=2)
    assert slow.move(Move.COMPLETE, second, attempt=2)


# --- What is in the cache --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_the_request_is_sealed_and_nothing_is_pickled(kind: str, clock: Clock) -> None:
    keyring = Keyring(["a key that is long enough for the tests"])
    with empty_region(kind) as region, opened(region) as cells:
        store = CacheStore(cells, PREFIX, now=clock)
        new = new_job()
        job_id, _ = store.add(new, lambda job_id: keyring.seal(job_id, new.uid, new.request))
        job = store.get(job_id)
        assert job is not None
        assert keyring.unseal(job_id, new.uid, job.sealed) == new.request
        if kind == "memcached":
            raw = region.actual_backend.client.get(f"{PREFIX}job-{job_id}")
            region.actual_backend.client.disconnect_all()
        else:
            raw = region.actual_backend.writer_client.get(f"{PREFIX}job-{job_id}")
    assert raw[8:9] == b"x"  # zlib, after the tag
    assert b"ada" not in raw
    assert shared_server(kind)


# --- A cache that is away --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_a_cache_that_is_away_is_a_store_error(kind: str, clock: Clock, tmp_path: Path) -> None:
    with own_server(kind) as server, region_of(server) as region, ExitStack() as stack:
        store = Deployment(region, clock, stack).store(5)
        job_id = bring_to(store, Status.INPROGRESS)
        server.kill()
        for call in (
            lambda: store.get(job_id),
            lambda: store.status(job_id),
            lambda: store.touch(job_id, 2, 50, "on", 30),
            lambda: store.move(Move.COMPLETE, job_id, attempt=2),
            lambda: store.take_due(KEY_IDS, "holder", 30),
            lambda: add(store),
        ):
            with pytest.raises(StoreError, match="cache"):
                call()
        server.start()
        assert store.get(job_id) is None
        assert add(store)
