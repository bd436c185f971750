"""Django's integration, called as a server calls it: settings, middleware, CSRF, exceptions, transactions."""

from __future__ import annotations

import gc
import subprocess
import sys
import unittest
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
from django.apps import apps
from django.conf import settings
from django.conf.urls.i18n import i18n_patterns
from django.contrib.auth import get_user_model, update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.contrib.sessions.backends.db import SessionStore as DatabaseSession
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.middleware.csrf import CsrfViewMiddleware, get_token
from django.test import Client, TestCase, override_settings
from django.urls import path
from django.views.decorators.cache import cache_page, never_cache
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from support import services
from support.served import KEY, KeptLaunches, Site, call, make_environ, wrap

from backjob import BackJobError, Status
from backjob.testing import Inline

OURS = "backjob.integrations.django.BackJobMiddleware"
MIDDLEWARE = [
    f"{__name__}.KindMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    OURS,
    f"{__name__}.FrailMiddleware",
]

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "unused"}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    LOGGING_CONFIG=None,
    MIDDLEWARE=MIDDLEWARE,
    ROOT_URLCONF=__name__,
    SECRET_KEY="nothing of this site is secret",
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)

from backjob.integrations.django import (  # noqa: E402 - as in a wsgi.py, it is set up by then
    background,
    get_wsgi_application,
)
from backjob.integrations.django_transactions import check_sqlite  # noqa: E402


class KindMiddleware:
    """Has a page of its own for what views raise."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return HttpResponse("Sorry.", status=503) if isinstance(exception, ConnectionError) else None


class FrailMiddleware:
    """Breaks down before any view is asked."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path_info == "/frail":
            raise ValueError("no figures")
        return self.get_response(request)


class OwnCsrfMiddleware(CsrfViewMiddleware):
    """A project's own, which asks some requests for no token: of a program, not a browser."""

    def process_view(self, request: HttpRequest, *args: Any) -> HttpResponse | None:
        return None if "HTTP_X_PROGRAM" in request.META else super().process_view(request, *args)


def begin(request: HttpRequest) -> HttpResponse:
    current.begin(request.backjob)
    return HttpResponse("begun")


def tell(request: HttpRequest) -> HttpResponse:
    form = sorted(request.POST.items())
    return HttpResponse(f"{request.path_info} of {request.path}, secure: {request.is_secure()}, {form}")


def break_down(request: HttpRequest) -> HttpResponse:
    raise {"handled": ConnectionError, "unhandled": ValueError}[request.GET["as"]]("no figures")


def refuse(request: HttpRequest) -> HttpResponse:
    raise PermissionDenied


@login_required
def need_login(request: HttpRequest) -> HttpResponse:
    return HttpResponse("never seen")


