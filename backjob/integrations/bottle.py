"""Bottle: ``app.install(BackJobPlugin())`` wraps the app, and the ``background`` decorator for its callbacks.

Owns ``request.backjob``, and what a job needs from Bottle: the name of its user and the exceptions of its callback.
Knows Bottle's plugin API and backjob's public names.
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

from . import replay

_PLUGIN = "backjob.bottle"
"""Environ key of the plugin."""
_GUARDS = (*replay.ORIGIN_KEYS, "HTTP_X_CSRF_TOKEN", "HTTP_X_CSRFTOKEN", "HTTP_X_XSRF_TOKEN")
"""Environ keys of the usual headers for CSRF checks. Bottle itself defines none."""

Callback = Callable[..., Any]


class BackJobPlugin:
    """Plugin of Bottle's API 2: ``app.install(BackJobPlugin(…))``, before the app is served.

    The options are those of :class:`backjob.BackJob`, except for ``identify``: here it is a function of Bottle's
    request that returns the name of its user. The default is the user name in ``request.auth``. Install the plugin
    after plugins that open a session, and before hooks that use ``request.backjob``. ``csrf_field`` is the form field
    with the token of the app's own CSRF check. With ``background(unique=True)``, two submissions of a form are equal
    even if their tokens differ.

    The plugin wraps ``app.wsgi``, which Bottle calls for each request, so the server still gets the app itself. If apps
    are mounted or merged into others, install it in the outermost. Bottle does not apply the outer app's plugins to
    their routes. There a hook checks a job's user, or with ``apply=[plugin]`` the routes themselves do.
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
        """BackJob around the app, once the plugin is installed."""

    def setup(self, app: bottle.Bottle) -> None:
        """Install the plugin (plugin API). Raises ConfigError for a wrong option."""
        if self._app is not None or any(isinstance(each, BackJobPlugin) for each in app.plugins):
            raise bottle.PluginError("backjob is installed already: install one BackJobPlugin, in one app")
        self.application = BackJob(app.wsgi, identify=self._identify, **self._options)
        self._key = self.application.config.environ_key
        # Middleware around the app, such as Beaker's SessionMiddleware, stays inside BackJob.
        self._wrapped = vars(app).pop("wsgi", None)
        self._app, app.wsgi = app, self.application
        app.add_hook("before_request", self._attach)

    def apply(self, callback: Callback, route: bottle.Route) -> Callback:
        """Wrap a callback (plugin API): a job calls it as the user who started the job, or not at all."""

        def call(*args: Any, **kwargs: Any) -> Any:
            jobs = bottle.request.environ.get(self._key)
            if jobs is None or not jobs.is_worker:
                return callback(*args, **kwargs)
            jobs.check_user()
            try:
                answer = callback(*args, **kwargs)
            except bottle.HTTPError as error:
                jobs.note_exception(error)  # the text of abort() is only in Bottle's page, which a job does not keep
                raise
            return _watch(answer, jobs) if inspect.isgenerator(answer) else answer

        return call

    def close(self) -> None:
        """Uninstall the plugin, or close it with its app (plugin API). The keeper ends."""
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
        except bottle.HTTPError:  # no route yet: a later hook may change the path
            return False
        return self in route.all_plugins()

    def _identify(self, environ: Mapping[str, Any]) -> Any:
        # Not bottle.request: the thread's request may be another one, or may have ended.
        return self._name_user(bottle.Request(dict(environ)))


def _name_authenticated(request: Any) -> str | None:
    return request.auth[0] if request.auth else None


def _watch(chunks: Iterator[Any], jobs: Jobs) -> Iterator[Any]:
    """Note an exception of a generator: before the first chunk, Bottle makes an error page of it without a trace."""
    try:
        yield from chunks
    except Exception as error:
        jobs.note_exception(error)
        raise


def _ask_again(request: Any) -> Any:
    """Return this request for a job, its form without the token. Raises replay.HasFiles."""
    body, content_type = request.body.read(), request.environ.get("CONTENT_TYPE", "")
    if content_type.lower().startswith("multipart/"):
        form = list(request.forms.decode().allitems())
        if not form or request.files:
            raise replay.HasFiles
        body, content_type = urlencode(form).encode(), FORM
    fields: list[tuple[str, str]] = []
    if replay.is_form(content_type):
        body, fields = replay.take_fields(body, [request.environ[_PLUGIN].csrf_field])
    # Bottle decodes the path in place, and keeps the original here.
    environ = {**request.environ, "PATH_INFO": request.environ["bottle.raw_path"]}
    return replay.make_again(environ, body, content_type, replay.keep_sent(environ, _GUARDS, fields))


def _put_back_fields(request: Any) -> None:
    """Restore the form as the browser sent it, for all checks that follow. backjob can't make a newer token."""
    fields = replay.put_back(request.environ, ())
    if fields:
        body = replay.add_fields(request.body.read(), fields)
        request["wsgi.input"], request["CONTENT_LENGTH"] = io.BytesIO(body), str(len(body))


def background(
    callback: Callback | None = None,
    *,
    scope: str | Callable[[Any], str] = "",
    methods: Iterable[str] = replay.CHANGING_METHODS,
    **options: Any,
) -> Any:
    """Decorate a callback to run it as a job: requests get 202 with the job's id, ``{"id": 7}``.

    Write it between ``@app.post(…)`` and the function, bare or with options of :meth:`backjob.Jobs.start`, such as
    ``@background(retries=2, unique=True)``. The job is the same request again: method, path, query and body. A
    ``scope`` may be a function of the request. A request with uploaded files is refused with 415, one larger than
    ``max_request`` with 413, and one with another method than ``methods`` with 405. Raises TypeError or ValueError for
    a wrong option.
    """
    methods = replay.check_background(callback, methods, scope, options)
    if callback is None:
        return functools.partial(background, scope=scope, methods=methods, **options)

    @functools.wraps(callback)
    def start_or_run(*args: Any, **kwargs: Any) -> Any:
        request = bottle.request
        if _PLUGIN not in request.environ:
            raise RuntimeError("background needs a BackJobPlugin: install one in this app, or in the outermost")
        if request.backjob.is_worker:
            request.backjob.check_user()
            if SENT in request.environ:  # for the callback's own checks
                replay.put_back(request.environ, _GUARDS)
            return callback(*args, **kwargs)
        status, body, headers = replay.start_job(request, request.backjob, _ask_again, scope, methods, options)
        return bottle.HTTPResponse(json.dumps(body), status, {"Content-Type": "application/json", **headers})

    return start_or_run
