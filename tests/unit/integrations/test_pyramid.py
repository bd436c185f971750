"""Pyramid, on a real server with a real database: what a job is given, and what it leaves behind."""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import zope.sqlalchemy
from paste.deploy import loadapp
from pyramid.config import Configurator
from pyramid.csrf import (
    CookieCSRFStoragePolicy,
    LegacySessionCSRFStoragePolicy,
    SessionCSRFStoragePolicy,
    check_csrf_token,
    get_csrf_token,
)
from pyramid.exceptions import ConfigurationError
from pyramid.httpexceptions import HTTPConflict, HTTPForbidden, HTTPInternalServerError, HTTPSeeOther
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import default_execution_policy
from pyramid.session import SignedCookieSessionFactory
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import sessionmaker
from support import wait_until
from support.served import PATIENCE, call, make_environ, serve
from support.visitor import Visitor, multipart

from backjob import BackJob, JobStatus, Status
from backjob.integrations.pyramid import background
from backjob.testing import Inline

ENDED = (
    "The session of the user who started this job has ended or was replaced "
    "(log-out, another login or a changed password)"
)
OTHER = "The session of the user who started this job belongs to another user by now"
TABLES = ("CREATE TABLE note (text TEXT UNIQUE)", "CREATE TABLE login (token TEXT UNIQUE, user TEXT)")


class LoginPolicy:
    """Sessions are rows: who has ended one on the server's side, or handed it over, has done so for a job too."""

    def identity(self, request: Any) -> str | None:
        token = request.session.get("login")
        return request.dbsession.execute(text("SELECT user FROM login WHERE token = :token"), {"token": token}).scalar()

    authenticated_userid = identity

    def permits(self, request: Any, context: Any, permission: str) -> bool:
        return self.identity(request) is not None


class Shop:
    """A site whose page /begin and whose job /work do what a test hands over, in transactions on a database."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "shop.sqlite3"
        self.engine = create_engine(f"sqlite:///{self.file}", connect_args={"timeout": 5})
        # SQLite's own: a transaction begins with its first statement, and whoever writes locks out all others.
        event.listen(self.engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(self.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        for table in TABLES:
            self.sql(table)
        self.begin: Callable[[Any], Any] = lambda request: request.backjob.start("/work", method="POST")
        self.work: Callable[[Any], Any] = lambda request: "done"
        self.config = Configurator(
            settings={"backjob.database": f"sqlite:///{folder}/jobs.sqlite3", "backjob.lease": "2"},
            session_factory=SignedCookieSessionFactory("signs the sessions of a test"),
        )
        self.config.include("backjob.integrations.pyramid")
        sessions = sessionmaker(self.engine)

        def open_session(request: Any) -> Any:
            session = sessions()
            if hasattr(request, "tm"):
                zope.sqlalchemy.register(session, transaction_manager=request.tm)
            else:
                request.add_finished_callback(lambda request: session.close())
            return session

        self.config.add_request_method(open_session, "dbsession", reify=True)
        self.config.set_security_policy(LoginPolicy())
        self.add("begin", lambda request: {"id": self.begin(request)}, require_csrf=False)
        self.add("work", lambda request: self.work(request) or "done")
        self.add("token", get_csrf_token, require_csrf=False)
        self.add("login", self._log_in, require_csrf=False)

    def add(self, name: str, view: Any, **options: Any) -> None:
        """A page with this name, whose view answers JSON."""
        self.config.add_route(name, f"/{name}")
        self.config.add_view(view, route_name=name, renderer="json", **options)

    @staticmethod
    def _log_in(request: Any) -> None:
        request.session["login"] = request.params["name"]

    def sql(self, statement: str, *values: Any) -> list[Any]:
        """Somebody else at the database, who does not wait."""
        with contextlib.closing(sqlite3.connect(self.file, timeout=0)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    @property
    def notes(self) -> list[str]:
        return [each for (each,) in self.sql("SELECT text FROM note ORDER BY text")]

    @contextlib.contextmanager
    def serve(self) -> Iterator[Shop]:
        self.application = self.config.make_wsgi_app()
        try:
            with serve(self.application) as server:
                self.visitor = Visitor(server.url)
                yield self
        finally:
            self.application.registry.backjob.close()
            self.engine.dispose()

    def log_in(self, name: str = "ada") -> None:
        self.sql("INSERT INTO login VALUES (?, ?)", name, name)
        self.visitor.post("/login", name=name)

    def start(self) -> int:
        return self.visitor.ask("/begin").json()["id"]

    def run(self, begin: Callable[[Any], Any] | None = None) -> JobStatus:
        """Have the page start a job; how that has ended."""
        self.begin = begin or self.begin
        return self.wait_for_end(self.start())

    def status(self, job_id: int) -> JobStatus:
        return self.application.registry.backjob.jobs.status(job_id)

    def wait_for_end(self, job_id: int) -> JobStatus:
        def final() -> JobStatus | None:
            status = self.status(job_id)
            return status if status.status.is_final else None

        return wait_until(final, PATIENCE)


def write_note(request: Any, note: str = "half done") -> None:
    request.dbsession.execute(text("INSERT INTO note VALUES (:note)"), {"note": note})
    zope.sqlalchemy.mark_changed(request.dbsession)


def start_work(request: Any, **options: Any) -> int:
    return request.backjob.start("/work", **options)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Without transactions as yet."""
    return Shop(tmp_path)


