"""Redirects as the end of a job: which of them complete it, what the others say, and what is shown of a Location."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bottle
import pytest
import webob.exc
import werkzeug.exceptions
import werkzeug.routing
import werkzeug.utils
from support.served import Site, wrap

from backjob import BackJob, ConfigError, JobStatus, Status
from backjob.config import read_settings

OPTION = "if that is how it ends, set redirect_ok"


def is_ticket(status: int, location: str) -> bool:
    """A function that the worker can import by its name."""
    return status == 303 and location == "/ticket/17?new=1"


def is_broken(status: int, location: str) -> bool:
    raise LookupError("no such rule")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with wrap(tmp_path) as site:
        yield site


def redirect(site: Site, location: str | None, status: str = "303 See Other", **options: Any) -> JobStatus:
    """How a job ends whose app answers so after its work: a POST of /ticket, unless the options say otherwise."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        headers = [("Content-Type", "text/html")] + ([("Location", location)] if location is not None else [])
        start_response(status, headers)
        return [b"<p>You should be redirected"]

    site.job = app
    return site.run(options.pop("target", "/ticket"), **{"method": "POST", **options})


@pytest.mark.parametrize(
    ("location", "option", "is_completed"),
    [
        ("/ticket/17", False, False),
        ("/ticket/17", True, True),
        ("/ticket/17", "/ticket/", True),
        ("/ticket/17", "/ticket", True),
        ("/ticket/17", "/", True),
        ("/ticket/17?new=1", is_ticket, True),
        ("/ticket/18", is_ticket, False),
        # A relative reference, and an absolute one of the same site (RFC 9110, section 10.2.2).
        ("ticket/17", "/ticket/", True),
        ("http://127.0.0.1/ticket/17", "/ticket/", True),
        ("http://127.0.0.1:80/ticket/17?new=1", is_ticket, True),
        ("https://ann:secret@127.0.0.1/ticket/17", "/ticket/", True),
        # What only looks as if it were below the prefix.
        ("/tickets/17", "/ticket", False),
        ("/ticket", "/ticket/", False),
        ("/ticket/../elsewhere", "/ticket/", False),
        ("/ticket/%2e%2e/elsewhere", "/ticket/", False),
        ("/ticket%2f..%2felsewhere", "/ticket/", False),
        ("/ticket/..", "/ticket/", False),
        ("\\ticket\\..\\elsewhere", "/ticket/", False),
        ("//evil.example/ticket/17", "/ticket/", False),
        ("/\\evil.example/ticket/17", "/ticket/", False),
        ("/\t/evil.example/ticket/17", "/ticket/", False),
        ("https://evil.example/ticket/17", "/ticket/", False),
        ("http://127.0.0.1:81/ticket/17", "/ticket/", False),
        ("http://127.0.0.1@evil.example/ticket/17", "/ticket/", False),
        ("javascript:/ticket/17", "/ticket/", False),
        ("https://files.example/report.pdf", True, True),
        # Without a Location, or with one that no browser reads.
        ("", "/", False),
        ("http://[/ticket/17", "/", False),
        (None, "/", False),
        (None, True, True),
        # A path that only looks like a language.
        ("/tmp/ticket", True, True),
    ],
)
def test_which_redirects_complete_a_job(site: Site, location: str, option: Any, is_completed: bool) -> None:
    status = redirect(site, location, redirect_ok=option)
    assert status.status is (Status.COMPLETED if is_completed else Status.FAILED)
    assert (status.error == "") is is_completed
    assert "secret" not in f"{status.as_dict()}"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/ticket/17?token=canary#canary", "/ticket/17"),
        ("http://127.0.0.1/ticket/17", "/ticket/17"),
        ("17", "/17"),
        ("/caf\u00e9 17", "/caf%C3%A9%2017"),
        ("/report;jsessionid=canary/17", "/report/17"),
        ("https://ann:canary@files.example:8443/a?canary", "https://files.example:8443/a"),
        ("mailto:canary@people.example", "mailto:"),
        ("", ""),
        ("/" + "a" * 5000, "/" + "a" * 999),
    ],
)
@pytest.mark.parametrize("option", [True, False])
def test_what_is_shown_of_a_location(site: Site, location: str, shown: str, option: bool) -> None:
    status = redirect(site, location, redirect_ok=option)
    assert (status.location, status.as_dict()["location"]) == (shown, shown)
    assert "canary" not in f"{status.as_dict()}"


