"""An SQLite file that is deleted, or replaced by a backup, under the two processes of a server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support import wait_until
from support.servers import gunicorn

from backjob import Status

from .conftest import Serve

pytestmark = pytest.mark.live

TWO_PROCESSES = gunicorn("gthread", workers=2, threads=4)


def delete(file: Path, backup: Path) -> None:
    file.unlink()


def restore(file: Path, backup: Path) -> None:
    backup.rename(file)


@pytest.mark.parametrize("replace", [delete, restore], ids=lambda replace: replace.__name__)
def test_both_processes_go_on_with_the_file_at_that_path(
    run_server: Serve, replace: Callable[[Path, Path], None]
) -> None:
    server = run_server(TWO_PROCESSES)
    file, backup = server.directory / "backjob.sqlite3", server.directory / "backup.sqlite3"
    ids = server.start_all("/work?seconds=0.3", count=4)["ids"]
    assert {server.end_of(job_id)["status"] for job_id in ids} == {Status.COMPLETED}
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    later = [server.start("/work") for _ in range(3)]
    assert {server.end_of(job_id)["status"] for job_id in later} == {Status.COMPLETED}
    replace(file, backup)
    wait_until(lambda: server.log.count("it is opened anew") == 2, 5)
    new = server.start_all("/work?seconds=0.3", count=8)["ids"]
    assert {server.end_of(job_id)["status"] for job_id in new} == {Status.COMPLETED}
    assert not {*ids, *later} & {*new}
    server.assert_ran_once(new)
    server.stop()
    with closing(sqlite3.connect(file)) as restarted:
        assert {job_id for (job_id,) in restarted.execute("SELECT id FROM background_job")} >= {*new}
    assert server.log.count("it is opened anew") == 2
