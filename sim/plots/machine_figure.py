"""A figure of one machine at a fixed scale: title and notes above, the drawing below, room for a legend around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from sim.plots.drawing import Drawing
from sim.plots.style import SMALL, TITLE, figure_width, new_figure, points, shared_style, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_SCALE = 1.3
"""Inches between neighbours, at most."""
_MOST_HEIGHT_IN = 6.0
_EDGE_IN, _TOP_IN, _LINE_EM = 0.15, 0.12, 1.45
"""Distance of text from the left and the upper edge, and height of a line of text."""


class Room(Struct, frozen=True):
    """Room that a figure has around its drawing, inches."""

    right: float = 0.0
    below: float = 0.2
    least_height: float = 0.0
    """Least height of the drawing."""


def draw_machine(
    drawing: Drawing, title: str, notes: Sequence[str], needed_in: float, room: Room
) -> tuple[Figure, float]:
    """Draws a machine, its title, and notes below the title; returns the figure and the drawing's height, inches.

    Args:
        needed_in: width of the figure, where no page sets it.
    """
    width_in = figure_width(needed_in)
    (left, bottom), (right, top) = drawing.corners()
    scale = min(_MOST_SCALE, (width_in - room.right) / (right - left), _MOST_HEIGHT_IN / (top - bottom))
    numbered = drawing.numbered if any(node.half_width is None for node in drawing.list_named(scale)) else ()
    unnamed = ["names of chips or switches that have no room are left out"] if drawing.lacks_names(scale) else []
    name, below = (
        wrap(title, width_in - 2 * _EDGE_IN, points(TITLE), is_bold=True),
        [*notes, *numbered, *drawing.shown],
    )
    text = "\n".join(wrap(line, width_in - 2 * _EDGE_IN, points(SMALL)) for line in [*below, *unnamed])
    heights = [
        _LINE_EM * size / 72 * (1 + lines.count("\n")) for size, lines in ((points(TITLE), name), (points(SMALL), text))
    ]
    body_in = max(scale * (top - bottom), room.least_height)
    height_in = _TOP_IN + sum(heights) + body_in + room.below
    made = new_figure(needed_in, height_in)
    made.set_layout_engine("none")  # one drawing at a fixed scale: every part has its place
    with shared_style():
        wide = scale * (right - left) / width_in
        middle = (width_in - room.right) / width_in / 2
        axes = made.add_axes((middle - wide / 2, room.below / height_in, wide, body_in / height_in))
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        drawing.paint(axes, scale)
        edge, y = _EDGE_IN / width_in, 1 - _TOP_IN / height_in
        made.text(edge, y, name, fontsize=points(TITLE), fontweight="bold", va="top")
        y -= heights[0] / height_in
        made.text(edge, y, text, fontsize=points(SMALL), linespacing=_LINE_EM - 0.05, va="top")
    return made, body_in
