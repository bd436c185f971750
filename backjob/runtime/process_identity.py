"""Who a process is in the records of jobs: a name that no other process ever has had.

From the name another process of the same host can tell that its bearer is dead. Knows nothing of jobs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from pathlib import Path

PROCESS = "process-"
"""How the holder of a job begins that is a process, and not a launch."""
RESPONSE = "response-"
"""How the holder of a job begins that waits for the end of a response: then comes the process that makes it."""

_NAME = re.compile(r"(?:process|response)-([0-9a-f]{8})-(\d+)-([0-9a-z]+)-.*")
_DEAD_STATES = "ZX"
_UNKNOWN = "x"


def name_process() -> str:
    """This process, from now on: its host as it was booted, its pid, when it began, and chance."""
    return f"{PROCESS}{_name_host()}-{os.getpid()}-{_find_start(os.getpid()) or _UNKNOWN}-{secrets.token_urlsafe(9)}"


def name_response(process: str) -> str:
    """What a process with this name holds a job by until a response of it has ended."""
    host, pid, start = process.removeprefix(PROCESS).split("-", 3)[:3]
    return f"{RESPONSE}{host}-{pid}-{start}-{secrets.token_urlsafe(9)}"


def is_dead(holder: str | None) -> bool:
    """Is it certain that the process in this name lives no more? Never of one on another host, or in another container.

    One whose process can't be told from a later one with its pid is not certain either.
    """
    parts = _NAME.fullmatch(holder or "")
    if parts is None or parts[1] != _name_host():
        return False
    pid, start = int(parts[2]), parts[3]
    try:
        os.kill(pid, 0)  # whatever a hidden /proc does not show
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # another user's
    found = _find_start(pid)
    return found is not None and start != _UNKNOWN and found != start


def _name_host() -> str:
    """This host since it was booted, and the part of it in which a pid means one process; elsewhere only chance."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return secrets.token_hex(4)
    return hashlib.sha256(f"{boot}{namespace}".encode()).hexdigest()[:8]


def _find_start(pid: int) -> str | None:
    """When this process began, by the kernel's clock; "0" if it has ended and nobody has asked for its end yet."""
    with contextlib.suppress(OSError, IndexError):
        # The name of the program comes second, in brackets, and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "0" if fields[0] in _DEAD_STATES else fields[19]
    return None
