"""Detection of a shutdown of Python, or of the server in this process. Knows no jobs.

Reads the internal state of gunicorn, waitress and cheroot. A version that keeps it elsewhere counts as not stopping.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Mapping
from typing import Any

from .server_info import find_gunicorn_worker


def is_stopping(environ: Mapping[str, Any]) -> bool:
    """Return whether the server of this request, or Python, is being stopped."""
    if is_python_stopping():
        return True
    with contextlib.suppress(AttributeError, TypeError):
        worker = find_gunicorn_worker()
        if worker is not None:
            # If the signal comes twice, its handler may wait for itself, after it has closed the pool.
            return not worker.alive or bool(getattr(getattr(worker, "tpool", None), "_shutdown", False))
        if "waitress.client_disconnected" in environ:
            return bool(environ["waitress.client_disconnected"].__self__.server.task_dispatcher.stop_count)
        server = getattr(threading.current_thread(), "server", None)
        if type(server).__module__.startswith("cheroot."):
            return not server.ready  # type: ignore[union-attr]
    return False


def is_python_stopping() -> bool:
    """Return whether the interpreter is exiting. It waits for its threads then, and its thread pools are closed."""
    futures = sys.modules.get("concurrent.futures.thread")
    return getattr(threading, "_SHUTTING_DOWN", False) or getattr(futures, "_shutdown", False) or sys.is_finalizing()


def is_quick_stop() -> bool:
    """Return whether gunicorn has stopped its threads at once, as at SIGINT and SIGQUIT.

    In an orderly stop, at SIGTERM, a gthread worker closes its poller when --graceful-timeout is over.
    """
    with contextlib.suppress(AttributeError, TypeError):
        worker = find_gunicorn_worker()
        return worker is not None and getattr(worker.tpool, "_shutdown", False) and worker.poller.get_map() is not None
    return False
