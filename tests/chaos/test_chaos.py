"""Each fault once, in a short form: a few jobs on a real server that the fault strikes, and no promise broken."""

from __future__ import annotations

import pytest

from chaos.blueprint import Blueprint
from chaos.faults import FAULTS
from chaos.run import Plan, run

pytestmark = pytest.mark.live

SHORT = {
    "kill a worker": (Blueprint("gthread", "sqlite"), 3),
    "kill everything": (Blueprint("gevent", "mariadb"), 1),
    "stop and start": (Blueprint("waitress", "postgresql"), 1),
    "reload": (Blueprint("sync", "postgresql"), 1),
    "recycle": (Blueprint("gthread", "mariadb", recycle=12), 1),
    "overrun": (Blueprint("sync", "sqlite"), 1),
    "freeze a worker": (Blueprint("gthread", "postgresql"), 1),
    "restart the database": (Blueprint("gevent", "postgresql"), 2),
    "crash the database": (Blueprint("gthread", "mariadb"), 2),
    "lock the database": (Blueprint("gthread", "sqlite"), 1),
    "stop the cache": (Blueprint("gthread", "mariadb", has_cache=True), 1),
    "refuse connections": (Blueprint("waitress", "sqlite", has_relay=True), 1),
}
"""Where each fault strikes, and how often."""


def test_each_fault_is_there() -> None:
    assert SHORT.keys() == FAULTS.keys()


@pytest.mark.parametrize("name", SHORT)
def test_fault(name, tmp_path, own_services):
    blueprint, strikes = SHORT[name]
    outcome = run(make_plan(blueprint, name, strikes), tmp_path, own_services)
    print(outcome)
    assert outcome.verdict.is_good, outcome.verdict.explain()
    assert outcome.verdict.accepted >= 15


def test_hosts_whose_clocks_are_five_minutes_apart(tmp_path, own_services):
    blueprint = Blueprint("gthread", "postgresql", clocks=(150, -150))
    outcome = run(make_plan(blueprint, "kill a worker", 2), tmp_path, own_services)
    print(outcome)
    assert outcome.verdict.is_good, outcome.verdict.explain()
    assert outcome.verdict.accepted >= 15


def make_plan(blueprint: Blueprint, name: str, strikes: int) -> Plan:
    """A quick one."""
    return Plan(
        blueprint,
        [FAULTS[name]],
        seed="short",
        jobs=15,
        strikes=strikes,
        is_endless=False,
        pace=8,
        brevity=0.6,
        pauses=(0.8, 1.6),
        limit=60,
        patience=30,
    )
