"""The command ``backjob``: in real processes and at real terminals, on real files, against a real server.

What does not need a process of its own is called here, by click's runner: errors and exit codes are the same there.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pexpect
import pytest
from click.testing import CliRunner, Result
from paste.deploy import loadfilter
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationExecutionError
from rich.console import Console
from support import DOCS, needs, wait_until
from support.processes import name_dead
from support.served import PATIENCE, Site, serve_site
from support.services import new_database

import backjob
from backjob import BackJob, ConfigError, Status
from backjob.cli.commands import backjob as commands
from backjob.cli.locate import find_application
from backjob.cli.screen import Screen, clean, clean_line
from backjob.cli.watch import BarView, GrowingText

pytestmark = pytest.mark.live

PAGE = DOCS / "command.md"
KEY = "a-key-of-one-word-as-a-variable-has-it"
HOSTILE = "\x1b[31mred\x1b[0m \x1b]0;a title\x07 [bold]x[/bold] :boom: \x9b2J\u202egnp.exe back"
HARMLESS = r"\x1b[31mred\x1b[0m \x1b]0;a title\x07 [bold]x[/bold] :boom: \x9b2J\u202egnp.exe back"


class Action:
    """The app's one action, which is every job: what it does is its path."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        job, path = environ["backjob"], environ["PATH_INFO"]
        if path == "/hostile":
            print(HOSTILE, file=job)
        while path == "/cancelled" and not self.may_go_on.wait(0.02):
            job.update(60)
        if path == "/steps":
            print("The first step.", file=job)
            for progress in (20, 40, 60):
                job.update(progress)
                # The one who watches is to find it in the record.
                wait_until(functools.partial(self.is_told, job.job_id, progress))
            assert self.may_go_on.wait(PATIENCE)
            print("The last step.", file=job)
        start_response("500 Broken" if path == "/broken" else "200 OK", [("Content-Type", "text/plain")])
        who = "somebody" if "HTTP_COOKIE" in environ else "nobody"
        form = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
        return [f"{environ['REQUEST_METHOD']} as {who}: {environ['QUERY_STRING']} {form}".encode()]

    def is_told(self, job_id: int, progress: int) -> bool:
        """Is it in the record?"""
        return self.site.status(job_id).progress == progress

    site: Site


@pytest.fixture
def action() -> Action:
    return Action()


@pytest.fixture
def site(tmp_path: Path, action: Action, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A served app, at which the commands of this test are aimed by the environment."""
    with serve_site(tmp_path, action, key=KEY) as site:
        action.site = site
        site.application.create_table()
        monkeypatch.setenv("BACKJOB_APP", f"sqlite:///{site.path}")
        monkeypatch.setenv("BACKJOB_KEY", KEY)
        yield site
        action.may_go_on.set()


def finish(site: Site, target: str = "/job", **options: Any) -> int:
    """Start a job of the app's own and wait for its end."""
    return site.wait_for_end(site.start(target, **options)).id


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the person who runs the tests has a say, and the working directory is empty."""
    for name in ("BACKJOB_APP", "BACKJOB_KEY", "COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.chdir(tmp_path)


def environ() -> dict[str, str]:
    """Python's own warnings are not for the one who only runs a command."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The installed command in a process, its output in pipes."""
    command = [needs.script("backjob"), *map(str, arguments)]
    return subprocess.run(command, env=environ(), capture_output=True, text=True, timeout=60, encoding="utf-8")


def call(*arguments: object) -> Result:
    """The same in this process."""
    return CliRunner().invoke(commands, [str(each) for each in arguments])


def type_in(*arguments: object, width: int = 100) -> pexpect.spawn[str]:
    """The installed command at a terminal."""
    words = [str(each) for each in arguments]
    size = (30, width)
    return pexpect.spawn(
        needs.script("backjob"), words, env=environ(), encoding="utf-8", dimensions=size, timeout=PATIENCE
    )


def read_to_end(terminal: pexpect.spawn[str]) -> tuple[str, int | None]:
    """What it shows until it ends, and its exit code."""
    terminal.expect(pexpect.EOF)
    shown = terminal.before or ""
    terminal.close()
    return shown, terminal.exitstatus


def tell(ended: Result | subprocess.CompletedProcess[str]) -> str:
    """The one line that an error is."""
    code = ended.exit_code if isinstance(ended, Result) else ended.returncode
    assert (code, ended.stdout) == (2, "")
    assert re.fullmatch(r"backjob: [^\n]+\n", ended.stderr), ended.stderr
    return ended.stderr


# Starting and looking.


def test_a_job_is_started_and_shown(site: Site) -> None:
    options = ("--param", "year=2026", "--param", "year=2027", "--data", "name=Ada L", "--scope", "reports")
    started = run("start", "/job", *options, "--connect", site.server.url)
    assert (started.returncode, started.stderr) == (0, "")
    job_id = int(started.stdout)
    site.wait_for_end(job_id)
    shown = run("show", job_id)
    assert shown.returncode == 0
    assert "status    completed\n" in shown.stdout
    assert "scope     reports\n" in shown.stdout
    assert shown.stdout.endswith("\n\nPOST as nobody: year=2026&year=2027 name=Ada+L\n")
    assert json.loads(call("show", job_id, "--json").stdout) == site.status(job_id).as_dict()
    processes = site.sql("SELECT count(*) FROM background_job_process WHERE name LIKE 'process-%'")
    assert processes == [(1,)], "the command is no process of the app"


def test_what_start_is_told_goes_for_the_job(site: Site) -> None:
    more = ("--delay", 3600, "--retries", 2, "--priority", 5, "--error-timeout", 7, "--unique", "--json")
    first = call("start", "/job", "--method", "PUT", *more, "--connect", site.server.url)
    again = call("start", "/job", "--method", "PUT", *more, "--connect", site.server.url)
    assert first.stdout == again.stdout == '{"id": 1}\n'
    row = site.row(1)
    assert (row.method, row.retries, row.priority, row.error_timeout) == ("PUT", 2, 5, 7)
    assert row.due_in > 3000


def test_headers_go_with_a_job(site: Site) -> None:
    more = ("-H", 'If-Match: "5"', "--header", "X-Api-Key:canary-4711", "--delay", 3600, "--connect", site.server.url)
    assert call("start", "/job", *more).stdout == "1\n"
    request = site.backend.keyring.unseal(1, site.row(1).uid, site.row(1).sealed)
    assert (request.headers["HTTP_IF_MATCH"], request.headers["HTTP_X_API_KEY"]) == ('"5"', "canary-4711")


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        (["canary-4711"], "must be 'NAME: VALUE', each name once"),
        (["X-A: 1", "x-a: canary-4711"], "must be 'NAME: VALUE', each name once"),
        (["Host: canary-4711"], "headers can't have Host"),
        (["Authorization: canary-4711"], "headers can't have Authorization with as_user=False"),
    ],
)
def test_wrong_headers_are_refused(site: Site, headers: list[str], error: str) -> None:
    options = [option for header in headers for option in ("-H", header)]
    told = tell(call("start", "/job", *options, "--connect", site.server.url))
    assert error in told
    assert "canary" not in told


