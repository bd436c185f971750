"""Check that the app accepts the Host and scheme of jobs that are started outside of a request.

Calls the app in this process with a GET of an unlikely path, so that its middleware answers and no view does. The call
has a time limit, because the app may have a route for every path.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

from backjob.client.capture import make_request
from backjob.client.jobs import Jobs
from backjob.config import Config
from backjob.errors import BackJobError, JobEnded, describe
from backjob.wsgi.environ import restore_environ
from backjob.wsgi.mounts import quote_path
from backjob.wsgi.redirects import Page, Redirect, normalize_path, read_redirect
from backjob.wsgi.response import make_server_environ

from .report import Finding

PATIENCE = 2.0
"""Seconds for which the app may take to answer."""
_PATH = "/backjob-check"
_REFUSALS = (400, 421)
_LOOPBACK = ("127.", "localhost", "[::1]")
_is_visit = contextvars.ContextVar("backjob-site-check", default=False)
"""True in code that a check runs. A view may call check() itself."""


@dataclass(frozen=True)
class SiteAnswer:
    """The app's answer to a request like that of a job. ``page``: its URL."""

    page: Page
    status: int = 0
    """0 if the app has not answered, or if a view was reached and stopped."""
    location: str = ""
    failure: str = ""
    """The reason why there is no answer; "" if there is one, or if a view was reached."""

    @property
    def site(self) -> str:
        """Scheme and host of the request."""
        parts = urlsplit(self.page.url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def redirect(self) -> Redirect:
        """The answer as a redirect."""
        return read_redirect(self.status, self.location, self.page)

    @property
    def leads_to_another_site(self) -> bool:
        """True for a redirect to the same path with another scheme or host. One to a login page has another path."""
        redirect, own = self.redirect, urlsplit(self.page.url)
        target = redirect.target
        if not 300 <= self.status < 400 or target is None or target.scheme not in ("http", "https"):
            return False
        is_same_path = redirect.path.rstrip("/") == normalize_path(own.path).rstrip("/")
        return is_same_path and (target.scheme != own.scheme or not redirect.is_own)


def is_visit() -> bool:
    """Return whether a check runs this code: then no server has received a request."""
    return _is_visit.get()


def visit_site(app: Callable[..., Iterable[bytes]], config: Config) -> SiteAnswer | None:
    """Return the app's answer to a request like that of a job. None if a check runs this code already."""
    if is_visit():
        return None
    mount = config.site.mount if config.site else ""
    request = make_request(None, config, f"{quote_path(mount)}{_PATH}", as_user=False, mount=mount)
    environ = restore_environ(
        make_server_environ(), request, forward_environ=config.forward_environ, user_agent=config.user_agent
    )
    environ[config.environ_key] = Jobs(_end_visit, environ)
    page = Page(f"{request.scheme}://{request.headers.get('HTTP_HOST', '')}{request.path}")
    answers: list[SiteAnswer] = []

    def visit() -> None:
        _is_visit.set(True)
        answers.append(_ask(app, environ, page))

    # In a thread of its own, so that the app touches no database connection and no context of the caller.
    thread = threading.Thread(target=visit, name="backjob-site-check", daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answers[0] if answers else SiteAnswer(page, failure=f"it does not answer within {PATIENCE:g} s")


def find_site_problem(answer: SiteAnswer | None, config: Config) -> Iterator[Finding]:
    """Yield a finding if the app refuses such a job for its Host or scheme."""
    if answer is None:
        return
    what = "a job that is started outside of a request"
    if answer.status in _REFUSALS:
        text = f"The app answers {answer.status} to {what}, with the Host {urlsplit(answer.page.url).netloc}"
        correction = "Correct site_url=, or let the app allow it"
    elif answer.leads_to_another_site:
        text = f"The app redirects {what} from {answer.site} to {answer.redirect.site}"
        correction = f'Set site_url="{answer.redirect.site}{quote_path(config.site.mount if config.site else "")}"'
    else:
        return
    yield Finding("site-url", text, correction if config.site else 'Set site_url="https://…"')


def find_site_warnings(answer: SiteAnswer | None, config: Config) -> Iterator[Finding]:
    """Yield findings if links of such jobs lead to localhost, and if the app could not be tried."""
    if answer is None:
        return
    address = config.address
    if config.site is None and address is not None and address.authority.startswith(_LOOPBACK):
        text = f"Links made by jobs that are started outside of a request lead to {address.authority}"
        yield Finding("site-url", text, 'Set site_url="https://…" to the URL at which people reach the app')
    failure = f"it answers {answer.status}" if answer.status >= 500 else answer.failure
    if failure:
        text = f"The app could not be tried with the Host of jobs that are started outside of a request: {failure}"
        yield Finding("site-unknown", text, "If such a job fails with 400 or a redirect, set or correct site_url=")


def _ask(app: Callable[..., Iterable[bytes]], environ: dict[str, Any], page: Page) -> SiteAnswer:
    """Return the app's answer, without its body after the first chunk."""
    answer: dict[str, Any] = {"status": "", "headers": []}

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        answer.update(status=status, headers=headers)
        return lambda chunk: None

    try:
        chunks = app(environ, start_response)
        try:
            for _ in chunks:
                if answer["status"]:
                    break
        finally:
            getattr(chunks, "close", lambda: None)()
        location = next((value for name, value in answer["headers"] if name.lower() == "location"), "")
        return SiteAnswer(page, int(answer["status"][:3]), location)
    except JobEnded:  # a view was reached
        return SiteAnswer(page)
    except BaseException as error:  # noqa: BLE001 - a check raises nothing for what the app does
        return SiteAnswer(page, failure=str(error) if isinstance(error, BackJobError) else describe(error))


def _end_visit() -> NoReturn:
    """Replace the backend. A view that is to start, find or end a job has accepted the request."""
    raise JobEnded("A check starts no job")
