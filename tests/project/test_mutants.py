"""The mutants fit the code: which of them the tests notice is shown by ``make mutants``, a share of them a day."""

from __future__ import annotations

import runpy

from support import ROOT

MUTANTS = runpy.run_path(str(ROOT / "tests/mutants/patches.py"))["MUTANTS"]


def test_each_patch_fits_in_one_place() -> None:
    places = {each.name: (ROOT / each.file).read_text(encoding="utf-8").count(each.before) for each in MUTANTS}
    assert {name: count for name, count in places.items() if count != 1} == {}
    assert len(places) == len(MUTANTS)


def test_each_has_tests() -> None:
    for each in MUTANTS:
        assert each.tests
        assert all((ROOT / test.partition("::")[0]).exists() for test in each.tests), each.name
