"""A sweep as lines: simulated with markers, the usual closed form dashed, own predictions dotted, published hollow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import replace

from sim.plots.colours import PALETTE, SERIES_COLOURS
from sim.plots.style import add_legend, add_title, is_narrow, new_figure, points, shared_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vPX"
_SIZE, _WIDE = 5.0, 1.6
_HOLLOW: dict[str, Any] = {"markersize": 9.0, "markerfacecolor": "none", "markeredgewidth": 1.3}
_RING: dict[str, Any] = {"color": PALETTE["black"], "marker": "o", "markersize": 7.0, "markerfacecolor": "none"}
_DASHED: dict[str, Any] = {"linewidth": 0.9, "linestyle": (0, (4, 3))}
_OWN = (":", "-.", (0, (5, 1, 1, 1, 1, 1)))
"""Strokes of a user's own predictions, one after the other."""
_DOTTED: dict[str, Any] = {"linewidth": 0.8, "linestyle": ":"}
_PANEL_IN, _PANEL_LEGEND_IN = (3.4, 3.3), 0.9
_MOST_TICKS, _NARROW_TICKS = 12, 6
"""Up to so many values on the x axis are all named."""


class Line(Struct, frozen=True):
    """One series, in order of x; nan where there is no value."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    """Simulated."""
    closed_form: tuple[float, ...]
    fits: tuple[bool, ...]
    """True if the point fits into the memory of a chip."""
    published: tuple[tuple[float, float], ...] = ()
    predictions: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    """Predictions of a user's own by name, x and y."""


class Mark(Struct, frozen=True):
    """A vertical line that is named above the axes."""

    x: float
    label: str


class Crossing(Struct, frozen=True):
    """Point at which another line becomes the best of all."""

    x: float
    y: float
    before: str
    """Label of the line that is best at smaller x."""
    after: str


class Chart(Struct, frozen=True):
    """Contents of a figure, in the units of its labels."""

    title: str
    x_label: str
    y_label: str
    log: str
    """Logarithmic axes: `x`, `y`, `xy` or nothing."""
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...] = ()
    crossings: tuple[Crossing, ...] = ()
    legend: str = ""
    """Field that differs between the lines."""
    form: str = "closed form, the paper's"
    """Name of the closed form."""
    equal_at: float | None = None
    """Ratio of equal options, drawn as a line; the y axis then need not start at 0."""
    notes: tuple[str, ...] = ()
    """Lines below the figure."""


def draw(chart: Chart) -> Figure:
    """Draws the lines of a chart, its marks and its legend."""
    made = new_figure(8.0, 4.8 if is_narrow() else 4.4)
    with shared_style():
        axes = made.add_subplot()
        _contents(axes, chart, _looks(line.label for line in chart.lines))
        axes.set_ylabel(chart.y_label)
        if chart.title:
            add_title(made, chart.title)
        _legend(made, chart)
    return made


def draw_panels(charts: Mapping[str, Chart]) -> Figure:
    """Draws charts side by side, or in narrow figures one below the other, under their labels.

    They have one y axis and one legend; a line of one label looks the same in each.
    """
    if len(charts) == 1:
        return draw(next(iter(charts.values())))
    drawn = list(charts.values())
    names = dict.fromkeys(line.label for chart in drawn for line in chart.lines)
    looks = _looks(names)
    lines = {line.label: line for chart in drawn for line in chart.lines}
    shape = (len(drawn), 1) if is_narrow() else (1, len(drawn))
    made = new_figure(_PANEL_IN[0] * shape[1], _PANEL_IN[1] * shape[0] + _PANEL_LEGEND_IN)
    with shared_style():
        grid = made.subplots(*shape, squeeze=False).ravel()
        for axes, (label, chart) in zip(grid, charts.items(), strict=True):
            _contents(axes, replace(chart, crossings=()), looks)
            axes.set_title(label, fontsize=points(9))
        made.supylabel(drawn[0].y_label, fontsize=points(9))
        if drawn[0].title:
            add_title(made, drawn[0].title)
        every = tuple(replace(lines[name], fits=tuple(_all_fits(drawn, name))) for name in names)
        notes = tuple(dict.fromkeys(note for chart in drawn for note in chart.notes))
        _legend(made, replace(drawn[0], lines=every, crossings=(), notes=notes), below=True)
    return made


def _all_fits(charts: Sequence[Chart], label: str) -> list[bool]:
    return [fits for chart in charts for line in chart.lines if line.label == label for fits in line.fits]