@pytest.mark.parametrize("code", ["301 Moved Permanently", "302 Found", "303 See Other"])
def test_the_reason_says_what_is_known(site: Site, code: str) -> None:
    status = redirect(site, "/ticket/17", code)
    assert status.error == f"The app answered {code[:3]} to /ticket/17; {OPTION}"
    assert (status.status_text, status.location) == (status.error, "/ticket/17")


@pytest.mark.parametrize(
    ("location", "option", "reason"),
    [
        ("/other", "/ticket/", "The app answered 303 to /other; redirect_ok allows /ticket/"),
        (None, False, f"The app answered 303 without a Location; {OPTION}"),
        ("http://[", False, f"The app answered 303 with a Location that can't be read; {OPTION}"),
        ("/a", is_broken, "The app answered 303 to /a; redirect_ok raised LookupError: see the log"),
    ],
)
def test_other_reasons(site: Site, location: str | None, option: Any, reason: str) -> None:
    assert redirect(site, location, redirect_ok=option).error == reason


@pytest.mark.parametrize("option", [False, True])
@pytest.mark.parametrize("location", ["/ticket/17", "/login", "/ticket/", None])
def test_a_redirect_is_never_tried_again(site: Site, location: str | None, option: bool) -> None:
    for code in ("301 Moved Permanently", "303 See Other", "304 Not Modified"):
        status = redirect(site, location, code, retries=2, redirect_ok=option)
        assert (status.status.is_final, status.attempt) == (True, 1)


@pytest.mark.parametrize(
    "location",
    [
        *("/login", "/login?next=/x", "/accounts/login/", "/user/sign-in", "/sign_in", "/wp-login.php"),
        *("/require_login", "/login_form", "/@@login", "/auth", "/oauth2/authorize", "/oauth/start"),
        *("/login/google-oauth2/", "/SSO/x"),
        *("/saml2/idp", "/logon", "/#/login", "//login.example/", "https://sso.example/start", "http://x.test/auth"),
        # A page that asks to come back to the job's own.
        *("/enter?next=/ticket", "/enter?next=%2Fticket%3Fa%3D1", "/e?url=http://127.0.0.1/ticket"),
        "//x.test/?r=%2Fticket",
        "/ticket/../login",
    ],
)
@pytest.mark.parametrize("option", [True, "/", lambda status, location: True])
def test_a_login_page_is_no_success(tmp_path: Path, location: str, option: Any) -> None:
    with wrap(tmp_path, redirect_ok=option) as site:
        status = redirect(site, location, "302 Found")
    assert (status.status, status.location != "") == (Status.FAILED, True)
    assert "which looks like a login page; if not, set redirect_ok to its path" in status.error


@pytest.mark.parametrize(
    ("location", "option", "is_completed"),
    [
        ("/account/auth", "/account/auth", True),
        ("/settings/oauth2-clients/3", "/settings/oauth2-clients/", True),
        ("/event/sign-in/7/done?next=/ticket", "/event/sign-in/7/", True),
        ("/invoice/17?again=/ticket", "/invoice", True),
        ("/done?next=/ticket", "/done", True),
        ("/blog/login?next=/ticket", "/blog/", False),
        ("/sso/login", "/sso", False),
    ],
)
def test_a_path_that_redirect_ok_names_is_no_login_page(
    site: Site, location: str, option: str, is_completed: bool
) -> None:
    status = redirect(site, location, "302 Found", redirect_ok=option)
    assert status.status is (Status.COMPLETED if is_completed else Status.FAILED)


