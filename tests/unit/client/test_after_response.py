"""``after_response``: a job that follows the response of the request that started it, and its transaction."""

import os
import signal
import sys
import time

import pytest
from support.served import call, make_environ, serve_site, wrap
from werkzeug.wsgi import ClosingIterator

from backjob import BackJobError, Status

TEXT = [("Content-Type", "text/plain")]


class Response:
    """An app's response, whose close() ends its transaction."""

    def __init__(self, log, *chunks, error_in_close=None):
        self.log = log
        self.chunks = chunks
        self.error_in_close = error_in_close

    def __iter__(self):
        for chunk in self.chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            self.log.append("chunk")
            yield chunk

    def close(self):
        self.log.append("close")
        if self.error_in_close:
            raise self.error_in_close


@pytest.fixture
def site(tmp_path):
    with wrap(tmp_path) as site:
        yield site


def answer(site, make_response, status="200 OK", count=1):
    """Ask a page that starts jobs for after its response. Its jobs, and in which order things happened."""
    log, jobs = [], []

    def launch(token, request, environ):
        log.append(f"launch {token.job_id - jobs[0] + 1}")
        return True

    def app(environ, start_response):
        jobs.extend(environ["backjob"].start(f"/job/{number}", after_response=True) for number in range(count))
        start_response(status, TEXT)
        return make_response(log)

    site.launches.launch = launch
    site.job = app
    environ = make_environ("/page")
    # A server: it reads the response, and closes it whatever happened.
    try:
        call(site.application, environ)
    except BaseException as error:  # noqa: BLE001 - looked at below
        log.append(type(error).__name__)
    return log, [site.status(job_id) for job_id in jobs]


def test_launched_when_all_is_over(site):
    log, [status] = answer(site, lambda log: Response(log, b"a", b"b"))
    assert log == ["chunk", "chunk", "close", "launch 1"]
    assert status.status is Status.STARTED


class Cursor(Response):
    """A response that is its own iterator."""

    def __iter__(self):
        return self

    def __next__(self):
        if not self.chunks:
            raise StopIteration
        chunk, *self.chunks = self.chunks
        return chunk


def make_closing(log, *chunks):
    return ClosingIterator(iter(chunks), Response(log).close)


@pytest.mark.parametrize("reads", [0, 1, 3], ids=["unread", "left early", "read"])
@pytest.mark.parametrize("closes", [1, 2])
@pytest.mark.parametrize("kind", [Response, Cursor, make_closing])
def test_the_response_is_closed_once(site, kind, closes, reads):
    """Whatever it is, and however much of it the server has read (PEP 3333)."""
    log = []

    def app(environ, start_response):
        environ["backjob"].start("/job", after_response=True)
        start_response("200 OK", TEXT)
        return kind(log, b"a", b"b")

    site.job = app
    answer = site.application(make_environ("/page"), lambda *args: None)
    for _ in zip(range(reads), answer, strict=False):
        pass
    for _ in range(closes):
        answer.close()
    assert log.count("close") == 1
    assert len(site.launches.tokens) == 1


def test_several_follow_in_their_order(site):
    log, statuses = answer(site, lambda log: Response(log, b"a"), count=3)
    assert log == ["chunk", "close", "launch 1", "launch 2", "launch 3"]
    assert {status.status for status in statuses} == {Status.STARTED}


@pytest.mark.parametrize("chunks", [[], [b""], [b"a"]])
@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "302 Found", "404 Not Found"])
def test_follows_every_answer_that_is_none_of_a_broken_server(site, status, chunks):
    log, [job] = answer(site, lambda log: list(chunks), status=status)
    assert (log, job.status) == (["launch 1"], Status.STARTED)


@pytest.mark.parametrize("status", ["500 Oops", "503 Service Unavailable", "599"])
def test_cancelled_by_a_5xx(site, status):
    log, jobs = answer(site, lambda log: Response(log, b"sorry"), status=status, count=2)
    assert log == ["chunk", "close"]
    assert [job.status for job in jobs] == [Status.CANCELLED, Status.CANCELLED]
    assert "failed" in jobs[0].status_text


