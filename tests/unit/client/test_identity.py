"""Who a job is: as the user who started it, with all that the app knew of the request; or nobody at all."""

import pytest
import webob
from support.served import call, make_environ, serve_site, wrap

from backjob import JobNotFound, Status
from backjob.wsgi.names import SENT

BY_ADA = {
    "HTTP_COOKIE": "session=ada; theme=dark",
    "HTTP_AUTHORIZATION": "Bearer ada-token",
    "HTTP_X_CSRF_TOKEN": "csrf-1",
    "HTTP_X_CSRFTOKEN": "csrf-2",
    "HTTP_X_XSRF_TOKEN": "csrf-3",
    "HTTP_ACCEPT_LANGUAGE": "de-AT, de;q=0.8",
    "HTTP_TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "HTTP_X_REQUEST_ID": "request-1",
    "HTTP_HOST": "reports.example:8443",
    "SCRIPT_NAME": "/app",
    "REMOTE_ADDR": "203.0.113.9",
    "REMOTE_USER": "ada",
    "wsgi.url_scheme": "https",
}
"""A request as a server and its front hand it over."""

OF_USER = [key for key in BY_ADA if key not in ("HTTP_HOST", "SCRIPT_NAME", "wsgi.url_scheme")]


@pytest.fixture
def site(tmp_path):
    with wrap(tmp_path, keep_environ) as site:
        yield site


def keep_environ(environ, start_response):
    """A job that remembers what it was."""
    seen.append({**environ, "body": environ["wsgi.input"].read()})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return []


seen: list[dict] = []


def see(site, target, **options):
    """The environ of a job that is started so, and run on a wire that has another user's everything on it."""
    seen.clear()
    job_id = site.start(target, **options)
    others = ("HTTP_ORIGIN", "HTTP_X_EVIL", "HTTP_HOST", "REMOTE_HOST", "AUTH_TYPE")
    foreign = dict.fromkeys((*OF_USER, *others), "foreign")
    site.work(job_id, **foreign, SCRIPT_NAME="/wire", QUERY_STRING="wire=1", CONTENT_TYPE="text/wire")
    assert site.status(job_id).status is Status.COMPLETED
    [environ] = seen
    assert [key for key, value in environ.items() if value == "foreign"] in ([], ["REMOTE_ADDR"])
    return environ


def test_a_job_is_its_user(site):
    environ = see(site, "/app/job/a%20b?x=1&x=%C3%BC", by=BY_ADA)
    assert {key: environ.get(key) for key in BY_ADA} == BY_ADA
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/job/a b", "x=1&x=%C3%BC")
    assert (environ["REQUEST_METHOD"], environ["body"]) == ("GET", b"")
    assert "CONTENT_TYPE" not in environ
    assert environ["HTTP_USER_AGENT"].startswith("backjob/")
    assert "HTTP_ORIGIN" not in environ
    assert environ["HTTPS"] == "on"


@pytest.mark.parametrize("as_user", [True, False])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "CHICKEN"])
def test_unsafe_methods_have_an_origin_and_a_body(site, method, as_user):
    data = {"id": 5, "name": "Ünal", "tag": ["a", "b"]}
    environ = see(site, "/app/job", method=method, data=data, as_user=as_user, by=BY_ADA)
    assert environ["HTTP_ORIGIN"] == "https://reports.example:8443"
    assert (environ["REQUEST_METHOD"], environ["body"]) == (method, b"id=5&name=%C3%9Cnal&tag=a&tag=b")
    assert environ["CONTENT_LENGTH"] == str(len(environ["body"]))
    assert environ["CONTENT_TYPE"] == "application/x-www-form-urlencoded"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_safe_methods_have_no_origin(site, method):
    assert "HTTP_ORIGIN" not in see(
        site, "/app/job", method=method, by={**BY_ADA, "HTTP_ORIGIN": "https://else.example"}
    )


def test_nobody_has_nothing_of_the_user(site):
    environ = see(site, "/app/job", as_user=False, by=BY_ADA)
    assert {key: environ[key] for key in OF_USER if key in environ} == {"REMOTE_ADDR": "foreign"}
    names = {key for key in environ if key.startswith("HTTP_")}
    assert names == {"HTTP_HOST", "HTTP_USER_AGENT", "HTTP_CACHE_CONTROL"}
    # Where the app is, is no part of who asks.
    assert environ["HTTP_HOST"] == BY_ADA["HTTP_HOST"]
    assert (environ["SCRIPT_NAME"], environ["wsgi.url_scheme"]) == ("/app", "https")
    assert not any("ada" in repr(value) for value in environ.values() if isinstance(value, str))


