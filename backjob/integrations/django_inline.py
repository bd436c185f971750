"""Django, with jobs that run inline in a test: their requests keep the test's connections.

Knows Django's signals of requests, and no jobs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from django.core import signals
from django.db import close_old_connections


@contextlib.contextmanager
def _connections_kept() -> Iterator[None]:
    """Keep the signals of a request from closing the test's connections, as Django's test client does."""
    of_requests = (signals.request_started, signals.request_finished)
    for signal in of_requests:
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        for signal in of_requests:
            signal.connect(close_old_connections)


def keep_connections(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return the handler such that it and the response's close() keep the test's connections."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        with _connections_kept():
            response = handler(environ, start_response)
        response.close = _connections_kept()(response.close)
        return response

    return answer
