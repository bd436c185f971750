"""Every server that backjob promises to work on, as people run it, with one slot and with several.

Nothing that a client says decides where the self-requests go: each request of the visitor has a Host of its own making.
``MATRIX_RECORD=path`` has each entry write a line about how it went; ``make servers`` makes docs/servers.md of them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import pytest
from support import wait_until
from support.apache import daemon, embedded, express, passenger
from support.libraries import (
    BJOERN,
    BOTTLE,
    DJANGO,
    DJANGO_RELOADER,
    FLASK,
    FLASK_DEBUG,
    GEVENT_PYWSGI,
    ONE_DJANGO,
    ONE_FLASK,
    cheroot,
    granian,
    hypercorn,
    pserve,
    uvicorn,
)
from support.nginx import nginx
from support.places import reserve
from support.servers import (
    ONE_WAITRESS,
    WAITRESS,
    WERKZEUG,
    WERKZEUG_PROCESSES,
    WERKZEUG_THREADS,
    WSGIREF,
    Certificate,
    Server,
    Setup,
    gunicorn,
    script,
    serve,
)
from support.servers_page import IS_RECORDED, Finding, read_names, record
from support.uwsgi import uwsgi

from backjob import Status

pytestmark = pytest.mark.live

KEY = "the-key-of-a-test-and-of-no-user"
"""Apache runs the app as another user, whose key file is not for this one."""
EVIL_HOST = "evil.example:9999"


@dataclass(frozen=True)
class Entry:
    """A server of the matrix. ``front``: nginx's directive for the way to it, if there is an nginx in front."""

    setup: Setup
    front: str = ""

    @property
    def products(self) -> tuple[str, ...]:
        return (*self.setup.products, "nginx-light") if self.front else self.setup.products

    def __str__(self) -> str:
        return f"nginx-{self.setup}" if self.front else str(self.setup)


def everywhere(*setups: Setup) -> list[Setup]:
    """Each of them on TCP, at all addresses, on IPv6, on a unix socket and with TLS."""
    places = [setup.at(host) for setup in setups for host in ("127.0.0.1", "0.0.0.0", "::1")]
    return [*places, *(setup.over(transport) for setup in setups for transport in ("unix", "tls"))]


SYNC = [gunicorn("sync"), gunicorn("sync", workers=2)]
GTHREAD = [gunicorn("gthread"), gunicorn("gthread", threads=4)]
GEVENT = [gunicorn("gevent")]
GUNICORN = [
    *everywhere(*SYNC, *GTHREAD, *GEVENT),
    *(setup.with_options("--preload").named("preload") for setup in (*SYNC, *GTHREAD, *GEVENT)),
    GTHREAD[1].at("::"),
]
PYTHON = [
    *(waitress.over(transport) for waitress in (ONE_WAITRESS, WAITRESS) for transport in ("tcp", "unix")),
    *(WAITRESS.at("0.0.0.0"), WAITRESS.at("::1")),
    *(pserve("waitress", 1), pserve("waitress", 4), pserve("gunicorn", 2)),
    *(WERKZEUG, WERKZEUG.at("0.0.0.0"), WERKZEUG_THREADS, WERKZEUG_PROCESSES, FLASK, ONE_FLASK, FLASK_DEBUG),
    *(WSGIREF, WSGIREF.at("0.0.0.0"), BJOERN, BOTTLE, DJANGO, ONE_DJANGO, DJANGO_RELOADER),
    *(cheroot(1), cheroot(4), cheroot(4).over("unix"), cheroot(4).over("tls")),
    *(GEVENT_PYWSGI, GEVENT_PYWSGI.over("tls")),
    *(granian(1), granian(4), granian(4).over("unix"), granian(2, workers=2)),
    *(hypercorn(1), hypercorn(2), hypercorn(1).over("unix"), hypercorn(1).over("tls")),
    *(uvicorn(1), uvicorn(4), uvicorn(4).over("unix"), uvicorn(4).over("tls")),
]
UWSGI_THREADS = uwsgi("http-socket", "--threads", "4", slots=4, kind="threads")
UWSGI = [
    uwsgi("http-socket"),
    uwsgi("http-socket", "--processes", "2", slots=2, kind="processes"),
    *(UWSGI_THREADS, UWSGI_THREADS.at("0.0.0.0"), UWSGI_THREADS.at("::1"), UWSGI_THREADS.over("unix")),
    uwsgi("http"),
    uwsgi("http", "--threads", "4", slots=4, kind="threads"),
    uwsgi("http-socket", is_debian=True),
    uwsgi("http-socket", "--processes", "2", slots=2, kind="processes", is_debian=True),
    uwsgi("http-socket", "--enable-threads", kind="enable-threads", is_debian=True),
    uwsgi("http-socket", "--threads", "4", slots=4, kind="threads", is_debian=True),
    uwsgi("http", is_debian=True),
]
APACHE = [
    *(embedded(1), embedded(4), embedded(1, threads=4)),
    *(daemon(1), daemon(4), daemon(2, processes=2), daemon(4).at("0.0.0.0"), daemon(4).over("tls")),
    *(express(1), express(4), passenger(1), passenger(4)),
]
UWSGI_PASS = [
    uwsgi("socket"),
    uwsgi("socket", "--processes", "2", "--threads", "2", slots=4, kind="threads"),
    uwsgi("socket", is_debian=True),
]
PROXY_PASS = [setup.over(transport) for setup in (SYNC[0], GTHREAD[1]) for transport in ("tcp", "unix")]
MATRIX = [
    *map(Entry, [*GUNICORN, *PYTHON, *UWSGI, *APACHE]),
    *(Entry(setup.over(transport), "uwsgi_pass") for setup in UWSGI_PASS for transport in ("tcp", "unix")),
    *(Entry(setup, "proxy_pass") for setup in (*PROXY_PASS, ONE_WAITRESS, WAITRESS)),
]

