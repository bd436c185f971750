"""Server side of WSGI (PEP 3333) for jobs: takes the app's whole response, and sends nothing.

Leaves out error pages and the bodies of redirects, because they repeat what a user typed. Knows no jobs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from backjob.errors import describe_publicly

from .output import Output
from .redirects import Page, read_redirect

_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
_HTML = re.compile(
    r"(?:[\s\ufeff\ufffd\xef\xbb\xbf\xff\xfe]|<!--(?:(?!-->).)*-->|<\?[^>]*>)*"
    r"<(?:!doctype\s+html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|center)[\s>/]",
    re.IGNORECASE | re.DOTALL,
)
"""The beginning of a text that is HTML (WHATWG MIME Sniffing, section 7.1). A byte order mark may have been decoded as
UTF-8 or Latin-1."""
_DEBUG_PAGE = re.compile(
    r"^Request URL: [^\n]*\n\s*Django Version: |debug_(?:notfound|authorization) of url ", re.MULTILINE
)
"""The debug pages of Django and Pyramid in plain text and JSON. They show the URL with its query, and Django's also the
data, the cookies and the settings."""


class Response:
    """One response of the app: its status, headers and body, which goes to the output."""

    def __init__(self, output: Output, is_wanted: Callable[[], bool], on_output: Callable[[], None]) -> None:
        self._output = output
        self._is_wanted = is_wanted
        self._on_output = on_output
        self._has_body = False
        self._is_output = True
        self.status = ""
        self.code = 0
        self.headers: dict[str, str] = {}
        self.set_cookies: list[str] = []
        self.error = ""
        """The exception that an error page is about: from ``exc_info``, or the one that is being handled."""
        self.exception: BaseException | None = None
        """Exception that ``error`` describes, until forget()."""
        self.breach = ""
        """The reason why the response is broken, or "": a second status after output had begun, or another breach of
        PEP 3333. The job fails even if the app swallows the exception that it gets for that."""
        self.breach_code = 500
        self._outer: BaseException | None = None

    def take(self, app: Callable[..., Iterable[bytes]], environ: Mapping[str, Any] | None) -> None:
        """Call the app and take its whole response. close() is called in any case."""
        self._outer = sys.exc_info()[1]
        iterable = app(environ, self.start_response)
        try:
            for chunk in iterable:
                if not self._put(chunk):
                    break  # the job has ended, and the app goes on
        finally:
            close = getattr(iterable, "close", None)
            if close is not None:
                close()
        self.finish()

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """Take status and headers from the app (PEP 3333). With ``exc_info`` they may replace earlier ones."""
        error = exc_info[1] if exc_info else sys.exc_info()[1]
        self.exception = error = error if error is not self._outer else None
        cause = describe_publicly(error) if error is not None else ""
        try:
            if self.code and (self._has_body or not exc_info):
                self._note_second_status(status, cause)
                if exc_info:
                    raise exc_info[1].with_traceback(exc_info[2])
                raise AssertionError("start_response was called twice without exc_info")
        finally:
            exc_info = error = None  # no cycle through the traceback
        if not (status[:3].isascii() and status[:3].isdigit() and status[3:4] in ("", " ")):
            raise self._break(ValueError("start_response takes a status such as '200 OK'"))
        self.status, self.code, self.error = status, int(status[:3]), cause
        self.headers = {name.lower(): value for name, value in headers}
        self.set_cookies = [value for name, value in headers if name.lower() == "set-cookie"]
        self._is_output = not self.breach and not self._is_left_out
        content_type, coding = self.headers.get("content-type", ""), self.headers.get("content-encoding", "")
        self._output.set_content_type(content_type, coding, is_error_page if self.code >= 300 else None)
        return self.write

    def write(self, chunk: bytes) -> None:
        """Take a piece of the body. This is the callable that start_response() returns."""
        self._put(chunk)

    def _put(self, chunk: bytes) -> bool:
        """Take a piece of the body. Return False if no more is needed."""
        if not isinstance(chunk, bytes):
            raise self._break(TypeError(f"an app's output is bytes (PEP 3333), not {type(chunk).__name__}"))
        if not chunk:
            return True
        if not self.code:
            raise self._break(AssertionError("the app wrote before it called start_response"))
        self._has_body = True
        if not self._is_wanted():
            return False
        if self._is_output:
            self._output.write_bytes(chunk)
        self._on_output()
        return True

    @property
    def _is_left_out(self) -> bool:
        """True if the body is an error page, or that of a redirect that may show a secret."""
        content_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        is_page = self.code >= 300 and content_type in _HTML_TYPES
        return is_page or (300 <= self.code < 400 and may_show_secret(self.headers.get("location", "")))

    def _note_second_status(self, status: str, cause: str) -> None:
        self._is_output = False  # what follows is an error page
        if not self.breach:
            when = "after output had begun" if self._has_body else "after another status"
            self.breach = f"HTTP {status} {when}{f': {cause}' if cause else ''}"
            self.breach_code = int(status[:3]) if status[:3].isdigit() else 500

    def _break(self, error: Exception) -> Exception:
        self.breach = self.breach or describe_publicly(error)
        return error

    def finish(self) -> None:
        """Finish the output."""
        self._output.finish()

    def forget(self) -> None:
        """Drop the headers, such as Set-Cookie, and the exception, because they are not needed after the run."""
        self.headers, self.set_cookies, self.exception, self._outer = {}, [], None, None


def is_error_page(text: str) -> bool:
    """Return whether the text of a failing response is an HTML page, or a framework's debug page in another format."""
    text = text.replace("\0", "")  # of UTF-16 that is declared as something else
    return _HTML.match(text) is not None or _DEBUG_PAGE.search(text) is not None


def may_show_secret(location: str) -> bool:
    """Return whether a location has parts that ``Redirect.shown`` leaves out because they may hold a secret.

    These are query, fragment, path parameters and user name. Locations that are no URLs of http or https are left out
    altogether. WebOb writes the whole location into the redirect's body, also in plain text and JSON.
    """
    target = read_redirect(302, location, Page("http://localhost/")).target
    is_shown = target is not None and target.scheme in ("http", "https")
    return location != "" and (not is_shown or any(mark in location for mark in "?#;@"))


def make_server_environ() -> dict[str, Any]:
    """Return the environ of a server (PEP 3333) for a job that runs without a request."""
    return {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
