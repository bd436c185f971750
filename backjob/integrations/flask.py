"""Flask: the extension ``FlaskBackJob``, the proxy ``current_jobs``, and the ``background`` decorator for views.

Reads the options from ``app.config``, as ``BACKJOB_…``. Knows Flask's requests and signals, the login of Flask-Login
and the CSRF tokens of Flask-WTF. Uses only the public interface of jobs.
"""

from __future__ import annotations

import functools
import inspect
import io
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from flask import Flask, current_app, g, got_request_exception, has_request_context, request, request_started, session
from werkzeug.datastructures import ImmutableMultiDict, MultiDict
from werkzeug.exceptions import Unauthorized
from werkzeug.local import LocalProxy

from backjob import BackJob, Config, ConfigError, IdentityUnknown, Jobs
from backjob.wsgi.names import FORM, SENT, header_key

from . import replay

_NAME = "backjob"
_PASSED = "csrf_valid"
"""Name in ``g`` with which Flask-WTF notes that CSRFProtect has checked this request. Forms don't check it again."""


class FlaskBackJob:
    """Flask extension: ``FlaskBackJob(app)``, or ``init_app()`` in an application factory.

    The options are those of :class:`backjob.BackJob`: keyword arguments here or of init_app(), or in ``app.config`` in
    upper case, as ``BACKJOB_DATABASE``. ``app.extensions["backjob"]`` is the BackJob of an app. Raises ConfigError for
    a wrong option.
    """

    def __init__(self, app: Flask | None = None, **options: Any) -> None:
        self._options = options
        self.application: BackJob | None = None
        """BackJob of the app that was initialized last, for the command."""
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, **options: Any) -> None:
        """Wrap ``app.wsgi_app``. The app object stays the same. Raises ConfigError also if the app has a BackJob."""
        if _NAME in app.extensions:
            raise ConfigError(f"the Flask app {app.name!r} has a BackJob already: call init_app() once for each app")
        options = {**app.config.get_namespace("BACKJOB_"), **self._options, **options}
        forwarded = options.pop("forward_headers", Config.forward_headers)
        if isinstance(forwarded, (list, tuple)):  # BackJob refuses other types
            # Flask-Login binds a session to the browser, which it recognizes by this header.
            forwarded = (*forwarded, "User-Agent")
        options = {"identify": identify, **options, "forward_headers": forwarded}
        app.extensions[_NAME] = self.application = application = BackJob(app.wsgi_app, **options)
        app.wsgi_app = application  # type: ignore[method-assign]
        app.handle_user_exception = _noting(app.handle_user_exception)  # type: ignore[assignment, method-assign]
        app.context_processor(lambda: {"current_jobs": current_jobs})
        # This signal is sent before all functions of before_request run, in any order of initialization.
        request_started.connect(_prepare_job, app)
        got_request_exception.connect(_note_exception, app)


def _find_jobs() -> Jobs:
    application: BackJob | None = current_app.extensions.get(_NAME)
    if application is None:
        raise RuntimeError(f"The Flask app {current_app.name!r} has no BackJob: FlaskBackJob(app) is missing")
    if not has_request_context():
        return application.jobs
    key = application.config.environ_key
    if key not in request.environ:  # app.test_request_context() does not call wsgi_app
        request.environ[key] = application.jobs_of(request.environ)
    jobs: Jobs = request.environ[key]
    return jobs


current_jobs: Any = LocalProxy(_find_jobs)
"""Proxy of ``environ["backjob"]`` of the current request, or of ``BackJob.jobs`` in an app context without one."""


