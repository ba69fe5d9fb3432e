"""Where a step goes, as two bars: what the critical chip does, and what the critical path is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.plots.style import PALETTE, figure, save, style
from sim.report import critical_path as critical
from sim.report.breakdown import PARTS, breakdown
from sim.topology.graph import Topology
from sim.trace import Trace
from sim.units import PS_PER_S, format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    **dict(zip(PARTS, (PALETTE[name] for name in ("blue", "sky", "green", "vermilion", "light")), strict=True)),
    critical.COMPUTE: PALETTE["blue"],
    critical.MEMORY: PALETTE["sky"],
    critical.OP_OVERHEAD: PALETTE["grey"],
    critical.SLOWED: PALETTE["purple"],
    critical.TRANSFER: PALETTE["orange"],
    critical.QUEUEING: PALETTE["vermilion"],
    critical.LATENCY: PALETTE["yellow"],
    critical.LAUNCH: PALETTE["green"],
}
"""Colour of every part of both bars."""

_DARK = {PALETTE[name] for name in ("blue", "vermilion", "green", "grey", "black")}
_WIDTH_IN, _HEIGHT_IN = 9.0, 3.4
_WIDE = 0.045
"""A part of so much of the step has room for its percentage."""


def draw(trace: Trace, topology: Topology, dtype: str, path: Path | str, title: str = "") -> None:
    """Write the figure to `path` (format by suffix)."""
    save(make(trace, topology, dtype, title), path)


def make(trace: Trace, topology: Topology, dtype: str, title: str = "") -> Figure:
    """The figure that `draw` writes."""
    causes = critical.shares(trace, topology, dtype).causes
    bars = {
        "what the critical chip does": breakdown(trace, topology, dtype),
        "what the critical path is made of": {share.name: share.time_s for share in causes},
    }
    step_s = trace.makespan_ps / PS_PER_S
    made = figure(_WIDTH_IN, _HEIGHT_IN)
    with style():
        made.set_layout_engine("none")
        for bottom, (name, parts) in zip((0.62, 0.17), bars.items(), strict=True):
            axes = made.add_axes((0.015, bottom, 0.97, 0.17))
            _bar(axes, parts, step_s)
            axes.set_title(name)
        made.suptitle(
            ": ".join(filter(None, (title, f"one step, {format_seconds(step_s)}"))),
            x=0.015,
            ha="left",
            fontweight="bold",
        )
    return made


def _bar(axes: Axes, parts: Mapping[str, float], step_s: float) -> None:
    """One bar, 100 % long, and what its colours mean below it."""
    from matplotlib.patches import Patch

    left = 0.0
    handles = []
    for name, time_s in parts.items():
        share, colour = time_s / step_s if step_s else 0.0, COLOURS[name]
        axes.barh(0, share, left=left, color=colour, height=0.8, edgecolor="white", linewidth=0.5)
        if share >= _WIDE:
            text = "white" if colour in _DARK else PALETTE["black"]
            axes.text(left + share / 2, 0, f"{share:.0%}", ha="center", va="center", color=text, fontsize=8)
        handles.append(Patch(facecolor=colour, label=f"{name} {share:.1%}"))
        left += share
    axes.set_xlim(0, 1)
    axes.set_axis_off()
    below: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.06), "borderaxespad": 0}
    axes.legend(handles=handles, ncols=4, columnspacing=1.5, **below)
