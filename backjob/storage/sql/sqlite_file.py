"""The file of an SQLite database: its creation with the right mode, and the detection of its replacement.

SQLite itself keeps using the file that it has opened, even if that is deleted or replaced. Knows nothing of tables.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from backjob.errors import StoreError
from backjob.runtime.files import make_file

from .errors import AnswerLost

log = logging.getLogger("backjob")

_Identity = tuple[int, int]
_NO_FILE: _Identity = (-1, -1)
_BESIDE = ("-wal", "-shm")


@dataclass
class _Known:
    """Facts about the file at one path, shared by the Databases of one process."""

    identity: _Identity | None = None
    """The file that a Database opened last."""
    beside: dict[str, _Identity] = field(default_factory=dict)
    """The files of its WAL, by their suffixes."""
    lost: set[_Identity] = field(default_factory=set)
    """The files whose loss was logged already."""
    has_deleted: bool = True
    """True if deleted values may still be in the WAL. True at first, because that is unknown."""
    emptied_at: float = 0.0
    """Time at which the WAL was last emptied, in time.monotonic()."""


class SQLiteFile:
    """One file, as a Database has opened it. ``other``: the SQLiteFile of its twin, for the same path."""

    def __init__(self, path: Path, other: SQLiteFile | None = None) -> None:
        self._path = path
        self._opened: _Identity | None = None
        self.known: _Known = other.known if other is not None else _Known()
        """Shared with ``other``."""

    @property
    def is_replaced(self) -> bool:
        """Is the file at this path not the one that was opened? Costs one system call.

        False for a path that can't be looked up or is no file, such as a directory to mount a disk on. That is an
        outage.
        """
        return self._opened is not None and _identify(str(self._path)) not in (self._opened, _NO_FILE)

    def note_opened(self) -> None:
        """Remember which file is open, with its WAL."""
        self._opened = _identify(str(self._path))
        if self._opened is not None:
            self.known.lost.discard(self._opened)  # a new file may have the inode of a lost one
        self.note_beside()

    def note_beside(self) -> None:
        """Remember the files of the WAL, which SQLite makes and removes."""
        names = {suffix: _identify(f"{self._path}{suffix}") for suffix in _BESIDE}
        found = {suffix: identity for suffix, identity in names.items() if identity is not None}
        if self._opened is not None and not self.is_replaced:
            self.known.identity, self.known.beside = self._opened, found

    def check(self) -> None:
        """Raise AnswerLost if the file was replaced, because the last write went to the old one."""
        if self.is_replaced:
            raise AnswerLost(f"The SQLite file {self._path} was replaced meanwhile")
        self.note_beside()

    def make_ready(self, *, create: bool) -> None:
        """Remove the WAL of a replaced file. With ``create``, create a missing file with mode 0600.

        SQLite gives the WAL the same mode. Raises StoreError.
        """
        self._remove_old_wal()
        if create:
            try:
                make_file(self._path)
            except OSError as error:
                reason = f"The SQLite file {self._path} can't be opened or made: {error.strerror}"
                raise StoreError(reason) from error

    def forget(self) -> None:
        """Log that the file was deleted or replaced, and forget it."""
        current = _identify(str(self._path))
        if self._opened is not None and self._opened not in self.known.lost:
            self.known.lost.add(self._opened)
            what = "deleted" if current is None else "replaced by another file"
            log.error("The SQLite file %s was %s: its jobs are gone, and it is opened anew", self._path, what)
        self._opened = None

    def _remove_old_wal(self) -> None:
        """Remove the WAL of a replaced file, because SQLite would apply it to the new file."""
        known = self.known
        if known.identity is None or _identify(str(self._path)) in (known.identity, _NO_FILE):
            return
        with contextlib.suppress(OSError), _lock_folder(self._path.parent):  # the folder may be gone too
            for suffix, identity in known.beside.items():
                if _identify(f"{self._path}{suffix}") == identity:
                    os.unlink(f"{self._path}{suffix}")


def _identify(path: str) -> _Identity | None:
    """Return device and inode of the file, None if it is missing, or ``_NO_FILE`` if it is no file or not known."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # no permission, or a disk or network file system that is unreachable
        return _NO_FILE
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else _NO_FILE


@contextlib.contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Let one process at a time look at files and remove them. Locks of the database file itself are SQLite's."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
