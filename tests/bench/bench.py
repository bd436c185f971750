"""What a job costs, in plain requests of the same server, in one run: ``make bench``.

gunicorn gthread with its shipped defaults serves one app; plain requests, start() and whole jobs take turns, so that
whatever else the machine does meets all of them alike. Ratios count, not milliseconds. A missed aim is printed with its
profile; the exit code is 0 all the same, for a busy machine is no failure.
"""

from __future__ import annotations

import cProfile
import http.client
import json
import os
import pstats
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from datetime import datetime
from pathlib import Path

from backjob import BackJob

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "300"))
AIMS = {"start()": 3.0, "start to completed": 5.0}
PAUSE = 0.02
ORDINARY_AIM = 0.5  # microseconds
JOBS = 100
PAGE_AIM = 2.0
"""Times its idle time that a page may take while so many jobs wait and run."""


def get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers={"Cookie": "session=bench"})
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def completed(port: int, job_id: int) -> dict:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(PAUSE)  # to ask at once would take the server's time from the job that is measured
        status = json.loads(get(port, f"/status?{job_id}"))
        if status["status"] >= 2:
            return status
    raise SystemExit(f"job {job_id} did not end within 30 s")


def measure(port: int, rounds: int, pause: float) -> dict[str, list[float]]:
    """Seconds of each plain request, of each start() in a request, and from each start to its job's end.

    ``pause``: seconds of rest before each of the two requests. With none, the plain request comes right after others
    and finds everything warm, and that is the harder unit to be measured by.
    """
    times: dict[str, list[float]] = {"plain request": [], "start()": [], "start to completed": []}
    for _ in range(rounds):
        time.sleep(pause)
        before = time.perf_counter()
        get(port, "/plain")
        times["plain request"].append(time.perf_counter() - before)
        time.sleep(pause)
        started = json.loads(get(port, "/start"))
        status = completed(port, started["id"])
        times["start()"].append(started["seconds"])
        times["start to completed"].append(datetime.fromisoformat(status["end_time"]).timestamp() - started["epoch"])
    return times


def measure_pages(port: int, pause: float) -> tuple[list[float], list[float]]:
    """Seconds of each plain request of an idle server, and then of each while many jobs wait and run."""
    idle = [ask_after(port, pause) for _ in range(ROUNDS)]
    get(port, f"/fill?{JOBS}")
    busy = []
    while int(get(port, "/live")):
        busy += [ask_after(port, pause) for _ in range(10)]
    return idle, busy


def ask_after(port: int, pause: float) -> float:
    time.sleep(pause)
    before = time.perf_counter()
    get(port, "/plain")
    return time.perf_counter() - before


def report_pages(idle: list[float], busy: list[float]) -> None:
    def show(seconds: list[float]) -> str:
        return f"{statistics.median(seconds) * 1e3:.2f} ms ({statistics.quantiles(seconds, n=20)[-1] * 1e3:.2f})"

    ratio = statistics.median(busy) / statistics.median(idle)
    print(f"a page, {len(idle)} times while nothing runs, {len(busy)} times while {JOBS} jobs wait and run; p50 (p95)")
    print(f"  idle {show(idle)}, busy {show(busy)}: {ratio:.2f} times its idle time   aim: {PAGE_AIM:.0f}")
    if ratio > PAGE_AIM:
        print("MISSED: a page while jobs wait and run")


def ordinary_request() -> float:
    """Microseconds that BackJob adds to a request that has nothing to do with jobs."""

    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"ok"]

    def start_response(status, headers, exc_info=None):
        return None

    wrapped = BackJob(app, key="key12345" * 4)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SCRIPT_NAME": "", "QUERY_STRING": ""}
    number = 200_000
    timers = [timeit.Timer(lambda call=call: call(environ.copy(), start_response)) for call in (app, wrapped)]
    bare, through = (min(timer.repeat(7, number)) / number * 1e6 for timer in timers)
    print(f"ordinary request: app {bare:.2f} us, through BackJob {through:.2f} us, "
          f"added {through - bare:.2f} us (aim: under {ORDINARY_AIM} us)")  # fmt: skip
    if through - bare >= ORDINARY_AIM:
        print("MISSED. Its profile:")
        profile = cProfile.Profile()
        profile.runcall(lambda: [wrapped(environ.copy(), start_response) for _ in range(20_000)])
        pstats.Stats(profile).sort_stats("tottime").print_stats(8)
    return through - bare


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    here = Path(__file__).resolve().parent
    command = [sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--threads", "4", "--no-control-socket"]
    command += ["--bind", f"127.0.0.1:{port}", "--log-level", "warning", "--pythonpath", str(here)]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen([*command, "bench_app:application"], cwd=folder)
        try:
            wait_for(port, server)
            measure(port, 30, 0)
            report(measure(port, ROUNDS, PAUSE), port, "each after a pause")
            report(measure(port, ROUNDS, 0), port, "one right after the other")
            report_pages(*measure_pages(port, PAUSE))
        finally:
            server.terminate()
            server.wait(30)
    ordinary_request()


def wait_for(port: int, server: subprocess.Popen) -> None:
    end = time.monotonic() + 30
    while server.poll() is None and time.monotonic() < end:
        try:
            get(port, "/plain")
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("gunicorn did not come up")


def report(times: dict[str, list[float]], port: int, how: str) -> None:
    unit = statistics.median(times["plain request"])
    print(f"gunicorn gthread, 4 threads, 1 process, {how}; {ROUNDS} rounds; p50 (p95)")
    for name, seconds in times.items():
        p50, p95 = statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]
        aim = f"   aim: {AIMS[name]:.0f}" if name in AIMS else ""
        print(f"  {name:20} {p50 * 1e3:7.2f} ms ({p95 * 1e3:.2f})  {p50 / unit:5.2f} plain requests{aim}")
    for name, aim in AIMS.items():
        if statistics.median(times[name]) / unit > aim:
            print(f"MISSED: {name}. Profile of 100 start() in one request:")
            print(get(port, "/profile"))


if __name__ == "__main__":
    main()
