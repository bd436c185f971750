"""What every Store promises: the one suite that each of them has to pass, on a clock that is given.

Each write is tried on a job in each status, by the right attempt and by others: what is allowed changes exactly what it
says, and everything else changes nothing, seen on the whole row before and after.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.caches import open_cache_store, open_cached_store
from support.records import (
    FINAL_MOVES,
    KEY_IDS,
    SERVERS,
    TABLE,
    Clock,
    add,
    bring_to,
    count_jobs,
    new_job,
    record,
    seal,
)
from support.services import new_database

from backjob.errors import StoreError
from backjob.model.job import RECORD_VERSION, Move, Status
from backjob.model.recovery import RecoveryRecord
from backjob.runtime.process_identity import PROCESS, RESPONSE
from backjob.storage.queries import APP_GRACE
from backjob.storage.sql.database import Database
from backjob.storage.sql.schema import find_process_table, find_table
from backjob.storage.sql.store import SQLStore
from backjob.storage.store import Store

STARTED, INPROGRESS, COMPLETED, FAILED, CANCELLED = Status
CACHED: dict[str, Callable[[Path, Clock], contextlib.AbstractContextManager[Store]]] = {
    **{f"{kind} alone": open_cache_store(kind) for kind in ("memory", "redis", "memcached")},
    "sqlite behind redis": open_cached_store("redis"),
}
"""How to open each store with a cache in a folder of its own."""
STORES = ("sqlite", *SERVERS, *CACHED)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module", params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    """Which store it is: the module's tests run for one after the other."""
    return str(request.param)


@pytest.fixture(scope="module")
def database(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database | None]:
    """One database for all tests; each of them finds its table empty."""
    if kind in CACHED:
        yield None
        return
    with contextlib.ExitStack() as stack:
        if kind == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'jobs.sqlite3'}"
        else:
            url = stack.enter_context(new_database(kind)).render_as_string(hide_password=False)
        database = Database(url, find_table(TABLE), True)
        stack.callback(database.dispose)
        with database.connect(), database.connect():  # from here on there are as many as the tests use at once
            pass
        yield database


@pytest.fixture
def store(kind: str, database: Database | None, tmp_path: Path, clock: Clock) -> Iterator[Store]:
    if database is None:
        with CACHED[kind](tmp_path, clock) as store:
            yield store
        return
    with database.connect() as connection:
        for table in database.table.metadata.sorted_tables:
            connection.execute(table.delete())
    yield SQLStore(database, clock)


def unchanged(store: Store, job_id: int) -> contextlib.AbstractContextManager[None]:
    """Within it, the job's whole row stays as it is."""

    @contextlib.contextmanager
    def compare() -> Iterator[None]:
        before = record(store, job_id)
        yield
        assert record(store, job_id) == before

    return compare()


# --- Every write, on a job in every status ---------------------------------------------------------------------------


class Write(NamedTuple):
    """A guarded write, the statuses that it is allowed in, and what it then changes, and nothing else."""

    sources: frozenset[Status]
    call: Callable[[Store, int, int], bool]
    changes: Callable[[Clock], dict[str, Any]]


NO_HOLD = {"held_by": None, "held_until": None, "launch_failed_at": None}
NO_LEASE = {"lease_by": None, "lease_until": None}


def _wipe(clock: Clock) -> dict[str, Any]:
    return {"ended_at": clock.now, "updated_at": clock.now, "sealed": None, **NO_HOLD, **NO_LEASE}


def _tell(clock: Clock) -> dict[str, Any]:
    return {"progress": 41, "signs": 2, "updated_at": clock.now, "lease_until": clock.after(20)}


# By the job's attempt: the third argument.
FENCED = {
    "claim": Write(
        frozenset({STARTED}),
        lambda store, job_id, attempt: store.claim(job_id, attempt, "this run", 20, 0),
        lambda clock: {
            "status": INPROGRESS,
            "status_text": "",
            "error": "",
            "location": "",
            "signs": 0,
            "started_at": clock.now,
            "updated_at": clock.now,
            "lease_by": "this run",
            "lease_until": clock.after(20),
            **NO_HOLD,
        },
    ),
    "complete": Write(
        frozenset({INPROGRESS}),
        lambda store, job_id, attempt: store.move(
            Move.COMPLETE, job_id, attempt=attempt, text="done", location="/ticket/17", progress=100
        ),
        lambda clock: {
            "status": COMPLETED,
            "status_text": "done",
            "location": "/ticket/17",
            "progress": 100,
            **_wipe(clock),
        },
    ),
    "fail": Write(
        frozenset({STARTED, INPROGRESS}),
        lambda store, job_id, attempt: store.move(
            Move.FAIL, job_id, attempt=attempt, text="so far\nbroken", error="broken", location="/login"
        ),
        lambda clock: {
            "status": FAILED,
            "status_text": "so far\nbroken",
            "error": "broken",
            "location": "/login",
            **_wipe(clock),
        },
    ),
    "cancel": Write(
        frozenset({STARTED, INPROGRESS}),
        lambda store, job_id, attempt: store.move(Move.CANCEL, job_id, attempt=attempt),
        lambda clock: {"status": CANCELLED, **_wipe(clock)},
    ),
    "retry": Write(
        frozenset({INPROGRESS}),
        lambda store, job_id, attempt: store.move(
            Move.RETRY, job_id, attempt=attempt, text="again", error="broken", progress=0, delay=7, past="[2]"
        ),
        lambda clock: {
            "status": STARTED,
            "attempt": 3,
            "status_text": "again",
            "error": "broken",
            "progress": 0,
            "due_at": clock.after(7),
            "started_at": None,
            "updated_at": clock.now,
            "past": "[2]",
            **NO_LEASE,
        },
    ),
    "touch": Write(
        frozenset({INPROGRESS}),
        lambda store, job_id, attempt: store.touch(job_id, attempt, 41, "further", 20, 2),
        lambda clock: {"status_text": "further", **_tell(clock)},
    ),
    "touch with more": Write(
        frozenset({INPROGRESS}),
        lambda store, job_id, attempt: store.touch(job_id, attempt, 41, ", and on", 20, 2, is_more=True),
        lambda clock: {"status_text": "so far, and on", **_tell(clock)},
    ),
    "touch without text": Write(
        frozenset({INPROGRESS}),
        lambda store, job_id, attempt: store.touch(job_id, attempt, 41, "", 20, 2, is_more=True),
        _tell,
    ),
    "pass hold": Write(
        frozenset({STARTED}),
        lambda store, job_id, attempt: store.hold(job_id, attempt, "holder", "next holder", 20),
        lambda clock: {"held_by": "next holder", "held_until": clock.after(20)},
    ),
    "give hold up": Write(
        frozenset({STARTED}),
        lambda store, job_id, attempt: store.hold(job_id, attempt, "holder", None, 20),
        lambda clock: {"held_by": None, "held_until": None},
    ),
    "note launch failure": Write(
        frozenset({STARTED}),
        lambda store, job_id, attempt: store.note_launch_failure(job_id, attempt, "holder", "nobody there", 20, 7.5),
        lambda clock: {
            "status_text": "nobody there",
            "updated_at": clock.now,
            "launch_failed_at": clock.after(-7.5),
            "held_until": clock.after(20),
        },
    ),
    "note full": Write(
        frozenset({STARTED}),
        lambda store, job_id, attempt: store.note_full(job_id, attempt, "holder"),
        lambda clock: {"held_by": None, "held_until": None},
    ),
}


