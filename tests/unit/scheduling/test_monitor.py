"""The monitor: what it makes of every answer, before the claim and after it.

Between it and a real server stands a real proxy of the test's own, which lets the monitor's request pass and does with
the worker's what the test says.
"""

import contextlib
import re
import socket
import socketserver
import threading
from datetime import datetime, timedelta, timezone

import pytest
from support import wait_until
from support.served import PATIENCE, serve, serve_site, wrap

from backjob import Status
from backjob.model.job import JobRequest, NewJob
from backjob.scheduling import monitor as monitor_module
from backjob.scheduling.monitor import Verdict
from backjob.transport import path_proofs, wire

TEXT = [("Content-Type", "text/plain; charset=utf-8")]


class Proxy(socketserver.ThreadingTCPServer):
    """Passes requests on to ``upstream``, a port, but the worker's to ``meet(client, request, proxy)``."""

    request_queue_size = 64
    daemon_threads = False
    upstream = 0

    def __init__(self, meet):
        super().__init__(("127.0.0.1", 0), _Meeting)
        self.meet = meet
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.workers = 0
        """Worker requests that came by."""
        self.is_silent = False
        """Connections that are taken now get no answer until the proxy ends, even if it passes requests on later."""
        self.silent = []
        self.has_ended = threading.Event()


class _Meeting(socketserver.StreamRequestHandler):
    def handle(self):
        if self.server.is_silent:
            self.server.silent.append(self.request)
            self.server.has_ended.wait()
            return
        lines = list(iter(self.rfile.readline, b"\r\n"))
        head = b"".join(lines)
        length = re.search(rb"(?i)content-length: (\d+)", head)
        request = head + b"\r\n" + self.rfile.read(int(length[1]) if length else 0)
        if b"Backjob-Token: worker." in head:
            self.server.workers += 1
            self.server.meet(self.request, request, self.server)
        else:
            pass_on(self.request, request, self.server)


def pass_on(client, request, proxy):
    """What a proxy is for."""
    with socket.create_connection(("127.0.0.1", proxy.upstream), timeout=PATIENCE) as server:
        server.sendall(request)
        while received := server.recv(65536):
            client.sendall(received)


def answer(raw):
    """Answer the worker's request with these bytes; the app never sees it."""
    return lambda client, request, proxy: client.sendall(raw)


def answer_after(event, raw):
    """Pass the worker's request on, but when this has happened answer with these bytes and hang up."""

    def meet(client, request, proxy):
        with socket.create_connection(("127.0.0.1", proxy.upstream), timeout=PATIENCE) as server:
            server.sendall(request)
            assert event.wait(PATIENCE)
            client.sendall(raw)
            client.shutdown(socket.SHUT_RDWR)
            # The server itself notices nothing: it goes on, as behind nginx.
            while server.recv(65536):
                pass

    return meet


@contextlib.contextmanager
def behind(meet, folder, job, **options):
    """A Site on a server behind such a proxy."""
    with Proxy(meet) as proxy:
        loop = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
        loop.start()
        try:
            with serve_site(folder, job, connect=proxy.url, **options) as site:
                proxy.upstream = site.server.port
                site.proxy = proxy
                yield site
        finally:
            proxy.has_ended.set()
            proxy.shutdown()
            loop.join()


def never(environ, start_response):
    raise AssertionError("the job ran")


def say_done(environ, start_response):
    start_response("200 OK", TEXT)
    return [b"done"]


