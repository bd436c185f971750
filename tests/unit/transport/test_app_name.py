"""The option app_name: which of two processes on one table runs a job, whatever the wrapped app looks like."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.served import wrap

from backjob import Status


@pytest.mark.parametrize(("name", "is_run"), [("shop", True), ("Shop", False), ("blog", False), (None, False)])
def test_a_job_runs_in_processes_of_its_app_name(tmp_path: Path, name: str | None, is_run: bool) -> None:
    """Both wrap the same function in the same module: without the option they are one app."""
    with wrap(tmp_path, app_name="shop") as shop, wrap(tmp_path, app_name=name) as other:
        job_id = shop.start("/job")
        assert other.send(shop.token(job_id), "/job").code == (200 if is_run else 410)
        assert shop.status(job_id).status is (Status.COMPLETED if is_run else Status.STARTED)