def test_a_header_that_is_not_forwarded_is_not_there(site):
    environ = see(site, "/job", by={"HTTP_X_SPECIAL": "1", "HTTP_RANGE": "bytes=0-1", "HTTP_IF_MATCH": "e"})
    assert not {"HTTP_X_SPECIAL", "HTTP_RANGE", "HTTP_IF_MATCH"} & set(environ)


def test_forwarded_headers_are_a_choice(tmp_path):
    with wrap(tmp_path, keep_environ, forward_headers=("X-Tenant",)) as site:
        environ = see(site, "/job", by={"HTTP_X_TENANT": "t1", "HTTP_COOKIE": "c=1", "HTTP_X_CSRF_TOKEN": "no"})
    assert (environ["HTTP_X_TENANT"], environ["HTTP_COOKIE"]) == ("t1", "c=1")
    assert "HTTP_X_CSRF_TOKEN" not in environ


def test_the_browser_s_name_may_be_one_of_them(tmp_path):
    """Some sessions are bound to it."""
    with wrap(tmp_path, keep_environ, forward_headers=("User-Agent",)) as site:
        by = {"HTTP_USER_AGENT": "Ada's browser"}
        assert see(site, "/job", by=by)["HTTP_USER_AGENT"] == "Ada's browser"
        assert see(site, "/job", by=by, as_user=False)["HTTP_USER_AGENT"].startswith("backjob/")


@pytest.mark.parametrize("value", ["ü=\xe9; b=\xff", "a" * 6000, 'a="b; c"'])
def test_cookies_arrive_byte_for_byte(site, value):
    """They never travel over the wire, so no server's limit and no proxy's taste touches them."""
    assert see(site, "/job", by={"HTTP_COOKIE": value})["HTTP_COOKIE"] == value


@pytest.mark.parametrize(
    ("mount", "target", "path_info"),
    [
        ("", "/", "/"),
        ("", "/a/b", "/a/b"),
        ("/app", "/app", ""),
        ("/app", "/app/", "/"),
        ("/app", "/app/app", "/app"),
        ("/a b", "/a%20b/c", "/c"),
        ("/caf\xc3\xa9", "/caf%C3%A9/x", "/x"),
        ("", "/%C3%BC/%2F%3F", "/\xc3\xbc//?"),
    ],
)
def test_the_mount_is_split_off_as_a_server_does(site, mount, target, path_info):
    environ = see(site, target, by={"SCRIPT_NAME": mount})
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (mount, path_info)


def test_a_server_that_tells_the_raw_target_tells_the_jobs_own(site):
    job_id = site.start("/job?x=1")
    seen.clear()
    site.work(job_id, REQUEST_URI="/wire", RAW_URI="/wire")
    assert (seen[0]["REQUEST_URI"], seen[0]["RAW_URI"]) == ("/job?x=1", "/job?x=1")


def test_a_user_over_the_wire(tmp_path):
    """The whole way, with a real server that knows its user by itself."""
    with serve_site(tmp_path, keep_environ) as site:
        seen.clear()
        by = {"HTTP_COOKIE": "session=ada", "HTTP_AUTHORIZATION": "Bearer ada", "HTTP_TEST_USER": "ada"}
        site.wait_for_end(site.start("/job?a=1", method="CHICKEN", data={"b": "2"}, by=by))
        [environ] = seen
    assert [environ[key] for key in ("HTTP_COOKIE", "HTTP_AUTHORIZATION", "REMOTE_USER")] == [
        "session=ada",
        "Bearer ada",
        "ada",
    ]
    assert (environ["REQUEST_METHOD"], environ["QUERY_STRING"], environ["body"]) == ("CHICKEN", "a=1", b"b=2")
    assert environ["HTTP_HOST"] == f"127.0.0.1:{site.server.port}"


def test_two_users_jobs_do_not_mix(tmp_path):
    """Side by side on one server, each one as its own user."""
    with serve_site(tmp_path, keep_environ) as site:
        seen.clear()
        users = [f"user{number}" for number in range(8)]
        jobs = [site.start(f"/job?{user}", by={"HTTP_COOKIE": user, "HTTP_TEST_USER": user}) for user in users]
        for job_id in jobs:
            assert site.wait_for_end(job_id).status is Status.COMPLETED
    assert sorted((each["QUERY_STRING"], each["HTTP_COOKIE"], each["REMOTE_USER"]) for each in seen) == [
        (user, user, user) for user in users
    ]


# unique: a live job of the same request, scope and user.

