"""Errors of backjob, and texts of any exception. Knows messages.py only.

The first line of an error's docstring is its default message.
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

    ``public``: the message for pages and status texts, without addresses and texts of servers. If the message was given
    as a ``str``, ``public`` is the first line of the class's docstring.
    """

    def __init__(self, message: Part | str | None = None) -> None:
        super().__init__(str(message or _summarize(type(self))))
        self.public = _summarize(type(self)) if message is None or isinstance(message, str) else message.public


class ConfigError(BackJobError, ValueError):
    """An option of BackJob has a value that is not allowed."""


class AddressError(BackJobError):
    """The app's own address is not known here. Set connect=, for example connect="http://127.0.0.1:8000"."""


class LaunchError(BackJobError):
    """A self-request got no answer of BackJob's.

    ``is_final``: the same request would fail again. A redirect or a request for a password is final, a refused
    connection is not. ``is_of_job``: the address works, and only the request of this job fails there. ``is_denied``:
    this process has no permission to connect, although the address may work for others.
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

    def reword(self, message: Part, **changed: bool) -> LaunchError:
        """Return an error with this message, and with the attributes of this one except for the changed ones."""
        kept = {"is_final": self.is_final, "is_of_job": self.is_of_job, "is_denied": self.is_denied}
        return LaunchError(message, **{**kept, **changed})


class Busy(LaunchError):
    """Nothing was sent: the server makes the TLS handshake in a slot, and all slots are busy.

    ``is_final``: this process will not send it later either, because it does not serve the app.
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
    """The job database can't be reached or used now. The app itself goes on."""


class Refused(StoreError):
    """The job store refuses this write or query, and would refuse it again."""


class TimedOut(StoreError):
    """A lock time-out or a statement time-out. The statement has changed nothing."""


class KeyringError(BackJobError):
    """The key file can't be used. Set key= or $BACKJOB_KEY, or correct the file as the message says."""


class JobNotFound(BackJobError, LookupError):
    """No job has this id, or it has another scope."""


class IdentityUnknown(BackJobError):
    """identify() can't name the user here, because the middleware that could has not seen this request."""


class JobFailed(BackJobError):
    """fail() was called outside of a background job."""


class JobEnded(BaseException):
    """This job has ended (failed, cancelled, timed out or taken over): the code that still runs it stops here.

    A ``BaseException``, so that ``except Exception`` in an app or a framework does not catch it. It never leaves the
    middleware. It is raised once in the job's thread. In ``except`` and ``finally`` blocks that run because of it,
    calls of the job do nothing. In threads and forked processes of the job it is an ``Exception`` as well, because
    pools pass on nothing else.
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or _summarize(type(self)))


class JobEndedInPool(JobEnded, Exception):
    """This job has ended: the code that runs in a thread or process that the job has started stops here.

    A ``JobEnded`` that is an ordinary exception and can be pickled: a pool passes on nothing else, and its thread or
    process ends without an answer for any other exception.
    """


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in an exception group and its nested groups, or any other exception itself.

    A group is recognized by its ``exceptions`` (PEP 654), because under Python 3.10 groups have a third party's class.
    """
    members = getattr(error, "exceptions", None)
    if isinstance(members, tuple) and members and all(isinstance(member, BaseException) for member in members):
        for member in members:
            yield from leaves(member)
    else:
        yield error


def describe(error: BaseException) -> str:
    """Return type and message of any exception, also if ``str()`` fails. For a group, describe the first leaf."""
    first, *more = leaves(error)
    lines = traceback.format_exception_only(type(first), first)
    line = next(line for line in lines if not line.startswith(" "))  # a SyntaxError begins with its file and line
    text = line.strip().removeprefix(f"{type(first).__module__}.")
    return f"{text} (and {len(more)} more in the same exception group)" if more else text


def describe_publicly(error: BaseException) -> str:
    """Return the same for status texts, without the hosts and files that messages of backjob's own errors may name."""
    first, *_ = leaves(error)
    if isinstance(first, (StoreError, LaunchError, KeyringError)):
        return f"{type(first).__name__}: {first.public}"
    return describe(error)
