"""The judgement on the app's response to a job: completed, or failed with a reason, to be retried or not.

Pure, except for a function ``redirect_ok`` of the application. Knows HTTP; no store and no progress.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backjob.config import Config
from backjob.errors import describe_publicly
from backjob.model.job import MOST_REASON, Job, JobRequest
from backjob.model.text import first_line
from backjob.wsgi.corrections import describe_correction
from backjob.wsgi.names import is_safe_method
from backjob.wsgi.redirects import (
    Page,
    Redirect,
    RedirectOk,
    is_allowed,
    is_login,
    load_redirect_ok,
    looks_like_login,
    normalize_path,
    read_redirect,
)
from backjob.wsgi.response import Response, is_error_page

from .left_out import LeftOut

log = logging.getLogger("backjob")

_PASSING = frozenset({408, 425, 429})
"""4xx that ask to try again later (RFC 9110, section 15.5.9; RFC 8470; RFC 6585)."""
_SERVER_ERRORS = range(500, 600)
_REFUSALS = frozenset({401, 403})
_OF_HOST = frozenset({400, 421})
"""Statuses of answers to a Host that the app does not allow."""
_OUTSIDE = "the job was started outside of a request"
_SET_SITE = 'set site_url="https://…" to the URL that people use'
_LONG_WAIT = 60.0
"""Seconds of waiting after which credentials may have expired."""


@dataclass(frozen=True)
class Judgement:
    """Judgement on an attempt. ``reason``: of the failure, "" for a completed job. ``location``: see JobStatus.

    ``error``: the exception that is the cause of a failure, for the log.
    """

    reason: str = ""
    may_retry: bool = False
    location: str = ""
    error: BaseException | None = field(repr=False, default=None)


@dataclass
class Run:
    """Facts about the run whose response is judged."""

    job: Job
    request: JobRequest
    environ: Mapping[str, Any] = field(repr=False)
    config: Config
    left_out: LeftOut = field(repr=False)
    mount: str
    """Path at which BackJob is mounted: the app may change SCRIPT_NAME."""
    cause: str = field(repr=False, default="")
    """Type and message of the exception that the framework reported last. Of an HTTP response, only the application's
    own text in it."""
    answer: int | None = None
    """Status of that exception, if it is an HTTP response."""
    is_denied: bool = False
    """True if that was a 401 or 403. A redirect that answers it leads to a login page."""
    login_url: str = field(repr=False, default="")
    error: BaseException | None = field(repr=False, default=None)
    """Exception that the framework reported last, unless it is an HTTP response."""
    begun_at: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Duration of the run so far."""
        return time.monotonic() - self.begun_at

    def note_exception(self, error: BaseException) -> None:
        """Store the facts about the exception that the framework turns into a response."""
        self.answer = find_status(error)
        self.error = error if self.answer is None else None
        self.cause = describe_publicly(error) if self.answer is None else _read_detail(error)
        self.is_denied = self.answer in _REFUSALS or type(error).__name__ == "PermissionDenied"


def judge_answer(response: Response, run: Run) -> Judgement:
    """Judge the response of the app."""
    code, line = response.code, f"HTTP {response.status}"
    if response.breach:
        error = run.error or response.exception
        return Judgement(response.breach, may_retry_after(response.breach_code), error=error)
    if not code:
        return Judgement("The app ended without a call of start_response", may_retry=True)
    if 200 <= code < 300:
        return Judgement()
    if 300 <= code < 400:
        return _judge_redirect(code, response.headers, run)
    cause = run.cause if code == run.answer else (run.cause or response.error) if code >= 500 else ""
    if cause:
        line += f": {cause}"
    error = (run.error or response.exception) if code >= 500 else None
    return Judgement(_add_hint(line, code, run, cause), may_retry_after(code), error=error)


