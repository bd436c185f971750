"""Run live tests that have failed once more, each alone: ``python -m support.second_chance FILE``, as ``.ci/run`` does.

A live test depends on real servers, and on a busy machine one of thousands may lose a race. With $TEST_FAILURES set,
the suite writes its failures to that file. This program runs the live ones again and prints the flaky ones, with both
outputs: each needs an explanation. It fails if a test fails twice, or if any test that is not live has failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

VARIABLE = "TEST_FAILURES"
"""The environment variable with the path of the file."""
_LIVE = "live"
_PASSED = 0


@dataclass(frozen=True)
class Failure:
    """A failed phase (setup, call or teardown) of a test."""

    test: str
    """The test's node id."""
    is_live: bool
    output: str


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record a failure: a hook for conftest.py. With pytest-xdist the main process alone records."""
    path = os.environ.get(VARIABLE)
    if not path or "PYTEST_XDIST_WORKER" in os.environ or not report.failed:
        return
    output = [report.longreprtext, *(f"--- {title}\n{text}" for title, text in report.sections)]
    failure = Failure(report.nodeid, _LIVE in report.keywords, "\n".join(output))
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(failure)) + "\n")


def read_failures(path: Path) -> dict[str, list[Failure]]:
    """Return the recorded failures of each test. The file does not exist if there were none."""
    failures: dict[str, list[Failure]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        failure = Failure(**json.loads(line))
        failures.setdefault(failure.test, []).append(failure)
    return failures


def run_again(test: str) -> tuple[bool, str]:
    """Run one test alone. Return whether it passed, and its output."""
    environ = {name: value for name, value in os.environ.items() if name not in (VARIABLE, "PYTHONPATH")}
    environ["PYTHONDEVMODE"] = "1"  # as in make test
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA", test]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    return done.returncode == _PASSED, done.stdout + done.stderr


def main(path: Path) -> int:
    """Give each failed live test its second chance. Return the exit code: 0 if all of them have passed now."""
    failures = read_failures(path)
    if not failures:
        print("== The suite has failed without a failed test: it was interrupted, or could not begin")
        return 1
    final = [test for test, phases in failures.items() if not all(phase.is_live for phase in phases)]
    if final:
        print("== failed, and not live: no second chance", *final, sep="\n")
        return 1
    reports = []
    for test, phases in failures.items():
        has_passed, output = run_again(test)
        if not has_passed:
            print(f"== failed twice\n{test}\n{output}")
            return 1
        first = "\n".join(phase.output for phase in phases)
        reports.append(f"{test}\n--- the first run failed:\n{first}\n--- alone it passed:\n{output}")
    print("== flaky", *reports, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