def test_secrets_are_read_from_files_and_standard_input(site: Site, tmp_path: Path) -> None:
    (tmp_path / "query").write_bytes(b"\xef\xbb\xbfpage=a=b&c\r\n\r\nuser=@ada\n")
    (tmp_path / "headers").write_text("X-Api-Key: canary-4711\n")
    options = ("--param", "@query", "--data", "year=2026", "--data", "@-", "--header", "@headers")
    command = [needs.script("backjob"), "start", "/job", *options, "--delay", "3600", "--connect", site.server.url]
    ended = subprocess.run(command, env=environ(), input="name=Ada L\u2028\n", capture_output=True, encoding="utf-8")
    assert (ended.stdout, ended.stderr) == ("1\n", "")
    request = site.backend.keyring.unseal(1, site.row(1).uid, site.row(1).sealed)
    assert request.target == "/job?page=a%3Db%26c&user=%40ada"
    assert request.body == b"year=2026&name=Ada+L%E2%80%A8"
    assert request.headers["HTTP_X_API_KEY"] == "canary-4711"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data", "@missing"], "the file 'missing' can't be read: No such file or directory"),
        (["--data", "@"], "the file '' can't be read: Is a directory"),
        (["--data", "@latin"], "the file 'latin' can't be read: it is not UTF-8"),
        (["--param", "@lines"], "must be NAME=VALUE"),
        (["--header", "@lines"], "must be 'NAME: VALUE', each name once"),
        (["--data", "@-", "--param", "@-"], "standard input is read once"),
    ],
)
def test_a_file_of_arguments_is_wrong(site: Site, tmp_path: Path, options: list[str], told: str) -> None:
    (tmp_path / "latin").write_bytes(b"name=sesam\xe9")
    (tmp_path / "lines").write_text("sesame\n")
    line = tell(call("start", "/job", *options, "--connect", site.server.url))
    assert told in line
    assert "sesam" not in line


def test_jobs_are_listed(site: Site) -> None:
    finish(site, "/job", scope="reports")
    finish(site, "/broken")
    finish(site, "/job", scope="mail")
    listed = run("list").stdout.splitlines()
    assert listed[0].split() == ["ID", "STATUS", "PROGRESS", "ATTEMPT", "SCOPE", "STARTED", "TEXT"]
    assert re.fullmatch(r"3   completed  100 %     1        mail     \S+Z  GET as nobody:", listed[1])
    assert re.fullmatch(r"2   failed     0 %       1        -        \S+Z  HTTP 500 Broken", listed[2])
    assert [job["id"] for job in json.loads(call("list", "--json").stdout)] == [3, 2, 1]


@pytest.mark.parametrize("name", ["waiting", "started", "Started"])
def test_a_status_is_named_by_its_word_or_its_member(site: Site, name: str) -> None:
    waiting = site.start("/job", delay=3600)
    finish(site)
    listed = call("list", "--status", name, "--json")
    assert [(job["id"], job["status_name"]) for job in json.loads(listed.stdout)] == [(waiting, "waiting")]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--status", "failed"], [2]),
        (["--status", "FAILED", "--status", "completed"], [3, 2, 1]),
        (["--scope", "mail"], [3]),
        (["--limit", "2"], [3, 2]),
        (["--before", "3", "--limit", "1"], [2]),
    ],
)
def test_a_list_is_limited(site: Site, options: list[str], ids: list[int]) -> None:
    for target, scope in (("/job", "reports"), ("/broken", ""), ("/job", "mail")):
        finish(site, target, scope=scope)
    assert [job["id"] for job in json.loads(call("list", "--json", *options).stdout)] == ids