class TurnAwayMiddleware:
    """Shows visitors who are refused the start page."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return HttpResponseRedirect("/") if isinstance(exception, PermissionDenied) else None


@csrf_exempt
@background
def tell_transaction(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(connection.in_atomic_block))


tell_no_transaction = csrf_exempt(background(atomic=False)(tell_transaction.__wrapped__.__wrapped__))


def stream(request: HttpRequest) -> HttpResponse:
    return StreamingHttpResponse(iter(lambda: current.begin(request.backjob), None))


def start_by_credential(request: HttpRequest) -> HttpResponse:
    """A view that knows its user by itself, and tells Django so, as Django REST framework does."""
    if request.META.get("HTTP_AUTHORIZATION") != "Token of-ada":
        return HttpResponse("who?", status=401)
    request.user = SimpleNamespace(pk=7, is_authenticated=True)
    return HttpResponse("for ada" if request.backjob.is_worker else request.backjob.start("/credential"))


@csrf_exempt
@background
@csrf_protect
def pay(request: HttpRequest) -> HttpResponse:
    paid.append(sorted(request.POST.items()))
    return HttpResponse("paid", content_type="text/plain")


@background
@csrf_protect
def pay_in_any_case(request: HttpRequest) -> HttpResponse:
    return HttpResponse("paid", content_type="text/plain")


@csrf_exempt
@background
def pay_by_body(request: HttpRequest) -> HttpResponse:
    """Reads the form by itself before it has the token checked, as Django REST framework does."""
    assert request.META["CONTENT_TYPE"] == "application/x-www-form-urlencoded"
    form = request.read(int(request.META["CONTENT_LENGTH"]))
    assert form == request.body
    refusal = CsrfViewMiddleware(pay).process_view(request, None, (), {})
    if refusal is None:
        paid.append(form)
    return refusal or HttpResponse("paid", content_type="text/plain")


@background(as_user=False)
def pay_as_nobody(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{request.user}", content_type="text/plain")


@background(unique=True)
def pay_once(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{sorted(request.POST)}", content_type="text/plain")


paid: list[Any] = []
counted: list[str] = []


def count(request: HttpRequest) -> HttpResponse:
    counted.append("job" if request.backjob.is_worker else "visitor")
    return HttpResponse(f"run {len(counted)} for a {counted[-1]}")


urlpatterns = [
    path("atomic", tell_transaction),
    path("not-atomic", tell_no_transaction),
    path("count", count),
    path("count-cached", cache_page(60)(count)),
    path("start", never_cache(begin)),
    path("tell", tell),
    path("break", break_down),
    path("stream", stream),
    path("leave", lambda request: HttpResponseRedirect(request.GET["to"])),
    path("mine", need_login, name="mine"),
    path("refuse", refuse),
    path("credential", start_by_credential),
    path("pay", pay),
    path("pay-by-body", pay_by_body),
    path("pay-once", pay_once),
    path("pay-as-nobody", pay_as_nobody),
    path("pay-in-any-case", pay_in_any_case),
]

current: Any = None


class DjangoSite(Site):
    """This module as a project, in BackJob."""

    def __init__(self, path: Path, launches: Any) -> None:
        self.path = path
        self.launches = launches
        self.ask = lambda environ: call(self.application, environ)
        self.application = get_wsgi_application()


@contextmanager
def project(folder: Path, options: dict[str, Any] | None = None, **changes: Any) -> Iterator[DjangoSite]:
    """A site with these options of backjob and these settings."""
    global current  # noqa: PLW0603 - Django finds its views by the module
    path, launches = folder / "jobs.sqlite3", KeptLaunches()
    own = {"LAUNCHER": launches, "KEY": KEY, "DATABASE": f"sqlite:///{path}", "KEEPER": False}
    with override_settings(BACKJOB=own | (options or {}), **changes):
        current = site = DjangoSite(path, launches)
        try:
            yield site
        finally:
            site.close()


@pytest.fixture(autouse=True)
def own_database(tmp_path: Path) -> Iterator[None]:
    connection.settings_dict["NAME"] = str(tmp_path / "django.sqlite3")
    yield
    connections.close_all()


def test_it_can_be_imported_before_there_are_settings():
    subprocess.run([sys.executable, "-c", "import backjob.integrations.django"], check=True, timeout=60)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"database": "sqlite://"}, "'database' must be written 'DATABASE'"),
        ({"LAESE": 3}, "laese is no option of BackJob: did you mean 'lease'"),
        ({"LEASE": 0}, "lease must be a number"),
        ({"FORWARD_HEADERS": "X-A"}, "forward_headers must be a list of header names"),
    ],
)
@pytest.mark.parametrize("proxy_header", [None, ("HTTP_X_SAFE", "yes")])
def test_wrong_options_are_told(tmp_path, options, words, proxy_header):
    told = pytest.raises(ImproperlyConfigured, match=f"settings.BACKJOB: {words}")
    with told, project(tmp_path, options, SECURE_PROXY_SSL_HEADER=proxy_header):
        pass


@pytest.mark.parametrize(
    ("middleware", "words"),
    [
        (MIDDLEWARE[:-2], "must be in it, after django.contrib.auth.middleware.AuthenticationMiddleware"),
        ([OURS, *MIDDLEWARE[:-2]], "must be in it, after django.contrib.auth.middleware.AuthenticationMiddleware"),
        ([OURS, f"{__name__}.OwnCsrfMiddleware"], f"must be in it, after {__name__}.OwnCsrfMiddleware"),
        ([], "must be in it"),
    ],
)
def test_the_middleware_s_place_is_told(tmp_path, middleware, words):
    words = f"MIDDLEWARE: {OURS} {words}"
    with pytest.raises(ImproperlyConfigured, match=words), project(tmp_path, MIDDLEWARE=middleware):
        pass


@pytest.mark.parametrize("use_sessions", [False, True])
@pytest.mark.parametrize("cookie", [None, "csrftoken=" + "a" * 32, "csrftoken=no-secret"])
@pytest.mark.parametrize("secure", [False, True])
def test_a_job_passes_csrf_protection(tmp_path, use_sessions, cookie, secure):
    form = {"of": "ü", "csrfmiddlewaretoken": "b" * 64}
    by = {"HTTP_COOKIE": cookie, "HTTP_X_SAFE": "yes" if secure else "no", "HTTP_X_FORWARDED_PROTO": "https"}
    changes = {"CSRF_USE_SESSIONS": use_sessions, "CSRF_HEADER_NAME": "HTTP_X_OWN_TOKEN"}
    with project(tmp_path, **changes, SECURE_PROXY_SSL_HEADER=("HTTP_X_SAFE", "yes")) as site:
        job_id = site.start("/tell", method="POST", data=form, by=by)
        site.work(job_id)
        status = site.status(job_id)
        assert status.status_text == f"/tell of /tell, secure: {secure}, [('of', 'ü')]"
        assert status.status is Status.COMPLETED


def test_a_browser_s_request_is_checked_as_ever(tmp_path):
    with project(tmp_path) as site:
        assert call(site.application, make_environ("/tell", "POST")).code == 403
        assert call(site.application, make_environ("/tell", "POST", backjob="mine")).code == 403


def test_a_job_runs_where_the_site_is_for_browsers(tmp_path):
    with project(tmp_path, FORCE_SCRIPT_NAME="/shop") as site:
        assert site.run("/shop/tell").status_text == "/tell of /shop/tell, secure: False, []"
        with pytest.raises(ValueError, match="outside of this app"):
            site.start("/tell")


@pytest.mark.parametrize("target", ["/break?as=unhandled", "/frail"])
@pytest.mark.parametrize("debug", [False, True])
def test_an_exception_is_named(tmp_path, debug, target):
    with project(tmp_path, DEBUG=debug) as site:
        job_id = site.start(target, by={"HTTP_COOKIE": "theirs=alone"})
        site.work(job_id)
        text = site.status(job_id).status_text
        assert text.endswith("HTTP 500 Internal Server Error: ValueError: no figures")
        assert len(text) < 400
        assert "alone" not in text
        text = site.run("/break?as=handled").status_text
        assert text == "HTTP 503 Service Unavailable: ConnectionError: no figures"


@pytest.mark.parametrize("accept", ["text/html", "application/json"])
@pytest.mark.parametrize("target", ["/nowhere/canary", "/break?as=unhandled&canary"])
@pytest.mark.parametrize("integrated", [True, False])
def test_the_page_of_debug_is_not_kept(tmp_path, integrated, target, accept):
    """Without the integration too. The page shows the request with all that a user typed, in HTML or in plain text."""
    with ExitStack() as stack:
        site: Site = stack.enter_context(project(tmp_path, DEBUG=True))
        if not integrated:
            stack.enter_context(override_settings(MIDDLEWARE=[]))
            site = stack.enter_context(wrap(tmp_path, WSGIHandler()))
        job_id = site.start(target, by={"HTTP_ACCEPT": accept})
        site.work(job_id)
        found = site.status(job_id)
        reason = found.error.removesuffix(": ValueError: no figures")
        assert found.status_text == found.error
        assert reason == ("HTTP 404 Not Found" if "nowhere" in target else "HTTP 500 Internal Server Error")


@pytest.mark.parametrize("login_url", ["/enter/", "enter", "mine", "/accounts/login/", "no such view"])
def test_a_redirect_to_the_login_page_is_no_success(tmp_path, login_url):
    with project(tmp_path, {"REDIRECT_OK": True}, LOGIN_URL=login_url) as site:
        status = site.run("/leave?to=" + (login_url if login_url.startswith("/") else "/mine"))
        is_known = login_url not in ("no such view", "enter")
        assert status.status is (Status.FAILED if is_known else Status.COMPLETED)
        assert status.error.endswith("a login page: nothing was done") is is_known
        assert site.run("/leave?to=/ticket/17").location == "/ticket/17"
        if login_url.startswith("/"):
            assert "a login page: nothing was done" in site.run("/mine").error


def test_a_refusal_that_becomes_a_redirect_is_no_success(tmp_path):
    middleware = [f"{__name__}.TurnAwayMiddleware", *MIDDLEWARE]
    with project(tmp_path, {"REDIRECT_OK": True}, MIDDLEWARE=middleware) as site:
        assert "a login page" in site.run("/refuse").error


class PagesInLanguages:
    urlpatterns = (path("start", begin), *i18n_patterns(path("export/", lambda request: HttpResponse("exported"))))


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("mount", ["", "/shop"])
@pytest.mark.parametrize(
    ("target", "changes"),
    [
        ("/export/", "adds a language"),
        ("/export", "adds a language and adds a slash"),
        ("/en/export", "adds a slash"),
    ],
)
def test_a_corrected_url_is_no_success(tmp_path, method, mount, target, changes):
    middleware = [f"django.middleware.{each}Middleware" for each in ("locale.Locale", "common.Common")]
    middleware = [MIDDLEWARE[1], *middleware, *MIDDLEWARE[2:]]
    with project(tmp_path, {"REDIRECT_OK": True}, MIDDLEWARE=middleware, ROOT_URLCONF=PagesInLanguages) as site:
        job_id = site.start(f"{mount}{target}", method=method, by={"SCRIPT_NAME": mount})
        site.work(job_id, SCRIPT_NAME=mount)
        error = site.status(job_id).error
        assert f", which only {changes}: start the job with the target {mount}/en/export/" in error


def test_a_job_waits_for_the_commit_and_goes_with_its_savepoint(tmp_path):
    ids = []

    def begin(jobs: Any) -> None:
        with transaction.atomic():
            ids.append(jobs.start("/tell?kept"))
            with transaction.atomic():
                ids.append(jobs.start("/tell?lost"))
                ids.append(jobs.start("/tell?lost", unique=True))
                assert jobs.start("/tell?of-another", unique=True) == ids[0]
                transaction.set_rollback(True)
            assert site.launches.tokens == []
        ids.append(jobs.start("/tell?at-once"))
        assert [token.job_id for token in site.launches.tokens] == ids[-1:]

    with project(tmp_path) as site:
        ids.append(site.start("/tell?of-another", unique=True))
        site.launches.tokens.clear()
        site.within(begin)
        of_another, kept, lost, unique, at_once = ids
        assert [token.job_id for token in site.launches.tokens] == [at_once, kept]
        assert [site.status(each).status.name for each in (of_another, kept, at_once)] == ["STARTED"] * 3
        assert [site.status(each).status.name for each in (lost, unique)] == ["CANCELLED"] * 2


@contextmanager
def own_tables(name: str, folder: Path, is_atomic: bool) -> Iterator[None]:
    """Django's tables in a new database, on this kind of server."""
    with ExitStack() as stack:
        made: dict[str, Any] = {"ENGINE": f"django.db.backends.{name}", "NAME": folder / "tables.sqlite3"}
        if name == "postgresql":
            url = stack.enter_context(services.new_database(name))
            made |= {"NAME": url.database, "USER": url.username, "HOST": url.host, "PORT": url.port}
        before, kept = connections["default"], connections.settings["default"]
        filled = connections.configure_settings({"default": made | {"ATOMIC_REQUESTS": is_atomic}})
        connections.settings["default"] = filled["default"]
        del connections["default"]
        try:
            call_command("migrate", verbosity=0)
            yield
        finally:
            connections.close_all()
            connections["default"], connections.settings["default"] = before, kept


