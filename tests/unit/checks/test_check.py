"""check(): every failure that is planted is told, in the words that a failed job has too; and nothing of a user is."""

from __future__ import annotations

import contextlib
import dataclasses
import grp
import json
import logging
import os
import pwd
import re
import socket
import ssl
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIServer, make_server

import pytest
from dogpile.cache import make_region
from sqlalchemy import create_engine as make_engine
from support import DOCS, ROOT, services
from support.peers import (
    Authority,
    Call,
    Peer,
    Script,
    answer,
    answer_and_reset,
    answer_and_stay,
    full_backlog,
    read_header,
)
from support.served import KEY, Site, call, make_environ, serve_site, wrap

from backjob import BackJob
from backjob.checks.check import PATIENCE, find_network_file_system, prove_facts
from backjob.checks.exposure import find_exposures
from backjob.checks.report import CacheFacts, Finding, Reply, StoreFacts, Trial, find_problems, find_warnings
from backjob.config import Config, __version__, make_config
from backjob.errors import LaunchError
from backjob.keyring import MONITOR, Keyring
from backjob.model.job import JobRequest
from backjob.runtime.server_info import ServerFacts, detect_server
from backjob.transport.launcher import SelfRequest

OTHER_KEY = "somebody else's key, of which nobody here knows"
CANARIES = {
    "HTTP_COOKIE": "session=CanaryCookie",
    "HTTP_AUTHORIZATION": "Bearer CanaryBearer",
    "HTTP_X_CSRF_TOKEN": "CanaryToken",
    "QUERY_STRING": "q=CanaryQuery",
    "REMOTE_USER": "CanaryUser",
}
VISITOR = {"HTTP_COOKIE": "id=CanaryCookie", "wsgi.multithread": True}
AT_ONCE = 1.0
"""Seconds within which all is told that waits for nothing, on a busy machine too."""


def http(status: str, *headers: str, body: str = "no") -> bytes:
    """A whole answer of something that is not ours."""
    lines = [f"HTTP/1.1 {status}", "Server: gate/1.0", *headers, f"Content-Length: {len(body)}", "", body]
    return "\r\n".join(lines).encode()


@contextlib.contextmanager
def script(folder: Path, connect: str | None = None, **options: Any) -> Iterator[BackJob]:
    """The app in a process that serves nothing, with a database of its own."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise AssertionError("a check asks no view")

    options = {"key": KEY, "database": f"sqlite:///{folder}/script.sqlite3", "connect": connect, **options}
    application = BackJob(app, **options)
    yield application
    application.close()


def launch_at(config: Config) -> str:
    """What a job's launch meets there."""
    request = JobRequest(
        "GET", "/job", "", "/job", headers={"HTTP_HOST": config.address.authority if config.address else ""}
    )
    keyring = Keyring([KEY])
    with pytest.raises(LaunchError) as caught:
        SelfRequest(config, keyring).launch(keyring.sign(MONITOR, 7, 1, b"sealed"), request, None)
    return str(caught.value)


def say(*pieces: bytes) -> Script:
    """Speak first, whatever comes in."""

    def play(call: Call) -> None:
        call.send(*pieces)
        call.wait_for_the_end()

    return play


# The planted failures: each gives connect= and options, and the words that are to be told.

Plant = Callable[["Ground"], Any]


@dataclasses.dataclass
class Ground:
    """Where a failure is planted."""

    folder: Path
    cleanup: contextlib.ExitStack
    authority: Authority

    def peer(self, script: Script, **how: Any) -> str:
        return str(self.cleanup.enter_context(Peer(script, **how)).address)

    def site(self, **options: Any) -> Site:
        (self.folder / "site").mkdir()
        return self.cleanup.enter_context(serve_site(self.folder / "site", **options))


def refused(ground: Ground) -> str:
    with Peer(answer()) as peer:
        return str(peer.address)


def stale_socket(ground: Ground) -> str:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(ground.folder / "s"))
    return f"unix:{ground.folder}/s"


def forbidden_socket(ground: Ground) -> str:
    address = ground.peer(answer(), family=socket.AF_UNIX)
    Path(address.removeprefix("unix:")).chmod(0)
    if os.geteuid() == 0:  # root may open everything: for a moment this is somebody else
        os.seteuid(65534)
        ground.cleanup.callback(os.seteuid, 0)
    return address


def crowded(ground: Ground) -> str:
    return str(ground.cleanup.enter_context(full_backlog()))


def behind_certificate(*names: str, is_known: bool = True, **dates: datetime) -> Plant:
    def plant(ground: Ground) -> tuple[str, dict[str, Any]]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ground.authority._authority.issue_cert(*names, **dates).configure_cert(context)
        options = {"ca_file": ground.authority.write_to(ground.folder)} if is_known else {}
        return ground.peer(answer(), tls=context), options

    return plant