def test_lines_are_cut_where_columns_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(site)
    monkeypatch.setenv("COLUMNS", "40")
    head, line = call("list").stdout.splitlines()
    assert (len(head), head[-1], len(line), line[-1]) == (40, "…", 40, "…")


def test_there_is_nobody_to_read(site: Site) -> None:
    finish(site)
    closed = subprocess.run(
        ["sh", "-c", f"{needs.script('backjob')} list >&-"], env=environ(), capture_output=True, check=False
    )
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_nobody_reads_on(site: Site) -> None:
    finish(site)
    command = [needs.script("backjob"), "list"]
    with subprocess.Popen(command, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


# Watching.


def test_jobs_are_watched_to_their_ends(site: Site) -> None:
    good, bad = finish(site, "/hostile"), finish(site, "/broken")
    watched = run("watch", good, bad)
    assert (watched.returncode, watched.stderr) == (1, "")
    assert watched.stdout.splitlines() == [
        f"  {good}: {HARMLESS}",
        f"  {good}: GET as nobody:",
        f"job {good}  100 %  completed",
        f"  {bad}: GET as nobody:",
        f"  {bad}: HTTP 500 Broken",
        f"job {bad}    0 %  failed",
    ]


def test_a_job_is_started_and_watched(site: Site, action: Action) -> None:
    command = [needs.script("backjob"), "start", "/steps", "--watch", "--connect", site.server.url]
    with subprocess.Popen(command, env=environ(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if " 60 %" in line:
                assert process.poll() is None
                action.may_go_on.set()
    assert process.returncode == 0
    assert lines[0] == "1"
    assert lines.index("  The first step.") < lines.index("job 1   60 %  running") < lines.index("  The last step.")
    assert lines[-1] == "job 1  100 %  completed"


def test_json_has_a_line_for_each_change(site: Site, action: Action) -> None:
    job_id = site.start("/steps")
    wait_until(lambda: site.status(job_id).progress == 60)
    command = [needs.script("backjob"), "watch", "--json", str(job_id)]
    lines = []
    with subprocess.Popen(command, env=environ(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(json.loads(line))
            action.may_go_on.set()
    assert (lines[0]["progress"], lines[0]["status"]) == (60, 1)
    assert lines[-1] == site.status(job_id).as_dict()
    assert all(one != other for one, other in itertools.pairwise(lines))


def test_bars_at_a_terminal(site: Site, action: Action) -> None:
    terminal = type_in("start", "/steps", "--watch", "--connect", site.server.url)
    terminal.expect_exact("The first step.")
    terminal.expect(r"━+\S* +60 % [\d.]+ %/s, 0:00:\d\d left \S*running")
    action.may_go_on.set()
    shown, code = read_to_end(terminal)
    assert code == 0
    assert "  The last step.\r\n" in shown
    assert re.search(r"100 %  \S*completed", shown)
    assert shown.endswith("\x1b[?25h"), "the cursor is back"


def test_control_c_leaves_the_job_alone(site: Site, action: Action) -> None:
    job_id = site.start("/steps")
    terminal = type_in("watch", job_id)
    terminal.expect("60 %")
    terminal.sendintr()
    shown, code = read_to_end(terminal)
    assert code == 130
    assert shown.endswith("\r\nbackjob: interrupted\r\n")
    assert "Traceback" not in shown
    assert site.status(job_id).status is Status.INPROGRESS
    action.may_go_on.set()
    assert site.wait_for_end(job_id).status is Status.COMPLETED


INTERRUPTED = {
    "as any": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "a swallowed one": "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException: pass",
    "a handler of the app": "import os, signal\nsignal.signal(signal.SIGINT, lambda *_: None)",
}


@pytest.mark.parametrize("app", INTERRUPTED)
def test_control_c_while_the_app_is_imported(app: str, site: Site, tmp_path: Path) -> None:
    """The last app has its handler set when its job is waited for."""
    more = f"\nfrom backjob import BackJob\napplication = BackJob(print, database='sqlite:///{site.path}')\n"
    (tmp_path / "stopped_app.py").write_text(INTERRUPTED[app] + more)
    job_id = site.start("/steps")
    command = [needs.script("backjob"), "-A", "stopped_app:application", "watch", str(job_id)]
    with subprocess.Popen(command, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        if app == "a handler of the app":
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, told) == (130, "backjob: interrupted\n")


def test_control_c_ends_the_demo_without_its_files(tmp_path: Path) -> None:
    command = [needs.script("backjob"), "demo", "--pause", "3"]
    more = {**environ(), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=more, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "is begun" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, told, list(tmp_path.iterdir())) == (130, "backjob: interrupted\n", [])


def test_control_c_while_backjob_itself_is_imported(tmp_path: Path) -> None:
    """A package that backjob imports early sends the signal."""
    (tmp_path / "sqlalchemy.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    for command in ([needs.script("backjob")], [sys.executable, "-m", "backjob"]):
        ended = subprocess.run(
            command, env={**environ(), "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=PATIENCE
        )
        assert (ended.returncode, ended.stderr) == (130, "backjob: interrupted\n")


def test_control_c_while_a_driver_waits_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that takes connections and says nothing: no exception ends libpq's wait."""
    monkeypatch.setenv("BACKJOB_KEY", KEY)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"postgresql+psycopg2://ada:sesame@127.0.0.1:{silent.getsockname()[1]}/jobs"
        command = [needs.script("backjob"), "-A", where, "list"]
        with subprocess.Popen(command, env=environ(), stderr=subprocess.PIPE, text=True) as process:
            peer, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            _, told = process.communicate(timeout=PATIENCE)
            peer.close()
    assert (process.returncode, told) == (130, "backjob: interrupted\n")
    assert time.monotonic() - began < 5, "a connection may take 10 s"


def test_a_command_in_the_background_is_not_interrupted(site: Site) -> None:
    """A shell without job control starts it so: the signal is for the script."""
    script = f"trap '' INT; echo; exec {needs.script('backjob')} list"
    with subprocess.Popen(["sh", "-c", script], env=environ(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def test_nothing_of_a_job_controls_the_terminal(site: Site) -> None:
    job_id = finish(site, "/hostile", scope=HOSTILE)
    for command in (("list",), ("show", job_id), ("watch", job_id)):
        shown, _ = read_to_end(type_in(*command, width=300))
        assert "\x1b[31m" not in shown
        assert not {"\x07", "\x9b", "\u202e"} & set(shown)
        assert r"\x1b[31mred\x1b[0m" in shown
        assert r"[bold]x[/bold] :boom:" in shown or command == ("list",)


def test_colours_are_for_terminals_that_want_them(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(site)
    assert "\x1b[32mcompleted" in read_to_end(type_in("list"))[0]
    monkeypatch.setenv("NO_COLOR", "1")
    shown, _ = read_to_end(type_in("list", width=60))
    assert "\x1b[32m" not in shown
    assert re.search(r"ago  GET as no…\r\n$", shown), "a line is as long as the terminal is wide"


def test_what_can_not_be_seen_is_shown_as_what_it_is() -> None:
    assert clean("a\u200bb\u2066\ufeff\U000e0041") == "a\\u200bb\\u2066\\ufeff\\U000e0041"


def test_a_control_character_is_shown_as_what_it_is() -> None:
    controls = [chr(number) for number in range(0x3000) if unicodedata.category(chr(number)) == "Cc"]
    assert len(controls) == 65
    for each in controls:
        assert clean(each) == (each if each in "\t\n" else ascii(each)[1:-1])
        assert clean_line(f"a{each}b") in ("a b", ascii(f"a{each}b")[1:-1])


def test_a_text_is_told_as_it_grows() -> None:
    text = GrowingText()
    assert text.take("one\ntw", False) == ["one"]
    assert text.take("one\ntwo\n  three", False) == ["two"]
    assert text.take("one\ntwo\n  three", False) == ["  three"]
    assert text.take("one\ntwo\n  three, and\n", False) == ["  three, and"]
    assert text.take("one\ntwo\n  three, and\nfour\n", False) == ["four"]
    assert text.take("something else", False) == []
    assert text.take("something else", True) == ["something else"]


def test_a_text_that_is_another_one_is_told_whole() -> None:
    text = GrowingText()
    told = [text.take(page, True) for page in ("Page 1", "Page 10", "Page 10", "Page 100", "Page 2")]
    assert told == [["Page 1"], ["Page 10"], [], ["Page 100"], ["Page 2"]]


def test_of_more_bars_than_rows_those_that_run_are_seen(site: Site) -> None:
    job = site.status(finish(site))
    shown = io.StringIO()
    screen = Screen(Console(file=shown, force_terminal=True, width=80, height=6, color_system=None), is_json=False)
    view = BarView(screen, 9)
    with view.progress:
        for number in range(1, 10):
            view.show(replace(job, id=number, status=Status.INPROGRESS, progress=50, status_text=""))
        for number in range(1, 8):
            view.show(replace(job, id=number, status_text=""))
        assert [task.description for task in view.progress.tasks] == ["job 8", "job 9"]
    assert "job 7  100 %  completed" in shown.getvalue()


def test_a_bar_begins_anew_with_an_attempt(site: Site) -> None:
    job = site.status(finish(site))
    shown = io.StringIO()
    screen = Screen(Console(file=shown, force_terminal=True, width=80, color_system=None), is_json=False)
    view = BarView(screen, 1)
    with view.progress:
        for attempt, progress in ((1, 50), (1, 70), (2, 10)):
            view.show(replace(job, status=Status.INPROGRESS, progress=progress, attempt=attempt))
        (bar,) = view.progress.tasks
    assert bar.completed == 10
    assert bar.speed is None
    assert shown.getvalue().count("GET as nobody:") == 1


# Ending and settling.


def test_jobs_are_cancelled(site: Site) -> None:
    waiting, running = site.start("/job", delay=3600), site.start("/cancelled")
    ended = finish(site)
    wait_until(lambda: site.status(running).progress == 60)
    cancelled = call("cancel", waiting, running, ended)
    assert cancelled.exit_code == 0
    lines = cancelled.stdout.splitlines()
    assert [lines[0], lines[2]] == [f"job {waiting}  cancelled", f"job {ended}  had ended: completed"]
    assert lines[1] in (f"job {running}  running, to be cancelled", f"job {running}  cancelled")
    assert site.wait_for_end(running).status is Status.CANCELLED


def test_none_is_cancelled_if_one_is_not_there(site: Site) -> None:
    job_id = site.start("/job", delay=3600)
    assert "There is no job 77" in tell(call("cancel", job_id, 77))
    assert site.status(job_id).status is Status.STARTED


def test_an_anonymous_job_is_started_again(site: Site) -> None:
    failed = int(call("start", "/broken", "--connect", site.server.url).stdout)
    site.wait_for_end(failed)
    again = call("retry", failed, "--connect", site.server.url)
    assert (again.exit_code, again.stdout) == (0, f"{failed + 1}\n")
    assert site.wait_for_end(failed + 1).status is Status.FAILED
    assert "can't be started again" in tell(
        call("retry", finish(site, "/broken", by={"HTTP_COOKIE": "a=b"}), "--connect", site.server.url)
    )


def test_lost_jobs_are_settled(site: Site) -> None:
    job_id = site.start("/job", delay=3600)
    site.sql("UPDATE background_job SET due_at = created_at")
    site.backend.store.claim(job_id, 1, f"{name_dead()}-nonce", 30, 0)
    swept = run("sweep")
    assert (swept.returncode, swept.stdout, swept.stderr) == (0, "Recovered 1 job.\n", "")
    assert site.status(job_id).status is Status.FAILED
    shown, code = read_to_end(type_in("sweep"))
    assert (code, shown) == (0, "This takes a little longer than the lease of 30 s.\r\nRecovered 0 jobs.\r\n")


def test_old_jobs_are_deleted(site: Site) -> None:
    for _ in range(2):
        finish(site)
    site.sql("UPDATE background_job SET ended_at = '2020-01-01'")
    assert call("prune").stdout == "Deleted 2 jobs.\n"
    assert call("prune", "--json").stdout == '{"deleted": 0}\n'


# The application.


def test_jobs_will_work_here(site: Site) -> None:
    found = call("check", "--connect", site.server.url)
    assert found.exit_code == 0
    assert f"address  {site.server.url} (found by connect=) answers in" in found.stdout
    assert found.stdout.count("warning") == 2
    assert "warning  Links made by jobs that are started outside of a request" in found.stdout
    assert "warning  The app could not be tried with the Host of jobs" in found.stdout
    assert "-A module:application" in found.stdout
    assert json.loads(call("check", "--connect", site.server.url, "--json").stdout)["is_ok"] is True


def test_jobs_will_not_work_here(site: Site) -> None:
    found = run("check")
    assert found.returncode == 1
    assert "problem  The app's own address is not known here. Set connect=" in found.stdout


def test_the_table_and_the_key_file_are_made(tmp_path: Path) -> None:
    made = run("--app", "sqlite:///new.sqlite3", "create-table")
    assert (made.returncode, made.stdout) == (0, "The table background_job exists.\n")
    assert {path.name for path in tmp_path.glob("*.key")} == {"new.sqlite3.key"}
    assert call("--app", "sqlite:///new.sqlite3", "list", "--json").stdout == "[]\n"


FOUND = """
from bottle import Bottle, abort
from flask import Flask
from pyramid.config import Configurator
from pyramid.events import NewRequest
from pyramid.httpexceptions import HTTPBadRequest
from werkzeug.middleware.proxy_fix import ProxyFix

from backjob import BackJob
from backjob.integrations.bottle import BackJobPlugin
from backjob.integrations.flask import FlaskBackJob

def refuse(*_):
    print("The Host is wrong.")
    raise HTTPBadRequest

def app(environ, start_response):
    try:
        refuse()
    except HTTPBadRequest as error:
        return error(environ, start_response)

print("This is noise.")
database = "sqlite:///{path}"
inner = BackJob(app, database=database)
jobs = inner.jobs
flask = Flask("found")
flask.before_request(lambda: ("", 400))
extension = FlaskBackJob(flask, database=database)
flask.wsgi_app = ProxyFix(flask.wsgi_app)
bottle = Bottle()
bottle.add_hook("before_request", lambda: abort(400))
plugin = bottle.install(BackJobPlugin(database=database))

config = Configurator(settings={{"backjob.database": database}})
config.include("backjob.integrations.pyramid")
config.add_subscriber(refuse, NewRequest)
config.commit()

def make_pyramid():
    return config.make_wsgi_app()
"""


def test_an_app_is_found_in_a_module(site: Site, tmp_path: Path) -> None:
    (tmp_path / "found_app.py").write_text(FOUND.format(path=site.path))
    finish(site)
    listed = run("-A", "found_app:inner", "list", "--json").stdout
    assert len(json.loads(listed)) == 1
    names = ("inner", "jobs", "inner.jobs", "flask", "extension", "bottle", "plugin")
    names += ("config", "config.registry", "make_pyramid()")
    found = [call("-A", f"found_app:{name}", "list", "--json").stdout for name in names]
    checks = [call("-A", f"found_app:{name}", "check", "--json", "--connect", site.server.url) for name in names]
    started = call("-A", "found_app:config", "start", "/job", "--connect", site.server.url)
    registry = sys.modules.pop("found_app").config.registry
    assert found == [listed] * len(names)
    host = site.server.url.removeprefix("http://")
    refused = f"The app answers 400 to a job that is started outside of a request, with the Host {host}"
    assert [json.loads(each.stdout)["problem"]["text"] for each in checks] == [refused] * len(names)
    assert (started.exit_code, started.stdout) == (0, "2\n")
    assert started.stderr == f'The Host is wrong.\nbackjob: the job may fail: {refused}. Set site_url="https://…".\n'
    assert not registry.backjob._assembly.serves  # a check does not make the command a server


INI = """
[DEFAULT]
backjob.table_name = of_all

[app:main]
use = egg:Paste
backjob.database = sqlite:///%(here)s/jobs.sqlite3
backjob.key = {key}
backjob.lease = 5
backjob.on_end = json.dumps
other.database = none of ours

[app:other]
backjob.database = sqlite:///%(here)s/other.sqlite3

[filter:theirs]
use = egg:Paste#gzip

[formatter_generic]
format = %(asctime)s
"""
FILTER = """
[DEFAULT]
secret = {key}
[filter:jobs]
use = egg:backjob
get key = secret
set debug = true
database = sqlite:///%(here)s/100%%.sqlite3
keeper = false
connect_headers = Authorization: Basic abc
    X-Site: a
identify = ini_objects.identify
cache = ini_objects:make_region()
max_running_per_scope = ini_objects:LIMITS
redirect_ok = ini_objects:is_ticket
"""
INI_OBJECTS = """
from dogpile.cache import make_region as make

LIMITS = {"reports": 1}
region = make().configure("dogpile.cache.memory")

def identify(environ):
    return environ.get("eppn")

def is_ticket(status, location):
    return status == 303

def make_region():
    return region
"""


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_jobs_of_a_database_server(
    server: str, tmp_path: Path, action: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_database(server) as url:
        where = url.render_as_string(hide_password=False)
        monkeypatch.setenv("BACKJOB_APP", where)
        monkeypatch.setenv("BACKJOB_KEY", KEY)
        assert "There is no table 'background_job'" in tell(call("list"))
        assert call("create-table").stdout == "The table background_job exists.\n"
        with serve_site(tmp_path, action, key=KEY, database=where, create_table=False) as site:
            started = call("start", "/job", "--data", "name=Ada", "--watch", "--connect", site.server.url)
        assert (started.exit_code, started.stdout.splitlines()[0]) == (0, "1")
        assert run("list").stdout.endswith("POST as nobody: name=Ada\n")
        monkeypatch.setenv("BACKJOB_APP", url.set(username="ada", password="sesame").render_as_string(False))
        line = tell(call("list"))
        assert "The job database can't be used: OperationalError" in line
        assert "sesame" not in line


def test_the_command_keeps_no_jobs(tmp_path: Path) -> None:
    (tmp_path / "kept_app.py").write_text("from backjob import BackJob\napplication = BackJob(print)\n")
    (tmp_path / "kept.ini").write_text("[filter:backjob]\nkeeper = true\n")
    for where in ("sqlite:///kept.sqlite3", "kept.ini", "kept_app:application"):
        application = find_application(where)
        assert application.config.keeper is False
        application.close()
    sys.modules.pop("kept_app")


def test_a_job_may_be_the_first_of_its_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("BACKJOB_KEY", KEY)
    (tmp_path / "first.ini").write_text("[filter:backjob]\ndatabase = sqlite:///first.sqlite3\n")
    started = call("-A", "first.ini", "start", "/job", "--connect", f"http://127.0.0.1:{free_port}")
    assert (started.exit_code, started.stdout) == (0, "1\n")
    connect = ("--connect", f"http://127.0.0.1:{free_port}")
    assert "there is no SQLite file" in tell(call("-A", "sqlite:///slip.sqlite3", "start", "/job", *connect))
    assert not (tmp_path / "slip.sqlite3").exists()


def test_an_app_is_found_in_an_ini_file(tmp_path: Path) -> None:
    (tmp_path / "app.ini").write_text(INI.format(key=KEY))
    application = find_application("app.ini#main", "http://127.0.0.1:8000")
    config = application.config
    assert config.database == f"sqlite:///{tmp_path}/jobs.sqlite3"
    assert (config.key, config.lease, config.table_name) == (KEY, 5, "background_job")
    assert config.on_end is json.dumps
    assert (config.connect, config.keeper) == ("http://127.0.0.1:8000", False)
    application.close()
    assert find_application("app.ini#app:other").config.database == f"sqlite:///{tmp_path}/other.sqlite3"
    with pytest.raises(ConfigError, match=r"several sections .* app\.ini#app:main or …#app:other"):
        find_application("app.ini")


def test_a_filter_is_read_as_pastedeploy_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ini_objects.py").write_text(INI_OBJECTS)
    (tmp_path / "filter.ini").write_text(FILTER.format(key=KEY))
    theirs: BackJob = loadfilter(f"config:{tmp_path}/filter.ini", "jobs")(print)
    ours = find_application("filter.ini")
    assert ours.config == theirs.config
    assert ours.config.connect_headers == {"Authorization": "Basic abc", "X-Site": "a"}
    objects = sys.modules.pop("ini_objects")
    assert ours.config.identify is objects.identify
    assert ours.config.redirect_ok is objects.is_ticket
    assert ours.config.cache is objects.region
    assert ours.config.max_running_per_scope == {"reports": 1}
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("identify", "nowhere_at_all:f"),
        ("identify", "json.nothing"),
        ("identify", "print"),
        ("identify", "json:__name__"),
        ("launcher", "json"),
        ("lease", "long"),
        ("keeper", "perhaps"),
        ("max_running_per_scope", "reports=1, mail"),
        ("forward_headers", "A:B"),
        ("leese", "1"),
    ],
)
def test_a_wrong_text_has_the_same_message_everywhere(option: str, text: str, tmp_path: Path) -> None:
    ini = tmp_path / "wrong.ini"
    ini.write_text(f"[filter:backjob]\nuse = egg:backjob\n{option} = {text}\n")
    with pytest.raises(ConfigError, match=rf"^{option} ") as caught:
        BackJob.from_settings(print, {f"backjob.{option}": text})
    message = str(caught.value)
    with pytest.raises(ConfigError) as caught:
        loadfilter(f"config:{ini}", "backjob")(print)
    assert str(caught.value) == message
    if option != "keeper":  # a command has no keeper, whatever the file says
        with pytest.raises(ConfigError) as caught:
            find_application(str(ini))
        assert str(caught.value) == message
    config = Configurator(settings={f"backjob.{option}": text})
    config.include("backjob.integrations.pyramid")
    with pytest.raises(ConfigurationExecutionError) as refused:
        config.commit()
    assert str(refused.value.evalue) == message


# What is wrong is told in one line.


def test_no_application_is_named() -> None:
    assert "-A WHERE (or $BACKJOB_APP) is missing: a database URL" in tell(run("list"))


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("nothing", "WHERE must be a database URL"),
        ("postgresql:/ada:sesame@127.0.0.1/jobs", "WHERE must be a database URL"),
        ("postgresql+none://ada:sesame@127.0.0.1/jobs", "database needs a driver that is not installed"),
        ("sqlite:///nowhere.sqlite3", r"there is no SQLite file /\S+/nowhere.sqlite3\. Correct WHERE"),
        ("sqlite:///there.sqlite3", r"there is no key file /\S+/there.sqlite3.key.* or set \$BACKJOB_KEY"),
        ("postgres+psycopg://ada:sesame@db/jobs", "database must begin with postgresql://.*: write postgresql://"),
        ("oracle://ada:sesame@db/jobs", "database must be SQLite, PostgreSQL, MariaDB or MySQL, not oracle"),
        ("postgresql://ada:sesame@127.0.0.1:1/jobs", r"key must be set \(or \$BACKJOB_KEY\)"),
        ("no_such_module:application", "can't be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("broken_app:application", r"can't be imported: ValueError: no \\x1b\[31mfigures"),
        ("leaving_app:application", "can't be imported: SystemExit: 3"),
        ("json:nothing", "can't be imported: AttributeError: module 'json' has no attribute 'nothing'"),
        ("backjob.integrations.flask:current_jobs", "is not a BackJob, and contains none"),
        ("json:dumps", r"json:dumps is not a BackJob, and contains none \(in one of wsgi_app, wsgi, registry"),
        ("http://127.0.0.1:8000", "WHERE can't be the address of a server, which is for --connect"),
        ("missing.ini", "missing.ini can't be read: No such file or directory"),
        ("empty.ini", r"empty.ini needs a section with settings named backjob.…, or a \[filter:backjob\]"),
        ("broken.ini", "broken.ini can't be read: MissingSectionHeaderError 1"),
        ("percent.ini", "percent.ini can't be read: InterpolationSyntaxError app:main, backjob.key"),
        ("option.ini", "lease must be a number"),
    ],
)
def test_where_is_wrong(where: str, told: str, tmp_path: Path) -> None:
    files = {
        "there.sqlite3": "",
        "broken_app.py": "raise ValueError('no \\x1b[31mfigures')",
        "leaving_app.py": "raise SystemExit(3)",
        "empty.ini": "[app:main]\nuse = egg:Paste\n",
        "broken.ini": "key = sesame\n",
        "percent.ini": "[app:main]\nbackjob.key = 100%sesame\n",
        "option.ini": "[filter:backjob]\nlease = long\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    line = tell(call("--app", where, "list"))
    assert re.search(told, line), line
    assert "sesame" not in line


def test_the_database_is_away(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("BACKJOB_KEY", KEY)
    for password in ("sesame", "open@sesame"):  # an @ that is not escaped makes a host of its rest
        line = tell(run("-A", f"postgresql://ada:{password}@127.0.0.1:{free_port}/jobs", "list"))
        assert "The job database can't be used: OperationalError" in line
        assert "sesame" not in line


def test_there_is_no_such_job(site: Site) -> None:
    assert "There is no job 99" in tell(run("show", 99))


def test_the_key_is_another_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKJOB_KEY", "another-key-of-which-nobody-knows-here")
    line = tell(call("start", "/job", "--connect", site.server.url))
    assert "an app with BackJob, but with another key" in line
    assert site.rows() == [], "a job that no server could open is not recorded"


def test_the_jobs_of_another_key_are_shown_as_such_and_left_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = site.start("/job", delay=3600), site.start("/job", delay=3600)
    rows = site.rows()
    monkeypatch.setenv("BACKJOB_KEY", "another-key-of-which-nobody-knows-here")
    of_one = f"backjob: job {first} was started with another key. Set $BACKJOB_KEY to the app's key\n"
    of_both = f"jobs {first}, {other} were started with another key. Set $BACKJOB_KEY to the app's key\n"
    listed = call("list", "--json")
    assert (listed.exit_code, len(json.loads(listed.stdout))) == (0, 2)
    assert listed.stderr == f"backjob: {of_both}".replace(f"{first}, {other}", f"{other}, {first}")
    shown = call("show", first)
    assert (shown.exit_code, shown.stderr) == (0, of_one)
    assert tell(call("cancel", first, other)) == f"backjob: no job was cancelled: {of_both}"
    assert site.rows() == rows
    monkeypatch.setenv("BACKJOB_KEY", f"another-key-of-which-nobody-knows-here {KEY}")
    assert call("list").stderr == ""
    assert call("cancel", first).exit_code == 0


def test_the_address_is_not_known(site: Site) -> None:
    assert "With this command, give --connect URL." in tell(call("start", "/job"))


def test_a_server_that_is_down_takes_the_job_up_later(site: Site, free_port: int) -> None:
    started = call("start", "/job", "--connect", f"http://127.0.0.1:{free_port}")
    assert (started.exit_code, started.stdout) == (0, "1\n")
    assert re.fullmatch(r"backjob: the job may have to wait: .*nothing listens there.*\n", started.stderr)
    assert "nothing listens there" in site.status(1).status_text


def test_a_job_says_at_once_that_nothing_has_answered(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=8) as silent:
        started = call("start", "/job", "--connect", f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert (started.exit_code, started.stdout) == (0, "1\n")
    assert re.match(r"Not launched yet: .* is busy: .* or it is no web server", site.status(1).status_text)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["start", "job"], "is not an absolute path of this app"),
        (["start", "/job", "--delay", "-1"], "delay must be a number of seconds"),
        (["start", "/job", "--delay", "soon"], "'soon' is not a valid float"),
        (["start", "/job", "--data", "sesame"], "must be NAME=VALUE"),
        (["start", "/job", "--param", "=sesame"], "must be NAME=VALUE"),
        (["start", "/job", "--connect", "nonsense"], "connect is wrong"),
        (["start"], "Missing argument 'TARGET'"),
        (["list", "--status", "done"], "'done' is not one of 'waiting', 'running'"),
        (["list", "--limit", "0"], "0 is not in the range"),
        (["show", "first"], "'first' is not a valid integer"),
        (["watch"], "Missing argument 'ID...'"),
        (["postgresql://ada:sesame@127.0.0.1/jobs", "list"], "No such command 'postgresql://…@127.0.0.1/jobs'"),
        (["list", "--before", str(2**63)], "is not in the range"),
        (["show", str(2**63)], "is not in the range"),
        (["shwo"], "No such command 'shwo'"),
        (["list", "--al"], "No such option"),
        ([], "Missing command"),
    ],
)
def test_an_argument_is_wrong(site: Site, arguments: list[str], told: str) -> None:
    if "start" in arguments and "--connect" not in arguments:
        arguments = [*arguments, "--connect", site.server.url]
    line = tell(call(*arguments))
    assert told in line
    assert "sesame" not in line


# The command itself.


def test_it_shows_a_demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    shown = run("demo", "--pause", 0.1)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "  A report for Ada is begun.\n" in shown.stdout
    assert shown.stdout.endswith("  The report for Ada is done.\njob 1  100 %  completed\nThe job has completed.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_demonstration_that_breaks_is_no_success() -> None:
    shown = run("demo", "--pause", 0, "--break")
    assert shown.returncode == 1
    assert "This job fails because of --break." in shown.stdout


def test_it_makes_a_key() -> None:
    one, other = call("key").stdout, call("key").stdout
    assert one != other
    assert re.fullmatch(r"[\w-]{64}\n", one)


def test_it_tells_its_version_as_a_module() -> None:
    command = [sys.executable, "-m", "backjob", "--version"]
    assert subprocess.check_output(command, env=environ(), text=True) == f"backjob {backjob.__version__}\n"


def test_a_shell_can_complete_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_BACKJOB_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "backjob list --status ")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert run().stdout.split() == [f"plain,{status.word}" for status in Status]


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_it_says_what_it_needs(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from backjob.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], env=environ(), capture_output=True, text=True)
    assert "pip install 'backjob[cli]'" in tell(ended)


# Its page.


def test_the_page_has_every_command_and_option() -> None:
    rows = re.findall(r"^\| `(backjob[^|]*)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(_describe(commands, "backjob"))


def _describe(command: click.Command, path: str) -> Iterator[tuple[str, str]]:
    """Each command with its arguments and each option, and what is said of it."""
    context = click.Context(command, info_name=path)
    arguments = [each.make_metavar(context) for each in command.params if isinstance(each, click.Argument)]
    summary = (command.help or "").partition("\n")[0]
    yield " ".join([path, *arguments]), summary
    for option in command.params:
        if isinstance(option, click.Option):
            record = option.get_help_record(context)
            assert record is not None
            yield f"{path} … {record[0]}", textwrap.shorten(record[1], 500)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            yield from _describe(command.commands[name], f"{path} {name}")
