"""Processes of a test's own, freshly started, that all do the same at the same moment."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.pool import Pool
from multiprocessing.synchronize import Barrier
from typing import Any

_barriers: list[Barrier] = []


class Racers:
    """So many processes."""

    def __init__(self, pool: Pool, count: int) -> None:
        self._pool = pool
        self._count = count

    def race(self, call: Callable[..., Any], where: Any, *arguments: Any) -> list[Any]:
        """Call it in each process with the place, the process's number and the arguments; what each returned."""
        each = [(call, where, number, *arguments) for number in range(self._count)]
        # Each one waits for all the others: no process can take two.
        return self._pool.starmap_async(_run, each, chunksize=1).get(timeout=90)


@contextlib.contextmanager
def racing(count: int) -> Iterator[Racers]:
    """Start so many."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(count, _begin, [context.Barrier(count)]) as pool:
        yield Racers(pool, count)
        pool.close()
        pool.join()


def wait_for_all() -> None:
    """Go on when every racer has come so far."""
    _barriers[0].wait(30)


def _begin(barrier: Barrier) -> None:
    _barriers.append(barrier)


def _run(call: Callable[..., Any], *arguments: Any) -> Any:
    wait_for_all()
    return call(*arguments)
