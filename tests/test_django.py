"""Django's integration, called as a server calls it: settings, middleware, CSRF, exceptions, transactions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from django.test import Client, override_settings
from django.urls import path
from support.served import KEY, KeptLaunches, Site, call, make_environ

from backjob import Status
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

from backjob.integrations.django import get_wsgi_application  # noqa: E402 - as in a wsgi.py, it is set up by then


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


class StricterCsrfMiddleware(CsrfViewMiddleware):
    """A project's own."""


def begin(request: HttpRequest) -> HttpResponse:
    current.begin(request.backjob)
    return HttpResponse("begun")


def tell(request: HttpRequest) -> HttpResponse:
    form = sorted(request.POST.items())
    return HttpResponse(f"{request.path_info} of {request.path}, secure: {request.is_secure()}, {form}")


def break_down(request: HttpRequest) -> HttpResponse:
    raise {"handled": ConnectionError, "unhandled": ValueError}[request.GET["as"]]("no figures")


urlpatterns = [path("start", begin), path("tell", tell), path("break", break_down)]

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
    ],
)
def test_wrong_options_are_told(tmp_path, options, words):
    with pytest.raises(ImproperlyConfigured, match=f"settings.BACKJOB: {words}"), project(tmp_path, options):
        pass


@pytest.mark.parametrize(
    ("middleware", "words"),
    [
        (MIDDLEWARE[:-2], "must be in it, after django.contrib.auth.middleware.AuthenticationMiddleware"),
        ([OURS, *MIDDLEWARE[:-2]], "must be in it, after django.contrib.auth.middleware.AuthenticationMiddleware"),
        ([OURS, f"{__name__}.StricterCsrfMiddleware"], f"must be in it, after {__name__}.StricterCsrfMiddleware"),
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
        assert text == "Sorry.\nHTTP 503 Service Unavailable: ConnectionError: no figures"


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


def test_django_s_own_test_client(tmp_path):
    ids = []
    with project(tmp_path, {"LAUNCHER": Inline()}) as site:
        site.begin = lambda jobs: ids.append(jobs.start("/tell", method="POST", data={"of": 1}))
        assert Client().get("/start").status_code == 200
        status = site.status(ids[0])
        assert (status.status, status.status_text) == (Status.COMPLETED, "/tell of /tell, secure: False, [('of', '1')]")
