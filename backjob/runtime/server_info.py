"""Facts about the server of a request: its name, how many requests it takes at once, and whether it is being stopped.

Reads the environ and the internal state of known servers, and nothing that a client can send. Unknown facts are None,
and a server whose version keeps its state elsewhere counts as not stopping.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

NAMELESS = "a server that does not say its name"


@dataclass(frozen=True)
class ServerFacts:
    """A server in the terms of its own settings. None: unknown or without a bound."""

    software: str = NAMELESS
    worker: str = ""
    """Kind of worker that handles a request: gunicorn's worker class, "threads", "one at a time", …"""
    processes: int | None = None
    slots_each: int | None = None
    """Requests that one process handles at once."""
    has_processes: bool = False
    """True if there are several processes."""
    is_cooperative: bool = False
    """True if the requests of a process take turns in one thread."""
    timeout: float = 0
    """Seconds after which the server kills a worker with a request in it; 0: never."""

    @property
    def slots(self) -> int | None:
        """Requests that the whole server handles at once."""
        if self.processes is None or self.slots_each is None:
            return None
        return self.processes * self.slots_each

    @property
    def threads_each(self) -> int | None:
        """Requests that one process handles at once, each in a thread or process of its own."""
        return None if self.is_cooperative else self.slots_each

    def __str__(self) -> str:
        slots = f"{self.slots} slot{'s' * (self.slots != 1)}" if self.slots else "slots not known, or without a bound"
        return ", ".join(filter(None, (self.software, self.worker, slots)))


_Facts = dict[str, Any]
_ONE_AT_A_TIME = {"worker": "one at a time", "processes": 1, "slots_each": 1}
_UWSGI_WITH_THREADS = (2, 0, 27)
"""First version in which threads always run, whatever the option enable-threads says."""


def detect_server(environ: Mapping[str, Any], start_response: Callable[..., Any] | None = None) -> ServerFacts:
    """Return the facts about the server of this request. ``start_response`` is the server's own, or None."""
    facts: dict[str, Any] = {"has_processes": bool(environ.get("wsgi.multiprocess"))}
    facts["software"] = name_server(environ.get("SERVER_SOFTWARE"))
    for read in (_read_gunicorn, _read_waitress, _read_uwsgi, _read_mod_wsgi, _read_cheroot, _read_werkzeug):
        # Other versions of a server may lack these keys and attributes.
        with contextlib.suppress(AttributeError, TypeError, ValueError, LookupError):
            facts.update(read(environ))
    facts.update(_read_socketserver(start_response))
    if facts.get("processes"):
        facts["has_processes"] = facts["processes"] > 1
    return ServerFacts(**facts)


def name_server(text: object) -> str:
    """Return a server's own name, as SERVER_SOFTWARE or a Server header has it, shortened and in printable ASCII."""
    return re.sub(r"[^\x20-\x7e]", "", text if isinstance(text, str) else "")[:80] or NAMELESS


def find_gunicorn_worker() -> Any:
    """Return gunicorn's worker object in this process, or None.

    It is found by its method that handles SIGQUIT, which no wrapper of the application hides.
    """
    if not hasattr(signal, "SIGQUIT"):  # on Windows
        return None
    worker = getattr(signal.getsignal(signal.SIGQUIT), "__self__", None)
    is_gunicorn = any(kind.__module__.startswith("gunicorn.") for kind in type(worker).__mro__)
    return worker if is_gunicorn else None


def find_waitress_channel(environ: Mapping[str, Any]) -> Any:
    """Return waitress' object for the connection of this request, or None."""
    return getattr(environ.get("waitress.client_disconnected"), "__self__", None)


def find_uwsgi(environ: Mapping[str, Any] | None = None) -> Any:
    """Return the module that only uWSGI's processes have, or None; None also for the environ of another server."""
    return sys.modules.get("uwsgi") if environ is None or "uwsgi.version" in environ else None


def threads_outlive_requests(environ: Mapping[str, Any]) -> bool:
    """Return whether a thread that a request starts goes on after it.

    False under an old uWSGI without threads, which freezes them, and in a forking werkzeug's child, which ends.
    """
    if (uwsgi := find_uwsgi(environ)) is not None:
        options = getattr(uwsgi, "opt", {})
        has_option = any(name in options or name.encode() in options for name in ("enable-threads", "threads"))
        return has_option or _uwsgi_version(environ["uwsgi.version"]) >= _UWSGI_WITH_THREADS
    return "werkzeug.socket" not in environ or not environ.get("wsgi.multiprocess")


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
            return bool(find_waitress_channel(environ).server.task_dispatcher.stop_count)
        server = getattr(threading.current_thread(), "server", None)
        if type(server).__module__.startswith("cheroot."):
            return not server.ready  # type: ignore[union-attr]
    return False


