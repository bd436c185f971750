"""A job's run: every way in which a WSGI app may answer, ``environ["backjob"]`` in a job, and each outcome."""

import contextlib
import encodings.aliases
import io
import logging
import math
import sys
import threading
from decimal import Decimal
from fractions import Fraction
from unittest.mock import ANY

import pytest
from support import wait_until
from support.served import make_environ, serve_site, wrap

from backjob import JobEnded, JobNotFound, JobStatus, Status
from backjob.worker import reporter

TEXT = [("Content-Type", "text/plain; charset=utf-8")]
GREETING = "Grüße, 世界 🌍"


@pytest.fixture
def at_once(monkeypatch):
    """Every sign is written at once, so that each of them is seen."""
    monkeypatch.setattr(reporter, "INTERVAL", 0.0)


@pytest.fixture
def site(tmp_path):
    with wrap(tmp_path) as site:
        yield site


class Chunks:
    """An iterable that counts its close() calls; a chunk that is an exception is raised."""

    def __init__(self, *chunks):
        self.chunks = chunks
        self.closed = 0

    def __iter__(self):
        for chunk in self.chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk() if callable(chunk) else chunk

    def close(self):
        self.closed += 1


def answer(*chunks, status="200 OK", headers=TEXT):
    """An app that answers so."""

    def app(environ, start_response):
        start_response(status, headers)
        return Chunks(*chunks)

    return app


def run(site, app, target="/job", **options):
    """How a job of this app ends."""
    site.job = app
    return site.run(target, **options)


def act(site, action, **options):
    """How a job ends in which this is done with ``environ["backjob"]``."""

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        action(environ["backjob"])
        return []

    return run(site, app, **options)


# The app's side of WSGI.


def use_write(environ, start_response):
    write = start_response("200 OK", TEXT)
    write(b"a")
    write(b"b")
    return [b"c"]


def use_generator(environ, start_response):
    start_response("200 OK", TEXT)
    yield b"a"
    yield b"bc"


def use_late_start(environ, start_response):
    yield b""
    start_response("200 OK", TEXT)
    yield b"abc"


def use_start_without_output_before(environ, start_response):
    start_response("500 Oops", [])
    try:
        {}["k"]
    except KeyError:
        start_response("200 OK", TEXT, sys.exc_info())
    return [b"abc"]


def use_file_wrapper(environ, start_response):
    start_response("200 OK", TEXT)
    file = io.BytesIO(b"abc")
    return environ["wsgi.file_wrapper"](file) if "wsgi.file_wrapper" in environ else [file.read()]


@pytest.mark.parametrize(
    "app",
    [
        use_write,
        use_generator,
        use_late_start,
        use_start_without_output_before,
        use_file_wrapper,
        answer(b"abc"),
        answer(b"", b"a", b"", b"bc"),
        lambda environ, start_response: start_response("200", TEXT) and (b"abc",),
        lambda environ, start_response: start_response("200 OK", TEXT) and iter([b"abc"]),
    ],
)
def test_takes_every_kind_of_answer(site, app):
    def served(environ, start_response):
        # As wsgiref and others hand it: in a job nothing may be sent past the record.
        return app(environ, start_response)

    site.job = served
    job_id = site.start("/job")
    reply = site.work(job_id, **{"wsgi.file_wrapper": lambda file: file})
    assert (reply.status, reply.body) == ("200 OK", b"backjob: ok\n")
    status = site.status(job_id)
    assert (status.status, status.progress, status.status_text) == (Status.COMPLETED, 100, "abc")


@pytest.mark.parametrize(
    ("app", "error"),
    [
        (lambda environ, start_response: None, "TypeError"),
        (lambda environ, start_response: [b"never started"], "AssertionError"),
        (lambda environ, start_response: [], "start_response"),
        (answer("text"), "TypeError: an app's output is bytes (PEP 3333), not str"),
        (answer(bytearray(b"x")), "TypeError"),
        (lambda environ, start_response: start_response("200 OK", TEXT)("text"), "TypeError"),
        (lambda environ, start_response: [start_response("200 OK", TEXT), start_response("200 OK", TEXT)], "twice"),
        (answer(status="OK"), "ValueError"),
        (answer(status="2000 OK"), "ValueError"),
        (answer(b"a", ZeroDivisionError("in the middle")), "a\nZeroDivisionError: in the middle"),
    ],
)
def test_a_wrong_answer_fails_and_says_what_is_wrong(site, app, error):
    status = run(site, app)
    assert status.status is Status.FAILED
    assert error in status.status_text