@pytest.fixture(params=["of the thread", "explicit"])
def tm_shop(shop: Shop, request: pytest.FixtureRequest) -> Iterator[Shop]:
    """With pyramid_tm, and one of its two managers."""
    if request.param == "explicit":
        shop.config.add_settings({"tm.manager_hook": "pyramid_tm.explicit_manager"})
        shop.config.add_settings({"tm.commit_veto": "pyramid_tm.default_commit_veto"})
    shop.config.include("pyramid_tm")
    shop.config.add_exception_view(answer_error, context=IntegrityError)
    with shop.serve():
        yield shop


# CSRF


@pytest.mark.parametrize("policy", [LegacySessionCSRFStoragePolicy, SessionCSRFStoragePolicy, CookieCSRFStoragePolicy])
@pytest.mark.parametrize(
    "names", [{}, {"header": None}, {"header": "X-Shop", "token": None}, {"header": None, "token": "shop"}], ids=str
)
def test_a_job_passes_the_csrf_check(shop, policy, names):
    shop.config.set_csrf_storage_policy(policy())
    shop.config.set_default_csrf_options(require_csrf=True, **names)
    shop.work = lambda request: request.POST["book"]
    form = {"book": "Emma", "shop": "an old token", "csrf_token": "an old token"}
    with shop.serve():
        shop.log_in()
        assert shop.visitor.post("/work", book="Emma").status == 400
        begin = functools.partial(start_work, method="POST", data=form)
        for end in (shop.run(begin), shop.run(functools.partial(begin, as_user=False))):
            assert (end.status, end.status_text) == (Status.COMPLETED, '"Emma"')
        # What it was given is its own affair: it weakens nobody else's protection.
        assert shop.visitor.post("/work", book="Emma").status == 400


def test_a_view_that_alone_requires_a_token_gets_one(shop):
    shop.add("strict", lambda request: "done", require_csrf=True)
    with shop.serve():
        assert shop.visitor.post("/strict").status == 400
        assert shop.run(lambda request: request.backjob.start("/strict", method="DELETE")).status is Status.COMPLETED


def test_where_there_are_no_sessions_a_job_goes_without_a_token(tmp_path):
    def start(request):
        return request.backjob.start("/job", method="POST")

    with Configurator(settings={"backjob.database": f"sqlite:///{tmp_path}/jobs.sqlite3"}) as config:
        config.include("backjob.integrations.pyramid")
        config.add_route("job", "/job")
        config.add_view(lambda request: request.backjob.is_worker or start(request), route_name="job", renderer="json")
        application = config.make_wsgi_app()
    with contextlib.closing(application.registry.backjob) as backjob, serve(application) as server:
        job_id = int(server.ask("/job").body)
        wait_until(lambda: backjob.jobs.status(job_id).status is Status.COMPLETED)


