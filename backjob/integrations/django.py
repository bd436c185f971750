"""Django: ``get_wsgi_application()`` for wsgi.py, a middleware, and the ``background`` decorator for views.

Reads the options from ``settings.BACKJOB``. Knows Django's requests, users and transactions, and only the public
interface of jobs. CSRF protection is in django_csrf.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import django
from django.conf import settings
from django.core import signals
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch
from django.utils.module_loading import import_string
from django.views.debug import ExceptionReporter

from backjob import BackJob, Check, Config, ConfigError, Finding, IdentityUnknown

from .django_cache import bypass_page_cache
from .django_csrf import ask_again, put_back_sent, supply_token
from .django_inline import keep_connections
from .django_session import watch_session
from .django_transactions import JobsInTransaction, check_sqlite, clear_frames
from .replay import CHANGING_METHODS, check_background, start_job

_MIDDLEWARE = f"{__name__}.BackJobMiddleware"
_BEFORE = {
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
}
"""Middleware that must come before BackJobMiddleware, which uses the session, the user and the CSRF secret."""
_REQUEST = "backjob.django_request"
"""Environ key of a weak reference to the request, because identify() gets the environ."""

View = Callable[..., HttpResponse]


@functools.cache
def get_wsgi_application() -> BackJob:
    """Return Django's application in BackJob, for wsgi.py, the same one for the whole process.

    Its options are ``settings.BACKJOB``, their names in upper case. Raises ImproperlyConfigured for a wrong option, and
    if BackJobMiddleware is missing in MIDDLEWARE or comes too early.
    """
    django.setup(set_prefix=False)
    _check_middleware()
    bypass_page_cache()
    options, handler = _read_options(), _Handler()
    is_inline = getattr(options.get("launcher"), "is_inline", False)
    try:
        return _Application(keep_connections(handler) if is_inline else handler, **options)
    except ConfigError as error:
        raise ImproperlyConfigured(f"settings.BACKJOB: {error}") from error


class _Application(BackJob):
    """BackJob whose check() also covers Django's databases."""

    def check(self, environ: Mapping[str, Any] | None = None) -> Check:
        found = super().check(environ)
        warnings = [Finding("atomic-requests", each.msg, str(each.hint)) for each in check_sqlite()]
        return dataclasses.replace(found, warnings=(*found.warnings, *warnings))


def _forget_application(setting: str, **_: Any) -> None:
    """Drop the application after a test has changed the setting. The next request makes one with the new options."""
    if setting == "BACKJOB":
        get_wsgi_application.cache_clear()


signals.setting_changed.connect(_forget_application)


class BackJobMiddleware:
    """Middleware that gives views ``request.backjob``, and jobs a user and a CSRF token.

    It comes after those of sessions, CSRF and authentication in MIDDLEWARE. Its steps for jobs depend on ``is_worker``,
    which no client can forge.
    """

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: View) -> None:
        self._get_response = get_response
        signals.got_request_exception.connect(_note_exception)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with contextlib.ExitStack() as around:
            if not hasattr(request, "backjob"):  # Django's test client uses a handler of its own
                application = get_wsgi_application()
                _attach(request, request.META.get(_environ_key()) or application.jobs_of(request.META))
                around.enter_context(getattr(application.config.launcher, "answering", contextlib.nullcontext)())
            # The session's user, not yet loaded. A view may set request.user by another credential.
            request.backjob_user = getattr(request, "user", None)
            if request.backjob.is_worker:
                request.backjob.check_user()
                with contextlib.suppress(NoReverseMatch):  # an app without a login page need not set LOGIN_URL
                    request.backjob.note_login_url(resolve_url(settings.LOGIN_URL))
                # A job has no use for the debug page: its status text is the exception's type and message.
                request.exception_reporter_class = _NoPage
                around.enter_context(supply_token(request))
            response = self._get_response(request)
            if request.backjob.is_worker:
                watch_session(request, response.status_code)
            return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        """Note an exception of a view, also one of which another middleware makes a page."""
        request.backjob.note_exception(exception)