def test_manage_py_check_warns_of_sqlite_with_atomic_requests():
    """In a process of its own: checks that are registered while they run come too late."""
    program = """
from django.conf import settings
from django.core.management import execute_from_command_line

tables = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "ATOMIC_REQUESTS": True}
settings.configure(DATABASES={"default": tables}, INSTALLED_APPS=["backjob.integrations.django"], SECRET_KEY="x")
execute_from_command_line(["manage.py", "check"])
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "backjob.W001" in ended.stderr


@pytest.mark.parametrize("target", ["/atomic", "/not-atomic"])
def test_a_view_in_the_background_may_be_exempt_from_atomic_requests(tmp_path, target):
    with project(tmp_path, {"LAUNCHER": Inline()}) as site, own_tables("sqlite3", tmp_path, is_atomic=True):
        (warning,) = check_sqlite()
        assert "once a job has written" in warning.msg
        assert warning.msg in [found.text for found in site.application.check().warnings]
        job_id = int(call(site.application, make_environ(target, "POST", HTTP_X_PROGRAM="")).body[len(b'{"id": ') : -1])
        assert site.status(job_id).status_text == str(target == "/atomic")
    with own_tables("sqlite3", tmp_path, is_atomic=False):
        assert check_sqlite() == []


@pytest.mark.parametrize("name", ["sqlite3", "postgresql"])
def test_a_job_that_ends_within_a_queryset_closes_it_before_its_connection(tmp_path, name):
    """Its cursor, and on PostgreSQL that of the server: the connection would be closed by then."""

    def begin(jobs: Any) -> None:
        rows = groups.order_by("name").iterator(chunk_size=1)
        for _ in rows:
            jobs.fail("enough")

    with project(tmp_path) as site, own_tables(name, tmp_path, is_atomic=False):
        groups = apps.get_model("auth", "Group").objects
        for number in range(5):
            groups.create(name=str(number))
        connections["default"].close()
        job_id, unraisable = site.start("/start"), []
        site.begin = begin
        sys.unraisablehook, before = unraisable.append, sys.unraisablehook
        try:
            site.work(job_id)
            gc.collect()
        finally:
            sys.unraisablehook = before
        assert site.status(job_id).status_text == "enough"
        assert [str(each.exc_value) for each in unraisable] == []


@pytest.mark.parametrize("is_atomic", [False, True])
@pytest.mark.parametrize("name", ["sqlite3", "postgresql"])
def test_django_s_own_test_case_and_client(tmp_path, name, is_atomic):
    told: list[Any] = []

    def begin(jobs: Any) -> None:
        if jobs.is_worker:
            told.append([group.name for group in groups.order_by("name")])
            if len(told) == 2:
                jobs.start("/start?again")
                groups.create(name="job")
                return
            jobs.fail("enough")
        jobs.start("/start", method="POST", data={"of": 1})
        groups.create(name="view")
        told.append("answered")

    class Case(TestCase):
        def test_it(self) -> None:
            groups.create(name="test")
            assert Client().get("/start").status_code == 200
            assert told == ["answered", ["test", "view"], ["job", "test", "view"]]
            assert groups.count() == 3
            second, first = site.application.jobs.find()
            assert (first.status, first.status_text) == (Status.COMPLETED, "begun")
            assert (second.status, second.status_text) == (Status.FAILED, "enough")
            paid_by = Client().post("/pay").json()["id"]  # it asks for no token in the foreground either
            assert site.status(paid_by).status_text == "paid"

    with project(tmp_path, {"LAUNCHER": Inline()}) as site, own_tables(name, tmp_path, is_atomic):
        site.begin = begin
        groups = apps.get_model("auth", "Group").objects
        result = unittest.TestResult()
        unittest.TestSuite([Case("test_it")]).run(result)
        assert [trace for _, trace in result.errors + result.failures] == []
        assert result.testsRun == 1
        assert groups.count() == 0


SECRET = "a" * 32
FORGED = {"HTTP_ORIGIN": "https://evil.example", "HTTP_REFERER": "https://evil.example/"}


def cookies(use_sessions: bool) -> str:
    """Those of a browser that has loaded a page with a form."""
    session = SessionStore()
    session.update({"_csrftoken": SECRET} if use_sessions else {"visits": 1})
    session.save()
    return f"sessionid={session.session_key}" + ("" if use_sessions else f"; csrftoken={SECRET}")


def post(site: DjangoSite, target: str, form: dict[str, str], **more: Any) -> int:
    """Post a form to a view that runs in the background. The job's id."""
    kind = "application/x-www-form-urlencoded"
    reply = call(site.application, make_environ(target, "POST", urlencode(form).encode(), CONTENT_TYPE=kind, **more))
    assert reply.code == 202, reply
    return int(reply.body[len(b'{"id": ') : -1])


