"""A plugin for pytest with the fixture ``backjob``, which waits for jobs and checks their outcomes.

A test suite loads it by ``pytest_plugins = ["backjob.pytest_plugin"]`` in its top conftest.py. There is no entry point,
because then every other suite on the machine would load backjob.
"""

from __future__ import annotations

import pytest

from . import BackJob
from .testing import JobTester


@pytest.fixture
def backjob_application() -> BackJob:
    """Raise an error: a test suite defines a fixture of this name, which returns its application."""
    raise pytest.UsageError(
        "Write a fixture backjob_application that returns your BackJob, such as "
        "BackJob(app, launcher=Inline(), database=f'sqlite:///{tmp_path}/jobs.sqlite3')"
    )


@pytest.fixture
def backjob(backjob_application: BackJob) -> JobTester:
    """Return a JobTester for ``backjob_application``."""
    return JobTester(backjob_application)
