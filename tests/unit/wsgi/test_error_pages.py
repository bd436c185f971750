"""Error pages of real frameworks and debuggers: the job fails with one line, and nothing of the page is kept."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import bottle
import flask
import pytest
import webob.exc
import werkzeug.exceptions
from support.served import KEY, Site, wrap
from werkzeug.debug import DebuggedApplication

from backjob import BackJob, JobEnded, JobStatus, Status

TEXT = [("Content-Type", "text/plain; charset=utf-8")]
HTML = [("Content-Type", "text/html; charset=utf-8")]
CANARY = "canary-of-a-user"
App = Callable[..., Iterable[bytes]]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with wrap(tmp_path) as site:
        yield site


def run(site: Site, app: App, target: str = f"/job?q={CANARY}", **options: Any) -> JobStatus:
    site.job = app
    return site.run(target, **options)


def answer(*chunks: bytes, status: str = "200 OK", headers: list[tuple[str, str]] = TEXT) -> App:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response(status, headers)
        return chunks

    return app


# --- Pages instead of an answer --------------------------------------------------------------------------------------


def make_flask() -> App:
    app = flask.Flask("site")

    @app.route("/job")
    def job() -> str:
        flask.request.environ["backjob"].update(40, "so far")
        raise ValueError("no figures")

    return app.wsgi_app


def make_bottle() -> App:
    app = bottle.Bottle()

    @app.route("/job")
    def job() -> str:
        bottle.request.environ["backjob"].update(40, "so far")
        raise ValueError("no figures")

    return app


def break_down(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    environ["backjob"].update(40, "so far")
    raise ValueError("no figures")


PAGES = {
    "flask": (make_flask, "HTTP 500 INTERNAL SERVER ERROR"),
    "bottle": (make_bottle, "HTTP 500 Internal Server Error: ValueError: no figures"),
    "werkzeug's debugger": (
        lambda: DebuggedApplication(break_down, evalex=True),
        "HTTP 500 INTERNAL SERVER ERROR: ValueError: no figures",
    ),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_not_kept(site: Site, name: str) -> None:
    make, error = PAGES[name]
    status = run(site, make())
    assert (status.status, status.error) == (Status.FAILED, error)
    assert status.status_text == f"so far\n{error}"  # what the job told itself stays
    row = f"{site.rows()}"
    assert not any(each in row for each in (CANARY, "SECRET", "<html", "<title"))


@pytest.mark.parametrize("status", ["303 See Other", "401 Unauthorized", "404 Not Found", "500 Oops", "503 Busy"])
@pytest.mark.parametrize("content_type", ["text/html", "Text/HTML; charset=latin-1", "application/xhtml+xml"])
def test_of_a_failing_answer_html_is_not_kept(site: Site, status: str, content_type: str) -> None:
    found = run(site, answer(b"<p>", CANARY.encode(), status=status, headers=[("content-type", content_type)]))
    assert (found.status, found.status_text) == (Status.FAILED, found.error)


DJANGO = f"KeyError at /job\n\nRequest Method: POST\nRequest URL: http://x/job?a={CANARY}\n\nDjango Version: 5.2\n"
PAGES_OF_OTHER_TYPES = {
    "html": f"\n<!DOCTYPE HTML><title>{CANARY}",
    "marked": f"\ufeff<html>{CANARY}",
    "xhtml": f'<?xml version="1.0"?>\n<!DOCTYPE html><p>{CANARY}',
    "commented": f"<!-- a proxy -- its page -->\n <!-- 1 -->\n<Body class=x>{CANARY}",
    "fragment": f"<h1>Not found</h1>{CANARY}",
    "django": DJANGO,
    "long": f"KeyError: {'x' * 30_000}\n{DJANGO}",
}
ENCODERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize(
    ("content_type", "coding"),
    [("text/plain", ""), ("application/problem+json", "gzip"), ("text/plain; charset=utf-16", "deflate"), ("", "gzip")],
)
@pytest.mark.parametrize("size", [5, 10**6])
@pytest.mark.parametrize("name", PAGES_OF_OTHER_TYPES)
def test_pages_are_recognized_whatever_they_are_called_and_however_they_are_cut(
    site: Site, name: str, size: int, coding: str, content_type: str
) -> None:
    """As Django's debug page for a script, behind its GZipMiddleware."""
    charset = "utf-16" if "utf-16" in content_type else "utf-8"
    body = ENCODERS[coding](PAGES_OF_OTHER_TYPES[name].encode(charset))
    headers = [("Content-Type", content_type), ("Content-Encoding", coding)]
    chunks = [body[at : at + size] for at in range(0, len(body), size)]

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["backjob"].update(40, "so far")
        return answer(*chunks, status="500 Oops", headers=headers)(environ, start_response)

    assert run(site, app).status_text == "so far\nHTTP 500 Oops"


