"""Real web servers, one process group each: start, ask, stop. A server's log is shown when its test fails."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trustme

import backjob
from backjob import BackJob, Status
from support import wait_until
from support.places import Place, make_place

from . import TESTS

PACKAGE = Path(backjob.__file__).resolve().parent
APPS = TESTS / "live" / "apps"
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_STOP_TIMEOUT = 10.0
MANY = 1000
"""Slots of a server that has one for everybody who comes."""
_TROUBLE = "Traceback|Too many open files"


@dataclass(frozen=True)
class Certificate:
    """A certificate for the loopback, as files that a server reads, and the authority that signed it."""

    authority: Path
    chain: Path

    @classmethod
    def make(cls, directory: Path) -> Certificate:
        made = cls(directory / "authority.pem", directory / "server.pem")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(made.authority)
        authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(made.chain)
        return made

    def trusting(self) -> ssl.SSLContext:
        """What a client needs that believes this authority and no other."""
        return _trusting(self.authority)


@dataclass(frozen=True)
class Site:
    """What a server is to serve, and where."""

    setup: Setup
    app: str
    """module:attribute"""
    directory: Path
    """The server's working directory, for files of its own."""
    apps: Path
    """Where the app's module is."""
    place: Place
    descriptor: int
    certificate: Path | None
    """The file of the certificate and its key, for a server that speaks TLS."""

    @property
    def host(self) -> str:
        return self.place.address[0] if isinstance(self.place.address, tuple) else ""

    @property
    def port(self) -> str:
        return str(self.place.address[1]) if isinstance(self.place.address, tuple) else ""

    @property
    def unix(self) -> str:
        """The path of the unix socket, or nothing."""
        return self.place.address if isinstance(self.place.address, str) else ""


def _inherit(site: Site) -> list[str]:
    """The command of a server that is a library, for a socket that it inherits."""
    options = site.setup.options
    return [sys.executable, str(APPS / "inherited.py"), site.setup.name, str(site.descriptor), site.app, *options]


def _run_gunicorn(site: Site) -> list[str]:
    options = ["--bind", f"fd://{site.descriptor}", "--graceful-timeout", "2", "--no-control-socket"]
    if site.certificate:
        options += ["--certfile", str(site.certificate), "--keyfile", str(site.certificate)]
    return [sys.executable, "-m", "gunicorn", *options, *site.setup.options, site.app]


@dataclass(frozen=True)
class Setup:
    """A server as somebody might run it. ``slots``: requests that it works on at once."""

    name: str
    slots: int
    options: tuple[str, ...] = ()
    transport: str = "tcp"
    host: str = "127.0.0.1"
    command: Callable[[Site], list[str]] = _inherit
    """What to run. It misses what is not there, and may write files into the directory."""
    is_inheriting: bool = True
    """Does it take a socket that listens already, or bind one by itself?"""
    app: str = "workshop:application"
    needs_connect: bool = False
    """Does nothing of it tell the app where it is reached?"""
    products: tuple[str, ...] = ()
    """What it is made of: Python distributions, Debian packages."""
    noise: str = ""
    """A pattern of what its log has in it though nothing is wrong."""

    def over(self, transport: str) -> Setup:
        """The same over "tcp", "unix" or "tls"."""
        return replace(self, transport=transport)

    def at(self, host: str) -> Setup:
        """The same, bound to this address."""
        return replace(self, host=host)

    def named(self, addition: str) -> Setup:
        """The same under a longer name."""
        return replace(self, name=f"{self.name}-{addition}")

    def with_options(self, *options: str) -> Setup:
        return replace(self, options=(*self.options, *options))

    def __str__(self) -> str:
        where = self.transport if self.host == "127.0.0.1" else self.host
        return f"{self.name}-{'many' if self.slots == MANY else self.slots}-{where}"


def gunicorn(worker_class: str, workers: int = 1, threads: int = 1) -> Setup:
    """gunicorn with so many workers of a class."""
    options = ["--worker-class", worker_class, "--workers", str(workers)]
    if worker_class == "gthread":
        options += ["--threads", str(threads)]
    slots = MANY if worker_class == "gevent" else workers * threads
    return Setup(f"gunicorn-{worker_class}", slots, tuple(options), command=_run_gunicorn, products=("gunicorn",))


