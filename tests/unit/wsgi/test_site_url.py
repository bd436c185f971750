"""The option ``site_url``: jobs that are started outside of a request know their site, and check() tries it."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support.places import make_place
from support.served import Site, serve_site, wrap
from webob import Request
from werkzeug.exceptions import BadRequest, InternalServerError
from werkzeug.wrappers import Request as WerkzeugRequest

from backjob import BackJob, BackJobError, ConfigError, Jobs, Status
from backjob.checks.site_check import find_site_problem, find_site_warnings, visit_site
from backjob.config import make_config

KEY = "a key for tests, and for nothing but tests"
SITE = "https://shop.example:8443/mount"


def show_site(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    request = Request(environ)
    names = ("SCRIPT_NAME", "PATH_INFO", "SERVER_NAME", "SERVER_PORT")
    told = {
        "webob": request.application_url,
        "werkzeug": WerkzeugRequest(environ).url_root,
        **{name: environ[name] for name in names},
        "HTTPS": environ.get("HTTPS"),
        "origin": environ.get("HTTP_ORIGIN"),
    }
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [json.dumps(told).encode()]


def end_of(site: Site, job_id: int) -> Any:
    return wait_until(lambda: (end := site.status(job_id)).status.is_final and end, 20)


def outside(folder: Path, site: Site, app: Any = show_site, **options: Any) -> Any:
    """Return a BackJob of the same app in a script, which stands for another process."""
    return wrap(folder, app, launcher=None, connect=f"http://127.0.0.1:{site.server.port}", **options)


@pytest.mark.parametrize("as_user", [True, False])
def test_a_job_that_a_script_starts_knows_its_site(tmp_path: Path, as_user: bool) -> None:
    with serve_site(tmp_path, show_site) as site, outside(tmp_path, site, site_url=SITE) as script:
        job_id = script.application.jobs.start("/mount/report", method="POST", as_user=as_user)
        end = end_of(site, job_id)
    assert end.status is Status.COMPLETED, end.status_text
    assert json.loads(end.status_text) == {
        "webob": SITE,
        "werkzeug": f"{SITE}/",
        "SCRIPT_NAME": "/mount",
        "PATH_INFO": "/report",
        "SERVER_NAME": "shop.example",
        "SERVER_PORT": "8443",
        "HTTPS": "on",
        "origin": "https://shop.example:8443",
    }


def test_a_site_without_a_mount_is_at_the_root_whatever_arrives(tmp_path: Path) -> None:
    """gunicorn believes a header SCRIPT_NAME that a proxy on the same host sends."""

    def move_mount(app: Any) -> Any:
        def moving(environ: dict[str, Any], start_response: Any) -> Any:
            if environ["PATH_INFO"].startswith("/admin/"):
                environ |= {"SCRIPT_NAME": "/admin", "PATH_INFO": environ["PATH_INFO"].removeprefix("/admin")}
            return app(environ, start_response)

        return moving

    with (
        serve_site(tmp_path, show_site, front=move_mount) as site,
        outside(tmp_path, site, site_url="https://shop.example") as script,
    ):
        end = end_of(site, script.application.jobs.start("/admin/purge"))
    told = json.loads(end.status_text)
    assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == ("", "/admin/purge")


def test_a_target_outside_of_the_mount_is_refused(tmp_path: Path) -> None:
    with wrap(tmp_path, connect="http://127.0.0.1:1", site_url=SITE) as script:
        jobs = script.application.jobs
        with pytest.raises(ValueError, match="/mount/report"):
            jobs.start("/report")


def test_a_visitor_s_job_has_the_visitor_s_host(tmp_path: Path) -> None:
    with serve_site(tmp_path, show_site, site_url=SITE) as site:
        end = end_of(site, site.start("/report"))
        assert json.loads(end.status_text)["webob"] == f"http://127.0.0.1:{site.server.port}"


class TestWrong:
    @pytest.mark.parametrize(
        "url",
        [
            *("shop.example", "ftp://shop.example", "https://", "https://shop.example/?a=1", "https://shop.example/#x"),
            *("https://user:secret@shop.example", "https://shop.example:99999", "https://shop example"),
            "//shop.example",
            *("https://shöp.example", "https://shop.example/a b", "https://shop.example\r\nX: y", "", 5, b"https://a"),
            *("https://shop.example//x", "https://shop.example/a/../b", "https://shop.example/%2e%2e", " https://a.b"),
            *(
                "https://[::1",
                "https://shop.example:0",
                "https://shop,example",
                "https://[fe80::1%25eth0]",
                "https://[1.2.3.4]",
            ),
        ],
    )
    def test_is_refused_at_construction(self, url: Any) -> None:
        with pytest.raises(ConfigError, match="site_url") as caught:
            BackJob(show_site, key=KEY, site_url=url)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("part", "values"),
        [
            ("host", "https://.. https://.shop.example https://-bad- https://a..b https://*.example https://a~b"),
            ("host", "https://999.1.1.1 https://1.2.3 https://7 https://0x7f.1"),
            ("host", f"https://{'a' * 64}.example https://{'a.' * 127}example"),
            ("path", "https://a.b/%00 https://a.b/x%0dy https://a.b/%7F https://a.b/%2Fx https://a.b/x%2fy"),
            ("path", "https://a.b/% https://a.b/%(here)s https://a.b/%2e%2e https://a.b/./x"),
            ("1000 characters", f"https://a.b/{'x' * 1000}"),
        ],
    )
    def test_the_message_names_the_wrong_part(self, part: str, values: str) -> None:
        for url in values.split():
            with pytest.raises(ConfigError, match=f"site_url is wrong: .*{part}") as caught:
                BackJob(show_site, key=KEY, site_url=url)
            assert len(str(caught.value)) < 500

    @pytest.mark.parametrize(
        ("url", "authority", "mount"),
        [
            ("https://shop.example", "shop.example", ""),
            ("HTTPS://Shop.Example:443/", "shop.example", ""),
            ("http://[2001:db8::1]:8080/a%20b/", "[2001:db8::1]:8080", "/a b"),
            ("http://192.0.2.1/%c3%a9", "192.0.2.1", "/\xc3\xa9"),
            *(
                (f"http://{name}", name, "")
                for name in ("intranet", "a_b.example", "xn--80ak6aa92e.com", "1.a", "a.b.")
            ),
        ],
    )
    def test_is_read(self, url: str, authority: str, mount: str) -> None:
        site = BackJob(show_site, key=KEY, site_url=url).config.site
        assert site is not None
        assert (site.authority, site.mount) == (authority, mount)

    def test_from_an_ini_file(self) -> None:
        application = BackJob.from_settings(
            show_site, {"backjob.key": "a-key-for-tests-and-for-nothing-but-tests", "backjob.site_url": SITE}
        )
        assert application.config.site_url == SITE


def only_shop(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Check Host and scheme, as ALLOWED_HOSTS and SECURE_SSL_REDIRECT do."""
    if environ["HTTP_HOST"] != "shop.example":
        start_response("400 Bad Request", [])
        return [b""]
    if environ["wsgi.url_scheme"] != "https":
        start_response("301 Moved Permanently", [("Location", f"https://shop.example{environ['PATH_INFO']}")])
        return [b""]
    start_response("404 Not Found" if environ["PATH_INFO"] == "/backjob-check" else "200 OK", [])
    return [b"done"]


