"""Pyramid: ``config.include("backjob.integrations.pyramid")`` wraps the app; its settings have the options.

Owns what a Pyramid app sees of backjob: ``request.backjob``, the view predicate ``backjob_only`` and ``background``;
and what a job needs of Pyramid: who is logged in, a CSRF token, the end of its transaction. Knows Pyramid's public API
and backjob's public names, and of pyramid_tm what it leaves in the request.
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

from .replay import (
    CHANGING_METHODS,
    ORIGIN_KEYS,
    HasFiles,
    add_fields,
    check_background,
    is_form,
    keep_sent,
    make_again,
    put_back,
    start_job,
    take_fields,
)

_AFTER_ALL_OTHERS = 10
"""The order of an action after those of the app, such as one that sets an execution policy."""
_CSRF_HEADER, _CSRF_FIELD = "X-CSRF-Token", "csrf_token"
"""Where a view that calls check_csrf_token() finds a token if it says nothing else, whatever the app's options are."""

View = Callable[[Any, Any], Any]


def includeme(config: Configurator) -> None:
    """Wrap the app that this becomes in BackJob, with the options among its settings whose names begin "backjob.".

    The BackJob itself is ``registry.backjob`` from then on.
    """
    config.add_request_method(_find_jobs, "backjob", reify=True)
    config.add_view_predicate("backjob_only", BackJobOnly)
    # Within the transaction, for whoever looks a user up in the database; around the exception views.
    config.add_tween(f"{__name__}.job_tween_factory", under=("pyramid_tm.tm_tween_factory", INGRESS), over=EXCVIEW)
    config.action("backjob", functools.partial(_wrap, config), order=_AFTER_ALL_OTHERS)


def _wrap(config: Configurator) -> None:
    registry = config.registry
    policy = registry.queryUtility(IExecutionPolicy, default=default_execution_policy)
    wrapped = WrappedPolicy(policy, registry, registry.settings)
    registry.registerUtility(wrapped, IExecutionPolicy)
    registry.backjob = wrapped.application


class WrappedPolicy:
    """An execution policy with BackJob around it: so the router itself stays the WSGI application that is served.

    A request comes by twice: from the server, then it goes to BackJob; and from there with a session in its environ,
    then it goes to the policy that was there before.
    """

    def __init__(self, policy: Callable[[Any, Any], Any], registry: Registry, settings: Mapping[str, Any]) -> None:
        self._policy = policy
        self._registry = registry
        self._router: Any = None
        self.application = BackJob.from_settings(self._ask_router, {"backjob.identify": self._identify, **settings})
        self._key = self.application.config.environ_key

    def __call__(self, environ: dict[str, Any], router: Any) -> Any:
        """What Pyramid's router calls: a WSGI application that answers this request."""
        if isinstance(environ.get(self._key), Jobs):
            return self._policy(environ, router)
        self._router = router
        return self.application

    def _ask_router(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if self._router is None:  # a script runs a job, and no request has come yet
            self._router = Router(self._registry)
        answer: Iterable[bytes] = self._router(environ, start_response)
        return answer

    def _identify(self, environ: Mapping[str, Any]) -> Any:
        """Who is logged in, by the app's security policy."""
        request = get_current_request()
        if request is not None and request.environ.get(self._key) is environ.get(self._key):
            return request.authenticated_userid
        # A response that starts jobs while it is sent: its request is over, and so is its transaction.
        with prepare(Request(environ), self._registry) as prepared:
            late: Request = prepared["request"]
            manager: Any = getattr(late, "tm", None)
            with manager if getattr(manager, "explicit", False) else contextlib.nullcontext():
                return late.authenticated_userid


class TransactionJobs:
    """``request.backjob``: the session in the environ, with a start() that minds the transaction of pyramid_tm."""

    def __init__(self, jobs: Jobs, request: Request) -> None:
        self._jobs = jobs
        self._request = request
        self._uncommitted: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jobs, name)

    def start(self, *args: Any, after_response: bool | None = None, **options: Any) -> int:
        """As :meth:`backjob.Jobs.start`; but ``after_response`` is the default where pyramid_tm runs a transaction.

        The job is then launched when the transaction is committed and the response has ended; it is cancelled when the
        transaction comes to nothing: by an exception, a veto, ``request.tm.doom()``. ``False`` launches it now.
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
        """The transaction is over, and the response is not sent yet."""
        while self._uncommitted:
            self._jobs.cancel_waiting(self._uncommitted.pop())


def _find_jobs(request: Request) -> TransactionJobs:
    application: BackJob = request.registry.backjob
    jobs = request.environ.get(application.config.environ_key)
    return TransactionJobs(jobs if isinstance(jobs, Jobs) else application.jobs_of(request.environ), request)


class BackJobOnly:
    """The view predicate ``backjob_only``: True for a view of jobs, which no browser finds; False for all others."""

    def __init__(self, val: bool, config: Configurator) -> None:
        if not isinstance(val, bool):
            raise ConfigurationError("backjob_only must be True or False")
        self.val = val

    def text(self) -> str:
        """Part of Pyramid's predicate API, for its debugging pages."""
        return f"backjob_only = {self.val}"

    phash = text

    def __call__(self, context: Any, request: Request) -> bool:
        return request.backjob.is_worker is self.val


