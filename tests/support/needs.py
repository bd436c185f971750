"""What a test needs of the machine. What is missing skips the test; on CI, which has all of it, it fails the test."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest

_PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])


def miss(reason: str) -> NoReturn:
    """Something is missing here: say what, and what installs it."""
    if os.environ.get("BACKJOB_CI") and not os.environ.get("BACKJOB_UNIT"):
        pytest.fail(f"on CI nothing may be missing: {reason}")
    pytest.skip(reason)


def skip_servers(name: str) -> None:
    """Skip the test if servers are not wanted: ``make test-unit`` sets $BACKJOB_UNIT."""
    if os.environ.get("BACKJOB_UNIT"):
        pytest.skip(f"unit tests do without {name}")


def program(name: str) -> str:
    """The path of a program, also of one that only an administrator has in the PATH."""
    skip_servers(name)
    return shutil.which(name, path=_PLACES) or miss(f"there is no {name}: tests/machine/install brings it")


def script(name: str) -> str:
    """The path of a program that a Python package has brought into this environment."""
    path = Path(sys.executable).with_name(name)
    return str(path) if path.exists() else miss(f"this environment has no {name}: tests/machine/install brings it")


def package(name: str) -> None:
    """A Python package that can be imported in this environment."""
    if importlib.util.find_spec(name) is None:
        miss(f"the package {name} is not installed: tests/machine/install brings it")
