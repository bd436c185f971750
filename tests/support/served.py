"""Apps wrapped in BackJob, called directly as a server calls them or served by a real server in this process.

``wrap()`` gives a Site: an app whose ``/start`` runs what a test hands over and whose other paths are the job. A direct
call with a token that the site's own keyring signed is the real way into a job, without a socket. ``serve()`` puts a
real wsgiref server around it, so that a job goes the whole way.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.util import setup_testing_defaults

from backjob import BackJob, JobStatus
from backjob.client.jobs import Backend
from backjob.keyring import WORKER, Token
from backjob.middleware import TOKEN_KEY
from backjob.model.job import Job, JobRequest

from . import wait_until

KEY = "a key for tests, and for nothing but tests"
PATIENCE = 20.0
"""Seconds after which something that was to come is not coming any more."""

App = Callable[..., Any]


@dataclass
class Reply:
    """What a server would have sent."""

    status: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def code(self) -> int:
        return int(self.status[:3])


def make_environ(target: str = "/", method: str = "GET", body: bytes = b"", **more: Any) -> dict[str, Any]:
    """The environ of a request as a plain server makes it; ``more`` is set as it is, None takes a key out."""
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
    }
    setup_testing_defaults(environ)
    environ.update(more)
    return {key: value for key, value in environ.items() if value is not None}


def call(application: App, environ: dict[str, Any]) -> Reply:
    """Ask an application as a server does (PEP 3333), close() included."""
    reply, parts = Reply(), []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        try:
            if exc_info and parts:
                raise exc_info[1].with_traceback(exc_info[2])
        finally:
            exc_info = None
        reply.status, reply.headers = status, dict(headers)
        return parts.append

    iterable = application(environ, start_response)
    try:
        parts.extend(iterable)
    finally:
        if hasattr(iterable, "close"):
            iterable.close()
    reply.body = b"".join(parts)
    return reply


def say_done(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """The plainest job."""
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [b"done"]


class KeptLaunches:
    """A Launcher that keeps what start() would send, so that a test sends it itself, when and as often as it likes."""

    def __init__(self) -> None:
        self.tokens: list[Token] = []

    def check(self, environ: Any) -> None:
        """Launching is always possible: nothing is sent."""

    def launch(self, token: Token, request: JobRequest, environ: Any) -> bool:
        self.tokens.append(token)
        return True


class Site:
    """A wrapped app, its database, and ways to ask it."""

    def __init__(self, job: App, path: Path, options: dict[str, Any]) -> None:
        self.job = job
        self.path = path
        self.begin: Callable[[Any], Any] = lambda jobs: None
        self.ask: Callable[[dict[str, Any]], Any] = lambda environ: call(self.application, environ)
        self.launches = KeptLaunches()
        own = {"launcher": self.launches, "key": KEY, "database": f"sqlite:///{path}", "keeper": False}
        options = {**own, **options}
        self.application = BackJob(self._answer, **options)

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        jobs = environ[self.application.config.environ_key]
        if environ["PATH_INFO"] != "/start" or jobs.is_worker:
            return self.job(environ, start_response)
        self.begin(jobs)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"started"]

    @property
    def backend(self) -> Backend:
        return self.application._get_backend()

    def pause_launches(self) -> None:
        """Stop this process from launching jobs. The first request comes first, because it would resume launching."""
        self.within(lambda jobs: None)
        self.backend.dispatcher.pause()

    def start(self, *args: Any, by: dict[str, Any] | None = None, **kwargs: Any) -> int:
        """start() within an ordinary request, whose environ has ``by``. Raises what start() raises."""
        return self.within(lambda jobs: jobs.start(*args, **kwargs), by)

    def within(self, use: Callable[[Any], Any], by: dict[str, Any] | None = None) -> Any:
        """What this use of environ["backjob"] gives within an ordinary request."""
        came: dict[str, Any] = {}

        def begin(jobs: Any) -> None:
            try:
                came["value"] = use(jobs)
            except Exception as error:  # noqa: BLE001 - carried over from a server's thread
                came["error"] = error

        self.begin = begin
        by = dict(by or {})
        self.ask(make_environ(by.get("SCRIPT_NAME", "") + "/start", PATH_INFO="/start", **by))
        if "error" in came:
            raise came["error"]
        return came["value"]

    def token(self, job_id: int, kind: str = WORKER) -> str:
        """A correctly signed token for the record as it is now."""
        job = self.row(job_id)
        return self.backend.keyring.sign(kind, job_id, job.attempt, job.sealed or b"").text

    def work(self, job_id: int, **more: Any) -> Reply:
        """Run the job here and now, as its worker's request would."""
        request = self.backend.keyring.unseal(job_id, self.row(job_id).uid, self.row(job_id).sealed)
        return self.send(self.token(job_id), request.target, request.method, request.body, **more)

    def send(self, token: str, target: str = "/", method: str = "POST", body: bytes = b"", **more: Any) -> Reply:
        """A request with a token, sent directly."""
        return call(self.application, make_environ(target, method, body, **{TOKEN_KEY: token}, **more))

    def run(self, *args: Any, **kwargs: Any) -> JobStatus:
        """Start a job and run it directly; how it stands after that."""
        job_id = self.start(*args or ("/job",), **kwargs)
        reply = self.work(job_id)
        assert (reply.code, reply.headers["Backjob-Proof"] != "") == (200, True)
        return self.status(job_id)

    def status(self, job_id: int) -> JobStatus:
        return self.application.jobs.status(job_id)

    def row(self, job_id: int) -> Job:
        job = self.backend.store.get(job_id)
        assert job is not None
        return job

    def rows(self) -> list[tuple[Any, ...]]:
        """The whole table, as it is on disk."""
        return self.sql("SELECT * FROM background_job ORDER BY id")

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Somebody who can write to the database, but has no key."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=5)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def make_due(self) -> None:
        """The delay of the job that is due first is over."""
        first = "(SELECT id FROM background_job ORDER BY due_at LIMIT 1)"
        self.sql(f"UPDATE background_job SET due_at = created_at WHERE id = {first}")
        self.backend.dispatcher.look_after(0)

    def close(self) -> None:
        """Close its connections, those too that a thread at its last statement has opened."""
        backend = self.application._assembly._backend
        self.application.close()
        if backend is not None:
            wait_until(lambda: not backend.dispatcher._launches)
            self.application.close()

    def wait_for_end(self, job_id: int, seconds: float = PATIENCE) -> JobStatus:
        """The job's status, once it is final."""

        def final() -> JobStatus | None:
            status = self.status(job_id)
            return status if status.status.is_final else None

        return wait_until(final, seconds)


