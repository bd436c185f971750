"""What this process vouches for just now: the jobs that it runs, those that it holds, and what it has yet to write.

Told by its requests and threads, read by its keeper. Each use is one step of a dict: no thread ever waits for another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .store import Store


class Vouching:
    """The leases and holds of one process, each by what stands in its record."""

    def __init__(self) -> None:
        self._leases: dict[str, int] = {}
        self._holds: dict[int, str] = {}
        self._postponed: deque[Callable[[Store], object]] = deque()

    @property
    def leases(self) -> dict[str, int]:
        """The claims of the jobs that run here, and their ids."""
        return dict(self._leases)

    @property
    def holds(self) -> dict[int, str]:
        """The jobs that are held for a launch or a response, and by which name."""
        return dict(self._holds)

    def lease(self, job_id: int, claim: str) -> None:
        """Vouch for a job that was claimed."""
        self._leases[claim] = job_id

    def end_lease(self, claim: str) -> None:
        """This run is over, and its end is written."""
        self._leases.pop(claim, None)

    def hold(self, job_id: int, holder: str) -> None:
        """Vouch for a job that waits."""
        self._holds[job_id] = holder

    def end_hold(self, job_id: int) -> None:
        """It waits no more, or for somebody else."""
        self._holds.pop(job_id, None)

    def postpone(self, write: Callable[[Store], object]) -> None:
        """Something is known about a job, and could not be written: this writes it as soon as the store is back."""
        self._postponed.append(write)

    def write_postponed(self, store: Store) -> None:
        """Write what was postponed. Any thread may call this, with a store of its own: each write is taken by one.

        Raises StoreError, and the rest stays for the next time. That begins with another write, because the store may
        refuse this one for what it is.
        """
        while self._postponed:
            try:
                write = self._postponed.popleft()
            except IndexError:  # another thread was quicker
                return
            try:
                write(store)
            except BaseException:
                self._postponed.append(write)
                raise
