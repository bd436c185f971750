"""The client session: every way to call start(), what it refuses before anything is recorded, and asking for jobs."""

import dataclasses
import math
import re
import time
from urllib.parse import parse_qsl

import pytest
import webob
from support.served import call, make_environ, say_done, serve, serve_site, wrap
from webob.multidict import MultiDict
from werkzeug.datastructures import MultiDict as WerkzeugMultiDict

from backjob import AddressError, BackJobError, JobNotFound, Status

TEXT = [("Content-Type", "text/plain; charset=utf-8")]


def echo(environ, start_response):
    """A job that tells what it was asked."""
    start_response("200 OK", TEXT)
    body = environ["wsgi.input"].read()
    return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']} ".encode(), body]


@pytest.fixture
def site(tmp_path):
    with wrap(tmp_path, echo) as site:
        yield site


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        (["/job"], {}, "GET /job? "),
        (["/job?a=1"], {}, "GET /job?a=1 "),
        (["/job", {"a": 1, "b": "ü&="}], {}, "GET /job?a=1&b=%C3%BC%26%3D "),
        (["/job?a=1", {"b": [1, "2", 3.5]}], {}, "GET /job?a=1&b=1&b=2&b=3.5 "),
        (["/job", [("a", 1), ("b", 2), ("a", 3)]], {}, "GET /job?a=1&b=2&a=3 "),
        (["/job"], {"params": {}}, "GET /job? "),
        (["/job"], {"params": {"a": []}}, "GET /job? "),
        (["/job"], {"params": MultiDict([("a", "1"), ("a", "2")])}, "GET /job?a=1&a=2 "),
        (["/job"], {"params": WerkzeugMultiDict([("a", "1"), ("a", "2")])}, "GET /job?a=1&a=2 "),
        (["/job"], {"params": {"a": True, b"b": b"\xff"}}, "GET /job?a=True&b=%FF "),
        (["/job"], {"method": "POST"}, "POST /job? "),
        (["/job"], {"method": "POST", "data": {"a": [1, 2], "b": "ü"}}, "POST /job? a=1&a=2&b=%C3%BC"),
        (["/job", {"page": 1}], {"method": "POST", "data": {"id": 5}}, "POST /job?page=1 id=5"),
        (["/job"], {"method": "PUT", "data": [("a", "1")]}, "PUT /job? a=1"),
        (["/job"], {"method": "DELETE", "data": {}}, "DELETE /job? "),
        (["/job"], {"method": "CHICKEN", "data": MultiDict(a="1")}, "CHICKEN /job? a=1"),
        (["/job"], {"data": {"a": 1}}, "GET /job? a=1"),
        (["/j%C3%B6b"], {"method": "M-SEARCH"}, "M-SEARCH /j\xc3\xb6b? "),
        ([webob.Request.blank("/job?a=1")], {}, "GET /job?a=1 "),
        ([webob.Request.blank("/j%C3%B6b?a=1")], {}, "GET /j\xc3\xb6b?a=1 "),
        ([webob.Request.blank("/job?a=1"), {"b": 2}], {}, "GET /job?a=1&b=2 "),
        ([webob.Request.blank("/job", POST={"a": "1"})], {}, "POST /job? a=1"),
        ([webob.Request.blank("/job", method="PUT", POST=[("a", "1"), ("a", "2")])], {}, "PUT /job? a=1&a=2"),
        ([webob.BaseRequest.blank("/job", method="CHICKEN")], {}, "CHICKEN /job? "),
    ],
)
def test_every_shape_of_a_call(site, arguments, options, expected):
    assert site.run(*arguments, **options).status_text == expected


def test_a_webob_request_brings_its_own_headers(site):
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        return [f"{environ.get('HTTP_COOKIE')} {environ['HTTP_ACCEPT_LANGUAGE']} {environ['CONTENT_TYPE']}".encode()]

    site.job = app
    request = webob.Request.blank("/job", method="POST", body=b"{}", content_type="application/json")
    request.headers["Cookie"] = "session=other"
    by = {"HTTP_COOKIE": "session=own", "HTTP_ACCEPT_LANGUAGE": "de"}
    assert site.run(request, by=by).status_text == "session=other de application/json"
    assert site.run(request, by=by, as_user=False).status is Status.FAILED  # no Accept-Language: a KeyError


