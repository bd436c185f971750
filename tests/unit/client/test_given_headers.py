"""Headers of a job: those of a request that is given, those that start() is given, and those that go along."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import webob
from support.served import Site, make_environ, wrap

from backjob import Status
from backjob.integrations.replay import keep_sent, make_again
from backjob.wsgi.headers import FORWARD_HEADERS

CANARY = "canary-4711"
BROWSER = {
    "HTTP_HOST": "shop.example",
    "HTTP_COOKIE": "session=ada",
    "HTTP_USER_AGENT": "Ada's browser",
    "HTTP_ACCEPT": "application/pdf",
    "HTTP_ACCEPT_ENCODING": "gzip",
    "HTTP_CONNECTION": "keep-alive",
    "HTTP_SEC_FETCH_SITE": "same-origin",
    "HTTP_X_REQUEST_ID": "17",
}


class Store:
    """A WebDAV-like store: its job deletes what it holds, unless a precondition says no."""

    def __init__(self) -> None:
        self.holds = True
        self.seen: dict[str, Any] = {}
        self.status = "200 OK"
        self.headers: list[tuple[str, str]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.seen = {key: value for key, value in environ.items() if key.startswith("HTTP_")}
        if environ["REQUEST_METHOD"] == "DELETE":
            if environ.get("HTTP_IF_MATCH", '"2"') != '"2"':
                start_response("412 Precondition Failed", [])
                return []
            self.holds = False
        start_response(self.status, self.headers)
        return []


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def site(tmp_path: Path, store: Store) -> Iterator[Site]:
    with wrap(tmp_path, store) as site:
        yield site


# A webob.Request as the target.


def test_a_precondition_of_a_given_request_holds_in_the_job(site: Site, store: Store) -> None:
    """The app answers 412 in the foreground: as a job it must not delete."""
    given = webob.Request.blank("/job", method="DELETE", headers={"If-Match": '"1"'})
    status = site.run(given)
    assert (status.status, status.status_text, store.holds) == (Status.FAILED, "HTTP 412 Precondition Failed", True)


@pytest.mark.parametrize("as_user", [True, False])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("If-None-Match", "*"),
        ("If-Unmodified-Since", "Sat, 29 Oct 1994 19:43:31 GMT"),
        ("If", "(<urn:lock> [W/'x'])"),
        ("Depth", "0"),
        ("Destination", "http://shop.example/b"),
        ("Overwrite", "F"),
        ("Range", "bytes=0-1"),
        ("Content-Range", "bytes 0-1/2"),
        ("Content-Encoding", "gzip"),
        ("Prefer", "return=minimal"),
        ("SOAPAction", '""'),
        ("X-HTTP-Method-Override", "PATCH"),
        ("X-Dry-Run", "\xe4"),
        ("Idempotency-Key", "8e03978e"),
        ("Lock-Token", "<urn:uuid:181d4fae>"),
        ("User-Agent", "importer/2"),
        ("Accept", "text/csv"),
    ],
)
def test_end_to_end_headers_of_a_given_request_are_kept(
    site: Site, store: Store, name: str, value: str, as_user: bool
) -> None:
    key = "HTTP_" + name.upper().replace("-", "_")
    for given in (
        webob.Request.blank("/job", environ={key: value}),
        webob.Request({**make_environ("/job"), key: value}),
    ):
        site.run(given, by=BROWSER, as_user=as_user)
        assert store.seen[key] == value


@pytest.mark.parametrize(
    "name",
    [
        *["X-Api-Key", "X-Auth-Token", "X-CSRF-Token", "X-Real-IP", "DPoP", "Ocp-Apim-Subscription-Key"],
        *["X-Forwarded-User", "X-Forwarded-Client-Cert", "Remote-Name", "X-MS-CLIENT-PRINCIPAL-NAME"],
        *["X-Azure-ClientIP", "CloudFront-Viewer-Address", "X-Original-Forwarded-For", "X-Remote-Addr"],
        *["X-SSL-Subject-DN", "X-Passwd", "X-Login", "X-Credential-Identifier", "X-Vouch-Idp-Claims-Name"],
        *["X-Plex-Key", "X-Shopify-Hmac-Sha256"],
    ],
)
def test_credentials_of_a_given_request_are_not_an_anonymous_jobs(site: Site, store: Store, name: str) -> None:
    given = webob.Request.blank("/job", headers={name: CANARY, "Cookie": CANARY, "Authorization": CANARY})
    site.run(given, by=BROWSER)
    assert list(store.seen.values()).count(CANARY) == 3
    site.run(given, by=BROWSER, as_user=False)
    assert CANARY not in store.seen.values()


@pytest.mark.parametrize(
    ("headers", "names"),
    [
        ({"Transfer-Encoding": CANARY}, "Transfer-Encoding"),
        ({"TE": CANARY}, "TE"),
        ({"Trailer": CANARY}, "Trailer"),
        ({"Upgrade": CANARY}, "Upgrade"),
        ({"Keep-Alive": CANARY}, "Keep-Alive"),
        ({"Proxy-Authorization": CANARY}, "Proxy-Authorization"),
        ({"Proxy-Authenticate": CANARY}, "Proxy-Authenticate"),
        ({"Expect": "100-continue"}, "Expect"),
        ({"Connection": "close, X-Hop", "X-Hop": CANARY}, "Connection, X-Hop"),
    ],
)
def test_hop_by_hop_headers_of_a_given_request_are_refused(site: Site, headers: dict[str, str], names: str) -> None:
    with pytest.raises(ValueError, match=f"webob.Request has {names}: ") as caught:
        site.start(webob.Request.blank("/job", headers=headers))
    assert CANARY not in str(caught.value)
    assert site.launches.tokens == []


def test_a_copy_of_the_starting_request_is_taken_whatever_its_connection_said(site: Site, store: Store) -> None:
    """Firefox sends ``TE: trailers``, curl asks for an upgrade: that was about the browser's connection."""
    by = {**BROWSER, "HTTP_TE": "trailers", "HTTP_CONNECTION": "TE, Upgrade, close", "HTTP_UPGRADE": "h2c"}
    site.run(webob.Request({**make_environ("/job"), **by}), by=by)
    assert store.seen["HTTP_ACCEPT_ENCODING"] == "gzip"
    assert not {"HTTP_TE", "HTTP_CONNECTION", "HTTP_UPGRADE"} & store.seen.keys()