def _unfenced(write: Write, move: Move, **values: Any) -> Write:
    return write._replace(call=lambda store, job_id, _: store.move(move, job_id, **values))


# By whoever knows the job's id.
UNFENCED = {
    "complete by id": _unfenced(FENCED["complete"], Move.COMPLETE, text="done", location="/ticket/17", progress=100),
    "fail by id": _unfenced(FENCED["fail"], Move.FAIL, text="so far\nbroken", error="broken", location="/login"),
    "cancel by id": _unfenced(FENCED["cancel"], Move.CANCEL),
    "retry by id": _unfenced(
        FENCED["retry"], Move.RETRY, text="again", error="broken", progress=0, delay=7, past="[2]"
    ),
    "request cancel": Write(
        frozenset({INPROGRESS}),
        lambda store, job_id, _: store.request_cancel(job_id),
        lambda clock: {"cancel_requested": True},
    ),
}
WRITES = FENCED | UNFENCED


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("name", WRITES)
def test_a_write_is_made_from_its_sources_only(store: Store, clock: Clock, name: str, status: Status) -> None:
    write = WRITES[name]
    job_id = bring_to(store, status)
    before = record(store, job_id)
    clock.advance(3)
    is_allowed = status in write.sources
    assert write.call(store, job_id, 2) is is_allowed
    assert record(store, job_id) == (dataclasses.replace(before, **write.changes(clock)) if is_allowed else before)


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("name", FENCED)
def test_another_attempt_writes_nothing(store: Store, clock: Clock, name: str, status: Status) -> None:
    job_id = bring_to(store, status)
    clock.advance(3)
    for attempt in (1, 3):
        with unchanged(store, job_id):
            assert FENCED[name].call(store, job_id, attempt) is False


@pytest.mark.parametrize("name", WRITES)
def test_a_write_on_no_job_says_so_and_reaches_no_other(store: Store, name: str) -> None:
    job_ids = [bring_to(store, STARTED), bring_to(store, INPROGRESS)]
    with unchanged(store, job_ids[0]), unchanged(store, job_ids[1]):
        assert WRITES[name].call(store, max(job_ids) + 1, 2) is False


@pytest.mark.parametrize("name", WRITES)
def test_a_write_reaches_one_job_only(store: Store, name: str) -> None:
    write = WRITES[name]
    job_ids = [bring_to(store, min(write.sources)) for _ in range(3)]
    with unchanged(store, job_ids[0]), unchanged(store, job_ids[2]):
        assert write.call(store, job_ids[1], 2) is True


@pytest.mark.parametrize("status", [STARTED, INPROGRESS])
@pytest.mark.parametrize("move", FINAL_MOVES.values())
@pytest.mark.parametrize("anonymous", [True, False])
def test_a_request_is_kept_only_of_nobodys_job_that_did_not_complete(
    store: Store, status: Status, move: Move, anonymous: bool
) -> None:
    job_id = bring_to(store, status, anonymous=anonymous)
    is_made = store.move(move, job_id)
    is_kept = not is_made or (anonymous and move is not Move.COMPLETE)
    assert record(store, job_id).sealed == (seal(job_id) if is_kept else None)


# --- Add ---------------------------------------------------------------------------------------------------------


def test_add_records_everything(store: Store, clock: Clock) -> None:
    new = new_job(
        scope="office 7", retries=2, delay=60, priority=-1, error_timeout=0.5, held_by="the launcher", hold=30
    )
    job_id, is_new = store.add(new, seal)
    assert is_new
    job = store.get(job_id)
    assert job is not None
    assert dataclasses.asdict(job) == {
        "id": job_id,
        "uid": new.uid,
        "status": STARTED,
        "attempt": 1,
        "retries": 2,
        "progress": 0,
        "signs": 0,
        "status_text": "",
        "error": "",
        "location": "",
        "scope": "office 7",
        "method": "POST",
        "path": "/report",
        "key_id": KEY_IDS[0],
        "app_id": "app",
        "app_version": "",
        "record_version": RECORD_VERSION,
        "anonymous": False,
        "sealed": seal(job_id),
        "priority": -1,
        "error_timeout": 0.5,
        "created_at": clock.now,
        "due_at": clock.after(60),
        "started_at": None,
        "updated_at": clock.now,
        "ended_at": None,
        "held_by": "the launcher",
        "held_until": clock.after(30),
        "lease_by": None,
        "lease_until": None,
        "launch_failed_at": None,
        "cancel_requested": False,
        "past": "",
        "read_at": clock.now,
    }
    assert job.status is STARTED


def test_a_hold_of_nobody_is_none(store: Store) -> None:
    job = record(store, add(store, held_by=None, hold=30))
    assert (job.held_by, job.held_until) == (None, None)


def test_clear_columns_are_cut_to_their_length(store: Store) -> None:
    request = dataclasses.replace(new_job().request, method="M" * 99, target="/" + "é" * 999)
    job = record(store, add(store, request=request))
    assert (job.method, job.path) == ("M" * 64, "/" + "é" * 254)


def test_the_record_is_seen_when_it_is_sealed_and_not_before(store: Store) -> None:
    seen = []

    def look(job_id: int) -> bytes:
        seen.append(store.get(job_id))
        return seal(job_id)

    job_id, _ = store.add(new_job(), look)
    assert seen == [None]
    assert record(store, job_id).sealed == seal(job_id)


@pytest.mark.parametrize("error", [RuntimeError("no key"), KeyboardInterrupt(), StoreError("elsewhere")])
def test_no_record_when_it_can_not_be_sealed(store: Store, error: BaseException) -> None:
    def refuse(job_id: int) -> bytes:
        raise error

    with pytest.raises(type(error)) as caught:
        store.add(new_job(unique_key="u"), refuse, ["u"])
    assert caught.value is error
    assert store.find(None, None, 10, None) == []
    assert add(store, unique_key="u")  # nothing holds the key or the table


def test_ids_grow(store: Store) -> None:
    job_ids = [add(store) for _ in range(5)]
    assert job_ids == sorted(set(job_ids))
    assert min(job_ids) > 0


def test_a_uid_is_recorded_once(store: Store) -> None:
    new = new_job()
    job_id, _ = store.add(new, seal)
    with unchanged(store, job_id):
        assert store.add(new, seal)[0] == job_id
    assert [job.id for job in store.find(None, None, 10, None)] == [job_id]


