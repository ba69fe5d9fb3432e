"""Stages of a pipeline over time: the requests they work on, and the shares of the time that their chips compute,
communicate and wait, so that fill, drain and bubbles are seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sim.plots.colours import PALETTE, PART_LOOKS, REQUEST_COLOURS
from sim.plots.style import add_legend, add_title, figure_width, new_figure, points, set_title, shared_style, text_width
from sim.program import Ints
from sim.program.batches import Batches
from sim.program.trace import Trace
from sim.report.breakdown import PARTS, stage_shares
from sim.report.pipeline import report_stages, stage_batches
from sim.topology.graph import Topology
from sim.units import PS_PER_S, format_seconds

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN, _IN_PER_STAGE, _IN_AROUND = 11.0, 0.45, 1.3
_PS_PER_MS = PS_PER_S / 1e3
_NUMBER_POINTS = 7.0
_LABELS_IN = 1.8
"""Width of the names of stages and of their bubbles."""
_BINS = 120
_ROW = 0.8
"""Height of a stage's row."""


def draw(trace: Trace, topology: Topology, batches: Batches, title: str = "") -> Figure:
    """Draws a row per stage, the first on top: batches in the colour of their request, and shares below."""
    stages = len(batches.layers)
    made = new_figure(_WIDTH_IN, _IN_AROUND + 2 * _IN_PER_STAGE * stages)
    with shared_style():
        upper, lower = made.subplots(2, 1, sharex=True)
        _draw_batches(upper, trace, batches)
        add_legend(made, _draw_shares(lower, trace, topology, batches), below=True)
        for axis in (upper, lower):
            axis.set_ylim(stages - 0.5, -0.5)
            axis.set_yticks(range(stages), [f"stage {i}, {n} layers" for i, n in enumerate(batches.layers)])
        lower.set_xlim(0, trace.makespan_ps / _PS_PER_MS)
        lower.set_xlabel("time, ms")
        if title:
            add_title(made, title)
    return made


def bin_edges(trace: Trace) -> Ints:
    """Returns the edges of the bins in which shares of the time are drawn, ps."""
    count = max(min(_BINS, trace.makespan_ps), 1)
    return np.arange(count + 1) * trace.makespan_ps // count


def _draw_batches(axis: Axes, trace: Trace, batches: Batches) -> None:
    total = trace.makespan_ps / _PS_PER_MS
    ms_per_in, size = total / (figure_width(_WIDTH_IN) - _LABELS_IN), points(_NUMBER_POINTS)
    reports = report_stages(trace, batches)
    for stage, report in enumerate(reports):
        for batch in stage_batches(trace, batches, stage):
            waits_from, begin, end = (ps / _PS_PER_MS for ps in (batch.waits_from, batch.begin, batch.end))
            colour = REQUEST_COLOURS[batch.request % len(REQUEST_COLOURS)]
            axis.barh(stage, begin - waits_from, 0.8, waits_from, color=colour, alpha=0.35, linewidth=0)
            axis.barh(stage, end - begin, 0.8, begin, color=colour, edgecolor="white", linewidth=0.5)
            text = f"{batch.request}.{batch.part}" if batches.parts > 1 else str(batch.request)
            if end - begin > ms_per_in * text_width(f"{text} ", size):
                place = (begin + end) / 2, stage, text
                axis.text(*place, ha="center", va="center", fontsize=size, color="white")
        text = f"{report.bubble:.0%} bubble"
        axis.annotate(text, (1.005, stage), xycoords=("axes fraction", "data"), va="center", fontsize=points(8))
    what = "Requests by number" if axis.texts else f"Requests in turn in {len(REQUEST_COLOURS)} colours"
    if any(report.wait_s for report in reports):
        what += ", pale while some ranks wait for others"
    set_title(axis, f"{what}, {format_seconds(trace.makespan_ps / PS_PER_S)}", _WIDTH_IN)


def _draw_shares(axis: Axes, trace: Trace, topology: Topology, batches: Batches) -> list[Artist]:
    """Draws the shares of every bin stacked upwards from the foot of the stage's row; returns the legend's entries."""
    from matplotlib.patches import Patch

    edges = bin_edges(trace)
    times, stages = edges / _PS_PER_MS, stage_shares(trace, topology, batches, edges)
    looks: dict[str, dict[str, Any]] = {}
    for name in (name for name in PARTS if any(name in shares for shares in stages)):
        look = PART_LOOKS[name]
        looks[name] = {"facecolor": look.colour, "hatch": 3 * look.hatch, "linewidth": 0.0}
        looks[name]["edgecolor"] = PALETTE["grey"] if look.hatch else look.colour
    for stage, shares in enumerate(stages):
        foot = np.full(len(edges), stage + _ROW / 2)
        for name, share in shares.items():
            top = foot - _ROW * np.append(share, share[-1])
            axis.fill_between(times, foot, top, step="post", **looks[name])
            foot = top
    set_title(axis, f"What the chips of a stage do, shares of each of {len(edges) - 1} parts of the time", _WIDTH_IN)
    return [Patch(label=name, **look) for name, look in looks.items()]
