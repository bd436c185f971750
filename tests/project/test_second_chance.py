"""CI gives live tests that fail a second chance, and no other test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import TESTS
from support.second_chance import VARIABLE

SUITE = """
import pathlib, pytest

mark, leaked = map(pathlib.Path(__file__).with_name, ["was-here", "has-leaked"])

@pytest.mark.live
def test_flaky():
    print("a try")
    was_here = mark.exists()
    mark.touch()
    assert was_here, "the race was lost"

@pytest.fixture
def leak():
    yield
    was_here = leaked.exists()
    leaked.touch()
    assert was_here, "left open"

@pytest.mark.live
def test_leaks_once(leak):
    pass

@pytest.mark.live
def test_broken():
    assert False, "as before"

def test_unit():
    assert False, "not live"

def test_passes():
    pass
"""


@pytest.mark.parametrize(
    ("tests", "options", "code", "printed"),
    [
        (
            "flaky or leaks_once or passes",
            ["-n2"],
            0,
            ["== flaky", "test_suite.py::test_flaky", "the race was lost", "a try", "1 passed", "left open"],
        ),
        ("flaky or broken", [], 1, ["== failed twice", "test_suite.py::test_broken", "as before"]),
        ("flaky or unit", ["-n2"], 1, ["no second chance", "test_suite.py::test_unit"]),
    ],
    ids=["flaky", "broken", "unit"],
)
def test_second_chance(tmp_path: Path, tests: str, options: list[str], code: int, printed: list[str]) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text("from support.second_chance import pytest_runtest_logreport\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = live\n")
    failures = tmp_path / "failures"
    environ = {**os.environ, "PYTHONPATH": str(TESTS), VARIABLE: str(failures)}
    environ.pop("PYTEST_XDIST_WORKER", None)  # this test's own suite may be run by one
    pytest_command = [sys.executable, "-m", "pytest", "-q", *options, "-k", tests]
    first = subprocess.run(pytest_command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert first.returncode == 1, first.stdout + first.stderr
    (tmp_path / "conftest.py").write_text("")
    command = [sys.executable, "-m", "support.second_chance", str(failures)]
    second = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert second.returncode == code, second.stdout + second.stderr
    for text in printed:
        assert text in second.stdout


def test_suite_that_could_not_begin(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "support.second_chance", str(tmp_path / "failures")]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "without a failed test" in done.stdout
