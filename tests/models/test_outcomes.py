"""Whatever an app does with WSGI and with its job, in any order, the outcome is that of a plain model."""

from asyncio import CancelledError
from dataclasses import dataclass, field
from wsgiref.validate import validator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.served import call, make_environ, wrap

from backjob import JobEnded, Status
from backjob.middleware import TOKEN_KEY
from backjob.worker import reporter

HEADERS = [("Content-Type", "text/plain; charset=utf-8"), ("Location", "/login?next=canary")]
STATUSES = ("200 OK", "204 No Content", "302 Found", "404 Not Found", "500 Oops")

texts = st.none() | st.sampled_from(["", "text", "two\nlines\n"])
chunks = st.sampled_from([b"", b"a", b"line\n", "é".encode()])
progresses = st.sampled_from([None, -3, 0, 12.4, 50, 77, 250])
steps = st.one_of(
    st.tuples(st.just("start"), st.sampled_from(STATUSES), st.booleans()),
    st.tuples(st.just("write"), chunks),
    st.tuples(st.just("yield"), chunks),
    st.tuples(st.just("print"), st.sampled_from(["", "é", "line\n"])),
    st.tuples(st.just("update"), progresses, texts),
    st.tuples(st.just("increment"), st.sampled_from([-5, 0, 7, 60])),
    st.tuples(st.just("finish"), texts),
    st.tuples(st.just("fail"), texts),
    st.tuples(st.just("raise"), st.sampled_from([RuntimeError, KeyboardInterrupt, CancelledError])),
)


class Boom(Exception):
    """What start_response is handed as exc_info."""


def is_bare_except(error):
    """An app with ``except:`` around each step goes on whatever happens."""
    return isinstance(error, (Exception, JobEnded, KeyboardInterrupt, CancelledError))


@dataclass
class Program:
    """An app: its steps are done while it is called (the chunks follow), or while its iterable is read."""

    first_status: str | None
    steps: list
    is_generator: bool
    swallows: bool
    close_raises: bool
    seen: list = field(default_factory=list)

    def __call__(self, environ, start_response):
        self.jobs, self.start_response, self.do_write = environ["backjob"], start_response, None
        if self.is_generator:
            return Response(self.do_all(), self.close_raises)
        return Response(list(self.do_all()), self.close_raises)

    def all_steps(self):
        first = [("start", self.first_status, False)] if self.first_status else []
        return [*first, *self.steps]

    def do_all(self):
        for name, *arguments in self.all_steps():
            if name == "yield":
                yield arguments[0]
                continue
            try:
                getattr(self, f"do_{name}_step")(*arguments)
            except BaseException as error:
                if not (self.swallows and is_bare_except(error)):
                    raise

    def do_start_step(self, status, has_exc_info):
        error = Boom("boom")
        exc_info = (Boom, error, None)
        self.do_write = self.start_response(status, HEADERS, *([exc_info] if has_exc_info else []))

    def do_write_step(self, chunk):
        if self.do_write:
            self.do_write(chunk)

    def do_print_step(self, text):
        self.jobs.write(text)

    def do_update_step(self, progress, text):
        self.jobs.update(progress, text)
        self.look()

    def do_increment_step(self, n):
        self.jobs.increment_progress(n)
        self.look()

    def do_finish_step(self, text):
        self.jobs.finish(text)
        self.look()

    def do_fail_step(self, text):
        self.jobs.fail(text)

    def do_raise_step(self, kind):
        raise kind("told to")

    def look(self):
        status = self.jobs.status(self.jobs.job_id)
        self.seen.append((status.status, status.progress, status.status_text))


programs = st.builds(
    Program,
    first_status=st.sampled_from((*STATUSES, None)),
    steps=st.lists(steps, max_size=7),
    is_generator=st.booleans(),
    swallows=st.booleans(),
    close_raises=st.booleans(),
    seen=st.builds(list),
)


class Response:
    def __init__(self, chunks, close_raises):
        self.chunks = chunks
        self.close_raises = close_raises
        self.closed = 0

    def __iter__(self):
        return iter(self.chunks)

    def close(self):
        self.closed += 1
        if self.close_raises:
            raise OSError("close")


class Stop(Exception):
    """The model's app is left by this error, which reads so."""


