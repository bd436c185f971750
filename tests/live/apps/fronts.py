"""What the recipes of docs/deployments.md have around BackJob and within it. ``app`` is the workshop."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from workshop import app

from backjob import BackJob

WSGIApp = Callable[..., Iterable[bytes]]

OPTIONS = json.loads(os.environ.get("WORKSHOP_OPTIONS", "{}"))
shop = app


def insist_on_https(wrapped: WSGIApp) -> WSGIApp:
    """Send whoever comes by http to https."""

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["wsgi.url_scheme"] == "https":
            return wrapped(environ, start_response)
        location = f"https://{environ.get('HTTP_HOST')}{environ.get('SCRIPT_NAME', '')}{environ['PATH_INFO']}"
        start_response("301 Moved Permanently", [("Location", location), ("Content-Length", "0")])
        return [b""]

    return call


https_around = insist_on_https(BackJob(app))
two = DispatcherMiddleware(NotFound(), {"/first": BackJob(app, **OPTIONS), "/second": BackJob(app, **OPTIONS)})
nested = BackJob(DispatcherMiddleware(app, {"/inner": BackJob(app)}), max_running=0)