def http(status, *headers, body=b""):
    """An answer of somebody else."""
    lines = [f"HTTP/1.1 {status}", "Server: gate/1.0", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


LYING = "Backjob-Proof: " + "A" * 43


def test_through_a_proxy_that_does_its_work(tmp_path):
    with behind(pass_on, tmp_path, say_done) as site:
        end = site.wait_for_end(site.start("/job", method="POST", data={"a": 1}))
        assert (end.status, end.status_text, site.proxy.workers) == (Status.COMPLETED, "done", 1)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (http("401 Unauthorized", 'WWW-Authenticate: Basic realm="x"'), ["401", "connect_headers", "gate/1.0"]),
        (http("403 Forbidden"), ["403", "gate/1.0"]),
        (http("302 Found", "Location: https://sso.example/login?next=canary"), ["302", "https://sso.example/login:"]),
        (http("301 Moved Permanently", "Location: https://app.example/job"), ["301", "https://app.example/job"]),
        (http("404 Not Found", body=b"<h1>no such page</h1>"), ["404", "answers /job: put BackJob outside of it"]),
        (http("413 Content Too Large"), ["413", "client_max_body_size"]),
        (http("414 URI Too Long"), ["414", "too long"]),
        (http("431 Request Header Fields Too Large"), ["431", "connect_headers"]),
        (http("200 OK", body=b"hello"), ["200", "something in front of BackJob answers /job:"]),
        (http("200 OK", LYING, body=b"ok\n"), ["200", "something in front of BackJob answers /job:"]),
        (http("409 Conflict", LYING), ["409", "answers /job:"]),
        (http("202 Accepted", LYING), ["202"]),
        (b"\x15\x03\x03\x00\x02\x02\x46", ["TLS", "https://"]),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ["HTTP"]),
    ],
    ids=lambda value: value[:16].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_an_answer_before_the_claim_that_would_be_the_same_again(tmp_path, caplog, raw, words):
    """The job fails, and its text says what was met, and what mends it. Where, and which server, says the log alone."""
    with behind(answer(raw), tmp_path, never) as site:
        end = site.wait_for_end(site.start("/job"))
        assert (end.status, site.proxy.workers) == (Status.FAILED, 1)
        assert end.status_text.startswith("The job can't be launched: ")
        wait_until(lambda: all(word in caplog.text for word in [*words, site.proxy.url]))  # after the status
        places = [site.proxy.url, "gate/1.0", "sso.example", "app.example", "OpenSSH"]
        assert [word for word in places if word in end.status_text + end.error] == []
        shown = [word for word in words if not any(place in word for place in places)]
        assert [word for word in shown if word not in end.status_text] == []
    assert "canary" not in end.status_text + caplog.text
    assert "no such page" not in end.status_text


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (http("502 Bad Gateway"), "502"),
        (http("503 Service Unavailable"), "503"),
        (http("504 Gateway Timeout"), "504"),
        (http("429 Too Many Requests"), "429"),
        (b"", "closed the connection without"),
    ],
    ids=["502", "503", "504", "429", "EOF"],
)
def test_an_answer_that_may_be_another_one_later(tmp_path, raw, words):
    """It is tried again until launch_timeout is over."""
    with behind(answer(raw), tmp_path, never, launch_timeout=0.6) as site:
        job_id = site.start("/job")
        waiting = wait_until(lambda: site.status(job_id).status_text and site.status(job_id))
        assert words in waiting.status_text
        end = site.wait_for_end(job_id)
        assert end.status is Status.FAILED
        assert words in end.status_text
        assert site.proxy.workers >= 2


def test_a_relay_neither_reads_a_cookie_nor_changes_what_runs(tmp_path):
    """It sends another path, method, form and user, and sends it twice."""
    seen, ran = [], []

    def meet(client, request, proxy):
        seen.append(request)
        head, _, body = request.partition(b"\r\n\r\n")
        lines = [
            b"DELETE /admin HTTP/1.1",
            *head.split(b"\r\n")[1:],
            b"Cookie: sid=mallory",
            b"X-Forwarded-For: 192.0.2.66",
        ]
        changed = b"\r\n".join(lines) + b"\r\n\r\n" + body.replace(b"a=1", b"a=9")
        for copy in (changed, request):
            pass_on(client, copy, proxy)

    def job(environ, start_response):
        names = ("REQUEST_METHOD", "PATH_INFO", "HTTP_COOKIE", "HTTP_AUTHORIZATION", "REMOTE_ADDR")
        ran.append([*map(environ.get, names), environ["wsgi.input"].read()])
        return say_done(environ, start_response)

    by = {"HTTP_COOKIE": "sid=alice", "HTTP_AUTHORIZATION": "Basic alice"}
    with behind(meet, tmp_path, job) as site:
        assert site.wait_for_end(site.start("/job", method="POST", data={"a": 1}, by=by)).status is Status.COMPLETED
    assert ran == [["POST", "/job", "sid=alice", "Basic alice", "127.0.0.1", b"a=1"]]
    assert b"a=1" in seen[0]
    assert not any(b"alice" in request for request in seen)