def only_https(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    if environ["wsgi.url_scheme"] != "https":
        start_response("301 Moved Permanently", [("Location", f"https://{environ['HTTP_HOST']}/login/?next=/")])
        return [b""]
    start_response("200 OK", [])
    return [b"done"]


def canonical(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Redirect to https of the same host and path."""
    if environ["wsgi.url_scheme"] != "https":
        where = f"https://{environ['HTTP_HOST']}{environ['SCRIPT_NAME']}{environ['PATH_INFO']}"
        start_response("308 Permanent Redirect", [("Location", where)])
        return [b""]
    start_response("200 OK", [])
    return [b"done"]


def trusted(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer as Flask does for a host that is not in TRUSTED_HOSTS."""
    error = BadRequest("The host is not trusted.")
    environ["backjob"].note_exception(error)
    return list(error(environ, start_response))


class TestWithout:
    """Jobs fail as before, and the text names what is missing."""

    def test_the_failure_and_check_name_it(self, tmp_path: Path) -> None:
        with serve_site(tmp_path, only_shop) as site, outside(tmp_path, site, only_shop) as script:
            found = script.application.check()
            end = end_of(site, script.application.jobs.start("/report"))
        assert end.status is Status.FAILED
        assert 'set site_url="https://…"' in end.status_text
        assert found.problem is not None
        assert (found.problem.name, "site_url=" in str(found.problem)) == ("site-url", True)
        assert "site-url" not in [warning.name for warning in found.warnings]

    @pytest.mark.parametrize(
        ("app", "site_url", "text"),
        [
            (only_https, None, '; the job was started outside of a request: set site_url="https://…" to the URL that'),
            (only_https, "http://shop.example", "; the job was started outside of a request: correct site_url"),
            (canonical, None, ': set site_url="https://…" to the URL that people use, because'),
            (
                canonical,
                "http://shop.example/m",
                ': set site_url="https://shop.example/m", because the job was started',
            ),
            (only_shop, "http://shop.example", ': set site_url="https://shop.example", because the job was started'),
            (only_shop, "https://else.example", "does not allow the host else.example, correct site_url"),
            (trusted, None, "The host is not trusted: the job was started outside of a request: if the app does not"),
        ],
    )
    def test_the_failure_names_one_remedy(self, tmp_path: Path, app: Any, site_url: str | None, text: str) -> None:
        with serve_site(tmp_path, app) as site, outside(tmp_path, site, app, site_url=site_url) as script:
            mount = script.application.config.site.mount if script.application.config.site else ""
            end = end_of(site, script.application.jobs.start(f"{mount}/report"))
        assert end.status is Status.FAILED
        assert text in end.status_text
        assert "connect_headers" not in end.status_text
        assert ".:" not in end.status_text

    def test_a_form_that_the_view_refuses_is_none_of_the_host(self, tmp_path: Path) -> None:
        def view(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            raise BadRequest("The year is missing.")

        with serve_site(tmp_path, view) as site, outside(tmp_path, site, view, site_url=SITE) as script:
            end = end_of(site, script.application.jobs.start("/mount/report"))
        assert end.status_text == "BadRequest: 400 Bad Request: The year is missing."

    def test_with_it_all_is_well(self, tmp_path: Path) -> None:
        right = "https://shop.example"
        with serve_site(tmp_path, only_shop) as site, outside(tmp_path, site, only_shop, site_url=right) as script:
            found = script.application.check()
            assert end_of(site, script.application.jobs.start("/report")).status is Status.COMPLETED
        assert found.is_ok
        assert "site-url" not in [warning.name for warning in found.warnings]

    def test_with_a_wrong_one_check_says_so(self, tmp_path: Path) -> None:
        wrong = "http://shop.example"
        with serve_site(tmp_path, only_shop) as site, outside(tmp_path, site, only_shop, site_url=wrong) as script:
            found = script.application.check()
        assert found.problem is not None
        assert "redirects" in found.problem.text
        assert found.problem.remedy == 'Set site_url="https://shop.example"'

    def test_links_to_the_loopback_are_a_warning(self, tmp_path: Path) -> None:
        with serve_site(tmp_path) as site, outside(tmp_path, site) as script:
            found = script.application.check()
            assert found.is_ok
            assert "site-url" in [warning.name for warning in found.warnings]
            assert "site-url" not in [warning.name for warning in site.application.check().warnings]

    def test_a_visitor_s_job_is_not_told_of_it(self, tmp_path: Path) -> None:
        with serve_site(tmp_path, only_shop) as site:
            assert "site_url" not in end_of(site, site.start("/report")).status_text


def visit(app: Any, site_url: str | None = None) -> tuple[list[str], list[str]]:
    """Return the names of what is found when the app is called as a job would: problems, and warnings."""
    config = make_config({"site_url": site_url, "connect": "http://shop.internal:8000"})
    answer = visit_site(app, config)
    found = find_site_problem(answer, config), find_site_warnings(answer, config)
    return [each.name for each in found[0]], [each.name for each in found[1]]


class TestVisit:
    """The request that check() makes of the app."""

    @pytest.mark.parametrize(
        ("site_url", "location", "is_problem"),
        [
            (None, "https://sso.example/login?next=/backjob-check", False),
            (None, "https://shop.internal:8000/login", False),
            ("https://shop.example", "https://SHOP.example:443/login", False),
            ("https://shop.example", "//sso.example", False),
            ("https://shop.example", "/backjob-check/", False),
            ("https://shop.example", "http://[", False),
            ("http://shop.example", "http://SHOP.example:80/backjob-check/", False),
            ("https://shop.example/a%20b", "https://Shop.Example/a%20b/backjob-check/", False),
            (None, "https://shop.internal:8000/backjob-check", True),
            ("http://shop.example", "https://shop.example/backjob-check?x=1", True),
            ("https://shop.example", "http://shop.example/backjob-check", True),
            ("https://shop.example", "//www.shop.example/backjob-check/", True),
            ("https://shop.example", "https://shop.example:8443/backjob-check", True),
            ("https://shop.example/a%20b", "https://www.shop.example/a%20b/backjob-check", True),
        ],
    )
    def test_only_a_redirect_that_keeps_the_path_is_a_problem(
        self, site_url: str | None, location: str, is_problem: bool
    ) -> None:
        def redirect(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            start_response("302 Found", [("Location", location)])
            return [b""]

        assert visit(redirect, site_url) == (["site-url"] if is_problem else [], [])

    def test_an_endless_answer_is_closed(self) -> None:
        class Endless:
            is_closed = False

            def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
                start_response("400 Bad Request", [])
                return self

            def __iter__(self) -> Iterator[bytes]:
                return itertools.repeat(b"data: x")

            def close(self) -> None:
                self.is_closed = True

        app = Endless()
        assert visit(app) == (["site-url"], [])
        assert app.is_closed

    def test_an_app_that_hangs_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        may_go_on = threading.Event()
        monkeypatch.setattr("backjob.checks.site_check.PATIENCE", 0.1)
        try:
            assert visit(lambda *_: may_go_on.wait(20)) == ([], ["site-unknown"])
        finally:
            may_go_on.set()

    @pytest.mark.parametrize("end", [SystemExit(3), GeneratorExit(), ValueError("no"), BackJobError("no")])
    def test_an_app_that_raises_is_told(self, end: BaseException) -> None:
        def fail(*_: Any) -> list[bytes]:
            raise end

        assert visit(fail) == ([], ["site-unknown"])

    def test_a_server_error_is_told(self) -> None:
        assert visit(InternalServerError()) == ([], ["site-unknown"])

    @pytest.mark.parametrize("name", ["start", "find", "status", "cancel", "finish", "retry", "limit_body", "exists"])
    def test_a_view_starts_and_changes_no_job(self, name: str) -> None:
        seen: list[object] = []
        special: dict[str, Any] = {"start": {"target": "/x"}, "find": {}, "limit_body": {"environ": {}}}
        arguments = special.get(name, {"job_id": 1})

        def view(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            jobs = environ["backjob"]
            jobs.check_user()
            jobs.update(50, "half")
            seen.append((isinstance(jobs, Jobs), jobs.is_worker))
            with contextlib.suppress(Exception):
                getattr(jobs, name)(**arguments)
            seen.append("the view goes on")
            start_response("400 Bad Request", [])
            return [b""]

        assert visit(view) == ([], [])
        assert seen == [(True, False)]

    def test_an_inner_application_does_not_become_a_server(self) -> None:
        inner = BackJob(only_shop, key=KEY)
        assert visit(BackJob(inner, key=KEY).app) == (["site-url"], [])
        assert not inner._assembly.serves

    def test_a_view_that_checks_too_is_called_once(self) -> None:
        seen = []

        def view(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            seen.append(visit(view))
            start_response("200 OK", [])
            return [b""]

        assert visit(view) == ([], [])
        assert seen == [([], [])]


def test_a_unix_socket_has_the_site_s_host_on_the_wire(tmp_path: Path) -> None:
    with make_place(tmp_path / "app.sock").socket:
        application = BackJob(show_site, key=KEY, connect=f"unix:{tmp_path}/app.sock", site_url=SITE)
    address = application.config.address
    assert address is not None
    assert address.wire_host == "shop.example:8443"
