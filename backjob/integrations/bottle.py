"""Bottle: ``app.install(BackJobPlugin())`` wraps the app, and the ``background`` decorator for its callbacks.

Owns what a Bottle app sees of backjob, which is ``request.backjob``, and what a job needs of Bottle: who its user is,
and what went wrong. Knows Bottle's plugin API and backjob's public names.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import bottle

from backjob import BackJob, Jobs
from backjob.wsgi.names import FORM, SENT

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

_PLUGIN = "backjob.bottle"
"""The plugin, in the environ of a request."""
_GUARDS = (*ORIGIN_KEYS, "HTTP_X_CSRF_TOKEN", "HTTP_X_CSRFTOKEN", "HTTP_X_XSRF_TOKEN")
"""The headers by which a request shows that it is not forged. Bottle has none of its own: those that are usual."""

Callback = Callable[..., Any]


class BackJobPlugin:
    """A plugin of Bottle's API 2: ``app.install(BackJobPlugin(…))``, before the app is served.

    The options are those of :class:`backjob.BackJob`, but for ``identify``: here it is a function of Bottle's request
    that names its user. By default that is who ``request.auth`` tells. Install it after plugins that open a session,
    and before hooks that use ``request.backjob``. ``csrf_field`` is the form's field with the token of the app's own
    CSRF check, if it has one: two forms that differ in it alone are the same job to ``background(unique=True)``.

    The plugin wraps what Bottle calls for each request of a server, ``app.wsgi``; so the app itself stays what a server
    is given. Where apps are mounted or merged into others, install it in the outermost. To their routes Bottle applies
    no plugin of the outer app: a job's user is checked in a hook then, and with ``apply=[plugin]`` within their own.
    """

    name = "backjob"
    api = 2

    def __init__(
        self, identify: Callable[[Any], Any] | None = None, *, csrf_field: str = "csrf_token", **options: Any
    ) -> None:
        self._name_user = identify or _name_authenticated
        self.csrf_field = csrf_field
        self._options = options
        self._app: Any = None
        self._wrapped: Any = None
        self._key = ""
        self.application: BackJob
        """The BackJob around the app, once the plugin is installed."""

    def setup(self, app: bottle.Bottle) -> None:
        """Part of the plugin API: the plugin is being installed. Raises ConfigError for a wrong option."""
        if self._app is not None or any(isinstance(each, BackJobPlugin) for each in app.plugins):
            raise bottle.PluginError("backjob is installed already: once is enough, in one app")
        self.application = BackJob(app.wsgi, identify=self._identify, **self._options)
        self._key = self.application.config.environ_key
        # What the app has put around itself already, such as Beaker's SessionMiddleware, stays within BackJob.
        self._wrapped = vars(app).pop("wsgi", None)
        self._app, app.wsgi = app, self.application
        app.add_hook("before_request", self._attach)

    def apply(self, callback: Callback, route: bottle.Route) -> Callback:
        """Part of the plugin API: a callback that a job calls as the user who started it, or not at all."""

        def call(*args: Any, **kwargs: Any) -> Any:
            jobs = bottle.request.environ.get(self._key)
            if jobs is None or not jobs.is_worker:
                return callback(*args, **kwargs)
            jobs.check_user()
            try:
                answer = callback(*args, **kwargs)
            except bottle.HTTPError as error:
                jobs.note_exception(error)  # what abort() says is only in Bottle's page, which a job does not keep
                raise
            return _watch(answer, jobs) if inspect.isgenerator(answer) else answer

        return call

    def close(self) -> None:
        """Part of the plugin API: the plugin is uninstalled, or the app closed. No more jobs are looked for."""
        app, self._app = self._app, None
        if app is not None:
            app.remove_hook("before_request", self._attach)
            del app.wsgi
            if self._wrapped is not None:
                app.wsgi = self._wrapped
            self.application.close()

    def _attach(self) -> None:
        environ = bottle.request.environ
        jobs = environ.get(self._key)
        if jobs is None or _PLUGIN in environ:
            return
        bottle.request.backjob, environ[_PLUGIN] = jobs, self
        if jobs.is_worker:
            _put_back_fields(bottle.request)
            if not self._is_applied(environ):
                jobs.check_user()

    def _is_applied(self, environ: dict[str, Any]) -> bool:
        try:
            route, _ = self._app.match(environ)
        except bottle.HTTPError:  # none as yet: a later hook may change the path
            return False
        return self in route.all_plugins()

    def _identify(self, environ: Mapping[str, Any]) -> Any:
        # A request of its own: that of the thread may be another one, or over.
        return self._name_user(bottle.Request(dict(environ)))


def _name_authenticated(request: Any) -> str | None:
    return request.auth[0] if request.auth else None


def _watch(chunks: Iterator[Any], jobs: Jobs) -> Iterator[Any]:
    """Bottle makes an error page of what a generator raises before its first chunk, and tells nobody."""
    try:
        yield from chunks
    except Exception as error:
        jobs.note_exception(error)
        raise


def _ask_again(request: Any) -> Any:
    """This request for a job, its form without the token, which differs from page to page."""
    body, content_type = request.body.read(), request.environ.get("CONTENT_TYPE", "")
    if content_type.lower().startswith("multipart/"):
        form = list(request.forms.decode().allitems())
        if not form or request.files:
            raise HasFiles
        body, content_type = urlencode(form).encode(), FORM
    fields: list[tuple[str, str]] = []
    if is_form(content_type):
        body, fields = take_fields(body, [request.environ[_PLUGIN].csrf_field])
    # Bottle decodes the path in place, and keeps the one that came.
    environ = {**request.environ, "PATH_INFO": request.environ["bottle.raw_path"]}
    return make_again(environ, body, content_type, keep_sent(environ, _GUARDS, fields))


def _put_back_fields(request: Any) -> None:
    """The form as the browser sent it, for all checks that follow: nobody knows a newer token."""
    fields = put_back(request.environ, ())
    if fields:
        body = add_fields(request.body.read(), fields)
        request["wsgi.input"], request["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))


def background(
    callback: Callback | None = None,
    *,
    scope: str | Callable[[Any], str] = "",
    methods: Iterable[str] = CHANGING_METHODS,
    **options: Any,
) -> Any:
    """A callback's decorator: who asks gets 202 and a job's number, ``{"id": 7}``, and the callback runs in that job.

    ``@background`` between ``@app.post(…)`` and the function, or ``@background(retries=2, unique=True)`` with options
    of :meth:`backjob.Jobs.start`. The job is the same request once more: method, path, query and body. A ``scope`` may
    be a function of the request. One with uploaded files is refused with 415, one larger than ``max_request`` with 413,
    and one with another method than ``methods`` with 405. Raises TypeError or ValueError for a wrong option.
    """
    methods = check_background(callback, methods, scope, options)
    if callback is None:
        return functools.partial(background, scope=scope, methods=methods, **options)

    @functools.wraps(callback)
    def start_or_run(*args: Any, **kwargs: Any) -> Any:
        request = bottle.request
        if _PLUGIN not in request.environ:
            raise RuntimeError("background needs a BackJobPlugin: install one in this app, or in the outermost")
        if request.backjob.is_worker:
            request.backjob.check_user()
            if SENT in request.environ:  # for the callback's own checks; until now Origin was the site's own
                put_back(request.environ, _GUARDS)
            return callback(*args, **kwargs)
        status, body, headers = start_job(request, request.backjob, _ask_again, scope, methods, options)
        return bottle.HTTPResponse(json.dumps(body), status, {"Content-Type": "application/json", **headers})

    return start_or_run
