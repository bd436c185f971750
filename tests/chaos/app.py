"""The app of the chaos suite: a page that starts jobs, and jobs that leave their marks in the judge's file.

CHAOS_OPTIONS holds the options of its BackJob as JSON, CHAOS_CACHE the URL of a Redis to put in front. The file
keys.json has the keys, newest first.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import webob
from dogpile.cache import make_region
from webob.exc import HTTPNotFound, HTTPServiceUnavailable

from backjob import BackJob, BackJobError, JobNotFound, StoreError
from chaos import runs

Answer = Callable[..., Iterable[bytes]]
_STEP = 0.1
_POISON = "poison"
"""A text with this word is refused by the database while the fault "refuse a write" strikes."""


def home(request: webob.Request) -> Answer:
    """An ordinary page, which has nothing to do with jobs."""
    return webob.Response(text="A page.")


def start(request: webob.Request) -> Answer:
    """Start the job that the JSON body describes. 500 with its id when the page is to fail afterwards."""
    told = request.json_body
    try:
        job_id = request.environ["backjob"].start(told["target"], **told["options"])
    except StoreError as error:
        return HTTPServiceUnavailable(str(error))
    answer = webob.Response(json={"job": job_id, "pid": os.getpid()})
    answer.status_code = 500 if told["page_fails"] else 200
    return answer


def cancel(request: webob.Request) -> Answer:
    try:
        return webob.Response(json=request.environ["backjob"].cancel(request.GET["id"]))
    except JobNotFound as error:
        return HTTPNotFound(str(error))
    except BackJobError as error:  # a store that is away, or a job of a newer release
        return HTTPServiceUnavailable(str(error))


def status(request: webob.Request) -> Answer:
    try:
        return webob.Response(json=request.environ["backjob"].status(request.GET["id"]).as_dict())
    except JobNotFound as error:
        return HTTPNotFound(str(error))
    except StoreError as error:
        return HTTPServiceUnavailable(str(error))


def work(request: webob.Request) -> Answer:
    """The job: what its kind does, for so many seconds, between its marks in the judge's file."""
    if not request.environ["backjob"].is_worker:
        return HTTPNotFound()  # nobody but a job comes here
    kind = request.path_info.removeprefix("/job/")
    try:
        with marked(request.environ, request.GET["tag"]):
            _WORK[kind](request.environ["backjob"], float(request.GET["seconds"]))
    except HTTPServiceUnavailable as error:
        return error
    return webob.Response(text="Worked.")


@contextlib.contextmanager
def marked(environ: Mapping[str, Any], tag: str) -> Iterator[None]:
    """The run of this job: its begin, and its end or by what it was left, unless the process is killed."""
    job = environ["backjob"]
    runs.begin(job.job_id, job.attempt, tag)
    try:
        yield
    except BaseException as error:
        runs.leave(job.job_id, job.attempt, error)
        raise
    runs.end(job.job_id, job.attempt)


def sleep(job: Any, seconds: float) -> None:
    time.sleep(seconds)


def give_signs(job: Any, seconds: float) -> None:
    """So many, and not for so long: who stood still in between has signs left to give."""
    steps = max(round(seconds / _STEP), 1)
    for step in range(steps):
        job.update(100 * step / steps, f"Step {step} of {steps}.")
        time.sleep(_STEP)


def write_lines(job: Any, seconds: float) -> None:
    for number in range(20):
        print(f"Line {number} of 20.", file=job)
        time.sleep(seconds / 20)


def compute(job: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(number * number for number in range(1000))


def fail_once(job: Any, seconds: float) -> None:
    time.sleep(seconds)
    if job.attempt == 1:
        raise HTTPServiceUnavailable("The first attempt fails.")


def write_poison(job: Any, seconds: float) -> None:
    """Go on for so long after a text that the database may refuse, and end with such a text."""
    job.update(50, _POISON)
    time.sleep(seconds)
    print(_POISON, file=job)


def break_down(job: Any, seconds: float) -> None:
    time.sleep(seconds)
    raise RuntimeError("on purpose")


_WORK = {
    **dict.fromkeys(("short", "silent", "mute", "delayed", "follower", "orphan"), sleep),
    **dict.fromkeys(("steps", "unwanted"), give_signs),
    "wordy": write_lines,
    "busy": compute,
    "flaky": fail_once,
    "broken": break_down,
    "poison": write_poison,
}
_PAGES = {"/": home, "/start": start, "/cancel": cancel, "/status": status}


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    request = webob.Request(environ)
    page = work if request.path_info.startswith("/job/") else _PAGES.get(request.path_info, HTTPNotFound)
    return page(request)(environ, start_response)


def _make_options() -> dict[str, Any]:
    options: dict[str, Any] = json.loads(os.environ["CHAOS_OPTIONS"])
    options["key"] = json.loads(Path("keys.json").read_text())
    if "CHAOS_CACHE" in os.environ:
        arguments = {"url": os.environ["CHAOS_CACHE"]}
        options["cache"] = make_region().configure("dogpile.cache.redis", arguments=arguments)
    return options


application = BackJob(app, **_make_options())
