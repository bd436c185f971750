"""Every recipe of docs/deployments.md is run by a test in tests/live, which reads it from there."""

from __future__ import annotations

import ast

import pytest
from support import TESTS
from support.recipes import read_blocks, recipe

LIVE = TESTS / "live"


def read_calls() -> set[tuple[str, str, int | None]]:
    """What the tests ask recipe() for: section, language, number; None for a number that is a test's parameter."""
    calls = set()
    for path in LIVE.glob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "recipe":
                section, language = node.args[:2]
                number = next((each.value for each in node.keywords if each.arg == "number"), ast.Constant(1))
                calls.add((names[section.id], language.value, getattr(number, "value", None)))
    return calls


BLOCKS = [
    (section, language, number)
    for (section, language), blocks in read_blocks().items()
    for number in range(1, len(blocks) + 1)
]


@pytest.mark.parametrize(("section", "language", "number"), BLOCKS)
def test_recipe_is_run(section: str, language: str, number: int) -> None:
    calls = read_calls()
    assert (section, language, number) in calls or (section, language, None) in calls


def test_there_are_recipes() -> None:
    assert len(BLOCKS) > 10
    assert {language for _, language, _ in BLOCKS} == {"python", "console", "nginx"}


def test_what_is_changed_must_be_in_a_recipe() -> None:
    section, language, _ = BLOCKS[0]
    with pytest.raises(AssertionError, match="is not in the recipe"):
        recipe(section, language, {"what is nowhere": "anything"})