def test_a_gate_that_opens_lets_the_job_through(tmp_path):
    """Once the backend is back, the job that waited runs, and nothing of its waiting is left in its text."""

    def meet(client, request, proxy):
        (pass_on if proxy.workers > 1 else answer(http("502 Bad Gateway")))(client, request, proxy)

    with behind(meet, tmp_path, say_done) as site:
        end = site.wait_for_end(site.start("/job"))
        assert (end.status, end.status_text, end.attempt) == (Status.COMPLETED, "done", 1)
        assert site.proxy.workers == 2


def wait_an_hour(site, job_id):
    """As if what has happened so far had happened an hour ago."""
    row = site.row(job_id)
    hour_ago = [f"{each - timedelta(hours=1):%Y-%m-%d %H:%M:%S.%f}" for each in (row.launch_failed_at, row.updated_at)]
    statement = "UPDATE background_job SET launch_failed_at = ?, updated_at = ? WHERE id = ?"
    site.sql(statement, *hour_ago, job_id)


def test_a_wait_for_a_place_does_not_count_as_failing(tmp_path):
    """It failed once, waits as a row for an hour, saying why, and fails once more: it is tried again."""
    opened, refused = threading.Event(), []

    def job(environ, start_response):
        assert opened.wait(PATIENCE)
        return say_done(environ, start_response)

    def meet(client, request, proxy):
        is_late = b"/late" in request and not refused
        if is_late:
            refused.append(request)
        (answer(http("502 Bad Gateway")) if is_late else pass_on)(client, request, proxy)

    with behind(meet, tmp_path, job, max_running=1, launch_timeout=8) as site:
        first = site.start("/first")
        wait_until(lambda: site.status(first).status is Status.INPROGRESS)
        late, store = site.start("/late"), site.backend.store
        wait_until(lambda: store.hold(late, 1, None, "a launch", 30))
        assert store.note_launch_failure(late, 1, "a launch", "Not launched yet, next try in 1 s: why", 0)
        wait_an_hour(site, late)
        assert site.status(late).status_text == "Not launched yet, the last try failed: why"
        opened.set()
        end = site.wait_for_end(late)
        assert (end.status, end.status_text, len(refused)) == (Status.COMPLETED, "done", 1)


def test_a_wait_for_a_slot_does_not_count_as_failing(tmp_path):
    """Its second launch lies in the server's queue for an hour until its connection is closed, its third fails too."""
    queued, closed = threading.Event(), threading.Event()

    def meet(client, request, proxy):
        if proxy.workers == 2:
            queued.set()
            assert closed.wait(PATIENCE)
        (pass_on if proxy.workers > 3 else answer(b""))(client, request, proxy)

    with behind(meet, tmp_path, say_done, launch_timeout=8) as site:
        job_id = site.start("/job")
        assert queued.wait(PATIENCE)
        wait_an_hour(site, job_id)
        assert site.status(job_id).status_text == ""
        closed.set()
        assert site.wait_for_end(job_id).status is Status.COMPLETED
        assert site.proxy.workers == 4


@pytest.fixture
def impatient(monkeypatch):
    """A request that is not answered is compared with a later one within half a second."""
    monkeypatch.setattr(wire, "UNANSWERED", 0.1)
    for module in (wire, path_proofs):
        monkeypatch.setattr(module, "PROBE_TIMEOUT", 0.3)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("more", [{}, {"method": "POST", "data": {"a": 1}}], ids=["GET", "POST"])
