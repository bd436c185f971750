"""The errors of backjob: what can go wrong, in the words that a person reads. Knows messages.py only.

An error's docstring is its default message, so the class says once what went wrong and what to do.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator

from .messages import Part

NEWER_RECORD = "a newer release of backjob recorded it"


def _summarize(kind: type[BaseException]) -> str:
    """Return the first line of a class's docstring."""
    return (inspect.getdoc(kind) or kind.__name__).partition("\n")[0]


class BackJobError(Exception):
    """Something went wrong in backjob.

    ``public``: the message for pages and status texts, without addresses and without what a server says of itself. If
    the message was given as a ``str``, ``public`` is the first line of the class's docstring.
    """

    def __init__(self, message: Part | str | None = None) -> None:
        super().__init__(str(message or _summarize(type(self))))
        self.public = _summarize(type(self)) if message is None or isinstance(message, str) else message.public


class ConfigError(BackJobError, ValueError):
    """An option of BackJob has a value that it can't have."""


class AddressError(BackJobError):
    """The app's own address is not known here. Set connect=, for example connect="http://127.0.0.1:8000"."""


class LaunchError(BackJobError):
    """A self-request got no answer of ours.

    ``is_final`` tells whether the same request would meet the same answer again: a redirect or a demand for a
    password is final, a refused connection is not. ``is_of_job``: the address works, and only the request of this job
    fails there. ``is_denied``: this process's user may not connect, however well the address works for others.
    """

    def __init__(
        self,
        message: Part | str | None = None,
        *,
        is_final: bool = False,
        is_of_job: bool = False,
        is_denied: bool = False,
    ) -> None:
        super().__init__(message)
        self.is_final = is_final
        self.is_of_job = is_of_job
        self.is_denied = is_denied


class Busy(LaunchError):
    """Nothing could be sent: the server makes the TLS handshake in a slot, and all of them are busy.

    ``is_final``: nothing will be sent from this process either, because it serves something else than the app.
    """


class OutsideMount(BackJobError, ValueError):
    """A job's target is outside of the path at which the app is mounted."""


class RequestError(BackJobError, ValueError):
    """A ``webob.Request``, or a visitor's request to a ``background`` view, can't be made a job."""

    http_status = 400
    """The status with which ``background`` views answer."""


class RequestTooLarge(RequestError):
    """The request of a job is larger than max_request allows."""

    http_status = 413


class StoreError(BackJobError):
    """The job database can't be reached or used just now. The app itself goes on."""


class Refused(StoreError):
    """The job store refuses this write or query for what it is: the same again would be refused again."""


class TimedOut(StoreError):
    """Another session has kept a row locked for too long, or the statement took too long. It has changed nothing."""


class KeyringError(BackJobError):
    """The key file can't be used. Set key= or $BACKJOB_KEY, or correct the file as the message says."""


class JobNotFound(BackJobError, LookupError):
    """There is no such job, or not in this scope."""


class IdentityUnknown(BackJobError):
    """identify() can't know here who the user is: the part that knows has not seen this request."""


class JobFailed(BackJobError):
    """fail() was called where no background job runs."""


class JobEnded(BaseException):
    """This job has ended (failed, cancelled, timed out or taken over): the code that still runs it stops here.

    A ``BaseException``, so that ``except Exception`` in an app or a framework lets it pass. It never leaves the
    middleware. It is raised once in the job's thread. In ``except`` and ``finally`` blocks that run because of it,
    calls of the job do nothing. In a thread that the job has started, and in a process that it has forked, it is an
    ``Exception`` as well, so that every pool hands it over.
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or _summarize(type(self)))


class JobEndedInPool(JobEnded, Exception):
    """This job has ended: the code that runs in a thread or process that the job has started stops here.

    A ``JobEnded`` that is an ordinary exception and can be pickled: the threads and processes of a pool hand nothing
    else over, and end without an answer for any other exception.
    """


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in an exception group, also in nested ones; any other exception is its own only leaf.

    A group is recognized by its ``exceptions`` (PEP 654): under Python 3.10 groups are of a third party's class.
    """
    members = getattr(error, "exceptions", None)
    if isinstance(members, tuple) and members and all(isinstance(member, BaseException) for member in members):
        for member in members:
            yield from leaves(member)
    else:
        yield error


def describe(error: BaseException) -> str:
    """Type and message of any exception, also where the message can't be made; for a group, those of the first leaf."""
    first, *more = leaves(error)
    lines = traceback.format_exception_only(type(first), first)
    line = next(line for line in lines if not line.startswith(" "))  # a SyntaxError begins with its place
    text = line.strip().removeprefix(f"{type(first).__module__}.")
    return f"{text} (and {len(more)} more in the same exception group)" if more else text


def describe_publicly(error: BaseException) -> str:
    """Return the same for status texts: errors of backjob's own may name a host or a file in their message."""
    first, *_ = leaves(error)
    if isinstance(first, (StoreError, LaunchError, KeyringError)):
        return f"{type(first).__name__}: {first.public}"
    return describe(error)