def test_utf_16_that_is_declared_as_utf_8_is_recognized(site: Site) -> None:
    page = answer(f"<html>{CANARY}".encode("utf-16"), status="500 Oops", headers=TEXT)
    assert run(site, page).status_text == "HTTP 500 Oops"


def test_a_long_text_of_a_failing_answer_is_kept_in_order(tmp_path: Path) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("500 Oops", TEXT)
        yield b"1 "
        print(2, file=environ["backjob"], end=" ")
        yield b"3 " * 40_000
        print(4, file=environ["backjob"], end=" ")
        yield b"5"

    expected = f"1 2 {'3 ' * 40_000}4 5\nHTTP 500 Oops"
    with wrap(tmp_path, max_output=10**6) as site:
        assert run(site, app).status_text == expected


def test_a_redirect_s_html_of_another_type_is_not_kept(site: Site) -> None:
    headers = [*TEXT, ("Location", "/done")]
    found = run(site, answer(b"<!doctype", b"\nhtml>canary", status="302 Found", headers=headers))
    assert found.status_text == found.error


def test_a_byte_order_mark_may_be_of_another_charset(site: Site) -> None:
    headers = [("Content-Type", "text/plain; charset=latin-1")]
    page = answer(f"<html>{CANARY}".encode("utf-8-sig"), status="500 Oops", headers=headers)
    assert run(site, page).status_text == "HTTP 500 Oops"


@pytest.mark.parametrize("location", ["/done", "https://example.com/done", ""])
def test_text_of_a_redirect_that_hides_nothing_is_kept(site: Site, location: str) -> None:
    found = run(site, answer(b"sent to ", b"7", status="302 Found", headers=[*TEXT, ("Location", location)]))
    assert found.status_text == f"sent to 7\n{found.error}"


@pytest.mark.parametrize(
    ("first", "expected"), [("no paper", "1\nno paper\n2\n in tray\n3\n"), ("<!doctype", "1\n2\n3\n")]
)
def test_what_the_job_writes_meanwhile_stays_in_its_place(site: Site, first: str, expected: str) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        jobs = environ["backjob"]
        print(1, file=jobs)
        start_response("500 Oops", TEXT)
        yield f"{first}\n".encode()
        print(2, file=jobs)
        seen.append(jobs.status(jobs.job_id).status_text)
        yield b"html>" if first[0] == "<" else b" in tray\n"
        print(3, file=jobs)

    seen: list[str] = []
    assert run(site, app).status_text == f"{expected}HTTP 500 Oops"
    assert all("no paper" not in each and "doctype" not in each for each in seen)


def test_a_text_that_is_set_after_the_body_replaces_it(site: Site) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("500 Oops", TEXT)
        yield b"no paper"
        environ["backjob"].update(40, "1 of 2")

    assert run(site, app).status_text == "1 of 2\nHTTP 500 Oops"


def test_the_body_before_an_exception_is_kept(site: Site) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("500 Oops", TEXT)
        yield b"no paper"
        raise ValueError("no ink")

    assert run(site, app).status_text == "no paper\nValueError: no ink"


def test_a_long_body_is_held_back_in_part_only(site: Site) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("500 Oops", TEXT)
        for _ in range(200):
            yield b"x" * 1000
        tracemalloc.start()
        for _ in range(200):
            yield b"y" * 10**6
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    held: list[int] = []
    assert re.match(r"\[\d+ bytes of earlier output were cut: .*\n(y{900000})", run(site, app).status_text)
    assert held[0] < 20 * 10**6


@pytest.mark.parametrize("content_type", ["text/plain", "application/problem+json", ""])
def test_other_text_of_a_failing_answer_is_kept(site: Site, content_type: str) -> None:
    found = run(site, answer(b"no paper left", status="500 Oops", headers=[("Content-Type", content_type)]))
    assert (found.status_text, found.error) == ("no paper left\nHTTP 500 Oops", "HTTP 500 Oops")


def test_html_of_a_good_answer_is_kept(site: Site) -> None:
    assert run(site, answer(b"<p>done", headers=HTML)).status_text == "<p>done"