class CountedKeys(list[str]):
    """Keys that are looked at a hundred times at most."""

    looks = 0

    def __len__(self) -> int:
        self.looks += 1
        assert self.looks < 100, "it is tried for ever"
        return super().__len__()


def test_a_conflict_that_is_not_the_unique_keys_is_told(store: Store) -> None:
    with pytest.raises(StoreError):
        store.add(new_job(retries=-1, unique_key="u"), seal, CountedKeys(["u"]))
    assert store.find(None, None, 10, None) == []


# --- Unique jobs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [STARTED, INPROGRESS])
def test_a_live_job_is_returned_instead_of_a_second(store: Store, status: Status) -> None:
    job_id = bring_to(store, status, unique_key="this")

    def refuse(job_id: int) -> bytes:
        raise AssertionError("nothing is to be sealed")

    with unchanged(store, job_id):
        assert store.add(new_job(unique_key="this"), refuse, ["this"]) == (job_id, False)
    assert len(store.find(None, None, 10, None)) == 1


@pytest.mark.parametrize("status", FINAL_MOVES)
def test_a_unique_key_is_free_when_its_job_has_ended(store: Store, status: Status) -> None:
    job_id = bring_to(store, status, unique_key="this")
    second, is_new = store.add(new_job(unique_key="this"), seal, ["this"])
    assert is_new
    assert second != job_id
    assert store.add(new_job(unique_key="this"), seal, ["this"]) == (second, False)


def test_a_job_is_found_by_each_of_the_unique_keys(store: Store) -> None:
    """After a rotation of keys, the request of before has another digest under the new one."""
    job_id = add(store, unique_key="old key's")
    assert store.add(new_job(unique_key="new key's"), seal, ["new key's", "old key's"]) == (job_id, False)
    assert store.add(new_job(unique_key="other"), seal, ["other"])[1]


def test_jobs_without_a_unique_key_are_never_the_same(store: Store) -> None:
    first, second = add(store, unique_key="this"), add(store)
    assert first != second != add(store)


# --- Hold --------------------------------------------------------------------------------------------------------


def test_a_hold_goes_from_the_nonce_to_the_owner_to_nobody_and_never_back(store: Store) -> None:
    job_id = add(store, held_by="nonce", hold=30)
    assert store.hold(job_id, 1, "nonce", "owner", 30)
    with unchanged(store, job_id):
        assert not store.hold(job_id, 1, "nonce", "replay", 30)
        assert not store.hold(job_id, 1, None, "passer-by", 30)
    assert store.hold(job_id, 1, "owner", None, 0)
    with unchanged(store, job_id):
        assert not store.hold(job_id, 1, "nonce", "replay", 30)
        assert not store.hold(job_id, 1, "owner", "replay", 30)
    assert store.hold(job_id, 1, None, "next", 30)


def test_a_holder_prolongs_its_hold(store: Store, clock: Clock) -> None:
    job_id = add(store, held_by="owner", hold=30)
    clock.advance(20)
    assert store.hold(job_id, 1, "owner", "owner", 30)
    assert record(store, job_id).held_until == clock.after(30)


def test_a_hold_is_nobodys_when_it_has_lapsed(store: Store, clock: Clock) -> None:
    job_id = add(store, held_by="gone", hold=30)
    clock.advance(29.999999)
    with unchanged(store, job_id):
        assert not store.hold(job_id, 1, None, "next", 30)
    clock.advance(0.000001)
    assert store.hold(job_id, 1, None, "next", 30)
    with unchanged(store, job_id):
        assert not store.hold(job_id, 1, "gone", "gone", 30)


def test_a_launch_failure_is_noted_by_the_holder_and_says_for_how_long(store: Store, clock: Clock) -> None:
    job_id = add(store, held_by="owner", hold=30)
    with unchanged(store, job_id):
        assert not store.note_launch_failure(job_id, 1, "other", "no", 5)
    assert store.get(job_id).launch_failed_for == 0  # type: ignore[union-attr]
    assert store.note_launch_failure(job_id, 1, "owner", "refused", 5)
    clock.advance(4)
    assert store.note_launch_failure(job_id, 1, "owner", "still refused", 5, 1.25)
    job = store.get(job_id)
    assert job is not None
    assert (job.status_text, job.launch_failed_at, job.launch_failed_for) == ("still refused", clock.after(-1.25), 1.25)
    assert (job.held_by, job.held_until) == ("owner", clock.after(5))
    assert store.claim(job_id, 1, "run", 30, 0)
    assert record(store, job_id).launch_failed_at is None


def test_a_wait_for_a_place_is_no_time_of_failures(store: Store, clock: Clock) -> None:
    """Tried twice, and then for an hour not at all, as a row or in the queue of the server's only slot."""
    job_id = add(store, held_by="owner", hold=30)
    assert store.note_launch_failure(job_id, 1, "owner", "refused", 1)
    for seconds, failed_for, text in ((1.25, 1.25, "refused"), (3600, 1.25 + 1.5 * 1.25, "")):
        clock.advance(seconds)
        assert store.hold(job_id, 1, None, "next", 3600)
        job = store.get(job_id)
        assert job is not None
        assert (job.launch_failed_for, job.as_status().status_text) == (failed_for, text)
        assert store.note_launch_failure(job_id, 1, "next", "refused", 1, failed_for)
        job = store.get(job_id)
        assert job is not None
        assert (job.launch_failed_for, job.as_status().status_text) == (failed_for, "refused")


def test_a_launch_that_finds_no_place_has_got_through(store: Store, clock: Clock) -> None:
    job_id = add(store, held_by="owner", hold=30)
    assert store.note_launch_failure(job_id, 1, "owner", "refused", 5, 40)
    clock.advance(4)
    with unchanged(store, job_id):
        assert not store.note_full(job_id, 1, "other")
    noted = record(store, job_id)
    assert store.note_full(job_id, 1, "owner")
    assert record(store, job_id) == dataclasses.replace(noted, status_text="", **NO_HOLD)
    with unchanged(store, job_id):
        assert not store.note_full(job_id, 1, "owner")


# --- What waits ------------------------------------------------------------------------------------------------------


def take_all(store: Store, key_ids: tuple[str, ...] = KEY_IDS) -> list[int]:
    """The ids of all that is to be taken, in that order."""
    taken = []
    while (job := store.take_due(key_ids, "taker", 30)) is not None:
        taken.append(job.id)
    return taken


def test_jobs_are_taken_by_priority_then_time_then_id(store: Store, clock: Clock) -> None:
    late, low = add(store, delay=5), add(store, priority=-1)
    first, second = add(store, delay=1), add(store, delay=1)
    high = add(store, priority=1, delay=9)
    clock.advance(10)
    assert take_all(store) == [high, first, second, late, low]


def test_more_jobs_than_one_look_finds_are_all_taken(store: Store) -> None:
    job_ids = [add(store) for _ in range(30)]
    assert take_all(store) == job_ids