def judge_exception(error: BaseException, run: Run) -> Judgement:
    """Judge the exception of the app. One that is an HTTP response counts as that response."""
    code = find_status(error)
    if code is None:
        return Judgement(_join(describe_publicly(error), run.left_out.explain_exception()), may_retry=True, error=error)
    if code < 400:
        return _judge_redirect(code, {"location": _read_location(error)}, run)
    text = _add_hint(describe_publicly(error), code, run, _read_detail(error))
    return Judgement(text, may_retry_after(code), error=error)


def _read_location(error: BaseException) -> str:
    """Return the location of an exception that is a redirect, as of WebOb, Werkzeug or Bottle."""
    headers: Any = getattr(getattr(error, "response", None) or error, "headers", None) or {}
    return str(headers.get("Location") or getattr(error, "new_url", ""))


def find_status(error: BaseException) -> int | None:
    """Return the status of an exception that is an HTTP response or a WSGI application itself.

    Those are the HTTP exceptions of Bottle, Werkzeug and WebOb. A ``code`` alone is not enough, because urllib's
    exceptions have the code of another site.
    """
    is_response = hasattr(error, "status_line") and hasattr(error, "status_code")  # as in Bottle
    code = getattr(error, "status_code" if is_response else "code", None)
    if code is None:
        code = getattr(getattr(error, "response", None), "status_code", None)  # of Werkzeug's abort(response)
    is_answer = is_response or callable(error)
    return code if is_answer and isinstance(code, int) and 300 <= code < 600 else None


def _read_detail(error: BaseException) -> str:
    """Return the text that an application gave to an exception that is an HTTP response, as by abort(422, "…")."""
    names = ("detail", "description", "body")  # WebOb, Werkzeug, Bottle
    detail = next((text for name in names if isinstance(text := getattr(error, name, None), str) and text), "")
    is_standard = detail == getattr(type(error), "description", None)
    if not detail or is_standard or is_error_page(detail):
        return ""
    name = f"{type(error).__name__}: " if find_status(error) in _SERVER_ERRORS else ""
    return name + first_line(detail)


def may_retry_after(code: int) -> bool:
    """Return whether another attempt may succeed: after 5xx, and after a 4xx that asks to try again later."""
    return code >= 500 or code in _PASSING


def explain_refusal(run: Run) -> str:
    """Return the likely cause of a 401, a 403 or a redirect to a login page, "" if none is known."""
    if run.request.anonymous:
        return "the job runs without a user (as_user=False)"
    waited = (run.job.read_at - run.job.created_at).total_seconds()
    if waited >= _LONG_WAIT:
        return f"the job waited {write_duration(waited)}; the credentials may have expired"
    return ""


def explain_user(user: str, run: Run) -> str:
    """Return why the job can't run as the user who started it; ``user``: the one of its own session, or ""."""
    hint = "" if user else explain_refusal(run)
    return run.left_out.explain_user(user) + (f"; {hint}" if hint else "")


def write_duration(seconds: float) -> str:
    """Return a duration in the largest unit of which there are at least two: "90 min", "2 h"."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _add_hint(text: str, code: int, run: Run, detail: str) -> str:
    """Add the likely cause to the text of a response. ``detail``: the application's own words in it."""
    hint = explain_refusal(run) if code in _REFUSALS else ""
    if code in _OF_HOST and (not detail or "host" in detail.lower()):
        hint = _explain_host(run.request)
    return _join(text, (f": {hint}" if hint else "") + run.left_out.explain_response(code))


def _join(text: str, addition: str) -> str:
    """Return both, without the full stop of the text before the punctuation mark of the addition."""
    return f"{text.rstrip('.')}{addition}" if addition else text


def _explain_host(request: JobRequest) -> str:
    """Return the likely cause of a refused Host, "" for a job that has the Host of a request."""
    if request.lacks_site:
        return f"{_OUTSIDE}: if the app does not allow its Host, {_SET_SITE}"
    if request.has_site_url:
        host = request.headers.get("HTTP_HOST", "")
        return f"{_OUTSIDE}: if the app does not allow the host {host}, correct site_url"
    return ""


