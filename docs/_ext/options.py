"""The directives ``options``, every option of BackJob from the fields of Config and what is written beneath them, and
``forwarded``, the headers that go along with a job by default.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from backjob import Config


class Options(SphinxDirective):
    """One ``confval`` an option, so that pages can link to it. It stands where reStructuredText does."""

    def run(self) -> list[nodes.Node]:
        module = inspect.getmodule(Config)
        self.env.note_dependency(str(inspect.getsourcefile(Config)))
        docs = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
        lines = []
        for field in dataclasses.fields(Config):
            if (Config.__name__, field.name) not in docs:
                raise self.error(f"the option {field.name} has no docstring")
            lines += [f".. confval:: {field.name}", *(f"   {each}" for each in _tell_field(field)), ""]
            lines += [f"   {line}".rstrip() for line in docs[Config.__name__, field.name]]
            lines += ["   In text settings: the dotted name of the object, too.", ""] * field.metadata["is_dotted"]
        node = nodes.container()
        self.state.nested_parse(StringList(lines, source=f"options of {module.__name__}"), 0, node)
        return node.children


def _tell_field(field: dataclasses.Field[Any]) -> list[str]:
    # An option that takes objects of other packages is Any to the type checker; its docstring says what it takes.
    kinds = [] if field.type == "Any" else [f":type: ``{field.type}``"]
    return [*kinds, f":default: ``{show_default(field)}``"]


def show_default(field: dataclasses.Field[Any]) -> str:
    """The default of an option as one writes it."""
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
    return f'"{value}"' if isinstance(value, str) else repr(value).replace("'", '"')


class Forwarded(SphinxDirective):
    """The headers of ``forward_headers``, a list."""

    def run(self) -> list[nodes.Node]:
        names = Config().forward_headers
        items = [nodes.list_item("", nodes.paragraph("", "", nodes.literal(text=name))) for name in names]
        return [nodes.bullet_list("", *items)]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("options", Options)
    app.add_directive("forwarded", Forwarded)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
