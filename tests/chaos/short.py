"""The short form of a run: one fault, a few jobs, and what must have come of it."""

from __future__ import annotations

from pathlib import Path

from support.services import OwnServices

from chaos.blueprint import Blueprint
from chaos.faults import FAULTS
from chaos.run import Outcome, Plan, run

_JOBS = 15


def strike(blueprint: Blueprint, name: str, strikes: int, folder: Path, services: OwnServices) -> Outcome:
    """Have this fault strike so often, each time where jobs run, and see that no promise is broken."""
    outcome = run(make_plan(blueprint, name, strikes), folder, services)
    print(outcome)
    assert outcome.verdict.is_good, outcome.verdict.explain()
    assert outcome.verdict.accepted >= _JOBS
    assert outcome.struck > 0
    assert outcome.kills > 0 or not FAULTS[name].kills
    return outcome


def make_plan(blueprint: Blueprint, name: str, strikes: int) -> Plan:
    """A quick one."""
    return Plan(
        blueprint,
        [FAULTS[name]],
        seed="short",
        jobs=_JOBS,
        strikes=strikes,
        is_endless=False,
        pace=8,
        brevity=0.6,
        pauses=(0.8, 1.6),
        calm=1.0,
        limit=120,
        patience=30,
    )
