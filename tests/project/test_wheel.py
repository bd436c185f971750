"""What is published works: an sdist, a wheel made from it, an environment with nothing else, a job that completes."""

import configparser
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, needs

SCRIPT = '''
"""An app in wsgiref's server, whose single slot serves everything: the start, the job and the questions about it."""

import json
import threading
import time
import urllib.request
from importlib.metadata import entry_points, version
from importlib.resources import files
from wsgiref.simple_server import make_server

import backjob
from backjob import BackJob, Status


def app(environ, start_response):
    job = environ["backjob"]
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    if environ["PATH_INFO"] == "/start":
        return [str(job.start("/job")).encode()]
    if environ["PATH_INFO"] == "/job":
        job.update(50)
        return [b"Worked as " + environ["HTTP_COOKIE"].encode()]
    return [json.dumps(job.status(int(environ["QUERY_STRING"])).as_dict()).encode()]


def ask(path):
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}", headers={"Cookie": "user=Ada"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        return answer.read()


with make_server("127.0.0.1", 0, BackJob(app)) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        job_id = int(ask("/start"))
        deadline = time.monotonic() + 30
        while True:
            job = json.loads(ask(f"/status?{job_id}"))
            if Status(job["status"]).is_final or time.monotonic() > deadline:
                break
            time.sleep(0.1)
    finally:
        server.shutdown()
        thread.join()

print(json.dumps({
    "job": job,
    "package": backjob.__file__,
    "version": version("backjob"),
    "says": backjob.__version__,
    "typed": files("backjob").joinpath("py.typed").is_file(),
    "filter": [entry.load().__name__ for entry in entry_points(group="paste.filter_app_factory", name="main")],
}))
'''


TYPED = '''
"""What a user's code does with the public names, to a type checker that allows nothing to be untyped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from backjob import BackJob, Check, Config, Finding, JobFailed, JobNotFound, Jobs, JobStatus, Status


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    job: Jobs = environ["backjob"]
    for number in job.track([1, 2, 3]):
        print(number + 1, file=job)
    job.update(50, "half")
    start_response("200 OK", [])
    return [str(job.start("/job", {"a": [1, 2]}, method="POST", data={"b": "c"}, delay=1.5)).encode()]


application = BackJob(app, database="sqlite:///jobs.sqlite3", error_timeout=60)
config: Config = application.config
checked: Check = application.check()
problem: Finding | None = checked.problem


def find_progress(job_id: int) -> int | None:
    try:
        status: JobStatus = application.jobs.status(job_id, scope="Ada")
    except (JobNotFound, JobFailed):
        return None
    return status.progress if status.status is Status.COMPLETED else None


find_progress("1")  # type: ignore[arg-type]
application.jobs.nonsense()  # type: ignore[attr-defined]
'''


def run(*command: str | Path, directory: Path, code: int = 0) -> str:
    """What it writes, or says when it ends with another exit code that is meant."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    finished = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True)
    assert finished.returncode == code, finished.stdout + finished.stderr
    return finished.stderr if code else finished.stdout


@pytest.mark.live
@pytest.mark.timeout(600)  # pip fetches the dependencies
def test_wheel_runs_a_job_on_its_own(tmp_path):
    source, environment, elsewhere = tmp_path / "source", tmp_path / "environment", tmp_path / "elsewhere"
    source.mkdir()
    elsewhere.mkdir()
    shutil.copytree(ROOT / "backjob", source / "backjob", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--outdir", tmp_path / "dist", source, directory=elsewhere)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run(sys.executable, "-m", "venv", environment, directory=elsewhere)
    run(environment / "bin" / "pip", "install", "--quiet", wheel, directory=elsewhere)
    shutil.rmtree(source)
    # The command says what it lacks, and has all that it needs once that is there.
    lack = run(environment / "bin" / "backjob", "demo", directory=elsewhere, code=2)
    assert lack == "backjob: the command needs click and rich: pip install 'backjob[cli]'\n"
    run(environment / "bin" / "pip", "install", "--quiet", f"{wheel}[cli]", directory=elsewhere)
    assert run(environment / "bin" / "backjob", "demo", directory=elsewhere).endswith("The job has completed.\n")
    assert list(elsewhere.iterdir()) == []

    # What should be an error and is none would be an ignore that is unused, which is an error.
    (elsewhere / "typed.py").write_text(TYPED, encoding="utf-8")
    checker = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", "--cache-dir", os.devnull]
    needs.package("mypy")
    run(*checker, "--python-executable", environment / "bin" / "python", "typed.py", directory=elsewhere)

    found = json.loads(run(environment / "bin" / "python", "-I", "-c", SCRIPT, directory=elsewhere))

    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    assert found["version"] == found["says"] == settings["metadata"]["version"]
    assert Path(found["package"]).is_relative_to(environment)
    assert found["typed"]
    assert found["filter"] == ["make_filter"]
    job = found["job"]
    assert (job["status"], job["progress"], job["status_text"]) == (2, 100, "Worked as user=Ada")