def test_exc_info_after_output_raises_what_it_holds(site):
    def app(environ, start_response):
        write = start_response("200 OK", TEXT)
        write(b"half ")
        try:
            int("no number")
        except ValueError:
            start_response("500 Oops", TEXT, sys.exc_info())
        return []

    status = run(site, app)
    assert (status.status, status.status_text) == (
        Status.FAILED,
        "half \nValueError: invalid literal for int() with base 10: 'no number'",
    )


def fail_it(jobs):
    jobs.fail("given up")


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b"a"], Status.COMPLETED),
        ([b"a", RuntimeError("r")], Status.FAILED),
        (["text"], Status.FAILED),
        ([b"a", "cancel", b"b"], Status.CANCELLED),
        ([b"a", "fail"], Status.FAILED),
        ([SystemExit(3)], Status.FAILED),
    ],
)
def test_close_is_called_once_however_it_ends(site, chunks, expected):
    def app(environ, start_response):
        nonlocal iterable
        start_response("200 OK", TEXT)
        jobs = environ["backjob"]

        def cancel():
            assert site.application.jobs.cancel(jobs.job_id) is True
            wait_until(lambda: jobs.update(1))

        steps = {"cancel": cancel, "fail": lambda: jobs.fail("given up")}
        iterable = Chunks(*[steps.get(chunk, chunk) if isinstance(chunk, str) else chunk for chunk in chunks])
        return iterable

    iterable = None
    site.job = app
    job_id = site.start("/job")
    with contextlib.suppress(SystemExit):
        site.work(job_id)
    assert site.status(job_id).status is expected
    assert iterable.closed == 1


def test_an_error_in_close_fails_the_job(site):
    class Broken(Chunks):
        def close(self):
            raise OSError("the transaction can't be committed")

    status = run(site, lambda environ, start_response: start_response("200 OK", TEXT) and Broken(b"work"))
    assert (status.status, status.status_text) == (Status.FAILED, "work\nOSError: the transaction can't be committed")


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "one-thread"])
@pytest.mark.usefixtures("at_once")
def test_progress_and_output_are_seen_while_it_runs(tmp_path, threads):
    """By another request where the server has a slot for one, else from outside."""
    steps = {name: (threading.Event(), threading.Event()) for name in ("one", "two")}

    def job(environ, start_response):
        start_response("200 OK", TEXT)
        for step, (name, (reached, go_on)) in enumerate(steps.items(), 1):
            yield f"{name} ".encode()
            environ["backjob"].update(step * 40)
            reached.set()
            assert go_on.wait(20)

    with serve_site(tmp_path, job, threads=threads) as site:
        job_id = site.start("/job")
        seen = []
        for reached, go_on in steps.values():
            assert reached.wait(20)
            seen.append(site.within(lambda jobs: jobs.status(job_id)) if threads else site.status(job_id))
            go_on.set()
        assert [(each.status, each.progress, each.status_text) for each in seen] == [
            (Status.INPROGRESS, 40, "one "),
            (Status.INPROGRESS, 80, "one two "),
        ]
        end = site.wait_for_end(job_id)
        assert (end.status, end.progress, end.status_text) == (Status.COMPLETED, 100, "one two ")


def test_output_shows_by_itself(tmp_path):
    """Without update(): all that was written is seen a moment later, also when the app then computes for long."""
    computed = threading.Event()

    def job(environ, start_response):
        start_response("200 OK", TEXT)
        yield b"first, "
        yield b"second"
        assert computed.wait(20)

    with serve_site(tmp_path, job) as site:
        job_id = site.start("/job")
        try:
            wait_until(lambda: site.status(job_id).status_text == "first, second", 5)
        finally:
            computed.set()
        assert site.wait_for_end(job_id).status is Status.COMPLETED


# Output.


@pytest.mark.parametrize(
    "charset",
    ["utf-8", "UTF-8", '"utf-8"', "iso-8859-1", "utf-16", "utf-16-be", "utf-32", "gb18030", "euc_jp", "utf-7"],
)
def test_output_in_any_charset_cut_at_any_byte(site, charset):
    encoded = GREETING.encode(charset.strip('"'), "ignore")
    expected = encoded.decode(charset.strip('"'))
    headers = [("Content-Type", f"text/plain; charset={charset}")]
    for cut in range(len(encoded) + 1):
        assert run(site, answer(encoded[:cut], encoded[cut:], headers=headers)).status_text == expected
    assert run(site, answer(*[bytes([byte]) for byte in encoded], headers=headers)).status_text == expected