def test_what_the_job_wrote_before_the_page_is_kept(site: Site) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        print("3 of 7 sent", file=environ["backjob"])
        start_response("500 Oops", HTML)
        environ["backjob"].write("cleaned up\n")
        return [b"<p>page"]

    assert run(site, app).status_text == "3 of 7 sent\ncleaned up\nHTTP 500 Oops"


def test_the_reason_is_one_line(site: Site) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise ValueError("first\nsecond " + "x" * 5000)

    status = run(site, app)
    assert status.error == "ValueError: first"
    site.job = answer()
    job_id = site.start("/job")
    site.application.jobs.fail("\n " + "y" * 5000 + "\nmore", job_id)
    assert site.status(job_id).error == "y" * 1000


def test_the_reason_of_the_last_attempt_is_seen_until_the_next_one_begins(site: Site) -> None:
    seen = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        jobs = environ["backjob"]
        seen.append(jobs.status(jobs.job_id).error)
        if jobs.attempt == 1:
            raise ValueError("no figures")
        return answer(b"done")(environ, start_response)

    site.job = app
    job_id = site.start("/job", retries=1)
    site.work(job_id)
    assert (site.status(job_id).status, site.status(job_id).error) == (Status.STARTED, "ValueError: no figures")
    site.work(job_id)
    assert (site.status(job_id).status, site.status(job_id).error, seen) == (Status.COMPLETED, "", ["", ""])


# --- A second answer after output had begun --------------------------------------------------------------------------


def stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"one\n"
    raise ValueError("no figures")


