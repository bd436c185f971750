"""The end of a running job in its own code: clean-up is not interrupted, and only the server's exceptions reach it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import anyio
import gevent
import pytest
import trio
from support import wait_until
from support.served import Site, call, make_environ, say_done, wrap

from backjob import JobEnded, Status
from backjob.model.job import Move
from backjob.testing import Inline

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

TEXT = [("Content-Type", "text/plain; charset=utf-8")]
Action = Callable[[Any], object]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with wrap(tmp_path) as site:
        yield site


def run(site: Site, action: Action, **options: Any) -> tuple[Status, str]:
    """How a job ends in which this is done with ``environ["backjob"]``."""

    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["write"] = start_response("200 OK", TEXT)
        action(environ["backjob"])
        return []

    site.job = job
    status = site.run("/job", **options)
    return status.status, status.status_text


def throw(error: BaseException) -> None:
    raise error


# --- What leaves the app ---------------------------------------------------------------------------------------------


class Outcome(BaseException):
    """As pytest's own: no Exception, and none of Python's."""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (asyncio.CancelledError(), "CancelledError"),
        (GeneratorExit(), "GeneratorExit"),
        (gevent.Timeout(7), "Timeout: 7 seconds"),
        (Outcome("no"), "Outcome: no"),
        (BaseExceptionGroup("several", [Outcome("no"), ValueError()]), "Outcome: no (and 1 more in the same exception"),
    ],
    ids=["cancelled", "generator", "gevent", "foreign", "group"],
)
def test_what_is_no_exception_of_python_s_own_stops_fails_the_job_alone(site: Site, error: Any, text: str) -> None:
    status, shown = run(site, lambda jobs: throw(error))
    assert status is Status.FAILED
    assert shown.startswith(text)


@pytest.mark.parametrize("stop", [SystemExit(3), KeyboardInterrupt(), gevent.GreenletExit()], ids=repr)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_what_stops_the_server_is_recorded_and_goes_on_to_it_alone(site: Site, stop: BaseException, depth: int) -> None:
    error = stop
    for _ in range(depth):
        error = BaseExceptionGroup("several", [ValueError("no"), error])
    site.job = lambda environ, start_response: throw(error)
    job_id = site.start("/job")
    with pytest.raises(type(stop)) as caught:
        site.work(job_id)
    assert caught.value is stop
    status = site.status(job_id)
    assert status.status is Status.FAILED
    assert status.status_text.startswith(type(stop).__name__)


def test_a_group_of_exceptions_is_told_by_its_first_and_their_number(site: Site, caplog: Any) -> None:
    inner = BaseExceptionGroup("inner", [KeyError("k"), OSError("o")])
    error = BaseExceptionGroup("outer", [inner, ValueError("v")])
    text = "KeyError: 'k' (and 2 more in the same exception group)"
    assert run(site, lambda jobs: throw(error)) == (Status.FAILED, text)
    for name in ("KeyError: 'k'", "OSError: o", "ValueError: v"):
        assert name in caplog.text


# Each way begins several pieces of work at once, one of which ends the job.


async def in_asyncio(end: Action, jobs: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(30))
        group.create_task(_end_in_task(end, jobs))
        group.create_task(_end_in_task(end, jobs))


async def in_nested_groups(end: Action, jobs: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(30))
        group.create_task(in_asyncio(end, jobs))


async def in_gather(end: Action, jobs: Any) -> None:
    await asyncio.gather(asyncio.sleep(30), _end_in_task(end, jobs))


async def in_anyio(end: Action, jobs: Any) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 30)
        group.start_soon(_end_in_task, end, jobs)


async def in_trio(end: Action, jobs: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 30)
        nursery.start_soon(_end_in_task, end, jobs)


async def _end_in_task(end: Action, jobs: Any) -> None:
    end(jobs)


WAYS: dict[str, Callable[[Action, Any], object]] = {
    "gather": lambda end, jobs: asyncio.run(in_gather(end, jobs)),
    "anyio": lambda end, jobs: anyio.run(in_anyio, end, jobs),
    "anyio-trio": lambda end, jobs: anyio.run(in_anyio, end, jobs, backend="trio"),
    "trio": lambda end, jobs: trio.run(in_trio, end, jobs),
    "group-with-others": lambda end, jobs: _group(end, jobs, ValueError("another")),
}
if sys.version_info >= (3, 11):
    WAYS["asyncio"] = lambda end, jobs: asyncio.run(in_asyncio(end, jobs))
    WAYS["nested"] = lambda end, jobs: asyncio.run(in_nested_groups(end, jobs))


def _group(end: Action, jobs: Any, *others: BaseException) -> None:
    try:
        end(jobs)
    except JobEnded as ended:
        raise BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [ended]), *others]) from None


WAYS["group"] = _group


def cancel(jobs: Any) -> None:
    jobs.cancel(jobs.job_id)
    jobs.update(20)


def fail(jobs: Any) -> None:
    jobs.fail("no figures")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", [cancel, fail], ids=["cancel", "fail"])
@pytest.mark.parametrize("is_swallowed", [False, True], ids=["raised", "swallowed"])
def test_job_ended_in_a_group_ends_the_job_and_nothing_else(
    site: Site, way: str, end: Action, is_swallowed: bool, caplog: Any
) -> None:
    def action(jobs: Any) -> None:
        with contextlib.suppress(BaseException) if is_swallowed else contextlib.nullcontext():
            WAYS[way](end, jobs)

    expected = (Status.FAILED, "no figures") if end is fail else (Status.CANCELLED, "")
    assert run(site, action) == expected
    assert ("ValueError: another" in caplog.text) == (way == "group-with-others" and not is_swallowed)


def test_a_retry_that_fail_asks_for_in_a_group_is_made(site: Site) -> None:
    job_id = site.start("/job", retries=1)
    site.job = lambda environ, start_response: _group(lambda jobs: jobs.fail("again", retry=True), environ["backjob"])
    site.work(job_id)
    assert (site.status(job_id).status, site.status(job_id).attempt) == (Status.STARTED, 2)


# --- Clean-up --------------------------------------------------------------------------------------------------------


def time_out(jobs: Any) -> None:
    """As the keeper does."""
    jobs._backend.store.move(Move.FAIL, jobs.job_id, attempt=jobs.attempt, text="no heartbeat")
    jobs.update(20)


def take_over(jobs: Any) -> None:
    jobs._backend.store.move(Move.RETRY, jobs.job_id, attempt=jobs.attempt, text="lost", delay=1000)
    jobs.update(20)


ENDS: dict[str, tuple[Action, tuple[Status, str]]] = {
    "cancel": (cancel, (Status.CANCELLED, "")),
    "fail": (fail, (Status.FAILED, "no figures")),
    "fail-retried": (lambda jobs: jobs.fail("again", retry=True), (Status.STARTED, "again")),
    "time-out": (time_out, (Status.FAILED, "no heartbeat")),
    "taken-over": (take_over, (Status.STARTED, "lost")),
}
EVERY_CALL: tuple[Action, ...] = (
    lambda jobs: jobs.update(90, "removing"),
    lambda jobs: jobs.increment_progress(1),
    lambda jobs: print("removing", file=jobs, flush=True),
    lambda jobs: jobs.write("removing"),
    lambda jobs: jobs._environ["write"](b"removing"),
    lambda jobs: jobs.finish("Done."),
    lambda jobs: jobs.fail("not removed"),
)


def clean_up(jobs: Any, done: list[int]) -> None:
    """Each call that a job has, and then what must be done."""
    for number in jobs.track(range(2)):
        for action in EVERY_CALL:
            action(jobs)
        done.append(number)


def in_finally(end: Action, jobs: Any, done: list[int]) -> None:
    try:
        end(jobs)
    finally:
        clean_up(jobs, done)


def in_handler(end: Action, jobs: Any, done: list[int]) -> None:
    try:
        end(jobs)
    except BaseException:
        clean_up(jobs, done)
        raise


def behind_handler(end: Action, jobs: Any, done: list[int]) -> None:
    try:
        end(jobs)
    except BaseException as caught:  # noqa: BLE001 - what the job does
        error = caught
    clean_up(jobs, done)
    raise error


def in_several_blocks(end: Action, jobs: Any, done: list[int]) -> None:
    in_finally(lambda jobs: in_finally(end, jobs, []), jobs, done)


def in_context_managers(end: Action, jobs: Any, done: list[int]) -> None:
    @contextlib.contextmanager
    def opened() -> Iterator[None]:
        try:
            yield
        finally:
            clean_up(jobs, [])

    with contextlib.ExitStack() as stack:
        stack.callback(clean_up, jobs, done)
        with opened():
            end(jobs)


def in_a_generator_that_is_closed(end: Action, jobs: Any, done: list[int]) -> None:
    def read() -> Iterator[int]:
        try:
            yield 1
        finally:
            clean_up(jobs, done)

    rows = read()
    with contextlib.closing(rows):
        next(rows)
        end(jobs)


def after_an_error_of_its_own(end: Action, jobs: Any, done: list[int]) -> None:
    try:
        end(jobs)
    finally:
        try:
            Path("/missing/file").unlink()
        except FileNotFoundError:
            clean_up(jobs, done)


def in_another_thread(end: Action, jobs: Any, done: list[int]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(in_finally, end, jobs, done).result()


def in_threads_of_the_clean_up(end: Action, jobs: Any, done: list[int]) -> None:
    def remove() -> None:
        clean_up(jobs, done)

    try:
        end(jobs)
    finally:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(remove).result()


def in_threads_after_a_pool_has_met_it(end: Action, jobs: Any, done: list[int]) -> None:
    with ThreadPoolExecutor(1) as pool:
        in_threads_of_the_clean_up(lambda jobs: pool.submit(end, jobs).result(), jobs, done)


def in_threads_of_asyncio(end: Action, jobs: Any, done: list[int]) -> None:
    async def main() -> None:
        await asyncio.to_thread(clean_up, jobs, done)

    try:
        end(jobs)
    finally:
        asyncio.run(main())


def in_threads_that_a_task_had_before(end: Action, jobs: Any, done: list[int]) -> None:
    async def main() -> None:
        await asyncio.to_thread(int)
        try:
            end(jobs)
        finally:
            await asyncio.to_thread(clean_up, jobs, done)

    asyncio.run(main())


def in_a_cancelled_task(end: Action, jobs: Any, done: list[int]) -> None:
    async def wait() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            clean_up(jobs, done)

    async def main() -> None:
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        try:
            end(jobs)
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])

    asyncio.run(main())


PLACES = (
    *(in_finally, in_handler, behind_handler, in_several_blocks, in_context_managers, in_a_generator_that_is_closed),
    *(after_an_error_of_its_own, in_another_thread, in_a_cancelled_task, in_threads_of_the_clean_up),
    *(in_threads_after_a_pool_has_met_it, in_threads_of_asyncio, in_threads_that_a_task_had_before),
)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("name", ENDS)
def test_clean_up_is_not_interrupted_and_changes_nothing(site: Site, name: str, place: Any) -> None:
    end, expected = ENDS[name]
    done: list[int] = []
    retries = 1 if expected[0] is Status.STARTED else 0
    assert run(site, lambda jobs: place(end, jobs, done), retries=retries) == expected
    assert done == [0, 1]


def test_in_a_live_job_a_finally_block_is_like_any_other_code(site: Site) -> None:
    def action(jobs: Any) -> None:
        with contextlib.suppress(GeneratorExit):
            try:
                raise GeneratorExit
            finally:
                jobs.finish("Done.")

    assert run(site, action) == (Status.COMPLETED, "Done.")


def test_clean_up_may_start_jobs_and_read_them(site: Site) -> None:
    def action(jobs: Any) -> None:
        try:
            fail(jobs)
        finally:
            seen.append(jobs.status(jobs.job_id).status)
            seen.append(jobs.start("/next", after_response=True))

    seen: list[Any] = []
    assert run(site, action)[0] is Status.FAILED
    assert seen == [Status.FAILED, 2]


# --- More than one thread or task ------------------------------------------------------------------------------------


def test_each_piece_of_work_in_a_pool_of_threads_meets_it(site: Site) -> None:
    """The second piece runs in the thread of the first, and the third in a thread that began after the end."""

    def work(jobs: Any, number: int) -> None:
        begun.append(number)
        jobs.update(number)
        ended_well.append(number)

    def action(jobs: Any) -> None:
        jobs.cancel(jobs.job_id)
        with ThreadPoolExecutor(1) as pool:
            futures = [pool.submit(work, jobs, number) for number in range(2)]
        with ThreadPoolExecutor(1) as pool:
            futures.append(pool.submit(work, jobs, 2))
        for future in futures:
            with pytest.raises(JobEnded):
                future.result()
        begun.append("looked at")

    begun: list[Any] = []
    ended_well: list[int] = []
    assert run(site, action)[0] is Status.CANCELLED
    assert begun == [0, 1, 2, "looked at"]
    assert ended_well == []


@pytest.mark.parametrize("end", [cancel, fail], ids=["cancel", "fail"])
def test_a_pool_of_threads_hands_it_over(site: Site, end: Action) -> None:
    """This pool's threads end without an answer for what is no Exception, and its map() waits for ever."""

    def action(jobs: Any) -> None:
        with ThreadPool(2) as pool:
            pool.map(end, [jobs] * 4)

    expected = (Status.FAILED, "no figures") if end is fail else (Status.CANCELLED, "")
    assert run(site, action) == expected