def is_python_stopping() -> bool:
    """Return whether the interpreter is exiting: it waits for its threads, and its thread pools are closed."""
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


def _uwsgi_version(version: bytes | str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version, such as (2, 0, 21) for "2.0.21-debian"."""
    text = version.decode("ascii", "replace") if isinstance(version, bytes) else version
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def _read_gunicorn(environ: Mapping[str, Any]) -> _Facts:
    worker = find_gunicorn_worker() if "gunicorn.socket" in environ else None
    settings = getattr(worker, "cfg", None)
    if settings is None:
        return {}
    facts = {"worker": str(settings.worker_class_str), "processes": settings.workers}
    kinds = {kind.__name__ for kind in type(worker).__mro__}
    if "SyncWorker" in kinds:
        facts |= {"slots_each": 1, "timeout": settings.timeout}
    elif "ThreadWorker" in kinds:
        facts |= {"slots_each": settings.threads}
    elif "AsyncWorker" in kinds:
        facts |= {"slots_each": settings.worker_connections, "is_cooperative": True}
    return facts


def _read_waitress(environ: Mapping[str, Any]) -> _Facts:
    settings = getattr(getattr(find_waitress_channel(environ), "server", None), "adj", None)
    if settings is None:
        return {}
    software = f"waitress/{_version_of('waitress')}"
    return {"software": software, "worker": "threads", "processes": 1, "slots_each": settings.threads}


def _read_uwsgi(environ: Mapping[str, Any]) -> _Facts:
    if (uwsgi := find_uwsgi(environ)) is None:
        return {}
    software = f"uWSGI/{_text(environ['uwsgi.version'])}"
    worker = _text(uwsgi.loop) if uwsgi.loop else "threads" if uwsgi.cores > 1 else "one at a time"
    facts = {"software": software, "worker": worker, "processes": uwsgi.numproc}
    return facts | {"slots_each": uwsgi.cores, "is_cooperative": bool(uwsgi.loop)}


def _read_mod_wsgi(environ: Mapping[str, Any]) -> _Facts:
    mod_wsgi = sys.modules.get("mod_wsgi")
    if mod_wsgi is None or "mod_wsgi.version" not in environ:
        return {}
    facts = {"slots_each": mod_wsgi.threads_per_process}
    name = environ.get("SERVER_SOFTWARE") or "Apache"
    if "mod_wsgi" not in name:  # Apache's ServerTokens may keep it short
        facts["software"] = f"{name} mod_wsgi/{'.'.join(str(part) for part in environ['mod_wsgi.version'])}"
    if environ.get("mod_wsgi.process_group"):
        return {**facts, "worker": "daemon processes", "processes": mod_wsgi.maximum_processes}
    return {**facts, "worker": "embedded"}  # Apache's own processes, whose number varies


def _read_cheroot(environ: Mapping[str, Any]) -> _Facts:
    pool = getattr(getattr(threading.current_thread(), "server", None), "requests", None)
    is_cheroot = type(pool).__module__.startswith("cheroot.")
    return {"worker": "threads", "processes": 1, "slots_each": pool.min} if is_cheroot else {}  # type: ignore[union-attr]


def _read_werkzeug(environ: Mapping[str, Any]) -> _Facts:
    if "werkzeug.socket" not in environ:
        return {}
    if environ.get("wsgi.multithread"):
        return {"worker": "a thread for each request"}
    return {"worker": "a process for each request"} if environ.get("wsgi.multiprocess") else _ONE_AT_A_TIME


def _read_socketserver(start_response: object) -> _Facts:
    """Return facts about wsgiref and the servers based on it: Django's runserver, Bottle's own server."""
    server = getattr(getattr(getattr(start_response, "__self__", None), "request_handler", None), "server", None)
    if isinstance(server, socketserver.ThreadingMixIn):
        return {"worker": "a thread for each request"}
    if isinstance(server, socketserver.ForkingMixIn):
        return {"worker": "a process for each request"}
    is_plain = getattr(type(server), "process_request", None) is socketserver.BaseServer.process_request
    return _ONE_AT_A_TIME if is_plain else {}


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # imported from a folder without being installed
        return "?"


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
