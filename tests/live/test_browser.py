"""The example in a real browser: two people sign in, each starts a job and watches it run as the user who they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import demo
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from support.servers import GTHREAD, Server

from .conftest import Serve

pytestmark = [pytest.mark.live, pytest.mark.browser]

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 20_000
"""Milliseconds, as playwright counts."""

# The page itself keeps each state that it shows, so that none is missed between two looks.
KEEP_STATES = """
    window.states = [];
    addEventListener("DOMContentLoaded", () => {
        const state = document.getElementById("state");
        if (state) new MutationObserver(() => states.push(state.textContent)).observe(state, {childList: true});
    });
"""


@pytest.fixture
def browser() -> Iterator[Browser]:
    """The system's Chromium. CI has one, or fails."""
    chromium = shutil.which("chromium")
    if not chromium and os.environ.get("CI") != "true":
        pytest.skip("chromium is not installed")
    assert chromium, "CI has no chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def server(run_server: Serve) -> Server:
    return run_server(
        GTHREAD, app="progress:application", apps=Path(demo.__file__).parent, environ={"PROGRESS_PAUSE": "0.7"}
    )


class Person:
    """Somebody with a browser and a session of their own."""

    def __init__(self, browser: Browser, server: Server, name: str) -> None:
        host, port = server.address
        context = browser.new_context(base_url=f"http://{host}:{port}", viewport={"width": 700, "height": 480})
        context.add_init_script(KEEP_STATES)
        self.name = name
        self.trouble: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("console", lambda message: self.trouble.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("requestfailed", lambda request: self.trouble.append(f"failed: {request.url}"))

    def sign_in(self) -> None:
        self.page.goto("/")
        self.page.get_by_label("Your name").fill(self.name)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_text(f"Signed in as {self.name}")).to_be_visible()

    def start_job(self) -> None:
        self.page.get_by_role("button", name="Start the job").click()

    def see_it_complete(self) -> None:
        output = self.page.locator("#output")
        expect(self.page.get_by_role("status")).to_contain_text("completed", timeout=PATIENCE)
        expect(output).to_contain_text(f"A report for {self.name}: started.")
        expect(output).to_contain_text(f"The report for {self.name} is done.")
        expect(self.page.get_by_role("progressbar")).to_have_js_property("value", 100)
        states = self.page.evaluate("states")
        percents = [int(state.split()[-2]) for state in states]
        assert percents == sorted(percents)
        assert len({percent for percent in percents if 0 < percent < 100}) > 1, f"only {states} were shown"
        assert percents[-1] == 100
        assert self.trouble == []


def test_two_people(server: Server, browser: Browser) -> None:
    """Both at once: each sees a job run on, and nothing of the other's."""
    people = [Person(browser, server, name) for name in ("Ada", "Łucja & <b>Co</b>")]
    for person in people:
        person.sign_in()
    for person in people:
        person.start_job()
    for person in people:
        person.see_it_complete()
    ada, lucja = people
    assert lucja.name not in ada.page.content()
    with ada.page.expect_response(lambda response: "/status/" in response.url) as answer:
        ada.page.goto(lucja.page.url)
    assert answer.value.status == 404
    expect(ada.page.get_by_role("status")).to_contain_text("no such job")
    expect(ada.page.locator("#output")).to_be_empty()
