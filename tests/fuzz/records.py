"""Rows as somebody without the key can write them: nothing runs but what was sealed for that row, and only as its user.

What reads rows (pages, the keeper, the command) raises nothing but documented errors, whatever stands in a row, and the
other jobs stay readable.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.served import Site, wrap

from backjob import BackJobError, Status
from backjob.keyring import Keyring

from .judge import Judge, Table, start_job
from .mutations import make_value, mutate_bytes

JOBS = 3


@contextlib.contextmanager
def fuzz(folder: Path) -> Iterator[Callable[[random.Random], None]]:
    judge = Judge()
    judge.may_run = True
    with wrap(folder, judge, lease=1.0) as site:
        # The delay keeps a sweep of sound rows from launching them. Running them anyway is each round's own business.
        jobs = [start_job(site, f"/job-{number}", delay=3600, retries=1) for number in range(1, JOBS + 1)]
        table, stranger = Table(site.path), Keyring(["another key, which somebody else has made up"])
        sound = table.read()

        def do_round(choose: random.Random) -> None:
            table.put_back(sound)
            spoiled = choose.choice(jobs)
            if choose.random() < 0.3:
                request = site.backend.keyring.unseal(spoiled, site.row(spoiled).uid, site.row(spoiled).sealed)
                _forge_seal(choose, table, stranger.seal(spoiled, site.row(spoiled).uid, request), spoiled, jobs)
            else:
                for _ in range(choose.choice((1, 1, 2, 5))):
                    column = choose.choice([each for each in table.columns if each not in ("id", "sealed")])
                    with contextlib.suppress(OverflowError, UnicodeEncodeError, table.connection.Error):
                        table.write(spoiled, column, _make_cell(choose))
            _use(site, choose, spoiled)
            judge.check()
            for job_id in jobs:
                if job_id != spoiled:
                    assert site.status(job_id).status is Status.STARTED, f"job {job_id} was changed with {spoiled}"

        with contextlib.closing(table.connection):
            yield do_round


def _make_cell(choose: random.Random) -> Any:
    value = make_value(choose)
    return value if not isinstance(value, (list, dict)) else str(value)


def _forge_seal(choose: random.Random, table: Table, foreign: bytes, spoiled: int, jobs: list[int]) -> None:
    """A sealed request that is cut, changed, another row's (with that row's uid too), or of another key."""
    other = choose.choice([job_id for job_id in jobs if job_id != spoiled])
    rows = dict(table.connection.execute("SELECT id, sealed FROM background_job").fetchall())
    own, theirs = bytes(rows[spoiled]), bytes(rows[other])
    forged = choose.choice([foreign, theirs, mutate_bytes(choose, own, theirs)])
    if forged is theirs:  # two rows can't have one uid: the other row is taken away, or its uid changed
        uid = table.connection.execute("SELECT uid FROM background_job WHERE id = ?", (other,)).fetchone()[0]
        table.write(other, "uid", "0" * 32)
        table.write(spoiled, "uid", uid)
    table.write(spoiled, "sealed", forged)


def _use(site: Site, choose: random.Random, job_id: int) -> None:
    """All that reads a row, and what runs it."""
    jobs = site.application.jobs
    uses: list[Callable[[], Any]] = [
        lambda: jobs.status(job_id).as_dict(),
        lambda: [each.as_dict() for each in jobs.find()],
        lambda: jobs.find(choose.choice(list(Status))),
        lambda: site.application.run_job(job_id, early=True),
        lambda: site.send(site.token(job_id), choose.choice(("/", "/job-1", "/job-9")), "POST", b"for=job-9"),
        lambda: jobs.cancel(job_id),
        lambda: site.backend.store.take_due(site.backend.keyring.key_ids, "me", 30, site.backend.monitor.app_id),
        lambda: jobs.fail("It failed.", job_id),
    ]
    choose.shuffle(uses)
    for use in uses:
        with contextlib.suppress(BackJobError):
            use()