def catch_all_with_exc_info(app: App) -> App:
    """As Paste's ErrorMiddleware does it: it answers an error page, and goes on whatever start_response raises."""

    def middleware(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        try:
            yield from app(environ, start_response)
        except Exception:  # noqa: BLE001 - as such middleware does
            try:
                start_response("500 Internal Server Error", HTML, sys.exc_info())
            except Exception:  # noqa: BLE001
                environ["wsgi.errors"].write("too late\n")
            yield b"<h1>Server Error</h1>"

    return middleware


def catch_all_without_exc_info(app: App) -> App:
    """As WebOb-like middleware does it, which answers by another WSGI application."""

    def middleware(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        try:
            yield from app(environ, start_response)
        except Exception as error:  # noqa: BLE001
            try:
                yield from webob.exc.HTTPInternalServerError(str(error))(environ, start_response)
            except AssertionError:
                yield b"<h1>Server Error</h1>"

    return middleware


def catch_all_without_a_second_answer(app: App) -> App:
    """As Paste's ErrorMiddleware does it after the first output, unless it is asked to let exceptions pass."""

    def middleware(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        try:
            yield from app(environ, start_response)
        except Exception:
            if environ.get("paste.throw_errors"):
                raise
            yield b"<h1>Server Error</h1>"

    return middleware


def test_middleware_that_can_lets_exceptions_pass(site: Site) -> None:
    status = run(site, catch_all_without_a_second_answer(stream))
    assert (status.status, status.status_text) == (Status.FAILED, "one\nValueError: no figures")


DEBUGGERS = {
    "werkzeug's debugger": DebuggedApplication,
    "with exc_info": catch_all_with_exc_info,
    "without exc_info": catch_all_without_exc_info,
}


@pytest.mark.parametrize("name", DEBUGGERS)
def test_a_second_answer_fails_the_job(site: Site, name: str) -> None:
    status = run(site, DEBUGGERS[name](stream), "/job", retries=0)
    assert status.status is Status.FAILED
    assert status.error.lower() == "http 500 internal server error after output had begun: valueerror: no figures"
    assert status.status_text == f"one\n{status.error}"


@pytest.mark.parametrize("name", DEBUGGERS)
def test_it_is_tried_again(site: Site, name: str) -> None:
    assert run(site, DEBUGGERS[name](stream), "/job", retries=1).status is Status.STARTED


def swallow(*steps: Callable[[Any], Any]) -> App:
    """An app that goes on whatever it gets for what it does."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        for step in steps:
            with contextlib.suppress(Exception):
                step(start_response)
        return [b"done"]

    return app


@pytest.mark.parametrize(
    ("app", "error"),
    [
        (
            swallow(lambda start: start("200 OK", TEXT), lambda start: start("403 Forbidden", TEXT)),
            "HTTP 403 Forbidden after another status",
        ),
        (
            swallow(lambda start: start("200 OK", TEXT)(b"out"), lambda start: start("302 Found", TEXT)),
            "HTTP 302 Found after output had begun",
        ),
        (
            swallow(lambda start: start("200 OK", TEXT)("text"), lambda start: None),
            "TypeError: an app's output is bytes (PEP 3333), not str",
        ),
        (
            swallow(lambda start: start("OK", TEXT), lambda start: start("200 OK", TEXT)),
            "ValueError: start_response takes a status such as '200 OK'",
        ),
    ],
)
def test_a_breach_that_the_app_swallows_fails_the_job(site: Site, app: App, error: str) -> None:
    status = run(site, app)
    assert (status.status, status.error) == (Status.FAILED, error)


def test_an_answer_may_be_replaced_before_output(site: Site) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("500 Oops", HTML)
        try:
            int("mended")
        except ValueError:
            start_response("200 OK", TEXT, sys.exc_info())
        return [b"done"]

    status = run(site, app)
    assert (status.status, status.status_text, status.error) == (Status.COMPLETED, "done", "")


def test_a_job_that_has_ended_is_what_it_ended_as(site: Site) -> None:
    """Middleware that catches JobEnded answers an error page, which changes nothing."""

    def catch_everything(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            environ["backjob"].fail("told so")
        except JobEnded:
            start_response("500 Oops", HTML, sys.exc_info())
        return [b"<p>page"]

    status = run(site, catch_everything)
    assert (status.status, status.status_text, status.error) == (Status.FAILED, "told so", "told so")


def test_an_exception_around_the_server_is_not_the_apps(site: Site) -> None:
    site.job = answer(status="500 Oops")
    job_id = site.start("/job")
    try:
        {}["the server's own"]
    except LookupError:
        site.work(job_id)
    assert site.status(job_id).error == "HTTP 500 Oops"


# --- Which answers are tried again, and why credentials may be refused ------------------------------------------------


@pytest.mark.parametrize("code", [400, 401, 402, 403, 404, 405, 409, 410, 412, 415, 418, 422, 423, 428, 451])
def test_4xx_is_not_tried_again(site: Site, code: int) -> None:
    assert run(site, answer(status=f"{code} No"), retries=3).status is Status.FAILED


@pytest.mark.parametrize("code", [408, 425, 429, 500, 501, 502, 503, 504, 599])
def test_what_may_pass_is_tried_again(site: Site, code: int) -> None:
    assert run(site, answer(status=f"{code} No"), retries=3).status is Status.STARTED


def raising(error: Exception) -> App:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise error

    return app


class ApiError(Exception):
    """An answer of another site, as API clients raise it."""

    code = 401


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (webob.exc.HTTPUnauthorized(), Status.FAILED),
        (webob.exc.HTTPForbidden(), Status.FAILED),
        (webob.exc.HTTPNotFound(), Status.FAILED),
        (webob.exc.HTTPServiceUnavailable(), Status.STARTED),
        (webob.exc.HTTPTooManyRequests(), Status.STARTED),
        (werkzeug.exceptions.Unauthorized(), Status.FAILED),
        (werkzeug.exceptions.BadRequest(), Status.FAILED),
        (werkzeug.exceptions.InternalServerError(), Status.STARTED),
        (ApiError(), Status.STARTED),
        (ValueError(), Status.STARTED),
    ],
)
def test_an_exception_that_is_an_answer_counts_as_that(site: Site, error: Exception, expected: Status) -> None:
    status = run(site, raising(error), retries=1)
    assert status.status is expected
    assert status.error.startswith(type(error).__name__)


REFUSALS: dict[str, Callable[[], App]] = {
    "401": lambda: answer(status="401 Unauthorized"),
    "403": lambda: answer(status="403 Forbidden"),
    "login": lambda: answer(status="302 Found", headers=[("Location", "/login?next=/x")]),
    "raised": lambda: raising(webob.exc.HTTPUnauthorized()),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize(
    ("waited", "text"),
    [(90, "90 s"), (7199, "120 min"), (7200, "2 h"), (86400, "24 h"), (30 * 86400, "30 days"), (59, ""), (0, "")],
)
def test_a_refusal_says_how_long_the_job_waited(site: Site, name: str, waited: float, text: str) -> None:
    site.job = REFUSALS[name]()
    job_id = site.start("/job", retries=3)
    created_at = site.row(job_id).created_at - timedelta(seconds=waited)
    site.sql("UPDATE background_job SET created_at = ?", f"{created_at:%Y-%m-%d %H:%M:%S.%f}")
    site.work(job_id)
    status = site.status(job_id)
    hint = f"the job waited {text}; the credentials may have expired"
    assert (status.status, status.attempt) == (Status.FAILED, 1)
    assert status.error.endswith(hint) if text else "waited" not in status.error


def test_an_expired_session_says_how_long_the_job_waited(tmp_path: Path) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["backjob"].check_user()
        return answer(b"done")(environ, start_response)

    with wrap(tmp_path, app, identify=lambda environ: environ.get("HTTP_X_USER", "")) as site:
        job_id = site.start("/job", by={"HTTP_X_USER": "ann"})
        created_at = site.row(job_id).created_at - timedelta(hours=3)
        site.sql("UPDATE background_job SET created_at = ?", f"{created_at:%Y-%m-%d %H:%M:%S.%f}")
        site.work(job_id)
        assert site.status(job_id).error.endswith("password); the job waited 3 h; the credentials may have expired")


def test_a_job_of_nobody_is_said_to_be_one(site: Site) -> None:
    status = run(site, REFUSALS["401"](), as_user=False)
    assert status.error == "HTTP 401 Unauthorized: the job runs without a user (as_user=False)"


def test_other_failures_say_nothing_of_credentials(site: Site) -> None:
    site.job = answer(status="404 Not Found")
    job_id = site.start("/job")
    site.sql("UPDATE background_job SET created_at = '2020-01-01 00:00:00.000000'")
    site.work(job_id)
    assert site.status(job_id).error == "HTTP 404 Not Found"


# --- Content codings -------------------------------------------------------------------------------------------------


def deflate_raw(text: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(text) + compressor.flush()


@pytest.mark.parametrize(
    ("coding", "encode"),
    [("gzip", gzip.compress), (" X-GZIP ", gzip.compress), ("deflate", zlib.compress), ("deflate", deflate_raw)],
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_encoded_text_is_decoded(site: Site, coding: str, encode: Callable[[bytes], bytes], size: int) -> None:
    text = "Grüße, 世界\n" * 500
    body = encode(text.encode())
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    assert run(site, answer(*chunks, headers=[*TEXT, ("Content-Encoding", coding)])).status_text == text


def test_gzip_of_several_members_is_one_text(site: Site) -> None:
    body = gzip.compress(b"one ", mtime=0) + gzip.compress(b"two", mtime=0) + b"\0" * 10
    assert run(site, answer(body, headers=[*TEXT, ("Content-Encoding", "gzip")])).status_text == "one two"


def test_a_bomb_is_decoded_up_to_the_limit_only(tmp_path: Path) -> None:
    bomb = zlib.compressobj(9)
    body = b"".join(bomb.compress(b"0" * 10**6) for _ in range(300)) + bomb.flush()
    with wrap(tmp_path, max_output=1000) as site:
        text = run(site, answer(body, body, headers=[*TEXT, ("Content-Encoding", "deflate")])).status_text
    assert text == "0" * 1000 + "\n[more output was cut: max_output is 1000]"


@pytest.mark.parametrize(
    ("body", "coding", "text"),
    [
        (b"\x8b" * 300, "br", "[300 bytes of br]"),
        (b"\x8b" * 300, "gzip", "[300 bytes of gzip]"),
        (gzip.compress(b"whole", mtime=0) + b"\x8b" * 9, "gzip", "whole\n[34 bytes of gzip]"),
        (gzip.compress(b"cut off", mtime=0)[:-8], "gzip", "cut off"),
        (b"", "gzip", ""),
    ],
)
def test_what_can_t_be_decoded_is_counted(site: Site, body: bytes, coding: str, text: str) -> None:
    assert run(site, answer(body, headers=[*TEXT, ("Content-Encoding", coding)])).status_text == text


def test_a_status_is_ready_for_json(site: Site) -> None:
    told = json.loads(json.dumps(run(site, answer(status="500 Oops")).as_dict()))
    assert (told["error"], told["location"]) == ("HTTP 500 Oops", "")


def test_an_error_of_backjob_does_not_show_where_the_database_is(site: Site) -> None:
    """It may be the job's own start(), during an outage."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with contextlib.closing(BackJob(answer(), database="postgresql://127.0.0.1:1/jobs", key=KEY)) as elsewhere:
            elsewhere.jobs.find()
        return []

    status = run(site, app)
    assert "127.0.0.1" not in status.status_text + status.error
    assert status.status_text.startswith("Unreachable: There is no connection to the job database")
