"""Response iterables that make a call after the first chunk of a response or at its end, on every server (PEP 3333)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


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