ADA = {"HTTP_COOKIE": "session=ada"}
BEA = {"HTTP_COOKIE": "session=bea"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ADA, ADA),
        ({"HTTP_AUTHORIZATION": "Bearer a"}, {"HTTP_AUTHORIZATION": "Bearer a"}),
        ({"REMOTE_USER": "ada", "HTTP_COOKIE": "tab=1"}, {"REMOTE_USER": "ada", "HTTP_COOKIE": "tab=2"}),
        ({**ADA, "HTTP_X_REQUEST_ID": "1"}, {**ADA, "HTTP_X_REQUEST_ID": "2"}),
        ({}, {}),
    ],
)
def test_unique_gives_the_same_user_the_same_job(site, first, second):
    job_id = site.start("/job?x=1", unique=True, by=first)
    assert site.start("/job?x=1", unique=True, by=second) == job_id
    assert len(site.launches.tokens) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ADA, BEA),
        (ADA, {}),
        ({"HTTP_AUTHORIZATION": "Bearer a"}, {"HTTP_AUTHORIZATION": "Bearer b"}),
        ({"HTTP_AUTHORIZATION": "same"}, {"HTTP_COOKIE": "same"}),
        ({"REMOTE_USER": "ada", **ADA}, {"REMOTE_USER": "bea", **ADA}),
    ],
)
def test_unique_gives_nobody_somebody_elses_job(site, first, second):
    job_id = site.start("/job?x=1", unique=True, by=first)
    assert site.start("/job?x=1", unique=True, by=second) != job_id


@pytest.mark.parametrize(
    "other",
    [
        {"target": "/job?x=2"},
        {"scope": "s"},
        {"method": "POST"},
        {"data": {"a": "1"}, "method": "POST"},
        {"as_user": False},
        {"params": {"y": 1}},
    ],
    ids=str,
)
def test_unique_means_the_same_request_and_scope(site, other):
    job_id = site.start("/job?x=1", unique=True, by=ADA)
    other = dict(other)
    assert site.start(other.pop("target", "/job?x=1"), **other, unique=True, by=ADA) != job_id


def test_unique_tells_the_apps_hosts_apart(site):
    """Two sites of one app are two apps to those who ask: neither is handed the other one's job."""
    one, other = ({"HTTP_HOST": f"{name}.example"} for name in ("one", "other"))
    job_id = site.start("/job", unique=True, by=one)
    assert site.start("/job", unique=True, by=other) != job_id
    assert site.start("/job", unique=True, by=one) == job_id


def test_identify_says_who_is_who(tmp_path):
    with wrap(tmp_path, identify=lambda environ: environ.get("HTTP_COOKIE", "").partition(";")[0] or None) as site:
        job_id = site.start("/job", unique=True, by={"HTTP_COOKIE": "ada; tab=1"})
        assert site.start("/job", unique=True, by={"HTTP_COOKIE": "ada; tab=2"}) == job_id
        assert site.start("/job", unique=True, by={"HTTP_COOKIE": "bea; tab=2"}) != job_id
        # Nobody is nobody, whoever starts it.
        nobody = site.start("/job", unique=True, as_user=False, by={"HTTP_COOKIE": "ada"})
        assert site.start("/job", unique=True, as_user=False, by={"HTTP_COOKIE": "bea"}) == nobody


def test_what_a_request_hands_on_beside_it_is_there_in_the_job(site):
    sent = {"headers": {"HTTP_ORIGIN": "https://a.test"}, "fields": [["csrf_token", "ü"]]}
    target = webob.Request.blank("/app/job", environ={SENT: sent})
    assert see(site, target, by=BY_ADA)[SENT] == sent
    assert see(site, target, by=BY_ADA, as_user=False)[SENT] == {"headers": sent["headers"]}
    assert SENT not in see(site, webob.Request.blank("/app/job"), by=BY_ADA)


SIGNED_IN: dict[str, str] = {}
ENDED = (
    "The session of the user who started this job has ended or was replaced "
    "(log-out, another login or a changed password)"
)


def read_session(environ):
    return SIGNED_IN.get(environ.get("HTTP_COOKIE"))


