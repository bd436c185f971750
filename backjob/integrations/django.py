"""Django: ``get_wsgi_application()`` for wsgi.py, a middleware, and the ``background`` decorator for views.

Has the options from ``settings.BACKJOB``. Knows Django's requests, its users and its transactions; of the jobs no more
than everybody's code does. What a job needs for CSRF protection stands in django_csrf.py.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import django
from django.conf import settings
from django.core import signals
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.wsgi import WSGIHandler
from django.db import close_old_connections, connections, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch
from django.utils.module_loading import import_string
from django.views.debug import ExceptionReporter

from backjob import BackJob, BackJobError, Config, ConfigError, IdentityUnknown, RequestTooLarge

from .again import CHANGING_METHODS, NO_FILES, check_background, explain_method
from .django_cache import bypass_page_cache
from .django_csrf import ask_again, put_back_sent, supply_token
from .django_session import watch_session

_MIDDLEWARE = f"{__name__}.BackJobMiddleware"
_BEFORE = {
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
}
"""What must have seen a request before BackJobMiddleware does: it asks for the user and for the CSRF secret."""
_REQUEST = "backjob.django_request"
"""Where an environ has a weak reference to its request: identify() is asked by environ."""

View = Callable[..., HttpResponse]


@functools.cache
def get_wsgi_application() -> BackJob:
    """Django's application in BackJob, for wsgi.py; one for the process, for the settings are one.

    Its options are ``settings.BACKJOB``, their names in upper case. Raises ImproperlyConfigured for a wrong one, and
    where BackJobMiddleware is not in its place in MIDDLEWARE.
    """
    django.setup(set_prefix=False)
    _check_middleware()
    bypass_page_cache()
    options, handler = _read_options(), _Handler()
    is_inline = getattr(options.get("launcher"), "is_inline", False)
    try:
        return BackJob(_keep_connections(handler) if is_inline else handler, **options)
    except ConfigError as error:
        raise ImproperlyConfigured(f"settings.BACKJOB: {error}") from error


def _forget_application(setting: str, **_: Any) -> None:
    """A test has changed the setting: the next request finds an application with the new options."""
    if setting == "BACKJOB":
        get_wsgi_application.cache_clear()


signals.setting_changed.connect(_forget_application)


class BackJobMiddleware:
    """Gives views ``request.backjob``, and jobs what Django wants of a request: its user, and its CSRF token.

    Stands in MIDDLEWARE after the session's, CSRF's and the user's. Nothing that it does for a job is done for what a
    browser sends: it asks ``is_worker``, which no client can forge.
    """

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: View) -> None:
        self._get_response = get_response
        signals.got_request_exception.connect(_note_exception)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        with contextlib.ExitStack() as around:
            if not hasattr(request, "backjob"):  # Django's test client asks its handler and not ours
                application = get_wsgi_application()
                _attach(request, request.META.get(_environ_key()) or application.jobs_of(request.META))
                around.enter_context(getattr(application.config.launcher, "answering", contextlib.nullcontext)())
            # A view may set request.user by a credential. This one is the session's; it is lazy, and not asked for yet.
            request.backjob_user = getattr(request, "user", None)
            if request.backjob.is_worker:
                request.backjob.check_user()
                with contextlib.suppress(NoReverseMatch):  # an app without a login page need not set LOGIN_URL
                    request.backjob.note_login_url(resolve_url(settings.LOGIN_URL))
                # The page with everything in it is for a browser: a job's text is the exception's type and message.
                request.exception_reporter_class = _NoPage
                around.enter_context(supply_token(request))
            response = self._get_response(request)
            if request.backjob.is_worker:
                watch_session(request, response.status_code)
            return response

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        """What a view has raised, also where another middleware makes a page of it."""
        request.backjob.note_exception(exception)


def background(
    view: View | None = None,
    *,
    scope: str | Callable[[HttpRequest], str] = "",
    methods: Iterable[str] = CHANGING_METHODS,
    **options: Any,
) -> Any:
    """Decorate a view, to run it as a job: it answers 202 with the job's id, and its body runs in the background.

    Bare, or with what start() takes: ``@background(retries=2, unique=True)``. A ``scope`` may be a function of the
    request. A class has it by method_decorator on ``dispatch``. The job is the very same request. One with uploaded
    files is refused with 415, one larger than ``max_request`` with 413, and one with another method than ``methods``
    with 405. Raises TypeError or ValueError for a wrong option.
    """
    methods = check_background(methods, scope, options)
    if view is None:
        return functools.partial(background, scope=scope, methods=methods, **options)

    @functools.wraps(view)
    def start_or_run(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.backjob.is_worker:
            put_back_sent(request)
            return view(request, *args, **kwargs)
        if refusal := explain_method(request.method, methods):
            return JsonResponse({"error": refusal}, status=405, headers={"Allow": ", ".join(methods)})
        try:
            request.backjob.limit_body(request.META)
            again = ask_again(request)
            if again is None:
                return JsonResponse({"error": NO_FILES}, status=415)
            name = scope(request) if callable(scope) else scope
            return JsonResponse({"id": request.backjob.start(again, scope=name, **options)}, status=202)
        except RequestTooLarge as error:
            return JsonResponse({"error": str(error)}, status=413)

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
    """Django's handler, with what must be done when all middleware is through with a request."""

    def __init__(self) -> None:
        super().__init__()
        self._key = _environ_key()

    def get_response(self, request: HttpRequest) -> HttpResponse:
        jobs = _JobsInTransaction(request.META[self._key])
        _attach(request, jobs)
        try:
            return super().get_response(request)
        except BaseException:
            # Django answers for every Exception; the others, such as JobEnded or a group that has it, leave it here.
            # There is no response, whose close() would tell those who wait for it, such as the connections.
            signals.request_finished.send(sender=type(self))
            raise
        finally:
            jobs.end_transactions()


