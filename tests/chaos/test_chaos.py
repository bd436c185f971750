"""Each fault of the servers once, in a short form: a few jobs on a real server, and no promise broken."""

from __future__ import annotations

import pytest

from chaos.blueprint import Blueprint
from chaos.faults import FAULTS, SERVER
from chaos.short import strike

pytestmark = pytest.mark.live

SHORT = {
    "kill a worker": (Blueprint("gthread", "sqlite"), 3),
    "kill everything": (Blueprint("gevent", "mariadb"), 1),
    "stop and start": (Blueprint("waitress", "postgresql"), 1),
    "reload": (Blueprint("sync", "postgresql"), 1),
    "recycle": (Blueprint("gthread", "mariadb", recycle=30), 1),
    "overrun": (Blueprint("sync", "sqlite"), 1),
    "rotate the key": (Blueprint("gthread", "postgresql"), 1),
    "skew the versions": (Blueprint("gthread", "postgresql"), 1),
    "reference old jobs": (Blueprint("gthread", "postgresql"), 1),
    "freeze a worker": (Blueprint("gthread", "postgresql"), 1),
}
"""Where each fault strikes, and how often."""


def test_each_fault_is_there() -> None:
    assert SHORT.keys() == {name for name, each in FAULTS.items() if each.place == SERVER}


@pytest.mark.parametrize("name", SHORT)
def test_fault(name, tmp_path, own_services):
    outcome = strike(SHORT[name][0], name, SHORT[name][1], tmp_path, own_services)
    if name == "freeze a worker":  # a job that woke up in it found at its next sign that it had ended
        assert outcome.verdict.seen["refused late"] > 0
