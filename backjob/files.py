"""Files that are made once, whole, and for their owner's eyes only. Knows nothing of what is in them."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path


def make_file(path: Path, text: str = "") -> None:
    """Make this file, mode 0600, unless there is one. Raises OSError.

    Written under a name of its own, then linked: another process sees no file or the whole one, never a part. And one
    that is there is not opened and closed: that would take away all locks that this process has on it.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{secrets.token_urlsafe(9)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