def test_no_codec_of_python_breaks_a_job(site):
    """An unknown, a binary or an odd charset: the job completes, and what is ASCII is read where the charset has it."""
    names = sorted({*encodings.aliases.aliases.values(), "idna", "punycode", "undefined", "unicode_escape", "x-none"})
    ended = {}
    for name in names:
        headers = [("Content-Type", f"text/html; charset={name}")]
        ended[name] = run(site, answer(b"plain", b" \xff\xfe\\", headers=headers)).status
    assert {name: status for name, status in ended.items() if status is not Status.COMPLETED} == {}


def test_half_a_character_at_the_end_is_shown_as_such(site):
    assert run(site, answer("é".encode()[:1])).status_text == "\ufffd"


@pytest.mark.parametrize(
    ("method", "status", "chunks", "text"),
    [
        ("HEAD", "200 OK", [], ""),
        ("HEAD", "200 OK", [b"body all the same"], "body all the same"),
        ("GET", "204 No Content", [], ""),
        ("DELETE", "204 No Content", [b""], ""),
        ("CHICKEN", "201 Hatched", [b"egg"], "egg"),
        ("GET", "299 Fine", [b"a\0b"], "a\ufffdb"),
    ],
)
def test_plain_successes(site, method, status, chunks, text):
    done = run(site, answer(*chunks, status=status), method=method)
    assert (done.status, done.progress, done.status_text) == (Status.COMPLETED, 100, text)


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Type", "image/png")],
        [("Content-Type", "application/octet-stream")],
    ],
)
def test_binary_output_is_summed_up(site, headers):
    status = run(site, answer(b"\x89PNG", b"\0" * 96, headers=headers))
    assert status.status_text == f"[100 bytes of {headers[0][1]}]"


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/problem+json", "image/svg+xml", "text/csv", "", None]
)
def test_text_of_many_types_is_kept(site, content_type):
    headers = [] if content_type is None else [("Content-Type", content_type)]
    assert run(site, answer(b"[1]", headers=headers)).status_text == "[1]"


@pytest.mark.parametrize("limit", [0, 1, 5, 6])
def test_output_is_bounded_and_says_what_was_cut(tmp_path, limit):
    with wrap(tmp_path, max_output=limit) as site:
        status = run(site, answer("äö".encode(), "üz".encode(), b"x" * 100))
    line = f"[{107 - limit} bytes of earlier output were cut: max_output is {limit}]"
    assert status.status_text == f"{line}\n{'x' * limit}"
    assert status.status is Status.COMPLETED


# environ["backjob"] in a job.


def test_says_that_it_is_a_job(site):
    seen = []
    job_id = act(site, lambda jobs: seen.append((jobs.is_worker, jobs.job_id, jobs.attempt))).id
    assert seen == [(True, job_id, 1)]


@pytest.mark.parametrize(
    ("progress", "stored"),
    [(-5, 0), (0, 0), (0.4, 0), (20, 20), (20.6, 21), (99.4, 99), (101, 100), (1e300, 100), (10**400, 100)],
    ids=["-5", "0", "0.4", "20", "20.6", "99.4", "101", "1e300", "10**400"],
)
def test_progress_is_clamped_and_rounded(site, progress, stored):
    seen = []

    def action(jobs):
        jobs.update(progress)
        seen.append(jobs.status(jobs.job_id).progress)

    assert act(site, action).status is Status.COMPLETED
    assert seen == [stored]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, "20", True, 1j, Decimal(50), Fraction(50)], ids=repr)
@pytest.mark.parametrize("method", ["update", "increment_progress"])
def test_what_is_no_progress_is_refused(site, method, wrong):
    """In a job, in the foreground, and outside of any request."""

    def tell(jobs):
        with pytest.raises(ValueError, match=r"^progress must be an int or a finite float, not ") as caught:
            getattr(jobs, method)(wrong)
        shown = repr(wrong) if isinstance(wrong, (int, float)) else type(wrong).__name__
        assert str(caught.value).endswith(f"not {shown}")  # a text may be what a user typed

    def action(jobs):
        jobs.update(7)
        tell(jobs)
        seen.append(jobs.status(jobs.job_id).progress)

    seen = []
    assert act(site, action).status is Status.COMPLETED
    assert seen == [7]
    site.within(tell)
    tell(site.application.jobs)


