"""How many jobs may run at once: the arithmetic, what a process knows of the others, and that all keep to it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support.processes import Threads, name_dead
from support.records import Clock, open_sqlite_store
from support.served import Site, say_done, serve_site, wrap

from backjob import Status
from backjob.config import make_config
from backjob.errors import StoreError
from backjob.keyring import MONITOR
from backjob.model.job import Move
from backjob.scheduling.concurrency import MOST_PLACES, Limits, Room, find_room, share_slots
from backjob.storage.sql.store import SQLStore

TEXT = [("Content-Type", "text/plain; charset=utf-8")]


@pytest.mark.parametrize(
    ("processes", "most"),
    [
        ([4, 4], 4),
        ([1], 1),
        ([1] * 4, 2),
        ([1] * 3, 1),
        ([3], 1),
        ([None, None], 8),
        ([None], 4),
        ([1, None], 4),
        ([8, None, None], 12),
        ([4, 1, None], 6),
        ([100], 50),
        ([], 1),
    ],
)
def test_half_of_the_slots_are_left_to_people(processes: list[int | None], most: int) -> None:
    assert share_slots(processes) == most


@pytest.mark.parametrize(
    ("running", "max_running", "in_scope", "room"),
    [
        ({}, 1, {}, Room()),
        ({"": 1}, 2, {}, Room()),
        ({"": 1, "a": 1}, 2, {}, Room(is_full=True)),
        ({"": 5, "a": 9}, 0, {}, Room()),
        ({"": 5, "a": 1}, 9, {"a": 1, "b": 1}, Room(full_scopes=frozenset({"a"}))),
        ({"a": 3, "b": 2}, 5, {"a": 4, "b": 1}, Room(is_full=True, full_scopes=frozenset({"b"}))),
    ],
)
def test_what_is_full(running: dict[str, int], max_running: int, in_scope: dict[str, int], room: Room) -> None:
    assert find_room(running, max_running, lambda scope: in_scope.get(scope, 0)) == room


# What a process knows.


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[SQLStore]:
    with open_sqlite_store(tmp_path, clock) as store:
        yield store


def make_limits(store: SQLStore, name: str = "process", **options: Any) -> Limits:
    return Limits(make_config(options), store, name)


@pytest.mark.parametrize(
    ("options", "scope", "most"),
    [
        ({}, "a", 0),
        ({"max_running_per_scope": 3}, "a", 3),
        ({"max_running_per_scope": 3}, "", 0),
        ({"max_running_per_scope": {"a": 2, "b": 0}}, "a", 2),
        ({"max_running_per_scope": {"a": 2, "b": 0}}, "b", 0),
        ({"max_running_per_scope": {"a": 2, "b": 0}}, "c", 0),
    ],
)
def test_the_limit_of_a_scope(store: SQLStore, options: dict[str, Any], scope: str, most: int) -> None:
    assert make_limits(store, **options).of_scope(scope) == most


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({}, 4),
        ({"max_running": 0}, MOST_PLACES),
        ({"max_running": 5}, 5),
        ({"max_running": 500}, MOST_PLACES),
        ({"max_running": 5, "max_running_per_process": 3}, 3),
        ({"max_running": 0, "max_running_per_process": 3}, 3),
        ({"max_running_per_process": 100}, 4),
    ],
)
def test_places_follow_the_limits(store: SQLStore, options: dict[str, Any], places: int) -> None:
    assert make_limits(store, **options).places == places


def test_processes_are_counted_when_they_serve_jobs(store: SQLStore) -> None:
    first, second, third = (make_limits(store, name) for name in ("one", "two", "three"))
    assert first.max_running == 4  # nothing is known of it
    first.note_process(Threads(4).environ)
    assert (first.max_running, first.places, second.max_running) == (2, 2, 4)
    second.note_process(Threads(4).environ)
    assert (first.max_running, second.max_running) == (2, 4)
    first.renew()
    assert (first.max_running, first.places) == (4, 4)
    third.note_process({})
    first.renew()
    assert (first.max_running, third.max_running) == (8, 8)


def test_a_process_that_ends_or_is_gone_counts_no_more(store: SQLStore, clock: Clock) -> None:
    first, second, third = (make_limits(store, name) for name in ("one", "two", "three"))
    for each in (first, second, third):
        each.note_process(Threads(10).environ)
    assert third.max_running == 15
    second.withdraw()
    third.renew()
    assert third.max_running == 10
    clock.advance(31)
    third.renew()
    assert third.max_running == 5
    third.withdraw()
    assert store.read_slots() == {}


def test_a_process_that_was_killed_counts_no_more_at_once(store: SQLStore) -> None:
    """Its successor would think that it has twice the slots, and give all of its own to jobs."""
    killed, successor = make_limits(store, name_dead()), make_limits(store, "successor")
    killed.note_process(Threads(8).environ)
    successor.note_process(Threads(8).environ)
    assert successor.max_running == 4
    assert list(store.read_slots()) == ["successor"]


@pytest.mark.parametrize(
    ("options", "slots", "most"),
    [
        ({}, 8, 4),
        ({}, 2, 1),
        ({}, 1, 1),
        ({"max_running_per_process": 3}, 2, 3),
        ({"max_running": 7}, 8, 7),
        ({"max_running": 0}, 8, None),
    ],
)
def test_half_of_each_process_is_left_to_people(
    store: SQLStore, options: dict[str, Any], slots: int, most: int | None
) -> None:
    """Whatever the others have: a server gives a process requests though jobs have all of its threads."""
    make_limits(store, "other").note_process(Threads(100).environ)
    limits = make_limits(store, **options)
    limits.note_process(Threads(slots).environ)
    entered = [limits.enter() for _ in range(10)]
    assert entered == [True] * (most or 10) + [False] * (10 - (most or 10))


def test_slots_that_strays_have_are_nobodys(store: SQLStore) -> None:
    first, second = (make_limits(store, name) for name in ("one", "two"))
    for each in (first, second):
        each.note_process(Threads(4).environ)
    first.renew()
    assert (first.max_running, second.max_running) == (4, 4)
    first.note_orphans([1, 2, 3], store)
    second.renew()
    assert (first.max_running, second.max_running) == (2, 2)
    first.note_orphans(range(9), store)
    assert first.max_running == 2
    first.note_orphans([], store)
    assert first.max_running == 4


def test_a_script_is_no_server(store: SQLStore) -> None:
    server, script = make_limits(store, "server"), make_limits(store, "script")
    script.note_process(None)
    assert (script.max_running, store.read_slots()) == (4, {})
    server.note_process(Threads(20).environ)
    script.renew()
    script.withdraw()
    assert (script.max_running, list(store.read_slots().values())) == (10, [20])


def test_a_number_is_that_number_whoever_is_there(store: SQLStore) -> None:
    limits = make_limits(store, max_running=3)
    limits.note_process(Threads(20).environ)
    assert limits.max_running == 3


def test_a_lease_is_renewed_by_requests_too(store: SQLStore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in a third of it, and not with each."""
    limits, other = make_limits(store, lease=3), make_limits(store, "other")
    environ = Threads(4).environ
    limits.note_process(environ)
    other.note_process(environ)
    limits.note_process(environ)
    assert limits.max_running == 2
    end = time.monotonic() + 1.0
    wait_until(lambda: time.monotonic() > end)
    limits.note_process(environ)
    assert limits.max_running == 4


