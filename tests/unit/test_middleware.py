"""Ordinary requests pass BackJob untouched, and ``wsgiref.validate`` finds no fault on either side of it."""

import contextlib
import io
import sys
from wsgiref.validate import validator

import pytest
from support import wait_until
from support.served import KEY, call, make_environ, serve, wrap

from backjob import BackJob, ConfigError, JobFailed, JobNotFound, Status, StoreError
from backjob.keyring import MONITOR, PROBE, WORKER
from backjob.middleware import TOKEN_KEY

TEXT = [("Content-Type", "text/plain; charset=utf-8")]


@pytest.fixture
def site(tmp_path):
    with wrap(tmp_path) as site:
        yield site


def test_the_iterable_is_returned_as_it_is(site):
    iterable = (part for part in [b"a"])
    site.job = lambda environ, start_response: iterable
    assert site.application(make_environ("/page"), lambda *args: None) is iterable


@pytest.mark.parametrize("has_exc_info", [False, True])
def test_start_response_passes_through_untouched(site, has_exc_info):
    status, headers, result = "200 OK", [("X", "y")], object()
    arguments = (status, headers)
    if has_exc_info:
        with contextlib.suppress(KeyError):
            {}["k"]
        try:
            {}["k"]
        except KeyError:
            arguments = (*arguments, sys.exc_info())
    came = []

    def app(environ, start_response):
        came.append(start_response(*arguments))
        return []

    def start_response(*args):
        came.append(args)
        return result

    site.job = app
    site.application(make_environ("/page"), start_response)
    [passed, returned] = came
    assert returned is result
    assert len(passed) == len(arguments)
    assert all(one is other for one, other in zip(passed, arguments, strict=True))


def test_the_environ_is_the_same_with_one_key_more(site):
    def app(environ, start_response):
        seen.append(environ)
        return []

    seen = []
    site.job = app
    environ = make_environ("/page")
    before = dict(environ)
    site.application(environ, lambda *args: None)
    assert seen[0] is environ
    jobs = environ.pop("backjob")
    assert environ == before
    assert (jobs.is_worker, jobs.job_id, jobs.attempt) == (False, None, None)


def test_an_exception_of_the_app_passes(site):
    error = ZeroDivisionError("of the app")

    def app(environ, start_response):
        raise error

    site.job = app
    with pytest.raises(ZeroDivisionError) as raised:
        site.application(make_environ("/page"), lambda *args: None)
    assert raised.value is error


def test_what_belongs_to_a_job_does_nothing_elsewhere(site):
    """One action of an app serves the foreground and the background."""

    def use(jobs):
        jobs.update(20)
        jobs.update(20, "text")
        jobs.increment_progress(5)
        assert jobs.write("text") == 4
        print("text", file=jobs, flush=True)
        jobs.finish()
        jobs.finish("text")
        with pytest.raises(JobFailed, match="outside of a background job"):
            jobs.fail()
        with pytest.raises(JobFailed, match=r"^it went wrong$"):
            jobs.fail("it went wrong")
        return jobs.find()

    assert site.within(use) == []
    use(site.application.jobs)


def test_job_failed_is_an_ordinary_exception(site):
    """Frameworks turn it into their error page."""
    assert issubclass(JobFailed, Exception)

    def app(environ, start_response):
        environ["backjob"].fail("not here")

    site.job = app
    with pytest.raises(JobFailed):
        call(site.application, make_environ("/page"))


def test_a_database_that_cannot_be_opened_harms_no_ordinary_request(tmp_path):
    folder = tmp_path / "gone"
    with wrap(folder) as site:
        site.job = lambda environ, start_response: start_response("200 OK", TEXT) and [b"page"]
        with contextlib.suppress(ConfigError):
            assert call(site.application, make_environ("/page")).body == b"page"
        for use in (
            lambda jobs: jobs.start("/job"),
            lambda jobs: jobs.start("/job", after_response=True),
            lambda jobs: jobs.status(1),
            lambda jobs: jobs.cancel(1),
            lambda jobs: jobs.find(),
        ):
            with pytest.raises(StoreError):
                site.within(use)
        assert call(site.application, make_environ("/page")).body == b"page"
        assert site.send(site.backend.keyring.sign(WORKER, 1, 1, b"").text).code == 503
        # It comes back without a restart of the app.
        folder.mkdir()
        assert site.run("/job").status is Status.COMPLETED


def test_construction_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BackJob(lambda environ, start_response: [])
    assert list(tmp_path.iterdir()) == []


def test_works_with_no_option_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BACKJOB_KEY", raising=False)

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        jobs = environ["backjob"]
        if not jobs.is_worker:
            started.append(jobs.start("/job"))
        return [b"done"]

    started = []
    application = BackJob(app)
    try:
        with serve(application) as server:
            server.ask("/")
            wait_until(lambda: application.jobs.status(started[0]).status.is_final)
        assert application.jobs.status(started[0]).status is Status.COMPLETED
        files = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        assert set(files) >= {"backjob.sqlite3", "backjob.sqlite3.key"}
        assert set(files.values()) == {0o600}
    finally:
        dispatcher = application._assembly._backend.dispatcher
        wait_until(lambda: not dispatcher._launches)
        application.close()


def test_an_environ_key_of_choice(tmp_path):
    with wrap(tmp_path, environ_key="my.jobs") as site:
        site.job = lambda environ, start_response: (
            environ["my.jobs"].write("mine") and start_response("200 OK", TEXT) and []
        )
        assert site.run("/job").status_text == "mine"


