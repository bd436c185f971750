"""Output of a job while it runs: whole lines, bars of tqdm, a job in place of a file, the output of a program."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import rich.console
from support import DOCS, wait_until
from support.served import serve_site, wrap
from tqdm import tqdm

from backjob import JobStatus, Status
from backjob.cli.watch import GrowingText
from backjob.wsgi.output import UNFINISHED

PAGE = DOCS / "progress.md"


def make_job(action: Callable[[Any], None]) -> Callable[..., list[bytes]]:
    def job(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        action(environ["backjob"])
        return []

    return job


def follow(folder: Path, action: Callable[[Any], None], **options: Any) -> list[JobStatus]:
    """All statuses of a job, one for each text."""
    seen: list[JobStatus] = []
    with serve_site(folder, make_job(action), **options) as site:
        job_id = site.start("/job")
        while not (seen and seen[-1].status.is_final):
            status = site.status(job_id)
            if not seen or status.status.is_final or status.status_text != seen[-1].status_text:
                seen.append(status)
    return seen


def watch(statuses: list[JobStatus]) -> list[str]:
    """The lines that ``backjob watch`` prints, when it sees all of these."""
    text = GrowingText()
    return [line for each in statuses for line in text.take(each.status_text, each.status.is_final)]


@pytest.mark.parametrize("max_output", [1048576, 60])
def test_a_line_is_seen_when_it_is_printed_whole(tmp_path: Path, max_output: int) -> None:
    def action(job: Any) -> None:
        for month in range(1, 13):
            print("Month", month, file=job)
            time.sleep(0.05)

    seen = follow(tmp_path, action, max_output=max_output)
    assert len(seen) > 3
    for each in seen:
        assert re.fullmatch(r"(\[\d+ bytes of earlier output were cut: .*\n)?(Month \d+\n)*", each.status_text)
    lines = watch(seen)
    assert [line for line in lines if "Month" in line] == [f"Month {month}" for month in range(1, 13)]


@pytest.mark.parametrize("then", ["nothing", "update"])
def test_an_unfinished_line_is_seen_in_the_end(tmp_path: Path, then: str) -> None:
    def action(job: Any) -> None:
        job.update(text="before")
        begin = time.monotonic()
        print("Working", end="", file=job)
        if then == "update":
            job.update(20)
        wait_until(lambda: job.status(job.job_id).status_text == "Working")
        waited.append(time.monotonic() - begin)
        print(" on it", end="", file=job)

    waited: list[float] = []
    assert follow(tmp_path, action)[-1].status_text == "Working on it"
    assert then == "update" or waited[0] > UNFINISHED


def test_a_bar_is_one_line(tmp_path: Path) -> None:
    def action(job: Any) -> None:
        for _ in tqdm(range(30), file=job):
            time.sleep(0.02)
        print("done", file=job)

    seen = follow(tmp_path, action)
    assert len(seen) >= 3
    assert all(re.fullmatch(r"\s*\d+%\|[^|]*\| \d+/30 \[.*\] *\n?(done\n)?|", each.status_text) for each in seen)
    assert re.fullmatch(r"100%.* 30/30 .*\ndone\n", seen[-1].status_text)


@pytest.mark.parametrize("rows", [20, 60])
def test_nested_bars_are_a_line_each(tmp_path: Path, rows: int) -> None:
    def action(job: Any) -> None:
        print("before", file=job)
        for _ in tqdm(range(3), desc="outer", file=job):
            for _ in tqdm(range(rows), desc="inner", file=job, leave=False, mininterval=0):
                pass
            tqdm.write("note", file=job)
        print("done", file=job)

    with wrap(tmp_path, make_job(action)) as site:
        text = site.run("/job").status_text
    assert re.fullmatch(r"before\n(note\n){3}outer: 100%.* 3/3 .*\ndone *\n", text)


def test_lines_of_several_threads_are_whole(tmp_path: Path) -> None:
    def action(job: Any) -> None:
        def work(number: int) -> None:
            barrier.wait()
            for line in range(100):
                print("thread", number, "line", line, file=job)

        barrier, threads = threading.Barrier(4), [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with wrap(tmp_path, make_job(action)) as site:
        text = site.run("/job").status_text
    expected = [f"thread {number} line {line}" for number in range(4) for line in range(100)]
    assert sorted(text.splitlines()) == sorted(expected)


# A job in place of a file.


def write_csv(job: Any) -> None:
    csv.writer(job).writerows([["name", "price"], ["tea", 3]])


def write_lines(job: Any) -> None:
    with contextlib.redirect_stdout(job):
        sys.stdout.writelines(line for line in ["name,price\r\n", "tea,3"])
        if sys.stdout.writable() and not (sys.stdout.isatty() or sys.stdout.closed):
            print("".encode(sys.stdout.encoding, sys.stdout.errors).decode())


def write_in_color(job: Any) -> None:
    click.secho("name,price", fg="green", file=job)
    rich.console.Console(file=job).print("[b]tea[/b],3")


def write_without_file_number(job: Any) -> None:
    with pytest.raises(io.UnsupportedOperation):  # for code that prefers a number, as for io.StringIO
        job.fileno()
    shutil.copyfileobj(io.StringIO("name,price\ntea,3\n"), job)


@pytest.mark.parametrize("action", [write_csv, write_lines, write_in_color, write_without_file_number])
def test_a_job_is_written_like_a_file(tmp_path: Path, action: Callable[[Any], None]) -> None:
    with wrap(tmp_path, make_job(action)) as site:
        status = site.run("/job")
    assert (status.error, status.status_text) == ("", "name,price\ntea,3\n")


def test_a_line_end_of_two_characters_is_one() -> None:
    text = GrowingText()
    assert text.take("1 %\r\n2 %\r\n", is_last=True) == ["1 %", "2 %"]


# The output of a program.


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_program_can_not_write_to_a_job_by_itself(tmp_path: Path, stream: str) -> None:
    def action(job: Any) -> None:
        with pytest.raises(TypeError):
            subprocess.run([sys.executable, "-c", ""], check=True, **{stream: job})
        subprocess.run([sys.executable, "-c", ""], check=True, **{stream: job})

    with wrap(tmp_path, make_job(action)) as site:
        assert re.match("NotAFile: a job is not a file .*subprocess.PIPE", site.run("/job").error)


def read_recipe() -> Callable[[Any, list[str]], None]:
    """The function in docs/progress.md."""
    (code,) = re.findall(r"^```python\n# programs\.py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["run_program"]  # type: ignore[no-any-return]


def test_the_recipe_passes_on_what_a_program_writes(tmp_path: Path) -> None:
    program = "import sys; print('50 %\\r100 %\\nüber'); sys.exit(3)"
    command = [sys.executable, "-X", "utf8", "-c", program]
    with wrap(tmp_path, make_job(lambda job: read_recipe()(job, command))) as site:
        status = site.run("/job")
    assert status.status is Status.FAILED
    assert status.status_text == f"100 %\nüber\n{sys.executable} ended with 3"


@pytest.mark.parametrize("end", ["sleep 600", "exec >&- 2>&-; sleep 600"], ids=["silent", "without output"])
def test_the_recipe_ends_a_program_and_its_children_when_the_job_is_cancelled(tmp_path: Path, end: str) -> None:
    command = ["sh", "-c", f"sleep 600 & echo $!; {end}; wait"]
    with serve_site(tmp_path, make_job(lambda job: read_recipe()(job, command))) as site:
        job_id = site.start("/job")
        number = int(wait_until(lambda: site.status(job_id).status_text))
        assert site.application.jobs.cancel(job_id)
        assert site.wait_for_end(job_id).status is Status.CANCELLED
        wait_until(lambda: not is_alive(number))


def is_alive(number: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