WRONG = [
    (["job"], {}, ValueError),
    ([""], {}, ValueError),
    (["//evil.example/job"], {}, ValueError),
    (["http://evil.example/job"], {}, ValueError),
    (["/job#part"], {}, ValueError),
    (["/a b"], {}, ValueError),
    (["/a\r\nX: y"], {}, ValueError),
    (["/a\0"], {}, ValueError),
    (["/ü"], {}, ValueError),
    ([None], {}, (ValueError, TypeError)),
    ([b"/job"], {}, (ValueError, TypeError)),
    (["/job", "a=1"], {}, TypeError),
    (["/job", 7], {}, TypeError),
    (["/job", {"a": None}], {}, TypeError),
    (["/job", {"a": {"b": 1}}], {}, TypeError),
    (["/job", [("a", 1, 2)]], {}, TypeError),
    (["/job"], {"data": "a=1"}, TypeError),
    (["/job"], {"data": [1]}, TypeError),
    (["/job"], {"data": {"a": object()}}, TypeError),
    (["/job"], {"data": {"a": "\udc80"}}, ValueError),
    (["/job"], {"method": "CONNECT"}, ValueError),
    (["/job"], {"method": "connect"}, ValueError),
    (["/job"], {"method": ""}, ValueError),
    (["/job"], {"method": "GET /x"}, ValueError),
    (["/job"], {"method": "GET\r\n"}, ValueError),
    (["/job"], {"method": None}, (ValueError, TypeError)),
    (["/job"], {"delay": -1}, ValueError),
    (["/job"], {"delay": "1"}, (ValueError, TypeError)),
    (["/job"], {"delay": float("nan")}, ValueError),
    (["/job"], {"delay": float("inf")}, ValueError),
    (["/job"], {"delay": 1e12}, ValueError),
    (["/job"], {"delay": True}, ValueError),
    (["/job"], {"retries": -1}, ValueError),
    (["/job"], {"retries": 1.5}, ValueError),
    (["/job"], {"retries": True}, ValueError),
    (["/job"], {"retries": 2**31}, ValueError),
    (["/job"], {"error_timeout": -1}, ValueError),
    (["/job"], {"error_timeout": "1"}, ValueError),
    (["/job"], {"scope": "a" * 256}, ValueError),
    (["/job"], {"scope": None}, (ValueError, TypeError)),
    (["/job"], {"scope": 7}, (ValueError, TypeError)),
    (["/job"], {"no_such_option": 1}, TypeError),
    ([], {}, TypeError),
    ([webob.Request.blank("/job")], {"method": "POST"}, ValueError),
    ([webob.Request.blank("/job")], {"data": {"a": 1}}, ValueError),
    ([webob.Request.blank("/job", POST={"file": ("name", b"content")})], {}, ValueError),
]


@pytest.mark.parametrize(("arguments", "options", "error"), WRONG)
def test_wrong_arguments_raise_before_anything_is_recorded(site, arguments, options, error):
    with pytest.raises(error):
        site.start(*arguments, **options)
    assert site.application.jobs.find() == []
    assert site.rows() == []
    assert site.launches.tokens == []


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("retries", 2**31, "a whole number from 0 to 2147483647"),
        *[("error_timeout", value, "0 (never) or a number of seconds from 0.5 to 1000000000") for value in (0.1, "5")],
        *[("delay", value, "a number of seconds from 0 to 315360000") for value in (-1, math.nan, math.inf, "5")],
    ],
)
def test_what_is_refused_is_told_what_is_allowed(site, option, value, allowed):
    with pytest.raises(ValueError, match=f"^{re.escape(f'{option} must be {allowed}')}, got "):
        site.start("/job", **{option: value})


@pytest.mark.parametrize("target", ["/", "/ap", "/apple/job", "/other", "/%61pple", "/APP/job"])
def test_a_target_outside_of_the_mount_is_named(site, target):
    with pytest.raises(ValueError, match=f"{target}.*/app"):
        site.start(target, by={"SCRIPT_NAME": "/app"})
    assert site.application.jobs.find() == []


# Asking.


UNKNOWN = [
    1,
    0,
    -1,
    10**6,
    2**63,
    10**5000,
    "1",
    "0",
    "-1",
    "abc",
    "",
    "1 ",
    "1.0",
    "\u0661",
    "9" * 50,
    1.0,
    None,
    True,
    b"1",
]


