"""What a server or a middleware outside of BackJob says of the user: a job has it of its starter, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bottle
import pytest
from beaker.middleware import SessionMiddleware
from support import wait_until
from support.served import KEY, PATIENCE, App, Site, call, make_environ, serve, wrap
from support.visitor import Visitor
from werkzeug.local import LocalProxy

from backjob import BackJob, JobStatus, Status
from backjob.client.capture import make_request, name_user
from backjob.config import make_config
from backjob.integrations.bottle import BackJobPlugin
from backjob.testing import Inline
from backjob.wsgi.environ import restore_environ
from backjob.wsgi.outer import find_outer_objects

CANARY = "canary-4711"
TEXTS = {
    "AUTH_TYPE": "openid-connect",
    "REMOTE_USER_TOKENS": "staff",
    "SSL_CLIENT_S_DN": "CN=Ada",
    "SSL_CLIENT_CERT": "-----BEGIN CERTIFICATE-----",
    "HTTPS_DN": "CN=Ada",
    "OIDC_CLAIM_email": "ada@shop.example",
    "OIDC_access_token": "eyJ",
    "MELLON_NAME_ID": "ada",
    "Shib-Identity-Provider": "https://idp.example",
    "shib_eppn": "ada@shop.example",
    "AUTHENTICATE_MAIL": "ada@shop.example",
    "REDIRECT_SSL_CLIENT_S_DN": "CN=Ada",
    "REDIRECT_REMOTE_USER": "ada",
}
"""What authentication modules of servers set."""
OBJECTS: dict[str, Any] = {
    "beaker.session": {"user": "ada"},
    "beaker.get_session": lambda: None,
    "repoze.who.identity": {"repoze.who.userid": "ada"},
    "repoze.who.plugins": {},
    "paste.auth_tkt.set_user": lambda userid: None,
    "werkzeug.session": {"user": "ada"},
}
PARSED = {"webob._parsed_query_vars": ({}, ""), "webob.adhoc_attrs": {"user": "ada"}, "bottle.request.post": {}}


@pytest.fixture
def seen() -> dict[str, Any]:
    return {}


@pytest.fixture
def job(seen: dict[str, Any]) -> App:
    def keep_environ(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.clear()
        seen.update(environ)
        start_response("200 OK", [])
        return []

    return keep_environ


@pytest.fixture
def site(tmp_path: Path, job: App) -> Iterator[Site]:
    with wrap(tmp_path, job, forward_environ=["eppn", "TENANT_*"]) as site:
        yield site


NAMED = {"eppn": "ada@shop.example", "TENANT_ID": "7"}


# Texts


@pytest.mark.parametrize("key", [*TEXTS, *NAMED])
def test_a_text_that_says_who_asks_is_the_starters(site: Site, seen: dict[str, Any], key: str) -> None:
    value = {**TEXTS, **NAMED}[key]
    job_id = site.start("/job", by={key: value})
    site.work(job_id, **{key: "the self-request's"})
    assert seen[key] == value
    site.work(site.start("/job"), **{key: "the self-request's"})
    assert key not in seen
    site.work(site.start("/job", by={key: value}, as_user=False), **{key: "the self-request's"})
    assert key not in seen


def test_other_texts_are_the_servers(site: Site, seen: dict[str, Any]) -> None:
    others = {"SSL_PROTOCOL": "TLSv1.3", "mod_wsgi.process_group": "a", "SHIBUYA": "a", "TENANT": "1", "eppn2": "b"}
    site.work(site.start("/job", by=dict.fromkeys(others, "starter")), **others)
    assert {key: seen[key] for key in others} == others


def test_no_object_is_sealed(site: Site, seen: dict[str, Any]) -> None:
    job_id = site.start("/job", by={"eppn": {"user": "ada"}, "TENANT_ID": 7, "OIDC_CLAIM_groups": ["staff"]})
    request = site.backend.keyring.unseal(job_id, site.row(job_id).uid, site.row(job_id).sealed)
    assert request.variables == {}
    site.work(job_id, eppn={"user": "nobody"}, TENANT_ID=8)
    assert not {"eppn", "TENANT_ID"} & seen.keys()


def test_texts_are_sealed_and_never_shown(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    job_id = site.start("/job", by={"OIDC_access_token": CANARY, "eppn": CANARY})
    request = site.backend.keyring.unseal(job_id, site.row(job_id).uid, site.row(job_id).sealed)
    assert request.variables == {"OIDC_access_token": CANARY, "eppn": CANARY}
    assert CANARY not in f"{request!r} {site.rows()} {caplog.text}"


def test_a_job_of_a_job_is_the_same_users(tmp_path: Path, seen: dict[str, Any], job: App) -> None:
    ids = []

    def begin_another(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/first":
            ids.append(environ["backjob"].start("/second"))
        return job(environ, start_response)

    with wrap(tmp_path, begin_another) as site:
        site.work(site.start("/first", by={"SSL_CLIENT_S_DN": "CN=Ada"}))
        site.work(ids[0])
    assert (seen["PATH_INFO"], seen["SSL_CLIENT_S_DN"]) == ("/second", "CN=Ada")


def test_two_client_certificates_are_two_users() -> None:
    """Of one that is known by REMOTE_USER the rest may change, as a token does."""
    config = make_config({})

    def name(**by: str) -> str:
        return name_user(make_request(make_environ("/", **by), config, "/job"))

    assert name(SSL_CLIENT_S_DN="CN=Ada") == name(SSL_CLIENT_S_DN="CN=Ada")
    assert len({name(SSL_CLIENT_S_DN="CN=Ada"), name(SSL_CLIENT_S_DN="CN=Bea"), name()}) == 3
    assert name(REMOTE_USER="ada", OIDC_access_token="1") == name(REMOTE_USER="ada", OIDC_access_token="2")


# Objects


@pytest.mark.parametrize("as_user", [True, False])
def test_the_self_requests_session_is_never_the_jobs(site: Site, seen: dict[str, Any], as_user: bool) -> None:
    job_id = site.start("/job", by=OBJECTS, as_user=as_user)
    site.work(job_id, **OBJECTS, **PARSED)
    assert not (OBJECTS.keys() | PARSED.keys()) & seen.keys()


def test_a_session_under_another_key_is_known_by_its_class(site: Site, seen: dict[str, Any]) -> None:
    found: dict[str, Any] = {}
    around = SessionMiddleware(lambda environ, start_response: found.update(environ) or [], environ_key="shop.login")
    call(around, make_environ())
    site.work(site.start("/job"), **{"shop.login": found["shop.login"]})
    assert "shop.login" not in seen


def test_an_asgi_scopes_session_and_user_are_not_the_jobs(site: Site, seen: dict[str, Any]) -> None:
    scope = {"type": "http", "session": {}, "user": object(), "auth": object(), "app": 1}
    site.work(site.start("/job"), **{"asgi.scope": scope})
    assert {"type", "app"} == seen["asgi.scope"].keys() & scope.keys()
    assert list(find_outer_objects({"asgi.scope": scope}, "backjob")) == [
        'asgi.scope["auth"]',
        'asgi.scope["session"]',
        'asgi.scope["user"]',
    ]


def test_the_client_of_another_backjob_is_no_middleware() -> None:
    """Two of them may wrap one app, with an ``environ_key`` each."""
    environ = {"other jobs": BackJob(lambda environ, start_response: [], key=KEY).jobs, "backjob": None}
    assert find_outer_objects(environ, "backjob") == {}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_start_warns_once_of_each_object_from_outside(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.start("/job", by={"shop.user": Site, "beaker.session": {"user": CANARY}, "shop.count": 7, "shop.name": CANARY})
    first, second = warnings_of(caplog)
    assert first == (
        "shop.user comes from a middleware outside of BackJob, which does not see the user's request when a job runs: "
        "wrap that middleware in BackJob (it is a support.served.Site)"
    )
    assert second.startswith("beaker.session comes from")
    assert CANARY not in caplog.text
    site.start("/job", by={"shop.user": Site, "shop.other": {}})
    assert [each.partition(" ")[0] for each in warnings_of(caplog)[2:]] == ["shop.other"]


def test_nothing_is_said_of_what_is_within(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A framework fills the environ too, and a middleware that BackJob stands outside of."""
    app = bottle.Bottle()
    app.get("/start", callback=lambda: str(bottle.request.environ["backjob"].start("/job")))
    app.get("/job", callback=lambda: bottle.request.environ["beaker.session"].get("user", "nobody"))
    application = BackJob(SessionMiddleware(app), database=f"sqlite:///{tmp_path / 'jobs.sqlite3'}", key=KEY)
    try:
        with serve(application) as server:
            Visitor(server.url).ask("/start")
            found = application.check(make_environ("/", SERVER_PORT=str(server.port)))
            wait_until(lambda: application.jobs.status(1).status.is_final)
    finally:
        application.close()
    assert warnings_of(caplog) == []
    assert "outer-middleware" not in [each.name for each in found.warnings]