def test_a_store_that_is_away_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "folder").mkdir()
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(open_sqlite_store(tmp_path, name="folder"))
        limits = make_limits(store)
        limits.note_process(Threads(6).environ)
        assert limits.max_running == 3
        limits.note_process(Threads(6).environ)  # not asked again before a third of a lease
        with pytest.raises(StoreError):
            limits.renew()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_no_more_enter_than_may(store: SQLStore) -> None:
    limits = make_limits(store, max_running_per_process=2)
    assert [limits.enter() for _ in range(3)] == [True, True, False]
    assert not limits.has_room_here
    limits.leave()
    assert [limits.enter(), limits.enter()] == [True, False]


def test_threads_race_for_the_last_place(store: SQLStore) -> None:
    limits, entered, barrier = make_limits(store, max_running_per_process=3), [], threading.Barrier(16)

    def enter() -> None:
        barrier.wait(30)
        for _ in range(200):
            if limits.enter():
                entered.append(limits._running)
                limits.leave()

    threads = [threading.Thread(target=enter) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(entered) <= 3
    assert limits._running == 0


# Jobs that wait.


class Gate:
    """A job that runs until it may end; notes the order in which jobs began, and how many ran at once."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.running: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.opened = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        path = environ["PATH_INFO"]
        scope = path.split("/")[1]
        with self._lock:
            self.began.append(path)
            for name in ("all", scope):
                self.running[name] = self.running.get(name, 0) + 1
                self.most[name] = max(self.most.get(name, 0), self.running[name])
        if path.endswith("/gate"):
            assert self.opened.wait(30)
        else:
            threading.Event().wait(0.05)  # the others have their chance
        with self._lock:
            for name in ("all", scope):
                self.running[name] -= 1
        return say_done(environ, start_response)


def start(site: Site, path: str, **options: Any) -> int:
    return site.start(path, scope=path.split("/")[1], **options)


def wait_for_all(site: Site, job_ids: list[int]) -> None:
    assert {site.wait_for_end(job_id).status for job_id in job_ids} == {Status.COMPLETED}


@pytest.mark.parametrize("monitor", ["thread", "request", "leave"])
@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"max_running": 0, "max_running_per_process": 2}, {"all": 2}),
        ({"max_running": 0, "max_running_per_scope": 1}, {"a": 1, "b": 1}),
        ({"max_running": 3, "max_running_per_scope": {"a": 2}}, {"all": 3, "a": 2}),
    ],
    ids=["process", "scope", "scopes"],
)
def test_no_more_run_than_may(tmp_path: Path, monitor: str, options: dict[str, Any], most: dict[str, int]) -> None:
    job = Gate()
    with serve_site(tmp_path, job, monitor=monitor, **options) as site:
        wait_for_all(site, [start(site, f"/{scope}/{turn}") for turn in range(6) for scope in "ab"])
    assert {name: job.most[name] for name in most} == most


def test_what_waits_goes_by_priority_then_by_time(tmp_path: Path) -> None:
    job = Gate()
    with serve_site(tmp_path, job, max_running=1) as site:
        job_ids = [start(site, "/first/gate")]
        wait_until(lambda: job.began)
        job_ids += [start(site, f"/{name}", priority=priority) for name, priority in [("b", 0), ("low", -1), ("c", 0)]]
        job_ids.append(start(site, "/high", priority=5))
        job.opened.set()
        wait_for_all(site, job_ids)
    assert job.began == ["/first/gate", "/high", "/b", "/c", "/low"]


def test_a_full_scope_holds_up_no_other(tmp_path: Path) -> None:
    job = Gate()
    with serve_site(tmp_path, job, max_running=3, max_running_per_scope=1) as site:
        job_ids = [start(site, "/a/gate")]
        wait_until(lambda: job.began)  # those that come next have a higher priority
        job_ids += [start(site, f"/a/{turn}", priority=9) for turn in range(5)]
        wait_for_all(site, [start(site, f"/b/{turn}") for turn in range(3)])
        assert [path for path in job.began if path.startswith("/a/")] == ["/a/gate"]
        job.opened.set()
        wait_for_all(site, job_ids)


def test_a_new_job_does_not_overtake_rows_that_wait(tmp_path: Path) -> None:
    """There is a free place, and yet the one who comes last goes last."""
    with wrap(tmp_path, max_running=0) as site:
        dispatcher = site.backend.dispatcher
        nobody, first, last = (site.row(site.start("/job")) for _ in range(3))
        nonces = [token.nonce for token in site.launches.tokens]
        assert [token.kind for token in site.launches.tokens] == [MONITOR] * 3
        dispatcher._rows.note_left()
        assert dispatcher.accept(first, nonces[1], "thread", True) is not None
        assert site.row(first.id).held_by is None
        assert dispatcher.accept(last, nonces[2], "thread", True) is not None
        assert site.row(last.id).held_by is None
        # It is the look that gives them to this process, in their order.
        assert dispatcher._rows.look().job.id == first.id  # type: ignore[union-attr]
        assert dispatcher._rows.look().job.id == last.id  # type: ignore[union-attr]
        assert dispatcher._rows.are_there
        assert dispatcher._rows.look().job is None  # the first one's launch is not taken over yet
        assert not dispatcher._rows.are_there
        assert dispatcher.accept(nobody, nonces[0], "thread", True) is not None
        assert site.row(nobody.id).held_by == site.backend.monitor.owner
        dispatcher._leave_queue()
        dispatcher._end_launch()


@pytest.mark.parametrize(
    ("options", "scope"), [({"max_running": 1}, ""), ({"max_running": 0, "max_running_per_scope": 1}, "a")]
)
def test_nobody_looks_all_the_time_while_a_limit_is_reached(
    tmp_path: Path, options: dict[str, Any], scope: str
) -> None:
    with wrap(tmp_path, **options) as site:
        store, rows = site.backend.store, site.backend.dispatcher._rows
        running, waits = site.start("/job", scope=scope), site.start("/job", scope=scope)
        for job_id in (running, waits):
            assert store.hold(job_id, 1, site.row(job_id).held_by, None, 0)
        assert store.claim(running, 1, "run", 30, 1)
        found = [rows.look() for _ in range(12)]
        assert {look.job for look in found} == {None}
        times = [look.next_in for look in found]
        assert times[0] is not None
        assert 0.1 < times[0] < 0.3
        assert all(0.7 < each <= 1.0 for each in times[-3:])
        assert rows.are_there
        # A job of another kind is not held up by the one that can't run.
        if scope:
            later = site.start("/job", scope="b", delay=0.7)
            assert store.hold(later, 1, site.row(later).held_by, None, 0)
            assert rows.look().next_in < 0.75  # type: ignore[operator]
        assert store.move(Move.COMPLETE, running, attempt=1)
        assert rows.look().job.id == waits  # type: ignore[union-attr]


def test_start_tells_what_server_it_is_in(tmp_path: Path) -> None:
    with wrap(tmp_path) as site:
        site.start("/job", by=Threads(12).environ)
        assert list(site.backend.store.read_slots().values()) == [12]
        assert site.backend.limits.max_running == 6
        site.application.close()
        assert site.backend.store.read_slots() == {}


def test_a_server_whose_jobs_run_elsewhere_is_not_counted(tmp_path: Path) -> None:
    with wrap(tmp_path, connect="http://127.0.0.1:8001") as site:
        job_id = site.start("/job", by=Threads(12).environ)
        assert site.backend.store.read_slots() == {}
        site.work(job_id, **Threads(8).environ)
        assert list(site.backend.store.read_slots().values()) == [8]


@pytest.mark.parametrize("priority", [None, True, "1", 1.5, 1001, -1001])
def test_a_priority_is_a_small_number(tmp_path: Path, priority: Any) -> None:
    with wrap(tmp_path) as site:
        with pytest.raises(ValueError, match="priority"):
            site.start("/job", priority=priority)
        assert site.row(site.start("/job", priority=-1000)).priority == -1000