@contextlib.contextmanager
def _connections_kept() -> Iterator[None]:
    """In it no signal of a request closes the connections: as in Django's test client, they are those of a test."""
    of_requests = (signals.request_started, signals.request_finished)
    for signal in of_requests:
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        for signal in of_requests:
            signal.connect(close_old_connections)


def _keep_connections(handler: Callable[..., Any]) -> Callable[..., Any]:
    """For jobs that run inline, in a test: the handler in _connections_kept(), with the response's close()."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        with _connections_kept():
            response = handler(environ, start_response)
        response.close = _connections_kept()(response.close)
        return response

    return answer


class _JobsInTransaction:
    """``environ["backjob"]``, but that a job which is started in a transaction waits until that was committed."""

    def __init__(self, jobs: Any) -> None:
        self._jobs = jobs
        self._is_answered = False
        self._uncommitted: dict[tuple[int, str], Callable[[], Any]] = {}
        """The jobs and the databases whose commit they wait for, and what that calls."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)

    def start(self, target: Any, params: Any = None, *, after_response: bool | None = None, **options: Any) -> int:
        """start(). Within atomic() the job is launched when the response has ended, or cancelled after a rollback.

        With ``after_response=False`` it is launched at once there too. Raises BackJobError within atomic() while a
        StreamingHttpResponse is sent, for nobody waits for the commit any more.
        """
        aliases = [each.alias for each in connections.all(initialized_only=True) if each.in_atomic_block]
        if after_response is None and aliases and self._is_answered:
            raise BackJobError(
                "start() within atomic() comes too late to wait for the commit: the response is being sent. Call "
                "transaction.on_commit(lambda: request.backjob.start(…)), or start() behind the atomic() block"
            )
        waits = bool(aliases) if after_response is None else after_response
        job_id: int = self._jobs.start(target, params, after_response=waits, **options)
        for alias in aliases if waits else []:
            key = (job_id, alias)
            self._uncommitted[key] = on_commit = functools.partial(self._uncommitted.pop, key, None)
            transaction.on_commit(on_commit, using=alias)
        return job_id

    def end_transactions(self) -> None:
        """Those of the request are over: what neither was committed nor will be is gone."""
        self._is_answered = True
        # A transaction around the request, such as a TestCase's, keeps what is still to be called.
        kept = [call for each in connections.all(initialized_only=True) for _, call, *_ in each.run_on_commit]
        for job_id in sorted({job_id for (job_id, _), call in self._uncommitted.items() if call not in kept}):
            self._jobs.cancel_waiting(job_id)

    def __repr__(self) -> str:
        return repr(self._jobs)


class _NoPage(ExceptionReporter):  # type: ignore[misc]
    """Nothing instead of the page that DEBUG shows, with all that the request has in it."""

    def get_traceback_html(self) -> str:
        return ""

    get_traceback_text = get_traceback_html


def _attach(request: HttpRequest, jobs: Any) -> None:
    request.backjob = jobs
    request.META[_REQUEST] = weakref.ref(request)


def _note_exception(request: HttpRequest, **_: Any) -> None:
    """What becomes a 500, wherever it was raised."""
    error = sys.exc_info()[1]
    if error is not None and hasattr(request, "backjob"):
        request.backjob.note_exception(error)


def _environ_key() -> str:
    key: str = getattr(settings, "BACKJOB", {}).get("ENVIRON_KEY", Config.environ_key)
    return key


def _read_options() -> dict[str, Any]:
    """The options among the settings, and what is Django's own. Raises ImproperlyConfigured."""
    given = getattr(settings, "BACKJOB", {})
    for name in given:
        if name != name.upper():
            raise ImproperlyConfigured(f"settings.BACKJOB: {name!r} must be written {name.upper()!r}")
    options = {"identify": identify, **{name.lower(): value for name, value in given.items()}}
    forwarded = options.get("forward_headers", Config.forward_headers)
    if settings.SECURE_PROXY_SSL_HEADER and isinstance(forwarded, (list, tuple)):  # anything else BackJob refuses
        header = settings.SECURE_PROXY_SSL_HEADER[0].removeprefix("HTTP_").replace("_", "-").title()
        options["forward_headers"] = (*forwarded, header)
    return options


def _check_middleware() -> None:
    """Raise ImproperlyConfigured where BackJobMiddleware is missing, or stands before what it needs."""
    classes = {name: import_string(name) for name in settings.MIDDLEWARE}
    for name, middleware in reversed(classes.items()):
        bases = {f"{base.__module__}.{base.__qualname__}" for base in getattr(middleware, "__mro__", ())}
        if _MIDDLEWARE in bases:
            return
        if bases & _BEFORE:
            raise ImproperlyConfigured(f"MIDDLEWARE: {_MIDDLEWARE} must be in it, after {name}")
    raise ImproperlyConfigured(f"MIDDLEWARE: {_MIDDLEWARE} must be in it")
