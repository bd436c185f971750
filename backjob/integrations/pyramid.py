"""Pyramid: ``config.include("backjob.integrations.pyramid")`` wraps the app. The options are settings of the app.

Owns ``request.backjob``, the view predicate ``backjob_only`` and ``background``, and what a job needs from Pyramid: its
user, a CSRF token, the end of its transaction. Knows Pyramid's public API and backjob's public names, and what
pyramid_tm adds to a request.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import IDefaultCSRFOptions, IExecutionPolicy, ISessionFactory
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.router import Router, default_execution_policy
from pyramid.scripting import prepare
from pyramid.threadlocal import get_current_request
from pyramid.tweens import EXCVIEW, INGRESS

from backjob import BackJob, Jobs, RequestError
from backjob.wsgi.names import FORM, SAFE_METHODS, SENT, header_key

from . import replay

_AFTER_ALL_OTHERS = 10
"""Order of an action after those of the app, such as one that sets an execution policy."""
_CSRF_HEADER, _CSRF_FIELD = "X-CSRF-Token", "csrf_token"
"""Header and form field in which check_csrf_token(), called by a view, looks by default, whatever the app's options."""

View = Callable[[Any, Any], Any]


def includeme(config: Configurator) -> None:
    """Wrap the configured app in BackJob. The options are the settings whose names begin with "backjob.".

    ``registry.backjob`` is the BackJob.
    """
    config.add_request_method(_find_jobs, "backjob", reify=True)
    config.add_view_predicate("backjob_only", BackJobOnly)
    # Inside the transaction, because the user may be read from the database, and around the exception views.
    config.add_tween(f"{__name__}.job_tween_factory", under=("pyramid_tm.tm_tween_factory", INGRESS), over=EXCVIEW)
    config.action("backjob", functools.partial(_wrap, config), order=_AFTER_ALL_OTHERS)


def _wrap(config: Configurator) -> None:
    registry = config.registry
    policy = registry.queryUtility(IExecutionPolicy, default=default_execution_policy)
    wrapped = WrappedPolicy(policy, registry, registry.settings)
    registry.registerUtility(wrapped, IExecutionPolicy)
    registry.backjob = wrapped.application


class WrappedPolicy:
    """Execution policy with BackJob around another one. The router stays the WSGI application that is served.

    A request passes it twice. From the server it goes to BackJob. From there it comes back with a client in its
    environ, and goes to the other policy.
    """

    def __init__(self, policy: Callable[[Any, Any], Any], registry: Registry, settings: Mapping[str, Any]) -> None:
        self._policy = policy
        self._registry = registry
        self._router: Any = None
        self.application = BackJob.from_settings(self._ask_router, {"backjob.identify": self._identify, **settings})
        self._key = self.application.config.environ_key

    def __call__(self, environ: dict[str, Any], router: Any) -> Any:
        """Return a WSGI application that answers this request, for Pyramid's router."""
        if isinstance(environ.get(self._key), Jobs):
            return self._policy(environ, router)
        self._router = router
        return self.application

    def _ask_router(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if self._router is None:  # a script runs a job before the first request
            self._router = Router(self._registry)
        answer: Iterable[bytes] = self._router(environ, start_response)
        return answer

    def _identify(self, environ: Mapping[str, Any]) -> Any:
        """Return who is logged in, by the app's security policy."""
        request = get_current_request()
        if request is not None and request.environ.get(self._key) is environ.get(self._key):
            return request.authenticated_userid
        # A response starts jobs while it is sent: the request and its transaction have ended.
        with prepare(Request(environ), self._registry) as prepared:
            late: Request = prepared["request"]
            manager: Any = getattr(late, "tm", None)
            with manager if getattr(manager, "explicit", False) else contextlib.nullcontext():
                return late.authenticated_userid


class TransactionJobs:
    """``request.backjob``: the client in the environ, with a start() that follows the transaction of pyramid_tm."""

    def __init__(self, jobs: Jobs, request: Request) -> None:
        self._jobs = jobs
        self._request = request
        self._uncommitted: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)

    def start(self, *args: Any, after_response: bool | None = None, **options: Any) -> int:
        """Start a job as :meth:`backjob.Jobs.start` does, within a transaction of pyramid_tm with ``after_response``.

        Such a job is launched when the transaction is committed and the response has ended. It is cancelled when the
        transaction is not committed: after an exception, a veto or ``request.tm.doom()``. ``after_response=False``
        launches it at once.
        """
        has_transaction = bool(self._request.environ.get("tm.active"))
        if after_response is None:
            after_response = has_transaction
        job_id = self._jobs.start(*args, after_response=after_response, **options)
        if after_response and has_transaction:
            if not self._uncommitted:
                self._request.add_finished_callback(self._cancel_uncommitted)
            self._uncommitted.add(job_id)
            self._request.tm.get().addAfterCommitHook(self._note_commit, (job_id,))
        return job_id

    def _note_commit(self, is_committed: bool, job_id: int) -> None:
        if is_committed:
            self._uncommitted.discard(job_id)

    def _cancel_uncommitted(self, request: Request) -> None:
        """Cancel the jobs of a transaction that was not committed, before the response is sent."""
        while self._uncommitted:
            self._jobs.cancel_waiting(self._uncommitted.pop())


def _find_jobs(request: Request) -> TransactionJobs:
    application: BackJob = request.registry.backjob
    jobs = request.environ.get(application.config.environ_key)
    return TransactionJobs(jobs if isinstance(jobs, Jobs) else application.jobs_of(request.environ), request)