def test_cancelled_by_a_5xx_that_comes_late(site):
    """The status that counts is the last one: an app may replace it until output begins."""

    def app(environ, start_response):
        jobs.append(environ["backjob"].start("/job", after_response=True))
        start_response("200 OK", TEXT)
        try:
            {}["k"]
        except KeyError:
            start_response("500 Oops", TEXT, sys.exc_info())
        return [b"sorry"]

    jobs = []
    site.job = app
    call(site.application, make_environ("/page"))
    assert site.status(jobs[0]).status is Status.CANCELLED


ERRORS = [RuntimeError("r"), SystemExit(1), KeyboardInterrupt()]


def throw(error):
    raise error


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("where", "before"), [("call", []), ("iteration", ["chunk", "close"]), ("close", ["chunk", "close"])]
)
def test_cancelled_when_the_request_raises(site, error, where, before):
    make = {
        "call": lambda log: throw(error),
        "iteration": lambda log: Response(log, b"a", error),
        "close": lambda log: Response(log, b"a", error_in_close=error),
    }[where]
    log, [job] = answer(site, make)
    assert log == [*before, type(error).__name__]
    assert job.status is Status.CANCELLED


def test_follows_a_response_whose_reader_left(site):
    """The server closes early; the app has done its work all the same."""
    log, jobs = [], []

    def app(environ, start_response):
        jobs.append(environ["backjob"].start("/job", after_response=True))
        start_response("200 OK", TEXT)
        return Response(log, b"a", b"b")

    site.job = app
    iterable = site.application(make_environ("/page"), lambda *args: None)
    assert next(iter(iterable)) == b"a"
    assert site.launches.tokens == []
    iterable.close()
    iterable.close()
    assert log[:2] == ["chunk", "close"]
    assert [token.job_id for token in site.launches.tokens] == jobs


@pytest.mark.parametrize("reads", [0, 1])
@pytest.mark.parametrize("status", [Status.STARTED, Status.CANCELLED])
def test_a_response_that_is_dropped_without_close(site, status, reads):
    """Ended by a finalizer, which uses no database: the keeper does. It is a failure if there was no status."""

    def app(environ, start_response):
        environ["backjob"].start("/job", after_response=True)
        if status is Status.STARTED:
            start_response("204 No Content", TEXT)
        return Response(log, b"", b"")

    log = []
    site.job = app
    answer = site.application(make_environ("/page"), lambda *args: None)
    for _ in zip(range(reads), answer, strict=False):
        pass
    del answer
    assert log.count("close") == 1
    assert site.row(1).held_by in site.backend.renewals.holds.values()
    site.backend.keeper.step()
    assert (site.row(1).status, site.row(1).held_by) == (status, None)
    assert site.backend.renewals.holds == {}


def test_a_child_that_drops_the_response_leaves_its_jobs_to_the_parent(site):
    def app(environ, start_response):
        environ["backjob"].start("/job", after_response=True)
        start_response("200 OK", TEXT)
        return [b"a"]

    site.job = app
    answer = site.application(make_environ("/page"), lambda *args: None)
    child = os.fork()
    if not child:
        del answer
        os._exit(site.backend.renewals.has_postponed)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    answer.close()
    assert len(site.launches.tokens) == 1


def test_never_read_at_all(site):
    """As some servers do with HEAD."""
    site.job = lambda environ, start_response: environ["backjob"].start("/job", after_response=True) and [b"a"]
    iterable = site.application(make_environ("/page", "HEAD"), lambda *args: None)
    iterable.close()
    # No status was ever given: nobody knows whether that request went well.
    assert site.application.jobs.find()[0].status is Status.CANCELLED


