"""The README and the pages of docs/ as tests read them: every code block, with where it stands."""

from __future__ import annotations

from dataclasses import dataclass

from markdown_it import MarkdownIt

from . import ROOT

DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Block:
    """A code block. ``line`` is its first line; ``follows`` is the language of the block before it in its section."""

    page: str
    line: int
    language: str
    text: str
    follows: str = ""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.page}:{self.line}"


def find_pages() -> list[str]:
    """The README, and all that the docs are made from, as paths from the root."""
    pages = [path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts]
    return [str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *pages)]


def read_blocks(page: str) -> list[Block]:
    """All blocks of a page. What is indented only has no language, and directives are the docs' own: ``{toctree}``."""
    return parse_blocks((ROOT / page).read_text(encoding="utf-8"), page)


def parse_blocks(text: str, page: str) -> list[Block]:
    """The blocks of a text."""
    blocks: list[Block] = []
    follows = ""
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "heading_open":
            follows = ""
        if token.type not in ("fence", "code_block"):
            continue
        language = token.info.strip()
        if not language.startswith("{"):
            first = (token.map or [0])[0] + (2 if token.type == "fence" else 1)
            blocks.append(Block(page, first, language, token.content, follows))
            follows = language
    return blocks