class BackJobOnly:
    """View predicate ``backjob_only``. True: the view is found by jobs only. False: by all other requests only."""

    def __init__(self, val: bool, config: Configurator) -> None:
        if not isinstance(val, bool):
            raise ConfigurationError("backjob_only must be True or False")
        self.val = val

    def text(self) -> str:
        """Return a description for Pyramid's debugging pages (predicate API)."""
        return f"backjob_only = {self.val}"

    phash = text

    def __call__(self, context: Any, request: Request) -> bool:
        return request.backjob.is_worker is self.val


def job_tween_factory(handler: Callable[[Any], Any], registry: Registry) -> Callable[[Any], Any]:
    """Make a tween that supplies a job's CSRF token, checks its user, and leaves no transaction open."""
    key = registry.backjob.config.environ_key

    def job_tween(request: Request) -> Any:
        jobs = request.environ.get(key)
        if jobs is None or not jobs.is_worker:
            return handler(request)
        request.add_response_callback(lambda request, response: _note_exception(jobs, request))
        try:
            jobs.check_user()
            _supply_csrf_token(request)
            return handler(request)
        except BaseException as error:
            # pyramid_tm aborts its transaction only for subclasses of Exception. JobEnded is a BaseException.
            if not isinstance(error, Exception) and request.environ.get("tm.active"):
                request.tm.abort()
            raise

    return job_tween


def _note_exception(jobs: Jobs, request: Request) -> None:
    """Note the exception of a response by an exception view, also one that the commit has raised."""
    if request.exception is not None:
        jobs.note_exception(request.exception)


def _supply_csrf_token(request: Request) -> None:
    """Supply the current CSRF token of the session. The one in the submitted form may have expired."""
    options = request.registry.queryUtility(IDefaultCSRFOptions)
    if request.method in (options.safe_methods if options else SAFE_METHODS):
        return
    header, field = (options.header, options.token) if options else (_CSRF_HEADER, _CSRF_FIELD)
    try:
        token = get_csrf_token(request)
    except AttributeError:
        if request.registry.queryUtility(ISessionFactory) is not None:
            raise
        return  # without sessions there are no tokens to check
    if header:
        request.headers[header] = token
    elif field:
        with contextlib.suppress(KeyError):  # the request has no form
            request.POST[field] = token


def _find_csrf_names(registry: Registry) -> tuple[set[str], set[str]]:
    """Return the environ keys and the form fields that CSRF checks read."""
    options = registry.queryUtility(IDefaultCSRFOptions)
    headers = {_CSRF_HEADER, options and options.header} - {None, ""}
    fields = {_CSRF_FIELD, options and options.token} - {None, ""}
    return {header_key(name) for name in headers} | set(replay.ORIGIN_KEYS), fields


def _ask_again(request: Request) -> Any:
    """Return this request for a job, its form without the token. Raises replay.HasFiles or RequestError."""
    body, content_type = request.body, request.environ.get("CONTENT_TYPE", "")
    if request.content_type.startswith("multipart/"):
        try:
            form = list(request.POST.items())
        except ValueError as error:
            raise RequestError(f"the multipart form can't be read: {error}") from None
        if not form or any(hasattr(value, "file") for _, value in form):  # WebOb does not read other multipart types
            raise replay.HasFiles
        body, content_type = urlencode(form).encode(), FORM
    names, fields = _find_csrf_names(request.registry)
    body, taken = replay.take_fields(body, fields) if replay.is_form(content_type) else (body, [])
    return replay.make_again(request.environ, body, content_type, replay.keep_sent(request.environ, names, taken))


def _put_back_sent(request: Request) -> None:
    """Restore the tokens that the browser sent, for checks in the view. Remove the supplied ones."""
    names, fields = _find_csrf_names(request.registry)
    taken = replay.put_back(request.environ, names)
    if replay.is_form(request.environ.get("CONTENT_TYPE", "")):
        # Setting the body discards request.POST, with the token that was written into it.
        request.body = replay.add_fields(replay.take_fields(request.body, fields)[0], taken)


def background(
    view: View | None = None,
    *,
    scope: str | Callable[[Any], str] = "",
    methods: Iterable[str] = replay.CHANGING_METHODS,
    **options: Any,
) -> Any:
    """Decorate a view to run it as a job: requests get 202 with the job's id, ``{"id": 7}``.

    Use it as ``@view_config(…, decorator=background)``, or as ``decorator=background(retries=2, unique=True)`` with
    options of :meth:`backjob.Jobs.start`. The job is the same request again: method, path, query and body. A ``scope``
    may be a function of the request. A request with uploaded files is refused with 415, one larger than ``max_request``
    with 413, and one with another method than ``methods`` with 405. Raises TypeError or ValueError for a wrong option.
    """
    methods = replay.check_background(view, methods, scope, options)
    if view is None:
        return functools.partial(background, scope=scope, methods=methods, **options)

    def start_or_run(context: Any, request: Request) -> Any:
        if not hasattr(request.registry, "backjob"):
            raise RuntimeError('background needs config.include("backjob.integrations.pyramid") in this app')
        if request.backjob.is_worker:
            if SENT in request.environ:
                _put_back_sent(request)
            return view(context, request)
        status, body, headers = replay.start_job(request, request.backjob, _ask_again, scope, methods, options)
        response = Response(status=status, json_body=body)
        response.headers.update(headers)
        return response

    return start_or_run
