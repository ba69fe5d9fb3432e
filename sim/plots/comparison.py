"""Two runs one above the other on one time axis: the figure of the Ladder Residual paper (Zhang et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.plots.bars import WIDTH_IN, Panel, draw_legend
from sim.plots.chip_lanes import IN_AROUND, IN_PER_ROW, ChipLanes, fill_panel, panel_height
from sim.plots.colours import PALETTE
from sim.plots.style import PANEL_TITLE, add_title, figure_width, new_figure, points, set_title, shared_style, shorten
from sim.plots.timeline import LAYERS_IN_DETAIL, find_strip, name_layer, name_shares, share_bins
from sim.program.trace import Trace
from sim.report.lanes import LayerTimes, build_lanes, layer_times
from sim.report.metrics import critical_chip
from sim.report.ops import classify_ops
from sim.report.present.comparison import describe_speedup
from sim.topology.graph import Topology
from sim.units import PS_PER_S, format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = ("compute", "collectives")
_LEAST_MARKED = 0.12
"""Share of the axis from which the difference of two times has room for its text."""


class Side(Struct, frozen=True):
    """One of the two runs: its name and a pass of it."""

    name: str
    trace: Trace
    topology: Topology


class _Shown(Struct, frozen=True):
    """A side with what is drawn of it."""

    side: Side
    lanes: ChipLanes
    layers: LayerTimes
    op_classes: npt.NDArray[np.str_]

    def draw(self, axes: Axes, begin: int, end: int, axis_ps: int, *, is_step: bool) -> Panel:
        """Draws a part of the time in a panel whose axis is `axis_ps` long; a step of many layers as shares."""
        trace = self.side.trace
        on_path = np.zeros(trace.program.op.shape, dtype=np.bool_)
        panel = Panel(axes, trace.program, self.op_classes, begin, end, on_path, axis_ps)
        bins = None
        if is_step and len(self.layers) > LAYERS_IN_DETAIL:
            bins = share_bins(self.layers.edges, end, find_strip(trace, self.lanes, self.layers))
        fill_panel(panel, [self.lanes], bins)
        return panel


def draw(sides: Sequence[Side], span: str, title: str) -> Figure:
    """Draws the critical chip of both runs: the whole time, A above B, and below it a layer of each, A above B.

    Args:
        sides: A and B.
        span: name of the time that the traces cover.
    """
    shown = [_show(side) for side in sides]
    steps = [side.trace.makespan_ps for side in sides]
    has_layers = all(len(each.layers) for each in shown)
    rows = [(each, True) for each in shown] + ([(each, False) for each in shown] if has_layers else [])
    heights = [panel_height([each.lanes], is_step and len(each.layers) > LAYERS_IN_DETAIL) for each, is_step in rows]
    made = new_figure(WIDTH_IN, IN_AROUND * (1 + len(rows)) + IN_PER_ROW * sum(heights))
    with shared_style():
        axes = made.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
        panels = []
        for (each, is_step), at, letter in zip(rows, axes, "ABAB", strict=False):
            middle = len(each.layers) // 2
            times = [(0, each.side.trace.makespan_ps) if is_step else _layer(each) for each in shown]
            begin, end = (0, each.side.trace.makespan_ps) if is_step else _layer(each)
            axis_ps = max(1, *(stop - start for start, stop in times))
            panels.append((each.draw(at, begin, end, axis_ps, is_step=is_step), each.lanes.lanes))
            length = format_seconds((end - begin) / PS_PER_S)
            if is_step:
                name = shorten(each.side.name, figure_width(WIDTH_IN) * 0.55, points(PANEL_TITLE))
                what = _describe_step(each, f"{name}, {span}: {length}")
            else:
                what = f"{name_layer(each.layers, middle)}: {length}"
            set_title(at, f"{letter}: {what}", WIDTH_IN)
            if letter == "B":
                _mark_difference([panel for panel, _ in panels[-2:]], [stop - start for start, stop in times])
                at.set_xlabel(f"time{'' if is_step else ' since the layer began'}, {panels[-1][0].unit[1]}")
        add_title(made, f"{title}: {describe_speedup(steps[0] / PS_PER_S, steps[1] / PS_PER_S)}")
        draw_legend(made, panels)
    return made


def _show(side: Side) -> _Shown:
    trace, topology = side.trace, side.topology
    chip = critical_chip(trace, topology.chips)
    lanes = [lane for lane in build_lanes(trace, topology, [chip])[chip] if lane.kind in _KINDS]
    name = f"chip {topology.chip_number(chip)} of {topology.total_chips}"
    return _Shown(side, ChipLanes(name, lanes), layer_times(trace, chip), classify_ops(trace.program))


def _layer(shown: _Shown) -> tuple[int, int]:
    """Returns begin and end of a layer from the middle, ps."""
    middle = len(shown.layers) // 2
    return int(shown.layers.edges[middle]), int(shown.layers.edges[middle + 1])


def _describe_step(shown: _Shown, text: str) -> str:
    """Returns the text, and what the shares of a step of many layers are of."""
    if len(shown.layers) <= LAYERS_IN_DETAIL:
        return text
    first, last = find_strip(shown.side.trace, shown.lanes, shown.layers)
    return f"{text}; shares of the time of {name_shares(shown.layers, last - first)}"


def _mark_difference(panels: Sequence[Panel], times: Sequence[int]) -> None:
    """Marks in the panel of the side that ends first by how much B is shorter or longer than A.

    Args:
        panels: of A and of B.
        times: theirs, ps.
    """
    if times[0] == times[1]:
        return
    panel = panels[times[1] < times[0]]
    axes, (left, right) = panel.axes, (time / panel.unit[0] for time in sorted(times))
    look: dict[str, Any] = {"facecolor": "white", "edgecolor": PALETTE["grey"], "hatch": "..", "alpha": 0.5}
    axes.axvspan(left, right, linewidth=0, zorder=2.5, **look)
    if (right - left) * panel.unit[0] >= _LEAST_MARKED * panel.axis_ps:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
        look = {"ha": "center", "va": "center", "fontsize": points(7), "bbox": box, "zorder": 5}
        axes.text((left + right) / 2, sum(axes.get_ylim()) / 2, f"B {times[1] / times[0] - 1:+.1%}", **look)