@pytest.mark.parametrize("use_sessions", [False, True])
@pytest.mark.parametrize("target", ["/pay", "/pay-by-body"])
@pytest.mark.parametrize("middleware", [MIDDLEWARE, [each for each in MIDDLEWARE if "Csrf" not in each]])
def test_a_view_in_the_background_refuses_a_forged_request_itself(tmp_path, use_sessions, target, middleware):
    paid.clear()
    by = {"HTTP_COOKIE": cookies(use_sessions)}
    token = {"csrfmiddlewaretoken": SECRET}
    with project(tmp_path, CSRF_USE_SESSIONS=use_sessions, MIDDLEWARE=middleware) as site:
        for form, more in (({}, {}), ({}, FORGED), (token, FORGED), ({"csrfmiddlewaretoken": "b" * 32}, {})):
            job_id = post(site, target, {"to": "eve"} | form, **by, **more)
            site.work(job_id)
            assert "403 Forbidden" in site.status(job_id).status_text
            assert (site.status(job_id).status, paid) == (Status.FAILED, [])
        for form, more in (({"to": "bob"} | token, {}), (token, {}), ({"to": "bob"}, {"HTTP_X_CSRFTOKEN": SECRET})):
            job_id = post(site, target, form, **by, **more, HTTP_ORIGIN="http://127.0.0.1")
            site.work(job_id)
            assert (site.status(job_id).status, site.status(job_id).status_text) == (Status.COMPLETED, "paid")
        # A job that the site's own code starts is nobody's forgery.
        assert target != "/pay" or site.run(target, method="POST", by=by).status is Status.COMPLETED


