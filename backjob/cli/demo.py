"""``backjob demo``: an app in this module, a real server with threads, a user with a cookie, and a job.

Needs nothing but the package. Everything that it writes is in a temporary directory that goes with it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, NoReturn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from backjob import BackJob
from backjob.runtime.interrupts import report

from .screen import Screen
from .watch import watch_jobs

_STEPS = ("The figures are added up.", "The pages are drawn.", "The table of contents is made.", "The pages are bound.")
_PATIENCE = 30.0

StartResponse = Callable[..., Any]


class DemoApp:
    """``/start`` starts a job for the user of the cookie. ``/report`` is that job, an ordinary action of the app."""

    def __init__(self, pause: float, is_to_break: bool) -> None:
        self._pause = pause
        self._is_to_break = is_to_break

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        job = environ["backjob"]
        if environ["PATH_INFO"] == "/start":
            text = str(job.start("/report", method="POST", data={"year": 2026}))
        else:
            text = self._report(job, SimpleCookie(environ["HTTP_COOKIE"])["user"].value)
        start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
        return [text.encode()]

    def _report(self, job: Any, user: str) -> str:
        print(f"A report for {user} is begun.", file=job)
        for step in job.track(_STEPS):
            time.sleep(self._pause)
            if self._is_to_break and step is _STEPS[-1]:
                job.fail("This job was told to break.")
            print(step, file=job)
        return f"The report for {user} is done."


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """The screen belongs to the job."""


def run_demo(screen: Screen, pause: float, is_to_break: bool) -> bool:
    """Serve the app, start its job as a browser would, and watch it. Did it complete?"""
    with tempfile.TemporaryDirectory(prefix="backjob-demo-") as directory:
        application = BackJob(DemoApp(pause, is_to_break), database=f"sqlite:///{Path(directory, 'jobs.sqlite3')}")
        with contextlib.closing(application), _serve(application) as port:
            try:
                has_completed = _show_job(screen, application, port)
            except KeyboardInterrupt:
                _end_at_once(directory)
        _tell(screen, "The job has completed." if has_completed else "The job has not completed.")
    return has_completed


def _show_job(screen: Screen, application: BackJob, port: int) -> bool:
    _tell(screen, f"An app is served at http://127.0.0.1:{port}, by threads of this process.")
    job_id = int(_ask(port, "/start"))
    _tell(screen, f"Ada asked for a report: job {job_id} runs in that server, as Ada.")
    return watch_jobs(application.jobs, [job_id], screen)


def _end_at_once(directory: str) -> NoReturn:
    """Remove the directory and end the process. Closing the app would wait for the job."""
    while os.path.exists(directory):  # the job may have added a file meanwhile
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(report())


def _tell(screen: Screen, text: str) -> None:
    if not screen.is_json:
        screen.write_line(text)


@contextlib.contextmanager
def _serve(application: BackJob) -> Iterator[int]:
    with _Server(("127.0.0.1", 0), _QuietHandler) as server:
        server.set_app(application)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _ask(port: int, path: str) -> str:
    """What the app answers to a user's POST; no proxy of the environment stands between."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)) as connection:
        connection.request("POST", path, b"", {"Cookie": "user=Ada"})
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != http.client.OK:
            raise OSError(f"the app answered {answer.status} {answer.reason}")
        return text