@pytest.mark.parametrize(
    "location",
    [
        *("/login-history/17", "/admin/auth/user/17/change/", "/logins/7", "/blog/signing-in", "/authors/7"),
        *("/oauthors", "/assign/in", "/ticket/17?from=/other", "/ticket/17?next=17", "https://files.example/auth/17"),
    ],
)
def test_what_is_no_login_page(site: Site, location: str) -> None:
    assert redirect(site, location, "302 Found", redirect_ok=True).status is Status.COMPLETED


@pytest.mark.parametrize(
    "location",
    [
        *("/login;jsessionid=1", "/login%20", "https://login-eu.id.test/start", "https://my-sso.id.test/start"),
        *("https://id.test/adfs/ls/?SAMLRequest=a", "https://id.test/a?response_type=code&client_id=b"),
        "/in?to=/ticket/",
        "https://id.test/ls/?wa=wsignin1.0&wtrealm=urn:a",
    ],
)
def test_what_is_a_login_page(site: Site, location: str) -> None:
    assert "looks like a login page" in redirect(site, location, "302 Found", redirect_ok=True).error


def test_a_way_back_may_leave_out_the_mount(site: Site) -> None:
    site.job = webob.exc.HTTPFound(location="/app/in?next=/ticket")
    job_id = site.start("/app/ticket", redirect_ok=True, by={"SCRIPT_NAME": "/app"})
    site.work(job_id, SCRIPT_NAME="/app")
    assert "looks like a login page" in site.status(job_id).error


class Interrupted(BaseException):
    """Such as gevent.Timeout."""


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda status, location: iter_rules(), "redirect_ok raised TypeError: see the log"),
        (lambda status, location: {}[location], "redirect_ok raised KeyError: see the log"),
        (lambda status, location: interrupt(), "Interrupted: too long"),
    ],
)
def test_a_function_that_answers_nothing_fails_the_job(tmp_path: Path, function: Any, told: str) -> None:
    with wrap(tmp_path, redirect_ok=function) as site:
        found = redirect(site, "/ticket/17?token=canary")
    assert found.status is Status.FAILED
    assert found.error.endswith(told)
    assert "canary" not in f"{found.as_dict()}"


def iter_rules() -> Iterator[bool]:
    yield False


def interrupt() -> bool:
    raise Interrupted("too long")


@pytest.mark.parametrize(
    "make",
    [
        lambda: webob.exc.HTTPSeeOther(location="/ticket/17"),
        lambda: werkzeug.routing.RequestRedirect("/ticket/17"),
        lambda: bottle.HTTPResponse(status=303, headers={"Location": "/ticket/17"}),
        lambda: werkzeug.exceptions.HTTPException(response=werkzeug.utils.redirect("/ticket/17", 303)),
    ],
)
def test_a_redirect_that_leaves_the_app_as_an_exception_is_one(site: Site, make: Callable[[], Exception]) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise make()

    site.job = app
    found = site.run("/ticket", method="POST", redirect_ok=True)
    assert (found.status is Status.COMPLETED or " 308 to " in found.error, found.location) == (True, "/ticket/17")


def test_the_login_page_that_the_app_names(site: Site) -> None:
    for named, location in [
        ("/enter/", "/enter?x"),
        ("enter", "/enter"),
        ("https://id.test/in", "https://id.test/in?a"),
    ]:

        def app(environ: dict[str, Any], start_response: Any, urls: Any = (named, location)) -> list[bytes]:
            environ["backjob"].note_login_url(urls[0])
            start_response("302 Found", [("Location", urls[1])])
            return []

        site.job = app
        assert site.run("/ticket", method="POST", redirect_ok=True).error.endswith("a login page: nothing was done")
    site.within(lambda jobs: jobs.note_login_url("/enter"))