@pytest.mark.parametrize("job_id", UNKNOWN, ids=lambda job_id: repr(job_id)[:12] if job_id != 10**5000 else "10**5000")
def test_an_unknown_job_is_not_found(site, job_id):
    jobs = site.application.jobs
    assert jobs.exists(job_id) is False
    for ask in (jobs.status, jobs.cancel, lambda job_id: jobs.status(job_id, scope="x")):
        with pytest.raises(JobNotFound) as raised:
            ask(job_id)
        assert isinstance(raised.value, LookupError)
        assert len(str(raised.value)) < 100
    if job_id is not None:
        with pytest.raises(JobNotFound):
            jobs.finish(job_id=job_id)
        with pytest.raises(JobNotFound):
            jobs.fail(job_id=job_id)


def test_an_id_may_come_as_text(site):
    job_id = site.start("/job")
    jobs = site.application.jobs
    assert jobs.status(str(job_id)) == jobs.status(job_id)
    assert (jobs.exists(str(job_id)), jobs.cancel(str(job_id))) == (True, True)


def test_asking_never_writes(site):
    job_id = site.start("/job")
    before = site.rows()
    site.within(lambda jobs: (jobs.status(job_id), jobs.exists(job_id), jobs.find(), jobs.status(job_id).as_dict()))
    assert site.rows() == before


def test_as_dict_is_ready_for_json(site):
    first = site.status(site.start("/job", scope="s")).as_dict()
    assert set(first) == {
        *("id", "progress", "status", "status_name", "status_text", "error", "location", "scope"),
        *("start_time", "updated_time", "end_time", "attempt", "is_cancelling", "past"),
    }
    assert (first["status"], type(first["status"]), first["end_time"]) == (0, int, None)
    assert first["status_name"] == site.status(first["id"]).status_name == "waiting"
    last = site.run("/job").as_dict()
    assert (last["status"], last["progress"], last["status_text"]) == (2, 100, "GET /job? ")
    long = dataclasses.replace(site.status(last["id"]), status_text="a" + 500 * "b")
    assert long.as_dict(500)["status_text"] == 500 * "b"
    assert [len(long.as_dict(text)["status_text"]) for text in (3, 0, 999, None)] == [3, 0, 501, 501]
    assert last["start_time"] <= last["updated_time"] <= last["end_time"]
    assert last["end_time"].endswith("+00:00")


def test_find(site):
    ids = [site.start("/job", scope=scope) for scope in ("a", "b", "a", "b", "a")]
    jobs = site.application.jobs
    jobs.cancel(ids[0])
    site.work(ids[1])

    def found(**options):
        return [job.id for job in jobs.find(**options)]

    assert found() == ids[::-1]
    assert found(scope="a") == [ids[4], ids[2], ids[0]]
    assert found(status=Status.CANCELLED) == found(status=4) == [ids[0]]
    assert found(status=[Status.COMPLETED, 4]) == [ids[1], ids[0]]
    assert found(status=Status.STARTED, scope="a") == [ids[4], ids[2]]
    assert found(status=[]) == []
    assert found(limit=2) == [ids[4], ids[3]]
    assert found(limit=2, before=ids[3]) == [ids[2], ids[1]]
    assert found(before=str(ids[1])) == [ids[0]]
    for wrong in ({"limit": 0}, {"limit": 1001}, {"limit": "5"}, {"status": 9}, {"status": "x"}, {"before": "x"}):
        with pytest.raises(ValueError):  # noqa: PT011 - each has words of its own
            found(**wrong)


def test_a_scope_is_the_same_wherever_it_is_given(site):
    scope = "ä 😀"
    job_id, jobs = site.start("/job", scope=scope), site.application.jobs
    assert [status.id for status in jobs.find(scope=scope)] == [job_id]
    assert jobs.status(job_id, scope=scope).id == job_id
    assert jobs.exists(job_id, scope=scope)
    assert jobs.cancel(job_id, scope=scope)


@pytest.mark.parametrize("scope", ["a\0b", "a\ud800", "a" * 256])
def test_a_scope_that_no_job_can_have_is_no_job_s(site, scope):
    """It may come from a URL. The job has the text that databases keep in place of such a scope."""
    job_id, jobs = site.start("/job", scope="a\ufffdb"), site.application.jobs
    with pytest.raises(ValueError, match="scope must be a str of at most 255 characters, without NUL"):
        site.start("/job", scope=scope)
    assert (jobs.find(scope=scope), jobs.exists(job_id, scope=scope)) == ([], False)


