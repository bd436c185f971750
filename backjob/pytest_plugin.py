"""A plugin for pytest: the fixture ``backjob``, to wait for jobs and ask how they went, as testing.py has it.

A test suite takes it in by ``pytest_plugins = ["backjob.pytest_plugin"]`` in its first conftest.py. No entry point does
so by itself, for every other suite on the machine would load backjob then.
"""

from __future__ import annotations

import pytest

from . import BackJob
from .testing import JobTester


@pytest.fixture
def backjob_application() -> BackJob:
    """The application whose jobs are tested. A test suite has a fixture of this name with its own."""
    raise pytest.UsageError(
        "Write a fixture backjob_application that returns your BackJob, such as "
        "BackJob(app, launcher=Inline(), database=f'sqlite:///{tmp_path}/jobs.sqlite3')"
    )


@pytest.fixture
def backjob(backjob_application: BackJob) -> JobTester:
    """The jobs of ``backjob_application``, as a test sees them."""
    return JobTester(backjob_application)