@pytest.mark.parametrize("status", ["301 Moved Permanently", "308 Permanent Redirect", "307 Temporary Redirect"])
@pytest.mark.parametrize("option", [False, True, "/"])
def test_a_redirect_that_corrects_the_url_names_the_right_one(site: Site, status: str, option: Any) -> None:
    code = status[:3]
    for target, location, reason in [
        ("/ticket", "/ticket/", "which only adds a slash: start the job with the target /ticket/"),
        ("/ticket/?a=canary", "http://127.0.0.1/ticket?a=canary", "which only removes a slash: start the job with"),
        ("/ticket", "https://127.0.0.1/ticket", "which only changes http to https: start the job from an https"),
        ("/ticket", "https://127.0.0.1/ticket/", "which only changes http to https and adds a slash: start the job"),
    ]:
        found = redirect(site, location, status, target=target, redirect_ok=option)
        assert found.status is Status.FAILED
        assert found.error.startswith(f"The app answered {code} to /ticket")
        assert reason in found.error
        assert "canary" not in f"{found.as_dict()}"


@pytest.mark.parametrize(
    ("status", "location", "method", "reason"),
    [
        ("308 Permanent", "/a/b", "POST", "asks for the same request there: start the job with the target /a/b"),
        ("307 Temporary", "/node2/ticket", "GET", "asks for the same request there: start the job with the"),
        ("307 Temporary", "//other.example/a", "GET", "asks for the same request there, which is another site"),
        ("302 Found", "/en/ticket", "GET", "only adds a language: start the job with the target /en/ticket"),
        ("301 Moved", "/pt-br/ticket", "POST", "only adds a language: start the job with the target /pt-br/ticket"),
        ("301 Moved", "//www.a.example/ticket", "POST", "only changes the host to www.a.example: start the job from a"),
        ("302 Found", "https://127.0.0.1/ticket", "POST", "only changes http to https: start the job from an https"),
        ("303 See Other", "/ticket/", "GET", "only adds a slash: start the job with the target /ticket/"),
        ("302 Found", "/en/ticket/", "GET", "only adds a language and adds a slash: start the job with the target /en"),
        ("301 Moved", "//www.a.example/ticket/", "POST", "only changes the host to www.a.example and adds a slash"),
        ("302 Found", "//www.127.0.0.1/ticket", "POST", "only changes the host to www.127.0.0.1: start the job from a"),
        (
            "301 Moved",
            "https://a.example/de/ticket/",
            "GET",
            (
                "only changes http to https and changes the host to a.example and adds a language and adds a slash: "
                "start the job with the target /de/ticket/ from an https request to that host, or set connect_headers="
            ),
        ),
    ],
)
@pytest.mark.parametrize("option", [False, True])
def test_a_redirect_before_the_work_is_no_success(
    site: Site, status: str, location: str, method: str, reason: str, option: bool
) -> None:
    found = redirect(site, location, status, method=method, redirect_ok=option)
    assert found.status is Status.FAILED
    assert f", which {reason}" in found.error


@pytest.mark.parametrize(
    ("status", "location", "method"),
    [
        ("302 Found", "/en/ticket", "POST"),
        ("302 Found", "/files/ticket", "GET"),
        ("302 Found", "//files.example/ticket", "GET"),
        ("302 Found", "/en/ticket/", "POST"),
        ("302 Found", "https://127.0.0.1/ticket/", "POST"),
        ("303 See Other", "https://127.0.0.1/ticket", "POST"),
        ("303 See Other", "//files.example/ticket", "GET"),
    ],
)
def test_a_redirect_after_the_work_is_a_success(site: Site, status: str, location: str, method: str) -> None:
    assert redirect(site, location, status, method=method, redirect_ok=True).status is Status.COMPLETED


@pytest.mark.parametrize(
    ("status", "method", "is_completed"),
    [("303 See Other", "POST", True), ("302 Found", "POST", True), ("302 Found", "GET", False)],
)
def test_after_a_post_a_slash_may_be_another_page(site: Site, status: str, method: str, is_completed: bool) -> None:
    found = redirect(site, "/ticket/", status, method=method, redirect_ok=True)
    assert found.status is (Status.COMPLETED if is_completed else Status.FAILED)