def _contents(axes: Axes, chart: Chart, looks: Mapping[str, tuple[str, str]]) -> None:
    for line in chart.lines:
        _line(axes, line, *looks[line.label])
    for log, name in (("x" in chart.log, "x"), ("y" in chart.log, "y")):
        if log:
            getattr(axes, f"set_{name}scale")("log")
    _limits(axes, chart)
    if chart.equal_at is not None:
        axes.axhline(chart.equal_at, color=PALETTE["black"], linewidth=0.8, zorder=1)
    for mark in chart.marks:
        axes.axvline(mark.x, color=PALETTE["grey"], zorder=1, **_DOTTED)
        at: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        axes.text(mark.x, 1.01, mark.label, fontsize=points(7), linespacing=1.0, **at)
    for number, crossing in enumerate(chart.crossings, 1):
        axes.plot(crossing.x, crossing.y, zorder=6, linewidth=0, **_RING)
        near: dict[str, Any] = {"xytext": (0, -7), "textcoords": "offset points", "ha": "center", "va": "top"}
        near["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
        axes.annotate(str(number), (crossing.x, crossing.y), fontsize=points(7), zorder=6, **near)
    axes.grid(visible=True)
    axes.set_xlabel(chart.x_label)


def _looks(labels: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Returns colour and marker of each line: 70 pairs of 10 colours and 7 markers."""
    return dict(
        zip(labels, zip(itertools.cycle(SERIES_COLOURS), itertools.cycle(_MARKERS), strict=False), strict=False)
    )


def _line(axes: Axes, line: Line, colour: str, marker: str) -> None:
    axes.plot(line.x, line.closed_form, color=colour, zorder=2, **_DASHED)
    axes.plot(line.x, line.y, color=colour, linewidth=_WIDE, marker=marker, markersize=_SIZE, zorder=3)
    for stroke, predicted in zip(itertools.cycle(_OWN), line.predictions.values(), strict=False):
        if predicted:
            axes.plot(*zip(*predicted, strict=True), color=colour, zorder=2, **_own_look(stroke))
    over = [(x, y) for x, y, fits in zip(line.x, line.y, line.fits, strict=True) if not fits]
    if over:
        axes.plot(*zip(*over, strict=True), "x", color=PALETTE["black"], markersize=_SIZE, zorder=4)
    if line.published:
        axes.plot(*zip(*line.published, strict=True), marker, color=colour, zorder=5, **_HOLLOW)


def _own_look(stroke: Any) -> dict[str, Any]:
    return {"linewidth": 1.1, "linestyle": stroke, "marker": "+", "markersize": _SIZE + 2}


def _limits(axes: Axes, chart: Chart) -> None:
    """Starts a linear y axis at 0; labels logarithmic axes with plain numbers, x with its values."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    plain = FuncFormatter(lambda value, _: _number(value))
    if "y" in chart.log:
        low, high = axes.get_ylim()
        few = low > 0 and math.log10(high / low) < 2.5
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=20))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif chart.equal_at is None:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(plain)
    most = _NARROW_TICKS if is_narrow() else _MOST_TICKS
    values = sorted({x for line in chart.lines for x in line.x})
    if "x" in chart.log and values:
        axes.xaxis.set_major_locator(FixedLocator(values[:: math.ceil(len(values) / most)]))
        axes.xaxis.set_minor_locator(NullLocator())
    elif len(values) <= most and _apart(values):
        axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_major_formatter(plain)


def _apart(values: Sequence[float]) -> bool:
    """Tells if labels at the values of a linear axis do not overlap."""
    gaps = [after - before for before, after in itertools.pairwise(values)]
    return bool(gaps) and min(gaps) > 0.05 * (values[-1] - values[0])


def _number(value: float) -> str:
    """Formats a number as `0.5`, `256`, `8192`, `131k`, `2.1M`; larger multiples of 1024 as `128Ki`, `2Mi`."""
    for size, suffix in ((2**20, "Mi"), (2**10, "Ki")):
        if value >= 2**14 and value % size == 0:
            return f"{value / size:g}{suffix}"
    for decimal, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= max(decimal, 1e4):
            return f"{value / decimal:.3g}{suffix}"
    return f"{value:.4g}"


def _legend(made: Figure, chart: Chart, *, below: bool = False) -> None:
    """Draws the legend beside the axes or below them: the lines by colour, then the kinds of line and marker."""
    from matplotlib.lines import Line2D

    def sample(label: str, **look: Any) -> Line2D:
        return Line2D([], [], **{"color": PALETTE["grey"], "markersize": _SIZE, "label": label, **look})

    handles = [
        sample(label, color=colour, marker=marker, linewidth=_WIDE)
        for label, (colour, marker) in _looks(line.label for line in chart.lines).items()
        if label
    ]
    if handles:
        handles.append(sample("", linewidth=0))
    handles.append(sample("simulated", marker="o", linewidth=_WIDE))
    if any(math.isfinite(y) for line in chart.lines for y in line.closed_form):
        handles.append(sample(chart.form, **_DASHED))
    names = dict.fromkeys(name for line in chart.lines for name, points in line.predictions.items() if points)
    for stroke, name in zip(itertools.cycle(_OWN), names, strict=False):
        handles.append(sample(name, **(_own_look(stroke) | {"markersize": _SIZE + 2})))
    if any(line.published for line in chart.lines):
        handles.append(sample("published", marker="o", linewidth=0, **_HOLLOW))
    if not all(fits for line in chart.lines for fits in line.fits):
        handles.append(sample("does not fit in memory", color=PALETTE["black"], marker="x", linewidth=0))
    for number, crossing in enumerate(chart.crossings, 1):
        label = f"{number}: from {_number(crossing.x)} on {crossing.after}\ninstead of {crossing.before}"
        handles.append(sample(label, linewidth=0, **_RING))
    if chart.marks:
        handles.append(sample("equal volumes, closed form", **_DOTTED))
    add_legend(made, handles, below=below, title=chart.legend if len(chart.lines) > 1 else "", notes=chart.notes)