# Users


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ("UPDATE login SET token = token", None),
        ("DELETE FROM login", ENDED),
        ("UPDATE login SET user = 'eve'", OTHER),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_job_is_of_the_user_who_started_it(tm_shop, method, change, failure):
    ran = []
    tm_shop.work = lambda request: ran.append(request.authenticated_userid)
    tm_shop.log_in()
    tm_shop.begin = lambda request: request.backjob.start("/work", method=method, delay=3600, retries=2)
    job_id = tm_shop.start()
    tm_shop.sql(change)
    make_due(tm_shop)
    end = tm_shop.wait_for_end(job_id)
    assert (end.status, end.status_text) == ((Status.FAILED, failure) if failure else (Status.COMPLETED, '"done"'))
    assert ran == ([] if failure else ["ada"])
    wait_until(lambda: tm_shop.engine.pool.checkedout() == 0)


def make_due(shop: Shop) -> None:
    """The delay is over."""
    backend = shop.application.registry.backjob._get_backend()
    with contextlib.closing(sqlite3.connect(shop.file.with_name("jobs.sqlite3"), timeout=5)) as connection, connection:
        connection.execute("UPDATE background_job SET due_at = created_at")
    backend.dispatcher.look_after(0)


@pytest.mark.parametrize("transactions", ["", "pyramid_tm.explicit_manager"], ids=["none", "explicit"])
def test_a_response_that_starts_a_job_while_it_is_sent(shop, transactions):
    started = []

    def stream(request):
        def chunks():
            started.append(jobs.start("/work"))
            yield b"started"

        jobs = request.environ["backjob"]
        return Response(app_iter=chunks())

    shop.add("stream", stream)
    if transactions:
        shop.config.include("pyramid_tm")
        shop.config.add_settings({"tm.manager_hook": transactions})
    shop.work = lambda request: request.authenticated_userid
    with shop.serve():
        shop.log_in()
        assert shop.visitor.ask("/stream").text == "started"
        assert shop.wait_for_end(started[0]).status_text == '"ada"'
        wait_until(lambda: shop.engine.pool.checkedout() == 0)


# Exceptions


def answer_error(error: Exception, request: Any) -> Response:
    return Response(f"Sorry: {type(error).__name__}", status=409 if isinstance(error, IntegrityError) else 500)


def test_a_refusal_that_becomes_a_redirect_is_no_success(shop):
    """The usual forbidden view of Pyramid's tutorials."""

    def refuse(request: Any) -> None:
        raise HTTPForbidden

    shop.work = refuse
    shop.config.add_forbidden_view(lambda request: HTTPSeeOther("/"))
    with shop.serve():
        found = shop.run(lambda request: request.backjob.start("/work", redirect_ok=True))
        assert (found.status, found.location) == (Status.FAILED, "/")
        assert "a login page" in found.error


@pytest.mark.parametrize(("target", "error"), [("/nowhere", "404 Not Found"), ("/vault", "403 Forbidden")])
@pytest.mark.parametrize("accept", ["text/html", "application/json", "text/plain"])
def test_what_debug_adds_to_a_refusal_is_not_kept(shop, target, error, accept):
    """The text of a debug page has the whole URL, with all that a user typed."""
    shop.config.add_settings({"debug_notfound": True, "debug_authorization": True})
    shop.add("vault", lambda request: "never seen", permission="edit")
    with shop.serve():
        end = shop.run(lambda request: request.backjob.start(f"{target}?q=canary", headers={"Accept": accept}))
    assert (end.error, end.status_text) == (f"HTTP {error}", f"HTTP {error}")


