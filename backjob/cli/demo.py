"""``backjob demo``: an app, a real server with threads, a user with a cookie, and a job.

Needs only the package. All files are in a temporary directory, which is removed at the end.
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
    """An app with two URLs: ``/start`` starts a job for the user of the cookie, and ``/report`` is that job."""

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
                job.fail("This job fails because of --break.")
            print(step, file=job)
        return f"The report for {user} is done."


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Write nothing: the screen shows the job."""


def run_demo(screen: Screen, pause: float, is_to_break: bool) -> bool:
    """Serve the app, start its job as a browser would, and watch it. Return whether it completed."""
    with tempfile.TemporaryDirectory(prefix="backjob-demo-") as directory:
        application = BackJob(DemoApp(pause, is_to_break), database=f"sqlite:///{Path(directory, 'jobs.sqlite3')}")
        with contextlib.closing(application), _serve(application) as port:
            try:
                has_completed = _show_job(screen, application, port)
            except KeyboardInterrupt:
                _end_at_once(directory)
        _write(screen, "The job has completed." if has_completed else "The job has not completed.")
    return has_completed


def _show_job(screen: Screen, application: BackJob, port: int) -> bool:
    _write(screen, f"An app is served at http://127.0.0.1:{port}, by threads of this process.")
    job_id = int(_ask(port, "/start"))
    _write(screen, f"Ada asked for a report: job {job_id} runs in that server, as Ada.")
    return watch_jobs(application.jobs, [job_id], screen)


def _end_at_once(directory: str) -> NoReturn:
    """Remove the directory and end the process. Closing the app would wait for the job."""
    while os.path.exists(directory):  # the job may have added a file meanwhile
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(report())


def _write(screen: Screen, text: str) -> None:
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
    """Return the text of the app's answer to a user's POST. No proxy of the environment is used."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)) as connection:
        connection.request("POST", path, b"", {"Cookie": "user=Ada"})
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != http.client.OK:
            raise OSError(f"the app answered {answer.status} {answer.reason}")
        return text