SERVERS: dict[str, dict[str, Any]] = {
    "gunicorn": {"gunicorn.socket": object(), "wsgi.early_hints": print, "wsgi.errors": object()},
    "waitress": {"waitress.client_disconnected": print, "wsgi.file_wrapper": iter},
    "werkzeug": {"werkzeug.socket": object(), "werkzeug.proxy_fix.orig": {"REMOTE_ADDR": "::1"}},
    "uwsgi": {"uwsgi.version": b"2", "uwsgi.node": b"a", "wsgi.input": object()},
    "mod_wsgi": {"mod_wsgi.version": (5, 0, 2), "mod_ssl.var_lookup": print, "mod_wsgi.process_group": "shop"},
    "apache": {"SERVER_ADMIN": "root", "UNIQUE_ID": "a1", "SSL_SERVER_S_DN_Email": "root", "CONTEXT_PREFIX": "/shop"},
    "nginx": {"REQUEST_SCHEME": "https", "DOCUMENT_ROOT": "/srv", "UWSGI_SCHEME": "https", "REMOTE_PORT": "4711"},
    "cheroot": {"ACTUAL_SERVER_PROTOCOL": "HTTP/1.1", "SSL_CIPHER": "a", "REQUEST_URI": "/start"},
    "eventlet": {"headers_raw": (("Cookie", "a"),)},
    "the process's environment": {"USER": "www", "LOGNAME": "www", "no_proxy": "*"},
    "a bridge from ASGI": {"asgi.scope": {"type": "http", "state": {}}},
    "a router": {"wsgiorg.routing_args": ((), {"id": "7"}), "selector.vars": {}},
    "a test client": {"paste.testing_variables": {}, "paste.throw_errors": True, "webob.adhoc_attrs": {}},
}