@pytest.mark.parametrize("app", [None, "app", 7])
def test_what_is_no_app_is_refused(app):
    with pytest.raises(ConfigError, match="app"):
        BackJob(app, key=KEY)


# wsgiref.validate on both sides.


def validated(application):
    """A strict server: it also reads the answer to its end and closes it, as it must."""
    return validator(application)


def make_app(answer):
    """The app, watched from outside: whatever BackJob hands to it is right by PEP 3333."""
    return validator(answer)


def answer_page(environ, start_response):
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length)
    start_response("200 OK", TEXT)
    return [b"page ", body]


def answer_with_write(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"written")
    return [b"page"]


def answer_with_generator(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"page"


@pytest.fixture
def strict(tmp_path):
    """A Site with a dotted key (the validator wants text under a plain one) and validators on both sides."""
    with wrap(tmp_path, environ_key="test.backjob") as site:
        yield site


@pytest.mark.parametrize("answer", [answer_page, answer_with_write, answer_with_generator])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "DELETE"])
def test_ordinary_requests_are_valid(strict, answer, method):
    strict.job = make_app(answer)
    body = b"" if method in ("GET", "HEAD") else b"a=1"
    reply = call(validated(strict.application), make_environ("/page?a=1", method, body))
    assert reply.code == 200
    assert b"page" in reply.body


@pytest.mark.parametrize("answer", [answer_page, answer_with_write, answer_with_generator])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("as_user", [True, False])
def test_worker_requests_are_valid(strict, answer, method, as_user):
    strict.job = make_app(answer)
    data = None if method in ("GET", "HEAD") else {"a": "ü"}
    by = {"HTTP_COOKIE": "a=b", "REMOTE_USER": "ada", "wsgi.url_scheme": "https", "HTTP_ACCEPT_LANGUAGE": "de"}
    job_id = strict.start("/job?b=1", method=method, data=data, as_user=as_user, by=by)
    environ = make_environ("/job?b=1", method, b"a=%C3%BC" if data else b"", **{TOKEN_KEY: strict.token(job_id)})
    reply = call(validated(strict.application), environ)
    assert (reply.code, strict.status(job_id).status) == (200, Status.COMPLETED)
    assert "page" in strict.status(job_id).status_text


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize(
    ("kind", "alive", "code"),
    [
        (MONITOR, True, 202),
        (MONITOR, False, 410),
        (WORKER, False, 410),
        (PROBE, True, 200),
        ("forged", True, 403),
    ],
)
def test_our_own_answers_are_valid(strict, method, kind, alive, code):
    job_id = strict.start("/job", delay=600)
    token = strict.launches.tokens[-1].text if kind == MONITOR else "forged"
    if kind in (WORKER, PROBE):
        token = strict.token(job_id, kind)
    if not alive:
        strict.application.jobs.cancel(job_id)
    reply = call(validated(strict.application), make_environ("/", method, **{TOKEN_KEY: token}))
    assert reply.code == code
    assert (reply.body == b"") is (method == "HEAD")
    assert int(reply.headers["Content-Length"]) > 0
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["X-Accel-Buffering"] == "no"


def test_an_answer_after_the_response_is_valid(strict):
    strict.job = make_app(answer_page)

    def app(environ, start_response):
        environ["test.backjob"].start("/job", after_response=True)
        return answer_page(environ, start_response)

    strict.job = make_app(app)
    reply = call(validated(strict.application), make_environ("/page"))
    assert (reply.code, len(strict.launches.tokens)) == (200, 1)


def test_within_another_backjob_the_outer_one_does_it_all(site, tmp_path):
    """It is the one to which the self-requests come."""
    seen = []

    def app(environ, start_response):
        seen.append(environ["backjob"])
        return answer_page(environ, start_response)

    inner = BackJob(app, database=f"sqlite:///{tmp_path}/inner.sqlite3", key=KEY)
    site.job = inner
    call(site.application, make_environ("/page"))
    job = site.run("/job")
    assert [jobs.job_id for jobs in seen] == [None, job.id]
    assert job.status is Status.COMPLETED
    assert not (tmp_path / "inner.sqlite3").exists()
    # Each has its own, by another name.
    other = BackJob(answer_page, database=f"sqlite:///{tmp_path}/inner.sqlite3", key=KEY, environ_key="other.jobs")
    site.job = other
    environ = make_environ("/page")
    call(site.application, environ)
    inner.close()
    other.close()
    assert environ["backjob"] is not environ["other.jobs"]


def test_only_a_backjob_is_taken_for_one(site):
    """wsgiref has the process's own environment in each environ."""
    environ = make_environ("/page", backjob="some variable")
    site.job = answer_page
    call(site.application, environ)
    assert environ["backjob"].job_id is None


def test_ids_of_other_kinds_are_not_found(site):
    with pytest.raises(JobNotFound):
        site.within(lambda jobs: jobs.status("backjob"))


def test_settings_of_an_ini_file(tmp_path):
    settings = {
        "backjob.database": f"sqlite:///{tmp_path}/ini.sqlite3",
        "backjob.key": KEY.replace(" ", "-"),
        "backjob.max_running": "3",
        "backjob.redirect_ok": "yes",
        "unrelated": "x",
    }
    application = BackJob.from_settings(lambda environ, start_response: [io.BytesIO()], settings)
    assert (application.config.max_running, application.config.redirect_ok) == (3, True)
    assert "key" not in repr(application.config).replace("environ_key", "")