def test_a_large_form_in_the_background_is_refused(tmp_path):
    by = {"HTTP_COOKIE": cookies(False), "CONTENT_TYPE": "application/x-www-form-urlencoded"}
    body = urlencode({"csrfmiddlewaretoken": SECRET, "to": "b" * 10_000}).encode()
    with project(tmp_path, {"MAX_REQUEST": 10_000}) as site:
        reply = call(site.application, make_environ("/pay", "POST", body, **by))
        assert (reply.code, b"max_request" in reply.body) == (413, True)
        assert site.application.jobs.find() == []


def test_a_check_that_the_browser_s_request_went_without_is_not_passed_by_the_job_s(tmp_path):
    middleware = [each.replace("django.middleware.csrf.CsrfView", f"{__name__}.OwnCsrf") for each in MIDDLEWARE]
    with project(tmp_path, MIDDLEWARE=middleware) as site:
        job_id = post(site, "/pay-in-any-case", {"to": "eve"}, HTTP_COOKIE=cookies(False), HTTP_X_PROGRAM="yes")
        site.work(job_id)
        assert "403 Forbidden" in site.status(job_id).status_text


def test_a_view_in_the_background_may_run_as_nobody(tmp_path):
    with project(tmp_path) as site:
        job_id = post(site, "/pay-as-nobody", {"csrfmiddlewaretoken": SECRET}, HTTP_COOKIE=cookies(False))
        site.work(job_id)
        assert (site.status(job_id).status, site.status(job_id).status_text) == (Status.COMPLETED, "AnonymousUser")