@pytest.mark.parametrize("keys", SERVERS.values(), ids=SERVERS)
def test_a_server_is_no_middleware(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    """The self-request may take another way, on which a server does not set these keys."""
    for name in ("USER", "LOGNAME", "no_proxy"):
        monkeypatch.setenv(name, "www")
    for _ in range(2):
        site.work(site.start("/job", by=keys))
    assert warnings_of(caplog) == []


# Plain values


@pytest.mark.parametrize(
    "key", ["app.user", "user", "CURRENT_USER", "app.currentUser", "tenant_id", "AUTH_USER", "jwt.sub"]
)
def test_a_text_that_names_the_user_is_warned_of(site: Site, caplog: pytest.LogCaptureFixture, key: str) -> None:
    for _ in range(2):
        site.work(site.start("/job", by={key: CANARY}))
    [warning] = warnings_of(caplog)
    assert warning == (
        f"{key} comes from a middleware outside of BackJob, which does not see the user's request when a job runs: "
        f'wrap that middleware in BackJob, or seal its text for jobs: forward_environ=["{key}"]'
    )


@pytest.mark.parametrize("value", [(CANARY, "admin"), 4711, True, CANARY.encode()], ids=str)
def test_other_plain_values_can_t_be_sealed(site: Site, caplog: pytest.LogCaptureFixture, value: Any) -> None:
    site.work(site.start("/job", by={"app.roles": value}))
    [warning] = warnings_of(caplog)
    assert warning.startswith("app.roles comes from a middleware outside of BackJob")
    assert warning.endswith("or let it set a text under a key that forward_environ names")
    assert CANARY not in warning


def test_nothing_is_said_of_what_a_job_does_not_lack(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    for by, arrived, options in [
        ({"TENANT_NAME": "ada", "OIDC_CLAIM_role": "staff"}, {}, {}),  # sealed
        ({"app.user": "", "app.uid": None, "app.roles": (), "app.is_admin": False}, {"app.user": None}, {}),
        ({"app.user": "ada"}, {}, {"as_user": False}),
        ({"app.tenant": "shop", "app.auth_backend": "ldap"}, {"app.tenant": "shop", "app.auth_backend": "ldap"}, {}),
        ({"app.path": "/start", "app.method": "GET", "auth.request_id": "1"}, {"auth.request_id": "2"}, {}),
        ({"app.login_url": "/in?next=/start", "app.subscription": "x"}, {"app.login_url": "/in?next=/job"}, {}),
    ]:
        site.work(site.start("/job", by=by, **options), **arrived)
    site.work(site.application.jobs.start("/job"), **{"app.tenant": "shop"})  # of no request
    assert warnings_of(caplog) == []


def test_what_only_the_self_request_has_is_warned_of(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """As by a middleware that trusts requests from this machine."""
    site.work(site.start("/job", by={"app.is_internal": False}), **{"app.is_internal": True})
    [warning] = warnings_of(caplog)
    assert warning.startswith("app.is_internal comes from")
    assert warning.endswith("or let it set a text under a key that forward_environ names")


def test_a_job_that_runs_inline_is_compared_with_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The job comes through no middleware outside of BackJob."""
    with wrap(tmp_path, launcher=Inline()) as site:
        assert site.status(site.start("/job", by={"app.user": "ada"})).status is Status.COMPLETED
    assert warnings_of(caplog) == []


def test_a_job_that_fails_names_the_value_that_it_lacks(site: Site) -> None:
    def refuse(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("401 Unauthorized", [])
        return []

    site.job = refuse
    error = site.run("/job", by={"app.user": CANARY}).error
    assert "app.user comes from a middleware outside of BackJob" in error
    assert CANARY not in error


def test_the_check_and_the_log_name_a_key_that_jobs_lack(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On a server, with a middleware that reads a header which the self-request lacks."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        jobs = environ["backjob"]
        if environ["PATH_INFO"] == "/start":
            jobs.start("/job")
            found.extend(application.check(environ).warnings)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["app.user"].encode()]

    def name_user(environ: dict[str, Any], start_response: Any) -> Any:
        environ["app.user"] = environ.get("HTTP_X_WHO", "nobody")
        return application(environ, start_response)

    found: list[Any] = []
    application = BackJob(app, database=f"sqlite:///{tmp_path / 'jobs.sqlite3'}", key=KEY)
    try:
        with serve(name_user) as server:
            assert server.ask("/start", headers={"X-Who": "ada"}).body == b"ada"
            assert wait_until(lambda: application.jobs.status(1).status_text) == "nobody"
    finally:
        application.close()
    [warning] = warnings_of(caplog)
    [finding] = [each for each in found if each.name == "outer-middleware"]
    assert warning.startswith("app.user comes from a middleware outside of BackJob")
    assert f"{finding.text}: {finding.remedy}".lower() == warning.lower()


def test_a_lazy_object_is_not_loaded(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    def load() -> Any:
        raise AssertionError("asked the database")

    site.start("/job", by={"shop.user": LocalProxy(load)})
    assert "shop.user comes from a middleware outside" in caplog.text
    assert "werkzeug.local.LocalProxy" in caplog.text


# A recipe that is run: Bottle with Beaker


class Shop:
    """Bottle's own recipe for sessions, in either order."""

    def __init__(self, folder: Path, is_outside: bool, read_user: Callable[[Any], Any] | None = None) -> None:
        self.app = bottle.Bottle()
        options = {"session.type": "file", "session.data_dir": str(folder / "sessions")}
        if not is_outside:
            self.app.wsgi = SessionMiddleware(self.app.wsgi, options)
        self.plugin = BackJobPlugin(read_user, database=f"sqlite:///{folder / 'jobs.sqlite3'}", key=KEY)
        self.app.install(self.plugin)
        self.served: Any = SessionMiddleware(self.app, options) if is_outside else self.app
        self.app.post("/login", callback=self.log_in)
        self.app.get("/start", callback=lambda: {"id": bottle.request.backjob.start("/whoami")})
        self.app.get("/whoami", callback=lambda: bottle.request.environ["beaker.session"]["user"])
        self.app.get("/check", callback=lambda: self.plugin.application.check(bottle.request.environ).as_dict())

    def log_in(self) -> None:
        session = bottle.request.environ["beaker.session"]
        session["user"] = bottle.request.forms.name
        session.save()

    def run_job(self, visitor: Visitor) -> JobStatus:
        """A job that this visitor has started, at its end."""
        job_id = visitor.ask("/start").json()["id"]

        def final() -> JobStatus | None:
            status = self.plugin.application.jobs.status(job_id)
            return status if status.status.is_final else None

        return wait_until(final, PATIENCE)


def read_user(request: Any) -> str | None:
    """As an app that knows anonymous visitors does it."""
    return (request.environ.get("beaker.session") or {}).get("user")


@pytest.mark.parametrize("identify", [read_user, None])
def test_a_bottle_app_with_beakers_sessions_runs_jobs_as_the_user(tmp_path: Path, identify: Any) -> None:
    shop = Shop(tmp_path, is_outside=False, read_user=identify)
    try:
        with serve(shop.served) as server:
            visitor = Visitor(server.url)
            visitor.post("/login", name="ada")
            assert visitor.ask("/whoami").text == "ada"
            end = shop.run_job(visitor)
            assert [each["name"] for each in visitor.ask("/check").json()["warnings"]] == []
    finally:
        shop.app.close()
    assert (end.status, end.status_text) == (Status.COMPLETED, "ada")
    assert isinstance(shop.app.wsgi, SessionMiddleware), "what the app had around itself is back"


@pytest.mark.parametrize("identify", [read_user, None])
def test_beaker_outside_of_the_plugin_is_warned_of_and_no_job_runs_as_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, identify: Any
) -> None:
    shop = Shop(tmp_path, is_outside=True, read_user=identify)
    try:
        with serve(shop.served) as server:
            visitor = Visitor(server.url)
            visitor.post("/login", name="ada")
            end = shop.run_job(visitor)
            found = visitor.ask("/check").json()["warnings"]
    finally:
        shop.app.close()
    says = "come from a middleware outside of BackJob, which does not see the user's request when a job runs"
    assert end.status is Status.FAILED
    assert says in end.status_text
    assert "beaker.session" in end.status_text
    assert ("The user of this job is not known. " if identify else "HTTP 500") in end.status_text
    assert "has ended" not in end.status_text
    assert [each.partition(" ")[0] for each in warnings_of(caplog)] == ["beaker.session", "beaker.get_session"]
    texts = [each["text"] for each in found if each["name"] == "outer-middleware"]
    assert texts[0].startswith("beaker.session (beaker.session.SessionObject) comes from a middleware outside")


def test_a_job_whose_user_may_come_from_outside_says_so(tmp_path: Path) -> None:
    """An object of the app's own middleware, or anything else: the job has that of the self-request."""

    def job(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["backjob"].check_user()
        start_response("200 OK", [])
        return []

    with wrap(tmp_path, job, identify=lambda environ: environ["shop.user"].get("name")) as site:
        job_id = site.start("/job", by={"shop.user": {"name": "ada"}})
        site.work(job_id, **{"shop.user": {}})
        text = site.status(job_id).status_text
    assert text.startswith(
        "The session of the user who started this job has ended or was replaced (log-out, another login or a changed "
        "password), or its user is not known. "
        "shop.user comes from a middleware outside of BackJob"
    )


def test_restored_keys_cost_the_server_nothing() -> None:
    """Its environ stays as it is."""
    server = make_environ("/", **OBJECTS, **TEXTS)
    before = dict(server)
    config = make_config({})
    request = make_request(make_environ(), config, "/job")
    restore_environ(server, request, forward_environ=config.forward_environ, user_agent=config.user_agent)
    assert server == before
