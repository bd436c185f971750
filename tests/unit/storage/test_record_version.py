"""A release and the next one share the jobs: what is newer is left alone, what is older is run.

The next release is made up: a copy of the package with a higher RECORD_VERSION, one more status, one more field in the
sealed request, and one more column.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dogpile.cache import make_region
from support import TESTS
from support.records import KEY_IDS
from support.served import Site, wrap

import backjob
from backjob import BackJobError, Status
from backjob.keyring import MONITOR, WORKER, NewerRecordError, SealError
from backjob.model.job import RECORD_VERSION
from backjob.storage.cache.entries import open_entries
from backjob.storage.cache.store import CacheStore

CHANGES = {
    "model/job.py": [
        (f"RECORD_VERSION = {RECORD_VERSION}\n", f"RECORD_VERSION = {RECORD_VERSION + 1}\n"),
        ("    by_connect: bool = False\n", '    by_connect: bool = False\n    shade: str = "light"\n'),
        ("    record_version: int\n", "    record_version: int\n    shade: str\n"),
        ("record_version=RECORD_VERSION,\n", 'record_version=RECORD_VERSION,\n            shade="dark",\n'),
    ],
    "model/transitions.py": [
        ("    CANCELLED = 4\n", "    CANCELLED = 4\n    SKIPPED = 5\n"),
        ("FINAL = frozenset({", "FINAL = frozenset({Status.SKIPPED, "),
        ("    RETRY = ", "    SKIP = {Status.STARTED}, Status.SKIPPED\n    RETRY = "),
    ],
    "storage/sql/schema.py": [
        (
            '        Column("anonymous",',
            '        Column("shade", String(20), nullable=False, server_default=""),\n        Column("anonymous",',
        )
    ],
}
RECORD = """
with wrap(folder) as site:
    store = site.backend.store
    ids = {name: site.start("/job", as_user=False) for name in ("waits", "launched", "runs", "failed", "skipped")}
    waits, launched = site.row(ids["waits"]), site.row(ids["launched"])
    assert store.hold(waits.id, 1, waits.held_by, None, 0)
    assert store.claim(ids["runs"], 1, "a process that is gone", -1, 0)
    assert store.move(Move.FAIL, ids["failed"], text="no")
    assert store.move(Move.SKIP, ids["skipped"], text="not today")
    print(json.dumps(ids))
"""
ADD_TO_CACHE = """
from dogpile.cache import make_region

from backjob.storage.cache.store import CacheStore
from backjob.storage.cache.entries import open_entries

cells = open_entries(make_region().configure("dogpile.cache.dbm", arguments={"filename": str(folder / "cache")}), 2)
store = CacheStore(cells, "backjob-")
ids = {name: add(store) for name in ("waits", "runs", "skipped")}
assert store.claim(ids["runs"], 1, "a process that is gone", -1, 0)
assert store.move(Move.SKIP, ids["skipped"])
cells.dispose()
print(json.dumps(ids))
"""
RUN = """
with wrap(folder) as site:
    for job_id in site.sql("SELECT id FROM background_job"):
        assert site.row(*job_id).shade == ""
        assert site.work(*job_id).code == 200
    print("{}")
