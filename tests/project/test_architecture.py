"""The page on the architecture is true to the imports."""

from __future__ import annotations

import re
from pathlib import Path

from support import DOCS, ROOT

PACKAGE = ROOT / "backjob"
PAGE = (DOCS / "architecture.md").read_text(encoding="utf-8")
ROWS = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in re.findall(r"^\| `.*", PAGE, re.MULTILINE)]
LEVEL = {name: level for level, names in enumerate(ROWS) for name in names}
PARTS = [
    re.findall(r"^   ( *)\* `([\w.]+)`", part, re.MULTILINE)
    for part in re.split(r"^\d\. ", PAGE.partition("## Three walks")[2], flags=re.MULTILINE)[1:]
]


def find_imports(path: Path) -> set[str]:
    """Return the packages and modules of the top level that a module imports."""
    dots = r"(?:backjob)?\." if path.parent == PACKAGE else r"backjob\."
    return set(re.findall(rf"^from {dots}(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)) & LEVEL.keys()


def find_all_imports(name: str) -> set[str]:
    """Return the packages and modules of the top level that one of them imports, also through others."""
    found, new = {name}, {name}
    while new:
        paths = [path for each in new for path in (*(PACKAGE / each).rglob("*.py"), PACKAGE / f"{each}.py")]
        new = set().union(*(find_imports(path) for path in paths if path.exists())) - found
        found |= new
    return found


def test_the_table_has_each_package_and_imports_point_down() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(LEVEL) == there - {"__init__", "__main__", "__pycache__"}
    for path in PACKAGE.rglob("*.py"):
        package = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if package in LEVEL:
            assert [name for name in find_imports(path) if LEVEL[name] < LEVEL[package]] == [], path


def test_each_step_of_a_walk_leads_to_the_next_and_none_turns_back() -> None:
    assert len(PARTS) == 7
    for part in PARTS:
        above = ""
        for indent, module in part:
            package = module.partition(".")[0]
            assert (PACKAGE / f"{module.replace('.', '/')}.py").is_file(), module
            assert not above or package in find_all_imports(above.partition(".")[0]), (above, module)
            if not indent:
                assert not above or LEVEL[package] >= LEVEL[above.partition(".")[0]], (above, module)
                above = module
