"""One run: a deployment under load, faults at random moments, and the verdict when all has come to rest."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import wait_until
from support.services import OwnServices

from chaos import runs
from chaos.blueprint import LEASE, Blueprint
from chaos.deployment import FINAL_FROM, Deployment, deploy
from chaos.faults import AROUND, SERVER, Fault
from chaos.load import BROKEN, Load, ask
from chaos.verdict import Verdict, judge

_LONGEST_LOOK = 30.0


@dataclass(frozen=True)
class Plan:
    """How much of what. A run goes on until it has had all of it, or until its ``limit`` of seconds."""

    blueprint: Blueprint
    faults: Sequence[Fault]
    seed: str
    jobs: int
    """Accepted jobs, at least."""
    kills: int = 0
    """Killed processes, at least."""
    strikes: int = 1
    """How often each fault strikes, at least."""
    is_endless: bool = True
    """Do faults go on after that, as long as jobs or kills are missing?"""
    seconds: float = 0.0
    pace: float = 3.0
    """Jobs that are started in a second."""
    brevity: float = 1.0
    """What the length of each job is multiplied with."""
    pauses: tuple[float, float] = (0.3, 2.0)
    """Seconds between two faults of a place."""
    calm: float = 4.0
    """What they are multiplied with around the servers, and once there were strikes and kills enough: while a database
    or a server is away, no jobs are accepted."""
    limit: float = 600.0
    patience: float = 90.0
    """Seconds after the last fault within which all jobs must have ended."""


@dataclass
class Outcome:
    """What a run gave."""

    plan: Plan
    verdict: Verdict
    kills: int
    struck: int
    """Runs of jobs that were at work in what was broken."""
    strikes: Counter[str]
    seconds: float
    settled: float
    """Seconds from the last fault to the end of the last job."""
    pages: int
    longest_page: float
    folder: Path

    def __str__(self) -> str:
        verdict = self.verdict
        counts = {
            "accepted": verdict.accepted,
            "completed": verdict.completed,
            "failed with a cause": verdict.causes.total(),
            "cancelled": verdict.cancelled,
            "lost": len(verdict.lost),
            "run twice": len(verdict.twice),
            "otherwise wrong": len(verdict.wrongs),
            "kills": self.kills,
            "runs struck": self.struck,
        }
        more = {**verdict.causes, **verdict.seen, **self.strikes}
        lines = [
            f"{self.plan.blueprint.name}, seed {self.plan.seed}: " + ", ".join(f"{k} {v}" for k, v in counts.items()),
            "  " + ", ".join(f"{name}: {count}" for name, count in more.items() if count),
            f"  {self.seconds:.0f} s, {self.settled:.1f} s of them after the last fault; files in {self.folder}",
            f"  {self.pages} ordinary pages, the longest {self.longest_page:.1f} s",
        ]
        return "\n".join([*lines, *verdict.explain().splitlines()])


class _Strikers:
    """Two threads, one for the faults of each place, that strike until they are told that it is enough."""

    def __init__(self, site: Deployment, plan: Plan) -> None:
        self._site = site
        self._plan = plan
        self._is_enough = threading.Event()
        self._hands: list[Future[None]] = []
        self.strikes: Counter[str] = Counter()

    @contextlib.contextmanager
    def striking(self) -> Iterator[None]:
        """As long as the block lasts, and until the last fault is mended. Raises what a fault's own code raises."""
        with ThreadPoolExecutor(2) as pool:
            self._hands = [pool.submit(self._strike, place) for place in (SERVER, AROUND)]
            try:
                yield
            finally:
                self._is_enough.set()
            self._raise_errors()

    def list_missing(self) -> list[str]:
        """The faults that have not struck yet as often as they are to. Raises what a fault's own code has raised."""
        self._raise_errors(timeout=0)
        least = self._plan.strikes
        return [f"the fault {each.name!r}" for each in self._plan.faults if self.strikes[each.name] < least]

    def _raise_errors(self, timeout: float | None = None) -> None:
        for hand in self._hands:
            with contextlib.suppress(TimeoutError):
                hand.result(timeout)

    def _strike(self, place: str) -> None:
        chance = random.Random(f"{self._plan.seed} {place}")
        faults = [each for each in self._plan.faults if each.place == place]
        for each in self._choose(faults, chance):
            calm = self._plan.calm if place == AROUND else 1.0
            calm *= self._plan.calm if self._has_done_enough() else 1.0
            if self._is_enough.wait(chance.uniform(*self._plan.pauses) * calm):
                break
            self._log(f"{each.name} …")
            each.strike(self._site, chance)
            self.strikes[each.name] += 1
            self._log(f"{each.name} is over")

    def _has_done_enough(self) -> bool:
        """Are only jobs missing, which come sooner where less is broken?"""
        is_struck = all(self.strikes[each.name] >= self._plan.strikes for each in self._plan.faults)
        return bool(self._plan.jobs) and is_struck and self._site.kills >= self._plan.kills

    def _choose(self, faults: list[Fault], chance: random.Random) -> Iterator[Fault]:
        """All of them, as often as planned; then those that kill, as long as kills are missing, and all again."""
        rounds = itertools.count() if self._plan.is_endless and faults else range(self._plan.strikes)
        for number in rounds:
            is_short_of_kills = number >= self._plan.strikes and self._site.kills < self._plan.kills
            wanted = [each for each in faults if each.kills] if is_short_of_kills else []
            yield from chance.sample(wanted or faults, len(wanted or faults))

    def _log(self, words: str) -> None:
        with (self._site.folder / "faults.log").open("a") as log:
            log.write(f"{time.monotonic():.3f} {words}\n")


