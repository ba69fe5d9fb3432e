"""A machine with its links in the colour of how busy they were: the two directions of a link side by side.

Colours run from light to dark (viridis, reversed), which also colour-blind readers and grey printers tell apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sim.plots import grid
from sim.plots.colours import LOAD_COLOURS
from sim.plots.drawing import Line
from sim.plots.machine import Load, drawing_of, list_segments, max_utilisation
from sim.plots.style import SMALL, new_figure, shared_style, shorten
from sim.program.trace import Trace
from sim.topology.graph import Topology

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH_IN, _HEIGHT_IN = 7.6, 6.0
_LINE_WIDTH = 2.2


def draw(trace: Trace, topology: Topology, title: str = "") -> Figure:
    """Draws the busy time over step time of every link of the machine."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_hex

    machine, load = topology.unfold(), Load.of(trace, topology)
    drawing = drawing_of(machine)
    most = max(float(load.utilisation.max(initial=0.0)), 1e-9)
    colours, scale_of = colormaps[LOAD_COLOURS], Normalize(0.0, most)
    segments = list(list_segments(drawing))
    shades = colours(scale_of([max_utilisation(load, segment.links) for segment in segments]))
    lines = [
        Line(segment.points, to_hex(shade), segment.dashed, width=_LINE_WIDTH)
        for segment, shade in zip(segments, shades, strict=True)
    ]
    nodes = [replace(node, label="" if machine.chips > grid.NUMBERED_CHIPS else node.label) for node in drawing.nodes]
    drawing = replace(drawing, lines=lines, nodes=nodes, margin=0.5)
    (left, bottom), (right, top) = drawing.corners()
    scale = min(1.3, (_WIDTH_IN - 1.3) / (right - left), _HEIGHT_IN / (top - bottom))
    name, _, below = (title or machine.name).partition("\n")
    notes = [*drawing.numbered, *drawing.shown]
    body, header = max(scale * (top - bottom), 1.6), (1.02 if below else 0.85) + 0.17 * len(notes)
    height = header + body + 0.2
    made = new_figure(_WIDTH_IN, height)
    made.set_layout_engine("none")
    with shared_style():
        axes = made.add_axes((0.0, 0.2 / height, (_WIDTH_IN - 1.2) / _WIDTH_IN, body / height))
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        drawing.paint(axes, scale)
        if load.utilisation.any():
            bar = made.add_axes(
                ((_WIDTH_IN - 1.05) / _WIDTH_IN, 0.35 / height, 0.16 / _WIDTH_IN, (body - 0.3) / height)
            )
            shown = made.colorbar(ScalarMappable(scale_of, colours), cax=bar)
            shown.outline.set_visible(False)
            bar.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}" if not value else _percent(value, most))
            bar.set_ylabel("busy, share of the time")
        edge = 0.2 / _WIDTH_IN
        made.text(edge, 1 - 0.15 / height, name, fontsize=11, fontweight="bold", va="top")
        summary = [*([shorten(below, _WIDTH_IN - 0.4)] if below else ()), _summary(load, machine), *notes]
        made.text(edge, 1 - 0.4 / height, "\n".join(summary), fontsize=SMALL, linespacing=1.4, va="top")
    return made


def _percent(value: float, most: float) -> str:
    return f"{value:.0%}" if most > 0.1 else f"{value:.1%}"


def _summary(load: Load, topology: Topology) -> str:
    busy = load.utilisation
    if not busy.any():
        return f"{topology.name}: nothing was sent"
    wrap = "; dashed: wraparound" if topology.has_lines else ""
    return (
        f"{topology.name}: links busy {busy.mean():.1%} of the time on average, {busy.max():.1%} at most, "
        f"{np.count_nonzero(busy == 0):,} of {len(busy):,} idle{wrap}"
    )
