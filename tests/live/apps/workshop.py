"""An app with pages that start jobs and tell how they stand, and with jobs whose runs the judge sees."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import judge
import webob
from webob.exc import HTTPBadRequest, HTTPNotFound, HTTPServiceUnavailable

from backjob import BackJob, JobNotFound, Status

Answer = Callable[..., Iterable[bytes]]


def home(request: webob.Request) -> Answer:
    return webob.Response(text="A page.")


def start(request: webob.Request) -> Answer:
    """Start the job that the JSON body describes, as often as it says; tell the ids and how long each start took."""
    options: dict[str, Any] = request.json_body
    count = options.pop("count", 1)
    ids, seconds = [], []
    for _ in range(count):
        begin = time.monotonic()
        try:
            ids.append(request.environ["backjob"].start(**options))
        except ValueError as error:
            return HTTPBadRequest(str(error))
        seconds.append(time.monotonic() - begin)
    return webob.Response(json={"ids": ids, "seconds": seconds, **describe_way(request)})


def describe_way(request: webob.Request) -> dict[str, str]:
    """How this process finds itself, and where it watches jobs."""
    backend = request.environ["backjob"]._get_backend()
    address, *_ = backend.self_request.candidates(request.environ)
    return {"found": address.found, "way": backend.dispatcher.choose_way(request.environ)}


def status(request: webob.Request) -> Answer:
    try:
        return webob.Response(json=request.environ["backjob"].status(request.GET["id"]).as_dict())
    except JobNotFound as error:
        return HTTPNotFound(str(error))


def count_live(request: webob.Request) -> Answer:
    """How many jobs have not ended, 1,000 at most."""
    live = request.environ["backjob"].find(status=[Status.STARTED, Status.INPROGRESS], limit=1000)
    return webob.Response(json=len(live))


inherited_databases: list[str] = []
"""The SQLite files that were open in this process when it was forked."""


def note_inherited_databases() -> None:
    links = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    inherited_databases[:] = [link for link in links if ".sqlite3" in link]


def list_inherited_databases(request: webob.Request) -> Answer:
    return webob.Response(json=inherited_databases)


def check(request: webob.Request) -> Answer:
    """What the application finds when it is checked from within this request, and how long that takes.

    With ``lock`` the visitor has a session that is locked as long as the request lasts.
    """
    begin = time.monotonic()
    with open("session.lock", "w") as session:
        if "lock" in request.GET:
            fcntl.flock(session, fcntl.LOCK_EX)
        found = application.check(request.environ)
    return webob.Response(json={**found.as_dict(), "took": time.monotonic() - begin})


def walk(request: webob.Request) -> Answer:
    """The job of EBackJob's complete example; what it waits for are the gates that the test opens."""
    job = request.environ["backjob"]
    job.update(1)

    def work() -> Iterable[bytes]:
        with judge.run(request.environ):
            yield f"Job started for {request.cookies.get('user', 'nobody')}.\n".encode()
            judge.wait_for("gate-20")
            job.update(20)
            judge.wait_for("gate-40")
            yield b"Job in progress.\n"
            job.update(40)
            judge.wait_for("gate-80")
            job.update(80)
            yield b"Job done.\n"

    return webob.Response(app_iter=work(), content_type="text/plain", charset="utf-8")


def echo(request: webob.Request) -> Answer:
    """Write what the request looks like from here, after a moment."""
    with judge.run(request.environ):
        time.sleep(float(request.GET.get("seconds", 0)))
        seen = {
            "method": request.method,
            "mount": request.script_name,
            "path": request.script_name + request.path_info,
            "query": request.query_string,
            "body": request.body.decode(),
            "headers": dict(request.headers),
            "scheme": request.scheme,
            "url": request.url,
            "client": request.remote_addr,
            "email": request.environ.get("OIDC_CLAIM_email"),
            "is_worker": request.environ["backjob"].is_worker,
            "pid": os.getpid(),
        }
        return webob.Response(json=seen)


def work(request: webob.Request) -> Answer:
    """Be busy for a moment."""
    with judge.run(request.environ):
        time.sleep(float(request.GET.get("seconds", 0)))
    return webob.Response(text="Worked.")


def stumble(request: webob.Request) -> Answer:
    """Fail at the first attempt."""
    job = request.environ["backjob"]
    if job.attempt == 1:
        judge.note(job.job_id, job.attempt, "begin")
        return HTTPServiceUnavailable("The first attempt fails.")
    return echo(request)


def hang(request: webob.Request) -> Answer:
    """Never end by itself, or only when the test opens the gate."""
    with judge.run(request.environ):
        judge.wait_for("gate-hang")
    return webob.Response(text="Let go.")


def compute(request: webob.Request) -> Answer:
    """Give no other thread or greenlet of this process a chance that it does not take by force, and no sign."""
    with judge.run(request.environ):
        end = time.monotonic() + float(request.GET["seconds"])
        while time.monotonic() < end:
            pass
    return webob.Response(text="Computed.")


def follow(request: webob.Request) -> Answer:
    """Start a job that is to follow this very response, which the test keeps from ending."""
    judge.note(request.environ["backjob"].start("/work", after_response=True), os.getpid(), file=judge.PLACES)
    judge.wait_for("gate-follow")
    return webob.Response(status=204) if "empty" in request.GET else webob.Response(text="Followed.")


PAGES = {
    "/": home,
    "/start": start,
    "/status": status,
    "/live": count_live,
    "/inherited_databases": list_inherited_databases,
    "/check": check,
    "/walk": walk,
    "/echo": echo,
    "/work": work,
    "/stumble": stumble,
    "/hang": hang,
    "/compute": compute,
    "/follow": follow,
}


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    request = webob.Request(environ)
    page = PAGES.get(request.path_info)
    answer = page(request) if page else HTTPNotFound()
    return answer(environ, start_response)


def make_app(global_config: dict[str, str], **settings: str) -> Callable[..., Iterable[bytes]]:
    """A ``paste.app_factory``: the pages alone."""
    return app


application = BackJob(app, **json.loads(os.environ.get("WORKSHOP_OPTIONS", "{}")))
