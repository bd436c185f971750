"""Jobs that do several things at once: in tasks, in threads, and in the processes of every kind of pool."""

from __future__ import annotations

import asyncio
import functools
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from multiprocessing.pool import ThreadPool
from typing import Any

import anyio
import joblib
import judge
import trio
import workshop

from backjob import BackJob, Jobs

FORK = multiprocessing.get_context("fork")
PIECES = 4
current: Any = None
"""In a process that a job has forked: the job."""


def keep(job: Jobs) -> None:
    """What each process of a pool does first: a job can't be sent to it, but is inherited."""
    global current  # noqa: PLW0603
    current = job


def work(number: int, job: Jobs | None = None) -> int:
    """Report progress for as long as the job goes on."""
    job = job or current
    for _ in range(1200):
        job.update(number)
        time.sleep(0.05)
    return number


async def work_in_task(job: Jobs, sleep: Callable[[float], Any]) -> None:
    for _ in range(1200):
        job.update(1)
        await sleep(0.05)


# --- One function for each way ---------------------------------------------------------------------------------------


def use_pool(job: Jobs, way: str) -> None:
    with FORK.Pool(2, keep, (job,)) as pool:
        if way == "map":
            pool.map(work, range(PIECES))
        elif way == "map_async":
            pool.map_async(work, range(PIECES)).get()
        elif way == "imap":
            list(pool.imap(work, range(PIECES)))
        elif way == "imap_unordered":
            list(pool.imap_unordered(work, range(PIECES)))
        elif way == "apply_async":
            for result in [pool.apply_async(work, (number,)) for number in range(PIECES)]:
                result.get()
        else:
            pool.starmap(work, [(number,) for number in range(PIECES)])


def use_executor(job: Jobs, way: str) -> None:
    with ProcessPoolExecutor(2, FORK, keep, (job,)) as pool:
        if way == "map":
            list(pool.map(work, range(PIECES)))
        else:
            for future in as_completed([pool.submit(work, number) for number in range(PIECES)]):
                future.result()


def use_threads(job: Jobs, way: str) -> None:
    if way == "pool":
        with ThreadPool(2) as threads:
            threads.map(functools.partial(work, job=job), range(PIECES))
        return
    with ThreadPoolExecutor(2) as pool:
        if way == "map":
            list(pool.map(functools.partial(work, job=job), range(PIECES)))
        else:
            for future in as_completed([pool.submit(work, number, job) for number in range(PIECES)]):
                future.result()


def use_joblib(job: Jobs, way: str) -> None:
    if way == "multiprocessing":
        keep(job)  # joblib's own processes are forked from here
        joblib.Parallel(2, backend=way)(joblib.delayed(work)(number) for number in range(PIECES))
    elif way == "threading":
        joblib.Parallel(2, backend=way)(joblib.delayed(work)(number, job) for number in range(PIECES))
    else:  # its processes are new ones, that know of no job
        parallel = joblib.Parallel(2, backend=way, return_as="generator")
        for _ in job.track(parallel(joblib.delayed(time.sleep)(0.1) for _ in range(600)), total=600):
            pass


def report(queue: Any) -> None:
    for number in range(1200):
        queue.put(number / 12)
        time.sleep(0.05)
    queue.put(None)


def use_queue(job: Jobs, way: str) -> None:
    context = multiprocessing.get_context(way)
    queue = context.Queue()
    process = context.Process(target=report, args=(queue,), daemon=True)
    process.start()
    try:
        for progress in iter(queue.get, None):
            job.update(progress)
    finally:
        process.kill()
        process.join()


async def use_asyncio(job: Jobs) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(PIECES):
            group.create_task(work_in_task(job, asyncio.sleep))


async def use_anyio(job: Jobs) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(PIECES):
            group.start_soon(work_in_task, job, anyio.sleep)


async def use_trio(job: Jobs) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(PIECES):
            nursery.start_soon(work_in_task, job, trio.sleep)


def use_tasks(job: Jobs, way: str) -> None:
    if way == "asyncio":
        asyncio.run(use_asyncio(job))
    elif way == "anyio":
        anyio.run(use_anyio, job)
    else:
        trio.run(use_trio, job)


def use_many_executors(job: Jobs, way: str) -> None:
    """Begin threads until that is not possible any more, or use those of one pool, whose idle thread closes it."""
    if way == "one":
        with ThreadPoolExecutor(1) as pool:
            while True:
                pool.submit(time.sleep, 0.02).result()
    while True:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(time.sleep, 0.02).result()


def wait_for_child(job: Jobs, way: str) -> None:
    """Run a program that never ends by itself."""
    subprocess.run(["sleep", "60"], check=True)


def rest(job: Jobs, way: str) -> None:
    """Never end by itself."""
    time.sleep(60)


KINDS = {
    "executors": use_many_executors,
    "child": wait_for_child,
    "rest": rest,
    "pool": use_pool,
    "executor": use_executor,
    "threads": use_threads,
    "joblib": use_joblib,
    "queue": use_queue,
    "tasks": use_tasks,
}


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    kind, _, way = environ["PATH_INFO"].strip("/").partition("/")
    if kind == "cancel":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(environ["backjob"].cancel(int(way))).encode()]
    if kind not in KINDS:
        return workshop.app(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    job = environ["backjob"]
    judge.note(job.job_id, job.attempt, "begin")
    try:
        KINDS[kind](job, way)
    except Exception as error:
        if environ["QUERY_STRING"] != "framework":
            raise
        start_response("500 Internal Server Error", [], (type(error), error, None))
        return []
    finally:
        print("left", file=job)
        judge.note(job.job_id, job.attempt, "left")
    return [b"done"]


application = BackJob(app, **json.loads(os.environ.get("WORKSHOP_OPTIONS", "{}")))