def run(plan: Plan, folder: Path, services: OwnServices) -> Outcome:
    """Do it all. Raises AssertionError where something of the harness does not come about in its time."""
    begin = time.monotonic()
    with deploy(plan.blueprint, folder, services) as site:
        load, strikers = Load(site, plan.seed, plan.pace, plan.brevity), _Strikers(site, plan)
        site.start_job = load.start

        def list_missing() -> list[str]:
            missing = strikers.list_missing()
            missing += [f"{load.journal.accepted} of {plan.jobs} jobs"] * (load.journal.accepted < plan.jobs)
            missing += [f"{site.kills} of {plan.kills} kills"] * (site.kills < plan.kills)
            return missing

        with load.running() as journal:
            with strikers.striking():
                while (missing := list_missing()) or time.monotonic() < begin + plan.seconds:
                    assert time.monotonic() < begin + plan.seconds + plan.limit, f"a run takes too long: {missing}"
                    time.sleep(0.1)
            mended = time.monotonic()
        site.wait_for_the_end(plan.patience)
        settled = time.monotonic() - mended
        statuses = read_statuses(site)
        verdict = judge(journal, runs.read(folder), statuses, site.freezes, LEASE, site.list_workers())
        verdict.wrongs += find_differences(site.read_statuses(), statuses)
        seconds = time.monotonic() - begin
        return Outcome(
            plan,
            verdict,
            kills=site.kills,
            struck=site.struck,
            strikes=strikers.strikes,
            seconds=seconds,
            settled=settled,
            pages=journal.pages,
            longest_page=journal.longest_page,
            folder=folder,
        )


def read_statuses(site: Deployment) -> dict[int, dict[str, Any]]:
    """What the app shows of each job that the database has."""
    shown: dict[int, dict[str, Any]] = {}

    def look(job: int) -> bool:
        with contextlib.suppress(*BROKEN):
            code, status = ask(site.hosts[0], "GET", f"/status?id={job}")
            if code == 200:
                shown[job] = status
            return code in (200, 404)
        return False

    for job in site.read_statuses():
        wait_until(functools.partial(look, job), _LONGEST_LOOK)
    return shown


def find_differences(stored: dict[int, int], shown: dict[int, dict[str, Any]]) -> list[str]:
    """Where the app shows another final status than the database has."""
    return [
        f"job {job} is shown with status {shown[job]['status'] if job in shown else 'nothing'} and has {status}"
        for job, status in stored.items()
        if job not in shown or (shown[job]["status"] != status and shown[job]["status"] >= FINAL_FROM)
    ]