@pytest.mark.parametrize("has_error_page", [False, True])
def test_a_job_names_the_exception_behind_its_error_page(shop, has_error_page):
    def fail_in_commit(request):
        request.tm.get().addBeforeCommitHook(lambda: {}["total"])

    def crash(request):
        raise ValueError("no such book")

    def refuse(request):
        raise HTTPInternalServerError("out of order")

    shop.config.include("pyramid_tm")
    if has_error_page:
        shop.config.add_exception_view(answer_error, context=Exception)
    with shop.serve():
        for work, words in (
            (crash, "ValueError: no such book"),
            (fail_in_commit, "KeyError: 'total'"),
            (refuse, "HTTPInternalServerError: out of order"),
        ):
            shop.work = work
            end = shop.run()
            assert end.status is Status.FAILED
            # An error page is HTTP, and an exception that nobody has minded is not.
            is_page = has_error_page or work is refuse
            assert end.status_text.splitlines()[-1] == ("HTTP 500 Internal Server Error: " * is_page) + words


# Transactions


@pytest.mark.parametrize(
    ("end_job", "status"),
    [
        (lambda request: request.backjob.fail("out of paper"), Status.FAILED),
        (lambda request: cancel_itself(request.backjob), Status.CANCELLED),
        (lambda request: request.no_such_attribute, Status.FAILED),
        (lambda request: request.backjob.finish("done"), Status.COMPLETED),
    ],
    ids=["fail", "cancel", "exception", "finish"],
)
def test_a_job_leaves_no_transaction_open(tm_shop, end_job, status):
    def work(request):
        write_note(request)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            tm_shop.sql("INSERT INTO note VALUES ('from elsewhere')")
        end_job(request)

    tm_shop.work = work
    assert tm_shop.run().status is status
    wait_until(lambda: tm_shop.engine.pool.checkedout() == 0)
    tm_shop.sql("INSERT INTO note VALUES ('from elsewhere')")
    assert tm_shop.notes == ["from elsewhere", *(["half done"] if status is Status.COMPLETED else [])]


def cancel_itself(jobs: Any) -> None:
    jobs.cancel(jobs.job_id)
    while True:
        jobs.update()


def test_a_job_is_launched_when_its_transaction_is_committed(tm_shop):
    def begin(request):
        write_note(request, "ordered")
        return request.backjob.start("/work")

    tm_shop.work = lambda request: request.dbsession.execute(text("SELECT text FROM note")).scalars().all()
    end = tm_shop.run(begin)
    assert (end.status, end.status_text) == (Status.COMPLETED, '["ordered"]')


def abort_by_error(request: Any) -> None:
    raise ValueError


def abort_by_refusal(request: Any) -> None:
    raise HTTPConflict


def abort_by_commit(request: Any) -> None:
    """The database refuses the commit, which the app makes a page of that is no failure of the server's."""

    def refuse() -> None:
        raise IntegrityError("COMMIT", {}, ValueError())

    request.tm.get().addBeforeCommitHook(refuse)


@pytest.mark.parametrize(
    "abort", [abort_by_error, abort_by_refusal, abort_by_commit, lambda request: request.tm.doom()]
)
def test_a_job_is_cancelled_when_its_transaction_is_aborted(tm_shop, abort):
    started = []

    def begin(request):
        write_note(request)
        started.append(request.backjob.start("/work"))
        abort(request)

    tm_shop.begin = begin
    tm_shop.visitor.ask("/begin")
    assert tm_shop.wait_for_end(started[0]).status is Status.CANCELLED
    assert tm_shop.notes == []


def test_a_job_that_was_there_before_is_not_cancelled(tm_shop):
    def begin(request):
        request.tm.doom()
        return request.backjob.start("/work", unique=True)

    tm_shop.log_in()  # nobody's cookie may change with each answer, and then it is somebody else's job
    go_on = threading.Event()
    tm_shop.work = lambda request: go_on.wait(PATIENCE)
    tm_shop.begin = lambda request: request.backjob.start("/work", unique=True)
    job_id = tm_shop.start()
    tm_shop.begin = begin
    assert tm_shop.start() == job_id
    go_on.set()
    assert tm_shop.wait_for_end(job_id).status is Status.COMPLETED