@pytest.mark.usefixtures("at_once")
def test_progress_never_goes_back(site):
    seen = []

    def action(jobs):
        for step in (jobs.update, jobs.update, jobs.increment_progress, jobs.increment_progress):
            step((50, 20, -10, 5)[len(seen)])
            seen.append(jobs.status(jobs.job_id).progress)

    act(site, action)
    assert seen == [50, 50, 50, 55]


@pytest.mark.usefixtures("at_once")
def test_many_small_steps_add_up(site):
    """Three hundred steps of a third: no step is lost to rounding."""

    def action(jobs):
        for _ in range(150):
            jobs.increment_progress(1 / 3)
        seen.append(jobs.status(jobs.job_id).progress)

    seen = []
    act(site, action)
    assert seen == [50]


def test_eight_threads_of_a_job_add_up(site):
    def action(jobs):
        def add():
            for _ in range(5):
                jobs.increment_progress(2)
                jobs.write(".")

        threads = [threading.Thread(target=add) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: jobs.status(jobs.job_id).progress == 80, 5)

    assert act(site, action).status_text.replace("\n", "") == "." * 40


@pytest.mark.usefixtures("at_once")
def test_an_explicit_text_stays_until_output_follows_it(site):
    def action(jobs):
        def look():
            seen.append(jobs.status(jobs.job_id).status_text)

        jobs.write("one ")
        jobs.update(10)
        look()
        jobs.update(20, "Chugging along now")
        look()
        jobs.update(30)
        look()
        jobs.increment_progress(10, "Still")
        look()
        print("two", file=jobs, flush=True)
        jobs.update()
        look()

    seen = []
    status = act(site, action)
    assert seen == ["one ", "Chugging along now", "Chugging along now", "Still", "one two\n"]
    assert status.status_text == "one two\n"


def test_an_explicit_text_is_the_last_word_when_nothing_follows(site):
    assert act(site, lambda jobs: jobs.update(50, "All there is to say")).status_text == "All there is to say"


def test_write_takes_text_and_counts_it(site):
    def action(jobs):
        assert jobs.write("äö") == 2
        with pytest.raises(TypeError):
            jobs.write(b"bytes")

    assert act(site, action).status_text == "äö"


def test_written_text_and_body_are_one_output(site):
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain; charset=utf-16-le")])
        environ["backjob"].write("ü1 ")
        yield "ü2 ".encode("utf-16-le")
        environ["backjob"].write("ü3")

    assert run(site, app).status_text == "ü1 ü2 ü3"


@pytest.mark.parametrize("own_id", [lambda jobs: None, lambda jobs: jobs.job_id, lambda jobs: str(jobs.job_id)])
def test_finish_completes_at_once_and_drops_what_follows(site, own_id):
    def app(environ, start_response):
        write = start_response("500 Broken later", TEXT)
        jobs = environ["backjob"]
        jobs.finish("And done", own_id(jobs))
        seen.append(jobs.status(jobs.job_id))
        jobs.finish("Twice")
        jobs.update(10, "late")
        jobs.increment_progress(10)
        jobs.write("late")
        write(b"late")
        yield b"later"
        raise RuntimeError("after the end")

    seen = []
    status = run(site, app)
    assert seen == [status]
    assert (status.status, status.progress, status.status_text) == (Status.COMPLETED, 100, "And done")


def test_finish_without_a_text_keeps_the_output(site):
    def action(jobs):
        jobs.write("all of it")
        jobs.finish()

    assert act(site, action).status_text == "all of it"


@pytest.mark.parametrize("own_id", [lambda jobs: None, lambda jobs: jobs.job_id, lambda jobs: str(jobs.job_id)])
def test_fail_ends_the_app_at_once(site, own_id):
    def action(jobs):
        jobs.write("work")
        jobs.update(40)
        try:
            jobs.fail("Error occurred!", own_id(jobs))
        except Exception:  # noqa: BLE001 - what a framework does
            went_on.append("swallowed")
        went_on.append("went on")

    went_on = []
    status = act(site, action)
    assert went_on == []
    assert (status.status, status.progress, status.status_text) == (Status.FAILED, 40, "work\nError occurred!")


def test_fail_that_a_bare_except_swallows_has_failed_all_the_same(site):
    def action(jobs):
        for _ in range(2):
            try:
                jobs.fail("Error occurred!")
            except:  # noqa: E722
                went_on.append(jobs.status(jobs.job_id).status)
        jobs.update(50, "late")
        jobs.write("late")
        jobs.finish("late")
        went_on.append("to its end")

    went_on = []
    status = act(site, action)
    assert went_on == [Status.FAILED, "to its end"]
    assert (status.status, status.status_text) == (Status.FAILED, "Error occurred!")