def test_a_job_that_runs_in_the_clean_up_of_a_page_meets_its_own_end(tmp_path: Path) -> None:
    """With Inline() a job runs when the page that has started it has answered, or has failed."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if not environ["backjob"].is_worker:
            environ["backjob"].start("/job")
            raise Outcome("The page has failed")
        cancel(environ["backjob"])
        went_on.append(True)
        return say_done(environ, start_response)

    went_on: list[bool] = []
    with wrap(tmp_path, app, launcher=Inline()) as site:
        with pytest.raises(Outcome):
            call(site.application, make_environ("/"))
        assert site.status(1).status is Status.CANCELLED
    assert went_on == []


def test_the_job_s_own_thread_meets_it_though_another_one_did_before(site: Site) -> None:
    def meet(jobs: Any) -> None:
        with contextlib.suppress(JobEnded):
            jobs.update(20)
        met.append(threading.current_thread().name)

    def action(jobs: Any) -> None:
        jobs.cancel(jobs.job_id)
        thread = threading.Thread(target=meet, args=(jobs,), name="other")
        thread.start()
        thread.join()
        try:
            jobs.update(20)
        except JobEnded:
            met.append("own")
            raise

    met: list[str] = []
    assert run(site, action)[0] is Status.CANCELLED
    assert met == ["other", "own"]


def test_a_task_meets_it_though_another_one_did_before(site: Site) -> None:
    async def meet(jobs: Any, name: str) -> None:
        try:
            jobs.update(20)
        except JobEnded:
            met.append(name)
            raise

    async def main(jobs: Any) -> None:
        await asyncio.wait([asyncio.create_task(meet(jobs, "task"))])
        await meet(jobs, "main")

    def action(jobs: Any) -> None:
        jobs.cancel(jobs.job_id)
        asyncio.run(main(jobs))

    met: list[str] = []
    assert run(site, action)[0] is Status.CANCELLED
    assert met == ["task", "main"]


# --- Code that does not heed it --------------------------------------------------------------------------------------


def test_a_response_that_goes_on_is_not_read_on(site: Site) -> None:
    class Long:
        def __init__(self, jobs: Any) -> None:
            self.jobs = jobs

        def __iter__(self) -> Iterator[bytes]:
            with contextlib.suppress(BaseException):
                cancel(self.jobs)
            yield from [b"more"] * 1000
            closed.append(False)

        def close(self) -> None:
            closed.append(True)

    def job(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        return Long(environ["backjob"])

    closed: list[bool] = []
    site.job = job
    assert site.run("/job").status is Status.CANCELLED
    assert closed == [True]


def test_rows_that_are_tracked_go_on_where_the_app_goes_on(site: Site) -> None:
    """JobEnded is swallowed in the loop's own body: the loop is the app's to leave."""

    def action(jobs: Any) -> None:
        for row in jobs.track(range(3)):
            with contextlib.suppress(JobEnded):
                if row == 0:
                    fail(jobs)
            seen.append(row)

    seen: list[int] = []
    assert run(site, action) == (Status.FAILED, "no figures")
    assert seen == [0, 1, 2]


def test_an_end_that_was_swallowed_is_still_the_end(site: Site) -> None:
    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        jobs = environ["backjob"]
        with contextlib.suppress(BaseException):
            cancel(jobs)
        wait_until(lambda: jobs.status(jobs.job_id).status is Status.CANCELLED)
        start_response("200 OK", TEXT)
        return [b"All is well."]

    site.job = job
    assert site.run("/job").status is Status.CANCELLED


def test_the_next_job_of_the_thread_meets_its_own_end(site: Site) -> None:
    for _ in range(2):
        assert run(site, cancel)[0] is Status.CANCELLED
