"""Names of processes in records: unique, and another process of the host can find out that the process is dead.

Knows nothing of jobs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from pathlib import Path

PROCESS = "process-"
"""Beginning of the name of a process. Other holders of a job are launches."""
RESPONSE = "response-"
"""Beginning of the holder of a job that waits for the end of a response. The process that makes it follows."""

_NAME = re.compile(r"(?:process|response)-([0-9a-f]{8})-(\d+)-([0-9a-z]+)-.*")
_DEAD_STATES = "ZX"
_UNKNOWN = "x"


def name_process() -> str:
    """Return a name for this process, made from the boot of its host, its pid, its start time and a random part."""
    return f"{PROCESS}{_name_host()}-{os.getpid()}-{_find_start(os.getpid()) or _UNKNOWN}-{secrets.token_urlsafe(9)}"


def name_response(process: str) -> str:
    """Return a holder for a job that waits for the end of a response that this process makes."""
    host, pid, start = process.removeprefix(PROCESS).split("-", 3)[:3]
    return f"{RESPONSE}{host}-{pid}-{start}-{secrets.token_urlsafe(9)}"


def is_dead(holder: str | None) -> bool:
    """Return whether the process in this name is certainly dead.

    False for a process on another host or in another container, and if a later process may have its pid.
    """
    parts = _NAME.fullmatch(holder or "")
    if parts is None or parts[1] != _name_host():
        return False
    pid, start = int(parts[2]), parts[3]
    try:
        os.kill(pid, 0)  # works also if /proc is hidden
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # a process of another user
    found = _find_start(pid)
    return found is not None and start != _UNKNOWN and found != start


def _name_host() -> str:
    """Return a digest of this boot of the host and of the PID namespace. Without /proc, return a random text."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return secrets.token_hex(4)
    return hashlib.sha256(f"{boot}{namespace}".encode()).hexdigest()[:8]


def _find_start(pid: int) -> str | None:
    """Return the start time of a process in the kernel's ticks, "0" for a zombie, None if it is unknown."""
    with contextlib.suppress(OSError, IndexError):
        # The second field is the program's name in parentheses, which may contain any characters.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "0" if fields[0] in _DEAD_STATES else fields[19]
    return None