def test_the_record_waits_with_its_response(site):
    """Nobody else takes the job up while the response is being written."""

    def app(environ, start_response):
        job_id = environ["backjob"].start("/job", after_response=True)
        store = site.backend.store
        assert store.take_due(site.backend.keyring.key_ids, "somebody", 30) is None
        seen.append(environ["backjob"].status(job_id).status)
        start_response("200 OK", TEXT)
        return []

    seen = []
    site.job = app
    call(site.application, make_environ("/page"))
    assert seen == [Status.STARTED]


def test_too_late_inside_the_iterable(site):
    def app(environ, start_response):
        start_response("200 OK", TEXT)
        yield b"a"
        with pytest.raises(BackJobError, match="too late"):
            environ["backjob"].start("/job", after_response=True)
        yield b"b"

    site.job = app
    assert call(site.application, make_environ("/page")).body == b"ab"
    assert site.application.jobs.find() == []


def test_an_ordinary_start_is_not_held_back(site):
    def app(environ, start_response):
        environ["backjob"].start("/now")
        assert len(site.launches.tokens) == 1
        environ["backjob"].start("/later", after_response=True)
        assert len(site.launches.tokens) == 1
        start_response("200 OK", TEXT)
        return []

    site.job = app
    call(site.application, make_environ("/page"))
    assert [token.job_id for token in site.launches.tokens] == [1, 2]


def test_unique_after_response_is_one_job(site):
    def app(environ, start_response):
        jobs.extend(environ["backjob"].start("/job", after_response=True, unique=True) for _ in range(3))
        start_response("200 OK", TEXT)
        return []

    jobs = []
    site.job = app
    call(site.application, make_environ("/page"))
    assert (len(set(jobs)), len(site.launches.tokens)) == (1, 1)


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "one-thread"])
def test_on_a_server(tmp_path, threads):
    """The job begins when the transaction of the request is over, and not before."""
    log = []

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        if environ["backjob"].is_worker:
            log.append("job")
            return [b"done"]
        jobs.append(environ["backjob"].start("/job", after_response=True))
        return Response(log, b"page")

    jobs = []
    with serve_site(tmp_path, app, threads=threads) as site:
        assert site.server.ask("/page").body == b"page"
        assert site.wait_for_end(jobs[0]).status is Status.COMPLETED
    assert log == ["chunk", "close", "job"]


def test_many_jobs_hold_the_only_slot_for_a_short_time(tmp_path, monkeypatch):
    """With wsgiref's own backlog of 5, each further launch would wait for a connection time-out."""
    monkeypatch.setattr("support.served._Server.request_queue_size", 5)

    def start_all(jobs):
        return [jobs.start("/job", after_response=True) for _ in range(30)]

    with serve_site(tmp_path, threads=False) as site:
        begin = time.monotonic()
        jobs = site.within(start_all)
        assert site.server.ask("/page").code == 200
        assert time.monotonic() - begin < 3
        assert {site.wait_for_end(job_id).status for job_id in jobs} == {Status.COMPLETED}


def test_what_a_slow_launcher_leaves_is_a_row_that_any_process_may_launch(site, monkeypatch):
    monkeypatch.setattr("backjob.client.backend._MOST_TIME", -1.0)
    site.pause_launches()
    log, [status] = answer(site, lambda log: Response(log, b"a"))
    assert (log, status.status) == (["chunk", "close"], Status.STARTED)
    assert site.row(status.id).held_by is None


@pytest.mark.parametrize("outcome", ["completes", "raises", "answers 404", "fails", "redirects"])
def test_a_job_may_have_followers_too(site, outcome):
    """They are launched when it has completed, and cancelled when it has not."""

    def job(environ, start_response):
        jobs = environ["backjob"]
        followers.append(jobs.start("/next", after_response=True))
        assert jobs.status(followers[0]).status is Status.STARTED
        if outcome == "raises":
            raise ValueError("the job is wrong")
        if outcome == "fails":
            jobs.fail("No.")
        start_response({"answers 404": "404 Not Found", "redirects": "302 Found"}.get(outcome, "200 OK"), TEXT)
        return [b"done"]

    followers = []
    site.job = job
    site.run("/job")
    is_launched = outcome == "completes"
    assert site.status(followers[0]).status is (Status.STARTED if is_launched else Status.CANCELLED)
    assert [token.job_id for token in site.launches.tokens] == ([1, followers[0]] if is_launched else [1])


