"""Processes beside this one that have given themselves a name, as the ones do that run and hold jobs, and may die."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from backjob.runtime.process_identity import PROCESS

_NAME_ITSELF = (
    "import sys; from backjob.runtime.process_identity import *; print(name_process(), flush=True); sys.stdin.read()"
)


class Bearer:
    """Another process, and its name. ``before``: a command that runs it."""

    def __init__(self, *before: str) -> None:
        command = [*before, sys.executable, "-W", "ignore", "-c", _NAME_ITSELF]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.name = self.process.stdout.readline().strip()
        assert self.name.startswith(PROCESS)

    def kill(self) -> None:
        """From now on it is dead, and nobody has asked for its end yet: its pid is taken."""
        self.process.kill()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)

    def reap(self) -> None:
        """It has ended, and its pid is free."""
        self.process.communicate()


def name_dead() -> str:
    """The name of a process that was one of this host."""
    bearer = Bearer()
    bearer.reap()
    return bearer.name


class Threads:
    """A server that tells how many requests it takes at once, in the words of waitress."""

    def __init__(self, threads: int) -> None:
        self.server = self
        self.adj = self
        self.threads = threads

    def is_away(self) -> bool:
        return False

    @property
    def environ(self) -> dict[str, Any]:
        return {"waitress.client_disconnected": self.is_away}
