"""Jobs whose session ends or is replaced while they run: Django finds out when it saves the session."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends.base import UpdateError
from django.http import HttpRequest

_INTERRUPTED = (
    "The session of the user who started this job ended or was replaced while the job ran. The view had answered with "
    "{code} by then: what it has committed is kept, its changes to the session are not"
)


def watch_session(request: HttpRequest, code: int) -> None:
    """Fail the job with a clear reason if SessionMiddleware can't save its session, such as after a log-out.

    The view has answered with the status ``code`` by then. Django itself would answer 400 (SessionInterrupted).
    """
    session = getattr(request, "session", None)
    if session is None:
        return
    save = session.save

    def save_or_fail(*args: Any, **kwargs: Any) -> None:
        try:
            save(*args, **kwargs)
        except UpdateError:
            request.backjob.fail(_INTERRUPTED.format(code=code), retry=False)

    session.save = save_or_fail