def test_a_job_that_was_finished_keeps_its_followers(site):
    """What goes wrong after finish() is the log's business."""

    def job(environ, start_response):
        jobs = environ["backjob"]
        followers.append(jobs.start("/next", after_response=True))
        jobs.finish("Done.")
        raise ValueError("too late")

    followers = []
    site.job = job
    assert site.run("/job", retries=1).status is Status.COMPLETED
    assert [token.job_id for token in site.launches.tokens] == [1, followers[0]]


def test_a_request_that_died_launches_nothing(site):
    """Its process is killed within it: nobody ends the response, the job is never taken up, and a keeper cancels it."""

    def app(environ, start_response):
        environ["backjob"].start("/job", after_response=True)
        os.kill(os.getpid(), signal.SIGKILL)

    site.job = app
    child = os.fork()
    if not child:
        call(site.application, make_environ("/page"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    store, keyring = site.backend.store, site.backend.keyring
    assert site.row(1).status is Status.STARTED
    assert store.take_due(keyring.key_ids, "another process", 30, site.backend.monitor.app_id) is None
    site.backend.keeper.sweep()
    assert site.status(1).status is Status.CANCELLED
    assert "The request that this job was to follow is gone" in site.status(1).status_text


def test_a_request_that_goes_on_keeps_its_jobs(site):
    """However long it takes: its process vouches for them."""

    def app(environ, start_response):
        job_id = environ["backjob"].start("/job", after_response=True)
        assert site.backend.renewals.holds == {job_id: site.row(job_id).held_by}
        before = site.row(job_id).held_until
        site.backend.keeper.step()
        site.backend.keeper.sweep()
        assert site.row(job_id).held_until > before
        assert site.status(job_id).status is Status.STARTED
        start_response("200 OK", TEXT)
        return []

    site.job = app
    call(site.application, make_environ("/page"))
    assert site.backend.renewals.holds == {}
    assert [token.job_id for token in site.launches.tokens] == [1]


@pytest.mark.parametrize("is_worker", [False, True])
def test_what_waits_for_a_response_can_be_taken_back(site, is_worker):
    """One of two; a job that does not wait for this response is not its to cancel."""
    found = []

    def app(environ, start_response):
        jobs = environ["backjob"]
        if jobs.is_worker is is_worker and not found:
            found.extend([other, jobs.start("/one", after_response=True), jobs.start("/two", after_response=True)])
            jobs.cancel_waiting(other)
            jobs.cancel_waiting(found[1])
            found.append(jobs.start("/three", after_response=True))
        start_response("200 OK", TEXT)
        return [b"done"]

    other = site.start("/other")
    site.job = app
    if is_worker:
        site.run("/job")
    else:
        call(site.application, make_environ("/page"))
    statuses = [site.status(job_id).status for job_id in found]
    assert statuses == [Status.STARTED, Status.CANCELLED, Status.STARTED, Status.STARTED]
    assert [token.job_id for token in site.launches.tokens][-2:] == found[2:]


def test_alone_it_leaves_the_response_as_it_was(site):
    """A response that nothing waits for any more takes the jobs that come after."""

    def app(environ, start_response):
        jobs = environ["backjob"]
        jobs.cancel_waiting(jobs.start("/one", after_response=True))
        jobs.start("/two", after_response=True)
        start_response("200 OK", TEXT)
        return [b"done"]

    site.job = app
    call(site.application, make_environ("/page"))
    assert [each.status for each in site.application.jobs.find()] == [Status.STARTED, Status.CANCELLED]
    assert len(site.launches.tokens) == 1
