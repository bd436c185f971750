"""What stands in front of BackJob: another app under some paths, and a maintenance page for a while."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import wait_until
from support.servers import GTHREAD, ONE_SYNC, WAITRESS, Setup

from backjob import Status

from .conftest import Serve

pytestmark = pytest.mark.live

SETUPS = [WAITRESS, GTHREAD, ONE_SYNC]


def read_answered(folder: Path) -> list[str]:
    file = folder / "answered.txt"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("monitor", ["auto", "leave"])
@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_an_app_in_front_gets_no_form(run_server: Serve, setup: Setup, monitor: str, tmp_path: Path) -> None:
    """Nor a method with effects, whatever it answers."""
    server = run_server(setup, app="in_front:application", monitor=monitor, launch_timeout=2)
    ours = server.start("/work", method="POST", data={"a": 1})
    for status in (200, 302, 404, 500):
        job_id = server.start(f"/shop/{status}", method="POST", data={"a": 1})
        end = server.end_of(job_id, 40)
        assert end["status"] == Status.FAILED
        assert f"something in front of BackJob answers /shop/{status}: put BackJob outside" in end["status_text"]
    assert server.end_of(ours)["status"] == Status.COMPLETED
    server.assert_ran_once([ours])
    answered = read_answered(tmp_path)
    assert {line.rpartition("/")[0] for line in answered} == {"GET /shop"}
    assert all(line.endswith(" 0") for line in answered)


@pytest.mark.parametrize(
    ("setup", "status"),
    [(WAITRESS, "403 Forbidden"), (GTHREAD, "302 Found"), (ONE_SYNC, "503 Service Unavailable")],
    ids=str,
)
def test_jobs_outlast_a_maintenance_page(run_server: Serve, setup: Setup, status: str, tmp_path: Path) -> None:
    """They run soon after it, once, though all that they met in it was final and longer than launch_timeout."""
    server = run_server(setup, app="in_front:application", launch_timeout=0.5)
    server.end_of(server.start("/work"))
    job_ids = [server.start("/work", method=method, delay=1.5) for method in ("GET", "POST") * 2]
    (tmp_path / "maintenance").write_text(status)
    wait_until(lambda: len(read_answered(tmp_path)) > 3 * len(job_ids), 60)
    for job_id in job_ids:
        assert wait_until(lambda job_id=job_id: status[:3] in server.status(job_id)["status_text"])
    (tmp_path / "maintenance").unlink()
    assert [server.end_of(job_id)["status"] for job_id in job_ids] == [Status.COMPLETED] * 4
    server.assert_ran_once(job_ids)
