"""Bottle, on a real server: what a job is given, and what it leaves behind."""

from __future__ import annotations

import base64
import contextlib
import inspect
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bottle
import pytest
from support import wait_until
from support.served import PATIENCE, call, make_environ, serve
from support.visitor import Visitor, multipart

from backjob import BackJob, ConfigError, JobStatus, Status
from backjob.integrations.bottle import BackJobPlugin, background

ENDED = (
    "The session of the user who started this job has ended or was replaced "
    "(log-out, another login or a changed password)"
)
OTHER = "The session of the user who started this job belongs to another user by now"


class DatabasePlugin:
    """As such plugins are: a connection for each callback that names one, with the end of its transaction."""

    api = 2

    def __init__(self, file: Path) -> None:
        self.file = file
        self.open = 0

    def apply(self, callback: Any, route: Any) -> Any:
        if "db" not in inspect.signature(route.callback).parameters:
            return callback

        def call_with_connection(*args: Any, **kwargs: Any) -> Any:
            connection = sqlite3.connect(self.file, timeout=0)
            self.open += 1
            try:
                answer = callback(*args, db=connection, **kwargs)
                connection.commit()
                return answer
            except Exception:
                connection.rollback()
                raise
            finally:
                connection.close()
                self.open -= 1

        return call_with_connection


class Shop:
    """A site whose page /begin and whose job /work do what a test hands over."""

    def __init__(self, folder: Path, has_logins: bool = False, identify: Any = None, **options: Any) -> None:
        self.file = folder / "shop.sqlite3"
        self.sessions: dict[str, str] = {}
        self.begin: Callable[[], Any] = start_work
        self.work: Callable[..., Any] = lambda db: None
        self.app = bottle.Bottle()
        self.database = DatabasePlugin(self.file)
        self.app.install(self.database)
        identify = self.read_user if has_logins else identify
        self.plugin = BackJobPlugin(identify, database=f"sqlite:///{folder}/jobs.sqlite3", lease=2, **options)
        self.app.install(self.plugin)
        self.app.route("/begin", ["GET", "POST"], lambda: {"id": self.begin()})
        self.app.route("/work", ["GET", "POST"], lambda db: self.work(db) or "done")
        self.app.post("/login", callback=lambda: bottle.response.set_cookie("login", bottle.request.forms.name))
        self.sql("CREATE TABLE note (text)")

    def sql(self, statement: str) -> list[Any]:
        """Somebody else at the database, who does not wait."""
        with contextlib.closing(sqlite3.connect(self.file, timeout=0)) as connection, connection:
            return connection.execute(statement).fetchall()

    @contextlib.contextmanager
    def serve(self) -> Iterator[Shop]:
        try:
            with serve(self.app) as server:
                self.visitor = Visitor(server.url)
                yield self
        finally:
            self.app.close()

    def log_in(self) -> None:
        self.sessions["ada"] = "ada"
        self.visitor.post("/login", name="ada")

    def read_user(self, request: Any) -> str | None:
        """Sessions that can be ended, or handed over, on the server's side."""
        return self.sessions.get(request.get_cookie("login"))

    def run(self, begin: Callable[[], Any] | None = None) -> JobStatus:
        self.begin = begin or self.begin
        return self.wait_for_end(self.visitor.ask("/begin").json()["id"])

    def wait_for_end(self, job_id: int) -> JobStatus:
        def final() -> JobStatus | None:
            status = self.plugin.application.jobs.status(job_id)
            return status if status.status.is_final else None

        return wait_until(final, PATIENCE)


def start_work(**options: Any) -> int:
    return bottle.request.backjob.start("/work", **options)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with Shop(tmp_path).serve() as shop:
        yield shop


@pytest.fixture
def login_shop(tmp_path: Path) -> Iterator[Shop]:
    """One that knows its users by a cookie."""
    with Shop(tmp_path, has_logins=True).serve() as shop:
        shop.log_in()
        yield shop


def test_the_plugin_shows_the_session_of_the_environ(shop):
    seen = []
    shop.begin = lambda: seen.append(bottle.request.backjob is bottle.request.environ["backjob"])
    shop.visitor.ask("/begin")
    assert seen == [True]


# Users


