"""The errors of backjob: what can go wrong, in the words that a person reads. Knows nothing else of the package.

An error's docstring is its default message, so the class says once what went wrong and what to do.
"""

from __future__ import annotations

import inspect
import traceback

NEWER_RECORD = "a newer release of backjob recorded it"


class BackJobError(Exception):
    """Something went wrong in backjob."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)) or type(self).__name__)


class ConfigError(BackJobError, ValueError):
    """An option of BackJob has a value that it can't have."""


class AddressError(BackJobError):
    """The app's own address is not known here. Set connect=, for example connect="http://127.0.0.1:8000"."""


class LaunchError(BackJobError):
    """A self-request got no answer of ours.

    ``is_final`` tells whether the same request would meet the same answer again: a redirect or a demand for a
    password is final, a refused connection is not.
    """

    def __init__(self, message: str | None = None, *, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


class Busy(LaunchError):
    """Nothing could be sent: the server makes the TLS handshake in a slot, and all of them are busy."""


class NotHome(LaunchError):
    """The app that started this job does not answer where it did, and in another one it would be another job."""


class StoreError(BackJobError):
    """The job database can't be reached or used just now. The app itself goes on."""


class KeyringError(BackJobError):
    """The key file can't be read or made. Set key= or $BACKJOB_KEY, or let the app write beside its database."""


class JobNotFound(BackJobError, LookupError):
    """There is no such job, or not in this scope."""


class IdentityUnknown(BackJobError):
    """identify() can't know here who the user is: the part that knows has not seen this request."""


class JobFailed(BackJobError):
    """fail() was called where no background job runs."""


class JobEnded(BaseException):
    """This job has ended (failed, cancelled, timed out or taken over): the code that still runs it stops here.

    A ``BaseException``, so that ``except Exception`` in an app or a framework lets it pass. It never leaves the
    middleware.
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (inspect.getdoc(type(self)) or "").partition("\n")[0])


def describe(error: BaseException) -> str:
    """Type and message of any exception, also where the message can't be made."""
    lines = traceback.format_exception_only(type(error), error)
    first = next(line for line in lines if not line.startswith(" "))  # a SyntaxError begins with its place
    return first.strip().removeprefix(f"{type(error).__module__}.")


def explain_stop(error: BaseException) -> str:
    """The same for what stops a server's worker, with the setting that is behind it."""
    text = describe(error)
    if isinstance(error, SystemExit):
        text += " (the server stopped the job: with gunicorn's sync workers raise timeout=, or use gthread workers)"
    return text
