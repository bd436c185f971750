"""A temporary directory of each run's own. What is left in it when the run ends is a fault of a test.

Programs that the tests start find it in $TMPDIR. Files of ``tmp_path`` are elsewhere, because pytest keeps those of
failed tests.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_NOT_OURS = (
    "pytest-of-*",  # of a pytest that a test starts in a suite of somebody else
    ".com.google.Chrome*",  # of the browser and its driver
    ".org.chromium.*",
    "org.chromium.*",
    "playwright*",
    "com.google.Chrome*",
)
_own: list[Path] = []
"""The directory, in the process that has made it: the one in front of pytest-xdist's workers."""


def begin() -> None:
    """Make it, unless this process is a worker of pytest-xdist, which has it already."""
    if "PYTEST_XDIST_WORKER" in os.environ or _own:
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    # A short name: paths of unix sockets have to fit.
    folder = Path(tempfile.mkdtemp(prefix="bj-"))
    folder.chmod(0o1777)  # servers of other users write there too
    _own.append(folder)
    _use(str(folder))


def end() -> list[str]:
    """Remove it, and return what was in it."""
    left: list[str] = []
    while _own:
        folder = _own.pop()
        left += [path.name for path in folder.iterdir() if not any(map(path.match, _NOT_OURS))]
        shutil.rmtree(folder, ignore_errors=True)
        _use(str(folder.parent))
    return sorted(left)


def _use(folder: str) -> None:
    os.environ["TMPDIR"] = tempfile.tempdir = folder