_SERVER = """
server {{
    listen {listen};
    location / {{
        {directive} {to};
        {host}
    }}
}}
"""


class Ahead:
    """Starts the server of the next test while the one before is talked to, for that is half of the time they take."""

    def __init__(self, entries: list[Entry], start: Callable[[Entry], AbstractContextManager[Server]]) -> None:
        self._next = dict(itertools.pairwise(entries))
        self._start = start
        self._started: dict[Entry, tuple[contextlib.ExitStack, Server]] = {}

    @contextlib.contextmanager
    def run(self, entry: Entry) -> Iterator[Server]:
        """The entry's server until the block ends."""
        stop, server = self._started.pop(entry, None) or self._enter(entry)
        with stop:
            if (after := self._next.get(entry)) and not IS_RECORDED:
                # What is missing for it is said in its own test.
                with contextlib.suppress(pytest.skip.Exception, pytest.fail.Exception):
                    self._started[after] = self._enter(after)
            yield server

    def close(self) -> None:
        """Stop what was started for a test that does not come."""
        for stop, _ in self._started.values():
            stop.close()

    def _enter(self, entry: Entry) -> tuple[contextlib.ExitStack, Server]:
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(self._start(entry))
            return stack.pop_all(), server


@pytest.fixture(scope="module")
def ahead(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Certificate
) -> Iterator[Ahead]:
    own = (item for item in request.session.items if item.path == request.path)
    entries = [item.callspec.params["entry"] for item in own if item.originalname == test_server.__name__]

    def start(entry: Entry) -> AbstractContextManager[Server]:
        if ":" in entry.setup.host and not has_ipv6():
            pytest.skip("this machine has no IPv6")
        environ = {"BACKJOB_KEY": KEY}
        return serve(entry.setup, tmp_path_factory.mktemp("matrix"), certificate=certificate, environ=environ)

    running = Ahead(entries, start)
    yield running
    running.close()


@contextlib.contextmanager
def in_front_of(server: Server, directive: str) -> Iterator[Server]:
    """The same server as it is reached by the nginx in front of it."""
    server.wait_until_it_listens()
    unix_or_tcp = f"unix:{server.address}" if isinstance(server.address, str) else "{}:{}".format(*server.address)
    is_http = directive == "proxy_pass"
    with reserve() as place:
        config = _SERVER.format(
            listen=place.authority,
            directive=directive,
            to=f"http://{unix_or_tcp}" if is_http else unix_or_tcp,
            host="proxy_set_header Host $http_host;" if is_http else "include /etc/nginx/uwsgi_params;",
        )
        with nginx(server.directory / "nginx", config, place):
            yield replace(server, address=place.address)


@pytest.mark.parametrize("entry", MATRIX, ids=str)
def test_server(entry: Entry, ahead: Ahead) -> None:
    with ahead.run(entry) as own, in_front_of(own, entry.front) if entry.front else nullcontext(own) as server:
        server.headers["Host"] = EVIL_HOST
        walk_through(server)
        start_by_form(server)
        start_six_at_once(server)
        time_starts(server, entry)
        check(server)


