"""Serve examples/progress.py with a real gunicorn, sign in, start a job and watch it: ``make demo`` runs this.

It uses the app as a browser does, with forms, a cookie and the status URL. The server runs in a temporary directory,
which is removed at the end. Exit status: 0 if the job completed, 1 if it failed or was cancelled, 2 for an error.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, ProxyHandler, build_opener

from backjob import Status

EXAMPLES = Path(__file__).resolve().parent


class DemoError(Exception):
    """The demo could not run."""


@contextmanager
def serve(app: str, directory: Path, source: Path = EXAMPLES, **environ: str) -> Iterator[str]:
    """Run ``app`` of the folder ``source`` in gunicorn, with ``directory`` as its working directory. Yield its URL.

    A failed request inside the block becomes a DemoError with the end of the server's log.
    """
    log = directory / "gunicorn.log"
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        # gunicorn inherits a listening socket. So there is no port to guess and no start to wait for. If gunicorn can't
        # start, the socket is closed with it and our request fails at once.
        command = [
            *(sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--threads", "4"),
            *("--bind", f"fd://{listener.fileno()}", "--pythonpath", str(source)),
            *("--graceful-timeout", "2", "--no-control-socket", app),
        ]
        server = subprocess.Popen(
            command,
            cwd=directory,
            env=os.environ | environ,
            pass_fds=[listener.fileno()],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        host, port = listener.getsockname()
    try:
        yield f"http://{host}:{port}"
    except OSError as error:
        raise DemoError(f"{error}\nThe end of the server's log:\n\n{read_tail(log)}") from error
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def read_tail(log: Path, lines: int = 20) -> str:
    """Return the last lines of the server's log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


class Browser:
    """A user at a browser, with a cookie jar."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self.timeout = timeout
        # Without the proxies of the environment: the server is on this machine.
        self.opener: OpenerDirector = build_opener(ProxyHandler({}), HTTPCookieProcessor())

    def submit(self, path: str, **fields: str) -> str:
        """Post a form. Return the path of the page to which it redirects."""
        form = urlencode(fields).encode()
        with self.opener.open(self.url + path, form, timeout=self.timeout) as page:
            return page.url.removeprefix(self.url)

    def load_json(self, path: str, form: bytes | None = None) -> dict[str, Any]:
        """Return the JSON answer to a GET, or with a form to a POST."""
        with self.opener.open(self.url + path, form, timeout=self.timeout) as answer:
            return json.load(answer)


class Screen:
    """A job's live progress and output: a bar on the last line of a terminal, or plain lines in a pipe.

    Only a carriage return moves the cursor, because every terminal supports it.
    """

    WIDTH = 30

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.bar = ""
        self.text = ""

    def show(self, job: Mapping[str, Any]) -> None:
        """Write the changes since the last call: the new output, or the whole text if it was replaced."""
        lines = [f"  {line}" for line in job["status_text"].removeprefix(self.text).splitlines() if line]
        done = job["progress"] * self.WIDTH // 100
        bar = f"[{'#' * done}{'-' * (self.WIDTH - done)}] {job['progress']:3} %"
        if self.out.isatty():
            # A line overwrites the bar, and then the bar is drawn again below.
            self.out.writelines(f"\r{line.ljust(len(bar))}\n" for line in lines)
            self.out.write(f"\r{bar}")
        else:
            self.out.writelines(f"{line}\n" for line in lines)
            if bar != self.bar:
                self.out.write(f"{bar}\n")
        self.out.flush()
        self.bar, self.text = bar, job["status_text"]

    def close(self) -> None:
        """End the line of the bar, so that further output begins on a new line."""
        if self.out.isatty():
            print(file=self.out)


def watch(browser: Browser, path: str, screen: Screen, deadline: float) -> dict[str, Any]:
    """Poll a job's status at this path until the job has ended, and show each answer. Return the last one.

    ``deadline`` is a time of the monotonic clock.
    """
    while True:
        job = browser.load_json(path)
        screen.show(job)
        status = Status(job["status"])
        if status.is_final:
            return job
        if time.monotonic() > deadline:
            raise DemoError(f"The job is still {status.word} at the time limit.")
        time.sleep(0.1)


def run_demo(arguments: argparse.Namespace) -> Status:
    """Sign in, start a job and watch it, as a user would. Return its final status."""
    deadline = time.monotonic() + arguments.limit
    with (
        tempfile.TemporaryDirectory(prefix="backjob-demo-") as directory,
        serve(arguments.app, Path(directory), PROGRESS_PAUSE=str(arguments.pause)) as url,
    ):
        print(f"{arguments.app} runs in gunicorn, gthread, at {url}", flush=True)
        browser = Browser(url, timeout=arguments.limit)
        browser.submit("/login", name=arguments.user)
        print(f"Signed in as {arguments.user}", flush=True)
        page = browser.submit("/start", broken="yes" if arguments.broken else "")
        if not page.startswith("/progress/"):
            raise DemoError(f"The start form redirected to {page}, not to the page of a job.")
        job_id = int(page.removeprefix("/progress/"))
        print(f"Started job {job_id}", flush=True)
        screen = Screen(sys.stdout)
        try:
            job = watch(browser, f"/status/{job_id}", screen, deadline)
        finally:
            screen.close()
        return Status(job["status"])


def main() -> int:
    """Run the demo. Return the exit status: see the module's docstring."""
    parser = argparse.ArgumentParser(description="Run a background job in a real server and watch it.")
    parser.add_argument("--break", dest="broken", action="store_true", help="let the job fail half way")
    parser.add_argument("--pause", type=float, default=1, metavar="SECONDS", help="duration of each of the five steps")
    parser.add_argument("--limit", type=float, default=60, metavar="SECONDS", help="give up after so long")
    parser.add_argument("--user", default="Ada", help="name of the user who signs in")
    parser.add_argument("--app", default="progress:application", help="another app with the same pages")
    # A script that runs the demo and stops it with SIGTERM stops the server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        status = run_demo(parser.parse_args())
    except DemoError as error:
        print(f"The demo could not run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    print(f"The job has ended: {status.word}.")
    return 0 if status is Status.COMPLETED else 1


if __name__ == "__main__":
    sys.exit(main())
