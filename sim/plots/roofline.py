"""Operations under the roofs of their chip: FLOP/s reached against FLOPs per byte of memory traffic.

(Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785.) Dashed is the data sheet, solid what
`sim.lowering.costs` lets operations reach: one roof each for matmuls that read in tiles and for all else, where their
bandwidths differ. A point below its solid roof pays for its fixed overhead, for tiles that are not full or for reads
from L2, or is slowed by communication. Which limit an operation has is what its cost says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from sim.lowering.costs import hbm_rate, matmul_rate, roofline_s
from sim.plots.colours import PALETTE
from sim.plots.style import (
    add_legend,
    add_title,
    is_narrow,
    new_figure,
    points,
    set_plain_ticks,
    shared_style,
    text_width,
)
from sim.program import Floats
from sim.program.trace import Trace
from sim.report import spans as sp
from sim.report.metrics import critical_chip
from sim.topology.chip import Chip
from sim.topology.graph import Topology
from sim.units import PS_PER_S, format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = tuple(PALETTE[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky", "black"))
_MARKERS = "osD^vP*X"
_MOST = 14
"""Operations drawn: those that take longest."""
_LEAST_MARKER, _WHOLE_STEP_MARKER = 5.0, 36.0
"""Diameters of markers, points: the smallest that is seen, and that of an operation as long as the step."""
_NEAR = 0.035
"""Operations closer than this share of the axes would hide one another: they have one marker."""

_AXES_IN = ((3.6, 3.6), (2.7, 2.7))
"""About the width and height of the axes, which are known only when all is drawn, and of those of a narrow figure."""


class Point(Struct, frozen=True):
    """An operation of the critical chip, all its occurrences together."""

    op: str
    flops_per_byte: float
    flops_per_s: float
    time_s: float
    bound: str = "compute"
    """Slower part at the rates of its cost, `compute` or `memory`."""


def list_points(trace: Trace, topology: Topology) -> list[Point]:
    """Operations that multiply and use memory, those that take longest first."""
    program = trace.program
    spans = sp.compute_spans(trace).of_lane(critical_chip(trace, topology.chips))
    op = program.op[spans.task]
    columns = (
        (spans.end - spans.start) / PS_PER_S,
        *(getattr(program, name)[spans.task] for name in ("flops", "bytes", "compute_ps", "memory_ps")),
    )
    time_s, flops, moved, compute, memory = (sp.sums(op, values, len(program.op_names)) for values in columns)
    result = [
        Point(
            program.op_names[i],
            float(flops[i] / moved[i]),
            float(flops[i] / time_s[i]),
            float(time_s[i]),
            "memory" if memory[i] > compute[i] else "compute",
        )
        for i in np.flatnonzero((flops > 0) & (moved > 0) & (time_s > 0)).tolist()
    ]
    return sorted(result, key=lambda point: (-point.time_s, point.op))


def cluster_points(points: Sequence[Point], width: float, height: float) -> list[list[int]]:
    """Positions of the points that share a marker, those of the one that takes longest first.

    Args:
        width, height: factors from one end of the axes to the other.
    """
    places = [
        (math.log(p.flops_per_byte) / math.log(width), math.log(p.flops_per_s) / math.log(height)) for p in points
    ]
    groups: list[list[int]] = []
    for i, place in enumerate(places):
        near = next((group for group in groups if math.dist(place, places[group[0]]) < _NEAR), None)
        groups.append([i]) if near is None else near.append(i)
    return groups


Roof = Callable[[Floats], Floats]
"""FLOP/s that operations of so many FLOPs per byte reach, their overhead left out."""


def list_roofs(chip: Chip, dtype: str) -> list[tuple[str, str, Roof]]:
    """Returns (label, line style, roof) of the data sheet and of the bandwidths that operations reach."""
    peak, rate = chip.peak_flops[dtype], matmul_rate(chip, dtype)

    def under(bandwidth: float) -> Roof:
        return lambda x: 1 / np.vectorize(roofline_s)(1 / rate, 1 / (x * bandwidth), 1 - chip.roofline_overlap)

    def label(name: str, flops: float, bandwidth: float) -> str:
        return f"{name}: {flops / 1e12:.4g} TFLOP/s, {bandwidth / 1e9:,.0f} GB/s"

    sheet = label("data sheet", peak, chip.hbm_bandwidth)
    result: list[tuple[str, str, Roof]] = [(sheet, "--", lambda x: np.minimum(peak, x * chip.hbm_bandwidth))]
    streamed, tiled = hbm_rate(chip, 1), hbm_rate(chip, 2)
    if streamed == tiled:
        return [*result, (label("reached by large operations", rate, tiled), "-", under(tiled))]
    result.append((label("reached by large matmuls of several rows", rate, tiled), "-", under(tiled)))
    return [*result, (label("reached by other large operations", rate, streamed), "-.", under(streamed))]


def draw(trace: Trace, topology: Topology, dtype: str, title: str = "") -> Figure:
    """Draws the longest operations under the roofs of their chip."""
    chip, shown, step_s = topology.chip, list_points(trace, topology)[:_MOST], trace.makespan_ps / PS_PER_S
    made = new_figure(8.6, 5.6 if is_narrow() else 4.4)
    with shared_style():
        axes = made.add_subplot()
        axes.set_xscale("log")
        axes.set_yscale("log")
        ridge = chip.peak_flops[dtype] / chip.hbm_bandwidth
        ends = [value for point in shown for value in (point.flops_per_byte,)] + [ridge]
        x = np.geomspace(min(ends) / 4, max(ends) * 8, 200)
        for label, line, reached in list_roofs(chip, dtype):
            axes.plot(x, reached(x), line, color=PALETTE["grey"], linewidth=1.2, label=label)
        axes.set_ylim(_lowest(shown, x[0] * chip.hbm_bandwidth), 2 * chip.peak_flops[dtype])
        axes.set_xlim(x[0], x[-1])
        low, high = axes.get_ylim()
        groups = cluster_points(shown, x[-1] / x[0], high / low)
        looks: list[dict[str, Any]] = [{}] * len(shown)
        marked = []
        for k, group in enumerate(groups):
            first = shown[group[0]]
            look: dict[str, Any] = {"color": _COLOURS[k % len(_COLOURS)], "marker": _MARKERS[k % len(_MARKERS)]}
            size = marker_size(sum(shown[i].time_s for i in group), step_s)
            place, sized = (
                (first.flops_per_byte, first.flops_per_s),
                dict[str, Any](markersize=size, markeredgecolor="white"),
            )
            axes.plot(*place, linewidth=0, **look, **sized)
            marked.append((", ".join(str(i + 1) for i in group), place, size))
            looks = [look if i in group else earlier_look for i, earlier_look in enumerate(looks)]
        _number_markers(axes, marked)
        for i, (point, look) in enumerate(zip(shown, looks, strict=True)):
            label = f"{i + 1}  {point.op}: {format_seconds(point.time_s)}, {point.bound}"
            axes.plot([], [], linewidth=0, label=label, markersize=_LEAST_MARKER, **look)
        axes.set_xlabel("FLOPs per byte of memory traffic")
        axes.set_ylabel(f"TFLOP/s of {dtype} on one chip")
        set_plain_ticks(axes.xaxis)
        set_plain_ticks(axes.yaxis, 1e12)
        axes.grid(visible=True)
        add_title(made, title or "Roofline")
        axes.plot([], [], linewidth=0, label="area of a marker: share of the step")
        add_legend(made, axes.get_legend_handles_labels()[0])
    return made


def _number_markers(axes: Axes, marked: Sequence[tuple[str, tuple[float, float], float]]) -> None:
    """Writes text beside each marker where nothing stands yet: below if it can, where no roof is.

    Args:
        axes: its limits are set.
        marked: text, place in the units of the axes and diameter in points of each marker.
    """
    from matplotlib.transforms import Bbox

    letters, ends = points(7), (axes.get_xlim(), axes.get_ylim())
    look: dict[str, Any] = {"fontsize": letters, "ha": "center", "va": "center", "textcoords": "offset points"}
    look["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
    middles = [
        [
            72 * length_in * math.log(value / low) / math.log(high / low)
            for value, (low, high), length_in in zip(place, ends, _AXES_IN[is_narrow()], strict=True)
        ]
        for _, place, _ in marked
    ]
    taken = [
        Bbox.from_bounds(x - size / 2, y - size / 2, size, size)
        for (x, y), (_, _, size) in zip(middles, marked, strict=True)
    ]
    for i, ((text, place, size), (x, y)) in enumerate(zip(marked, middles, strict=True)):
        wide, high, away = 72 * text_width(text, letters) + 2, 1.3 * letters, size / 2 + 2
        below, side = -away - high / 2, away + wide / 2
        offsets = [(0.0, below), (0.8 * side, 0.8 * below), (-0.8 * side, 0.8 * below), (side, 0.0), (-side, 0.0)]
        offsets += [(0.0, -below), (0.0, below - high), (side, below - high), (-side, below - high)]
        boxes = [Bbox.from_bounds(x + dx - wide / 2, y + dy - high / 2, wide, high) for dx, dy in offsets]
        others = taken[:i] + taken[i + 1 :]
        free = [k for k, box in enumerate(boxes) if not any(box.overlaps(other) for other in others)]
        best = free[0] if free else 0
        taken.append(boxes[best])
        axes.annotate(text, place, offsets[best], **look)


def marker_size(time_s: float, step_s: float) -> float:
    """Returns the diameter of a marker, points: its area is the share of the step, down to where it cannot be seen."""
    return max(_LEAST_MARKER, _WHOLE_STEP_MARKER * math.sqrt(time_s / step_s))


def _lowest(shown: Sequence[Point], otherwise: float) -> float:
    """Returns the lower edge of the axis, below the lowest point."""
    return min([otherwise, *(point.flops_per_s for point in shown)]) / 3
