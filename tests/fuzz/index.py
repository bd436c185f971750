"""Entries of a cache as whoever writes to the cache can make them.

Records and the list of all jobs where the cache is the only store, and signed statuses where a database is behind it.
"""

from __future__ import annotations

import contextlib
import json
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.caches import make_memory_region
from support.served import Site, wrap

from backjob import BackJobError

from .judge import Judge, start_job
from .mutations import mutate_bytes, mutate_json

BOMB = zlib.compress(b"[" + b" " * (70 * 2**20) + b"]", 9)
"""It expands to more than any entry of ours."""


@contextlib.contextmanager
def fuzz(folder: Path) -> Iterator[Callable[[random.Random], None]]:
    judge = Judge()
    judge.may_run = True
    alone, front = make_memory_region(), make_memory_region()
    with wrap(folder, judge, database=None, cache=alone) as site, wrap(folder, judge, cache=front) as cached:
        jobs = [start_job(site, f"/job-{number}", delay=3600) for number in range(1, 4)]
        shown = [start_job(cached, f"/job-{number}", delay=3600) for number in range(1, 4)]
        for job_id in shown[1:]:
            cached.application.run_job(job_id, early=True)
        truth = {job_id: cached.status(job_id).as_dict() for job_id in shown}
        sound, signed = dict(_entries(alone)), dict(_entries(front))
        assert len(signed) == len(shown) - 1

        def do_round(choose: random.Random) -> None:
            if choose.random() < 0.5:
                _restore(alone, sound)
                _spoil(choose, _entries(alone))
                _use(site, choose, jobs)
            else:
                _restore(front, signed)
                _forge(choose, _entries(front))
                for job_id in shown:
                    assert cached.status(job_id).as_dict() == truth[job_id]
            judge.check()

        yield do_round


def _entries(region: Any) -> dict[str, bytes]:
    """All that the cache has."""
    return region.actual_backend._cache


def _restore(region: Any, entries: dict[str, bytes]) -> None:
    _entries(region).clear()
    _entries(region).update(entries)


def _spoil(choose: random.Random, entries: dict[str, bytes]) -> None:
    """Change one entry or two: its bytes, its JSON, or put another one in its place."""
    for _ in range(choose.choice((1, 1, 2))):
        key, other = choose.choice(sorted(entries)), choose.choice(sorted(entries))
        if choose.random() < 0.005:
            entries[key] = BOMB
        elif choose.random() < 0.2:
            entries[key] = mutate_bytes(choose, entries[key], entries[other])
        elif choose.random() < 0.3:
            entries[key] = entries[other]
        else:
            with contextlib.suppress(zlib.error, ValueError):
                changed = mutate_json(choose, json.loads(zlib.decompress(entries[key])))
                entries[key] = zlib.compress(json.dumps(changed).encode("utf-8", "surrogatepass"))


def _forge(choose: random.Random, entries: dict[str, bytes]) -> None:
    key, other = sorted(entries) if choose.random() < 0.5 else sorted(entries, reverse=True)
    mac, _, text = entries[key].decode().partition(" ")
    if choose.random() < 0.3:
        entries[key] = mutate_bytes(choose, entries[key], entries[other])
    elif choose.random() < 0.3:
        entries[key] = entries[other]  # another job's, which is signed
    else:
        entries[key] = f"{mac} {json.dumps(mutate_json(choose, json.loads(text)))}".encode()


def _use(site: Site, choose: random.Random, ids: list[int]) -> None:
    jobs, job_id = site.application.jobs, choose.choice(ids)
    uses: list[Callable[[], Any]] = [
        lambda: jobs.status(job_id).as_dict(),
        lambda: [each.as_dict() for each in jobs.find()],
        lambda: site.application.run_job(job_id, early=True),
        lambda: site.backend.store.seconds_to_next(site.backend.keyring.key_ids, site.backend.monitor.app_id),
        lambda: site.backend.store.take_due(site.backend.keyring.key_ids, "me", 30, site.backend.monitor.app_id),
        lambda: start_job(site, "/job-9", delay=3600),
        lambda: jobs.cancel(job_id),
    ]
    choose.shuffle(uses)
    for use in uses:
        with contextlib.suppress(BackJobError):
            use()