"""

RunNext = Callable[[str], Any]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the next release is."""
    folder = tmp_path_factory.mktemp("next")
    shutil.copytree(Path(backjob.__file__).parent, folder / "backjob", ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in CHANGES.items():
        text = (folder / "backjob" / name).read_text()
        for before, after in changes:
            assert text.count(before) == 1, (name, before)
            text = text.replace(before, after)
        (folder / "backjob" / name).write_text(text)
    return folder


@pytest.fixture
def run_next(package: Path, tmp_path: Path) -> RunNext:
    """Run lines in a process of the next release: what they print as JSON."""
    head = (
        "import json, sys\nfrom pathlib import Path\nfrom support.records import add\nfrom support.served import wrap\n"
    )
    head += "from backjob.model.job import Move\nfolder = Path(sys.argv[1])\n"

    def run(lines: str) -> Any:
        path = os.pathsep.join([str(package), str(TESTS)])
        done = subprocess.run(
            [sys.executable, "-c", head + lines, str(tmp_path)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def newer(run_next: RunNext, tmp_path: Path) -> Iterator[tuple[Site, dict[str, int]]]:
    """A process of this release, and the ids of the jobs that the next one has left in the database."""
    ids = run_next(RECORD)
    with wrap(tmp_path) as site:
        site.pause_launches()
        before = site.rows()
        yield site, ids
        assert site.rows() == before


def test_newer_rows_are_neither_taken_nor_waited_for(newer: tuple[Site, dict[str, int]]) -> None:
    site, _ = newer
    store, key_ids, app_id = site.backend.store, site.backend.keyring.key_ids, site.backend.monitor.app_id
    assert store.take_due(key_ids, "holder", 30, app_id) is None
    assert store.seconds_to_next(key_ids, app_id) is None


def test_newer_rows_are_not_recovered(newer: tuple[Site, dict[str, int]]) -> None:
    site, _ = newer
    assert site.backend.store.find_leased(site.backend.keyring.key_ids, site.backend.monitor.app_id) == []
    assert site.application.sweep() == 0


def test_newer_rows_are_not_pruned(newer: tuple[Site, dict[str, int]]) -> None:
    store = newer[0].backend.store
    later = store.time() + timedelta(days=400)
    assert store.prune(later, later, 99) == 0


def test_newer_rows_are_shown(newer: tuple[Site, dict[str, int]]) -> None:
    site, ids = newer
    shown = {name: site.status(job_id) for name, job_id in ids.items()}
    assert {name: status.status for name, status in shown.items()} == {
        "waits": Status.STARTED,
        "launched": Status.STARTED,
        "runs": Status.INPROGRESS,
        "failed": Status.FAILED,
        "skipped": Status.FAILED,  # the nearest that this release knows
    }
    assert shown["skipped"].status_text == "not today"
    assert {status.id for status in site.application.jobs.find()} == set(ids.values())


def test_newer_rows_are_not_changed_by_hand(newer: tuple[Site, dict[str, int]]) -> None:
    site, ids = newer
    jobs = site.application.jobs
    for name, job_id in ids.items():
        if name in ("failed", "skipped"):
            assert not jobs.cancel(job_id)
        else:
            with pytest.raises(BackJobError, match="a newer release of backjob recorded it"):
                jobs.cancel(job_id)
        jobs.fail("no", job_id)
        jobs.finish("yes", job_id)
    with pytest.raises(BackJobError, match="a newer release of backjob recorded it"):
        jobs.retry(ids["failed"])
    assert not site.application.run_job(ids["waits"])


def test_a_worker_request_for_a_newer_record_leaves_it_waiting(newer: tuple[Site, dict[str, int]]) -> None:
    """The same answer as without a free slot: the newer process tries again, and reaches one of its own release."""
    site, ids = newer
    assert site.send(site.token(ids["waits"], WORKER), "/job").code == 409


def test_a_monitor_request_for_a_newer_record_gives_it_back(run_next: RunNext, tmp_path: Path) -> None:
    ids = run_next(RECORD)
    with wrap(tmp_path) as site:
        job = site.row(ids["launched"])
        token = site.backend.keyring.sign(MONITOR, job.id, 1, job.sealed or b"", job.held_by)
        assert site.send(token.text).code == 202
        after = site.row(job.id)
        assert after == dataclasses.replace(job, held_by=None, held_until=None, read_at=after.read_at)


def test_the_seal_has_a_version_too(newer: tuple[Site, dict[str, int]]) -> None:
    """The column can be changed by anyone who can write to the database."""
    site, ids = newer
    job = site.row(ids["waits"])
    with pytest.raises(NewerRecordError):
        site.backend.keyring.unseal(job.id, job.uid, job.sealed)
    with pytest.raises(SealError) as caught:
        site.backend.keyring.unseal(job.id + 1, job.uid, job.sealed)
    assert not isinstance(caught.value, NewerRecordError), "it is another job's"


def test_a_field_that_may_be_ignored_does_not_spoil_a_record(
    package: Path, run_next: RunNext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next release has a new field, and the version is the same."""
    job_py = package / "backjob" / "model" / "job.py"
    text = job_py.read_text()
    job_py.write_text(text.replace(f"RECORD_VERSION = {RECORD_VERSION + 1}\n", f"RECORD_VERSION = {RECORD_VERSION}\n"))
    try:
        ids = run_next(RECORD)
    finally:
        job_py.write_text(text)
    with wrap(tmp_path) as site:
        assert site.work(ids["waits"]).code == 200
        assert site.status(ids["waits"]).status is Status.COMPLETED


def test_the_next_release_runs_older_records(run_next: RunNext, tmp_path: Path) -> None:
    """The new column was added before the deploy, and a process of this release goes on recording jobs."""
    with wrap(tmp_path) as site:
        job_ids = [site.start("/job")]
        site.sql("ALTER TABLE background_job ADD COLUMN shade VARCHAR(20) DEFAULT '' NOT NULL")
        job_ids.append(site.start("/job"))
        run_next(RUN)
        assert [site.status(job_id).status for job_id in job_ids] == [Status.COMPLETED] * 2


def test_newer_records_in_a_cache_are_left_alone(run_next: RunNext, tmp_path: Path) -> None:
    ids = run_next(ADD_TO_CACHE)
    region = make_region().configure("dogpile.cache.dbm", arguments={"filename": str(tmp_path / "cache")})
    cells = open_entries(region, 2)
    store = CacheStore(cells, "backjob-")
    assert store.take_due(KEY_IDS, "holder", 30) is None
    assert store.seconds_to_next(KEY_IDS) is None
    assert store.find_leased(KEY_IDS) == []
    later = store.time() + timedelta(days=400)
    store.prune(later, later, 99)
    assert not store.hold(ids["waits"], 1, None, "holder", 30)
    assert not store.request_cancel(ids["runs"])
    shown = {name: store.status(job_id) for name, job_id in ids.items()}
    assert {name: status and status.status for name, status in shown.items()} == {
        "waits": Status.STARTED,
        "runs": Status.INPROGRESS,
        "skipped": Status.FAILED,
    }
    assert {job.id for job in store.find(None, None, 9, None)} == set(ids.values())
    cells.dispose()
