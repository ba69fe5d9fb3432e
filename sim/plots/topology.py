"""Drawing of a machine: a torus as a grid, a switch or a graph as nodes and links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.plots.machine import drawing_of
from sim.plots.style import new_figure, shared_style
from sim.topology.graph import Topology
from sim.topology.metrics import bisection, hops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_IN, HEIGHT_IN = 7.0, 6.0
"""Width of the figure and most height of the drawing in it."""


def draw(topology: Topology) -> Figure:
    """Draws the machine.

    Every line is a pair of links, one in each direction. A machine too large to show whole is shown in part, and the
    figure says which part.
    """
    drawing = drawing_of(topology)
    (left, bottom), (right, top) = drawing.corners()
    scale = min(1.3, WIDTH_IN / (right - left), HEIGHT_IN / (top - bottom))
    rows = -(-len(drawing.legend) // drawing.legend_columns)
    notes = [*drawing.notes, *drawing.numbered, *drawing.shown]
    body, header, footer = scale * (top - bottom), 0.65 + 0.2 * len(notes), 0.15 + 0.2 * rows
    height = header + body + footer
    made = new_figure(WIDTH_IN, height)
    made.set_layout_engine("none")  # one drawing at a fixed scale: every part has its place
    with shared_style():
        width = scale * (right - left) / WIDTH_IN
        axes = made.add_axes(((1 - width) / 2, footer / height, width, body / height))
        axes.set_axis_off()
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        drawing.paint(axes, scale)
        edge = 0.2 / WIDTH_IN
        made.text(edge, 1 - 0.15 / height, topology.name, fontsize=11, fontweight="bold", va="top")
        summary = "\n".join([_summary(topology), *notes])
        made.text(edge, 1 - 0.4 / height, summary, fontsize=8.5, linespacing=1.5, va="top")
        made.legend(
            handles=drawing.handles(),
            ncols=drawing.legend_columns,
            loc="lower left",
            bbox_to_anchor=(edge, 0.05 / height),
            borderaxespad=0,
        )
    return made


def _summary(topology: Topology) -> str:
    cut = bisection(topology)
    paths = hops(topology)
    bound = "" if cut.exact else "at most "
    return (
        f"{topology.chips} chips; hops {paths.average:.4g} on average, at most {paths.diameter}; "
        f"bisection {bound}{cut.links} links, {cut.bandwidth / 1e9:,.0f} GB/s each way"
    )