SYNC = gunicorn("sync", workers=2)
ONE_SYNC = gunicorn("sync")
GTHREAD = gunicorn("gthread", threads=4)
ONE_GTHREAD = gunicorn("gthread")
GEVENT = gunicorn("gevent")
ONE_WAITRESS = Setup("waitress", 1, ("threads=1",), products=("waitress",))
WAITRESS = Setup("waitress", 4, ("threads=4",), products=("waitress",))
WSGIREF = Setup("wsgiref", 1, products=("python",))
WERKZEUG = Setup("werkzeug", 1, products=("Werkzeug",))
WERKZEUG_THREADS = Setup("werkzeug", MANY, ("threaded=1",), products=("Werkzeug",))
WERKZEUG_PROCESSES = Setup("werkzeug-processes", 4, ("processes=4",), products=("Werkzeug",))

EVERYWHERE = [
    *(server.over(transport) for server in (SYNC, GTHREAD, GEVENT) for transport in ("tcp", "unix", "tls")),
    *(WAITRESS, WSGIREF, WERKZEUG, WERKZEUG_THREADS, WERKZEUG_PROCESSES),
]


@functools.lru_cache
def _trusting(authority: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority)


class Connection(http.client.HTTPConnection):
    """http.client's connection to a TCP or unix address, TLS included."""

    def __init__(self, address: tuple[str, int] | str, tls: ssl.SSLContext | None, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.address = address
        self.tls = tls

    def connect(self) -> None:
        if isinstance(self.address, str):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self.address)
        else:
            self.sock = socket.create_connection(self.address, self.timeout)
        if self.tls:
            self.sock = self.tls.wrap_socket(self.sock, server_hostname="127.0.0.1")


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        assert self.status == 200, f"{self.status}: {self.body[:500]!r}"
        return json.loads(self.body)


