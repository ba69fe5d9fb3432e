"""Two bars of a step: the activities of the critical chip, and the causes of the critical path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.plots.colours import PALETTE, PART_LOOKS
from sim.plots.style import add_title, new_figure, shared_style
from sim.program.batches import Batches
from sim.program.trace import Trace
from sim.report import critical_path as critical
from sim.report.breakdown import compute_breakdown
from sim.topology.graph import Topology
from sim.units import PS_PER_S, format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_DARK = {PALETTE[name] for name in ("blue", "vermilion", "green", "grey", "indigo")}
_WIDTH_IN, _HEIGHT_IN = 9.0, 3.4
_WIDE = 0.045
"""A part of so much of the step has room for its percentage."""


def draw(trace: Trace, topology: Topology, title: str = "", batches: Batches | None = None) -> Figure:
    """Draws the activities of the critical chip and the causes of the critical path as two bars.

    Args:
        batches: of a pipeline.
    """
    causes = critical.attribute_step(trace, topology).causes
    bars = {
        "what the critical chip does": compute_breakdown(trace, topology, batches),
        "what the critical path is made of": {share.name: share.time_s for share in causes},
    }
    step_s = trace.makespan_ps / PS_PER_S
    made = new_figure(_WIDTH_IN, _HEIGHT_IN)
    with shared_style():
        made.set_layout_engine("none")
        for bottom, (name, parts) in zip((0.62, 0.17), bars.items(), strict=True):
            axes = made.add_axes((0.015, bottom, 0.97, 0.17))
            _bar(axes, parts, step_s)
            axes.set_title(name)
        (name, *below), what = title.split("\n"), "all requests" if batches else "one step"
        first = ": ".join(filter(None, (name, f"{what}, {format_seconds(step_s)}")))
        add_title(made, "\n".join([first, *below]), x=0.015)
    return made


def _bar(axes: Axes, parts: Mapping[str, float], step_s: float) -> None:
    """Draws one bar, 100 % long, and its legend below it."""
    from matplotlib.patches import Patch

    left = 0.0
    handles = []
    for name, time_s in parts.items():
        share, look = time_s / step_s if step_s else 0.0, PART_LOOKS[name]
        hatched: dict[str, Any] = {"hatch": 3 * look.hatch, "facecolor": look.colour, "linewidth": 0.0}
        hatched["edgecolor"] = PALETTE["grey"] if look.hatch else "white"
        axes.barh(0, share, left=left, height=0.8, **hatched)
        axes.axvline(left, 0.1, 0.9, color="white", linewidth=0.6)
        if share >= _WIDE:
            text = "white" if look.colour in _DARK else PALETTE["black"]
            box = {"facecolor": look.colour, "edgecolor": "none", "pad": 1.5} if look.hatch else None
            axes.text(left + share / 2, 0, f"{share:.0%}", ha="center", va="center", color=text, fontsize=8, bbox=box)
        handles.append(Patch(label=f"{name} {share:.1%}", **hatched))
        left += share
    axes.set_xlim(0, 1)
    axes.set_axis_off()
    below: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, -0.06), "borderaxespad": 0}
    axes.legend(handles=handles, ncols=4, columnspacing=1.5, **below)