def test_requests_lost_in_a_silent_proxy_are_sent_again(tmp_path, caplog, more):
    """It takes connections and answers none of them for a while. A POST is lost with the probe of its path."""
    runs = []

    def job(environ, start_response):
        runs.append(environ["backjob"].job_id)
        return say_done(environ, start_response)

    with behind(pass_on, tmp_path, job, keeper=True, lease=1) as site:
        job_ids = [site.start("/job", delay=0.3, **more) for _ in range(4)]
        site.proxy.is_silent = True
        text = wait_until(lambda: "".join(site.status(job_id).status_text for job_id in job_ids))
        assert "Waiting for the app's own address, which has not answered for 0 s" in text
        site.proxy.is_silent = False
        assert {site.wait_for_end(job_id).status for job_id in job_ids} == {Status.COMPLETED}
    assert sorted(runs) == job_ids
    assert "answers later requests" in caplog.text


@pytest.mark.usefixtures("impatient")
def test_a_request_in_the_queue_of_a_busy_server_is_not_lost(tmp_path, caplog):
    """The server's only slot is taken while several probes are sent, which wait in the queue as well."""
    opened = threading.Event()

    def job(environ, start_response):
        assert environ["PATH_INFO"] != "/page" or opened.wait(PATIENCE)
        return say_done(environ, start_response)

    with serve_site(tmp_path, job, monitor="thread", threads=False) as site:
        job_id = site.start("/job", delay=0.3)
        page = threading.Thread(target=site.server.ask, args=["/page"])
        page.start()
        first = wait_until(lambda: site.backend.self_request.wire.queue)
        wait_until(lambda: site.backend.self_request.wire.queue != first)
        opened.set()
        page.join()
        end = site.wait_for_end(job_id)
        assert (end.status, site.backend.self_request.wire.queue) == (Status.COMPLETED, "")
    assert "is launched again" not in caplog.text


@pytest.mark.parametrize("way", ["thread", "leave"])
def test_a_launch_that_finds_no_place_is_no_failure(tmp_path, way):
    """It got through: how long launches had failed before counts no more, and neither do their words stay."""
    with wrap(tmp_path, never, max_running_per_process=1, monitor=way) as site, serve(site.application) as server:
        job_id, owner, store = site.start("/job"), site.backend.monitor.owner, site.backend.store
        assert store.hold(job_id, 1, site.row(job_id).held_by, owner, 30)
        assert store.note_launch_failure(job_id, 1, owner, "Not launched yet", 30, 59)
        site.backend.self_request.learn({"SERVER_PORT": str(server.port)})
        assert site.backend.limits.enter()
        if way == "thread":
            assert site.backend.monitor.run(site.row(job_id), lambda: None) is Verdict.FULL
        else:
            assert site.work(job_id).code == 409
        row = site.row(job_id)
        assert (row.status, row.held_by, row.launch_failed_at, row.status_text) == (Status.STARTED, None, None, "")
        site.backend.limits.leave()


@pytest.mark.parametrize("connect", ["http://127.0.0.1:{port}", "unix:{folder}/my: app.sock", "uwsgi:@it's {port}"])
def test_nobody_there_at_all(tmp_path, caplog, free_port, connect):
    connect = connect.format(port=free_port, folder=tmp_path)
    with wrap(tmp_path, never, launcher=None, connect=connect, launch_timeout=0.6) as site:
        end = site.wait_for_end(site.application.jobs.start("/job"))
    assert end.status is Status.FAILED
    assert end.status_text.startswith("The job can't be launched: the app's own address can't be reached (")
    assert end.error == end.status_text
    for secret in (str(free_port), "app.sock", str(tmp_path)):
        assert secret not in end.status_text
    assert f"{connect} can't be reached" in caplog.text


