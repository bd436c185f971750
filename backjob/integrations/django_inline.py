"""Django, with jobs that run inline in a test: their requests keep the test's connections.

Knows Django's signals of requests; of jobs nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from django.core import signals
from django.db import close_old_connections


@contextlib.contextmanager
def _connections_kept() -> Iterator[None]:
    """In it no signal of a request closes the connections: as in Django's test client, they are those of a test."""
    of_requests = (signals.request_started, signals.request_finished)
    for signal in of_requests:
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        for signal in of_requests:
            signal.connect(close_old_connections)


def keep_connections(handler: Callable[..., Any]) -> Callable[..., Any]:
    """For jobs that run inline, in a test: the handler in _connections_kept(), with the response's close()."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        with _connections_kept():
            response = handler(environ, start_response)
        response.close = _connections_kept()(response.close)
        return response

    return answer