def background(
    view: Callable[..., Any] | None = None,
    *,
    scope: str | Callable[[], str] = "",
    methods: Iterable[str] = replay.CHANGING_METHODS,
    **options: Any,
) -> Any:
    """Decorate a view, below ``@app.route``, to run it as a job: requests get 202 with the job's id, ``{"id": 7}``.

    Use it bare or with options of start(): ``@background(retries=2, unique=True)``. A ``scope`` may be a function,
    which is called in the request. The job is the same request again. A request with uploaded files is refused with
    415, one larger than ``max_request`` with 413, and one with another method than ``methods`` with 405. Raises
    TypeError or ValueError for a wrong option.
    """
    methods = replay.check_background(view, methods, scope, options)
    if view is None:
        return functools.partial(background, scope=scope, methods=methods, **options)

    @functools.wraps(view)
    def start_or_run(*args: Any, **kwargs: Any) -> Any:
        if current_jobs.is_worker:
            _put_back()
            return current_app.ensure_sync(view)(*args, **kwargs)
        find_scope = (lambda _: scope()) if callable(scope) else scope
        status, body, headers = replay.start_job(request, current_jobs, _ask_again, find_scope, methods, options)
        return body, status, headers

    return start_or_run


def _ask_again(request: Any) -> Any:
    """Return this request for a job. Raises replay.HasFiles."""
    is_form = request.mimetype in (FORM, "multipart/form-data")
    raw = request.get_data() if request.mimetype == FORM else b""  # before the form is parsed, which drops it
    has_files = any(file.filename for _, file in request.files.items(multi=True))  # an empty input has no name
    if has_files or (request.mimetype.startswith("multipart/") and not is_form):
        raise replay.HasFiles
    fields, tokens = _split_form()
    if raw:
        body, _ = replay.take_fields(raw, {name for name, _ in tokens})
    else:  # a form that was parsed already leaves no body
        body = urlencode(fields).encode() if is_form else request.get_data()
    sent = replay.keep_sent(request.environ, _sent_keys(), tokens) | {"passed": g.get(_PASSED, False)}
    return replay.make_again(request.environ, body, FORM if is_form else request.content_type or "", sent)


def identify(environ: Mapping[str, Any]) -> str | None:
    """Return who is logged in: by Flask-Login, or else by the session's ``user_id``. None if no user is.

    Raises IdentityUnknown outside of a request context, as in a WSGI middleware around the app.
    """
    if not has_request_context():
        raise IdentityUnknown
    if hasattr(current_app, "login_manager"):
        user = sys.modules["flask_login"].current_user
        return user.get_id() if user.is_authenticated else None
    user_id = session.get("_user_id", session.get("user_id"))
    return None if user_id is None else str(user_id)


def _prepare_job(app: Flask, **_: Any) -> None:
    """Check the user of a job, and supply its CSRF token, before any code of the app runs."""
    if current_jobs.is_worker:
        _bypass_page_cache()
        current_jobs.check_user()
        _note_login_url(app)
        login = sys.modules.get("flask_login")
        if login is not None:  # connecting a receiver again has no effect
            login.user_unauthorized.connect(_note_denial, app)
            login.user_needs_refresh.connect(_note_denial, app)
        csrf = sys.modules.get("flask_wtf.csrf")
        if csrf is not None and app.config.get("WTF_CSRF_SECRET_KEY", app.secret_key):
            _supply_csrf_token(app, csrf)