def test_a_password_for_the_gate_opens_it_and_stays_there(tmp_path):
    """``connect_headers`` are for what stands in front: the app sees the user's own Authorization, or none."""

    def gate(application):
        def ask_for_password(environ, start_response):
            if "HTTP_BACKJOB_TOKEN" in environ and environ.get("HTTP_AUTHORIZATION") != "Basic gate":
                start_response("401 Unauthorized", TEXT)
                return []
            return application(environ, start_response)

        return ask_for_password

    def job(environ, start_response):
        start_response("200 OK", TEXT)
        return [str(environ.get("HTTP_AUTHORIZATION")).encode()]

    with serve_site(tmp_path, job, front=gate, connect_headers={"Authorization": "Basic gate"}) as site:
        assert site.wait_for_end(site.start("/job")).status_text == "None"
        by = {"HTTP_AUTHORIZATION": "Bearer own"}
        assert site.wait_for_end(site.start("/job", by=by)).status_text == "Bearer own"


def test_without_that_password_it_says_what_is_asked_for(tmp_path):
    def gate(application):
        def refuse(environ, start_response):
            if "HTTP_BACKJOB_TOKEN" not in environ:
                return application(environ, start_response)
            start_response("401 Unauthorized", TEXT)
            return []

        return refuse

    with serve_site(tmp_path, never, front=gate) as site:
        end = site.wait_for_end(site.start("/job"))
    assert end.status is Status.FAILED
    assert "connect_headers" in end.status_text


# After the claim.


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 O",
        http("504 Gateway Timeout"),
        http("502 Bad Gateway"),
        http("401 Unauthorized"),
        http("302 Found", "Location: /login"),
        http("200 OK", LYING, body=b"ok\n"),
        http("409 Conflict", LYING),
    ],
    ids=["EOF", "half-a-head", "504", "502", "401", "302", "200", "409"],
)
def test_no_answer_of_a_proxy_ends_a_job_that_runs(tmp_path, raw):
    """nginx gives up after a minute, the app does not: the job goes on, is not launched again, and completes."""
    claimed, looked = threading.Event(), threading.Event()
    runs = []

    def job(environ, start_response):
        runs.append(environ["backjob"].attempt)
        start_response("200 OK", TEXT)
        environ["backjob"].update(30, "at work")
        claimed.set()
        assert looked.wait(PATIENCE)
        environ["backjob"].update(60)
        return [b"done"]

    with behind(answer_after(claimed, raw), tmp_path, job) as site:
        job_id = site.start("/job", retries=3)
        assert claimed.wait(PATIENCE)
        # Time for the monitor to see the answer, and to do what it would: another job comes and goes meanwhile.
        site.proxy.meet, site.job = pass_on, say_done
        assert site.wait_for_end(site.start("/other", delay=0.3)).status is Status.COMPLETED
        status = site.status(job_id)
        assert (status.status, status.status_text) == (Status.INPROGRESS, "at work")
        looked.set()
        end = site.wait_for_end(job_id)
        assert (end.status, end.attempt, end.status_text) == (Status.COMPLETED, 1, "done")
    assert runs == [1]


def test_a_silent_job_behind_a_proxy_that_hung_up_is_ended_by_the_keeper(tmp_path):
    claimed = threading.Event()

    def job(environ, start_response):
        start_response("200 OK", TEXT)
        environ["backjob"].write("begun")
        claimed.set()
        wait_until(lambda: environ["backjob"].status(environ["backjob"].job_id).status.is_final)
        return []

    meet = answer_after(claimed, http("504 Gateway Timeout"))
    with behind(meet, tmp_path, job, error_timeout=0.5, lease=1, keeper=True) as site:
        end = site.wait_for_end(site.start("/job"))
    assert end.status is Status.FAILED
    assert end.status_text.startswith("begun\njob timeout: ")


def swallow(client, request, proxy):
    """Pass the request on, and drop the answer. The client's connection stays open without it."""
    with socket.create_connection(("127.0.0.1", proxy.upstream), timeout=PATIENCE) as server:
        server.sendall(request)
        while server.recv(65536):
            pass
    proxy.has_ended.wait()


