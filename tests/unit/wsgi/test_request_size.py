"""What can't be a job: ``background`` answers 413 to a body larger than max_request, unread, and 400 to a bad URL."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import bottle
import flask
import pytest
from pyramid.config import Configurator
from pyramid.response import Response
from sqlalchemy import Engine, event
from support.caches import empty_region
from support.served import KEY, KeptLaunches, call, make_environ, serve_site, wrap
from webob import Request

from backjob import BackJobError, RequestTooLarge, Status
from backjob.integrations import bottle as bottle_jobs
from backjob.integrations import flask as flask_jobs
from backjob.integrations import pyramid as pyramid_jobs

MOST = 10_000
LARGE = b"a=" + b"1" * MOST
FORM = "application/x-www-form-urlencoded"


class Body(io.BytesIO):
    """A body that says how much of it was read."""

    @property
    def was_read(self) -> int:
        return self.tell()


def make_flask(**options: Any) -> Any:
    app = flask.Flask(__name__)
    flask_jobs.FlaskBackJob(app, **options)
    app.post("/report")(flask_jobs.background(lambda: "done"))
    return app, app.extensions["backjob"]


def make_bottle(**options: Any) -> Any:
    app = bottle.Bottle()
    app.install(bottle_jobs.BackJobPlugin(**options))
    app.post("/report")(bottle_jobs.background(lambda: "done"))
    return app, app


def make_pyramid(**options: Any) -> Any:
    with Configurator(settings={f"backjob.{name}": value for name, value in options.items()}) as config:
        config.include("backjob.integrations.pyramid")
        config.add_route("report", "/report")
        config.add_view(lambda request: Response("done"), "", route_name="report", decorator=pyramid_jobs.background)
        return config.make_wsgi_app(), config.registry.backjob


@pytest.fixture(params=[make_flask, make_bottle, make_pyramid], ids=lambda make: make.__name__)
def application(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """An application with a view in the background at /report."""
    database = f"sqlite:///{tmp_path}/jobs.sqlite3"
    key, connect = KEY.replace(" ", "-"), "http://127.0.0.1:9"
    app, owner = request.param(
        database=database, key=key, launcher=KeptLaunches(), keeper=False, max_request=MOST, connect=connect
    )
    with closing(owner):
        yield app


def post(application: Any, body: Body, **more: Any) -> int:
    return call(application, make_environ("/report", "POST", **{"CONTENT_TYPE": FORM, "wsgi.input": body, **more})).code


@pytest.mark.parametrize("length", [str(len(LARGE)), "9" * 5000], ids=["true", "longer than int() reads"])
def test_a_large_body_is_refused_unread(application: Any, length: str) -> None:
    body = Body(LARGE)
    assert post(application, body, CONTENT_LENGTH=length) == 413
    assert body.was_read == 0
    assert post(application, Body(LARGE[:100]), CONTENT_LENGTH="100") == 202


def test_a_large_body_in_chunks_is_read_no_further_than_needed(application: Any) -> None:
    """Its length is not known before, and each framework reads it in its own way."""
    chunked = {"CONTENT_LENGTH": None, "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    body = Body(b"a=" + b"1" * 1_000_000)
    assert post(application, body, **chunked) == 413
    assert body.was_read < 200_000
    assert post(application, Body(LARGE[:100]), **chunked) == 202


def test_a_large_url_is_refused_as_well(application: Any) -> None:
    assert post(application, Body(b""), CONTENT_LENGTH="0", QUERY_STRING="a=" + "1" * MOST) == 413


def test_a_url_that_no_job_can_have_is_a_bad_request(application: Any) -> None:
    """It is the visitor's fault, and no error of the app, which would be reported."""
    length = {"CONTENT_LENGTH": "0"}
    assert post(application, Body(b""), **length, SCRIPT_NAME="/mount/..") == 400
    assert post(application, Body(b""), **length, SCRIPT_NAME="//mount") == 400
    assert post(application, Body(b""), **length, QUERY_STRING="B\xc3\xb6ll x\x01") == 202  # some servers let it pass


def test_a_form_that_can_not_be_read_is_no_error_of_the_app(application: Any) -> None:
    for content_type in ("multipart/form-data", 'multipart/form-data; boundary=""'):
        assert post(application, Body(b"--x--"), CONTENT_LENGTH="5", CONTENT_TYPE=content_type) < 500


@pytest.mark.parametrize("most", [0, MOST, 1048576])
def test_a_cache_as_the_only_store_takes_small_requests(tmp_path: Path, most: int) -> None:
    """Each look at a job reads its whole record."""
    limit = min(most or 65536, 65536)
    with empty_region("memory") as region, wrap(tmp_path, database=None, cache=region, max_request=most) as site:
        with pytest.raises(RequestTooLarge, match=f"max_request allows {limit}.*65536 at most if a cache"):
            site.start("/job", method="POST", data={"a": "1" * limit})
        with pytest.raises(RequestTooLarge):
            site.start(Request.blank("/job", method="POST", body=b"1" * limit + b"1"))
        assert site.start("/job", method="POST", data={"a": "1" * (limit - 2000)})


def test_a_view_over_a_cache_as_the_only_store_answers_413() -> None:
    with empty_region("memory") as region:
        app, owner = make_flask(database=None, cache=region, key=KEY, launcher=KeptLaunches(), keeper=False)
        with closing(owner):
            body = Body(b"1" * 65537)
            assert (post(app, body, CONTENT_LENGTH="65537"), body.was_read) == (413, 0)


def test_what_works_by_an_id_does_not_read_the_request_from_a_database(tmp_path: Path) -> None:
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    with wrap(tmp_path) as site:
        ids = [site.start("/job") for _ in range(3)]
        site.sql("UPDATE background_job SET key_id = 'foreign' WHERE id = ?", ids[0])
        event.listen(Engine, "before_cursor_execute", note)
        try:
            jobs = site.application.jobs
            assert jobs.find_foreign([*ids, ids[-1] + 1]) == ids[:1]
            assert jobs.cancel(ids[0])
            jobs.fail("no", ids[1])
        finally:
            event.remove(Engine, "before_cursor_execute", note)
        assert [site.status(job_id).status for job_id in ids[:2]] == [Status.CANCELLED, Status.FAILED]
    assert len(statements) > len(ids)
    assert [each for each in statements if each.startswith("SELECT") and "background_job.sealed" in each] == []


STARTS: dict[str, Callable[[Any], int]] = {
    "body": lambda jobs: jobs.start(Request.blank("/job", method="POST", body=LARGE)),
    "data": lambda jobs: jobs.start("/job", method="POST", data={"a": "1" * MOST}),
    "query": lambda jobs: jobs.start("/job", {"a": "1" * MOST}),
    "headers": lambda jobs: jobs.start("/job", headers={f"X-{number}": "1" * 1000 for number in range(11)}),
    "nobody's": lambda jobs: jobs.start("/job", {"a": "1" * MOST}, as_user=False),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_start_raises_and_records_nothing(tmp_path: Path, start: Callable[[Any], int]) -> None:
    with serve_site(tmp_path, max_request=MOST) as site:
        with pytest.raises(RequestTooLarge, match="max_request") as caught:
            site.within(start)
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, BackJobError)
        assert "111" not in str(caught.value)
        assert site.application.jobs.find() == []
    with serve_site(tmp_path, max_request=0) as site:
        assert site.wait_for_end(site.within(start)).status is Status.COMPLETED
