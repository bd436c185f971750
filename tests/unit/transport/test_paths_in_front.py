"""Something in front of BackJob answers the path of a job: it gets no form and no method with effects, at most once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support.served import App, Site, serve_site
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.shared_data import SharedDataMiddleware

from backjob import Status

SAFE = {"GET", "HEAD", "OPTIONS"}
IN_FRONT = "something in front of BackJob answers "


class Front:
    """What answers in front of BackJob, and the requests with a token that it answered: method, target and body."""

    def __init__(self, status: str, is_mine: Callable[[dict[str, Any]], bool] = lambda environ: True) -> None:
        self.status = status
        self.is_mine = is_mine
        self.answered: list[tuple[str, str, bytes]] = []
        self.inner: App | None = None

    def over(self, inner: App) -> App:
        self.inner = inner
        return self

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if self.inner is not None and not self.is_mine(environ):
            return self.inner(environ, start_response)
        target = f"{environ['SCRIPT_NAME']}{environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if "HTTP_BACKJOB_TOKEN" in environ:
            self.answered.append((environ["REQUEST_METHOD"], target, body))
        start_response(self.status, [("Content-Type", "text/plain"), ("Location", "/elsewhere")])
        return [b"not BackJob\n"]

    def assert_unharmed(self) -> None:
        assert self.answered, "the path was not asked for"
        assert all(method in SAFE and (target[-1:], body) == ("?", b"") for method, target, body in self.answered)


def is_shop(environ: dict[str, Any]) -> bool:
    return bool(environ["PATH_INFO"].startswith("/shop/"))


def never(environ: Any, start_response: Any) -> Any:
    raise AssertionError("the job ran")


def assert_fails(site: Site, path: str, **options: Any) -> str:
    end = site.wait_for_end(site.start(f"{path}?q=secret", **{"method": "POST", "data": {"card": "secret"}} | options))
    assert end.status is Status.FAILED
    assert f"{IN_FRONT}{path}: put BackJob outside of it" in end.status_text
    assert "secret" not in end.status_text
    assert "set connect=" not in end.status_text
    return end.status_text


class TestAnotherApp:
    @pytest.mark.parametrize("status", ["200 OK", "201 Created", "303 See Other", "403 Forbidden", "404 Not Found"])
    @pytest.mark.parametrize(
        "more", [{}, {"data": None}, {"method": "DELETE", "data": None}, {"method": "GET"}], ids=str
    )
    def test_it_gets_nothing_and_the_job_fails_at_once(self, tmp_path: Path, status: str, more: dict[str, Any]) -> None:
        shop = Front(status)
        with serve_site(tmp_path, never, front=lambda app: DispatcherMiddleware(app, {"/shop": shop})) as site:
            assert_fails(site, "/shop/order", **more)
        shop.assert_unharmed()

    @pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Service Unavailable"])
    def test_one_that_breaks_is_asked_again_and_gets_no_form(self, tmp_path: Path, status: str) -> None:
        shop, dispatch = Front(status), lambda app: DispatcherMiddleware(app, {"/shop": shop})
        with serve_site(tmp_path, never, front=dispatch, launch_timeout=0.5) as site:
            assert status[:3] in assert_fails(site, "/shop/order")
        assert len(shop.answered) > 2
        shop.assert_unharmed()

    def test_a_path_beside_one_that_was_proven(self, tmp_path: Path) -> None:
        front = Front("200 OK", lambda environ: environ["PATH_INFO"] == "/shop/b")
        with serve_site(tmp_path, front=front.over) as site:
            for _ in range(2):
                end = site.wait_for_end(site.start("/shop/a", method="POST", data={"a": 1}))
                assert (end.status, end.status_text) == (Status.COMPLETED, "done")
                assert_fails(site, "/shop/b")
        front.assert_unharmed()

    @pytest.mark.parametrize("threads", [True, False], ids=["threads", "one slot"])
    @pytest.mark.parametrize("monitor", ["leave", "thread"])
    def test_wherever_the_monitor_waits(self, tmp_path: Path, monitor: str, threads: bool) -> None:
        front, options = Front("200 OK", is_shop), {"monitor": monitor, "close_delay": 0.1, "lease": 1}
        with serve_site(tmp_path, front=front.over, threads=threads, **options) as site:
            end = site.wait_for_end(site.start("/ours", method="POST", data={"a": 1}))
            assert (end.status, end.status_text) == (Status.COMPLETED, "done")
            assert_fails(site, "/shop/order")
        front.assert_unharmed()


def test_static_files(tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "page").write_text("a page")
    with serve_site(
        tmp_path, never, front=lambda app: SharedDataMiddleware(app, {"/static": str(tmp_path / "static")})
    ) as site:
        assert_fails(site, "/static/page")


class TestOnlySomeMethods:
    """The probe comes in, and something else takes the job's own request: once, whatever it answers."""

    @pytest.mark.parametrize(
        "status", ["200 OK", "302 Found", "405 Method Not Allowed", "500 Internal Server Error", "503 Unavailable"]
    )
    @pytest.mark.parametrize("retries", [0, 2])
    def test_a_request_with_effects_is_not_repeated(self, tmp_path: Path, status: str, retries: int) -> None:
        front = Front(status, lambda environ: is_shop(environ) and environ["REQUEST_METHOD"] == "POST")
        with serve_site(tmp_path, never, front=front.over) as site:
            text = assert_fails(site, "/shop/order", retries=retries)
            assert "The request is not sent again" in text
            assert "?." not in text
        assert len(front.answered) == 1

    def test_a_cut_off_answer_is_an_answer(self, tmp_path: Path) -> None:
        class CutOff(Front):
            def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
                if self.is_mine(environ):
                    start_response("200 OK", [("Content-Length", "100")])
                    self.answered.append((environ["REQUEST_METHOD"], "", b""))
                    return [b"a part"]
                return self.inner(environ, start_response)  # type: ignore[misc]

        front = CutOff("", lambda environ: is_shop(environ) and environ["REQUEST_METHOD"] == "POST")
        with serve_site(tmp_path, never, front=front.over) as site:
            assert_fails(site, "/shop/order")
        assert len(front.answered) == 1


def test_an_ordinary_job_costs_at_most_one_probe(tmp_path: Path) -> None:
    """A GET needs none, and a path that was proven a moment ago needs no second one."""
    seen: list[str] = []

    def count(app: App) -> App:
        def counting(environ: dict[str, Any], start_response: Any) -> Any:
            if "HTTP_BACKJOB_TOKEN" in environ:
                seen.append(f"{environ['HTTP_BACKJOB_TOKEN'].partition('.')[0]} {environ['REQUEST_METHOD']}")
            return app(environ, start_response)

        return counting

    with serve_site(tmp_path, front=count) as site:
        for method in ("GET", "POST"):
            job_id = site.start("/job", method=method)
            assert wait_until(lambda job_id=job_id: site.status(job_id).status is Status.COMPLETED)
        assert seen == ["monitor POST", "worker GET", "monitor POST", "probe GET", "worker POST"]