@pytest.mark.parametrize("value", ["keep-alive", "close", "Keep-Alive, close", ""])
def test_what_becomes_of_the_connection_is_no_reason_to_refuse(site: Site, store: Store, value: str) -> None:
    site.run(webob.Request.blank("/job", headers={"Connection": value, "Depth": "1"}))
    assert ("HTTP_CONNECTION" in store.seen, store.seen["HTTP_DEPTH"]) == (False, "1")


def test_host_length_and_token_are_the_jobs_own(site: Site, store: Store) -> None:
    headers = {"Host": "evil.example", "Backjob-Token": CANARY}
    given = webob.Request.blank("/job", headers=headers, environ={"HTTP_CONTENT_LENGTH": CANARY})
    site.run(given, by=BROWSER)
    assert store.seen["HTTP_HOST"] == "shop.example"
    assert CANARY not in store.seen.values()


def test_an_origin_that_was_given_is_the_jobs(site: Site, store: Store) -> None:
    given = webob.Request.blank("/job", method="POST", headers={"Origin": "https://partner.example"})
    site.run(given, by=BROWSER)
    assert store.seen["HTTP_ORIGIN"] == "https://partner.example"


@pytest.mark.parametrize("value", [f"a\r\n{CANARY}", f"{CANARY}\0", f"{CANARY}\u20ac", 7])
def test_a_value_that_is_none_is_refused(site: Site, value: Any) -> None:
    for given in ({"target": webob.Request.blank("/job", environ={"HTTP_X_A": value})}, {"headers": {"X-A": value}}):
        with pytest.raises((TypeError, ValueError), match="the value of header X-A") as caught:
            site.start(**{"target": "/job", **given})
        assert CANARY not in str(caught.value)


# start(headers=…)


def test_headers_for_one_job(site: Site, store: Store) -> None:
    """Over those of a given request, and over those that go along."""
    headers = {"x-api-key": f" {CANARY} ", "Accept": "text/csv", "If-Match": '"2"', "Cookie": "session=own"}
    for target in ("/job", webob.Request.blank("/job", headers={"Accept": "text/html", "Depth": "0"})):
        site.run(target, headers=headers, by=BROWSER)
        expected = {"X_API_KEY": CANARY, "ACCEPT": "text/csv", "IF_MATCH": '"2"', "COOKIE": "session=own"}
        assert {key: store.seen[f"HTTP_{key}"] for key in expected} == expected
    assert store.seen["HTTP_DEPTH"] == "0"


def test_headers_of_a_job_that_is_started_outside_of_a_request(tmp_path: Path, store: Store) -> None:
    with wrap(tmp_path, store, connect="http://shop.example") as site:
        job_id = site.application.jobs.start("/job", headers={"Authorization": "Bearer service", "X-Tenant": "7"})
        site.work(job_id)
    assert (store.seen["HTTP_AUTHORIZATION"], store.seen["HTTP_X_TENANT"]) == ("Bearer service", "7")