@dataclass
class Server:
    """A running server, and the user who talks to it."""

    setup: Setup
    directory: Path
    address: tuple[str, int] | str
    process: subprocess.Popen[bytes]
    tls: ssl.SSLContext | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """What each request has: cookies, Host."""
    _is_up: bool = False

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 30
    ) -> Answer:
        """One request on a connection of its own. ``body`` goes as JSON, if it is not bytes."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        with contextlib.closing(Connection(self.address, self.tls, timeout)) as connection:
            if not self._is_up:
                self._is_up = wait_until(lambda: self._reaches(connection))
            connection.request(method, path, body, {**self.headers, **(headers or {}), "Connection": "close"})
            with connection.getresponse() as response:
                return Answer(response.status, response.headers, response.read())

    def wait_until_it_listens(self) -> None:
        """For another program that is to talk to it."""
        with contextlib.closing(Connection(self.address, self.tls, 10)) as connection:
            wait_until(lambda: self._reaches(connection))

    def _reaches(self, connection: Connection) -> bool:
        """Connect for the first time. False when the server does not listen yet."""
        assert self.process.poll() is None, "the server has ended"
        try:
            connection.connect()
        except (ConnectionRefusedError, FileNotFoundError):
            connection.close()
            return False
        return True

    def start(self, target: str, headers: dict[str, str] | None = None, mount: str = "", **options: Any) -> int:
        """Have the workshop start a job. Its id."""
        return self.start_all(target, headers, mount, **options)["ids"][0]

    def start_all(
        self, target: str, headers: dict[str, str] | None = None, mount: str = "", **options: Any
    ) -> dict[str, Any]:
        """Have the workshop start ``count`` jobs. Their ids, the seconds of each start, and how it went."""
        return self.ask("POST", f"{mount}/start", {"target": target, **options}, headers).json()

    def status(self, job_id: int, mount: str = "") -> dict[str, Any]:
        """What a browser sees of a job."""
        return self.ask("GET", f"{mount}/status?id={job_id}").json()

    def end_of(self, job_id: int, seconds: float = 20, mount: str = "") -> dict[str, Any]:
        """Wait until the job has ended: by default not so long that a lease of 30 s makes up for a lost launch."""
        return wait_until(lambda: _ended(self.status(job_id, mount)), seconds)

    def open_gate(self, name: str) -> None:
        """Let a job that waits for this go on."""
        (self.directory / name).touch()

    @property
    def log(self) -> str:
        return (self.directory / "server.log").read_text(errors="replace")

    def runs(self) -> Counter[tuple[int, str]]:
        """What the judge saw: how often each job has begun, and how often it came to its end."""
        path = self.directory / "judge.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return Counter((int(job_id), what) for job_id, _, what in map(str.split, lines))

    def assert_ran_once(self, job_ids: Sequence[int]) -> None:
        """By the judge's file these jobs have run once, and to the end."""
        runs = self.runs()
        expected = {(job_id, what): 1 for job_id in job_ids for what in ("begin", "end")}
        assert {run: runs[run] for run in expected} == expected

    def pid_of(self, job_id: int) -> int:
        """The process in which the newest run of this job began, once it has."""
        path = self.directory / "judge-places.txt"

        def find() -> int | None:
            lines = path.read_text().splitlines() if path.exists() else []
            pids = [int(pid) for job, pid in map(str.split, lines) if int(job) == job_id]
            return pids[-1] if pids else None

        return wait_until(find)  # type: ignore[return-value]

    def kill(self) -> None:
        """All of it at once, as a power cut does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """As an operator does."""
        self.process.terminate()
        self.process.wait(_STOP_TIMEOUT)


def _ended(status: dict[str, Any]) -> dict[str, Any] | None:
    return status if Status(status["status"]).is_final else None


@contextlib.contextmanager
def serve(
    setup: Setup,
    directory: Path,
    app: str = "",
    certificate: Certificate | None = None,
    *,
    apps: Path = APPS,
    most_files: int = 0,
    is_trouble_expected: bool = False,
    environ: dict[str, str] | None = None,
    place: Place | None = None,
    **options: Any,
) -> Iterator[Server]:
    """Run an app, or the set-up's own, in a server until the block ends. ``options`` are those of its BackJob.

    ``directory`` is the server's working directory, and holds all that it writes. The server inherits a socket that
    listens already, that of ``place`` if there is one: there is no port to guess, and a request waits in its backlog
    while the server starts. One that binds by itself gets a port that is kept for it, and the first request waits until
    it listens. A traceback or a ResourceWarning in the log fails the test.
    """
    place = place or _make_place(setup, directory)
    if setup.needs_connect:
        options = {"connect": place.connect, **options}
    log_file = directory / "server.log"
    chain = certificate.chain if certificate and setup.transport == "tls" else None
    giving = place.handing_over() if setup.is_inheriting else place.lending()
    with giving as descriptor, log_file.open("ab") as output:
        command = setup.command(Site(setup, app or setup.app, directory, apps, place, descriptor, chain))
        if most_files:
            command = ["sh", "-c", f'ulimit -n {most_files} && exec "$@"', "sh", *command]
        own = {
            # The very package that this process tests, installed or not.
            "PYTHONPATH": os.pathsep.join([str(apps), str(PACKAGE.parent)]),
            "PYTHONUNBUFFERED": "1",
            "WORKSHOP_OPTIONS": json.dumps(options),
        }
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=os.environ | own | (environ or {}),
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # "0.0.0.0" and "::" are at the loopback too.
    address = place.address
    if not isinstance(address, str):
        address = (_LOOPBACK.get(address[0], address[0]), address[1])
    tls = certificate.trusting() if certificate and setup.transport == "tls" else None
    server = Server(setup, directory, address, process, tls)
    try:
        yield server
    finally:
        _end(process)
        # pytest shows this only when the test fails.
        print(f"--- log of {setup}\n{server.log}", file=sys.stderr)
    if not is_trouble_expected:
        # gunicorn leaves sockets of its own open; one to this server is one of backjob's.
        pattern = rf"{_TROUBLE}|ResourceWarning: unclosed .*raddr={re.escape(repr(server.address))}"
        log = re.sub(setup.noise, "", server.log) if setup.noise else server.log
        assert not re.search(pattern, log), "there is trouble in the server's log"


def _make_place(setup: Setup, directory: Path) -> Place:
    return make_place(directory / "socket" if setup.transport == "unix" else setup.host)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop it, and whatever else is left of its group."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_TIMEOUT)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def script(folder: Path, **options: Any) -> Iterator[BackJob]:
    """An application in a process that serves nothing, on the database and the key file in this folder."""
    application = BackJob(_serve_nothing, database=f"sqlite:///{folder}/backjob.sqlite3", **options)
    try:
        yield application
    finally:
        application.close()


def _serve_nothing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    assert environ["PATH_INFO"] == "/backjob-check", "a script is asked for no other page"
    start_response("404 Not Found", [])
    return [b""]