def test_a_form_of_two_page_loads_is_one_job(tmp_path):
    with project(tmp_path) as site:
        request = HttpRequest()
        request.META["CSRF_COOKIE"] = SECRET
        tokens, by = [get_token(request), get_token(request)], {"HTTP_COOKIE": cookies(False)}
        ids = {post(site, "/pay-once", {"to": "bob", "csrfmiddlewaretoken": token}, **by) for token in tokens}
        assert (len(set(tokens)), len(ids)) == (2, 1)
        site.work(*ids)
        assert site.status(*ids).status_text == "['csrfmiddlewaretoken', 'to']"


def test_a_view_that_knows_its_user_itself(tmp_path):
    """Of such a user the session knows nothing: the job is asked for the credential again."""
    with project(tmp_path) as site:
        reply = call(site.application, make_environ("/credential", HTTP_AUTHORIZATION="Token of-ada"))
        site.work(int(reply.body))
        assert site.status(int(reply.body)).status_text == "for ada"


@pytest.mark.parametrize("saves_always", [False, True])
def test_no_session_is_made_for_a_job_of_nobody(tmp_path, saves_always):
    cache.clear()
    changes = {"CSRF_USE_SESSIONS": True, "SESSION_SAVE_EVERY_REQUEST": saves_always}
    with project(tmp_path, SESSION_ENGINE="django.contrib.sessions.backends.cache", **changes) as site:
        assert site.run("/tell", method="POST", as_user=False).status is Status.COMPLETED
        assert not cache._cache