def start_and_wait(request: Any, **options: Any) -> int:
    job_id = request.backjob.start("/work", **options)
    wait_until(lambda: request.backjob.status(job_id).status.is_final)
    return job_id


def test_a_job_may_be_launched_while_the_transaction_is_open(tm_shop):
    assert tm_shop.run(lambda request: start_and_wait(request, after_response=False)).status is Status.COMPLETED


def test_without_transactions_a_job_is_launched_at_once(shop):
    with shop.serve():
        assert shop.run(start_and_wait).status is Status.COMPLETED


def test_what_a_job_has_started_is_cancelled_with_its_transaction(tm_shop):
    def work(request):
        if request.params:
            return
        started.append(request.backjob.start("/work?next"))
        request.tm.doom()

    started: list[int] = []
    tm_shop.work = work
    assert tm_shop.run().status is Status.COMPLETED
    assert tm_shop.wait_for_end(started[0]).status is Status.CANCELLED


# Views


def test_a_view_for_jobs_only_is_not_found_by_browsers(shop):
    shop.add("both", lambda request: "in a job", backjob_only=True)
    with shop.serve():
        assert shop.visitor.ask("/both").status == 404
        assert shop.run(lambda request: request.backjob.start("/both")).status_text == '"in a job"'


def test_a_view_may_be_for_browsers_only(shop):
    shop.add("both", lambda request: "in a job", backjob_only=True)
    browsers = {"route_name": "both", "backjob_only": False, "renderer": "json"}
    shop.config.add_view(lambda request: request.backjob.start("/both"), **browsers)
    with shop.serve():
        job_id = shop.visitor.ask("/both").json()
        assert shop.wait_for_end(job_id).status_text == '"in a job"'


def test_what_is_no_answer_to_backjob_only_is_refused(shop):
    shop.add("both", lambda request: "in a job", backjob_only="yes")
    with pytest.raises(ConfigurationError, match="backjob_only must be True or False"):
        shop.config.make_wsgi_app()


NO_FILE = (
    b'--b\r\nContent-Disposition: form-data; name="cover"; filename=""\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n\r\n"
)
"""What a browser sends of a file input that nothing was chosen in."""


def report(request: Any) -> Any:
    request.dbsession  # noqa: B018 - a view that uses the database
    if request.content_type == "application/json":
        return [request.method, request.json_body, dict(request.GET)]
    return [request.method, dict(request.POST), dict(request.GET)]


@pytest.mark.parametrize(
    "decorator",
    [background, background(retries=2, unique=True, scope=lambda request: request.authenticated_userid)],
    ids=["bare", "with options"],
)
def test_a_view_in_the_background_answers_with_its_job(tm_shop, decorator):
    tm_shop.config.set_default_csrf_options(require_csrf=True)
    tm_shop.add("report", report, decorator=decorator)
    tm_shop.config.commit()
    tm_shop.log_in()
    visitor, token = tm_shop.visitor, tm_shop.visitor.ask("/token").json()
    assert visitor.post("/report", book="Emma").status == 400  # no token
    page = visitor.post("/report?year=1815", book="Emma & Co", csrf_token=token)
    assert (page.status, list(page.json())) == (202, ["id"])
    end = tm_shop.wait_for_end(page.json()["id"])
    assert json.loads(end.status_text) == ["POST", {"book": "Emma & Co", "csrf_token": token}, {"year": "1815"}]
    assert end.scope == ("" if decorator is background else "ada")
    headers = {"Content-Type": "application/json", "X-CSRF-Token": token}
    page = visitor.ask("/report", json.dumps({"book": "Zo\u00eb"}).encode(), headers, "PUT")
    assert json.loads(tm_shop.wait_for_end(page.json()["id"]).status_text) == ["PUT", {"book": "Zo\u00eb"}, {}]
    headers["Content-Type"] = "multipart/form-data; boundary=b"
    page = visitor.ask("/report", multipart("Zo\u00eb"), headers)
    assert json.loads(tm_shop.wait_for_end(page.json()["id"]).status_text) == ["POST", {"book": "Zo\u00eb"}, {}]
    page = visitor.ask("/report", NO_FILE + multipart("Zo\u00eb"), headers)
    end = tm_shop.wait_for_end(page.json()["id"])
    assert json.loads(end.status_text) == ["POST", {"cover": "", "book": "Zo\u00eb"}, {}]
    for body in (multipart("Zo\u00eb", file="zoe.txt"), b"--b--"):
        page = visitor.ask("/report", body, headers)
        assert (page.status, "uploaded files" in page.text) == (415, True)