def test_job_ended_of_the_app_itself_stays_inside(site):
    def action(jobs):
        raise JobEnded

    assert act(site, action).status is Status.FAILED


CALLS = {
    "update": lambda jobs, write: jobs.update(50),
    "increment_progress": lambda jobs, write: jobs.increment_progress(1),
    "write": lambda jobs, write: print("more", file=jobs),
    "output": lambda jobs, write: write(b"more"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_a_job_that_was_ended_elsewhere_stops_at_its_next_sign(site, end, call):
    def app(environ, start_response):
        write = start_response("200 OK", TEXT)
        jobs = environ["backjob"]
        jobs.write("work")
        jobs.update(30)
        wait_until(lambda: jobs.status(jobs.job_id).progress == 30, 5)
        if end == "cancel":
            assert site.application.jobs.cancel(jobs.job_id) is True
            status = jobs.status(jobs.job_id)
            assert (status.status, status.is_cancelling) == (Status.INPROGRESS, True)
        else:
            site.application.jobs.fail("told to stop", job_id=jobs.job_id)
        try:
            # Output is looked at a moment later at most, not at each byte.
            wait_until(lambda: CALLS[call](jobs, write), 5)
        except JobEnded as error:
            raised.append(str(error))
            raise

    raised = []
    status = run(site, app)
    assert len(raised) == 1
    if end == "cancel":
        assert (status.status, status.progress) == (Status.CANCELLED, ANY)
        assert status.status_text.startswith("work")
        assert raised == ["This job was cancelled"]
    else:
        assert (status.status, status.progress, status.status_text) == (Status.FAILED, 30, "told to stop")


def test_a_job_that_cancels_itself_ends_at_its_next_sign(site):
    def action(jobs):
        jobs.update(10)
        assert jobs.cancel(jobs.job_id) is True
        with pytest.raises(JobEnded):
            jobs.update(20)

    assert act(site, action).status is Status.CANCELLED


def test_cancelled_and_swallowed_stays_cancelled(site):
    def action(jobs):
        site.application.jobs.cancel(jobs.job_id)
        with contextlib.suppress(JobEnded):
            jobs.update(10)
        seen.append(jobs.status(jobs.job_id).status)
        jobs.update(20)
        seen.append("to its end")

    seen = []
    assert act(site, action).status is Status.CANCELLED
    assert seen == [Status.CANCELLED, "to its end"]


@pytest.mark.parametrize("verb", ["finish", "fail"])
def test_one_job_ends_another_by_id(site, verb):
    """Only one that runs can complete; one that waits can fail. What ended stays as it is."""
    reached = {}

    def first(environ, start_response):
        # The second job runs within the first, which it ends.
        jobs = environ["backjob"]
        reached["first"] = jobs.job_id
        site.job = second
        site.run("/job")
        with pytest.raises(JobEnded):
            jobs.update(1)
        raise JobEnded

    def second(environ, start_response):
        jobs = environ["backjob"]
        for job_id in (reached["first"], str(waiting)):
            getattr(jobs, verb)(f"{verb} by {jobs.job_id}", job_id)
        with pytest.raises(JobNotFound):
            getattr(jobs, verb)("nobody", 10**6)
        start_response("200 OK", TEXT)
        return [b"second"]

    waiting = site.start("/waits")
    first_status = run(site, first)
    expected = Status.COMPLETED if verb == "finish" else Status.FAILED
    assert (first_status.status, first_status.status_text) == (expected, f"{verb} by {first_status.id + 1}")
    assert site.status(waiting).status is (Status.STARTED if verb == "finish" else Status.FAILED)
    assert site.status(first_status.id + 1).status_text == "second"
    site.within(lambda jobs: jobs.fail("too late", first_status.id))
    site.within(lambda jobs: jobs.finish("too late", first_status.id))
    assert site.status(first_status.id) == first_status


# Retries.


def test_each_attempt_counts_and_the_last_one_is_final(site):
    seen = []

    def app(environ, start_response):
        jobs = environ["backjob"]
        seen.append((jobs.attempt, jobs.status(jobs.job_id).progress, jobs.status(jobs.job_id).status_text))
        jobs.update(30 * jobs.attempt, f"attempt {jobs.attempt}")
        if jobs.attempt < 3:
            raise ConnectionError("try again")
        start_response("200 OK", TEXT)
        return [b"done"]

    site.job = app
    job_id = site.start("/job", retries=2)
    for attempt in (2, 3):
        assert site.work(job_id).code == 200
        between = site.status(job_id)
        assert (between.status, between.attempt, between.progress, between.end_time) == (
            Status.STARTED,
            attempt,
            0,
            None,
        )
        assert between.status_text == f"attempt {attempt - 1}\nConnectionError: try again"
        assert 0 < site.row(job_id).due_in < 2 ** (attempt - 2) * 1.5
    site.work(job_id)
    assert seen == [(1, 0, ""), (2, 0, ""), (3, 0, "")]
    assert (site.status(job_id).status, site.status(job_id).attempt) == (Status.COMPLETED, 3)


def test_no_attempts_left_is_a_failure(site):
    site.job = answer(status="503 Busy")
    job_id = site.start("/job", retries=1)
    for _ in range(2):
        site.work(job_id)
    assert (site.status(job_id).status, site.status(job_id).attempt) == (Status.FAILED, 2)


@pytest.mark.parametrize(("options", "expected"), [({"retry": True}, Status.STARTED), ({}, Status.FAILED)])
def test_fail_is_retried_only_if_asked(site, options, expected):
    status = act(site, lambda jobs: jobs.fail("no way", **options), retries=5)
    assert (status.status, status.status_text, status.error) == (expected, "no way", "no way")


def test_what_was_finished_is_not_tried_again(site):
    def action(jobs):
        jobs.finish("good enough")
        raise RuntimeError("afterwards")

    assert act(site, action, retries=5).status is Status.COMPLETED


def test_an_attempt_that_was_taken_over_writes_nothing(site):
    """The first attempt is still in its code when the second one runs: its signs end it, and change nothing."""

    def app(environ, start_response):
        jobs = environ["backjob"]
        start_response("200 OK", TEXT)
        if jobs.attempt == 1:
            # As if its lease had lapsed: the row goes on to the next attempt, which runs while this one sleeps.
            site.sql("UPDATE background_job SET status = 0, attempt = 2, started_at = NULL WHERE id = ?", jobs.job_id)
            site.work(jobs.job_id)
            with pytest.raises(JobEnded):
                jobs.update(99, "from the dead")
            jobs.fail("from the dead")
        return [f"attempt {jobs.attempt}".encode()]

    status = run(site, app)
    assert (status.attempt, status.status_text, status.status) == (2, "attempt 2", Status.COMPLETED)


@pytest.mark.parametrize("launcher_threads", [True, False], ids=["threads", "one-thread"])
def test_a_server_runs_the_second_attempt_by_itself(tmp_path, launcher_threads):
    attempts = []

    def job(environ, start_response):
        attempts.append(environ["backjob"].attempt)
        start_response("200 OK" if len(attempts) == 2 else "500 Not yet", TEXT)
        return [f"attempt {environ['backjob'].attempt}".encode()]

    with serve_site(tmp_path, job, threads=launcher_threads) as site:
        status = site.wait_for_end(site.start("/job", retries=3))
    assert (status.status, status.attempt, status.status_text, attempts) == (Status.COMPLETED, 2, "attempt 2", [1, 2])


# The table "Outcome of a worker request" of the design, row by row.


@pytest.mark.parametrize("status_line", ["200 OK", "201 Created", "202", "226 IM Used"])
def test_2xx_completes(site, status_line):
    status = run(site, answer(b"out", status=status_line))
    assert (status.status, status.progress, status.status_text) == (Status.COMPLETED, 100, "out")
    assert status.end_time is not None


def test_an_exception_fails_with_type_and_message_and_is_logged(site, caplog):
    status = run(site, answer(b"out", ZeroDivisionError("division by zero")))
    assert (status.status, status.status_text) == (Status.FAILED, "out\nZeroDivisionError: division by zero")
    [record] = [record for record in caplog.records if record.exc_info]
    assert (record.levelno, record.exc_info[0]) == (logging.ERROR, ZeroDivisionError)
    assert str(status.id) in record.getMessage()


@pytest.mark.parametrize(
    "status_line", ["400 Bad Request", "404 Not Found", "429", "500 Oops", "503 Service Unavailable"]
)
def test_4xx_and_5xx_fail_with_status_line_and_output(site, status_line):
    status = run(site, answer(b"out", status=status_line))
    assert (status.status, status.status_text) == (Status.FAILED, f"out\nHTTP {status_line}")


@pytest.mark.parametrize(
    ("status_line", "text"),
    [
        ("500 Oops", "HTTP 500 Oops: OSError: no such file"),
        ("503 Oops", "HTTP 503 Oops: OSError: no such file"),
        ("404 Not Found", "HTTP 404 Not Found"),
    ],
)
def test_the_exception_behind_an_error_page_is_named(site, status_line, text):
    def app(environ, start_response):
        environ["backjob"].note_exception(ValueError("an earlier one"))
        environ["backjob"].note_exception(OSError("no such file"))
        start_response(status_line, TEXT)
        return []

    assert run(site, app).status_text == text
    site.within(lambda jobs: jobs.note_exception(ValueError("no job")))


def test_what_is_no_exception_is_refused(site):
    def action(jobs):
        with pytest.raises(TypeError, match="error must be an exception, got str"):
            jobs.note_exception("broken")

    assert act(site, action).status is Status.COMPLETED
    site.within(action)


def test_an_exception_that_was_answered_well_is_none(site):
    status = act(site, lambda job: job.note_exception(ValueError("mended")))
    assert (status.status, status.status_text) == (Status.COMPLETED, "")


@pytest.mark.parametrize("status_line", ["301 Moved Permanently", "302 Found", "303 See Other"])
def test_3xx_fails_and_names_the_location_without_its_query(site, status_line):
    headers = [*TEXT, ("LOCATION", "https://ann:canary@app.example/tickets/17?token=canary#canary")]
    status = run(site, answer(b"out canary", status=status_line, headers=headers), method="POST")
    reason = f"The app answered {status_line[:3]} to https://app.example/tickets/17; "
    reason += "if that is how it ends, set redirect_ok"
    assert (status.status, status.status_text, status.error) == (Status.FAILED, reason, reason)
    assert status.location == "https://app.example/tickets/17"


@pytest.mark.parametrize(
    ("option", "of_start", "expected"),
    [
        (False, None, Status.FAILED),
        (False, True, Status.COMPLETED),
        (True, None, Status.COMPLETED),
        (True, False, Status.FAILED),
    ],
)
def test_redirect_ok_by_option_and_by_start(tmp_path, option, of_start, expected):
    app = answer(b"saved", status="303 See Other", headers=[*TEXT, ("Location", "/saved")])
    with wrap(tmp_path, redirect_ok=option) as site:
        status = run(site, app, redirect_ok=of_start)
    assert status.status is expected
    assert (status.status_text == "saved") is (expected is Status.COMPLETED)


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (SystemExit(1), "SystemExit: 1 (sys.exit() was called, by the app or by a server"),
        (KeyboardInterrupt(), "KeyboardInterrupt (the server was stopped while the job ran"),
    ],
)
@pytest.mark.parametrize("where", ["call", "iteration", "close"])
def test_what_stops_the_server_is_recorded_and_goes_on(site, stop, text, where):
    class Stopping(Chunks):
        def close(self):
            if where == "close":
                raise stop

    def app(environ, start_response):
        start_response("200 OK", TEXT)
        if where == "call":
            raise stop
        return Stopping(b"out", *([stop] if where == "iteration" else []))

    site.job = app
    job_id = site.start("/job")
    with pytest.raises(type(stop)):
        site.work(job_id)
    status = site.status(job_id)
    assert status.status is Status.FAILED
    assert text in status.status_text


