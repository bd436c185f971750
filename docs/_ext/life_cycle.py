"""The directive ``mermaid``, for one drawing: the states of a job and the moves between them, as SVG.

The page holds the drawing as text, for sites that draw it themselves. Here it is drawn from the very table that the
program goes by; a text that says something else is an error. No script is needed to see it.
"""

from __future__ import annotations

import html
import math
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from backjob import Status
from backjob.model.job import FINAL, Move
from backjob.model.transitions import draw_diagram

_PLACES = {
    Status.STARTED: (120, 140),
    Status.INPROGRESS: (400, 140),
    Status.COMPLETED: (660, 140),
    Status.FAILED: (260, 30),
    Status.CANCELLED: (260, 250),
}
_SIZE = 740, 280
_BOX = 116, 36
_APART = 11
"""Of two arrows between the same two boxes."""

_STYLE = """
.life-cycle { display: block; width: 100%; max-width: 46rem; margin: 1rem auto }
.life-cycle rect { fill: var(--color-background-secondary, #f8f9fb); stroke: currentColor }
.life-cycle .final { stroke-width: 2.5 }
.life-cycle path { stroke: currentColor; fill: none }
.life-cycle marker path, .life-cycle circle { fill: currentColor; stroke: none }
.life-cycle text { fill: currentColor; font: 13px sans-serif; text-anchor: middle; dominant-baseline: central }
.life-cycle .move { paint-order: stroke; stroke: var(--color-background-primary, #fff); stroke-width: 6px }
"""


_HEAD = (
    '<marker id="head" viewBox="0 0 10 10" refX="10" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0L10 5L0 10z"/></marker>'
)


class LifeCycle(SphinxDirective):
    """The drawing of the states."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        text = "\n".join(self.content)
        if text != draw_diagram():
            raise self.error("this is not what backjob.model.transitions.draw_diagram() returns: copy that here")
        described = nodes.literal_block(text, text, language="text")
        return [OnlyDrawn("", described, svg=draw_svg())]


class OnlyDrawn(nodes.Element):
    """A drawing for HTML; its children are what others get."""


def draw_svg() -> str:
    """The states and moves, from the table."""
    arrows = [
        _draw_arrow(source, move.target, move.name.lower(), has_return=_is_move(move.target, source))
        for move in Move
        for source in sorted(move.sources)
    ]
    told = ", ".join(f"{s.name} to {m.target.name} ({m.name.lower()})" for m in Move for s in sorted(m.sources))
    width, height = _SIZE
    x, y = _PLACES[Status.STARTED]
    begin = f'<circle cx="20" cy="{y}" r="7"/>{_draw_line(20, y, x - _BOX[0] / 2, y)}'
    return "\n".join(
        [
            f'<svg class="life-cycle" viewBox="0 0 {width} {height}" role="img" xmlns="http://www.w3.org/2000/svg">',
            f"<title>{html.escape(told)}</title>",
            f"<style>{_STYLE}</style>",
            _HEAD,
            begin,
            *arrows,
            *(_draw_box(status) for status in Status),
            "</svg>",
        ]
    )


def _is_move(source: Status, target: Status) -> bool:
    return any(source in move.sources and move.target is target for move in Move)


def _draw_box(status: Status) -> str:
    (x, y), (width, height) = _PLACES[status], _BOX
    kind = ' class="final"' if status in FINAL else ""
    box = f'<rect{kind} x="{x - width / 2}" y="{y - height / 2}" width="{width}" height="{height}" rx="6"/>'
    return f'{box}<text x="{x}" y="{y}">{status.name}</text>'


def _draw_arrow(source: Status, target: Status, name: str, *, has_return: bool) -> str:
    (x1, y1), (x2, y2) = _PLACES[source], _PLACES[target]
    if has_return:  # two arrows side by side, each to the right of its own way
        length = math.hypot(x2 - x1, y2 - y1)
        aside_x, aside_y = (y2 - y1) / length * _APART, -(x2 - x1) / length * _APART
        x1, y1, x2, y2 = x1 + aside_x, y1 + aside_y, x2 + aside_x, y2 + aside_y
    begin, end = _leave_box(x1, y1, x2, y2), _leave_box(x2, y2, x1, y1)
    x, y = (begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2
    return f'{_draw_line(*begin, *end)}<text class="move" x="{x:.0f}" y="{y:.0f}">{name}</text>'


def _leave_box(x: float, y: float, to_x: float, to_y: float) -> tuple[float, float]:
    """Where the way from the middle of a box to another point crosses the box's edge."""
    half_width, half_height = _BOX[0] / 2, _BOX[1] / 2
    across, along = abs(to_x - x) / half_width, abs(to_y - y) / half_height
    share = 1 / max(across, along)
    return x + (to_x - x) * share, y + (to_y - y) * share


def _draw_line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.0f} {y1:.0f}L{x2:.0f} {y2:.0f}" marker-end="url(#head)"/>'


def _visit_html(writer: Any, node: OnlyDrawn) -> None:
    writer.body.append(node["svg"])
    raise nodes.SkipNode


def _visit_other(writer: Any, node: OnlyDrawn) -> None:
    """The children are the text."""


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(
        OnlyDrawn,
        html=(_visit_html, None),
        text=(_visit_other, _visit_other),
        man=(_visit_other, _visit_other),
        latex=(_visit_other, _visit_other),
    )
    app.add_directive("mermaid", LifeCycle)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
