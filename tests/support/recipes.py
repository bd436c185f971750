"""The recipes of docs/deployments.md as tests run them: a block of a section, with a test's own addresses in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from support.servers import GTHREAD, Setup

from . import DOCS

DOCUMENT = DOCS / "deployments.md"
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_THEIR_SITE = "from mysite import"
_OUR_SITE = "from fronts import"


def read_blocks() -> dict[tuple[str, str], list[str]]:
    """All blocks, by section and language."""
    _, *parts = _SECTION.split(DOCUMENT.read_text(encoding="utf-8"))
    blocks: dict[tuple[str, str], list[str]] = {}
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        for language, code in _BLOCK.findall(text):
            blocks.setdefault((title, language), []).append(code)
    return blocks


def recipe(section: str, language: str, changes: Mapping[str, str] | None = None, number: int = 1) -> str:
    """A block of a section, by default the first of its language, with these changes: what is changed must be in it."""
    text = read_blocks()[section, language][number - 1]
    for old, new in (changes or {}).items():
        assert old in text, f"{old!r} is not in the recipe"
        text = text.replace(old, new)
    return text


def write_app(directory: Path, text: str, name: str = "deployed") -> str:
    """Write a Python block as a module of the server's. What a server loads: ``deployed:application``."""
    assert _THEIR_SITE in text
    (directory / f"{name}.py").write_text(text.replace(_THEIR_SITE, _OUR_SITE))
    return f"{name}:application"


def read_gunicorn(line: str) -> Setup:
    """A gunicorn command as a set-up, which has places of its own instead of ``--bind``."""
    words = shlex.split(line)[:-1]
    del words[: words.index("gunicorn") + 1]
    at = words.index("--bind")
    options = (*words[:at], *words[at + 2 :])
    workers, threads = (int(_value(options, name)) for name in ("--workers", "--threads"))
    return replace(GTHREAD, name="gunicorn", slots=workers * threads, options=options)


def _value(options: tuple[str, ...], name: str) -> str:
    return options[options.index(name) + 1] if name in options else "1"