@pytest.fixture
def watchful(monkeypatch):
    """The record of a running job is read after 0.1 s, and the answer is awaited for 0.1 s after the job's end."""
    monkeypatch.setattr(monitor_module, "_SHORTEST_WATCH", 0.1)
    monkeypatch.setattr(monitor_module, "_AFTER_END", 0.1)


def run_until_seen(site):
    """Wait until the monitor has seen that the job runs."""
    wait_until(lambda: not site.backend.renewals.holds)


@pytest.mark.usefixtures("watchful")
@pytest.mark.parametrize("monitor", ["thread", "request"])
def test_a_lost_answer_keeps_no_place(tmp_path, monitor):
    """A load balancer drops the answer of each job, and one job may run at once: the next ones run anyway."""

    def job(environ, start_response):
        run_until_seen(site)
        return say_done(environ, start_response)

    with behind(swallow, tmp_path, job, max_running=1, monitor=monitor) as site:
        for _ in range(3):
            end = site.wait_for_end(site.start("/job"))
            assert (end.status, end.status_text, end.attempt) == (Status.COMPLETED, "done", 1)
        wait_until(lambda: not site.backend.dispatcher._launches)


@pytest.mark.usefixtures("watchful")
def test_code_that_goes_on_keeps_its_place(tmp_path):
    """The job has ended, but its code holds the slot: the next job's request is not sent before the code ends."""
    is_over = threading.Event()

    def job(environ, start_response):
        if environ["PATH_INFO"] == "/hang":
            run_until_seen(site)
            environ["backjob"].finish()
            is_over.wait(PATIENCE)
        return say_done(environ, start_response)

    with behind(swallow, tmp_path, job, max_running=1) as site:
        assert site.wait_for_end(site.start("/hang")).status is Status.COMPLETED
        waiting = site.start("/job")
        with pytest.raises(AssertionError, match="still False"):
            wait_until(lambda: site.proxy.workers > 1, 0.6)
        is_over.set()
        assert site.wait_for_end(waiting).status is Status.COMPLETED
        assert site.proxy.workers == 2


# Where the monitor waits.


@pytest.mark.parametrize("monitor", ["auto", "thread", "request", "leave"])
def test_every_way_does_every_job(tmp_path, monitor):
    with serve_site(tmp_path, say_done, monitor=monitor) as site:
        jobs = [site.start(f"/job/{number}", delay=0.2 * (number % 2)) for number in range(8)]
        ends = [site.wait_for_end(job_id) for job_id in jobs]
    assert [(end.status, end.status_text) for end in ends] == [(Status.COMPLETED, "done")] * 8


@pytest.mark.parametrize("monitor", ["auto", "thread", "leave"])
def test_one_slot_is_enough(tmp_path, monitor):
    """A server that does one thing at a time, and is asked for pages all the while."""
    with serve_site(tmp_path, say_done, monitor=monitor, threads=False) as site:
        jobs = site.within(lambda jobs: [jobs.start(f"/job/{number}") for number in range(8)])
        for job_id in jobs:
            assert site.server.ask("/page").body == b"done"
            assert site.wait_for_end(job_id).status is Status.COMPLETED


def test_jobs_that_are_not_due_hold_up_no_others(tmp_path):
    """In the way in which nobody watches: what waits for its time does not count as waiting for a slot."""
    with serve_site(tmp_path, say_done, monitor="leave") as site:
        delayed = [site.start("/later", delay=2) for _ in range(6)]
        assert site.wait_for_end(site.start("/now")).status is Status.COMPLETED
        assert {site.status(job_id).status for job_id in delayed} == {Status.STARTED}
        assert {site.wait_for_end(job_id).status for job_id in delayed} == {Status.COMPLETED}


