"""Each fuzzer finds nothing in a few rounds, and says how to repeat a round that found something."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from .run import FUZZERS, Fault, run

ROUNDS = {"tokens": 400, "answers": 2000, "records": 200, "index": 600}
SEED = 20240229


@pytest.mark.parametrize("name", FUZZERS)
def test_a_few_rounds_find_nothing(name: str) -> None:
    assert run(name, SEED, iter(range(1, ROUNDS[name] + 1)), 60) == ROUNDS[name]


def test_a_fault_is_repeated_by_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def find(choose: random.Random) -> None:
        seen.append(choose.random())
        assert seen[-1] < 0.9, "a planted fault"

    class Planted:
        def __init__(self, folder: Path) -> None:
            assert folder.is_dir()

        def __enter__(self) -> Callable[[random.Random], None]:
            return find

        def __exit__(self, *exc_info: object) -> None:
            pass

    monkeypatch.setitem(FUZZERS, "answers", Planted)
    with pytest.raises(Fault, match="answers: round 4 found a fault") as found:
        run("answers", 3, iter(range(1, 99)), 60)
    assert "make fuzz ARGS='answers --seed 3 --round 4'" in str(found.value)
    with pytest.raises(Fault):
        run("answers", 3, iter([4]), 60)
    assert seen[-1] == seen[-2]
