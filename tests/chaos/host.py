"""A host: one web server with its processes, which can be killed, stopped, reloaded, frozen and started again."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from support import ROOT, needs, wait_until
from support.places import Place, make_place

from chaos import runs
from chaos.blueprint import Blueprint

RELEASE = "release"
"""The folder of the release of backjob that a new process runs."""
_START_TIMEOUT = 90.0
_STOP_TIMEOUT = 15.0
_RELOAD_TIMEOUT = 60.0
"""A job that runs goes on to its end, and what waits for a locked database waits to its time-out."""


@dataclass
class Freeze:
    """For how long a process stood still, in seconds of the monotonic clock."""

    pid: int
    begin: float
    end: float = float("inf")


class Host:
    """It has the same port for as long as it exists: nobody else gets it while the server is down."""

    def __init__(self, blueprint: Blueprint, folder: Path, clock: int, environ: dict[str, str]) -> None:
        self._blueprint = blueprint
        self._folder = folder
        path = os.pathsep.join(map(str, (folder / RELEASE, ROOT / "tests", ROOT)))
        self._environ = environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        if clock:
            self._environ |= _shift_clock(clock, folder)
        self._place: Place = make_place()
        self.port = int(self._place.address[1])
        self._process: subprocess.Popen[bytes] | None = None
        self.killed: list[int] = []
        """The processes of the app that were killed, by their pids."""
        self.freezes: list[Freeze] = []
        self.struck = 0
        """How many runs of jobs were at work in a process when it was killed, stopped, reloaded or frozen."""

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._blueprint.list_arguments(self.port)],
                cwd=self._folder,
                env=os.environ | self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, _START_TIMEOUT)

    def workers(self) -> list[int]:
        """The processes that run the app just now."""
        if self._process is None or self._process.poll() is not None:
            return []
        if not self._blueprint.is_gunicorn:
            return [self._process.pid]
        master = self._process.pid
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
            return [pid for pid in map(int, children) if is_running(pid)]
        return []

    def wait_for_workers(self) -> list[int]:
        """The same, as soon as there are any."""
        return wait_until(self.workers, _START_TIMEOUT)

    def kill(self, pid: int) -> None:
        """SIGKILL one of the workers. The server's master starts another one; where there is none, this does."""
        self._note_strike([pid])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.killed.append(pid)
        if self._process is not None and pid == self._process.pid:
            self._process.wait(_STOP_TIMEOUT)
            self.start()

    def kill_all(self) -> None:
        """SIGKILL every process of the server. It stays down."""
        workers = self.workers()
        self._note_strike(workers)
        self._kill_group()
        self.killed += workers

    def stop(self) -> None:
        """SIGTERM, as an operator does. It stays down."""
        self._note_strike(self.workers())
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT)
        self._kill_group()

    def reload(self) -> None:
        """SIGHUP, and wait until gunicorn has replaced all its workers."""
        before = set(self.wait_for_workers())
        self._note_strike(before)
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
        wait_until(lambda: not before & set(self.workers()), _RELOAD_TIMEOUT)

    @contextlib.contextmanager
    def frozen(self, pid: int) -> Iterator[None]:
        """SIGSTOP this worker, and SIGCONT it in the end, if it is still there."""
        self._note_strike([pid])
        freeze = Freeze(pid, time.monotonic())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self.freezes.append(freeze)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            freeze.end = time.monotonic()

    def remove(self) -> None:
        """At the end."""
        self.stop()
        self._place.socket.close()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server has ended: {self._folder / 'server.log'}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        return False

    def _note_strike(self, pids: Collection[int]) -> None:
        self.struck += sum(mark.pid in pids for mark in runs.find_open(runs.read(self._folder)))

    def _kill_group(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_STOP_TIMEOUT)
            self._process = None


def is_running(pid: int) -> bool:
    """Does this process exist, and is it more than a number that nobody has asked for?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZXx"
    except OSError:
        return False


def _shift_clock(seconds: int, folder: Path) -> dict[str, str]:
    """What makes a process believe in another time of day."""
    library = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([needs.program("gcc"), "-shared", "-fPIC", "-O2", "-o", library, source], check=True, timeout=60)
    return {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(seconds)}