def answered(*pieces: bytes) -> Plant:
    return lambda ground: ground.peer(answer(*pieces))


def greeted(*pieces: bytes) -> Plant:
    return lambda ground: ground.peer(say(*pieces))


def tls_to_plain(ground: Ground) -> str:
    return ground.peer(say(http("400 Bad Request"))).replace("http://", "https://")


def plain_to_tls(ground: Ground) -> str:
    return ground.peer(answer(), tls=ground.authority.certify("127.0.0.1")).replace("https://", "http://")


def another_key(ground: Ground) -> str:
    return ground.site(key=OTHER_KEY).server.url


def no_key_there(ground: Ground) -> str:
    site = ground.site(key=None)
    (ground.folder / "site" / "jobs.sqlite3.key").write_text("short")
    (ground.folder / "site" / "jobs.sqlite3.key").chmod(0o600)
    return site.server.url


YEAR = timedelta(days=365)
NOW = datetime.now(timezone.utc)
FAILURES: dict[str, tuple[Plant, list[str]]] = {
    "nobody listens": (refused, ["nothing listens there", "ConnectionRefusedError", "correct connect="]),
    "no such socket": (lambda ground: f"unix:{ground.folder}/none", ["there is no such socket", "correct connect="]),
    "a socket that was left": (stale_socket, ["nothing listens there"]),
    "a socket of somebody else's": (
        forbidden_socket,
        ["the user of this process must be able to write to the socket", "SocketMode="],
    ),
    "no such name": (lambda ground: "http://nowhere.invalid:81", ["nowhere.invalid does not resolve"]),
    "a full backlog": (crowded, ["TimeoutError", "all its slots are busy", "firewall"]),
    "TLS to plain": (tls_to_plain, ["does not speak TLS", 'correct connect= to "http://']),
    "plain to TLS": (plain_to_tls, ["TLS"]),
    "plain to nginx's TLS": (
        answered(http("400 Bad Request", body="The plain HTTP request was sent to HTTPS port")),
        ["400", "it speaks TLS", "https://"],
    ),
    "a TLS alert": (greeted(b"\x15\x03\x01\x00\x02\x02\x46"), ["it speaks TLS", "https://"]),
    "an expired certificate": (
        behind_certificate("127.0.0.1", not_before=NOW - 2 * YEAR, not_after=NOW - YEAR),
        ["certificate", "expired", "renew it"],
    ),
    "a certificate of the future": (
        behind_certificate("127.0.0.1", not_before=NOW + YEAR, not_after=NOW + 2 * YEAR),
        ["certificate", "not yet valid", "clock"],
    ),
    "another host's certificate": (behind_certificate("other.test"), ["certificate", "address that is in it"]),
    "an unknown authority": (behind_certificate("127.0.0.1", is_known=False), ["certificate", "set ca_file="]),
    "400": (answered(http("400 Bad Request")), ["answered 400 (Server: gate/1.0)", "certain hosts"]),
    "401": (answered(http("401 Unauthorized")), ["401", "password", "connect_headers="]),
    "403": (answered(http("403 Forbidden")), ["403", "refused there"]),
    "404": (answered(http("404 Not Found")), ["404", "no BackJob", "another path"]),
    "405": (answered(http("405 Method Not Allowed")), ["405", "POST"]),
    "413": (answered(http("413 Too Large")), ["413", "client_max_body_size"]),
    "414": (answered(http("414 Too Long")), ["414", "too long"]),
    "429": (answered(http("429 Too Many")), ["429", "limits"]),
    "431": (answered(http("431 Too Large")), ["431", "user_agent"]),
    "418": (answered(http("418 Teapot")), ["418", "correct connect="]),
    "500": (answered(http("500 Oh")), ["500", "its log"]),
    "502": (answered(http("502 Bad Gateway")), ["502", "does not reach the app behind it"]),
    "503": (answered(http("503 Busy")), ["503", "without an app behind it"]),
    "504": (answered(http("504 Late")), ["504", "gave up", "slots are busy"]),
    "to https": (
        answered(http("301 M", "Location: https://app.test/x?a=secret")),
        ["app.test/x: it requires https", "X-Forwarded-Proto", "correct connect="],
    ),
    "to a login": (
        answered(http("302 F", "Location: http://me:secret@sso.test/login?next=secret")),
        ["302", "http://sso.test/login: it looks like a login"],
    ),
    "to what is no login": (
        answered(http("302 F", "Location: /author/blogindex")),
        ["302", "/author/blogindex: correct"],
    ),
    "to another host": (answered(http("307 F", "Location: http://b.test/")), ["307", "b.test/: that is another host"]),
    "to another path": (answered(http("308 F", "Location: /en/")), ["308", "redirects to /en/: correct connect="]),
    "to nowhere": (answered(http("301 M")), ["301", "elsewhere"]),
    "to what is no address": (answered(http("301 M", "Location: http://[")), ["301", "http://["]),
    "another program": (answered(http("200 OK")), ["200", "another program", "another key"]),
    "another key": (another_key, ["403", "an app with BackJob, but with another key", "$BACKJOB_KEY"]),
    "no key there": (no_key_there, ["503", "its job database or its key can't be used", "log"]),
    "an SSH server": (greeted(b"SSH-2.0-OpenSSH_9.2\r\n"), ["not answer in HTTP", "'SSH-2.0-OpenSSH_9.2'"]),
    "Redis": (answered(b"-ERR wrong number of arguments\r\n"), ["not answer in HTTP", "-ERR wrong"]),
    "memcached": (answered(b"ERROR\r\nERROR\r\n"), ["not answer in HTTP", "'ERRORERROR'"]),
    "a greeting that is no text": (greeted(b"\x00\x01\x1b[2J\x07hello"), ["it says '[2Jhello'"]),
    "closed at once": (answered(), ["closed the connection without a whole answer", "TLS", "uwsgi"]),
    "reset at once": (lambda ground: ground.peer(answer_and_reset()), ["without a whole answer"]),
    "half an answer": (answered(b"HTTP/1.1 200 OK\r\nServer: x"), ["without a whole answer"]),
    "an endless answer": (greeted(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 70000), ["answers without an end"]),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_planted_failure_is_told(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """check() raises nothing, and says what a job's launch says that meets the same."""
    plant, words = FAILURES[name]
    with contextlib.ExitStack() as cleanup:
        with script(tmp_path) as application:
            assert application.check().store.error == ""  # before anything is planted
        ground = Ground(tmp_path, cleanup, Authority())
        planted = plant(ground)
        connect, options = planted if isinstance(planted, tuple) else (planted, {})
        with script(tmp_path, connect, **options) as application:
            begin = time.monotonic()
            found = application.check()
            assert time.monotonic() - begin < PATIENCE + AT_ONCE
            (trial,) = found.tried
            launch = launch_at(application.config)
    assert found.problem is not None
    assert (found.is_ok, found.problem.name) == (False, "not-reached")
    assert [word for word in [*words, connect] if word not in found.problem.text] == []
    assert found.problem.text == trial.error == launch
    assert (trial.address, trial.found, trial.seconds) == (connect, "connect=", None)
    assert found.problem.text.isprintable()
    assert "secret" not in str(found) + caplog.text
    assert (found.server, found.monitor, found.address, found.round_trip) == (None, "", "", None)


class TestBusy:
    @pytest.mark.parametrize("is_read", [True, False])
    def test_from_outside(self, tmp_path: Path, is_read: bool) -> None:
        with Peer(answer_and_stay() if is_read else say()) as peer, script(tmp_path, str(peer.address)) as application:
            begin = time.monotonic()
            found = application.check()
            assert PATIENCE <= time.monotonic() - begin < PATIENCE + AT_ONCE
        assert found.problem is not None
        assert found.problem.name == "not-reached"
        assert f"{peer.address} is busy" in found.problem.text

    def test_no_slot_for_a_handshake(self, tmp_path: Path) -> None:
        with Peer(say()) as peer, script(tmp_path, f"https://{peer.address.authority}") as application:
            found = application.check()
        assert found.problem is not None
        assert "is busy" in found.problem.text

    def test_from_a_request(self, tmp_path: Path) -> None:
        """Of several places all together are waited for, and the next one may be ours."""
        with serve_site(tmp_path) as site, Peer(say()) as mute:
            begin = time.monotonic()
            found = site.application.check(make_environ(SERVER_PORT=str(mute.address.port)))
            assert time.monotonic() - begin < PATIENCE + AT_ONCE
            assert found.is_ok
            assert [trial.address for trial in found.tried] == [str(mute.address), site.server.url]
            assert "is busy" in found.tried[0].error
            assert found.tried[1].error == ""
            assert found.address == site.server.url
        with Peer(say()) as mute, Peer(say()), wrap(tmp_path) as site:
            begin = time.monotonic()
            found = site.application.check(make_environ(SERVER_PORT=str(mute.address.port)))
            assert time.monotonic() - begin < PATIENCE + AT_ONCE
        assert found.problem is not None
        assert found.problem.name == "busy"
        assert "one slot" in found.problem.remedy
        assert len(found.tried) == 2


class TestAddress:
    def test_none_is_known_outside_of_a_request(self, tmp_path: Path) -> None:
        with script(tmp_path) as application:
            found = application.check()
        assert found.problem is not None
        assert found.problem.name == "no-address"
        assert "connect=" in found.problem.text
        assert "environ" in found.problem.remedy
        assert (found.tried, found.store.error) == ((), "")

    def test_one_that_a_request_came_by_is_remembered(self, tmp_path: Path) -> None:
        with serve_site(tmp_path) as site:
            assert site.application.check(make_environ(SERVER_PORT=str(site.server.port))).is_ok
            found = site.application.check()
            assert found.is_ok
            assert found.tried == (Trial(site.server.url, found.tried[0].found, found.round_trip),)
            assert found.tried[0].found.startswith("listening descriptor")

    def test_each_one_that_was_tried_is_told(self, tmp_path: Path) -> None:
        with serve_site(tmp_path, key=OTHER_KEY), Peer(answer(http("401 No"))) as gate, script(tmp_path) as application:
            found = application.check(make_environ(SERVER_PORT=str(gate.address.port)))
        assert found.problem is not None
        assert [bool(trial.error) for trial in found.tried] == [True, True]
        for trial in found.tried:
            assert trial.error in found.problem.text
            assert trial.error in str(found)
        assert "401" in found.tried[0].error
        assert "another key" in found.tried[1].error

    def test_the_mount_comes_from_the_environ(self, tmp_path: Path) -> None:
        with Peer(answer(http("404 Not Found"))) as peer, script(tmp_path, str(peer.address)) as application:
            application.check(make_environ("/page?a=b", SCRIPT_NAME="/m\xc3\xb6"))
            application.check()
            assert peer.next_request().startswith(b"POST /m%C3%B6/ HTTP/1.1\r\n")
            assert peer.next_request().startswith(b"POST / HTTP/1.1\r\n")


class TestStore:
    def test_it_is_away_here(self, tmp_path: Path) -> None:
        with serve_site(tmp_path) as site, script(tmp_path / "none", site.server.url) as application:
            found = application.check()
        assert [problem.name for problem in found.problems] == ["store"]
        assert "can't be opened or made" in found.problems[0].text
        assert found.address == site.server.url
        assert found.store.seconds is None

    def test_it_is_away_there(self, tmp_path: Path) -> None:
        with serve_site(tmp_path) as site, script(tmp_path, site.server.url) as application:
            site.sql("DROP TABLE IF EXISTS background_job")
            site.sql("CREATE TABLE background_job (id INTEGER)")
            found = application.check()
        assert [problem.name for problem in found.problems] == ["store"]
        assert "The process that answers can't use its job database" in found.problems[0].text
        assert "it lacks" in found.problems[0].text

    def test_reading_is_not_enough(self, tmp_path: Path) -> None:
        with serve_site(tmp_path) as site:
            site.start("/job")
            engine = make_engine(f"sqlite:///file:{tmp_path}/jobs.sqlite3?mode=ro&uri=true")
            with script(tmp_path, site.server.url, database=engine) as application:
                found = application.check()
            engine.dispose()
        assert [problem.name for problem in found.problems] == ["store"]
        assert "readonly" in found.problems[0].text

    @pytest.mark.parametrize("name", ["postgresql", "mariadb"])
    def test_a_server(self, tmp_path: Path, name: str) -> None:
        with services.new_database(name) as url:
            database = url.render_as_string(hide_password=False)
            with serve_site(tmp_path, database=database) as site:
                found = site.application.check(make_environ(SERVER_PORT=str(site.server.port)))
        assert found.problem is None, str(found)
        assert found.warnings == ()
        assert found.store.place.startswith(f"{url.get_backend_name()} database {url.database}")
        assert found.store.place.endswith("table background_job")
        assert found.store.seconds is not None

    def test_no_password_is_told(self, tmp_path: Path) -> None:
        url = "postgresql+psycopg://CanaryUser:CanaryPassword@127.0.0.1:1/app?application_name=CanaryName"
        with script(tmp_path, "http://127.0.0.1:1", database=url) as application:
            found = application.check()
        assert found.store.place == "postgresql database app at 127.0.0.1:1, table background_job"
        assert found.store.error
        assert "CanaryPassword" not in repr(found) + str(found)

    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/srv/app/jobs.sqlite3", "nfs4"),
            ("/srv/jobs.sqlite3", ""),
            ("/srv/app/local/jobs.sqlite3", ""),
            ("/mnt/my share/jobs.sqlite3", "fuse.sshfs"),
            ("/srv/application/jobs.sqlite3", ""),
        ],
    )
    def test_a_network_file_system(self, tmp_path: Path, path: str, kind: str) -> None:
        mounts = tmp_path / "mountinfo"
        mounts.write_text(
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
            "30 22 0:40 / /srv/app rw shared:5 - nfs4 files:/app rw,vers=4.2\n"
            "31 30 8:2 / /srv/app/local rw - ext4 /dev/sdb1 rw\n"
            "32 22 0:41 / /mnt/my\\040share rw shared:6 master:1 - fuse.sshfs me@files: rw\n"
        )
        assert find_network_file_system(Path(path), mounts) == kind
        assert find_network_file_system(Path(path), tmp_path / "none") == ""

    def test_this_file_system_is_none(self, tmp_path: Path) -> None:
        assert find_network_file_system(tmp_path / "jobs.sqlite3") == ""


