"""The request session: ``environ["backjob"]`` of an ordinary request, and what waits for the end of its response.

Also the iterables that do something after a response's first chunk or at its end, whatever a server does with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .backend import REQUEST_FAILED, UNDONE, Backend, Launch
from .errors import BackJobError
from .jobs import Jobs


class RequestJobs(Jobs):
    """The jobs seen from an ordinary request: one of these stands in each environ."""

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
        """The jobs that wait for the end of the response; when the app has returned without any, an empty tuple."""

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """The server's start_response; the status tells whether the jobs that wait for the response are wanted."""
        self._status = status
        if exc_info is None:
            return self._start_response(status, headers)
        return self._start_response(status, headers, exc_info)

    def end(self, is_failed: bool = False) -> None:
        """The response has ended: launch what waited for it, or cancel that, once."""
        launches, failure = self._take_waiting(is_failed)
        if launches:
            self._get_backend().launch_followers(launches, self._environ, failure)

    def end_late(self, is_failed: bool) -> None:
        """Do what end() does, in the keeper's thread: here no lock is taken and no database used."""
        launches, failure = self._take_waiting(is_failed)
        if launches and launches[0].pid == os.getpid():  # a child of a fork leaves its parent's to the parent
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


class AfterFirstChunk:
    """An answer's one chunk, then a call, once: after the chunk was taken, or when the server closes.

    A generator's ``finally`` is the one thing that ran on every server that was measured; ``close()`` is for those
    that never ask for a chunk.
    """

    def __init__(self, chunks: list[bytes], call: Callable[[], None]) -> None:
        self._chunks = chunks
        self._calls = [call]
        self._iterator = self._iterate()

    def __iter__(self) -> Iterator[bytes]:
        return self._iterator

    def _iterate(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        finally:
            self._call_once()

    def close(self) -> None:
        """Part of WSGI (PEP 3333)."""
        self._iterator.close()  # type: ignore[attr-defined]
        self._call_once()

    def _call_once(self) -> None:
        if self._calls:
            self._calls.pop()()


class AfterResponse:
    """An app's response, then a call that is told whether the response failed.

    ``end`` is called by close() and by the exception that ends the response. ``end_late`` is called instead when the
    server drops the response without close(), as cheroot does if the client has left before the headers were sent.
    """

    def __init__(
        self, response: Iterable[bytes], end: Callable[[bool], None], end_late: Callable[[bool], None]
    ) -> None:
        self._response = response
        self._end = end
        self._end_late = end_late
        self._chunks: Iterator[bytes] | None = None

    # No generator: it would refer to this object, and then only the garbage collector would find that both are dropped.
    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._chunks is None:
                self._chunks = iter(self._response)
            return next(self._chunks)
        except StopIteration:
            raise
        except BaseException:
            self._end(True)
            raise

    def close(self) -> None:
        """Part of WSGI (PEP 3333). The app's own close() comes first, because it may end a transaction, and once."""
        self._close(self._end)

    def __del__(self) -> None:
        # Any thread may come here at any time, also with a lock held. Python reports what the app's close() raises.
        self._close(self._end_late)

    def _close(self, end: Callable[[bool], None]) -> None:
        response, self._response, self._chunks = self._response, (), iter(())
        try:
            close = getattr(response, "close", None)
            if close is not None:
                close()
        except BaseException:
            end(True)
            raise
        end(False)
