"""The directive ``columns``: a table of the database, from the one that the program makes; the meanings are the page's.

A column without a meaning is an error, and so is a meaning without a column.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql

from backjob.storage.sql.schema import build_table

_ENTRY = re.compile(r"(\w+): (.+)")


class Columns(SphinxDirective):
    """``columns:: NAME`` with a line ``column: meaning`` for each; a line that is indented goes on with the last."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        table = find_table(self.arguments[0])
        meanings = self._read_meanings()
        wrong = set(meanings) ^ set(table.columns.keys())
        if wrong:
            raise self.error(f"columns without a meaning, or meanings without a column: {', '.join(sorted(wrong))}")
        titles = "column", "type", "meaning"
        head = nodes.row("", *(nodes.entry("", nodes.paragraph(text=title)) for title in titles))
        body = [self._make_row(column, meanings[column.name]) for column in table.columns]
        group = nodes.tgroup(
            "",
            *(nodes.colspec(colwidth=width) for width in (20, 25, 55)),
            nodes.thead("", head),
            nodes.tbody("", *body),
            cols=len(titles),
        )
        return [nodes.table("", nodes.title(text=table.name), group, classes=["columns"])]

    def _read_meanings(self) -> dict[str, str]:
        meanings: dict[str, str] = {}
        for line in self.content:
            found = _ENTRY.fullmatch(line)
            if found:
                name = found[1]
                meanings[name] = found[2]
            elif line.strip():
                if not line.startswith(" ") or not meanings:
                    raise self.error(f"no column: {line}")
                meanings[name] += " " + line.strip()
        return meanings

    def _make_row(self, column: Column[Any], meaning: str) -> nodes.row:
        inline, messages = self.parse_inline(meaning)
        kind = nodes.paragraph("", "", nodes.literal(text=show_type(column)))
        name = nodes.paragraph("", "", nodes.literal(text=column.name))
        cells = name, kind, nodes.paragraph("", "", *inline, *messages)
        return nodes.row("", *(nodes.entry("", cell) for cell in cells))


def find_table(name: str) -> Table:
    """One of the tables that the program makes under its default name."""
    return build_table("background_job").metadata.tables[name]


def show_type(column: Column[Any]) -> str:
    """The type on PostgreSQL, whose names say most, and whether the column may be empty."""
    kind = column.type.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    return f"{kind}{' or NULL' if column.nullable else ''}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("columns", Columns)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
