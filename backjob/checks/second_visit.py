"""Does a second request of the same visitor wait for the first one? Where sessions lock, jobs and pages do.

Asks the app, within this process, for the page of a request that is still open, and lets it come just as far. Knows
nothing of jobs: the app can't start one in such a visit.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from backjob.errors import JobEnded
from backjob.runtime.threads import is_native

PATIENCE = 1.0
"""Seconds in which the second request has to come as far as the first one is."""
_MARK = "backjob.second_visit"


def end_if_second_visit(environ: Mapping[str, Any] | None) -> None:
    """The second request has come as far as the first: leave the app. Raises JobEnded, which frameworks let pass."""
    if environ is not None and _MARK in environ:
        raise JobEnded("A second visit ends here")


def can_visit(environ: Mapping[str, Any], jobs: Any) -> bool:
    """Only a page that may be asked for twice, by a visitor who can be known, where the app expects several threads.

    Not in a job (``jobs`` are those of the request), which runs once. Not under gevent and its like: a lock that is not
    theirs would stop the whole process for good.
    """
    is_page = environ.get("REQUEST_METHOD") in ("GET", "HEAD") and "HTTP_COOKIE" in environ
    has_threads = is_native() and environ.get("wsgi.multithread")
    return bool(is_page and has_threads) and not getattr(jobs, "is_worker", True)


def does_second_visit_wait(app: Callable[..., Iterable[bytes]], environ: Mapping[str, Any]) -> bool:
    """Ask the app for the same page with the same cookies. True when that does not come as far while this one is open.

    It ends where it calls check(), or when the app has answered or failed; if it waits, then after this request.
    """
    has_come = threading.Event()
    # What was put into the environ on the way, such as the session of the first one and its jobs, stays there.
    plain = (key for key, value in environ.items() if isinstance(value, str) and "." not in key)
    second = {key: environ[key] for key in (*plain, *(key for key in environ if key.startswith("wsgi.")))}
    second |= {"wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0", _MARK: True}

    def visit() -> None:
        try:
            answer = app(second, lambda status, headers, exc_info=None: lambda chunk: None)
            try:
                for _ in answer:
                    pass
            finally:
                getattr(answer, "close", lambda: None)()
        except BaseException:  # noqa: BLE001, S110 - the edge around the app: how this visit ends is nobody's business
            pass
        finally:
            has_come.set()

    threading.Thread(target=visit, name="backjob-second-visit", daemon=True).start()
    return not has_come.wait(PATIENCE)