def _judge_redirect(code: int, headers: Mapping[str, str], run: Run) -> Judgement:
    judgement = _judge_location(code, headers, run)
    is_outside = run.request.lacks_site or run.request.has_site_url
    needs_no_hint = not judgement.reason or "site_url=" in judgement.reason
    if is_outside and not needs_no_hint and _may_be_for_site(headers.get("location", ""), run):
        hint = "correct site_url" if run.request.has_site_url else _SET_SITE
        return replace(judgement, reason=f"{judgement.reason}; {_OUTSIDE}: {hint}")
    return judgement


def _may_be_for_site(location: str, run: Run) -> bool:
    """Return whether a redirect leads from http to https of the same host, or to the same path of another host."""
    page = _make_page(run)
    redirect = read_redirect(302, location, page)
    if redirect.target is None or not redirect.is_own:
        return redirect.path.rstrip("/") == normalize_path(run.request.path).rstrip("/")
    return (run.request.scheme, redirect.target.scheme) == ("http", "https")


def _judge_location(code: int, headers: Mapping[str, str], run: Run) -> Judgement:
    location = headers.get("location", "")
    if code == 304:
        return Judgement(
            "The app answered 304 (Not Modified) to conditional headers such as If-None-Match: a job has no use for "
            "them, take them out of its request"
        )
    page = _make_page(run)
    redirect = read_redirect(code, location, page)
    where = f"The app answered {code}{_name_target(redirect, location)}"
    shown = redirect.shown[:MOST_REASON]
    if run.is_denied or is_login(redirect, page):
        return Judgement(f"{where}, a login page: nothing was done{_hint_at_login(code, run)}", location=shown)
    correction = describe_correction(redirect, page, headers.get("vary", ""))
    if correction:
        return Judgement(f"{where}, which {correction}", location=shown)
    try:
        option = _find_option(run)
        if looks_like_login(redirect, page, option):
            hint = f"if not, set redirect_ok to its path{_hint_at_login(code, run)}"
            return Judgement(f"{where}, which looks like a login page; {hint}", location=shown)
        if is_allowed(redirect, option):
            return Judgement(location=shown)
    except Exception as error:  # the application's function, or its import
        log.exception("Job %d: redirect_ok raised an exception", run.job.id)
        # Its message may quote the location.
        return Judgement(f"{where}; redirect_ok raised {type(error).__name__}: see the log", location=shown)
    if isinstance(option, str):
        return Judgement(f"{where}; redirect_ok allows {option}", location=shown)
    return Judgement(f"{where}; if that is how it ends, set redirect_ok", location=shown)


def _hint_at_login(code: int, run: Run) -> str:
    hint = explain_refusal(run)
    return (f"; {hint}" if hint else "") + run.left_out.explain_response(code)


def _name_target(redirect: Redirect, location: str) -> str:
    if redirect.target is None:
        return " with a Location that can't be read" if location else " without a Location"
    return f" to {redirect.shown[:200]}"


def _find_option(run: Run) -> RedirectOk:
    sealed = run.request.redirect_ok
    return run.config.redirect_ok if sealed is None else load_redirect_ok(sealed)


def _make_page(run: Run) -> Page:
    environ, request = run.environ, run.request
    forwarded = environ.get("HTTP_X_FORWARDED_HOST", "").partition(",")[0].strip()
    server = f"{environ.get('SERVER_NAME', '')}:{environ.get('SERVER_PORT', '')}".rstrip(":")
    hosts = [each for each in (environ.get("HTTP_HOST", ""), forwarded, server) if each]
    url = f"{request.scheme}://{hosts[0] if hosts else 'localhost'}{request.path}"
    site_url = "" if request.lacks_site else url if request.has_site_url else None
    return Page(url, tuple(hosts), is_safe_method(request.method), run.login_url, run.mount, site_url)
