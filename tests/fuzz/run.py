"""Runs fuzzers round after round. Each round has a seed of its own, so that one with a fault is repeated alone."""

from __future__ import annotations

import contextlib
import random
import signal
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

from fuzz import answers, index, records, tokens

Round = Callable[[random.Random], None]
"""Makes one input and tries it. Raises whatever shows that something is wrong."""

FUZZERS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Round]]] = {
    "tokens": tokens.fuzz,
    "answers": answers.fuzz,
    "records": records.fuzz,
    "index": index.fuzz,
}
LONGEST = 10.0
"""Seconds for one round. It takes milliseconds."""
MOST_MEMORY = 400 * 2**20
"""Bytes that one round may take, where it is measured. A cached value may expand to 64 MiB, and JSON to some more."""
_MEASURED = 50
"""One round in so many is measured, because that is slow."""


class Fault(Exception):
    """A round that showed something wrong."""

    def __init__(self, name: str, seed: int, number: int) -> None:
        again = f"make fuzz ARGS='{name} --seed {seed} --round {number}'"
        super().__init__(f"{name}: round {number} found a fault. Repeat it: {again}")


def run(name: str, seed: int, numbers: Iterator[int], seconds: float) -> int:
    """Run these rounds of a fuzzer, for so long at most. Return how many it were. Raises Fault."""
    count, end = 0, time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="backjob-fuzz-") as folder, FUZZERS[name](Path(folder)) as do_round:
        for number in numbers:
            try:
                with _limited(is_measured=number % _MEASURED == 0):
                    do_round(random.Random(f"{name} {seed} {number}"))
            except Exception as error:
                raise Fault(name, seed, number) from error
            count += 1
            if time.monotonic() >= end:
                break
    return count


@contextlib.contextmanager
def _limited(*, is_measured: bool) -> Iterator[None]:
    signal.signal(signal.SIGALRM, _end_round)  # in the main thread, as pytest's are too
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    if is_measured:
        tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] if is_measured else 0
    finally:
        tracemalloc.stop()
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert peak < MOST_MEMORY, f"it took {peak} bytes"


def _end_round(*_: object) -> None:
    raise AssertionError(f"it does not end within {LONGEST} s")
