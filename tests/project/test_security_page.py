"""The threat model of docs/security.md names tests that exist, and SECURITY.md leads to it."""

from __future__ import annotations

import re

from support import TESTS

ROOT = TESTS.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("## What somebody can do\n")[2].partition("\n## ")[0]
ROWS = [line.strip("| ").split(" | ") for line in TABLE.splitlines() if line.startswith("| ") and "| who |" not in line]


def test_each_row_names_tests_that_exist() -> None:
    assert len(ROWS) > 10
    for who, *_, shown_by in ROWS:
        names = re.findall(r"`([^`]+)`", shown_by)
        assert names, f"nothing shows what {who} can't do"
        for name in names:
            file, _, test = name.partition("::")
            (path,) = TESTS.glob(f"**/{file}")
            assert re.search(rf"^def {test}\(", path.read_text(encoding="utf-8"), re.MULTILINE), name


def test_the_policy_leads_to_the_page() -> None:
    policy = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    headings = {re.sub(r"[^\w -]", "", line[3:]).lower().replace(" ", "-") for line in re.findall("^## .*", PAGE, re.M)}
    links = re.findall(r"\]\((\S+?)(?:#(\S+))?\)", policy)
    assert [name for name, _ in links if not (ROOT / name).exists()] == []
    assert {part for name, part in links if part} <= headings