def background(
    view: View | None = None,
    *,
    scope: str | Callable[[HttpRequest], str] = "",
    methods: Iterable[str] = CHANGING_METHODS,
    atomic: bool = True,
    **options: Any,
) -> Any:
    """Decorate a view to run it as a job: requests get 202 with the job's id, ``{"id": 7}``.

    Use it bare or with options of start(): ``@background(retries=2, unique=True)``. For a class, use method_decorator
    on ``dispatch``. A ``scope`` may be a function of the request. The job is the same request again. A request with
    uploaded files is refused with 415, one larger than ``max_request`` with 413, and one with another method than
    ``methods`` with 405. With ``atomic=False`` the view is exempt from ATOMIC_REQUESTS. Raises TypeError or ValueError
    for a wrong option.
    """
    methods = check_background(view, methods, scope, options)
    if view is None:
        return functools.partial(background, scope=scope, methods=methods, atomic=atomic, **options)

    @functools.wraps(view)
    def start_or_run(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.backjob.is_worker:
            put_back_sent(request)
            return view(request, *args, **kwargs)
        status, body, headers = start_job(request, request.backjob, ask_again, scope, methods, options)
        return JsonResponse(body, status=status, headers=headers)

    if not atomic:
        for alias in connections:
            transaction.non_atomic_requests(using=alias)(start_or_run)
    return start_or_run


def identify(environ: Mapping[str, Any]) -> str | None:
    """Return the primary key of the user who is logged in; None if no user is, and in a project without users.

    Raises IdentityUnknown if AuthenticationMiddleware has not seen the request, as in a WSGI middleware around Django.
    """
    request = environ[_REQUEST]() if _REQUEST in environ else None
    if not hasattr(request, "backjob_user") and not hasattr(request, "user"):
        raise IdentityUnknown
    user = getattr(request, "backjob_user", getattr(request, "user", None))
    return str(user.pk) if user is not None and user.is_authenticated else None


class _Handler(WSGIHandler):  # type: ignore[misc]
    """Django's handler, with a step after all middleware."""

    def __init__(self) -> None:
        super().__init__()
        self._key = _environ_key()

    def get_response(self, request: HttpRequest) -> HttpResponse:
        jobs = JobsInTransaction(request.META[self._key])
        _attach(request, jobs)
        try:
            return super().get_response(request)
        except BaseException as error:
            # Django makes a response of every Exception. Others, such as JobEnded or a group with it, pass through.
            # Without a response its close() does not send this signal, which closes database connections.
            clear_frames(error)
            signals.request_finished.send(sender=type(self))
            raise
        finally:
            jobs.end_transactions()


class _NoPage(ExceptionReporter):  # type: ignore[misc]
    """Empty text in place of the debug page, which shows the whole request."""

    def get_traceback_html(self) -> str:
        return ""

    get_traceback_text = get_traceback_html


def _attach(request: HttpRequest, jobs: Any) -> None:
    request.backjob = jobs
    request.META[_REQUEST] = weakref.ref(request)


def _note_exception(request: HttpRequest, **_: Any) -> None:
    """Note an exception that becomes a 500, wherever it was raised."""
    error = sys.exc_info()[1]
    if error is not None and hasattr(request, "backjob"):
        request.backjob.note_exception(error)


def _environ_key() -> str:
    key: str = getattr(settings, "BACKJOB", {}).get("ENVIRON_KEY", Config.environ_key)
    return key


def _read_options() -> dict[str, Any]:
    """Return the options in the settings and those that follow from Django's. Raises ImproperlyConfigured."""
    given = getattr(settings, "BACKJOB", {})
    for name in given:
        if name != name.upper():
            raise ImproperlyConfigured(f"settings.BACKJOB: {name!r} must be written {name.upper()!r}")
    options = {"identify": identify, **{name.lower(): value for name, value in given.items()}}
    forwarded = options.get("forward_headers", Config.forward_headers)
    if settings.SECURE_PROXY_SSL_HEADER and isinstance(forwarded, (list, tuple)):  # BackJob refuses other types
        header = settings.SECURE_PROXY_SSL_HEADER[0].removeprefix("HTTP_").replace("_", "-").title()
        options["forward_headers"] = (*forwarded, header)
    return options


def _check_middleware() -> None:
    """Raise ImproperlyConfigured if BackJobMiddleware is missing or comes before middleware that it needs."""
    classes = {name: import_string(name) for name in settings.MIDDLEWARE}
    for name, middleware in reversed(classes.items()):
        bases = {f"{base.__module__}.{base.__qualname__}" for base in getattr(middleware, "__mro__", ())}
        if _MIDDLEWARE in bases:
            return
        if bases & _BEFORE:
            raise ImproperlyConfigured(f"MIDDLEWARE: {_MIDDLEWARE} must be in it, after {name}")
    raise ImproperlyConfigured(f"MIDDLEWARE: {_MIDDLEWARE} must be in it")
