"""Files that are made once, atomically, and readable by their owner only. Knows nothing of their content."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

_MODE = 0o600


def make_file(path: Path, text: str = "") -> None:
    """Make this file, mode 0600, unless it exists. Raises OSError.

    It is written under a temporary name and then linked, so that other processes see no file or the whole one. A file
    that exists is not opened, because closing it would release all locks that this process has on it.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{secrets.token_urlsafe(9)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def read_private_file(path: Path) -> str:
    """Return the text of a file that only this user, or root, can have written and can read.

    Raises OSError. The checks are made on the open file, so that it can't be replaced in between.
    """
    try:
        # O_NONBLOCK, because opening a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError("it is a symbolic link: put the file itself there") from None
        raise
    try:
        if fault := _find_fault(os.fstat(descriptor), path):
            raise OSError(fault)
        with os.fdopen(descriptor, closefd=False, encoding="utf-8-sig") as file:
            return file.read()
    finally:
        os.close(descriptor)


def _find_fault(found: os.stat_result, path: Path) -> str:
    mode, user = stat.S_IMODE(found.st_mode), os.geteuid()
    if not stat.S_ISREG(found.st_mode):
        return "it is no regular file"
    if found.st_uid not in (0, user):
        advice = f"chown {user} {path}" if user else "run this as that user"
        return f"it belongs to user {found.st_uid}, and not to this one or root: {advice}"
    if mode & 0o077:
        return f"its mode is {mode:04o}, and others may read or change it: chmod 600 {path}"
    return ""