class TestKey:
    def test_it_can_not_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "script.sqlite3.key").write_text("short")
        (tmp_path / "script.sqlite3.key").chmod(0o600)
        with script(tmp_path, "http://127.0.0.1:1", key=None) as application:
            found = application.check()
        assert found.problem == Finding("key", found.problem.text if found.problem else "")
        assert "holds no key" in found.problem.text
        assert (found.tried, found.keys, found.server) == ((), 0, None)
        assert "short" not in str(found).replace("shorter", "")

    @pytest.mark.parametrize(
        ("options", "variable", "name", "count"),
        [
            ({"key": KEY}, None, "key=", 1),
            ({"key": [KEY, OTHER_KEY]}, None, "key=", 2),
            ({"key": None}, f"{KEY.replace(' ', '-')} {OTHER_KEY.replace(' ', '-')}", "$BACKJOB_KEY", 2),
            ({"key": None}, None, "key file {}/script.sqlite3.key", 1),
        ],
    )
    def test_where_it_comes_from(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        options: dict[str, Any],
        variable: str | None,
        name: str,
        count: int,
    ) -> None:
        monkeypatch.delenv("BACKJOB_KEY", raising=False)
        if variable:
            monkeypatch.setenv("BACKJOB_KEY", variable)
        with script(tmp_path, **options) as application:
            found = application.check()
        assert (found.key, found.keys) == (name.format(tmp_path), count)
        for secret in (KEY, OTHER_KEY, *(variable or "").split(), *Keyring([KEY]).key_ids):
            assert secret not in f"{found!r}{found}{found.as_dict()}"


