"""Drawing of a machine: a torus as a grid, a switch or a graph as nodes and links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.plots.machine import drawing_of
from sim.plots.machine_figure import Room, draw_machine
from sim.plots.style import figure_width, legend_columns, points, shared_style
from sim.topology.graph import Topology
from sim.topology.metrics import bisection, hops

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH_IN, _LEGEND_POINTS, _LINE_EM = 7.0, 8.0, 1.75


def draw(topology: Topology) -> Figure:
    """Draws the machine.

    Every line is a pair of links, one in each direction. A machine too large to show whole is shown in part, and the
    figure says which part.
    """
    drawing = drawing_of(topology)
    with shared_style():
        handles = drawing.handles()
        fitting = legend_columns([str(handle.get_label()) for handle in handles], figure_width(_WIDTH_IN))
        columns = min(drawing.legend_columns, fitting)
        line_in = _LINE_EM * points(_LEGEND_POINTS) / 72
        room = Room(below=0.15 + line_in * -(-len(handles) // columns))
        made, _ = draw_machine(drawing, topology.name, [_summary(topology), *drawing.notes], _WIDTH_IN, room)
        made.legend(handles=handles, ncols=columns, loc="lower left", bbox_to_anchor=(0.02, 0.0), borderaxespad=0.3)
    return made


def _summary(topology: Topology) -> str:
    cut = bisection(topology)
    paths = hops(topology)
    bound = "" if cut.exact else "at most "
    return (
        f"{topology.chips} chips; hops {paths.average:.4g} on average, at most {paths.diameter}; "
        f"bisection {bound}{cut.links} links, {cut.bandwidth / 1e9:,.0f} GB/s each way"
    )