def test_what_is_taken_is_held(store: Store, clock: Clock) -> None:
    job_id = add(store)
    clock.advance(1)
    job = store.take_due(KEY_IDS, "taker", 30)
    assert job is not None
    assert (job.id, job.held_by, job.held_until) == (job_id, "taker", clock.after(30))
    assert job == store.get(job_id)
    assert store.take_due(KEY_IDS, "other", 30) is None


def test_a_job_is_not_taken_before_its_time(store: Store, clock: Clock) -> None:
    job_id = add(store, delay=60)
    assert store.get(job_id).due_in == 60  # type: ignore[union-attr]
    clock.advance(59.999999)
    assert take_all(store) == []
    clock.advance(0.000001)
    assert take_all(store) == [job_id]
    assert store.get(job_id).due_in == 0  # type: ignore[union-attr]


def test_a_held_job_is_taken_when_its_hold_has_lapsed(store: Store, clock: Clock) -> None:
    held, free = add(store, held_by="nonce", hold=30), add(store)
    assert take_all(store) == [free]
    clock.advance(29)
    assert take_all(store) == []
    clock.advance(1)
    assert take_all(store) == [held, free]  # the taker's own hold has lapsed as well


def test_a_retried_job_is_taken_in_its_new_attempt(store: Store, clock: Clock) -> None:
    job_id = add(store, retries=1)
    assert store.claim(job_id, 1, "run", 30, 0)
    assert store.move(Move.RETRY, job_id, attempt=1, delay=4)
    assert take_all(store) == []
    clock.advance(4)
    job = store.take_due(KEY_IDS, "taker", 30)
    assert job is not None
    assert (job.id, job.attempt) == (job_id, 2)


def test_only_jobs_that_wait_are_taken(store: Store, clock: Clock) -> None:
    for status in set(Status) - {STARTED}:
        bring_to(store, status)
    clock.advance(1000)
    assert take_all(store) == []
    assert store.seconds_to_next(KEY_IDS) is None


def test_rows_sealed_with_another_key_are_left_alone(store: Store) -> None:
    ours, old, foreign = add(store), add(store, key_id="old"), add(store, key_id="foreign")
    assert take_all(store, ("key", "old")) == [ours, old]
    assert store.seconds_to_next(("none",)) is None
    assert take_all(store, ("foreign",)) == [foreign]


def test_jobs_that_wait_for_a_missing_key_say_so(store: Store, clock: Clock) -> None:
    lost, other_app = add(store, key_id="foreign"), add(store, key_id="foreign", app_id="wother")
    ours, later = add(store), add(store, key_id="foreign", delay=1)
    held, told = add(store, key_id="foreign"), add(store, key_id="foreign", held_by="us", hold=90)
    assert store.hold(held, 1, None, "us", 61)
    assert store.note_launch_failure(told, 1, "us", "no answer", 0)
    clock.advance(60)
    assert store.note_missing_key("app", KEY_IDS, "no key", 60) == 1
    texts = {job_id: store.get(job_id).status_text for job_id in (lost, other_app, ours, later, held, told)}  # type: ignore[union-attr]
    assert texts == {lost: "no key", other_app: "", ours: "", later: "", held: "", told: "no answer"}
    assert store.note_missing_key("app", KEY_IDS, "no key", 60) == 0
    clock.advance(61)
    assert store.note_missing_key("app", KEY_IDS, "no key", 60) == 2


def test_an_app_has_its_own_rows_and_those_of_nobody(store: Store, clock: Clock) -> None:
    ids = [add(store, app_id=app_id) for app_id in ("wours", "wothers", "", "c1234", "a1234")]  # the last are of before
    later = add(store, app_id="wothers", delay=9)
    for _ in range(4):
        job = store.take_due(KEY_IDS, "owner", 20, "wours")
        assert job is not None
        assert job.id in ids[:1] + ids[2:]
    assert store.take_due(KEY_IDS, "owner", 20, "wours") is None
    assert store.seconds_to_next(KEY_IDS, "wours") == 20
    assert store.seconds_to_next(KEY_IDS, "wothers") == 0
    assert store.take_due(KEY_IDS, "owner", 30, "wothers").id == ids[1]  # type: ignore[union-attr]
    assert store.seconds_to_next(KEY_IDS, "wothers") == 9
    clock.advance(9)
    assert store.take_due(KEY_IDS, "owner", 30, "wothers").id == later  # type: ignore[union-attr]


def test_a_job_of_nobody_is_adopted_by_the_app_that_receives_its_launch(store: Store) -> None:
    job_id, other = (add(store, app_id=app_id, held_by="nonce", hold=30) for app_id in ("", "wothers"))
    assert not store.hold(job_id, 1, "another nonce", "owner", 30, "wours")
    assert store.hold(job_id, 1, "nonce", "owner", 30, "wours")
    job = record(store, job_id)
    assert (job.app_id, job.held_by) == ("wours", "owner")
    assert not store.hold(job_id, 1, "owner", "thief", 30, "wothers")
    assert store.hold(job_id, 1, "owner", None, 0, "wours")
    assert store.hold(job_id, 1, None, "owner", 30)
    assert record(store, job_id).app_id == "wours"
    assert not store.hold(other, 1, "nonce", "owner", 30, "wours")


def test_a_job_that_its_app_has_not_taken_for_a_day_is_anybodys(store: Store, clock: Clock) -> None:
    gone, failing, busy, done = (add(store, app_id=app_id) for app_id in ("wgone", "wfailing", "wbusy", "wdone"))
    add(store, app_id="wgone", key_id="foreign")
    clock.advance(10)
    run_by(store, "busy", app_id="wbusy")
    assert store.move(Move.COMPLETE, run_by(store, "done", app_id="wdone"), attempt=1)
    assert store.hold(failing, 1, None, "failing", 1)
    assert store.note_launch_failure(failing, 1, "failing", "refused", 1)
    clock.advance(APP_GRACE - 10.01)
    assert store.take_due(KEY_IDS, "me", 30, "wours") is None
    clock.advance(0.01)
    assert store.seconds_to_next(KEY_IDS, "wours") == 0
    assert store.take_due(KEY_IDS, "me", 30, "wours").id == gone  # type: ignore[union-attr]
    assert store.take_due(KEY_IDS, "me", 30, "wours") is None
    clock.advance(10)
    taken = [store.take_due(KEY_IDS, "me", 30, "wours") for _ in range(3)]
    assert [job and job.id for job in taken] == [failing, done, None]
    assert record(store, busy).held_by is None  # an app that runs another job will come to it


def test_jobs_of_full_scopes_are_left_alone(store: Store, clock: Clock) -> None:
    full, none, other = add(store, scope="full"), add(store), add(store, scope="Full", delay=9)
    assert store.take_due(KEY_IDS, "owner", 20, "", ["full", "gone"]).id == none  # type: ignore[union-attr]
    assert store.take_due(KEY_IDS, "owner", 20, "", ["full"]) is None
    assert store.seconds_to_next(KEY_IDS, "", ["full"]) == 9
    assert store.seconds_to_next(KEY_IDS, "", ["full", "Full"]) == 20
    assert store.seconds_to_next(KEY_IDS, "", ["full", "Full", ""]) is None
    clock.advance(9)
    assert store.take_due(KEY_IDS, "owner", 20, "", ["full"]).id == other  # type: ignore[union-attr]
    assert store.take_due(KEY_IDS, "owner", 20).id == full  # type: ignore[union-attr]