def change(before: bytes, after: bytes, site: Site) -> Script:
    """A proxy that changes what our middleware says, and nothing in its length."""

    def play(call: Call) -> None:
        request = call.read_request()
        with socket.create_connection(("127.0.0.1", site.server.port)) as upstream:
            upstream.sendall(request)
            received = b"".join(iter(lambda: upstream.recv(65536), b""))
        assert before in received
        call.send(received.replace(before, after))

    return play


@contextlib.contextmanager
def behind(site: Site, before: bytes, after: bytes, folder: Path) -> Iterator[BackJob]:
    """A script whose connect= leads through such a proxy."""
    with Peer(change(before, after, site)) as proxy, script(folder, str(proxy.address)) as application:
        yield application


class TestProof:
    def test_what_a_proxy_passes_on(self, tmp_path: Path) -> None:
        with serve_site(tmp_path) as site, behind(site, b"thread", b"thread", tmp_path) as application:
            found = application.check()
        assert found.is_ok
        assert found.monitor == "thread"

    @pytest.mark.parametrize(("before", "after"), [(b'"thread"', b'"leave!"'), (b"200 OK", b"202 OK")])
    def test_what_a_proxy_changes_is_not_believed(self, tmp_path: Path, before: bytes, after: bytes) -> None:
        with serve_site(tmp_path) as site, behind(site, before, after, tmp_path) as application:
            found = application.check()
        assert found.problem is not None
        assert "another program" in found.problem.text
        assert found.server is None

    def test_another_version_may_tell_more(self, tmp_path: Path) -> None:
        def tell(call: Call) -> None:
            token = Keyring([KEY]).verify(read_header(call.read_request(), "Backjob-Token"))
            server, store = {"software": "x/1", "color": "red"}, {"place": "far away", "size": 5}
            facts = json.dumps({"version": "9.9", "server": server, "store": store, "monitor": "thread", "more": 1})
            call.send(http("200 OK", f"Backjob-Proof: {prove_facts(token, facts)}", body=facts))

        with Peer(tell) as peer, script(tmp_path, str(peer.address)) as application:
            found = application.check()
        assert found.is_ok
        assert found.server == ServerFacts("x/1")
        assert [warning.name for warning in found.warnings] == ["version", "other-store", "site-url", "site-unknown"]

    @pytest.mark.parametrize("kind", ["monitor", "worker", "probe"])
    def test_facts_are_for_a_check_alone(self, tmp_path: Path, kind: str) -> None:
        with wrap(tmp_path) as site:
            reply = site.send(site.backend.keyring.sign(kind, 0, 1, b"").text)
        assert b"SQLite" not in reply.body

    def test_without_the_key_nothing_is_told(self, tmp_path: Path) -> None:
        with wrap(tmp_path) as site:
            reply = site.send(Keyring([OTHER_KEY]).sign("check", 0, 1, b"").text)
        assert (reply.code, reply.body) == (403, b"backjob: forbidden\n")