def test_no_more_run_at_once_than_may(tmp_path):
    lock, running, most = threading.Lock(), [], []

    def job(environ, start_response):
        with lock:
            running.append(1)
            most.append(len(running))
        # The next ones have their chance meanwhile.
        threading.Event().wait(0.05)
        with lock:
            running.pop()
        return say_done(environ, start_response)

    with serve_site(tmp_path, job, max_running=2) as site:
        jobs = [site.start(f"/job/{number}") for number in range(8)]
        assert {site.wait_for_end(job_id).status for job_id in jobs} == {Status.COMPLETED}
    assert max(most) == 2


def test_a_job_that_was_cancelled_before_its_launch_is_not_launched(tmp_path):
    with behind(pass_on, tmp_path, never) as site:
        job_id = site.start("/job", delay=600)
        site.application.jobs.cancel(job_id)
        site.make_due()
        site.job = say_done
        site.wait_for_end(site.start("/later", delay=0.1))
        assert (site.status(job_id).status, site.proxy.workers) == (Status.CANCELLED, 1)


def test_a_running_job_is_cancelled_from_another_request(tmp_path):
    begun = threading.Event()

    def job(environ, start_response):
        start_response("200 OK", TEXT)
        while True:
            yield b"."
            begun.set()
            threading.Event().wait(0.02)

    with serve_site(tmp_path, job) as site:
        job_id = site.start("/job")
        assert begun.wait(PATIENCE)
        assert site.within(lambda jobs: jobs.cancel(job_id)) is True
        assert site.wait_for_end(job_id).status is Status.CANCELLED


@pytest.mark.parametrize(("overdue", "status"), [(86399, Status.STARTED), (86401, Status.FAILED)])
def test_a_job_that_its_app_has_not_taken_for_a_day_fails(tmp_path, overdue, status):
    """Any process that looks for rows fails it, and says what may mend that."""
    with wrap(tmp_path, app_name="gone") as gone, wrap(tmp_path, app_name="here", keeper=True) as here:
        job_id = gone.start("/job")
        due = datetime.now(timezone.utc) - timedelta(seconds=overdue)
        set_times = "UPDATE background_job SET held_by = NULL, held_until = NULL, due_at = ?, updated_at = ?"
        gone.sql(set_times, *[due.strftime("%Y-%m-%d %H:%M:%S.%f")] * 2)
        here.backend.dispatcher.look_after(0)
        if status is Status.FAILED:
            assert "app_name" in here.wait_for_end(job_id).status_text
        else:
            here.run("/job")  # after which it has looked
            row = here.row(job_id)
            assert (row.status, row.status_text, row.held_by) == (status, "", None)


def add_row(site):
    """A job of this app that waits as a row."""
    backend = site.backend
    request = JobRequest("GET", "/job", "", "/job", app=backend.self_request.app)
    new = NewJob(uid="1" * 32, request=request, key_id=backend.keyring.key_id, app_id=backend.self_request.app_id)
    job_id, _ = backend.store.add(new, lambda job_id: backend.keyring.seal(job_id, new.uid, request))
    return job_id


def test_a_process_that_serves_something_else_fails_no_job(tmp_path):
    """It has the app, and listens: but what answers there is not this app. Whoever serves it takes the job up."""
    with wrap(tmp_path, launcher=None) as site:
        with serve(say_done):
            job_id = add_row(site)
            site.backend.dispatcher.look_after(0)
            wait_until(lambda: site.backend.dispatcher._rows.are_there)  # it was taken, and left to others
            row = wait_until(lambda: (row := site.row(job_id)).held_by is None and row)
            assert (row.status, row.status_text) == (Status.STARTED, "")
        with serve(site.application):
            assert site.wait_for_end(job_id).status is Status.COMPLETED


def test_where_nobody_serves_the_app_for_a_day_its_job_fails(tmp_path):
    with wrap(tmp_path, launcher=None) as site, serve(say_done):
        job_id = add_row(site)
        site.sql("UPDATE background_job SET due_at = '2020-01-01 00:00:00.000000'")
        site.backend.dispatcher.look_after(0)
        assert "what listens in this process is not this app" in site.wait_for_end(job_id).status_text