def test_seconds_to_next(store: Store, clock: Clock) -> None:
    assert store.seconds_to_next(KEY_IDS) is None
    add(store, delay=100)
    add(store, delay=1, key_id="foreign")
    assert store.seconds_to_next(KEY_IDS) == 100
    add(store, delay=10, held_by="nonce", hold=50)
    assert store.seconds_to_next(KEY_IDS) == 50
    add(store, delay=40, held_by="nonce", hold=20)
    assert store.seconds_to_next(KEY_IDS) == 40
    assert store.seconds_to_next(("key", "foreign")) == 1
    clock.advance(45)
    assert store.seconds_to_next(KEY_IDS) == 0


def test_counts(store: Store, clock: Clock) -> None:
    for status in Status:
        for _ in range(status + 1):
            bring_to(store, status)
    assert [count_jobs(store, status) for status in Status] == [1, 2, 3, 4, 5]
    add(store)
    add(store, held_by="nonce", hold=60)
    assert count_jobs(store, STARTED) == 3


def test_counts_what_runs_in_each_scope(store: Store) -> None:
    assert store.count_running() == {}
    for scope in ("", "a", "a", "A", "b"):
        bring_to(store, INPROGRESS, scope=scope)
    for status in set(Status) - {INPROGRESS}:
        bring_to(store, status, scope="a")
    assert store.count_running() == {"": 1, "a": 2, "A": 1, "b": 1}


def test_counts_what_waits_for_a_slot(store: Store, clock: Clock) -> None:
    """A worker's request was sent: by a process that still vouches for it, and not before the job was due."""
    launched = add(store, held_by=f"{PROCESS}1", hold=60)
    for others in ({}, {"held_by": "nonce", "hold": 60}, {"held_by": f"{PROCESS}1", "hold": 60, "delay": 90}):
        add(store, **others)
    refused = add(store, held_by=f"{PROCESS}2", hold=60)
    assert store.count_launched() == 2
    store.note_launch_failure(refused, 1, f"{PROCESS}2", "It did not get through.", 60)
    assert store.count_launched() == 1
    clock.advance(61)
    assert store.count_launched() == 0
    assert store.hold(launched, 1, None, f"{PROCESS}3", 60)
    assert store.count_launched() == 1


# --- A job that runs -----------------------------------------------------------------------------------------------


def test_a_job_is_claimed_once(store: Store) -> None:
    job_id = add(store)
    assert store.claim(job_id, 1, "first", 30, 0)
    with unchanged(store, job_id):
        assert not store.claim(job_id, 1, "first", 30, 0)
        assert not store.claim(job_id, 1, "second", 30, 0)


def test_no_more_jobs_than_max_running_are_claimed(store: Store) -> None:
    job_ids = [add(store) for _ in range(4)]
    assert [store.claim(job_id, 1, "run", 30, 2) for job_id in job_ids] == [True, True, False, False]
    with unchanged(store, job_ids[2]):
        assert not store.claim(job_ids[2], 1, "run", 30, 2)
    assert store.move(Move.COMPLETE, job_ids[0], attempt=1)
    assert store.claim(job_ids[2], 1, "run", 30, 2)
    assert not store.claim(job_ids[3], 1, "run", 30, 2)
    assert store.claim(job_ids[3], 1, "run", 30, 0)


def test_no_more_jobs_of_a_scope_than_may_are_claimed(store: Store) -> None:
    first, second, other = add(store, scope="a"), add(store, scope="a"), add(store, scope="A")
    assert store.claim(first, 1, "run", 30, 0, 1)
    with unchanged(store, second):
        assert not store.claim(second, 1, "run", 30, 0, 1)
    assert store.claim(other, 1, "run", 30, 0, 1)
    third, last = add(store, scope="a"), add(store, scope="b")
    assert store.claim(third, 1, "run", 30, 0, 2)
    with unchanged(store, second), unchanged(store, last):
        assert not store.claim(second, 1, "run", 30, 9, 2)
        assert not store.claim(last, 1, "run", 30, 3, 2)
    assert store.move(Move.FAIL, first, attempt=1)
    assert store.claim(second, 1, "run", 30, 9, 2)


def test_a_retried_job_leaves_its_place_in_its_scope(store: Store) -> None:
    first, second = add(store, scope="a", retries=1), add(store, scope="a")
    assert store.claim(first, 1, "run", 30, 0, 1)
    assert store.move(Move.RETRY, first, attempt=1)
    assert store.claim(second, 1, "run", 30, 0, 1)
    assert not store.claim(first, 2, "run", 30, 0, 1)
    assert store.move(Move.COMPLETE, second, attempt=1)
    assert store.claim(first, 2, "run", 30, 0, 1)


def test_no_sign_is_taken_from_a_job_that_is_to_be_cancelled(store: Store, clock: Clock) -> None:
    job_id = bring_to(store, INPROGRESS)
    assert store.request_cancel(job_id)
    clock.advance(1)
    with unchanged(store, job_id):
        assert not store.touch(job_id, 2, 50, "on", 30)
        assert store.request_cancel(job_id)
    assert store.glance(job_id).cancel_requested is True  # type: ignore[union-attr]
    assert store.move(Move.CANCEL, job_id, attempt=2)


def test_no_retry_of_a_job_that_is_to_be_cancelled(store: Store) -> None:
    job_id = bring_to(store, INPROGRESS)
    assert store.request_cancel(job_id)
    with unchanged(store, job_id):
        assert not store.move(Move.RETRY, job_id, attempt=2)


def test_a_silent_job_is_told_from_one_that_gave_a_sign(store: Store, clock: Clock) -> None:
    job_id = bring_to(store, INPROGRESS)
    clock.advance(10)
    assert store.touch(job_id, 2, 50, "on", 30)
    clock.advance(9.999999)
    with unchanged(store, job_id):
        assert not store.move(Move.FAIL, job_id, attempt=2, idle_for=10)
        assert not store.move(Move.FAIL, job_id, idle_for=10)
    clock.advance(0.000001)
    assert store.move(Move.FAIL, job_id, attempt=2, idle_for=10)


@pytest.mark.parametrize("move", [move for move in Move if move is not Move.CLAIM], ids=lambda move: move.name)
def test_a_move_without_text_and_progress_keeps_them(store: Store, move: Move) -> None:
    job_id = bring_to(store, INPROGRESS)
    assert store.move(move, job_id, attempt=2)
    job = record(store, job_id)
    assert (job.progress, job.status_text) == (40, "so far")


