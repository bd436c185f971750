"""The processes that share the jobs of a cache: one cell, with the slots of each and the time until when it is there.

Times are this host's. Knows nothing of jobs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from .cells import Cells

_Processes = dict[str, list[Any]]
"""For each name its slots, and until when it is there, in seconds since 1970."""


class ProcessCell:
    """The cell of the processes. ``now`` gives the time as an aware datetime. Each method raises StoreError."""

    def __init__(self, cells: Cells, key: str, now: Callable[[], datetime]) -> None:
        self._cells = cells
        self._process_key = key
        self._now = now

    def register(self, name: str, slots: int | None, seconds: float) -> None:
        until = self._now().timestamp() + seconds
        self._change_processes(lambda processes: processes | {name: [slots, until]})

    def read_slots(self) -> dict[str, int | None]:
        processes = self._decode(self._cells.read(self._process_key))
        return {name: slots for name, (slots, _) in processes.items()}

    def unregister(self, name: str) -> None:
        self._change_processes(lambda processes: {each: found for each, found in processes.items() if each != name})

    def _change_processes(self, make: Callable[[_Processes], _Processes]) -> None:
        def change(value: bytes | None) -> bytes:
            return json.dumps(make(self._decode(value))).encode()

        self._cells.change(self._process_key, change)

    def _decode(self, value: bytes | None) -> _Processes:
        """Those that are there; none of what is none of ours."""
        try:
            processes = json.loads(value or b"{}")
            now = self._now().timestamp()
            alive = {name: [slots, until] for name, (slots, until) in processes.items() if until > now}
            return alive if all(slots is None or isinstance(slots, int) for slots, _ in alive.values()) else {}
        except (ValueError, TypeError, AttributeError, RecursionError):
            return {}