def test_a_job_that_is_started_while_a_response_is_sent(tmp_path):
    ids = []

    def begin(jobs: Any) -> None:
        with transaction.atomic():
            with pytest.raises(BackJobError, match=r"the response is being sent\. Call transaction\.on_commit"):
                jobs.start("/tell")
            ids.append(jobs.start("/tell", after_response=False))
            transaction.on_commit(lambda: ids.append(jobs.start("/tell")))
            assert len(site.launches.tokens) == 1
        assert [token.job_id for token in site.launches.tokens] == ids

    with project(tmp_path) as site:
        site.begin = begin
        assert call(site.application, make_environ("/stream")).code == 200
        assert len(ids) == 2


@pytest.mark.parametrize("target", ["/count", "/count-cached"])
def test_a_job_is_neither_answered_from_the_page_cache_nor_stored_there(tmp_path, target):
    cache.clear()
    counted.clear()
    names = ("UpdateCacheMiddleware", "FetchFromCacheMiddleware")
    update, fetch = (f"django.middleware.cache.{name}" for name in names)
    middleware = MIDDLEWARE if target == "/count-cached" else [update, *MIDDLEWARE, fetch]
    with project(tmp_path, MIDDLEWARE=middleware) as site:
        texts = [site.run(target).status_text for _ in range(2)]
        pages = [call(site.application, make_environ(target)).body for _ in range(2)]
        texts.append(site.run(target).status_text)
    assert texts == ["run 1 for a job", "run 2 for a job", "run 4 for a job"]
    assert pages == [b"run 3 for a visitor"] * 2


def test_a_user_is_not_compared_where_django_does_not_know(tmp_path):
    """A WSGI middleware between BackJob and Django starts the job: no session has been read yet."""

    def begin_outside(application: Any) -> Any:
        inner = application._app

        def app(environ: dict[str, Any], start_response: Any) -> Any:
            if environ["PATH_INFO"] == "/outside":
                ids.append(environ["backjob"].start("/who"))
            return inner(environ, start_response)

        return app

    ids: list[int] = []
    with project(tmp_path) as site:
        site.application._app = begin_outside(site.application)
        call(site.application, make_environ("/outside", HTTP_COOKIE=log_in()))
        site.work(*ids)
        status = site.status(*ids)
    assert (status.status, status.status_text) == (Status.COMPLETED, "ada")


@pytest.mark.parametrize("engine", ["db", "cache", "cached_db"])
def test_a_session_that_ends_while_its_job_runs(tmp_path, engine):
    cache.clear()
    with project(tmp_path, SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}") as site:
        call_command("migrate", verbosity=0)
        job_id = site.start("/log-out-meanwhile", retries=2, by={"HTTP_COOKIE": log_in()})
        site.work(job_id)
        status = site.status(job_id)
    assert (status.status, status.attempt) == (Status.FAILED, 1)
    assert "session of the user who started this job ended or was replaced while the job ran" in status.status_text
    assert "answered with 200" in status.status_text


def test_a_session_that_is_replaced_before_the_job_runs(tmp_path):
    """After a change of password, the job has the cookie of the old session, which Django has deleted."""
    with project(tmp_path, SESSION_ENGINE="django.contrib.sessions.backends.db") as site:
        cookie = log_in()
        job_id = site.start("/who", by={"HTTP_COOKIE": cookie})
        request = HttpRequest()
        request.session = DatabaseSession(cookie.partition("=")[2])
        request.user = get_user_model().objects.get()
        update_session_auth_hash(request, request.user)
        site.work(job_id)
        status = site.status(job_id)
    assert status.status is Status.FAILED
    assert "has ended or was replaced (log-out, another login or a changed password)" in status.error


def log_in() -> str:
    """Make a user and a session. Returns the session's Cookie header."""
    call_command("migrate", verbosity=0)
    client = Client()
    client.force_login(get_user_model().objects.create_user("ada"))
    return f"sessionid={client.cookies['sessionid'].value}"


def tell_who(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.user.username)


def log_out_meanwhile(request: HttpRequest) -> HttpResponse:
    """In another request the user logs out; this one then changes the session."""
    type(request.session)(request.session.session_key).flush()
    request.session["last"] = "report"
    return HttpResponse("done")


urlpatterns += [path("who", tell_who), path("log-out-meanwhile", log_out_meanwhile)]
