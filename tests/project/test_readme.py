"""The README holds: its Python runs as a job, its commands exist, the names in its tables are real.

So are those in the tables for who comes from EBackJob, which have a page of their own.
"""

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import time
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import demo
import pytest
from support import ROOT

from backjob import BackJob, Config, JobStatus, Status

README = (ROOT / "README.md").read_text(encoding="utf-8")
FROM_EBACKJOB = (ROOT / "docs" / "from-ebackjob.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
APPS = [block for block in BLOCKS if "application = BackJob(" in block]
SNIPPETS = [block for block in BLOCKS if block not in APPS]

EBACKJOB_OPTIONS = {
    *("checkAndCreateTable", "key", "useDb", "useCache", "databaseComponent", "cacheComponent", "tableName"),
    *("cachePrefix", "errorTimeout", "userAgent", "backlogDays", "allBacklogDays"),
}
EBACKJOB_METHODS = {"start", "getStatus", "jobExists", "update", "incrementProgress", "finish", "fail"}

SNIPPET_APP = """
from bottle import Bottle, request

from backjob import BackJob

app = Bottle()


@app.post("/start")
def start():
    return {"id": request.environ["backjob"].start("/job")}


@app.get("/status/<job_id:int>")
def status(job_id):
    return request.environ["backjob"].status(job_id).as_dict()


@app.get("/job")
def run():
    job = request.environ["backjob"]
"""


def read_table(heading: str) -> list[list[str]]:
    """The cells of each row of the table whose first heading this is."""
    lines = iter([*README.splitlines(), *FROM_EBACKJOB.splitlines()])
    for line in lines:
        if line.startswith(f"| {heading} |"):
            break
    else:
        raise AssertionError(f"there is no table {heading!r}")
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def read_names(cell: str) -> list[str]:
    """The names in code marks in a cell, without their calls and values."""
    return [re.match(r"\w+", code)[0] for code in re.findall(r"`([^`]+)`", cell) if re.match(r"[a-zA-Z]", code)]


@pytest.fixture
def jobs(tmp_path, monkeypatch) -> Any:
    """What an app finds in its environ in an ordinary request."""
    monkeypatch.chdir(tmp_path)
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    found = []

    def app(environ, start_response):
        found.append(environ["backjob"])
        return []

    application = BackJob(app)
    application(environ, lambda *_: None)
    yield found[0]
    application.close()


def run_job(source: str, directory: Path, start: str, status: str) -> dict[str, Any]:
    """Serve this module with gunicorn, start a job by a POST to one path and watch it at the other to its end."""
    (directory / "app.py").write_text(source, encoding="utf-8")
    with demo.serve("app:application", directory, source=directory) as url:
        browser = demo.Browser(url, timeout=30)
        job_id = browser.load_json(start, b"")["id"]
        screen = demo.Screen(io.StringIO())
        return demo.watch(browser, status.format(job_id), screen, time.monotonic() + 30)


@pytest.mark.live
def test_app_runs(tmp_path):
    job = run_job(APPS[0], tmp_path, "/report/start", "/report/status/{}")
    assert job["status_text"] == "Reading the figures of 2026\nDrawing the pages\nThe report is done."
    assert Status(job["status"]) is Status.COMPLETED


@pytest.mark.live
@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs_in_a_job(snippet, tmp_path):
    source = SNIPPET_APP + textwrap.indent(snippet, "    ") + "\n\napplication = BackJob(app)\n"
    job = run_job(source, tmp_path, "/start", "/status/{}")
    assert job["status_text"] == "The report is done."
    assert Status(job["status"]) is Status.COMPLETED


def test_apps_can_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKJOB_KEY", "a-key-for-tests-and-for-nothing-but-tests")
    names: dict[str, Any] = {}
    for source in APPS:
        exec(compile(source, "README.md", "exec"), names)
        assert isinstance(names.pop("application"), BackJob)
    assert len(APPS) == 2


def test_commands_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = re.findall(r"(?:`|^)make (\w+)", README, re.MULTILINE)
    assert {"demo", "test"} <= set(commands)
    for command in commands:
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command


def test_options_are_those_of_backjob():
    rows = {read_names(name)[0]: default for name, default, _ in read_table("option")}
    defaults = {field.name: make_default(field) for field in dataclasses.fields(Config)}
    assert set(rows) == set(defaults)
    in_words = {"user_agent", "forward_headers"}
    for name in rows.keys() - in_words:
        assert ast.literal_eval(rows[name].strip("`")) == defaults[name], name


def make_default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def test_every_option_of_ebackjob_has_its_place():
    rows = read_table("EBackJob's option")
    assert {read_names(theirs)[0] for theirs, _ in rows} == EBACKJOB_OPTIONS
    options = {field.name for field in dataclasses.fields(Config)}
    assert {name for _, ours in rows for name in read_names(ours)} - {"None"} <= options


def test_every_method_of_ebackjob_has_its_place(jobs):
    rows = read_table("EBackJob's method")
    assert {read_names(theirs)[0] for theirs, _ in rows if "()" in theirs} == EBACKJOB_METHODS
    for theirs, ours in rows:
        assert hasattr(jobs, read_names(ours)[0]), theirs
    assert jobs.is_worker is False


def test_every_way_to_start_has_its_place(jobs):
    arguments = inspect.signature(jobs.start).parameters
    rows = read_table("EBackJob's way to start")
    assert len(rows) == 7
    for theirs, ours in rows:
        assert read_names(ours)[0] in arguments, theirs
    others = re.search(r"Its other arguments: (.*?)\.\n", README, re.DOTALL)[1]
    assert set(read_names(others)) <= arguments.keys()


def test_methods_exist(jobs):
    prose = "\n".join(line for line in README.splitlines() if not line.startswith("|"))
    for name in re.findall(r"`(\w+)\(", prose):
        assert any(hasattr(owner, name) for owner in (jobs, JobStatus)), name


def test_statuses():
    named = re.findall(r"`(?:Status\.)?([A-Z]+)` (\d)", FROM_EBACKJOB)
    assert {name: int(number) for name, number in named} == Status.__members__
