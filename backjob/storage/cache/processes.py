"""The processes that share the jobs of a cache, in one entry: their slots, and when their registration ends.

Times are this host's. Knows nothing of jobs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from backjob.storage.queries import VERSION_GRACE

from .entries import CacheEntries

_Processes = dict[str, list[Any]]
"""Name of each process: its slots, the end of its registration (seconds since 1970), its version of the app."""


class ProcessEntry:
    """Cache entry of the processes. ``now`` returns the time as an aware datetime. Each method raises StoreError."""

    def __init__(self, entries: CacheEntries, key: str, now: Callable[[], datetime]) -> None:
        self._entries = entries
        self._process_key = key
        self._now = now

    def register(self, name: str, slots: int | None, seconds: float, app_version: str = "") -> None:
        until = self._now().timestamp() + seconds
        self._change_processes(lambda processes: processes | {name: [slots, until, app_version]})

    def use_once(self, name: str, seconds: float) -> bool:
        is_new = True

        def add(processes: _Processes) -> _Processes:
            nonlocal is_new
            is_new = name not in processes
            return processes | ({name: [0, self._now().timestamp() + seconds, ""]} if is_new else {})

        self._change_processes(add)
        return is_new

    def read_slots(self) -> dict[str, int | None]:
        processes, now = self._decode(self._entries.read(self._process_key)), self._now().timestamp()
        return {name: slots for name, (slots, until, _) in processes.items() if until > now}

    def unregister(self, name: str) -> None:
        now = self._now().timestamp()

        def end(processes: _Processes) -> _Processes:
            """Keep the version of the app for a while after its last process."""
            slots, until, version = processes.pop(name, (None, now, ""))
            return processes | ({name: [slots, min(until, now), version]} if version else {})

        self._change_processes(end)

    def is_version_alive(self, app_version: str) -> bool:
        processes = self._decode(self._entries.read(self._process_key))
        return any(version == app_version for _, _, version in processes.values())

    def _change_processes(self, make: Callable[[_Processes], _Processes]) -> None:
        def change(value: bytes | None) -> bytes:
            return json.dumps(make(self._decode(value))).encode()

        self._entries.change(self._process_key, change)

    def _decode(self, value: bytes | None) -> _Processes:
        """Return the live processes, and recent ones that have a version of the app."""
        try:
            processes = json.loads(value or b"{}")
            now = self._now().timestamp()
            known = {name: [*row, ""][:3] for name, row in processes.items()}
            alive = {name: row for name, row in known.items() if row[1] > now - (VERSION_GRACE if row[2] else 0)}
            return alive if all(row[0] is None or isinstance(row[0], int) for row in alive.values()) else {}
        except (ValueError, TypeError, AttributeError, IndexError, RecursionError):
            return {}