def test_an_empty_text_and_no_progress_are_told_too(store: Store) -> None:
    job_id = bring_to(store, INPROGRESS)
    assert store.move(Move.FAIL, job_id, attempt=2, text="", progress=0)
    job = record(store, job_id)
    assert (job.progress, job.status_text) == (0, "")


@pytest.mark.parametrize("progress", [-1, 101])
def test_progress_is_0_to_100(store: Store, progress: int) -> None:
    job_id = bring_to(store, INPROGRESS)
    with unchanged(store, job_id), pytest.raises(StoreError):
        store.touch(job_id, 2, progress, "text", 30)
    with unchanged(store, job_id), pytest.raises(StoreError):
        store.move(Move.COMPLETE, job_id, attempt=2, progress=progress)


@pytest.mark.parametrize(
    "text", ["", "é ü 漢 🐔", "'; DROP TABLE background_job; --", "x" * 1_048_576, "a\nb\ttab %s :x"]
)
def test_any_text_is_kept(store: Store, text: str) -> None:
    job_id = bring_to(store, INPROGRESS, scope=text[:255])
    assert store.touch(job_id, 2, 50, text, 30, 2)
    job = record(store, job_id)
    assert (job.scope, job.status_text) == (text[:255], text)
    assert store.touch(job_id, 2, 50, text, 30, 3, is_more=True)
    assert record(store, job_id).status_text == text + text


def test_a_text_that_goes_on_is_appended_once(store: Store) -> None:
    """A sign that is made again, whenever that is, finds that it was made."""
    job_id = bring_to(store, INPROGRESS)
    assert store.touch(job_id, 2, 50, ", on", 30, 2, is_more=True)
    with unchanged(store, job_id):
        assert not store.touch(job_id, 2, 50, ", on", 30, 2, is_more=True)
    assert store.touch(job_id, 2, 60, ", on", 30, 3, is_more=True)
    with unchanged(store, job_id):
        assert not store.touch(job_id, 2, 50, ", on", 30, 2, is_more=True)
        assert not store.touch(job_id, 2, 60, "", 30, 3, is_more=True)
    assert record(store, job_id).status_text == "so far, on, on"


@pytest.mark.parametrize("text", ["so far", "other!", "so far, on"])
def test_no_text_goes_on_after_another_one(store: Store, text: str) -> None:
    """Not even one of the same size."""
    job_id = bring_to(store, INPROGRESS)
    assert store.touch(job_id, 2, 70, text, 30, 3)
    with unchanged(store, job_id):
        for number in (1, 2, 3, 5):
            assert not store.touch(job_id, 2, 50, ", on", 30, number, is_more=True)
            assert not store.touch(job_id, 2, 50, "", 30, number, is_more=True)
    assert store.touch(job_id, 2, 70, ", on", 30, 4, is_more=True)
    assert record(store, job_id).status_text == f"{text}, on"


def test_a_sign_that_comes_after_a_later_one_changes_nothing(store: Store) -> None:
    job_id = bring_to(store, INPROGRESS)
    assert store.touch(job_id, 2, 70, "later", 30, 5)
    with unchanged(store, job_id):
        assert not store.touch(job_id, 2, 50, "earlier", 30, 4)
    assert store.touch(job_id, 2, 70, "the same again", 30, 5)
    assert record(store, job_id).status_text == "the same again"


def test_each_attempt_counts_its_signs_anew(store: Store) -> None:
    job_id = add(store, retries=1)
    for attempt in (1, 2):
        assert store.claim(job_id, attempt, "run", 30, 0)
        assert store.touch(job_id, attempt, 10, f"attempt {attempt}", 30, 1, is_more=True)
        assert store.touch(job_id, attempt, 20, "", 30, 2)
        if attempt == 1:
            assert store.move(Move.RETRY, job_id, attempt=1)
    assert record(store, job_id).signs == 2


@pytest.mark.parametrize("status", Status)
def test_a_job_that_runs_on_is_shown_as_being_cancelled(store: Store, status: Status) -> None:
    job_id = bring_to(store, status)
    assert store.status(job_id).is_cancelling is False  # type: ignore[union-attr]
    store.request_cancel(job_id)
    told = store.status(job_id)
    assert told is not None
    assert told.is_cancelling is told.as_dict()["is_cancelling"] is (status is INPROGRESS)
    if status is INPROGRESS:
        # What ends by itself is what it ended as.
        assert store.move(Move.COMPLETE, job_id, attempt=2)
        assert store.status(job_id).is_cancelling is False  # type: ignore[union-attr]


# --- Who vouches for what ------------------------------------------------------------------------------------------


def run_by(store: Store, claim: str, **changes: Any) -> int:
    """A job that runs, by this claim."""
    job_id = add(store, **changes)
    assert store.claim(job_id, 1, claim, 30, 0)
    return job_id


def test_the_time_of_the_store(store: Store, clock: Clock) -> None:
    assert store.time() == clock.now
    clock.advance(0.000001)
    assert store.time() == clock.now


def test_renewal_moves_the_leases_and_holds_of_one_process_and_nothing_else(store: Store, clock: Clock) -> None:
    ours = [run_by(store, "ours-a"), run_by(store, "ours-b")]
    held = [add(store, held_by="ours", hold=30), add(store, held_by=f"{RESPONSE}ours", hold=30)]
    others = [run_by(store, "theirs-a"), add(store, held_by="theirs", hold=30), add(store), bring_to(store, FAILED)]
    before = {job_id: record(store, job_id) for job_id in (*ours, *held, *others)}
    clock.advance(10)
    leases, holds = {"ours-a": ours[0], "ours-b": ours[1]}, {held[0]: "ours", held[1]: f"{RESPONSE}ours"}
    store.renew(leases, holds, 45)
    for job_id in ours:  # it is no sign of the job's: updated_at stays
        assert record(store, job_id) == dataclasses.replace(before[job_id], lease_until=clock.after(45))
    for job_id in held:
        assert record(store, job_id) == dataclasses.replace(before[job_id], held_until=clock.after(45))
    assert {job_id: record(store, job_id) for job_id in others} == {job_id: before[job_id] for job_id in others}


def test_what_is_ours_no_more_is_not_renewed(store: Store, clock: Clock) -> None:
    retried = run_by(store, "ours-a", retries=1)
    assert store.move(Move.RETRY, retried, attempt=1)
    elsewhere = run_by(store, "ours-b", retries=1)
    assert store.move(Move.RETRY, elsewhere, attempt=1)
    assert store.claim(elsewhere, 2, "theirs", 30, 0)
    ended = run_by(store, "ours-c")
    assert store.move(Move.COMPLETE, ended)
    passed = add(store, held_by="ours", hold=30)
    assert store.hold(passed, 1, "ours", "theirs", 30)
    let_go = add(store, held_by="ours", hold=30)
    assert store.hold(let_go, 1, "ours", None, 0)
    begun = add(store, held_by="ours", hold=30)
    assert store.claim(begun, 1, "theirs", 30, 0)
    job_ids = [retried, elsewhere, ended, passed, let_go, begun]
    before = [record(store, job_id) for job_id in job_ids]
    clock.advance(10)
    leases = {"ours-a": retried, "ours-b": elsewhere, "ours-c": ended, "ours-d": max(job_ids) + 1}
    store.renew(leases, dict.fromkeys([passed, let_go, begun, max(job_ids) + 1], "ours"), 30)
    assert [record(store, job_id) for job_id in job_ids] == before


