"""The app that bench.py serves: a plain page, pages that start an empty job or many that wait, a profile of start()."""

import cProfile
import io
import json
import pstats
import time

from backjob import BackJob, Status

WORK = 0.2
"""Seconds that a job of many waits, as for a database or another service."""


def app(environ, start_response):
    path = environ["PATH_INFO"]
    text = "ok"
    if path == "/start":
        epoch, before = time.time(), time.perf_counter()
        job_id = environ["backjob"].start("/job")
        text = json.dumps({"id": job_id, "epoch": epoch, "seconds": time.perf_counter() - before})
    elif path == "/status":
        text = json.dumps(environ["backjob"].status(environ["QUERY_STRING"]).as_dict())
    elif path == "/fill":
        for _ in range(int(environ["QUERY_STRING"])):
            environ["backjob"].start("/wait")
    elif path == "/wait":
        time.sleep(WORK)
    elif path == "/live":
        text = str(len(environ["backjob"].find([Status.STARTED, Status.INPROGRESS], limit=1000)))
    elif path == "/profile":
        profile, out = cProfile.Profile(), io.StringIO()
        for _ in range(100):
            profile.runcall(environ["backjob"].start, "/job")
        pstats.Stats(profile, stream=out).sort_stats("tottime").print_stats(15)
        text = out.getvalue()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text.encode()]


application = BackJob(app)