def test_a_view_in_the_background_runs_as_who_asked_for_it(tm_shop):
    tm_shop.add("report", report, decorator=background(delay=3600))
    tm_shop.config.commit()
    tm_shop.log_in()
    job_id = tm_shop.visitor.post("/report").json()["id"]
    tm_shop.sql("DELETE FROM login")
    make_due(tm_shop)
    assert tm_shop.wait_for_end(job_id).status_text == ENDED


SENT_BY_OTHERS = [{"Origin": "https://else.test"}, {"Sec-Fetch-Site": "cross-site"}]


@pytest.mark.parametrize("is_required", [True, False])
@pytest.mark.parametrize("names", [{}, {"header": "X-Shop", "token": None}, {"header": None, "token": "shop"}], ids=str)
def test_a_check_within_background_is_of_what_the_browser_sent(shop, names, is_required):
    def buy(request):
        if request.headers.get("Origin", request.host_url) != request.host_url or "Sec-Fetch-Site" in request.headers:
            raise HTTPForbidden
        check_csrf_token(request, field, header)
        bought.append((dict(request.POST), request.body))

    field, header = names.get("token", "csrf_token"), names.get("header", "X-CSRF-Token")
    bought: list[Any] = []
    shop.config.set_default_csrf_options(require_csrf=is_required, **names)
    shop.add("buy", buy, decorator=background)
    shop.add("give", buy, decorator=background(as_user=False))
    with shop.serve():
        shop.log_in()
        token = shop.visitor.ask("/token").json()
        form = {"book": "Emma", **({field: token} if field else {})}
        body, headers = urlencode(form).encode(), {} if field else {header: token}
        forged = [shop.visitor.ask("/buy", body, {**headers, **more}) for more in SENT_BY_OTHERS]
        forged.append(shop.visitor.ask("/give", body, headers))  # nobody has no token
        if not is_required:
            forged += [shop.visitor.post("/buy", book="Emma"), shop.visitor.post("/buy")]
        for page in forged:
            assert shop.wait_for_end(page.json()["id"]).status is Status.FAILED
        assert bought == []
        assert shop.wait_for_end(shop.visitor.ask("/buy", body, headers).json()["id"]).status is Status.COMPLETED
        assert bought == [(form, body)]


def test_a_job_that_its_app_started_passes_checks_within_background(shop):
    shop.add("buy", check_csrf_token, decorator=background)
    with shop.serve():
        shop.log_in()
        assert shop.run(lambda request: request.backjob.start("/buy", method="POST")).status is Status.COMPLETED


def test_forms_that_differ_in_their_token_alone_are_one_job(shop):
    shop.add("buy", lambda request: "done", decorator=background(unique=True, delay=3600))
    with shop.serve():
        shop.log_in()
        forms = [{"csrf_token": "a"}, {"csrf_token": "b"}, {}, {"csrf_token": "a", "book": "Emma"}]
        jobs = [shop.visitor.post("/buy", **form).json()["id"] for form in forms]
        assert jobs[0] == jobs[1] == jobs[2] != jobs[3]


def test_background_without_the_include_says_what_is_missing():
    with Configurator() as config:
        config.add_route("buy", "/buy")
        config.add_view(lambda request: "done", route_name="buy", decorator=background, renderer="json")
        application = config.make_wsgi_app()
    with pytest.raises(RuntimeError, match=r'config\.include\("backjob'):
        call(application, make_environ("/buy"))


