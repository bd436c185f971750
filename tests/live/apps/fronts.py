"""The workshop behind and in front of other middleware: what a proxy says, redirects, mounts, another BackJob."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from workshop import app

from backjob import BackJob

WSGIApp = Callable[..., Iterable[bytes]]

OPTIONS = json.loads(os.environ.get("WORKSHOP_OPTIONS", "{}"))


def trust_proxy(wrapped: WSGIApp) -> WSGIApp:
    """Believe the proxy about client, scheme, host and prefix."""
    return ProxyFix(wrapped, x_for=1, x_proto=1, x_host=1, x_prefix=1)


def insist_on_https(wrapped: WSGIApp) -> WSGIApp:
    """Send whoever comes by http to https."""

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["wsgi.url_scheme"] == "https":
            return wrapped(environ, start_response)
        location = f"https://{environ.get('HTTP_HOST')}{environ.get('SCRIPT_NAME', '')}{environ['PATH_INFO']}"
        start_response("301 Moved Permanently", [("Location", location), ("Content-Length", "0")])
        return [b""]

    return call


def mount(**apps: WSGIApp) -> WSGIApp:
    """Each app under its name."""
    return DispatcherMiddleware(NotFound(), {f"/{name}": each for name, each in apps.items()})


proxy_around = trust_proxy(BackJob(app, **OPTIONS))
proxy_within = BackJob(trust_proxy(app), **OPTIONS)
https_around = insist_on_https(BackJob(app, **OPTIONS))
https_within = BackJob(insist_on_https(app), **OPTIONS)
mounts_within = BackJob(mount(first=app, second=app), **OPTIONS)
mounts_around = mount(first=BackJob(app, **OPTIONS), second=BackJob(app, **OPTIONS))
nested = BackJob(mount(outer=app, inner=BackJob(app, **OPTIONS)), **OPTIONS)