def walk_through(server: Server) -> None:
    """EBackJob's complete example: a page starts the job, another tells how it stands, while it runs and after."""
    job_id = server.start("/walk", {"Cookie": "user=Ada"})
    # From another process: a server with one slot answers no question while a job has it.
    with script(server.directory, key=KEY) as records:
        look = records.jobs.status if server.setup.slots == 1 else None

        def seen(progress: int) -> str:
            status = look(job_id).as_dict() if look else server.status(job_id)
            assert status["progress"] <= progress
            assert status["status"] in (Status.STARTED, Status.INPROGRESS), status["status_text"]
            return status["status_text"] if status["progress"] == progress else ""

        server.open_gate("gate-20")
        assert wait_until(lambda: seen(20)) == "Job started for Ada.\n"
        server.open_gate("gate-40")
        assert wait_until(lambda: seen(40)) == "Job started for Ada.\nJob in progress.\n"
    server.open_gate("gate-80")
    end = server.end_of(job_id)
    assert end["status"] == Status.COMPLETED
    assert end["progress"] == 100
    assert end["status_text"] == "Job started for Ada.\nJob in progress.\nJob done.\n"
    assert end["attempt"] == 1
    server.assert_ran_once([job_id])


def start_by_form(server: Server) -> None:
    """A POST with a body: the job is the request that was asked for, by the user who asked."""
    user = {"Cookie": "user=Ada; theme=d%C3%A4mmrig", "Authorization": "Basic QWRhOmVuZ2luZQ=="}
    form = {"id": 5, "name": "Zoë & Łucja = 100 %", "tag": ["a", "b"]}
    job_id = server.start("/echo?page=1", user, params={"q": "ä b"}, method="POST", data=form)
    end = server.end_of(job_id)
    assert end["status"] == Status.COMPLETED, end["status_text"]
    seen = json.loads(end["status_text"])
    assert (seen["method"], seen["path"], seen["query"]) == ("POST", "/echo", "page=1&q=%C3%A4+b")
    assert seen["body"] == "id=5&name=Zo%C3%AB+%26+%C5%81ucja+%3D+100+%25&tag=a&tag=b"
    assert {name: seen["headers"][name] for name in user} == user
    # Debian's nginx leaves the port out for uwsgi_pass.
    assert seen["headers"]["Host"] in (EVIL_HOST, EVIL_HOST.partition(":")[0])
    assert not any("backjob" in name.lower() for name in seen["headers"])
    assert seen["scheme"] == ("https" if server.tls else "http")
    server.assert_ran_once([job_id])


def start_six_at_once(server: Server) -> None:
    """More jobs than one process launches at once."""
    job_ids = server.start_all("/work?seconds=0.02", count=6)["ids"]
    assert len(set(job_ids)) == 6
    assert [server.end_of(job_id)["status"] for job_id in job_ids] == [Status.COMPLETED] * 6
    server.assert_ran_once(job_ids)


def time_starts(server: Server, entry: Entry) -> None:
    """start() never takes a second. How long it takes, and how the server was found, goes to the record."""
    answers = []
    for _ in range(5):
        answers.append(server.start_all("/work"))
        assert server.end_of(answers[-1]["ids"][0])["status"] == Status.COMPLETED
    seconds = [answer["seconds"][0] for answer in answers]
    assert max(seconds) < 1.0
    way = answers[-1]
    record(Finding(str(entry), entry.setup.slots, entry.products, way["found"], statistics.median(seconds), way["way"]))


def check(server: Server) -> None:
    """From within a request the app can tell that all is well, and how many slots there are if the server says it."""
    if server.setup.slots == 1 or server.setup.app != Setup.app:
        return
    found = server.ask("GET", "/check").json()
    print(found)
    assert found["is_ok"], found["problem"]
    assert found["server"]["slots"] in (None, server.setup.slots)


def test_passenger_has_to_be_told_where_it_is_reached(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("own")  # short: Passenger puts unix sockets below it
    with serve(replace(passenger(1), needs_connect=False), directory, is_trouble_expected=True) as server:
        assert server.ask("POST", "/start", {"target": "/work"}).status == 502
        wait_until(lambda: "AddressError: The app's own address is not known here. Set connect=" in server.log)


def test_the_page_has_each_of_these_servers() -> None:
    """``make servers`` was run since the matrix last changed."""
    assert read_names() == [str(entry) for entry in MATRIX]


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
