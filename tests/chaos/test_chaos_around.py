"""Each fault around the servers once, in a short form, and hosts whose clocks differ: no promise broken."""

from __future__ import annotations

import pytest

from chaos.blueprint import Blueprint
from chaos.faults import AROUND, FAULTS
from chaos.short import strike

pytestmark = pytest.mark.live

SHORT = {
    "restart the database": (Blueprint("gevent", "postgresql"), 2),
    "crash the database": (Blueprint("gthread", "mariadb"), 2),
    "lock the database": (Blueprint("gthread", "sqlite"), 1),
    "refuse a write": (Blueprint("gthread", "postgresql"), 1),
    "stop the cache": (Blueprint("gthread", "mariadb", has_cache=True), 1),
    "refuse connections": (Blueprint("waitress", "sqlite", has_relay=True), 1),
}
"""Where each fault strikes, and how often."""


def test_each_fault_is_there() -> None:
    assert SHORT.keys() == {name for name, each in FAULTS.items() if each.place == AROUND}


@pytest.mark.parametrize("name", SHORT)
def test_fault(name, tmp_path, own_services):
    strike(SHORT[name][0], name, SHORT[name][1], tmp_path, own_services)


def test_hosts_whose_clocks_are_five_minutes_apart(tmp_path, own_services):
    blueprint = Blueprint("gthread", "postgresql", clocks=(150, -150))
    strike(blueprint, "kill a worker", 2, tmp_path, own_services)
