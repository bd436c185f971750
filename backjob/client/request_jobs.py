"""The client of an ordinary request, ``environ["backjob"]``, and the jobs that wait for its response."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from backjob.errors import BackJobError

from .backend import REQUEST_FAILED, UNDONE, Backend, Launch
from .jobs import Jobs


class RequestJobs(Jobs):
    """The jobs of an application, for the ordinary request of this environ."""

    __slots__ = ("_start_response", "_status", "waiting")

    _start_response: Callable[..., Any]
    _came_through = True

    def __init__(
        self, get_backend: Callable[[], Backend], environ: Mapping[str, Any], start_response: Callable[..., Any]
    ) -> None:
        self._get_backend = get_backend
        self._environ = environ
        self._path_info = environ.get("PATH_INFO", "")
        self._start_response = start_response
        self.waiting: tuple[Launch, ...] | None = None
        """The jobs that wait for the end of the response, None before the first one. It is empty after the app
        has returned without any. Then no job can wait for the response any more."""

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Note the status, and call the server's start_response. After a 5xx the waiting jobs are cancelled."""
        self._status = status
        if exc_info is None:
            return self._start_response(status, headers)
        return self._start_response(status, headers, exc_info)

    def end(self, is_failed: bool = False) -> None:
        """Launch the jobs that waited for the response, or cancel them if it failed. A second call does nothing."""
        launches, failure = self._take_waiting(is_failed)
        if launches:
            self._get_backend().launch_followers(launches, self._environ, failure)

    def end_late(self, is_failed: bool) -> None:
        """Have the keeper do what end() does. This call takes no lock and uses no database."""
        launches, failure = self._take_waiting(is_failed)
        if launches and launches[0].pid == os.getpid():  # in a child of a fork, they belong to the parent
            for launch in launches:
                self._get_backend().postpone_follower(launch, failure)

    def _take_waiting(self, is_failed: bool) -> tuple[tuple[Launch, ...], str]:
        """Return the jobs that wait for the response, once, and why they are to be cancelled, if they are."""
        launches, self.waiting = self.waiting or (), ()
        is_failed = is_failed or getattr(self, "_status", "5")[:1] == "5"
        return launches, REQUEST_FAILED if is_failed else ""

    def cancel_waiting(self, job_id: int) -> None:
        launches = [each for each in self.waiting or () if each.job_id == job_id]
        if launches:
            self.waiting = tuple(each for each in self.waiting or () if each.job_id != job_id) or None
            self._get_backend().launch_followers(launches, self._environ, UNDONE)

    def _check_after_response(self) -> None:
        if self.waiting is not None and not self.waiting:
            raise BackJobError("after_response comes too late: the app has returned its response already")

    def _launch_after_response(self, launch: Launch) -> None:
        self.waiting = (*(self.waiting or ()), launch)
