"""How the docs are built: ``make docs``. Nothing is fetched, neither here nor by who reads them."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

from backjob import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "backjob"
author = project_copyright = "The backjob authors"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "life_cycle", "options", "schema"]
exclude_patterns = ["_build"]

myst_heading_anchors = 4
# The drawing of the states: a code-hosting site makes it from the text, we make it from the table of moves.
myst_fence_as_directive = {"mermaid"}

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 140
nitpick_ignore_regex = [
    # What is not ours is explained elsewhere, and nothing is fetched to link to it.
    ("py:.*", r"(collections|datetime|dogpile|enum|logging|sqlalchemy|types|typing|webob)\..*"),
    ("py:class", r"(BaseRequest|backjob\.messages\.Part|backjob\.client\.foreground\.Row|datetime)"),
]

html_theme = "furo"
html_title = f"backjob {release}"
html_static_path = ["_static"]
html_css_files = ["reference.css"]
pygments_dark_style = "monokai"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}


def list_decisions(app: Sphinx, docname: str, source: list[str]) -> None:
    """The list of decisions is read on a code-hosting site too, where a toctree would be in the way."""
    if docname == "decisions/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"


def setup(app: Sphinx) -> None:
    app.connect("source-read", list_decisions)