def test_acts_by_id_are_limited_by_the_scope(tmp_path):
    ended = []

    def act(environ, start_response):
        job = environ["backjob"]
        for client in (job, site.application.jobs):
            for end in (client.finish, client.fail):
                with pytest.raises(JobNotFound):
                    end("not mine", job.job_id, scope="of bob")
        ended.append(job.finish("done", job.job_id, scope="of ada"))
        return echo(environ, start_response)

    with wrap(tmp_path, act) as site:
        jobs, end = site.application.jobs, site.run("/job", scope="of ada")
        assert (end.status, end.status_text, ended) == (Status.COMPLETED, "done", [None])
        waiting = site.start("/job", scope="of ada", as_user=False)
        jobs.fail("no", waiting, scope="of ada")
        with pytest.raises(JobNotFound):
            jobs.retry(waiting, scope="of bob")
        assert jobs.retry(waiting, scope="of ada") > waiting


def test_acts_by_id_are_logged_with_the_user(tmp_path, caplog):
    caplog.set_level("INFO", "backjob.security")

    def act(environ, start_response):
        job = environ["backjob"]
        job.cancel(environ["QUERY_STRING"])
        job.cancel(environ["QUERY_STRING"])  # it is over: nothing is done
        return echo(environ, start_response)

    def identify(environ):
        return environ.get("HTTP_X_USER")

    with wrap(tmp_path, act, identify=identify) as site:
        ids = [site.start("/job", as_user=False) for _ in range(6)]
        by = {"REMOTE_ADDR": "192.0.2.7", "HTTP_COOKIE": "canary"}
        for job_id, more in zip(ids, ({"HTTP_X_USER": "ada\n"}, {"REMOTE_USER": "bob"}, {}), strict=False):
            call(site.application, make_environ(f"/act?{job_id}", **by, **more))
        site.application.jobs.fail("no", ids[3])
        again = site.application.jobs.retry(ids[3])
        assert site.backend.store.claim(ids[4], 1, "owner", 30, 0)
        assert [site.application.jobs.cancel(ids[4]) for _ in range(3)] == [True] * 3
        site.application.jobs.finish("done", ids[4])
    told = [each.getMessage() for each in caplog.records if each.name == "backjob.security"]
    assert told == [
        f"Job {ids[0]} was cancelled by 'ada\\n' from 192.0.2.7",
        f"Job {ids[1]} was cancelled by 'bob' from 192.0.2.7",
        f"Job {ids[2]} was cancelled by an anonymous visitor from 192.0.2.7",
        f"Job {ids[3]} was marked as failed outside of a request",
        f"Job {ids[3]} was started again as job {again} outside of a request",
        f"Job {ids[4]} was cancelled outside of a request",
        f"Job {ids[4]} was marked as completed outside of a request",
    ]
    assert "canary" not in caplog.text


def test_find_has_the_last_500_characters_of_a_text(site):
    jobs, text = site.application.jobs, "a line\n" * 100
    job_id = site.start("/job")
    jobs.fail(text, job_id)
    assert [each.status_text for each in (*jobs.find(), *jobs.find(text=None))] == [text[-500:], text]
    assert jobs.status(job_id).status_text == text
    for wrong in (-1, True, "5"):
        with pytest.raises(ValueError, match="text must be"):
            jobs.find(text=wrong)


def test_cancel_tells_whether_it_was_live(site):
    jobs = site.application.jobs
    waiting, done = site.start("/job"), site.run("/job").id
    assert (jobs.cancel(waiting), jobs.cancel(waiting), jobs.cancel(done)) == (True, False, False)
    assert (site.status(waiting).status, site.status(done).status) == (Status.CANCELLED, Status.COMPLETED)
    assert site.status(waiting).end_time is not None


def test_fail_by_id_is_final_whatever_retries_are_left(site):
    job_id = site.start("/job", retries=5)
    site.application.jobs.fail("stopped by hand", job_id)
    assert (site.status(job_id).status, site.status(job_id).status_text) == (Status.FAILED, "stopped by hand")


def test_finish_by_id_is_for_running_jobs(site):
    job_id = site.start("/job")
    site.application.jobs.finish("too early", job_id)
    assert site.status(job_id).status is Status.STARTED


# A real server.


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "one-thread"])
def test_a_delay_is_waited_for(tmp_path, threads):
    def job(environ, start_response):
        began.append(time.monotonic())
        return echo(environ, start_response)

    began = []
    with serve_site(tmp_path, job, threads=threads) as site:
        started = time.monotonic()
        job_id = site.start("/job", delay=0.6)
        assert site.status(job_id).status is Status.STARTED
        assert site.wait_for_end(job_id).status is Status.COMPLETED
    assert 0.6 <= began[0] - started < 3


