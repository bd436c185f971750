"""Django's CSRF protection: what a job passes it with, and what ``background`` hands on of the browser's own request.

Knows Django's requests, its cookies, sessions and forms; of jobs nothing.
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
"""What a request has when its token was checked, or when it is of Django's test client: nobody asks (again) then."""


@contextlib.contextmanager
def supply_token(request: HttpRequest) -> Iterator[None]:
    """In it a job has the token of its session or cookie, as it is by now; where there is none, of a new one."""
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
        # A form that was handed on brings the token along that it had then, and that would be asked first.
        request.POST = request.POST.copy()
        del request.POST[_FIELD]
    request.META["HTTP_ORIGIN"] = f"{request.scheme}://{request.get_host()}"
    if settings.CSRF_USE_SESSIONS and not is_in_session:
        # For this request alone: a session is not to be written for it, where the view writes none.
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
    """What is changed in it is no reason to save the session."""
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
    """From here on the job has what the browser sent: a view that checks it for itself sees that, and not our token.

    A job that the site's own code has started by start() keeps ours: nobody else can have sent it.
    """
    if SENT not in request.META:
        return
    fields = put_back(request.META, _sent_keys())
    for kept in ("headers", "COOKIES"):  # read from META, and maybe changed since
        request.__dict__.pop(kept, None)
    for name in _NO_CHECK:
        setattr(request, name, name in request.META[SENT].get("passed", ()))
    if fields:
        # Who reads the body itself, as Django REST framework does, finds them there too.
        body = add_fields(request.body, fields)
        request._body, request._stream = body, io.BytesIO(body)  # noqa: SLF001 - there is no other way to set them
        request.META["CONTENT_LENGTH"] = str(len(body))
        request.content_type = request.META["CONTENT_TYPE"] = FORM
        request.POST = QueryDict(body)


def _sent_keys() -> tuple[str, ...]:
    return (settings.CSRF_HEADER_NAME, *ORIGIN_KEYS)
