"""Latency against cost of many choices, one colour per layout: Figure 1 of Pope et al. 2022 (arXiv 2211.05102)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from sim.plots.colours import PALETTE, SERIES_COLOURS
from sim.plots.style import (
    add_legend,
    add_title,
    is_narrow,
    new_figure,
    points,
    set_plain_ticks,
    shared_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN = 8.0
_MARKERS = "os^vPX*<>dph8"
"""Markers of the machines."""
_HOLLOW: dict[str, Any] = {"facecolors": "none", "linewidths": 1.3, "s": 46, "marker": "D"}
_ROOM = 3.0
"""The axes reach so many times further than the front and the published points."""
_LABELS = 0.13
"""Share of the height that the label of the lowest point takes below it."""
_RING: dict[str, Any] = {"facecolors": "none", "edgecolors": PALETTE["black"], "linewidths": 1.1, "s": 60}


class Spot(Struct, frozen=True):
    """One choice."""

    x: float
    y: float
    label: str
    machine: int = 0
    """Its number, which is its marker's."""


class Line(Struct, frozen=True):
    """A layout: all its choices, those of them that no other of its own beats, by x, and published points."""

    label: str
    choices: tuple[Spot, ...]
    front: tuple[Spot, ...]
    published: tuple[Spot, ...] = ()


class Chart(Struct, frozen=True):
    """Contents of the figure, in the units of its labels."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    front: tuple[Spot, ...]
    """Points that no other beats in both, by x: ringed and labelled."""
    named: str
    """Explanation of the labels."""
    machines: tuple[str, ...] = ()
    """Names, where there are several."""
    notes: tuple[str, ...] = ()
    """Lines below the figure."""


def draw(chart: Chart) -> Figure:
    """Draws the choices of each line, their fronts, published points, and the front of all."""
    made = new_figure(_WIDTH_IN, 5.6 if is_narrow() else 4.8)
    with shared_style():
        axes = made.add_subplot()
        for number, (line, colour) in enumerate(zip(chart.lines, SERIES_COLOURS, strict=False)):
            wide = max(2.4 - 0.2 * number, 0.8)  # fronts that lie on each other are all seen
            axes.plot(*_xy(line.front), "-", color=colour, linewidth=wide, zorder=3)
            for marker, some, front in _by_machine(line):
                axes.scatter(*_xy(some), s=14, marker=marker, color=colour, alpha=0.45, linewidths=0, zorder=2)
                size = (2.5 + wide) ** 2
                axes.scatter(*_xy(front), s=size, marker=marker, color=colour, linewidths=0, zorder=3)
            axes.scatter(*_xy(line.published), edgecolors=colour, zorder=5, **_HOLLOW)
            edge = _at_edge(chart, line)
            axes.scatter(*_xy(edge), s=14, marker="4", color=colour, linewidths=0.9, zorder=4, clip_on=False)
        axes.scatter(*_xy(chart.front), zorder=4, **_RING)
        axes.set(xscale="log", yscale="log", xlabel=chart.x_label, ylabel=chart.y_label)
        (low_x, high_x), (low_y, high_y) = axis_limits(chart)
        axes.set(xlim=(low_x, high_x), ylim=(low_y, high_y))
        set_plain_ticks(axes.xaxis)
        set_plain_ticks(axes.yaxis)
        _labels(axes, chart.front)
        axes.grid(visible=True)
        add_title(made, chart.title)
        _legend(made, chart)
    return made


def axis_limits(chart: Chart) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of both axes: what is far from the front would press it into a corner, and is left out."""
    near = [*chart.front, *(spot for line in chart.lines for spot in line.published)]
    xs, ys = _xy(near)
    top = max(ys) * _ROOM
    below = max(1.8, (top / min(ys)) ** _LABELS)
    return (min(xs) / 2, max(xs) * _ROOM), (min(ys) / below, top)


def list_outside(chart: Chart, line: Line) -> list[Spot]:
    """Returns the choices of a line beyond the axes."""
    (_, high_x), (_, high_y) = axis_limits(chart)
    return [spot for spot in line.choices if spot.x > high_x or spot.y > high_y]


def _at_edge(chart: Chart, line: Line) -> list[Spot]:
    """Returns the choices of a line beyond the axes, moved to the edge."""
    (_, high_x), (_, high_y) = axis_limits(chart)
    return [replace(spot, x=min(spot.x, high_x), y=min(spot.y, high_y)) for spot in list_outside(chart, line)]


def _named(chart: Chart, line: Line) -> str:
    """Returns the label of a line, and what of it lies beyond the axes: how many choices, and the nearest of them."""
    outside = list_outside(chart, line)
    if not outside:
        return line.label
    nearest = min(outside, key=lambda spot: spot.x * spot.y)
    return f"{line.label}\n({len(outside)} of {len(line.choices)} beyond, the best {nearest.x:.3g}, {nearest.y:.3g})"


def _by_machine(line: Line) -> Iterator[tuple[str, list[Spot], list[Spot]]]:
    """Yields marker, choices and front of each machine."""
    for machine in sorted({spot.machine for spot in line.choices}):
        some, front = ([spot for spot in spots if spot.machine == machine] for spots in (line.choices, line.front))
        yield _MARKERS[machine % len(_MARKERS)], some, front


def _xy(spots: Sequence[Spot]) -> tuple[list[float], list[float]]:
    return [spot.x for spot in spots], [spot.y for spot in spots]


def _labels(axes: Axes, front: Sequence[Spot]) -> None:
    """Returns the labels of the front; of equal labels of a machine in sequence only that of the fastest point."""
    last = None
    for spot in front:
        if (spot.label, spot.machine) != last:
            place: dict[str, Any] = {"textcoords": "offset points", "xytext": (-2, -6), "ha": "right", "va": "top"}
            place["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.3, "alpha": 0.7}
            axes.annotate(spot.label, (spot.x, spot.y), fontsize=points(6.5), rotation=40, zorder=6, **place)
        last = spot.label, spot.machine


def _legend(made: Figure, chart: Chart) -> None:
    from matplotlib.collections import PathCollection
    from matplotlib.lines import Line2D

    handles: list[Line2D | PathCollection] = [
        Line2D([], [], color=colour, linewidth=1.8, label=_named(chart, line))
        for line, colour in zip(chart.lines, SERIES_COLOURS, strict=False)
        if line.choices
    ]
    grey: dict[str, Any] = {"color": PALETTE["grey"], "linewidth": 0}
    for machine, marker in zip(chart.machines, itertools.cycle(_MARKERS), strict=False):
        handles.append(Line2D([], [], marker=marker, markersize=5, label=machine, **grey))
    handles.append(Line2D([], [], marker="o", markersize=3, alpha=0.5, label="every choice that fits", **grey))
    if any(list_outside(chart, line) for line in chart.lines):
        handles.append(Line2D([], [], marker="4", markersize=5, label="beyond the axes (x, y in the list)", **grey))
    ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": PALETTE["black"]}
    handles.append(Line2D([], [], marker="o", markersize=7.5, label=f"front, with its {chart.named}", **ring, **grey))
    if any(line.published for line in chart.lines):
        hollow: dict[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 1.3}
        handles.append(Line2D([], [], marker="D", markersize=6.5, label="published, its layout", **hollow, **grey))
    add_legend(made, handles, notes=chart.notes)