def test_the_answer_is_the_same_whatever_the_app_answers(site):
    """Status, headers (Set-Cookie) and output of the app stay in the record."""
    headers = [*TEXT, ("Set-Cookie", "session=canary")]
    for status_line in ("200 OK", "302 Found", "404 Not Found", "500 Oops"):
        site.job = answer(b"out", status=status_line, headers=headers)
        for method in ("GET", "HEAD", "POST"):
            reply = site.work(site.start("/job", method=method))
            assert (reply.status, reply.body) == ("200 OK", b"" if method == "HEAD" else b"backjob: ok\n")
            assert "canary" not in repr(reply)
            assert reply.headers["Content-Length"] == "12"


def test_the_app_never_sees_the_token(site):
    def app(environ, start_response):
        seen.append(token in repr(environ))
        start_response("200 OK", TEXT)
        return []

    seen = []
    site.job = app
    job_id = site.start("/job")
    token = site.token(job_id)
    site.send(token, "/job")
    assert (seen, site.status(job_id).status) == ([False], Status.COMPLETED)


def test_a_job_runs_once_however_often_it_is_asked_for(site):
    runs = []
    site.job = lambda environ, start_response: runs.append(1) or (start_response("200 OK", TEXT) and [])
    job_id = site.start("/job")
    token = site.token(job_id)
    together = threading.Barrier(6)

    def ask():
        together.wait(20)
        codes.append(site.send(token, "/job").code)

    codes = []
    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1
    assert sorted(codes)[0] == 200
    assert set(sorted(codes)[1:]) <= {409, 410}