@pytest.mark.parametrize(
    ("headers", "error", "message"),
    [
        ("Accept: text/csv", TypeError, "headers must be a mapping of header names to str values, not str"),
        ([("X-A", CANARY)], TypeError, "headers must be a mapping"),
        ({7: CANARY}, ValueError, "the name of a header is not a token"),
        ({f"Basic {CANARY}": "Authorization"}, ValueError, "the name of a header is not a token"),
        ({f"X-A\r\nX-B: {CANARY}": "1"}, ValueError, "is not a token"),
        ({"X-A": None}, TypeError, "the value of header X-A must be a str, not NoneType"),
        ({"X-A": CANARY.encode()}, TypeError, "must be a str, not bytes"),
        ({"X-A": CANARY, "x_a": CANARY}, ValueError, "headers has x_a twice"),
        ({"connection": "close"}, ValueError, "headers can't have connection: it is about one connection"),
        ({"Transfer-Encoding": "chunked"}, ValueError, "headers can't have Transfer-Encoding"),
        ({"Host": CANARY}, ValueError, "headers can't have Host: it follows from the site"),
        ({"Content-Length": "7"}, ValueError, "headers can't have Content-Length"),
        ({"Content-Type": "text/csv"}, ValueError, "headers can't have Content-Type"),
        ({"Backjob-Token": CANARY}, ValueError, "headers can't have Backjob-Token"),
    ],
)
def test_what_is_no_headers_is_refused(site: Site, headers: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        site.start("/job", headers=headers)
    assert message in str(caught.value)
    assert CANARY not in str(caught.value)
    assert site.launches.tokens == []


@pytest.mark.parametrize("name", ["Cookie", "authorization"])
def test_an_anonymous_job_can_be_given_no_credential(site: Site, name: str) -> None:
    """What an anonymous job was started with is kept after a failure, for retry()."""
    with pytest.raises(ValueError, match=f"headers can't have {name} with as_user=False"):
        site.start("/job", headers={name: CANARY}, as_user=False)


def test_headers_are_sealed_and_never_shown(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    job_id = site.start("/job", headers={"X-Api-Key": CANARY}, by=BROWSER)
    request = site.backend.keyring.unseal(job_id, site.row(job_id).uid, site.row(job_id).sealed)
    assert request.headers["HTTP_X_API_KEY"] == CANARY
    assert CANARY not in f"{request!r} {site.rows()} {caplog.text}"
    site.work(job_id)
    assert site.row(job_id).sealed is None


@pytest.mark.parametrize(
    "other",
    [
        {"headers": {"If-Match": '"2"'}},
        {"headers": {"Accept": "text/csv"}},
        {"target": webob.Request.blank("/job", headers={"If-Match": '"2"'})},
        {"target": webob.Request.blank("/job", headers={"X-Api-Key": "bea"})},
    ],
)
def test_unique_minds_what_the_app_has_given(site: Site, other: dict[str, Any]) -> None:
    job_id = site.start("/job", unique=True, by=BROWSER)
    assert site.start(**{"target": "/job", **other}, unique=True, by=BROWSER) != job_id


@pytest.mark.parametrize("as_user", [True, False])
@pytest.mark.parametrize("name", ["Host", "Port", "Prefix", "Proto"])
def test_unique_minds_where_the_job_sees_its_site(site: Site, name: str, *, as_user: bool) -> None:
    key = f"HTTP_X_FORWARDED_{name.upper()}"
    ids = [site.start("/job", unique=True, as_user=as_user, by={**BROWSER, key: each}) for each in ("a", "b", "a")]
    assert ids[0] == ids[2] != ids[1]


def test_unique_does_not_mind_what_differs_by_itself(site: Site) -> None:
    job_id = site.start("/job", unique=True, by=BROWSER)
    noise = {
        "X-Amzn-Trace-Id": "Root=1",
        "Sec-Fetch-Site": "none",
        "Via": "1.1 p",
        "Referer": "/a",
        "X-Request-ID": "8",
    }
    assert site.start(webob.Request.blank("/job", headers=noise), unique=True, by=BROWSER) == job_id


# What goes along by itself.


def test_the_browsers_name_and_what_it_accepts_go_along(site: Site, store: Store) -> None:
    """Some sessions are bound to the one, and some apps choose their response by the other."""
    assert {"User-Agent", "Accept"} <= set(FORWARD_HEADERS)
    site.run("/job", by=BROWSER)
    assert (store.seen["HTTP_USER_AGENT"], store.seen["HTTP_ACCEPT"]) == ("Ada's browser", "application/pdf")
    site.run("/job", by=BROWSER, as_user=False)
    assert store.seen["HTTP_USER_AGENT"].startswith("backjob/")
    assert "HTTP_ACCEPT" not in store.seen


# A job that is refused says what it did not have.


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("401 Unauthorized", "HTTP 401 Unauthorized"),
        ("403 Forbidden", "HTTP 403 Forbidden"),
        ("302 Found", "The app answered 302 to /login, which looks like a login page"),
    ],
)
def test_a_refused_job_names_the_headers_that_were_not_taken_along(
    site: Site, store: Store, status: str, reason: str
) -> None:
    store.status, store.headers = status, [("Location", "/login")]
    by = {**BROWSER, "HTTP_X_API_KEY": CANARY, "HTTP_X_FORWARDED_USER": CANARY, "HTTP_RANGE": "bytes=0-1"}
    text = site.run("/job", by=by).status_text
    told = ". X-Api-Key, X-Forwarded-User were not taken along from the request that started this job: "
    assert text.startswith(reason)
    assert text.endswith(told + "see forward_headers")
    assert CANARY not in text
    assert "not taken along" not in site.run("/job", by={**BROWSER, "HTTP_X_API_KEY": ""}).status_text
    anonymous = site.run("/job", by=BROWSER, as_user=False).status_text
    assert anonymous.endswith(". Cookie was not taken along from the request that started this job: as_user=False")


