"""The calls that report from a running job, outside of one: they do nothing, so that one view serves both cases.

Bad input raises the same errors as in a job. In a job, worker.current_job replaces these calls.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from .arguments import check_exception, check_progress, check_text, check_total

Row = TypeVar("Row")


class NotAFile(io.UnsupportedOperation, TypeError):
    """Error for code that needs a file descriptor. Code that can work without one catches it as an ``OSError``."""


class NoJob:
    """The calls of a running job, for code that does not run in one."""

    __slots__ = ()

    is_worker = False
    """True if this request runs as a background job."""
    job_id: int | None = None
    """The id of the job that runs here."""
    attempt: int | None = None
    """The number of this attempt, from 1."""
    encoding = "utf-8"
    """Encoding of a job as a text file. The methods of files below serve such code too."""
    errors = "replace"
    """Error handler of ``write()`` for characters that UTF-8 can't encode."""
    closed = False
    """False: a job as a text file is always open."""

    def update(self, progress: float | None = None, text: str | None = None) -> None:
        """Report the progress of this job. Outside of a job it does nothing. Raises ValueError for no number."""
        if progress is not None:
            check_progress(progress)

    def increment_progress(self, n: float, text: str | None = None) -> None:
        """Add to the progress of this job. Outside of a job it does nothing. Raises ValueError for no number."""
        check_progress(n)

    def write(self, text: str) -> int:
        """Add to the output of this job. Outside of a job it does nothing."""
        return len(check_text(text))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of these texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Do nothing. ``print(…, file=…, flush=True)`` calls it."""

    def isatty(self) -> bool:
        """Return False: the output is not a terminal."""
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
        """Raise NotAFile: another program can't write to a job."""
        raise NotAFile(
            "a job is not a file that a program can write to (stdout=, stderr=): pass subprocess.PIPE, and write() "
            'what you read from it. See "The output of a program" in docs/progress.md'
        )

    def track(self, rows: Iterable[Row], total: float | None = None, *, to: float = 100) -> Iterator[Row]:
        """Iterate over rows and report the progress after each, from the present one to ``to``.

        ``total`` is the number of rows, by default len(). If it is not known, each row is a heartbeat without a number.
        After the last row the progress is ``to``. Outside of a job the rows are returned, and nothing is reported.
        Raises ValueError if ``total`` or ``to`` is not a number.
        """
        if total is None and isinstance(rows, Sized):
            with contextlib.suppress(TypeError, OverflowError):  # the length of a lazy sequence may be unknown
                total = len(rows)
        return self._track(rows, check_total(total), check_progress(to))

    def check_user(self) -> None:
        """End this job without a retry if the session has ended, or belongs to another user by now.

        It compares the users that ``identify`` returns for the starting request and for the job's request. Call it as
        soon as your framework has loaded the session. The integrations do so. Outside of a job, and without
        ``identify``, it does nothing.
        """

    def note_exception(self, error: BaseException) -> None:
        """Note the exception for which the app answers with a 5xx. The job's error then has its type and message.

        The integrations call it when their framework makes an error page. Outside of a job it does nothing. Raises
        TypeError if it is not an exception.
        """
        check_exception(error)

    def note_login_url(self, url: str) -> None:
        """Note the URL of the login page. A redirect to it fails the job, whatever ``redirect_ok`` says.

        The integrations call it if their framework knows that page. Outside of a job it does nothing.
        """

    def _track(self, rows: Iterable[Row], total: float | None, to: float) -> Iterator[Row]:
        return iter(rows)