@dataclass
class Model:
    """What the outcome must be. ``end`` is (status, progress, text) once it is final."""

    program: Program
    status: str = ""
    output: list = field(default_factory=list)
    text: str | None = None
    text_at: int = 0
    progress: int = 0
    has_body: bool = False
    has_exc_info: bool = False
    breach: str = ""
    can_write: bool = False
    has_failed: bool = False
    end: tuple | None = None
    seen: list = field(default_factory=list)
    stops_server: bool = False
    is_past_call: bool = False
    held: set = field(default_factory=set)
    is_judged: bool = False

    def run(self):
        chunks, error = [], None
        try:
            for step in self.program.all_steps():
                self.do(step, chunks)
            for chunk in chunks:
                self.take(chunk)
        except Stop as stop:
            error = stop
            was_called = self.program.is_generator or self.is_past_call
        else:
            was_called = True
        if was_called and self.program.close_raises:
            error = Stop("OSError: close")
        if error is not None:
            self.stops_server = str(error).startswith("KeyboardInterrupt")
            self.settle_failure(str(error))
        elif self.breach:
            self.settle_failure(self.breach)
        elif self.status.startswith("2"):
            self.settle((Status.COMPLETED, 100, self.shown()))
        elif self.status.startswith("3"):
            hint = "which looks like a login page; if not, set redirect_ok to its path"
            self.settle_failure(f"The app answered {self.status[:3]} to /login, {hint}")
        else:
            cause = ": Boom: boom" if self.has_exc_info and self.status.startswith("5") else ""
            self.settle_failure(f"HTTP {self.status}{cause}" if self.status else "start_response")
        return self

    def do(self, step, chunks):
        name, *arguments = step
        if name == "yield":
            if self.program.is_generator:
                self.take(*arguments)
            else:
                chunks.append(*arguments)
            return
        try:
            getattr(self, name if name != "raise" else "throw")(*arguments)
        except Stop:
            if not self.program.swallows:
                raise

    def take(self, chunk):
        self.is_past_call = True
        self.put(chunk)
        if chunk and self.has_failed:
            raise Stop("the response is not read on")

    def put(self, chunk):
        if chunk and not self.status:
            self.breach = self.breach or "AssertionError: the app wrote before it called start_response"
            raise Stop("AssertionError: the app wrote before it called start_response")
        if chunk:
            self.has_body = True
            is_left_out = self.breach or self.status.startswith("3")  # the location has a query
            if self.status.startswith(("4", "5")) and not self.is_judged:
                self.held.add(len(self.output))
            self.print("" if is_left_out else chunk.decode())

    def print(self, text):
        self.output.append(text or "")

    def release(self):
        self.held, self.is_judged = set(), True

    def write(self, chunk):
        if self.can_write:
            self.put(chunk)

    def start(self, status, has_exc_info):
        if self.status and (self.has_body or not has_exc_info):
            when = "after output had begun" if self.has_body else "after another status"
            self.breach = self.breach or f"HTTP {status} {when}{': Boom: boom' if has_exc_info else ''}"
        if has_exc_info and self.has_body:
            raise Stop("Boom: boom")
        if not has_exc_info and self.status:
            raise Stop("AssertionError: start_response was called twice without exc_info")
        self.status, self.can_write = status, True
        self.has_exc_info |= has_exc_info

    def update(self, progress, text):
        if not self.end:
            if progress is not None:
                self.progress = max(self.progress, round(min(max(progress, 0), 100)))
            if text is not None:
                self.text, self.text_at = text, len(self.output)
        self.look()

    def increment(self, n):
        self.update(self.progress + n, None)

    def finish(self, text):
        if text is None and not self.end:
            self.release()
        self.settle((Status.COMPLETED, 100, self.shown() if text is None else text))
        self.look()

    def fail(self, text):
        if not self.has_failed:
            self.settle_failure(text)
            self.has_failed = True  # what follows does nothing: JobEnded is raised once
            raise Stop("JobEnded")

    def throw(self, kind):
        raise Stop(f"{kind.__name__}: told to")

    def look(self):
        self.seen.append(self.end or (Status.INPROGRESS, self.progress, self.shown()))

    def shown(self):
        shown = ["" if at in self.held else text for at, text in enumerate(self.output)]
        is_replaced = self.text is None or any(shown[self.text_at :])
        return "".join(shown) if is_replaced else self.text

    def settle(self, end):
        self.end = self.end or end

    def settle_failure(self, reason):
        self.release()
        shown = self.shown()
        line_break = "\n" if shown and not shown.endswith("\n") else ""
        self.settle((Status.FAILED, self.progress, f"{shown}{line_break}{reason}" if reason else shown))


def fits(text, expected):
    """Two reasons are worded by the package: that of a missing start_response and that of a stop of the server's."""
    if expected.endswith("start_response"):
        return text.startswith(expected.removesuffix("start_response")) and text.endswith("start_response")
    return text.startswith(expected) if expected.endswith("KeyboardInterrupt: told to") else text == expected


@pytest.mark.parametrize("quiet", [0, reporter.INTERVAL], ids=["every sign is seen", "the last one counts"])
def test_outcome_of_any_sequence(tmp_path, caplog, monkeypatch, quiet):
    monkeypatch.setattr(reporter, "INTERVAL", quiet)
    caplog.set_level("INFO", "backjob")
    with wrap(tmp_path) as site:

        @settings(max_examples=500, deadline=None)
        @given(program=programs)
        def check(program):
            model = Model(program).run()
            site.job = program
            caplog.clear()
            job_id = site.start("/job")
            token = site.token(job_id)
            try:
                reply = call(validator(site.application), make_environ("/job", **{TOKEN_KEY: token}))
            except KeyboardInterrupt:
                assert model.stops_server
            else:
                assert not model.stops_server
                assert (reply.status, reply.body, reply.headers["Content-Length"]) == ("200 OK", b"backjob: ok\n", "12")
                assert len(reply.headers["Backjob-Proof"]) == 43
            if not quiet:
                assert program.seen == model.seen
            job = site.row(job_id)
            status, progress, text = model.end
            assert (job.status, job.progress) == (status, progress)
            assert fits(job.status_text, text), (job.status_text, text)
            assert (job.sealed, job.lease_until, job.held_until) == (None, None, None)
            assert job.ended_at is not None
            # It is final: neither the same request again nor anybody's word changes it.
            assert site.send(token, "/job").code == 410
            site.application.jobs.fail("late", job_id)
            site.application.jobs.finish("late", job_id)
            assert site.application.jobs.cancel(job_id) is False
            assert site.row(job_id).as_status() == job.as_status()
            # Each event of its life is logged once.
            told = [each for each in caplog.records if each.name == "backjob" and each.path]
            assert [each.outcome for each in told] == [None, None, status.name.lower()]
            assert (told[-1].levelname == "ERROR") == (status is Status.FAILED)

        check()