def _bypass_page_cache() -> None:
    """Let jobs bypass Flask-Caching's ``cached()``: the view of a job always runs, and its response is not stored.

    Other cached functions keep their cache. Flask-Caching has no setting for it: ``unless`` is an argument of each use.
    """
    cache_class: Any = getattr(sys.modules.get("flask_caching"), "Cache", None)
    asks_unless = getattr(cache_class, "_bypass_cache", None)
    if asks_unless is None or hasattr(asks_unless, "__wrapped__"):
        return

    @functools.wraps(asks_unless)
    def bypass_cache(cache: Any, unless: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
        is_job = _NAME in current_app.extensions and has_request_context() and current_jobs.is_worker
        return (is_job and _is_view(function)) or asks_unless(cache, unless, function, *args, **kwargs)

    cache_class._bypass_cache = bypass_cache  # noqa: SLF001 - all of its decorators call it


def _is_view(function: Callable[..., Any]) -> bool:
    """Is this the view of the current request, or the method of a class-based view that answers it?"""
    view = current_app.view_functions.get(request.endpoint or "")
    view_class = getattr(view, "view_class", None)
    methods = (getattr(view_class, name, None) for name in (request.method.lower(), "get", "dispatch_request"))
    return inspect.unwrap(function) in [inspect.unwrap(each) for each in (view, *methods) if each is not None]


def _note_login_url(app: Flask) -> None:
    """Note the URL to which Flask-Login redirects anonymous users."""
    manager: Any = getattr(app, "login_manager", None)
    view = manager and manager.blueprint_login_views.get(request.blueprint, manager.login_view)
    if view:
        current_jobs.note_login_url(sys.modules["flask_login"].login_url(view))


def _note_denial(app: Flask, **_: Any) -> None:
    """Note that Flask-Login denies access, with a redirect or a page of the app's own handler."""
    if current_jobs.is_worker:
        current_jobs.note_exception(Unauthorized())


def _supply_csrf_token(app: Flask, csrf: Any) -> None:
    """Supply the current CSRF token of the job's session, for CSRFProtect and for a FlaskForm without it."""
    if request.method not in app.config.get("WTF_CSRF_METHODS", {"POST", "PUT", "PATCH", "DELETE"}):
        return
    token = csrf.generate_csrf()
    for key in _token_keys():
        request.environ[key] = token
    if request.mimetype == FORM:
        # The token in the submitted form may have expired.
        request.get_data()  # keeps the body, which parsing would drop
        form = MultiDict(request.form)
        for name in {_token_field(), *(name for name, _ in _split_form()[1])}:
            form[name] = token
        request.form = ImmutableMultiDict(form)
    request.environ["HTTP_ORIGIN"] = f"{request.scheme}://{request.host}"
    request.environ["HTTP_REFERER"] = request.environ["HTTP_ORIGIN"] + "/"


def _put_back() -> None:
    """Restore the tokens that the browser sent, for forms that check them in the view.

    A job that the app's own code has started by start() keeps the supplied token, because no browser has sent it.
    """
    has_sent = SENT in request.environ
    tokens = replay.put_back(request.environ, _sent_keys()) if has_sent else []
    if request.mimetype == FORM:
        _rewind(replay.add_fields(request.get_data(), tokens))
    if not has_sent:
        return
    request.form = ImmutableMultiDict([*_split_form()[0], *tokens])
    request.__dict__.pop("values", None)  # cached, and made from the form
    setattr(g, _PASSED, request.environ[SENT].get("passed", False))


def _rewind(body: bytes) -> None:
    """Let ``get_data()`` and ``stream`` read this body from its beginning. Keep a form that was parsed."""
    for name in ("_cached_data", "stream", "content_length"):
        request.__dict__.pop(name, None)
    request.environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}


def _split_form() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the fields of the form, and its tokens. A form's prefix comes before the token's name."""
    fields: list[tuple[str, str]] = []
    tokens: list[tuple[str, str]] = []
    for name, value in request.form.items(multi=True):
        (tokens if name.endswith(_token_field()) else fields).append((name, value))
    return fields, tokens


def _token_field() -> str:
    name: str = current_app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token")
    return name


def _token_keys() -> list[str]:
    """Return the environ keys of the headers in which a request without a form has its token."""
    names = current_app.config.get("WTF_CSRF_HEADERS", ["X-CSRFToken"])
    return [header_key(name) for name in names]


def _sent_keys() -> list[str]:
    return [*_token_keys(), *replay.ORIGIN_KEYS]


def _noting(handle: Callable[[Exception], Any]) -> Callable[[Exception], Any]:
    """Return Flask's handler of exceptions with a step before it that notes the exception for the job."""

    def handle_user_exception(error: Exception) -> Any:
        current_jobs.note_exception(error)
        return handle(error)

    return handle_user_exception


def _note_exception(app: Flask, exception: BaseException, **_: Any) -> None:
    """Note an exception that becomes a 500, wherever it was raised."""
    current_jobs.note_exception(exception)