# Wrapping


def test_a_job_runs_inline_before_any_request_has_come(shop):
    shop.config.add_settings({"backjob.launcher": Inline()})
    shop.work = lambda request: request.method
    with contextlib.closing(shop.config.make_wsgi_app().registry.backjob) as application:
        job_id = application.jobs.start("/work", method="POST")
        assert application.jobs.status(job_id).status_text == '"POST"'
    shop.engine.dispose()


def test_a_subrequest_starts_jobs_too(shop):
    shop.begin = lambda request: request.invoke_subrequest(Request.blank("/start", cookies=request.cookies)).json
    shop.add("start", lambda request: request.backjob.start("/work"))
    with shop.serve():
        assert shop.run().status is Status.COMPLETED


def test_the_execution_policy_of_the_app_is_kept(shop):
    def policy(environ, router):
        """As one that tries a request again, for which it needs the environ as it was."""
        seen.append(environ["backjob"].is_worker)
        return default_execution_policy(environ.copy(), router)

    seen: list[bool] = []
    shop.config.set_execution_policy(policy)  # after the include
    shop.config.add_settings({"tm.manager_hook": "pyramid_tm.explicit_manager"})
    shop.config.include("pyramid_tm")
    with shop.serve():
        shop.log_in()
        assert shop.run().status is Status.COMPLETED
    assert seen == [False, False, True]


def test_apps_of_two_modules_are_told_apart(tmp_path):
    names = []
    for module in ("first", "second"):
        namespace = {"__name__": module}
        exec("def main(config):\n    return config.make_wsgi_app()", namespace)
        config = Configurator(settings={"backjob.database": f"sqlite:///{tmp_path}/jobs.sqlite3"})
        config.include("backjob.integrations.pyramid")
        with contextlib.closing(namespace["main"](config).registry.backjob) as application:
            names.append(application._assembly._name.partition(" ")[0])
    assert names == ["first", "second"]


def test_a_wrong_option_is_refused_when_the_app_is_made(shop):
    shop.config.add_settings({"backjob.leese": "3"})
    with pytest.raises(ConfigurationError, match="leese is no option of BackJob: did you mean 'lease'"):
        shop.config.make_wsgi_app()


def name_user(environ: dict[str, Any]) -> str:
    return "somebody"


def test_an_ini_file_names_functions_by_their_dotted_name(shop):
    shop.config.add_settings({"backjob.identify": f"{__name__}.name_user"})
    with shop.serve():
        assert shop.application.registry.backjob.config.identify is name_user


INI = """
[pipeline:main]
pipeline = backjob shop

[filter:backjob]
use = egg:backjob
database = sqlite:///%(here)s/jobs.sqlite3

[app:shop]
paste.app_factory = test_pyramid:make_shop
pyramid.includes = backjob.integrations.pyramid
backjob.database = sqlite:///%(here)s/jobs.sqlite3
"""


def make_shop(global_config: dict[str, str], **settings: str) -> Any:
    with Configurator(settings=settings) as config:
        config.add_route("job", "/job")
        config.add_view(lambda request: request.backjob.start("/job"), route_name="job", renderer="json")
        config.add_view(lambda request: "done", route_name="job", backjob_only=True, renderer="json")
        return config.make_wsgi_app()


@pytest.mark.parametrize("section", ["main", "shop"])
def test_an_ini_file_may_have_the_filter_too(tmp_path, section):
    """Of two that wrap the app, the outer one is it."""
    (tmp_path / "shop.ini").write_text(INI)
    application = loadapp(f"config:{tmp_path}/shop.ini", name=section)
    wrapped = application._app if isinstance(application, BackJob) else application
    try:
        with serve(application) as server:
            job_id = int(server.ask("/job").body)
            jobs = wrapped.registry.backjob.jobs
            wait_until(lambda: jobs.status(job_id).status.is_final)
            assert jobs.status(job_id).status_text == '"done"'
    finally:
        wrapped.registry.backjob.close()
        if isinstance(application, BackJob):
            application.close()