@pytest.mark.parametrize(
    ("before", "after", "failure"),
    [
        ("ada", "ada", None),
        (None, None, None),
        ("ada", None, ENDED),
        ("ada", "bea", "The session of the user who started this job belongs to another user by now"),
        (None, "bea", "The session of the user who started this job belongs to another user by now"),
    ],
)
def test_a_job_is_of_the_user_who_started_it_or_fails(tmp_path, monkeypatch, before, after, failure):
    """The session's cookie is the same: whose it is was changed before the job ran."""
    went_on = []

    def job(environ, start_response):
        start_response("200 OK", [])
        environ["backjob"].check_user()
        went_on.append(True)
        return [b"done"]

    with wrap(tmp_path, job, identify=read_session) as site:
        monkeypatch.setitem(SIGNED_IN, "session=1", before)
        job_id = site.start("/job", retries=3, by={"HTTP_COOKIE": "session=1"})
        monkeypatch.setitem(SIGNED_IN, "session=1", after)
        site.work(job_id)
        status = site.status(job_id)
    assert (status.status, went_on) == ((Status.FAILED, []) if failure else (Status.COMPLETED, [True]))
    assert status.status_text == (failure or "done")


def test_whose_it_is_not_known_is_not_compared(tmp_path, monkeypatch):
    """An anonymous job, one whose request has a cookie of its own, and one of an app without identify."""

    def job(environ, start_response):
        environ["backjob"].check_user()
        start_response("200 OK", [])
        return [b"done"]

    monkeypatch.setitem(SIGNED_IN, "session=1", "ada")
    monkeypatch.setitem(SIGNED_IN, "session=2", "bea")
    by = {"HTTP_COOKIE": "session=1"}
    with wrap(tmp_path, job, identify=read_session) as site:
        site.within(lambda jobs: jobs.check_user(), by)
        assert site.run("/job", as_user=False, by=by).status_text == "done"
        own = webob.Request.blank("/job", headers={"Cookie": "session=2"})
        assert site.run(own, by=by).status_text == "done"
    with wrap(tmp_path, job) as site:
        assert site.run("/job", by=by).status_text == "done"


def test_the_same_request_again_is_the_same_users(tmp_path, monkeypatch):
    def job(environ, start_response):
        environ["backjob"].check_user()
        start_response("200 OK", [])
        return [b"done"]

    monkeypatch.setitem(SIGNED_IN, "session=1", "ada")
    by = {"HTTP_COOKIE": "session=1"}
    with wrap(tmp_path, job, identify=read_session) as site:
        job_id = site.start(webob.Request.blank("/job", headers={"Cookie": "session=1"}), by=by)
        monkeypatch.setitem(SIGNED_IN, "session=1", None)
        site.work(job_id)
        assert site.status(job_id).status_text == ENDED


@pytest.mark.parametrize("end", ["work", "cancel", "fail"])
def test_unique_begins_anew_when_the_job_has_ended(site, end):
    job_id = site.start("/job", unique=True, by=ADA)
    ends = {
        "work": lambda: site.work(job_id),
        "cancel": lambda: site.application.jobs.cancel(job_id),
        "fail": lambda: site.application.jobs.fail("x", job_id),
    }
    ends[end]()
    assert site.start("/job", unique=True, by=ADA) != job_id


def test_what_is_not_unique_is_nobodys_double(site):
    job_id = site.start("/job", by=ADA)
    assert site.start("/job", unique=True, by=ADA) != job_id
    assert site.start("/job", by=ADA) != job_id


# scope: where a job applies.


def test_a_job_is_not_seen_from_another_scope(site):
    job_id = site.start("/job", scope="team 1", by=ADA)
    jobs = site.application.jobs
    assert jobs.status(job_id).scope == jobs.status(job_id, scope="team 1").scope == "team 1"
    assert (jobs.exists(job_id), jobs.exists(job_id, scope="team 1")) == (True, True)
    for scope in ("team 2", "", "TEAM 1", "team 1 "):
        assert jobs.exists(job_id, scope=scope) is False
        for ask in (jobs.status, jobs.cancel):
            with pytest.raises(JobNotFound, match="in this scope"):
                ask(job_id, scope=scope)
        assert jobs.find(scope=scope) == []
    assert [job.id for job in jobs.find(scope="team 1")] == [job_id]
    assert site.status(job_id).status is Status.STARTED
    assert jobs.cancel(job_id, scope="team 1") is True
    assert site.status(job_id).status is Status.CANCELLED


@pytest.mark.parametrize("scope", ["", "ü 世界", "a" * 255, "'; DROP TABLE background_job; --"])
def test_any_text_is_a_scope(site, scope):
    job_id = site.start("/job", scope=scope)
    assert [job.id for job in site.application.jobs.find(scope=scope)] == [job_id]


def test_the_page_of_another_site_reaches_no_job(site):
    """A browser can be made to ask, but not with a token; what it asks for is an ordinary request."""
    seen.clear()
    site.start("/job", by=ADA)
    assert call(site.application, make_environ("/job", "POST", HTTP_ORIGIN="https://else.example")).code == 200
    assert [environ["backjob"].is_worker for environ in seen] == [False]
