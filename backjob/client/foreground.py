"""What a job does of itself, as it is outside of a job: nothing, so that one action serves foreground and background.

Bad input is refused all the same. What it does in a job stands in worker.py.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from .arguments import check_exception, check_progress, check_text, check_total

Row = TypeVar("Row")


class NotAFile(io.UnsupportedOperation, TypeError):
    """Error for code that needs a file number. Code that can do without one catches it as an ``OSError``."""


class NoJob:
    """No job runs here."""

    __slots__ = ()

    is_worker = False
    """Does this request run as a background job?"""
    job_id: int | None = None
    """The id of the job that runs here."""
    attempt: int | None = None
    """Which run of this job it is, from 1."""
    encoding = "utf-8"
    """For code that is given a job as a text file, like the methods of files below."""
    errors = "replace"
    """Handling of characters that UTF-8 can't encode, by ``write()``."""
    closed = False
    """A job as a text file is always open."""

    def update(self, progress: float | None = None, text: str | None = None) -> None:
        """Tell the progress of this job. Outside of a job it does nothing; ValueError for an invalid progress."""
        if progress is not None:
            check_progress(progress)

    def increment_progress(self, n: float, text: str | None = None) -> None:
        """Add to the progress of this job. Outside of a job it does nothing; ValueError for what is no progress."""
        check_progress(n)

    def write(self, text: str) -> int:
        """Add to the output of this job. Outside of a job it does nothing."""
        return len(check_text(text))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of these texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """For ``print(…, file=…, flush=True)``."""

    def isatty(self) -> bool:
        """Return False: the output is no terminal."""
        return False

    def readable(self) -> bool:
        """Return False."""
        return False

    def seekable(self) -> bool:
        """Return False."""
        return False

    def writable(self) -> bool:
        """Return True, outside of a job too."""
        return True

    def fileno(self) -> int:
        """Raise TypeError: there is no file for another program to write to."""
        raise NotAFile(
            "a job is not a file that a program can write to (stdout=, stderr=): pass subprocess.PIPE, and write() "
            'what you read from it. See "The output of a program" in docs/progress.md'
        )

    def track(self, rows: Iterable[Row], total: float | None = None, *, to: float = 100) -> Iterator[Row]:
        """Go through these rows, and tell the progress of this job with each that is done: from where it is to ``to``.

        ``total`` is how many they are, by default what len() says; where that is not known each row is a sign of the
        job without a number. At the end the progress is ``to``. Outside of a job the rows come, and nothing is told.
        Raises ValueError for a ``total`` or ``to`` that is no number.
        """
        if total is None and isinstance(rows, Sized):
            with contextlib.suppress(TypeError, OverflowError):  # a class may have it and not know
                total = len(rows)
        return self._track(rows, check_total(total), check_progress(to))

    def check_user(self) -> None:
        """In a job: end it here, without a retry, if the session has ended or belongs to another user by now.

        Who started the job is what ``identify`` said of that request; it is asked again of the request that the job is.
        Call it as soon as your framework knows its session; the integrations do. Outside of a job, and where the user
        is not known by ``identify``, it does nothing.
        """

    def note_exception(self, error: BaseException) -> None:
        """In a job: this is what the app answers with a 5xx for. The job then names its type and message.

        For what a framework makes an error page of; the integrations call it. Outside of a job it does nothing. Raises
        TypeError for what is no exception.
        """
        check_exception(error)

    def note_login_url(self, url: str) -> None:
        """In a job: this is the URL of the login page. A redirect there fails the job, whatever ``redirect_ok`` says.

        The integrations call it where their framework knows that page. Outside of a job it does nothing.
        """

    def _track(self, rows: Iterable[Row], total: float | None, to: float) -> Iterator[Row]:
        return iter(rows)
