"""The request session: ``environ["backjob"]`` of an ordinary request, and the jobs that wait for its response to end.

Also iterables that call a function after the first chunk of a response or at its end, on every server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .backend import REQUEST_FAILED, UNDONE, Backend, Launch
from .errors import BackJobError
from .jobs import Jobs


class RequestJobs(Jobs):
    """The jobs as seen from an ordinary request, in its environ."""

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
        """The jobs that wait for the end of the response. None before the first one. Empty after the app
        has returned without any: then it is too late."""

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
        if launches and launches[0].pid == os.getpid():  # in a child of a fork they are the parent's
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
    """A response of one chunk that makes one call: after the server has taken the chunk, or at close().

    A generator's ``finally`` ran on every server that was measured. close() is for servers that take no chunk.
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
    """An app's response that makes one call at its end, with True if the response failed.

    ``end`` is called by close(), or by the exception that ends the response. ``end_late`` is called instead if the
    server drops the response without close(), as cheroot does when the client leaves before the headers are sent.
    """

    def __init__(
        self, response: Iterable[bytes], end: Callable[[bool], None], end_late: Callable[[bool], None]
    ) -> None:
        self._response = response
        self._end = end
        self._end_late = end_late
        self._chunks: Iterator[bytes] | None = None

    # Not a generator, because it would refer to this object: only the garbage collector frees such a cycle.
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
        # Runs in any thread at any time, maybe with a lock held. Python reports exceptions of the app's close().
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
