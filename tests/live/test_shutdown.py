"""A server that stops while a job runs: the job's status text says so, and names the server's setting."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
from pathlib import Path

import pytest
from support import wait_until
from support.libraries import cheroot
from support.servers import GEVENT, GTHREAD, ONE_SYNC, WAITRESS, Server, Setup

from backjob import Status

from .conftest import Serve

pytestmark = pytest.mark.live


def serving_several(setup: Setup, *options: str) -> Setup:
    return dataclasses.replace(setup, app="several:application").with_options(*options)


def begin(server: Server, target: str) -> int:
    """Start a job and wait until its code runs."""
    job_id = server.start(target)
    wait_until(lambda: server.runs()[job_id, "begin"])
    return job_id


def is_running(program: str, group: int) -> bool:
    """Return whether a process of this group runs the program."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if re.match(rf"\d+ \({program}\) \S \d+ {group} ", stat.read_text()):
                return True
    return False


@pytest.mark.parametrize("target", ["/executors", "/executors/one"])
def test_a_reload_that_does_not_wait_long_enough(run_server: Serve, target: str) -> None:
    """The old worker's Python exits, and with it the pools of threads."""
    server = run_server(serving_several(GTHREAD, "--graceful-timeout", "1"), is_trouble_expected=True)
    job_id = begin(server, target)
    server.process.send_signal(signal.SIGHUP)
    text = server.end_of(job_id)["status_text"]
    assert "shutdown (the server was stopped while the job ran: raise --graceful-timeout" in text


def test_a_job_that_takes_longer_than_a_sync_worker_may(run_server: Serve) -> None:
    server = run_server(serving_several(ONE_SYNC, "--timeout", "2"), is_trouble_expected=True)
    text = server.end_of(begin(server, "/rest"))["status_text"]
    assert "the job took longer than gunicorn's --timeout of 2 s" in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("setup", [ONE_SYNC, GTHREAD, GEVENT], ids=str)
def test_a_shutdown_that_does_not_wait_long_enough(run_server: Serve, setup: Setup, number: int) -> None:
    """Whatever the job's process could still write itself: the next start of the server knows it."""
    server = run_server(serving_several(setup, "--graceful-timeout", "1"), is_trouble_expected=True)
    job_id = begin(server, "/rest")
    server.process.send_signal(number)
    server.process.wait(20)
    end = run_server(serving_several(setup), is_trouble_expected=True).end_of(job_id)
    assert end["status"] == Status.FAILED
    assert "--graceful-timeout" in end["status_text"]


@pytest.mark.parametrize(
    ("setup", "number", "advice"),
    [
        (GTHREAD, signal.SIGTERM, "KillMode=mixed does, and raise --graceful-timeout"),
        (GTHREAD, signal.SIGINT, "at once: gunicorn waits for --graceful-timeout when it is stopped with SIGTERM"),
        (WAITRESS, signal.SIGINT, "KillMode=mixed does, and let it wait longer"),
        (cheroot(4), signal.SIGINT, "KillMode=mixed does, and let it wait longer"),
    ],
    ids=["gunicorn-SIGTERM", "gunicorn-SIGINT", "waitress", "cheroot"],
)
def test_a_signal_to_all_processes(run_server: Serve, setup: Setup, number: int, advice: str) -> None:
    """As systemd's, by default, and Ctrl-C: what the job has started is stopped before the server."""
    server = run_server(serving_several(setup), is_trouble_expected=True)
    job_id = begin(server, "/child")
    wait_until(lambda: is_running("sleep", server.process.pid))
    os.killpg(server.process.pid, number)
    server.process.wait(20)
    text = run_server(serving_several(setup), is_trouble_expected=True).end_of(job_id)["status_text"]
    assert text.count("the server was stopped while the job ran") == 1
    assert advice in text