@pytest.mark.parametrize("option", [False, True])
def test_304_is_said_to_be_one(site: Site, option: bool) -> None:
    status = redirect(site, None, "304 Not Modified", redirect_ok=option, method="GET")
    assert status.status is Status.FAILED
    assert status.error.startswith("The app answered 304 (Not Modified) to conditional headers")
    assert "login" not in status.error


def test_the_option_is_asked_when_the_job_runs(tmp_path: Path) -> None:
    with wrap(tmp_path) as site:
        job_id = site.start("/ticket", method="POST")

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("303 See Other", [("Location", "/ticket/17")])
        return []

    with wrap(tmp_path, redirect_ok=lambda status, location: (status, location) == (303, "/ticket/17")) as site:
        site.job = app
        site.work(job_id)
        assert (site.status(job_id).status, site.status(job_id).location) == (Status.COMPLETED, "/ticket/17")


def test_the_body_of_a_redirect_is_not_kept(site: Site) -> None:
    assert redirect(site, "/ticket/17", redirect_ok=True).status_text == ""


@pytest.mark.parametrize("accept", ["text/plain", "application/json", "text/html", ""])
@pytest.mark.parametrize(
    "location",
    [
        *("/a?token=canary", "/a#access_token=canary", "/a;jsessionid=canary", "http://ann:canary@127.0.0.1/a"),
        *("?canary", "/a?next=%2F%C3%A4%22canary", "com.example.app:/a/canary", "http://[canary/a"),
    ],
)
def test_a_redirects_text_that_may_show_a_secret_is_not_kept(site: Site, accept: str, location: str) -> None:
    site.job = webob.exc.HTTPSeeOther(location=location)
    status = site.run("/ticket", method="POST", redirect_ok=True, headers={"Accept": accept} if accept else None)
    assert (status.status, status.status_text) == (Status.COMPLETED, "")
    assert "canary" not in f"{site.rows()}"
    site.job = webob.exc.HTTPSeeOther(location="/a")
    found = site.run("/ticket", method="POST", redirect_ok=True, headers={"Accept": accept} if accept else None)
    assert ("/a" in found.status_text) is (accept != "text/html")


@pytest.mark.parametrize("wrong", ["", "ticket", "//evil", "/a?b", "/a#b", "/a/../b", "/a\\b", "/a\n", "yes"])
def test_a_wrong_prefix_is_refused(site: Site, wrong: str) -> None:
    with pytest.raises(ConfigError, match="redirect_ok must be True, False, a path prefix"):
        BackJob(site.application, redirect_ok=wrong)
    with pytest.raises(ValueError, match="redirect_ok must be True, False, a path prefix"):
        site.start("/ticket", redirect_ok=wrong)
    assert site.application.jobs.find() == []


def test_a_function_that_cant_be_imported_is_refused(site: Site) -> None:
    for wrong in (lambda status, location: True, site.status, is_ticket.__call__):
        with pytest.raises(ValueError, match="at the top level of a module"):
            site.start("/ticket", redirect_ok=wrong)
    for no_function in (7, 0, None.__class__, b"/a"):
        with pytest.raises(TypeError, match="redirect_ok must be"):
            site.start("/ticket", redirect_ok=no_function)
    assert site.application.jobs.find() == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("on", True), ("no", False), (" /ticket/ ", "/ticket/"), (f"{__name__}:is_ticket", is_ticket)],
)
def test_the_option_as_text(text: str, value: Any) -> None:
    assert read_settings({"backjob.redirect_ok": text}) == {"redirect_ok": value}


@pytest.mark.parametrize("text", ["perhaps", "nowhere_at_all:f", f"{__name__}:nothing"])
def test_wrong_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="redirect_ok"):
        read_settings({"backjob.redirect_ok": text})