@contextlib.contextmanager
def wrap(folder: Path, job: App = say_done, **options: Any) -> Iterator[Site]:
    """A Site in this folder. Its launches are kept, unless a ``launcher`` (None: the self-request) is named."""
    site = Site(job, folder / "jobs.sqlite3", options)
    try:
        yield site
    finally:
        site.close()


class _Server(WSGIServer):
    request_queue_size = 128
    """Connections that wait; wsgiref's 5 are for one visitor."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no news."""


class _ThreadedServer(_Server):
    def __init__(self, *args: Any) -> None:
        self.threads: list[threading.Thread] = []
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        # Daemons, unlike the standard library's: a request that hangs fails its test and not the whole run.
        thread = threading.Thread(target=self._answer, args=(request, client_address), daemon=True)
        self.threads.append(thread)
        thread.start()

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:
            pass  # a client that left is no news
        finally:
            self.shutdown_request(request)


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Nobody reads it."""

    def get_environ(self) -> dict[str, Any]:
        environ = super().get_environ()
        # What stands in front of an app may know its user: here a header tells.
        return environ | ({"REMOTE_USER": self.headers["Test-User"]} if self.headers["Test-User"] else {})


class Served:
    """A running server."""

    def __init__(self, server: WSGIServer) -> None:
        self.port = server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def ask(
        self, target: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """A browser's request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
            return Reply(f"{response.status} {response.reason}", dict(response.getheaders()), response.read())


def _with_own_headers(application: App) -> App:
    """wsgiref writes its Content-Length into the very list that it is handed, which may be a constant of a test."""

    def application_with_own_headers(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return application(environ, lambda status, headers, *rest: start_response(status, list(headers), *rest))

    return application_with_own_headers


@contextlib.contextmanager
def serve(application: App, *, threads: bool = True, port: int = 0) -> Iterator[Served]:
    """A wsgiref server on a free port (or this one), with a thread for each request or with one for all."""
    server = (_ThreadedServer if threads else _Server)(("127.0.0.1", port), _QuietHandler)
    server.set_app(_with_own_headers(application))
    loop = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    loop.start()
    try:
        yield Served(server)
    finally:
        # shutdown() itself waits without a limit.
        threading.Thread(target=server.shutdown, daemon=True).start()
        running = [loop, *getattr(server, "threads", [])]
        for thread in running:
            thread.join(PATIENCE)
        server.server_close()
        assert not any(thread.is_alive() for thread in running), "a request hangs"


@contextlib.contextmanager
def serve_site(
    folder: Path,
    job: App = say_done,
    *,
    threads: bool = True,
    front: Callable[[App], App] | None = None,
    **options: Any,
) -> Iterator[Site]:
    """A Site on a server: its jobs are launched by self-requests, and start() is called in a real request."""
    with wrap(folder, job, launcher=None, **options) as site:
        application = front(site.application) if front else site.application
        with serve(application, threads=threads) as server:
            site.server = server

            def ask(environ: dict[str, Any]) -> Reply:
                named = {key: value for key, value in environ.items() if key.startswith("HTTP_") and key != "HTTP_HOST"}
                headers = {key[5:].replace("_", "-").title(): value for key, value in named.items()}
                return server.ask(environ["PATH_INFO"], headers=headers)

            site.ask = ask
            yield site
