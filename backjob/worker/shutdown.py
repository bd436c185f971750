"""The reason of a failure because of a server's shutdown or time-out, with the setting of that server.

Knows the servers by their names, and nothing of jobs.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from backjob.errors import describe
from backjob.runtime.server_info import look_at_server
from backjob.runtime.shutdown_detection import is_python_stopping, is_quick_stop, is_stopping

_PATIENCE = {
    "gunicorn": "--graceful-timeout",
    "mod_wsgi": "shutdown-timeout and graceful-timeout",
    "granian": "--workers-kill-timeout",
    "hypercorn": "--graceful-timeout",
    "uvicorn": "--timeout-graceful-shutdown",
}
"""The setting of each server for how long it waits for running requests when it stops or restarts."""

_AT_SHUTDOWN = re.compile("(after|at) interpreter shutdown")
"""Messages of the RuntimeErrors for threads and futures that can't start while Python exits."""
_CLOSED_POOL = re.compile("cannot schedule new futures after shutdown")
"""Message of a closed pool. The app may have closed it, or one of its idle threads while Python exits."""
_LOST_CHILD = re.compile(
    r"SIG(TERM|INT|QUIT|HUP)|returned non-zero exit status (129|130|131|143)\b|BrokenProcessPool|TerminatedWorkerError"
)
"""Errors of a job whose child processes received the signal that stops the server, from systemd or Ctrl-C."""
_INTERRUPTED = re.compile(r"SIG(INT|QUIT)|exit status (130|131)\b")
"""The subset of these errors whose signal stops gunicorn at once."""
_MOMENT = 0.2
"""Seconds until the server's own process has handled a signal that its children have received."""
_STOPPED = "the server was stopped while the job ran"
_QUICK = f"{_STOPPED}, at once: gunicorn waits for --graceful-timeout when it is stopped with SIGTERM"
_UWSGI = "raise worker-reload-mercy for reloads, and stop uWSGI with gracefully_kill_them_all"
_OTHERS = "let it wait longer for running requests, if it has a setting for that"
_SPARE_CHILDREN = "let the signal reach the server alone, as systemd's KillMode=mixed does, and "


def explain_stop(stop: BaseException, environ: Mapping[str, Any]) -> str:
    """Describe an exception that ends the server's worker, with the setting that causes it."""
    text, handler = describe(stop), _find_gunicorn_handler(stop)
    if handler == "handle_abort":
        after = look_at_server(environ).timeout
        seconds = f" of {after:g} s" if after else ""
        return f"{text} (the job took longer than gunicorn's --timeout{seconds}: raise it, or use gthread workers)"
    if handler:
        return f"{text} ({_QUICK}, or give the job retries)"
    # Python raises KeyboardInterrupt for a signal in the main thread only.
    is_signal = isinstance(stop, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
    is_of_app = isinstance(stop, (SystemExit, KeyboardInterrupt)) and not is_signal
    if not is_of_app or _stops_in_a_moment(environ):
        return f"{text} ({_say_stopped(environ, is_interrupt=isinstance(stop, KeyboardInterrupt))})"
    if isinstance(stop, SystemExit):
        return f"{text} (sys.exit() was called, by the app or by a server that was stopped)"
    return f"{text} (raised by the app or in a process that it has started)"


def explain_reason(reason: str, environ: Mapping[str, Any]) -> str:
    """Add the server's setting to the reason of a failure, if that is the shutdown of the server or of Python."""
    if _STOPPED in reason:
        return reason
    spare = _SPARE_CHILDREN if _LOST_CHILD.search(reason) and _stops_in_a_moment(environ) else ""
    is_at_exit = _AT_SHUTDOWN.search(reason) or (_CLOSED_POOL.search(reason) and is_python_stopping())
    if not (spare or is_at_exit):
        return reason
    first, line_break, others = reason.partition("\n")
    return f"{first} ({_say_stopped(environ, spare, bool(_INTERRUPTED.search(reason)))}){line_break}{others}"


def _stops_in_a_moment(environ: Mapping[str, Any]) -> bool:
    if not is_stopping(environ):
        time.sleep(_MOMENT)
    return is_stopping(environ)


def _say_stopped(environ: Mapping[str, Any], before: str = "", is_interrupt: bool = False) -> str:
    name = look_at_server(environ).software.lower()
    setting = next((setting for server, setting in _PATIENCE.items() if server in name), "")
    advice = f"raise {setting}" if setting else _UWSGI if name.startswith("uwsgi") else _OTHERS
    is_quick = is_quick_stop() or (is_interrupt and name.startswith("gunicorn"))
    return f"{_QUICK if is_quick else f'{_STOPPED}: {before}{advice}'}, or give the job retries"


def _find_gunicorn_handler(stop: BaseException) -> str:
    """Return the name of gunicorn's signal handler that has raised this, or ""."""
    traceback = stop.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    frame = traceback.tb_frame
    is_of_gunicorn = frame.f_globals.get("__name__", "").partition(".")[0] == "gunicorn"
    return frame.f_code.co_name if is_of_gunicorn else ""
