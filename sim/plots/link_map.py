"""A machine with its links in the colour of how busy they were: the two directions of a link side by side.

Colours run from light to dark (viridis, reversed), which also colour-blind readers and grey printers tell apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from sim.plots.colours import LOAD_COLOURS
from sim.plots.drawing import Line
from sim.plots.machine import Load, drawing_of, list_segments, max_utilisation
from sim.plots.machine_figure import Room, draw_machine
from sim.plots.style import SMALL, figure_width, points, shared_style, shorten
from sim.program.trace import Trace
from sim.topology.graph import Topology

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH_IN, _BAR_IN, _LEAST_BAR_IN = 7.6, 1.0, 1.6
"""Widths of the figure and of the colour bar with its labels, and the bar's least height."""
_LINE_WIDTH = 2.2


def draw(trace: Trace, topology: Topology, title: str = "", way: str = "") -> Figure:
    """Draws the busy time over step time of every link of the machine.

    Args:
        way: `dispatch` or `combine`, to draw the time for which links are busy with these alone.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_hex

    machine, load = topology.unfold(), Load.of(trace, topology, way)
    drawing = drawing_of(machine, load)
    most = max(float(load.utilisation.max(initial=0.0)), 1e-9)
    colours, scale_of = colormaps[LOAD_COLOURS], Normalize(0.0, most)
    segments = list(list_segments(drawing))
    shades = colours(scale_of([max_utilisation(load, segment.links) for segment in segments]))
    lines = [
        Line(segment.points, to_hex(shade), segment.dashed, width=_LINE_WIDTH)
        for segment, shade in zip(segments, shades, strict=True)
    ]
    drawing = replace(drawing, lines=lines, margin=0.5)
    name, _, below = (title or machine.name).partition("\n")
    name += f": {way}" if way else ""
    room_in = figure_width(_WIDTH_IN) - 0.4
    notes = [*([shorten(below, room_in, points(SMALL))] if below else ()), _summary(load, machine, way)]
    room = Room(right=_BAR_IN, least_height=_LEAST_BAR_IN)
    made, body_in = draw_machine(drawing, name, notes, _WIDTH_IN, room)
    with shared_style():
        if load.utilisation.any():
            width_in, height_in = made.get_size_inches()
            low = room.below + 0.1
            place = 1 - (_BAR_IN - 0.15) / width_in, low / height_in, 0.16 / width_in, (body_in - 0.2) / height_in
            bar = made.add_axes(place)
            shown = made.colorbar(ScalarMappable(scale_of, colours), cax=bar)
            shown.outline.set_visible(False)
            bar.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
            bar.set_ylabel("busy, share of the time")
    return made


def _summary(load: Load, topology: Topology, way: str) -> str:
    busy = load.utilisation
    if not busy.any():
        return f"{topology.name}: nothing was sent"
    wrap = "; dashed: wraparound" if topology.has_lines else ""
    what = f"busy with {way}" if way else "busy"
    return (
        f"{topology.name}: links {what} {busy.mean():.1%} of the time on average, {busy.max():.1%} at most, "
        f"{np.count_nonzero(busy == 0):,} of {len(busy):,} idle{wrap}"
    )