def test_a_header_that_was_taken_along_is_not_named(site: Site, store: Store) -> None:
    store.status, by = "401 Unauthorized", {**BROWSER, "HTTP_X_API_KEY": CANARY}
    assert site.run("/job", by=by, headers={"X-Api-Key": CANARY}).status_text == "HTTP 401 Unauthorized"
    given = webob.Request.blank("/job", headers={"X-Api-Key": CANARY})
    assert site.run(given, by=by).status_text == "HTTP 401 Unauthorized"


@pytest.mark.parametrize("status", ["404 Not Found", "412 Precondition Failed", "500 Broken"])
def test_another_failure_says_nothing_of_headers(site: Site, store: Store, status: str) -> None:
    store.status = status
    assert site.run("/job", by={**BROWSER, "HTTP_X_API_KEY": CANARY}).status_text == f"HTTP {status}"


def test_a_client_does_not_decide_how_long_the_list_is(site: Site, store: Store) -> None:
    store.status = "403 Forbidden"
    many = {f"HTTP_X_{number:03}": "v" for number in range(500)}
    text = site.run("/job", by={**BROWSER, **many, "HTTP_" + "A" * 5000: "v", "HTTP_A\n": "v"}).status_text
    assert len(text) < 400
    assert text.count("X-0") == 19
    assert "\n" not in text


# The browser's own request once more: the background decorators.


def again(method: str = "POST", **more: str) -> Any:
    environ = make_environ("/job", method, **{**BROWSER, **more})
    sent = keep_sent(environ, ("HTTP_X_TOKEN",), [])
    return make_again(environ, b"", "", sent)


def test_background_is_the_same_request(site: Site, store: Store) -> None:
    more = {"HTTP_IF_MATCH": '"1"', "HTTP_X_DRY_RUN": "1", "HTTP_IF_NONE_MATCH": "*", "HTTP_X_TOKEN": CANARY}
    by = {**BROWSER, **more}
    status = site.run(again("DELETE", **more), by=by)
    assert (status.status_text, store.holds) == ("HTTP 412 Precondition Failed", True)
    assert {key: store.seen.get(key) for key in more} == {**more, "HTTP_X_TOKEN": None}
    assert store.seen["HTTP_ORIGIN"] == "http://shop.example"
    assert not {"HTTP_SEC_FETCH_SITE", "HTTP_ACCEPT_ENCODING"} & store.seen.keys()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_browsers_cache_does_not_make_a_background_job_a_304(site: Site, store: Store, method: str) -> None:
    more = {
        "HTTP_IF_MODIFIED_SINCE": "x",
        "HTTP_RANGE": "bytes=0-1",
        "HTTP_IF_RANGE": '"1"',
        "HTTP_IF_NONE_MATCH": '"1"',
    }
    site.run(again(method, **more), by={**BROWSER, **more})
    assert store.seen.keys() & more.keys() == ({"HTTP_IF_NONE_MATCH"} if method == "POST" else set())


def test_a_given_body_is_what_it_was(site: Site, store: Store) -> None:
    given = webob.Request(make_environ("/job", "PUT", b"\x1f\x8b", HTTP_CONTENT_ENCODING="gzip", CONTENT_TYPE="a/b"))
    request = site.backend.keyring.unseal(1, site.row(site.start(given)).uid, site.row(1).sealed)
    assert (request.body, request.content_type) == (b"\x1f\x8b", "a/b")
