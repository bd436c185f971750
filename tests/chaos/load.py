"""The load: clients that start jobs of all kinds and note what was accepted, and a visitor who looks at pages."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from chaos.deployment import Deployment
from chaos.host import Host
from chaos.kinds import KINDS, Kind

_CLIENTS = 3
_TIMEOUT = 20.0
_LONGEST_QUEUE = 20
"""Live jobs beyond which no more are started: on a slow machine the queue would grow as long as the run lasts."""
BROKEN = (OSError, http.client.HTTPException)
"""What a client meets whose server dies or hangs."""


@dataclass(frozen=True)
class Asked:
    """A job that a client asked for. ``job`` is its id when the answer came; then it is accepted."""

    tag: str
    kind: Kind
    job: int | None
    is_refused: bool = False
    """Did the app answer that it can't be recorded?"""
    pid: int = 0
    """The process that answered."""


@dataclass
class Journal:
    """What the clients know. Each one appends; whoever reads does so in the end."""

    asked: list[Asked] = field(default_factory=list)
    cancelled: set[int] = field(default_factory=set)
    """The jobs whose end was asked for, answered or not."""
    breaches: list[str] = field(default_factory=list)
    """What a visitor saw that must not be."""
    pages: int = 0
    longest_page: float = 0.0

    @property
    def accepted(self) -> int:
        return sum(each.job is not None for each in self.asked)


class Load:
    """Clients that ask for ``jobs`` jobs, and then for more at the same pace until they are told to stop.

    ``pace``: jobs a second, all clients together; ``brevity``: what the seconds of each job are multiplied with.
    """

    def __init__(self, site: Deployment, seed: str, pace: float, brevity: float = 1.0) -> None:
        self.journal = Journal()
        self._site = site
        self._seed = seed
        self._pause = _CLIENTS / pace
        self._brevity = brevity
        self._is_over = threading.Event()
        self._log = site.folder / "clients.jsonl"

    @contextlib.contextmanager
    def running(self) -> Iterator[Journal]:
        """As long as the block lasts. An error of a client's own code is raised at its end."""
        with ThreadPoolExecutor(_CLIENTS + 1) as pool:
            clients = [pool.submit(self._start_jobs, number) for number in range(_CLIENTS)]
            clients.append(pool.submit(self._look_around))
            try:
                yield self.journal
            finally:
                self._is_over.set()
            for client in clients:
                client.result()

    def start(self, kind: Kind, chance: random.Random) -> int | None:
        """Have a random host start a job of this kind. Its id, if it was accepted."""
        tag = f"{chance.getrandbits(48):012x}"
        seconds = chance.uniform(*kind.seconds) * self._brevity
        options = dict(kind.options)
        if kind.longest_delay:
            options["delay"] = round(chance.uniform(0, kind.longest_delay) * self._brevity, 3)
        target = f"/job/{kind.name}?" + urlencode({"tag": tag, "seconds": f"{seconds:.3f}"})
        told = {"target": target, "options": options, "page_fails": kind.page_fails}
        self._note({"ask": tag, "kind": kind.name})
        job, pid, is_refused = None, 0, False
        with contextlib.suppress(*BROKEN):
            code, answer = ask(chance.choice(self._site.hosts), "POST", "/start", told)
            if code == (500 if kind.page_fails else 200) and isinstance(answer, dict):
                job, pid = answer["job"], answer["pid"]
            is_refused = code == 503
        self._note({"ask": tag, "job": job, "is_refused": is_refused})
        self.journal.asked.append(Asked(tag, kind, job, is_refused, pid))
        return job

    def _start_jobs(self, number: int) -> None:
        chance = random.Random(f"{self._seed} client {number}")
        kinds, weights = list(KINDS.values()), [kind.weight for kind in KINDS.values()]
        while not self._is_over.wait(chance.uniform(0.2, 1.8) * self._pause):
            if self._site.count_live() > _LONGEST_QUEUE:
                continue
            [kind] = chance.choices(kinds, weights)
            job = self.start(kind, chance)
            if job is not None and kind.is_cancelled:
                self._is_over.wait(chance.uniform(0, 1.5))
                self.journal.cancelled.add(job)
                with contextlib.suppress(*BROKEN):
                    ask(chance.choice(self._site.hosts), "POST", f"/cancel?id={job}")

    def _look_around(self) -> None:
        """An ordinary page always answers well, and what is shown of a job never goes back."""
        chance = random.Random(f"{self._seed} visitor")
        shown: dict[int, dict[str, Any]] = {}
        while not self._is_over.wait(0.1):
            with contextlib.suppress(*BROKEN):
                begin = time.monotonic()
                code, _ = ask(chance.choice(self._site.hosts), "GET", "/")
                self.journal.pages += 1
                self.journal.longest_page = max(self.journal.longest_page, time.monotonic() - begin)
                if code != 200:
                    self.journal.breaches.append(f"an ordinary page answered {code}")
                known = [each.job for each in self.journal.asked if each.job is not None]
                if known:
                    job = chance.choice(known[-20:])
                    code, status = ask(chance.choice(self._site.hosts), "GET", f"/status?id={job}")
                    if code == 200:
                        self.journal.breaches += find_steps_back(shown.get(job), status)
                        shown[job] = status
                    elif code != 503:
                        self.journal.breaches.append(f"job {job}: its status answered {code}")

    def _note(self, line: dict[str, Any]) -> None:
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")


def ask(host: Host, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request on a connection of its own: the code, and the answer if it is JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", host.port, timeout=_TIMEOUT)
    with contextlib.closing(connection):
        headers = {"Connection": "close"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        text = response.read()
    is_json = response.headers.get_content_type() == "application/json"
    return response.status, json.loads(text) if is_json else text


def find_steps_back(before: dict[str, Any] | None, now: dict[str, Any]) -> list[str]:
    """What was shown of a job at first and then, if the second can't follow the first."""
    if before is None or before == now:
        return []
    words = f"{before} and then {now}"
    if before["status"] >= 2:
        return [f"job {now['id']} was final and changed: {words}"]
    if now["attempt"] < before["attempt"]:
        return [f"job {now['id']} went back to an earlier attempt: {words}"]
    is_same = now["attempt"] == before["attempt"]
    if is_same and (now["status"] < before["status"] or now["progress"] < before["progress"]):
        return [f"job {now['id']} went back: {words}"]
    return []