@pytest.mark.parametrize(
    ("change", "failure"),
    [({}, None), ({"ada": None}, ENDED), ({"ada": "eve"}, OTHER)],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_job_is_of_the_user_who_started_it(login_shop, method, change, failure):
    ran = []
    login_shop.work = lambda db: ran.append(login_shop.read_user(bottle.request))

    def begin():
        job_id = start_work(method=method, after_response=True, retries=2)
        login_shop.sessions.update(change)
        return job_id

    end = login_shop.run(begin)
    assert (end.status, end.status_text) == ((Status.FAILED, failure) if failure else (Status.COMPLETED, "done"))
    assert ran == ([] if failure else ["ada"])


def test_by_default_the_user_is_who_the_server_has_authenticated(tmp_path):
    def credentials(text):
        return {"HTTP_AUTHORIZATION": f"Basic {base64.b64encode(text.encode()).decode()}"}

    shop = Shop(tmp_path, launcher=None, keeper=False)
    with contextlib.closing(shop.app):
        identify = shop.plugin.application.config.identify
        assert identify(make_environ("/", **credentials("ada:secret"))) == "ada"
        assert identify(make_environ("/", REMOTE_USER="eve")) == "eve"
        assert identify(environ := make_environ("/")) is None
        assert "bottle.request" not in environ


# Exceptions


def crash(db: Any) -> Any:
    raise ValueError("no such book")


def crash_while_sending(db: Any) -> Any:
    yield ""
    raise ValueError("no such book")


def refuse(db: Any) -> Any:
    bottle.abort(503, "out of order")


@pytest.mark.parametrize("has_error_page", [False, True])
@pytest.mark.parametrize(
    ("work", "words"),
    [
        (crash, "HTTP 500 Internal Server Error: ValueError: no such book"),
        (crash_while_sending, "HTTP 500 Internal Server Error: ValueError: no such book"),
        (refuse, "HTTP 503 Service Unavailable: HTTPError: out of order"),
    ],
)
def test_a_job_names_the_exception_behind_its_error_page(shop, work, words, has_error_page):
    if has_error_page:
        for code in (500, 503):
            shop.app.error(code, lambda error: "Sorry")
    shop.work = work
    end = shop.run()
    assert (end.status, end.status_text.splitlines()[-1]) == (Status.FAILED, words)


def test_the_text_of_abort_is_kept_without_its_page(shop):
    shop.work = lambda db: bottle.abort(422, "row 17 has no date")
    end = shop.run()
    assert end.error == "HTTP 422 Unprocessable Entity: row 17 has no date"
    assert "<html" not in end.status_text


def test_an_exception_that_bottle_lets_pass_is_named_too(shop):
    shop.app.config["catchall"] = False
    shop.work = crash
    assert shop.run().status_text.splitlines()[-1] == "ValueError: no such book"


def test_an_exception_of_a_hook_is_named_too(shop):
    @shop.app.hook("before_request")
    def fail():
        if bottle.request.backjob.is_worker:
            raise KeyError("total")

    assert shop.run().status_text.splitlines()[-1] == "HTTP 500 Internal Server Error: KeyError: 'total'"


# Transactions


def cancel_itself() -> None:
    job = bottle.request.backjob
    job.cancel(job.job_id)
    while True:
        job.update()


@pytest.mark.parametrize(
    ("end_job", "status"),
    [
        (lambda: bottle.request.backjob.fail("out of paper"), Status.FAILED),
        (cancel_itself, Status.CANCELLED),
        (lambda: bottle.request.backjob.finish("done"), Status.COMPLETED),
    ],
    ids=["fail", "cancel", "finish"],
)
def test_a_job_leaves_no_connection_open(shop, end_job, status):
    def work(db):
        db.execute("INSERT INTO note VALUES ('half done')")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            shop.sql("INSERT INTO note VALUES ('from elsewhere')")
        end_job()

    shop.work = work
    assert shop.run().status is status
    wait_until(lambda: not shop.database.open)
    shop.sql("INSERT INTO note VALUES ('from elsewhere')")
    done = [("half done",)] if status is Status.COMPLETED else []
    assert shop.sql("SELECT text FROM note") == [*done, ("from elsewhere",)]


# background

NO_FILE = (
    b'--b\r\nContent-Disposition: form-data; name="cover"; filename=""\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n\r\n"
)
"""What a browser sends of a file input that nothing was chosen in."""


def report(name: str) -> Any:
    request = bottle.request
    body = request.json or {key: getattr(request.forms, key) for key in request.forms}
    return {"method": request.method, "name": name, "body": body, "year": request.query.year}


@pytest.mark.parametrize(
    "decorate",
    [background, background(retries=2, unique=True, scope=lambda request: request.get_cookie("login"))],
    ids=["bare", "with options"],
)
def test_a_callback_in_the_background_answers_with_its_job(login_shop, decorate):
    login_shop.app.route("/report/<name>", ["POST", "PUT"])(decorate(report))
    target, visitor = f"/report/{quote('Zoë')}?year=1815", login_shop.visitor
    page = visitor.post(target, book="Emma & Zoë")
    assert (page.status, list(page.json())) == (202, ["id"])
    end = login_shop.wait_for_end(page.json()["id"])
    assert json.loads(end.status_text) == {
        "method": "POST",
        "name": "Zoë",
        "body": {"book": "Emma & Zoë"},
        "year": "1815",
    }
    assert end.scope == ("" if decorate is background else "ada")
    page = visitor.ask(target, json.dumps({"book": "Zoë"}).encode(), {"Content-Type": "application/json"}, "PUT")
    end = login_shop.wait_for_end(page.json()["id"])
    assert json.loads(end.status_text)["body"] == {"book": "Zoë"}
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    page = visitor.ask(target, multipart("Zoë"), headers)
    assert json.loads(login_shop.wait_for_end(page.json()["id"]).status_text)["body"] == {"book": "Zoë"}
    page = visitor.ask(target, NO_FILE + multipart("Zoë"), headers)
    body = json.loads(login_shop.wait_for_end(page.json()["id"]).status_text)["body"]
    assert body == {"cover": "", "book": "Zoë"}
    for body in (multipart("Zoë", file="zoe.txt"), b"--b--"):
        page = visitor.ask(target, body, headers)
        assert (page.status, "uploaded files" in page.text) == (415, True)


def test_a_callback_in_the_background_runs_as_who_asked_for_it(login_shop):
    login_shop.app.post("/report/<name>")(background(after_response=True)(report))
    login_shop.app.add_hook("after_request", login_shop.sessions.clear)
    page = login_shop.visitor.post("/report/all")
    assert login_shop.wait_for_end(page.json()["id"]).status_text == ENDED


SENT_BY_OTHERS = [{"Origin": "https://else.test"}, {"Referer": "https://else.test/"}, {"Sec-Fetch-Site": "cross-site"}]


@pytest.mark.parametrize("decorate", [background, background(as_user=False)], ids=["as the user", "as nobody"])
def test_a_check_within_background_is_of_what_the_browser_sent(login_shop, decorate):
    def buy():
        headers = bottle.request.headers
        if headers.get("Sec-Fetch-Site") or (headers.get("Origin") or headers.get("Referer")) not in own:
            bottle.abort(403)
        if bottle.request.forms.csrf_token != "good" and headers.get("X-CSRF-Token") != "good":
            bottle.abort(403)
        bought.append(dict(bottle.request.forms))

    visitor, bought = login_shop.visitor, []
    own = (visitor.url, f"{visitor.url}/")
    login_shop.app.post("/buy")(decorate(buy))
    body, headers = b"book=Emma&csrf_token=good", {"X-CSRF-Token": "good"}
    forged = [visitor.ask("/buy", body, more) for more in SENT_BY_OTHERS]
    forged += [visitor.post("/buy"), visitor.post("/buy", csrf_token="bad")]
    for page in forged:
        assert login_shop.wait_for_end(page.json()["id"]).status is Status.FAILED
    assert bought == []
    for page in (visitor.ask("/buy", body), visitor.ask("/buy", b"book=Emma", headers)):
        end = login_shop.wait_for_end(page.json()["id"])
        assert end.status is (Status.COMPLETED if decorate is background else Status.FAILED)
    assert bought == ([{"book": "Emma", "csrf_token": "good"}, {"book": "Emma"}] if decorate is background else [])


@pytest.mark.parametrize("headers", [{}, *SENT_BY_OTHERS], ids=str)
def test_a_check_of_the_origin_within_background_holds_for_a_job_of_nobody(login_shop, headers):
    """Browsers of the past send none of these headers, so the check lets a request without them pass."""

    def give():
        sent = bottle.request.headers
        pages.append(sent.get("Referer"))
        if sent.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            bottle.abort(403)
        if (sent.get("Origin") or sent.get("Referer") or own).rstrip("/") != own:
            bottle.abort(403)
        return "given"

    visitor, pages, own = login_shop.visitor, [], login_shop.visitor.url
    login_shop.app.post("/give")(background(as_user=False)(give))
    page = visitor.ask("/give", b"", {"Referer": f"{own}/of/ada?secret", **headers})
    end = login_shop.wait_for_end(page.json()["id"])
    assert end.status is (Status.FAILED if headers else Status.COMPLETED)
    assert pages == [headers.get("Referer", f"{own}/")]


def test_background_starts_no_job_by_a_safe_method(login_shop):
    ran: list[str] = []

    def work():
        ran.append(bottle.request.method)

    login_shop.app.route("/work", ["GET", "HEAD", "OPTIONS", "TRACE", "POST", "PROPFIND"])(background(work))
    login_shop.app.route("/poll", ["GET", "HEAD", "POST"])(background(methods=("get",))(work))
    for target, method in [
        *(("/work", each) for each in ("GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND")),
        *(("/poll", each) for each in ("HEAD", "POST")),
    ]:
        assert login_shop.visitor.ask(target, method=method).status == 405
    ids = [login_shop.visitor.ask(target, body).json()["id"] for target, body in (("/work", b""), ("/poll", None))]
    assert ids == [1, 2]  # there is no other job
    assert [login_shop.wait_for_end(job_id).status for job_id in ids] == [Status.COMPLETED] * 2
    # In a job that the app itself starts, the view runs whatever the method is.
    login_shop.work = work
    login_shop.run()
    assert sorted(ran) == ["GET", "GET", "POST"]


def test_a_check_around_background_is_passed_with_the_forms_token(login_shop):
    @login_shop.app.hook("before_request")
    def check():
        request = bottle.request
        if request.path == "/buy" and (request.forms.csrf_token != "good" or request.get_header("Origin") == "null"):
            bottle.abort(403)

    login_shop.app.post("/buy")(background(lambda: "done"))
    assert login_shop.visitor.post("/buy").status == 403
    page = login_shop.visitor.post("/buy", csrf_token="good")
    assert login_shop.wait_for_end(page.json()["id"]).status is Status.COMPLETED


def test_forms_that_differ_in_their_token_alone_are_one_job(login_shop):
    login_shop.app.post("/buy")(background(unique=True, delay=3600)(lambda: "done"))
    forms = [{"csrf_token": "a"}, {"csrf_token": "b"}, {}, {"csrf_token": "a", "book": "Emma"}]
    jobs = [login_shop.visitor.post("/buy", **form).json()["id"] for form in forms]
    assert jobs[0] == jobs[1] == jobs[2] != jobs[3]


def test_background_without_a_plugin_says_what_is_missing():
    app = bottle.Bottle()
    app.config["catchall"] = False
    app.get("/buy")(background(lambda: "done"))
    with pytest.raises(RuntimeError, match="needs a BackJobPlugin"):
        call(app, make_environ("/buy"))


# Installing


def test_it_is_installed_once(tmp_path):
    shop = Shop(tmp_path)
    with contextlib.closing(shop.app):
        for plugin, app in ((BackJobPlugin(), shop.app), (shop.plugin, bottle.Bottle())):
            with pytest.raises(bottle.PluginError, match="installed already"):
                app.install(plugin)


def test_an_app_without_it_is_as_it_was(tmp_path):
    shop = Shop(tmp_path)
    shop.app.uninstall("backjob")
    shop.begin = lambda: hasattr(bottle.request, "backjob")
    with contextlib.closing(BackJob(shop.app, database=f"sqlite:///{tmp_path}/jobs.sqlite3")) as wrapped:
        assert json.loads(call(wrapped, make_environ("/begin")).body) == {"id": False}
    shop.app.install(shop.plugin)
    assert json.loads(call(shop.app, make_environ("/begin")).body) == {"id": True}
    shop.app.close()


def test_a_wrong_option_is_refused():
    with pytest.raises(ConfigError, match="did you mean 'lease'"):
        bottle.Bottle().install(BackJobPlugin(leese=3))


def test_apps_of_two_modules_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = []
    for module, variable in (("first", "app"), ("second", "app"), ("second", "site")):
        namespace: dict[str, Any] = {"__name__": module, "bottle": bottle, "Plugin": BackJobPlugin}
        exec(f"{variable} = bottle.Bottle(); plugin = {variable}.install(Plugin())", namespace)
        names.append(namespace["plugin"].application._assembly._name)
        namespace[variable].close()
    assert names == ["first bottle.Bottle.wsgi app", "second bottle.Bottle.wsgi app", "second bottle.Bottle.wsgi site"]


@pytest.mark.parametrize("has_its_own", [False, True])
def test_an_app_within_another_has_the_outer_ones_jobs(tmp_path, has_its_own):
    shop, inner = Shop(tmp_path), bottle.Bottle()
    inner.get("/mounted", callback=lambda: str(bottle.request.backjob.start("/inner/job")))
    inner.get("/job", callback=lambda: "in a job")
    if has_its_own:
        inner.install(BackJobPlugin(database=f"sqlite:///{tmp_path}/unused.sqlite3"))
    # Bottle merges an app of its own kind; as any other it is called.
    shop.app.mount("/inner/", inner.__call__ if has_its_own else inner)
    with shop.serve(), contextlib.closing(inner):
        job_id = int(shop.visitor.ask("/inner/mounted").text)
        assert shop.wait_for_end(job_id).status_text == "in a job"


def mount(shop: Shop, inner: bottle.Bottle) -> None:
    shop.app.mount("/inner/", inner)


def merge(shop: Shop, inner: bottle.Bottle) -> None:
    for route in inner.routes:
        route.rule = f"/inner{route.rule}"
    shop.app.merge(inner)


def call_mounted(shop: Shop, inner: bottle.Bottle) -> None:
    shop.app.mount("/inner/", inner.__call__)


def mount_elsewhere(shop: Shop, inner: bottle.Bottle) -> None:
    """A hook finds it: for one of its jobs another route was there, for the other none."""
    shop.app.post("/inner/start", callback=lambda: "elsewhere")

    @shop.app.hook("before_request")
    def change_path() -> None:
        bottle.request.environ["PATH_INFO"] = bottle.request.path.replace("/inner/", "/elsewhere/")

    shop.app.mount("/elsewhere/", inner)


@pytest.mark.parametrize("is_plain", [True, False], ids=["start()", "background"])
@pytest.mark.parametrize("join", [mount, merge, call_mounted, mount_elsewhere])
def test_a_job_of_an_app_within_is_of_its_user(login_shop, join, is_plain):
    ran: list[str | None] = []
    inner = bottle.Bottle()
    inner.post("/job", callback=lambda: ran.append(login_shop.read_user(bottle.request)) or "done")
    inner.post("/start")(background(after_response=True)(lambda: ran.append("started") or "done"))
    join(login_shop, inner)
    login_shop.begin = lambda: bottle.request.backjob.start("/inner/job", method="POST", after_response=True)

    def run():
        page = login_shop.visitor.post("/begin" if is_plain else "/inner/start")
        return login_shop.wait_for_end(page.json()["id"])

    assert run().status_text == "done"
    login_shop.app.add_hook("after_request", login_shop.sessions.clear)
    assert run().status_text == ENDED
    assert len(ran) == 1


def test_a_route_of_an_app_within_may_be_given_the_plugin(tmp_path):
    """One whose sessions are opened by a plugin of the inner app."""
    sessions = {"ada": "ada"}

    def open_session(callback):
        def call_with_session(*args, **kwargs):
            bottle.request.environ["session"] = sessions.get(bottle.request.get_cookie("login"))
            return callback(*args, **kwargs)

        return call_with_session

    shop = Shop(tmp_path, identify=lambda request: request.environ.get("session"))
    inner = bottle.Bottle()
    inner.install(open_session)
    inner.get("/job", callback=lambda: "done", apply=[shop.plugin])
    inner.post("/start", callback=lambda: {"id": bottle.request.backjob.start("/inner/job", after_response=True)})
    shop.app.mount("/inner/", inner)
    with shop.serve():
        shop.visitor.post("/login", name="ada")
        assert shop.wait_for_end(shop.visitor.post("/inner/start").json()["id"]).status_text == "done"
        shop.app.add_hook("after_request", sessions.clear)
        assert shop.wait_for_end(shop.visitor.post("/inner/start").json()["id"]).status_text == ENDED
