"""A target outside of the mount, given outside of a request: the job fails at once, and says what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.served import App, say_done, serve_site, wrap
from werkzeug.exceptions import InternalServerError, NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from backjob import Status

Front = Callable[[App], App]


def mount_at_shop(outside: Any) -> Front:
    return lambda app: DispatcherMiddleware(outside, {"/shop": app})


def add_prefix(app: App) -> App:
    """The app as a middleware mounts it that trusts a proxy's header: the path does not show it."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        return app({**environ, "SCRIPT_NAME": "/shop"}, start_response)

    return application


TEXT = (
    "target '/other' is outside of this app, which is mounted at '/shop': "
    "write targets as a browser asks for them, such as '/shop/other'"
)
FRONTS = {
    "prefix": add_prefix,
    "404": mount_at_shop(NotFound()),
    "500": mount_at_shop(InternalServerError()),  # gunicorn answers that with $SCRIPT_NAME
    "200": mount_at_shop(say_done),
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("front", FRONTS)
def test_it_fails_at_once(tmp_path: Path, front: str, method: str) -> None:
    """A launch that fails for now would be tried again for launch_timeout: longer than this test waits."""
    paths = []

    def job(environ: dict[str, Any], start_response: Any) -> Any:
        paths.append(environ["SCRIPT_NAME"] + environ["PATH_INFO"])
        return say_done(environ, start_response)

    with serve_site(tmp_path, job, front=FRONTS[front], launch_timeout=300) as site:
        ids = []
        site.begin = lambda jobs: ids.append(jobs.start("/shop/job"))
        site.server.ask("/start" if front == "prefix" else "/shop/start")
        assert site.wait_for_end(ids[0]).status is Status.COMPLETED

        end = site.wait_for_end(site.application.jobs.start("/other?name=canary", method=method, retries=2))
        assert (end.status, end.error) == (Status.FAILED, f"The job can't be launched: {TEXT}")
        assert "canary" not in end.status_text

        inside = site.application.jobs.start("/shop/other", method=method)
        assert site.wait_for_end(inside).status is Status.COMPLETED
        assert paths == ["/shop/job", "/shop/other"]


def test_a_process_that_knows_no_mount_says_what_to_check(tmp_path: Path) -> None:
    with serve_site(tmp_path, front=mount_at_shop(NotFound()), launch_timeout=300) as site:
        with wrap(tmp_path, launcher=None, connect=site.server.url) as outside:
            end = outside.wait_for_end(outside.application.jobs.start("/other"))
        assert end.status is Status.FAILED
        assert "begins with the path at which the app is mounted" in end.error