def test_a_delayed_job_can_be_cancelled(tmp_path):
    with serve_site(tmp_path, echo) as site:
        job_id = site.start("/job", delay=600)
        assert site.application.jobs.cancel(job_id) is True
        site.make_due()
        # Another one that is due after it: by then the cancelled one would have run.
        site.wait_for_end(site.start("/later", delay=0.1))
        assert (site.status(job_id).status, site.status(job_id).status_text) == (Status.CANCELLED, "")


def test_twenty_jobs_at_once_on_one_thread(tmp_path):
    with serve_site(tmp_path, echo, threads=False) as site:
        jobs = site.within(lambda jobs: [jobs.start(f"/job/{number}") for number in range(20)])
        ends = [site.wait_for_end(job_id) for job_id in jobs]
    assert [end.status_text for end in ends] == [f"GET /job/{number}? " for number in range(20)]


def test_outside_of_a_request_it_needs_an_address(tmp_path):
    with wrap(tmp_path, echo, launcher=None) as site:
        with pytest.raises(AddressError, match="connect="):
            site.application.jobs.start("/job")
        assert site.application.jobs.find() == []


def test_outside_of_a_request_with_an_address(tmp_path):
    """``application.jobs`` in a script: another BackJob on the same database, with the same key."""
    with serve_site(tmp_path, echo) as site, wrap(tmp_path, echo, launcher=None, connect=site.server.url) as script:
        job_id = script.application.jobs.start("/job", {"a": 1}, method="POST", data={"b": 2})
        assert site.wait_for_end(job_id).status_text == "POST /job?a=1 b=2"
        assert script.application.jobs.status(job_id).status is Status.COMPLETED


def test_outside_of_a_request_there_is_no_response_to_follow(tmp_path):
    with wrap(tmp_path, echo, connect="http://127.0.0.1:9") as site:
        with pytest.raises(BackJobError, match="after_response=True needs a request"):
            site.application.jobs.start("/job", after_response=True)
        assert site.application.jobs.find() == []


def test_another_program_at_the_address_gets_no_job(tmp_path):
    """What connect= names is an app without BackJob: the job fails, and says what to mend."""
    with (
        serve(say_done) as other,
        # An answer that comes after close_delay is heard by nobody here.
        wrap(tmp_path, echo, launcher=None, connect=other.url, close_delay=20) as site,
    ):
        end = site.wait_for_end(site.application.jobs.start("/job"))
    assert end.status is Status.FAILED
    assert "answered 200: another program" in end.status_text
    assert "connect=" in end.status_text


def test_another_key_is_told(tmp_path):
    with serve_site(tmp_path, echo) as site:
        other_key = "another key than that of the server itself"
        with wrap(tmp_path, echo, launcher=None, connect=site.server.url, key=other_key, close_delay=20) as script:
            end = site.wait_for_end(script.application.jobs.start("/job"))
    assert end.status is Status.FAILED
    assert "403" in end.status_text
    assert "key" in end.status_text


def test_a_start_that_is_refused_is_tried_again(tmp_path, free_port):
    """Nobody listens yet: the record says so, and the job runs once the server is up."""
    with wrap(tmp_path, echo, launcher=None, connect=f"http://127.0.0.1:{free_port}") as site:
        job_id = site.application.jobs.start("/job")
        waiting = site.status(job_id)
        assert waiting.status is Status.STARTED
        assert "can't be reached" in waiting.status_text
        with serve(site.application, port=free_port):
            assert site.wait_for_end(job_id).status_text == "GET /job? "


def test_the_query_arrives_as_it_was_given(site):
    pairs = [("a", "1 2"), ("b", "ü/?&=#"), ("a", "%41"), ("empty", "")]
    text = site.run("/job", pairs).status_text
    assert parse_qsl(text.split("?")[1].strip(), keep_blank_values=True) == pairs


@pytest.mark.parametrize("name", ["as_user", "unique", "after_response"])
@pytest.mark.parametrize("value", ["no", "false", 0, None])
def test_what_decides_who_runs_is_true_or_false(site, name, value):
    with pytest.raises(TypeError, match=f"{name} must be True or False"):
        site.start("/job", **{name: value})
    assert site.application.jobs.find() == []