def test_a_job_starts_another(site):
    """A job is a request like any other: as its user it may start jobs of its own."""
    site.job = lambda environ, start_response: (
        started.append(environ["backjob"].start("/next")) or (start_response("200 OK", TEXT) and [])
    )
    started = []
    first = site.start("/job", by={"HTTP_COOKIE": "session=1"})
    site.work(first)
    [second] = started
    request = site.backend.keyring.unseal(second, site.row(second).uid, site.row(second).sealed)
    assert request.headers["HTTP_COOKIE"] == "session=1"
    assert isinstance(site.status(second), JobStatus)


def test_body_that_travels_is_read_to_its_end(site):
    """A server that closes with unread input would cut the answer off."""
    body = io.BytesIO(b"x" * 200_000)
    job_id = site.start("/job", method="POST", data={"a": "x" * 199_998})
    reply = site.send(site.token(job_id), "/job", **{"wsgi.input": body, "CONTENT_LENGTH": "200000"})
    assert (reply.code, body.read()) == (200, b"")


@pytest.mark.parametrize("length", ["-1", "many", "", None, "999999"])
def test_a_wrong_length_on_the_wire_does_no_harm(site, length):
    job_id = site.start("/job", method="POST", data={"a": "1"})
    environ = make_environ("/job", "POST", b"a=1", CONTENT_LENGTH=length)
    reply = site.send(site.token(job_id), "/job", **{key: environ.get(key) for key in ("CONTENT_LENGTH", "wsgi.input")})
    assert (reply.code, site.status(job_id).status) == (200, Status.COMPLETED)


