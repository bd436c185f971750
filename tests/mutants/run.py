"""Break the package on purpose, one named patch at a time, and see that the suite turns red: ``make mutants``.

Each mutant is applied to a copy of the tree, so that nothing is left behind. One that survives, whose patch does not
fit the code any more, or whose tests are not green without it, is an error: exit code 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

from patches import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("backjob", "docs", "examples", "tests", "setup.cfg", "pyproject.toml")
TESTS_FAILED = 1  # pytest's exit code
NO_END = -1
AT_ONCE = int(os.environ.get("MUTANTS_AT_ONCE", "3"))
SHARES = int(os.environ.get("MUTANTS_SHARES", "1"))
"""In so many days all of them are tried."""
IS_TESTED = bool(os.environ.get("MUTANTS_TESTED"))
"""The whole suite was green a moment ago: that it is in a copy too is shown by the tests of one mutant."""
LONGEST = 300


def copy_tree(folder: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        else:
            shutil.copy(source, folder / name)
    services = ROOT / ".services" / "urls"
    if services.exists():
        (folder / ".services").mkdir()
        shutil.copy(services, folder / ".services")


def run_tests(folder: Path, tests: tuple[str, ...], *options: str, longest: float = LONGEST) -> tuple[int, str]:
    # The copy comes before any installed backjob, in the tests' own processes too.
    environ = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDEVMODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    command += ["--hypothesis-profile=unshrunk", *options, *tests]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=longest, check=False
        )
    except subprocess.TimeoutExpired:
        return NO_END, f"no end within {longest} s"
    return done.returncode, done.stdout + done.stderr


def judge(mutant: Mutant) -> str | None:
    """None when the tests notice the mutant, else what is wrong."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        copy_tree(folder)
        file = folder / mutant.file
        text = file.read_text()
        if text.count(mutant.before) != 1:
            return f"its patch fits {text.count(mutant.before)} places of {mutant.file}, not one"
        file.write_text(text.replace(mutant.before, mutant.after))
        code, output = run_tests(folder, mutant.tests)
        if code == TESTS_FAILED:
            return None
        return f"it survives: pytest ended with {code}\n{output[-2000:]}"


def choose(names: list[str]) -> list[Mutant]:
    """Those of these names, or all; of all only the share of this day, where there are more than a run has time for."""
    if names:
        return [mutant for mutant in MUTANTS if mutant.name in names]
    return list(MUTANTS[datetime.now(timezone.utc).toordinal() % SHARES :: SHARES])


def main(names: list[str]) -> int:
    mutants = choose(names)
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy_tree(Path(name))
        shown = mutants[:1] if IS_TESTED else mutants
        tests = tuple(sorted({test for mutant in shown for test in mutant.tests}))
        code, output = run_tests(Path(name), tests, f"--numprocesses={AT_ONCE}", "--dist=loadfile", longest=3 * LONGEST)
        if code:
            print(f"Without any mutant the tests are not green:\n{output[-4000:]}")
            return 1
    faults = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for mutant, fault in zip(mutants, pool.map(judge, mutants), strict=True):
            print(
                f"{'killed ' if fault is None else 'ALIVE  '} {mutant.name}" + (f": {fault}" if fault else ""),
                flush=True,
            )
            faults += fault is not None
    print(f"{len(mutants) - faults} of {len(mutants)} mutants killed")
    return 1 if faults or not mutants else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
