"""The file of an SQLite database: made with the right mode, and noticed when another file has taken its place.

SQLite itself goes on with the file that it has opened, also when that is deleted or replaced. Knows nothing of tables.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from .errors import StoreError
from .faults import AnswerLost
from .files import make_file

log = logging.getLogger("backjob")

_Identity = tuple[int, int]
_NO_FILE: _Identity = (-1, -1)
_BESIDE = ("-wal", "-shm")


class SQLiteFile:
    """One file, as a process has opened it. ``told``: the files whose loss this process has logged already."""

    def __init__(self, path: Path, told: set[_Identity]) -> None:
        self._path = path
        self.told = told
        self._opened: _Identity | None = None
        self._beside: dict[str, _Identity] = {}

    @property
    def is_replaced(self) -> bool:
        """Is the file at this path not the one that was opened? Costs one system call.

        Something else than a file, such as a directory to mount a disk on, is an outage, as is a path that can't be
        looked up.
        """
        return self._opened is not None and _identify(str(self._path)) not in (self._opened, _NO_FILE)

    def note_opened(self) -> None:
        """Remember which file is open, with its WAL."""
        self._opened = _identify(str(self._path))
        if self._opened is not None:
            self.told.discard(self._opened)  # its number may be that of a file which was lost before
        self.note_beside()

    def note_beside(self) -> None:
        """Remember the files of the WAL, which SQLite makes and removes."""
        names = {suffix: _identify(f"{self._path}{suffix}") for suffix in _BESIDE}
        found = {suffix: identity for suffix, identity in names.items() if identity is not None}
        if not self.is_replaced:
            self._beside = found

    def check(self) -> None:
        """Raise AnswerLost if the file was replaced: what was just written to the old one is lost."""
        if self.is_replaced:
            raise AnswerLost(f"The SQLite file {self._path} was replaced meanwhile")
        self.note_beside()

    def make(self) -> None:
        """Make the file with mode 0600 if it is missing; SQLite gives its WAL the same. Raises StoreError."""
        try:
            make_file(self._path)
        except OSError as error:
            raise StoreError(f"The SQLite file {self._path} can't be opened or made: {error.strerror}") from error

    def forget(self) -> None:
        """Log that the file was replaced, and remove the old one's WAL: SQLite would apply it to the new file."""
        current = _identify(str(self._path))
        if self._opened is not None and self._opened not in self.told:
            self.told.add(self._opened)
            what = "deleted" if current is None else "replaced by another file"
            log.error("The SQLite file %s was %s: its jobs are gone, and it is opened anew", self._path, what)
        with contextlib.suppress(OSError), _lock_folder(self._path.parent):  # the folder may be gone too
            for suffix, identity in self._beside.items():
                if _identify(f"{self._path}{suffix}") == identity:
                    os.unlink(f"{self._path}{suffix}")
        self._opened, self._beside = None, {}


def _identify(path: str) -> _Identity | None:
    """Return the device and number of the file, None if it is missing, and ``_NO_FILE`` if that is not known."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # no permission, or a disk or network file system that is unreachable
        return _NO_FILE
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else _NO_FILE


@contextlib.contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Let one process at a time look at files and remove them. Not a lock of the database file: that is SQLite's."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
