"""Two bars of a step: the activities of the critical chip, and the causes of the critical path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sim.plots.colours import PALETTE, PART_LOOKS
from sim.plots.style import (
    TITLE,
    add_title,
    figure_width,
    legend_columns,
    new_figure,
    points,
    shared_style,
    wrap,
)
from sim.program.batches import Batches
from sim.program.trace import Trace
from sim.report import critical_path as critical
from sim.report.breakdown import compute_breakdown
from sim.report.metrics import critical_chip
from sim.topology.graph import Topology
from sim.units import PS_PER_S, format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_DARK = {PALETTE[name] for name in ("blue", "vermilion", "green", "grey", "indigo")}
_WIDTH_IN, _MARGIN_IN = 9.0, 0.13
_TOP_IN, _NAME_IN, _BAR_IN, _LINE_EM, _GAP_IN = 0.3, 0.25, 0.5, 1.7, 0.15
"""Heights of a title of one line, of a bar's name, of the bar, of a line of its legend, and of the gap below."""
_MOST_COLUMNS = 4
_BAR = 0.8
"""Height of a bar in its axes' units."""
_WIDE_IN = 0.4
"""A part so wide has room for its percentage."""


def draw(trace: Trace, topology: Topology, title: str = "", batches: Batches | None = None) -> Figure:
    """Draws the activities of the critical chip and the causes of the critical path as two bars.

    Args:
        batches: of a pipeline.
    """
    shares = critical.attribute_step(trace, topology)
    chip = topology.chip_number(critical_chip(trace, topology.chips))
    mostly = f", {shares.chips[0].of_step:.0%} of it on {shares.chips[0].name}" if len(shares.chips) > 1 else ""
    bars = {
        f"what chip {chip}, the last to end, does": compute_breakdown(trace, topology, batches),
        f"what the critical path is made of{mostly}": {share.name: share.time_s for share in shares.causes},
    }
    step_s = trace.makespan_ps / PS_PER_S
    room_in = figure_width(_WIDTH_IN) - 2 * _MARGIN_IN
    columns = min(_MOST_COLUMNS, *(legend_columns(list(_labels(parts, step_s)), room_in) for parts in bars.values()))
    line_in = _LINE_EM * points(8) / 72
    lines = [-(-len(parts) // columns) for parts in bars.values()]
    (name, *below), what = title.split("\n"), "all requests" if batches else "one step"
    title = "\n".join([": ".join(filter(None, (name, f"{what}, {format_seconds(step_s)}"))), *below])
    top_in = _TOP_IN + line_in * wrap(title, room_in, points(TITLE), is_bold=True).count("\n")
    height_in = top_in + sum(_NAME_IN + _BAR_IN + line_in * count + _GAP_IN for count in lines)
    made = new_figure(_WIDTH_IN, height_in)
    with shared_style():
        made.set_layout_engine("none")
        left, y_in = _MARGIN_IN / made.get_figwidth(), height_in - top_in
        for (name, parts), count in zip(bars.items(), lines, strict=True):
            y_in -= _NAME_IN + _BAR_IN
            axes = made.add_axes((left, y_in / height_in, 1 - 2 * left, _BAR_IN / height_in))
            _bar(axes, parts, step_s, columns)
            axes.set_title(name, y=1.0)
            y_in -= line_in * count + _GAP_IN
        add_title(made, title, x=left)
    return made


def _labels(parts: Mapping[str, float], step_s: float) -> Iterator[str]:
    """Yields the legend's labels: `exposed 12.3%`."""
    for name, time_s in parts.items():
        yield f"{name} {time_s / step_s if step_s else 0.0:.1%}"


def _bar(axes: Axes, parts: Mapping[str, float], step_s: float, columns: int) -> None:
    """Draws one bar, 100 % long, and its legend below it."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle

    left = 0.0
    handles = []
    for label, (name, time_s) in zip(_labels(parts, step_s), parts.items(), strict=True):
        share, look = time_s / step_s if step_s else 0.0, PART_LOOKS[name]
        hatched: dict[str, Any] = {"hatch": 3 * look.hatch, "facecolor": look.colour, "linewidth": 0.0}
        hatched["edgecolor"] = PALETTE["grey"] if look.hatch else "white"
        axes.add_patch(Rectangle((left, -_BAR / 2), share, _BAR, **hatched))
        axes.add_artist(Line2D([left, left], [-0.44 * _BAR, 0.44 * _BAR], color="white", linewidth=0.6))
        if share * figure_width(_WIDTH_IN) >= _WIDE_IN:
            text = "white" if look.colour in _DARK else PALETTE["black"]
            box = {"facecolor": look.colour, "edgecolor": "none", "pad": 1.5} if look.hatch else None
            place = left + share / 2, 0, f"{share:.0%}"
            axes.text(*place, ha="center", va="center", color=text, fontsize=points(8), bbox=box)
        handles.append(Patch(label=label, **hatched))
        left += share
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.55 * _BAR, 0.55 * _BAR)
    axes.set_axis_off()
    below: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.06), "borderaxespad": 0}
    axes.legend(handles=handles, ncols=columns, columnspacing=1.5, **below)
