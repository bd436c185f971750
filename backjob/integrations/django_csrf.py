"""Django's CSRF protection: the token with which a job passes it, and the browser's tokens for checks in the view.

Knows Django's requests, cookies, sessions and forms, and no jobs.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.http import HttpRequest, QueryDict
from django.middleware.csrf import CSRF_SESSION_KEY, get_token

from backjob.wsgi.names import FORM, SENT, is_safe_method

from .replay import ORIGIN_KEYS, HasFiles, add_fields, keep_sent, make_again, put_back, take_fields

_FIELD = "csrfmiddlewaretoken"
_NO_CHECK = ("csrf_processing_done", "_dont_enforce_csrf_checks")
"""Attributes of a request whose token has been checked, or that Django's test client has made."""


@contextlib.contextmanager
def supply_token(request: HttpRequest) -> Iterator[None]:
    """Supply a job with the current token of its session or cookie, or else with a new one."""
    if is_safe_method(request.method):
        yield
        return
    is_in_session = settings.CSRF_USE_SESSIONS and CSRF_SESSION_KEY in request.session
    if is_in_session:
        request.META.setdefault("CSRF_COOKIE", request.session[CSRF_SESSION_KEY])  # as CSRF's middleware does
    needs_update = request.META.get("CSRF_COOKIE_NEEDS_UPDATE", False)
    request.META[settings.CSRF_HEADER_NAME] = get_token(request)
    request.META["CSRF_COOKIE_NEEDS_UPDATE"] = needs_update
    secret = request.META["CSRF_COOKIE"]
    if not settings.CSRF_USE_SESSIONS:
        request.COOKIES[settings.CSRF_COOKIE_NAME] = secret
    if request.method == "POST" and _FIELD in request.POST:
        # The token in the submitted form may have expired, and Django checks it before the header.
        request.POST = request.POST.copy()
        del request.POST[_FIELD]
    request.META["HTTP_ORIGIN"] = f"{request.scheme}://{request.get_host()}"
    if settings.CSRF_USE_SESSIONS and not is_in_session:
        # For this request only: the token is no reason to save the session.
        with _unnoticed(request.session):
            request.session[CSRF_SESSION_KEY] = secret
        yield
        with _unnoticed(request.session):
            if request.session.get(CSRF_SESSION_KEY) == secret:
                del request.session[CSRF_SESSION_KEY]
    else:
        yield


@contextlib.contextmanager
def _unnoticed(session: Any) -> Iterator[None]:
    """Keep the changes in this block from saving the session."""
    is_modified = session.modified
    yield
    session.modified = is_modified


def ask_again(request: HttpRequest) -> Any:
    """Return the browser's request for a job. Raises HasFiles.

    The form is without its tokens, so that with ``unique`` two submissions of it are equal.
    """
    is_post = request.method == "POST"  # Django reads the form of no other
    if request.content_type.startswith("multipart/"):
        if not is_post or request.content_type != "multipart/form-data" or request.FILES:
            raise HasFiles
        body, content_type = request.POST.urlencode().encode(), FORM
    else:
        body, content_type = request.body, request.META.get("CONTENT_TYPE", "")
    is_form = is_post and request.content_type in (FORM, "multipart/form-data")
    body, tokens = take_fields(body, {_FIELD}) if is_form else (body, [])
    sent = keep_sent(request.META, _sent_keys(), tokens)
    sent["passed"] = [name for name in _NO_CHECK if getattr(request, name, False)]
    return make_again(request.META, body, content_type, sent)


def put_back_sent(request: HttpRequest) -> None:
    """Restore the tokens that the browser sent, for checks in the view.

    A job that the site's own code has started by start() keeps the supplied token, because no browser has sent it.
    """
    if SENT not in request.META:
        return
    fields = put_back(request.META, _sent_keys())
    for kept in ("headers", "COOKIES"):  # cached, and made from META
        request.__dict__.pop(kept, None)
    for name in _NO_CHECK:
        setattr(request, name, name in request.META[SENT].get("passed", ()))
    if fields:
        # Some code reads the body itself, such as Django REST framework.
        body = add_fields(request.body, fields)
        request._body, request._stream = body, io.BytesIO(body)  # noqa: SLF001 - there is no other way to set them
        request.META["CONTENT_LENGTH"] = str(len(body))
        request.content_type = request.META["CONTENT_TYPE"] = FORM
        request.POST = QueryDict(body)


def _sent_keys() -> tuple[str, ...]:
    return (settings.CSRF_HEADER_NAME, *ORIGIN_KEYS)