def test_nothing_of_a_user_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in the record nor in the log, nor on the wire."""
    caplog.set_level(logging.DEBUG)
    options = {"connect_headers": {"X-Gate": "CanaryGate"}, "identify": lambda environ: "CanaryIdentity"}
    with serve_site(tmp_path) as site, Peer(change(b"thread", b"thread", site)) as proxy:
        with script(tmp_path, str(proxy.address), **options) as application:
            found = application.check(make_environ("/x", "POST", b"a=CanaryForm", **CANARIES))
        request = proxy.next_request().decode()
    assert found.is_ok
    assert request.count("Canary") == request.count("X-Gate: CanaryGate") == 1
    assert request.startswith("POST / HTTP/1.1\r\n")
    told = f"{found!r}{found}{found.as_dict()}{caplog.text}"
    assert [secret for secret in ("Canary", KEY, *Keyring([KEY]).key_ids) if secret in told] == []


def test_the_record(tmp_path: Path) -> None:
    with serve_site(tmp_path) as site:
        found = site.application.check(make_environ(SERVER_PORT=str(site.server.port)))
    fields = found.as_dict()
    assert json.loads(json.dumps(fields)) == json.loads(json.dumps(fields, default=str))
    assert (fields["is_ok"], fields["problem"], fields["address"]) == (True, None, site.server.url)
    assert str(found).splitlines()[0] == f"backjob {__version__}: jobs will work here"
    assert [line.split()[0] for line in str(found).splitlines()[1:]] == [
        "address",
        "server",
        "monitor",
        "key",
        "store",
        "cache",
    ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.key = "another"  # type: ignore[misc]


def test_a_check_needs_no_app_and_leaves_no_job(tmp_path: Path) -> None:
    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise AssertionError("a check asks no view")

    with serve_site(tmp_path, job) as site:
        assert site.application.check(make_environ(SERVER_PORT=str(site.server.port))).is_ok
        assert site.rows() == []


@pytest.mark.parametrize("is_threaded", [True, False])
def test_a_server_of_pythons_own(tmp_path: Path, is_threaded: bool) -> None:
    """wsgiref says in its environ that it has one thread, also where it has one for each request."""

    class Threaded(ThreadingMixIn, WSGIServer):
        daemon_threads = False

    with wrap(tmp_path, launcher=None) as site:
        server = make_server("127.0.0.1", 0, site.application, Threaded if is_threaded else WSGIServer)
        loop = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        loop.start()
        with server, script(tmp_path, f"http://127.0.0.1:{server.server_port}") as application:
            found = application.check()
            server.shutdown()
            loop.join()
    assert found.server is not None
    expected = ("a thread for each request", None) if is_threaded else ("one at a time", 1)
    assert (found.server.worker, found.server.slots) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"mod_wsgi.process_group": "jobs"}, ("Apache mod_wsgi/4.9.4", "daemon processes", 6)),
        ({"mod_wsgi.process_group": ""}, ("Apache mod_wsgi/4.9.4", "embedded", None)),
        (
            {"SERVER_SOFTWARE": "Apache/2.4 (Debian) mod_wsgi/4.9.4"},
            ("Apache/2.4 (Debian) mod_wsgi/4.9.4", "embedded", None),
        ),
        ({"mod_wsgi.version": None}, ("Apache", "", None)),
    ],
)
def test_mod_wsgi(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, Any], expected: tuple[str, str, int | None]
) -> None:
    """Its module, which is there within Apache only, and its environ, as they were seen there."""
    module = types.ModuleType("mod_wsgi")
    module.__dict__.update(maximum_processes=2, threads_per_process=3)
    monkeypatch.setitem(sys.modules, "mod_wsgi", module)
    seen = {"SERVER_SOFTWARE": "Apache", "mod_wsgi.version": (4, 9, 4), "wsgi.multiprocess": True, **environ}
    facts = detect_server({key: value for key, value in seen.items() if value is not None})
    assert (facts.software, facts.worker, facts.slots) == expected


def test_what_a_server_says_of_itself_is_harmless() -> None:
    facts = detect_server({"SERVER_SOFTWARE": "a\x1b[2Jb\n" + "x" * 500})
    assert facts.software.startswith("a[2Jbxxx")
    assert len(facts.software) == 80
    assert detect_server({"SERVER_SOFTWARE": None}) == ServerFacts()


class TestWarnings:
    PLACE = "SQLite file /a, table t"

    def warn(
        self,
        server: ServerFacts | None = None,
        *,
        key: str = "key=",
        store: StoreFacts | None = None,
        cache: CacheFacts | None = None,
        version: str = __version__,
        **options: Any,
    ) -> list[str]:
        here = store or StoreFacts(self.PLACE, 0.1)
        reply = Reply(version, server, "thread", StoreFacts(self.PLACE, 0.1)) if server else None
        found = list(find_warnings(make_config(options), key, here, cache, reply))
        assert all(warning.text and warning.remedy and str(warning).endswith(".") for warning in found)
        return [warning.name for warning in found]

    def test_nothing_is_seen(self) -> None:
        assert self.warn() == []
        assert self.warn(ServerFacts()) == []
        assert self.warn(key="key file /a.key") == []

    @pytest.mark.parametrize(
        ("processes", "slots_each", "max_running", "names"),
        [
            (1, 1, "auto", ["one-slot"]),
            (1, 2, "auto", []),
            (2, 4, "auto", []),
            (1, 4, 3, []),
            (1, 4, 4, ["few-slots"]),
            (9, 9, 0, ["few-slots"]),
            (None, 4, "auto", []),
            (4, None, "auto", []),
        ],
    )
    def test_slots(self, processes: int | None, slots_each: int | None, max_running: Any, names: list[str]) -> None:
        server = ServerFacts(processes=processes, slots_each=slots_each)
        assert self.warn(server, max_running=max_running) == names

    @pytest.mark.parametrize(
        ("connect", "key", "names"),
        [
            ("http://127.0.0.1:80", "key file /a.key", []),
            ("http://localhost:80", "key file /a.key", []),
            ("http://[::1]:80", "key file /a.key", []),
            ("unix:/run/a", "key file /a.key", []),
            ("http://10.0.0.5:80", "key=", ["plain-http"]),
            ("http://10.0.0.5:80", "key file /a.key", ["plain-http", "key-file"]),
            ("https://10.0.0.5", "key=", []),
            ("https://pool.test", "key file /a.key", ["key-file"]),
        ],
    )
    def test_another_host(self, connect: str, key: str, names: list[str]) -> None:
        assert self.warn(key=key, connect=connect) == names

    def test_a_network_file_system(self) -> None:
        store = StoreFacts(self.PLACE, 0.1, file_system="nfs4")
        assert self.warn(store=store) == ["network-file"]
        assert self.warn(store=store, key="key file /a.key") == ["network-file", "key-file"]

    def test_what_answers_is_another(self) -> None:
        assert self.warn(ServerFacts(), version="0.0.9") == ["version"]
        assert self.warn(ServerFacts(), store=StoreFacts("SQLite file /b, table t", 0.1)) == ["other-store"]

    @pytest.mark.parametrize(
        ("is_shared", "has_processes", "names"),
        [(False, True, ["memory-cache"]), (False, False, []), (True, True, [])],
    )
    def test_a_cache_of_each_process(self, is_shared: bool, has_processes: bool, names: list[str]) -> None:
        cache = CacheFacts("MemoryBackend", is_shared)
        assert self.warn(ServerFacts(has_processes=has_processes), cache=cache) == names

    def test_time(self) -> None:
        assert self.warn(ServerFacts(worker="sync", timeout=30)) == ["worker-timeout"]
        assert self.warn(error_timeout=0) == ["error-timeout"]
        assert self.warn(lease=600) == ["lease"]
        assert self.warn(lease=599) == []


class TestCache:
    NOBODY = "127.0.0.1:1"

    @pytest.mark.parametrize("name", ["memory", "memory_pickle", "null"])
    def test_one_for_each_process(self, tmp_path: Path, name: str) -> None:
        with serve_site(tmp_path, cache=make_region().configure(f"dogpile.cache.{name}")) as site:
            found = site.application.check(make_environ(SERVER_PORT=str(site.server.port)))
        assert found.is_ok
        assert found.warnings == ()  # the server has one process
        assert found.cache is not None
        assert (found.cache.is_shared, found.cache.error) == (False, "")
        assert found.cache.kind.endswith("Backend")
        assert found.cache.seconds is not None
        assert f"cache    {found.cache.kind}, one for each process: answers in " in str(found)

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("redis", {"url": f"redis://:CanaryPassword@{NOBODY}/0"}),
            ("pymemcache", {"url": NOBODY}),
        ],
    )
    def test_it_is_away(self, tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
        """That makes jobs slower, and is no problem."""
        region = make_region().configure(f"dogpile.cache.{name}", arguments=arguments)
        with serve_site(tmp_path, cache=region) as site:
            found = site.application.check(make_environ(SERVER_PORT=str(site.server.port)))
        assert found.is_ok
        assert [warning.name for warning in found.warnings] == ["cache"]
        assert found.cache is not None
        assert (found.cache.is_shared, found.cache.seconds) == (True, None)
        assert "refused" in found.cache.error
        assert found.cache.error in str(found.warnings[0])
        assert "Canary" not in repr(found) + str(found)

    def test_it_is_away_and_there_is_nothing_else(self, tmp_path: Path) -> None:
        # By its URL: told a host and a port, the client goes on trying for seconds, in a thread that outlives the test.
        region = make_region().configure("dogpile.cache.redis", arguments={"url": f"redis://{self.NOBODY}/0"})
        with script(tmp_path, "http://127.0.0.1:1", cache=region, database=None) as application:
            found = application.check()
        assert [problem.name for problem in found.problems] == ["not-reached", "store"]
        assert "cache" in found.store.error
        assert found.warnings == ()

    def test_nothing_but_one_for_each_of_several_processes(self) -> None:
        cache, here = CacheFacts("MemoryBackend", False), StoreFacts("the cache")
        config = make_config({"database": None, "key": KEY, "cache": make_region().configure("dogpile.cache.memory")})
        for several in (True, False):
            reply = Reply(__version__, ServerFacts(has_processes=several), "thread", here)
            problems = [problem.name for problem in find_problems(config, here, cache, reply)]
            assert problems == (["cache"] if several else [])
            assert list(find_warnings(config, "key=", here, cache, reply)) == []


def test_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A script that asks, and a page."""
    text = (DOCS / "check.md").read_text()
    names: dict[str, Any] = {}
    with serve_site(tmp_path) as site:
        app = types.ModuleType("app")
        app.__dict__["application"] = site.application
        monkeypatch.setitem(sys.modules, "app", app)
        for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            exec(block, names)
        page = call(names["check_page"], make_environ(SERVER_PORT=str(site.server.port)))
    assert "connect=" in capsys.readouterr().out
    assert page.code == 200
    assert page.body.startswith(b"backjob ")