def test_renewal_of_nothing_and_of_many(store: Store, clock: Clock) -> None:
    store.renew({}, {}, 30)
    job_ids = [run_by(store, f"ours-{number}") for number in range(40)]
    clock.advance(10)
    store.renew({f"ours-{number}": job_id for number, job_id in enumerate(job_ids)}, {}, 30)
    assert {record(store, job_id).lease_until for job_id in job_ids} == {clock.after(30)}


def test_find_vouched_finds_what_runs_and_what_waits_for_a_response(store: Store, clock: Clock) -> None:
    by_status = {status: bring_to(store, status, error_timeout=2.5, app_id="another") for status in Status}
    waiting = add(store, held_by=f"{RESPONSE}1", hold=30)
    for others in ({}, {"held_by": "nonce"}, {"held_by": f"{PROCESS}1"}, {"held_by": f"x{RESPONSE}1"}):
        add(store, hold=30, **others)
    add(store, held_by=f"{RESPONSE}1", hold=30, key_id="foreign")
    run_by(store, "run", key_id="foreign")
    clock.advance(1000)  # also long after anybody has vouched for them
    names = [each.name for each in dataclasses.fields(RecoveryRecord)]
    run_by(store, "run", app_id="wother")  # which its own app recovers
    wanted = [record(store, job_id) for job_id in (by_status[INPROGRESS], waiting)]
    found = sorted(store.find_leased(KEY_IDS, ""), key=lambda job: job.id)
    assert found == [RecoveryRecord(*(getattr(job, name) for name in names)) for job in wanted]
    assert found[0].status is INPROGRESS
    assert len(store.find_leased((*KEY_IDS, "foreign"), "")) == 4
    assert len(store.find_leased((*KEY_IDS, "foreign"))) == 5
    assert store.find_leased(("none",)) == []


def test_holders_are_listed_once_each_and_only_processes(store: Store, clock: Clock) -> None:
    assert store.list_holders() == []
    for name in (f"{PROCESS}1", f"{PROCESS}2", f"{PROCESS}1", "nonce", f"{RESPONSE}1", None):
        add(store, held_by=name, hold=30)
    run_by(store, f"{PROCESS}3-nonce", held_by=f"{PROCESS}3", hold=30)
    ended = add(store, held_by=f"{PROCESS}4", hold=30)
    assert store.move(Move.CANCEL, ended)
    clock.advance(1000)
    assert sorted(store.list_holders()) == [f"{PROCESS}1", f"{PROCESS}2"]


def test_what_one_holds_is_let_go_of_all_at_once(store: Store, clock: Clock) -> None:
    held = [add(store, held_by="gone", hold=60), add(store, held_by="gone", hold=60, delay=5)]
    others = [add(store, held_by=name, hold=60) for name in ("going", "gone-2", "nonce")] + [run_by(store, "gone")]
    before = [record(store, job_id) for job_id in others]
    clock.advance(1)
    assert store.free("gone") == 2
    assert store.free("gone") == 0
    for job_id in held:
        job = record(store, job_id)
        assert (job.held_by, job.held_until, job.status) == (None, None, STARTED)
    assert [record(store, job_id) for job_id in others] == before
    assert take_all(store) == held[:1]


def test_a_job_that_waits_for_a_response_is_never_free(store: Store, clock: Clock) -> None:
    """When nobody vouches for it any more its request is gone, and it is not wanted."""
    job_id = add(store, held_by=f"{RESPONSE}1", hold=30)
    clock.advance(1000)
    with unchanged(store, job_id):
        assert store.take_due(KEY_IDS, "taker", 30) is None
        assert not store.hold(job_id, 1, None, "taker", 30)
    assert store.hold(job_id, 1, f"{RESPONSE}1", None, 0)
    assert take_all(store) == [job_id]


@pytest.mark.parametrize("move", [Move.FAIL, Move.CANCEL, Move.RETRY], ids=lambda move: move.name)
def test_a_lease_that_was_renewed_since_is_no_lost_one(store: Store, clock: Clock, move: Move) -> None:
    job_id = run_by(store, "run", retries=1)
    seen = record(store, job_id).lease_until
    clock.advance(40.123457)
    store.renew({"run": job_id}, {}, 30)
    with unchanged(store, job_id):
        assert not store.move(move, job_id, attempt=1, expires_at=seen)
    seen = record(store, job_id).lease_until
    clock.advance(0.000001)
    assert store.touch(job_id, 1, 5, "a sign", 30, 1)
    with unchanged(store, job_id):
        assert not store.move(move, job_id, attempt=1, expires_at=seen)
    assert store.move(move, job_id, attempt=1, expires_at=record(store, job_id).lease_until)
    assert record(store, job_id).status is move.target
    with unchanged(store, job_id):
        assert not store.move(move, job_id, attempt=1, expires_at=clock.after(30))


def test_a_hold_that_was_renewed_since_is_no_lost_one(store: Store, clock: Clock) -> None:
    holder = f"{RESPONSE}1"
    job_id = add(store, held_by=holder, hold=30)
    seen = record(store, job_id).held_until
    clock.advance(40)
    store.renew({}, {job_id: holder}, 30)
    with unchanged(store, job_id):
        assert not store.move(Move.CANCEL, job_id, attempt=1, expires_at=seen)
    seen = record(store, job_id).held_until
    assert store.hold(job_id, 1, holder, None, 0)
    with unchanged(store, job_id):
        assert not store.move(Move.CANCEL, job_id, attempt=1, expires_at=seen)
    assert store.hold(job_id, 1, None, holder, 30)
    assert store.move(Move.CANCEL, job_id, attempt=1, expires_at=record(store, job_id).held_until)


def test_what_is_told_of_earlier_attempts_stays_until_it_is_told_anew(store: Store) -> None:
    job_id = add(store, retries=2)
    for attempt, past in ((1, "[1]"), (2, None)):
        assert store.claim(job_id, attempt, "run", 30, 0)
        assert store.touch(job_id, attempt, 5, "a sign", 30, 1)
        assert store.move(Move.RETRY, job_id, attempt=attempt, past=past)
        assert record(store, job_id).past == "[1]"
    assert store.claim(job_id, 3, "run", 30, 0)
    assert store.move(Move.COMPLETE, job_id, attempt=3)
    assert record(store, job_id).past == "[1]"


