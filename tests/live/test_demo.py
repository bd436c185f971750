"""``make demo`` as it is run: a real gunicorn, a user with a cookie, and an exit status that tells the truth."""

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import demo
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from backjob import Status

pytestmark = pytest.mark.live

COMMAND = [sys.executable, demo.__file__]


def run_demo(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=directory, capture_output=True, text=True, timeout=60, encoding="utf-8"
    )


def test_completes(tmp_path):
    run = run_demo(tmp_path, "--pause", "0.2")
    assert run.returncode == 0, run.stderr
    # The job knows its user, who is nowhere in what the demo sent to start it: only in the cookie.
    assert "  A report for Ada: started." in run.stdout.splitlines()
    assert "  The report for Ada is done." in run.stdout.splitlines()
    assert run.stdout.endswith("The job has ended: completed.\n")
    seen = [int(percent) for percent in re.findall(r"(\d+) %", run.stdout)]
    assert seen == sorted(set(seen))
    assert len(seen) > 3
    assert seen[-1] == 100


def test_leaves_nothing_behind(tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environ = os.environ | {"TMPDIR": str(temporary)}
    assert subprocess.run([*COMMAND, "--pause", "0"], cwd=tmp_path, env=environ, timeout=60).returncode == 0
    assert list(tmp_path.rglob("*")) == [temporary]


def test_shows_progress_while_the_job_runs(tmp_path):
    with subprocess.Popen([*COMMAND, "--pause", "1"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "20 %" in line:
                break
        assert process.poll() is None
        assert "completed" in process.stdout.read()
    assert process.returncode == 0


def test_broken_job_is_a_failure(tmp_path):
    run = run_demo(tmp_path, "--pause", "0.1", "--break")
    assert run.returncode == 1
    assert "you chose to let the job fail" in run.stdout
    assert "The report for Ada is done." not in run.stdout
    assert run.stdout.endswith("The job has ended: failed.\n")


def test_says_why_the_server_did_not_start(tmp_path):
    run = run_demo(tmp_path, "--app", "progress:no_such_app")
    assert run.returncode == 2
    assert "no_such_app" in run.stderr
    assert "Traceback" not in run.stderr.partition("The end of the server's log")[0]


def test_gives_up_at_the_time_limit(tmp_path):
    run = run_demo(tmp_path, "--pause", "20", "--limit", "6")
    assert run.returncode == 2
    assert "still running" in run.stderr


def test_bar_stays_on_one_line_of_a_terminal(tmp_path):
    terminal, its_end = pty.openpty()
    process = subprocess.Popen([*COMMAND, "--pause", "0.2"], cwd=tmp_path, stdout=its_end)
    os.close(its_end)
    with os.fdopen(terminal, "rb") as screen:
        shown = read_to_end(screen.fileno()).decode()
    assert process.wait(timeout=60) == 0
    lines = [line.rpartition("\r")[2] for line in shown.replace("\r\n", "\n").split("\n")]
    assert sum("%" in line for line in lines) == 1
    assert "The job has ended: completed." in lines
    assert "\x1b" not in shown


def read_to_end(terminal: int) -> bytes:
    """All that is written to a terminal. Linux says EIO, not an empty read, when its other end is closed."""
    shown = b""
    try:
        while block := os.read(terminal, 4096):
            shown += block
    except OSError:
        pass
    return shown


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    """The address of the served example."""
    with demo.serve("progress:application", tmp_path_factory.mktemp("progress"), PROGRESS_PAUSE="0.3") as url:
        yield url


def sign_in(url: str, name: str) -> demo.Browser:
    browser = demo.Browser(url, timeout=30)
    browser.submit("/login", name=name)
    return browser


def test_status_is_for_the_job_s_user_alone(url):
    ada, eve = sign_in(url, "Ada"), sign_in(url, "Eve")
    job_path = ada.submit("/start").replace("progress", "status")
    assert Status(ada.load_json(job_path)["status"]) in Status
    with pytest.raises(HTTPError) as refusal:
        eve.load_json(job_path)
    refusal.value.close()
    assert refusal.value.code == 404


def test_nobody_starts_a_job_without_signing_in(url):
    assert demo.Browser(url, timeout=30).submit("/start") == "/"


@pytest.fixture
def page(url) -> Iterator[Page]:
    """The example in Debian's Chromium."""
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(base_url=url)
        trouble: list[str] = []
        page.on("pageerror", lambda error: trouble.append(str(error)))
        yield page
        browser.close()
    assert trouble == []


@pytest.mark.browser
def test_progress_page(page):
    name = "<i onmouseover=alert(1)>Ada</i> & Łucja"
    page.goto("/")
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text(f"Signed in as {name}")).to_be_visible()
    page.get_by_role("button", name="Start the job").click()
    expect(page.get_by_role("status")).to_contain_text("running")
    expect(page.get_by_role("status")).to_contain_text("completed, 100 %", timeout=20_000)
    expect(page.locator("#output")).to_contain_text(f"The report for {name} is done.")
    expect(page.get_by_role("progressbar")).to_have_js_property("value", 100)
    assert page.locator("#output i").count() == 0


@pytest.mark.browser
def test_progress_page_of_a_broken_job(page):
    page.goto("/")
    page.get_by_label("Your name").fill("Ada")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Let it fail half way").check()
    page.get_by_role("button", name="Start the job").click()
    expect(page.get_by_role("status")).to_contain_text("failed", timeout=20_000)
    expect(page.locator("#output")).to_contain_text("you chose to let the job fail")