CHECKS = ("checks/check.py", "checks/report.py", "checks/exposure.py", "checks/site_check.py", "integrations/django.py")


def test_the_docs_name_all_that_is_found() -> None:
    root = ROOT
    code = "".join((root / "backjob" / name).read_text() for name in CHECKS)
    named = re.findall(r"^\| `([a-z-]+)` \|", (root / "docs" / "check.md").read_text(), re.MULTILINE)
    assert set(re.findall(r'\bFinding\(\s*"([a-z-]+)"', code)) == set(named)


class TestExposure:
    """Findings about files that other users of the host can read or change."""

    def test_own_folder_and_file_are_fine(self, tmp_path: Path) -> None:
        with script(tmp_path, "http://127.0.0.1:1", key=None) as application:
            names = [warning.name for warning in application.check().warnings]
        assert {"file-mode", "shared-folder"}.isdisjoint(names)

    @pytest.mark.parametrize(
        ("folder_mode", "file_mode", "names"),
        [
            (0o755, 0o600, []),
            (0o777, 0o600, ["shared-folder"]),
            (0o1777, 0o600, ["shared-folder"]),
            (0o700, 0o644, ["file-mode"]),
            (0o700, 0o660, ["file-mode"]),
        ],
    )
    def test_others_who_can_write_are_named(
        self, tmp_path: Path, folder_mode: int, file_mode: int, names: list[str]
    ) -> None:
        folder = tmp_path / "data"
        folder.mkdir()
        with script(folder, "http://127.0.0.1:1", key=None) as application:
            application.check()
            folder.chmod(folder_mode)
            (folder / "script.sqlite3").chmod(file_mode)
            found = application.check().warnings
        found = tuple(each for each in found if each.name in ("file-mode", "shared-folder"))
        assert [each.name for each in found] == names
        assert all(str(folder) in each.text for each in found)

    def test_the_wal_counts_too(self, tmp_path: Path) -> None:
        file, wal = tmp_path / "jobs.sqlite3", tmp_path / "jobs.sqlite3-wal"
        for each in (file, wal):
            each.touch(0o600)
        assert list(find_exposures(file, None)) == []
        wal.chmod(0o644)
        [found] = find_exposures(file, None)
        assert f"{wal} has mode 0644" in found.text

    def test_a_folder_above_counts_unless_it_is_sticky(self, tmp_path: Path) -> None:
        file = tmp_path / "own" / "jobs.sqlite3"
        file.parent.mkdir(0o700)
        tmp_path.chmod(0o777)
        [found] = find_exposures(file, None)
        assert f"The folder {tmp_path} has mode 0777" in found.text
        tmp_path.chmod(0o1777)
        assert list(find_exposures(file, None)) == []

    def test_a_group_that_others_are_in_counts(self, tmp_path: Path) -> None:
        file = tmp_path / "jobs.sqlite3"
        tmp_path.chmod(0o770)
        own = pwd.getpwuid(os.geteuid()).pw_name == grp.getgrgid(tmp_path.stat().st_gid).gr_name
        assert [each.name for each in find_exposures(file, None)] == ([] if own else ["shared-folder"])
        if os.geteuid() == 0:
            os.chown(tmp_path, -1, grp.getgrnam("www-data").gr_gid)
            assert [each.name for each in find_exposures(file, None)] == ["shared-folder"]
            os.chown(tmp_path, 4711, 0)
            tmp_path.chmod(0o700)
            [found] = find_exposures(None, file)
            assert "belongs to user 4711" in found.text
            os.chown(tmp_path, 0, 0)