def test_seconds_to_next_looks_no_further_than_it_is_asked_to(store: Store, clock: Clock) -> None:
    add(store, delay=100)
    assert store.seconds_to_next(KEY_IDS, within=99.999999) is None
    assert store.seconds_to_next(KEY_IDS, within=100) == 100
    add(store, delay=2, held_by="nonce", hold=50)  # due soon, and free later
    assert store.seconds_to_next(KEY_IDS, within=1) is None
    assert store.seconds_to_next(KEY_IDS, within=2) == 50
    assert store.seconds_to_next(["none"], within=1000) is None
    clock.advance(200)
    assert store.seconds_to_next(KEY_IDS, within=0) == 0


# --- Read ----------------------------------------------------------------------------------------------------------


def test_what_is_not_there_is_none(store: Store) -> None:
    job_id = add(store)
    for other in (job_id + 1, -1, 0, 2**63 - 1):
        assert store.get(other) is None
        assert store.glance(other) is None


@pytest.mark.parametrize("status", Status)
def test_a_glance_shows_what_moves(store: Store, status: Status) -> None:
    job_id = bring_to(store, status)
    glance = store.glance(job_id)
    signs, progress = 0 if status is STARTED else 1, record(store, job_id).progress
    expected = {"status": status, "attempt": 2, "progress": progress, "cancel_requested": False, "signs": signs}
    assert dataclasses.asdict(glance) == expected  # type: ignore[call-overload]
    assert glance.status is status  # type: ignore[union-attr]


def test_find_has_the_end_of_each_text(store: Store) -> None:
    text = "".join(f"line {number} é 😀\n" for number in range(100))
    job_id = run_by(store, "run")
    assert store.touch(job_id, 1, 5, text, 30)
    for most, end in ((500, text[-500:]), (7, text[-7:]), (0, ""), (5000, text), (None, text)):
        assert [job.status_text for job in store.find(None, None, 9, None, most)] == [end]


def test_find(store: Store) -> None:
    by_status = {status: [bring_to(store, status, scope=scope) for scope in ("a", "b", "A")] for status in Status}
    all_ids = sorted(itertools.chain(*by_status.values()), reverse=True)

    def find(statuses: Any = None, scope: str | None = None, limit: int = 99, before: int | None = None) -> list[int]:
        return [job.id for job in store.find(statuses, scope, limit, before)]

    assert find() == all_ids
    for status, job_ids in by_status.items():
        assert find([status]) == job_ids[::-1]
        assert find(iter([status]), scope="a") == [job_ids[0]]
        assert find([status], scope="A") == [job_ids[2]]
    assert find(Status) == all_ids
    assert find([STARTED, FAILED], scope="b") == [by_status[FAILED][1], by_status[STARTED][1]]
    assert find([]) == find(scope="") == find(scope="%") == find(before=min(all_ids)) == []
    assert find(before=2**63 - 1) == all_ids


def test_find_pages_on(store: Store) -> None:
    job_ids = [add(store, scope="even" if number % 2 else "odd") for number in range(11)]
    pages, before = [], None
    while page := store.find(None, "odd", 2, before):
        pages.append([job.id for job in page])
        before = page[-1].id
    assert [len(page) for page in pages] == [2, 2, 2]
    assert list(itertools.chain(*pages)) == job_ids[::2][::-1]


def test_found_records_are_whole_but_for_what_is_sealed(store: Store) -> None:
    """It may be large, and nobody who looks needs it."""
    job_id = bring_to(store, INPROGRESS)
    [found], job = store.find(None, None, 1, None), store.get(job_id)
    assert job is not None
    assert dataclasses.replace(found, sealed=job.sealed) == job
    assert (found.sealed is None) == isinstance(store, SQLStore)


# --- The backlog ---------------------------------------------------------------------------------------------------


def ids_of(store: Store) -> list[int]:
    return [job.id for job in store.find(None, None, 1000, None)]


def test_what_has_ended_long_ago_is_pruned(store: Store, clock: Clock) -> None:
    """Completed jobs before one time, any others before another one, and never a job that lives."""
    old = {status: bring_to(store, status) for status in Status}
    clock.advance(10)
    between = clock.now
    young = {status: bring_to(store, status) for status in Status}
    everything = {*old.values(), *young.values()}
    clock.advance(10)
    assert store.prune(None, None, 99) == 0
    assert store.prune(between - timedelta(seconds=10), between - timedelta(seconds=10), 99) == 0
    assert set(ids_of(store)) == everything
    assert store.prune(between, None, 99) == 1
    assert set(ids_of(store)) == everything - {old[COMPLETED]}
    assert store.prune(clock.now, between, 99) == 3
    left = everything - {old[COMPLETED], young[COMPLETED], old[FAILED], old[CANCELLED]}
    assert set(ids_of(store)) == left
    assert store.prune(None, clock.now, 99) == 2
    assert set(ids_of(store)) == {job[status] for job in (old, young) for status in (STARTED, INPROGRESS)}
    assert store.prune(clock.now, clock.now, 99) == 0
    for job_id in ids_of(store):
        assert store.move(Move.FAIL, job_id, attempt=2)


def test_all_that_is_old_goes_with_the_longer_of_both_times_too(store: Store, clock: Clock) -> None:
    """backlog_days=0: completed jobs go with all others."""
    job_ids = [bring_to(store, status) for status in (COMPLETED, FAILED)]
    clock.advance(1)
    assert store.prune(None, clock.now, 99) == 2
    assert not set(ids_of(store)) & set(job_ids)


def test_no_more_are_pruned_at_once_than_asked_for(store: Store, clock: Clock) -> None:
    for status in (COMPLETED, FAILED, CANCELLED) * 7:
        bring_to(store, status)
    clock.advance(1)
    pruned = []
    while not pruned or pruned[-1]:
        pruned.append(store.prune(clock.now, clock.now, 5))
    assert pruned == [5, 5, 5, 5, 1, 0]
    assert ids_of(store) == []


# --- The processes -------------------------------------------------------------------------------------------------


def test_processes_are_there_for_as_long_as_they_say(store: Store, clock: Clock) -> None:
    assert store.read_slots() == {}
    store.register("one", 4, 30)
    store.register("two", None, 20)
    assert sorted(store.read_slots().values(), key=str) == [4, None]
    clock.advance(19.99)
    store.register("one", 8, 30)
    assert sorted(store.read_slots().values(), key=str) == [8, None]
    clock.advance(0.01)
    assert list(store.read_slots().values()) == [8]
    store.unregister("one")
    assert store.read_slots() == {}
    store.unregister("one")


def test_a_process_may_say_the_same_again(store: Store, clock: Clock) -> None:
    for _ in range(2):
        store.register("process", 4, 30)
    clock.advance(100)
    assert store.read_slots() == {}
    store.register("process", 4, 30)  # it was stopped for a while
    store.register("other", None, 30)
    assert sorted(store.read_slots().values(), key=str) == [4, None]


def test_processes_that_are_gone_are_forgotten(store: Store, clock: Clock, database: Database | None) -> None:
    for number in range(9):
        store.register(f"process {number}", 1, 5)
        clock.advance(10)
    if database is not None:
        table = find_process_table(database.table)
        with database.connect() as connection:
            assert [row.name for row in connection.execute(table.select())] == ["process 8"]
