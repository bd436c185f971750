"""Which site of a server gets the self-requests: the app's own, whatever Host a visitor sends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support.served import App, Site, call, make_environ, serve_site, wrap
from werkzeug.middleware.proxy_fix import ProxyFix

from backjob import Status
from backjob.config import make_config
from backjob.model.address import Address
from backjob.transport.discovery import find_site
from backjob.transport.own_address import OwnAddress

INTERNAL, OWN = "internal.test", "shop.test"


class Sites:
    """Server of three sites: the internal one, that of BackJob, and one for any other Host."""

    def __init__(self, app: App, own: str = "") -> None:
        self.app, self.own = app, own
        self.elsewhere: list[tuple[str, str]] = []
        self.hosts: set[str] = set()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        host = environ.get("HTTP_HOST", "")
        if "HTTP_BACKJOB_TOKEN" in environ:
            self.hosts.add(host)
        if host == INTERNAL or (self.own and host != self.own):
            kind = environ.get("HTTP_BACKJOB_TOKEN", "").partition(".")[0]
            self.elsewhere.append((host, kind))
            start_response("200 OK", [])
            return [b"another site"]
        return self.app(environ, start_response)


def trust_any(app: App) -> App:
    """A home-made middleware that believes X-Forwarded-Host."""

    def trusting(environ: dict[str, Any], start_response: Any) -> Any:
        environ["HTTP_HOST"] = environ.get("HTTP_X_FORWARDED_HOST", environ["HTTP_HOST"])
        return app(environ, start_response)

    return trusting


def show_host(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["HTTP_HOST"].encode()]


def start_at(server: Any, site: Site, forwarded: str = "", **options: Any) -> Any:
    """Start a job by a real visitor of OWN, or one who says another Host by X-Forwarded-Host; how it ended."""
    got: list[int] = []
    site.begin = lambda jobs: got.append(jobs.start("/job", {"q": "secret"}, **options))
    server.ask("/start", headers={"Host": OWN, **({"X-Forwarded-Host": forwarded} if forwarded else {})})
    return wait_until(lambda: (end := site.status(got[0])).status.is_final and end, 20)


class TestConnect:
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_no_host_of_a_visitor_is_on_the_wire(self, tmp_path: Path, method: str) -> None:
        pool: list[Sites] = []

        def front(app: App) -> App:
            pool.append(Sites(app))
            return pool[0]

        with serve_site(tmp_path, show_host, front=front) as site:
            address = f"http://127.0.0.1:{site.server.port}"
            web = wrap(tmp_path, show_host, launcher=None, connect=address, table_name="background_job")
            with web as other:
                got: list[int] = []
                other.begin = lambda jobs: got.append(jobs.start("/job", method=method, data=None))
                call(other.application, make_environ("/start", HTTP_HOST=INTERNAL))
                end = wait_until(lambda: (now := site.status(got[0])).status.is_final and now, 20)
        assert (end.status, end.status_text) == (Status.COMPLETED, INTERNAL)
        assert pool[0].elsewhere == []
        assert pool[0].hosts == {address.removeprefix("http://")}


FIXES: dict[str, Callable[[App], App]] = {
    "werkzeug": lambda app: ProxyFix(app, x_host=1),
    "home-made": trust_any,
}


class TestDiscovered:
    @pytest.mark.parametrize("fix", FIXES, ids=str)
    @pytest.mark.parametrize("monitor", ["thread", "leave"])
    def test_a_forwarded_host_leads_nowhere(self, tmp_path: Path, fix: str, monitor: str) -> None:
        """The server routes by the Host that it sees, and BackJob sees another one."""
        pool: list[Sites] = []

        def front(app: App) -> App:
            pool.append(Sites(FIXES[fix](app), OWN))
            return pool[0]

        with serve_site(tmp_path, show_host, front=front, monitor=monitor) as site:
            assert start_at(site.server, site).status_text == OWN
            for method in ("GET", "POST"):
                end = start_at(site.server, site, INTERNAL, method=method)
                assert (end.status, end.status_text) == (Status.COMPLETED, INTERNAL)
        assert INTERNAL not in pool[0].hosts
        assert {kind for _, kind in pool[0].elsewhere} <= {"monitor"}

    def test_the_first_visitor_may_be_the_one_who_forges(self, tmp_path: Path) -> None:
        pool: list[Sites] = []

        def front(app: App) -> App:
            pool.append(Sites(trust_any(app), OWN))
            return pool[0]

        with serve_site(tmp_path, show_host, front=front, launch_timeout=0) as site:
            assert start_at(site.server, site, INTERNAL).status is Status.FAILED
        assert INTERNAL not in pool[0].hosts

    def test_where_the_server_does_not_route_only_its_own_host_is_sent(self, tmp_path: Path) -> None:
        pool: list[Sites] = []

        def front(app: App) -> App:
            pool.append(Sites(app))
            return pool[0]

        with serve_site(tmp_path, show_host, front=front) as site:
            assert start_at(site.server, site).status_text == OWN
            assert pool[0].hosts == {f"127.0.0.1:{site.server.port}"}


@pytest.mark.parametrize(
    ("more", "site"),
    [
        ({"HTTP_HOST": OWN}, OWN),
        ({"HTTP_HOST": f"{OWN}:8000", "HTTP_REFERER": f"http://{OWN}:8000/"}, f"{OWN}:8000"),
        ({"HTTP_HOST": OWN, "HTTP_X_FORWARDED_HOST": f"a.test, {OWN.upper()}"}, ""),
        ({"HTTP_HOST": OWN, "HTTP_FORWARDED": f"host={OWN};proto=https"}, ""),
        ({"HTTP_HOST": INTERNAL, "werkzeug.proxy_fix.orig": {"HTTP_HOST": OWN}}, OWN),
        ({"HTTP_HOST": INTERNAL, "SERVER_NAME": OWN, "mod_wsgi.version": (4, 9)}, OWN),
        ({"HTTP_HOST": "evil\r\nX-Y: z"}, ""),
        ({"HTTP_HOST": "[::1]:8000"}, "[::1]:8000"),
        ({"HTTP_HOST": "h" * 256}, ""),
        ({}, ""),
    ],
)
def test_the_host_by_which_a_server_has_routed(more: dict[str, Any], site: str) -> None:
    assert find_site(more) == site


def test_a_proof_of_one_site_is_none_of_another() -> None:
    own = OwnAddress(make_config({}))
    own.note_proof(Address("127.0.0.1", 80, site=OWN))
    assert own.is_proven(Address("127.0.0.1", 80, site=OWN), 60)
    assert not own.is_proven(Address("127.0.0.1", 80, site=INTERNAL, is_sure=False), 60)
