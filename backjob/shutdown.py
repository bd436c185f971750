"""The status text of a job whose server was stopped, or stopped the job: the reason, and the server's setting.

Knows the servers by their names, and nothing of jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import describe
from .server_facts import look_at_server

_PATIENCE = {
    "gunicorn": "--graceful-timeout",
    "uwsgi": "worker-reload-mercy",
    "mod_wsgi": "shutdown-timeout and graceful-timeout",
    "granian": "--workers-kill-timeout",
    "hypercorn": "--graceful-timeout",
    "uvicorn": "--timeout-graceful-shutdown",
}
"""The setting of each server for how long it waits for running requests when it stops or restarts."""

_AT_SHUTDOWN = ("after interpreter shutdown", "at interpreter shutdown")
"""The ends of the messages of Python's RuntimeErrors for threads and futures that an exiting process can't start."""


def explain_stop(stop: BaseException, environ: Mapping[str, Any]) -> str:
    """Describe an exception that ends the server's worker, with the setting that is behind it."""
    text, handler = describe(stop), _find_gunicorn_handler(stop)
    if handler == "handle_abort":
        after = look_at_server(environ).timeout
        seconds = f" of {after:g} s" if after else ""
        return f"{text} (the job took longer than gunicorn's --timeout{seconds}: raise it, or use gthread workers)"
    if isinstance(stop, SystemExit) and not handler:
        return f"{text} (sys.exit() was called, by the app or by a server that was stopped)"
    return f"{text} ({_say_stopped(environ)})"


def explain_reason(reason: str, environ: Mapping[str, Any]) -> str:
    """Add the server's setting to the reason of a failure, if that is the shutdown of the Python process."""
    return f"{reason} ({_say_stopped(environ)})" if any(words in reason for words in _AT_SHUTDOWN) else reason


def _say_stopped(environ: Mapping[str, Any]) -> str:
    name = look_at_server(environ).software.lower()
    setting = next((setting for server, setting in _PATIENCE.items() if server in name), "")
    advice = f"raise {setting}" if setting else "let it wait longer for requests, as gunicorn's --graceful-timeout does"
    return f"the server was stopped while the job ran: {advice}, or give the job retries"


def _find_gunicorn_handler(stop: BaseException) -> str:
    """The name of gunicorn's signal handler that has raised this, or ""."""
    traceback = stop.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return ""
    frame = traceback.tb_frame
    is_of_gunicorn = frame.f_globals.get("__name__", "").partition(".")[0] == "gunicorn"
    return frame.f_code.co_name if is_of_gunicorn else ""