def job_tween_factory(handler: Callable[[Any], Any], registry: Registry) -> Callable[[Any], Any]:
    """A tween that gives a job what a browser would have, and takes care that nothing of it stays open."""
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
            # pyramid_tm ends its transaction for ordinary exceptions alone, and JobEnded is none.
            if not isinstance(error, Exception) and request.environ.get("tm.active"):
                request.tm.abort()
            raise

    return job_tween


def _note_exception(jobs: Jobs, request: Request) -> None:
    """An exception view has answered; a response callback sees it also for what went wrong in the commit."""
    if request.exception is not None:
        jobs.note_exception(request.exception)


def _supply_csrf_token(request: Request) -> None:
    """The token of the session as it is now: that of the form that started the job may be an old one."""
    options = request.registry.queryUtility(IDefaultCSRFOptions)
    if request.method in (options.safe_methods if options else SAFE_METHODS):
        return
    header, field = (options.header, options.token) if options else (_CSRF_HEADER, _CSRF_FIELD)
    try:
        token = get_csrf_token(request)
    except AttributeError:
        if request.registry.queryUtility(ISessionFactory) is not None:
            raise
        return  # there are no sessions, and so no tokens to check
    if header:
        request.headers[header] = token
    elif field:
        with contextlib.suppress(KeyError):  # no form: there is no place for it
            request.POST[field] = token


def _find_csrf_names(registry: Registry) -> tuple[set[str], set[str]]:
    """The environ keys and the form's fields by which a request shows that it is not forged."""
    options = registry.queryUtility(IDefaultCSRFOptions)
    headers = {_CSRF_HEADER, options and options.header} - {None, ""}
    fields = {_CSRF_FIELD, options and options.token} - {None, ""}
    return {header_key(name) for name in headers} | set(ORIGIN_KEYS), fields


def _ask_again(request: Request) -> Any:
    """This request for a job, its form without the token, which differs from page to page."""
    body, content_type = request.body, request.environ.get("CONTENT_TYPE", "")
    if request.content_type.startswith("multipart/"):
        try:
            form = list(request.POST.items())
        except ValueError as error:
            raise RequestError(f"the multipart form can't be read: {error}") from None
        if not form or any(hasattr(value, "file") for _, value in form):  # none: WebOb does not read it
            raise HasFiles
        body, content_type = urlencode(form).encode(), FORM
    names, fields = _find_csrf_names(request.registry)
    body, taken = take_fields(body, fields) if is_form(content_type) else (body, [])
    return make_again(request.environ, body, content_type, keep_sent(request.environ, names, taken))


def _put_back_sent(request: Request) -> None:
    """For the view's own checks: what the browser sent, and nothing of what let the job pass those around the view."""
    names, fields = _find_csrf_names(request.registry)
    taken = put_back(request.environ, names)
    if is_form(request.environ.get("CONTENT_TYPE", "")):
        # A new body is read anew: what was written into request.POST is gone.
        request.body = add_fields(take_fields(request.body, fields)[0], taken)


def background(
    view: View | None = None,
    *,
    scope: str | Callable[[Any], str] = "",
    methods: Iterable[str] = CHANGING_METHODS,
    **options: Any,
) -> Any:
    """A view's decorator: who asks gets 202 and a job's number, ``{"id": 7}``, and the view runs in that job.

    ``@view_config(…, decorator=background)``, or ``decorator=background(retries=2, unique=True)`` with options of
    :meth:`backjob.Jobs.start`. The job is the same request once more: method, path, query and body. A ``scope`` may be
    be a function of the request. One with uploaded files is refused with 415, one larger than ``max_request`` with 413,
    and one with another method than ``methods`` with 405. Raises TypeError or ValueError for a wrong option.
    """
    methods = check_background(view, methods, scope, options)
    if view is None:
        return functools.partial(background, scope=scope, methods=methods, **options)

    def start_or_run(context: Any, request: Request) -> Any:
        if not hasattr(request.registry, "backjob"):
            raise RuntimeError('background needs config.include("backjob.integrations.pyramid") in this app')
        if request.backjob.is_worker:
            if SENT in request.environ:
                _put_back_sent(request)
            return view(context, request)
        status, body, headers = start_job(request, request.backjob, _ask_again, scope, methods, options)
        response = Response(status=status, json_body=body)
        response.headers.update(headers)
        return response

    return start_or_run