class Unspeakable(Exception):
    def __str__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("end", "status", "text"),
    [
        (lambda jobs: jobs.finish(42), Status.COMPLETED, "42"),
        (lambda jobs: jobs.fail(ValueError("no figures")), Status.FAILED, "no figures"),
        (lambda jobs: jobs.update(5, 7), Status.COMPLETED, "7"),
        (lambda jobs: jobs.finish(Unspeakable()), Status.FAILED, "ZeroDivisionError"),
        (lambda jobs: (_ for _ in ()).throw(Unspeakable()), Status.FAILED, "Unspeakable: <exception str() failed>"),
    ],
    ids=["finish", "fail", "update", "finish without text", "raise without text"],
)
def test_what_is_no_text_ends_the_job_all_the_same(site, end, status, text):
    ended = act(site, end)
    assert (ended.status, ended.status_text) == (status, text)


@pytest.mark.parametrize("is_swallowed", [False, True])
def test_a_retry_waits_until_the_old_code_has_ended(site, is_swallowed):
    def app(environ, start_response):
        jobs = environ["backjob"]
        start_response("200 OK", TEXT)
        with contextlib.suppress(JobEnded) if is_swallowed else contextlib.nullcontext():
            try:
                jobs.fail("Once more.", retry=True)
            finally:
                seen.append(jobs.status(jobs.job_id))
        return []

    seen = []
    site.job = app
    job_id = site.start("/job", retries=1)
    site.work(job_id)
    after = site.status(job_id)
    assert (seen[0].status, seen[0].attempt) == (Status.INPROGRESS, 1)
    assert (after.status, after.attempt, after.status_text) == (Status.STARTED, 2, "Once more.")
    site.work(job_id)
    assert (seen[1].status, site.status(job_id).status) == (Status.FAILED, Status.FAILED)


def test_no_text_is_longer_than_max_output(tmp_path):
    def raise_much():
        raise ValueError("y" * 100_000)

    with wrap(tmp_path, max_output=1000) as site:
        for action, begin in [
            (lambda jobs: jobs.update(5, "z" * 10_000), "z" * 1000),
            (lambda jobs: jobs.finish("ü" * 10_000), "ü" * 500),
            (lambda jobs: [jobs.write("o" * 10_000), raise_much()], "[9125 bytes of earlier output were cut: max_"),
        ]:
            text = act(site, action).status_text
            assert text.startswith(begin)
            assert "bytes of" in text
            assert len(text) < 6000
