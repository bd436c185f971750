"""The option ``site_url``: jobs that are started outside of a request know their site, and check() tries it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import wait_until
from support.places import make_place
from support.served import Site, serve_site, wrap
from webob import Request
from werkzeug.wrappers import Request as WerkzeugRequest

from backjob import BackJob, ConfigError, Status

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


class TestWithout:
    """Jobs fail as before, and the text names what is missing."""

    @pytest.mark.parametrize("app", [only_shop, only_https])
    def test_the_failure_and_check_name_it(self, tmp_path: Path, app: Any) -> None:
        with serve_site(tmp_path, app) as site, outside(tmp_path, site, app) as script:
            found = script.application.check()
            end = end_of(site, script.application.jobs.start("/report"))
        assert end.status is Status.FAILED
        assert 'set site_url="https://…"' in end.status_text
        assert found.problem is not None
        assert (found.problem.name, "site_url=" in str(found.problem)) == ("site-url", True)

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
        assert "Correct site_url=" in found.problem.remedy

    def test_links_to_the_loopback_are_a_warning(self, tmp_path: Path) -> None:
        with serve_site(tmp_path) as site, outside(tmp_path, site) as script:
            found = script.application.check()
            assert found.is_ok
            assert "site-url" in [warning.name for warning in found.warnings]
            assert "site-url" not in [warning.name for warning in site.application.check().warnings]

    def test_a_visitor_s_job_is_not_told_of_it(self, tmp_path: Path) -> None:
        with serve_site(tmp_path, only_shop) as site:
            assert "site_url" not in end_of(site, site.start("/report")).status_text


def test_a_unix_socket_has_the_site_s_host_on_the_wire(tmp_path: Path) -> None:
    with make_place(tmp_path / "app.sock").socket:
        application = BackJob(show_site, key=KEY, connect=f"unix:{tmp_path}/app.sock", site_url=SITE)
    address = application.config.address
    assert address is not None
    assert address.wire_host == "shop.example:8443"
