"""Fit of constants: where each lies between its bounds and how well the rows determine it, and the errors of each
series by constants fitted with it and without it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.plots.colours import PALETTE
from sim.plots.style import (
    add_legend,
    add_title,
    figure_width,
    is_narrow,
    new_figure,
    points,
    set_title,
    shared_style,
    text_width,
    wrap,
)
from sim.report.present.calibration import Fit, Series

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN, _AROUND_IN, _ROW_IN = 10.0, 1.6, 0.36
_NAMES = 0.38
"""Share of a panel for the names of its rows."""
_SIZE = 8.0
"""Points of names and values."""
_LOOKS: dict[str, dict[str, Any]] = {
    "by constants fitted to it as well": {
        "s": 14.0,
        "linewidths": 0.9,
        "facecolors": "none",
        "edgecolors": PALETTE["blue"],
    },
    "by a fit without its series": {"s": 14.0, "linewidths": 0.9, "color": PALETTE["vermilion"]},
}
_COLOURS = tuple(PALETTE[name] for name in ("vermilion", "purple", "green", "orange"))
"""Directions, in turn."""
_ARROW: dict[str, Any] = {"arrowstyle": "->", "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}


def draw(fit: Fit) -> Figure:
    """Draws the constants, a row each, and the errors of the series, a row each."""
    counts, width_in = (len(fit.constants), len(fit.series)), figure_width(_WIDTH_IN)
    rows_in = _ROW_IN * (sum(counts) if is_narrow() else max(counts))
    panel_in = width_in / (1 if is_narrow() else 2)
    with shared_style():
        made = new_figure(_WIDTH_IN, _AROUND_IN * (1.6 if is_narrow() else 1) + rows_in)
        above: dict[str, Any] = {"nrows": 2, "height_ratios": counts} if is_narrow() else {"ncols": 2}
        first, second = made.subplots(**above)
        handles = [*_draw_constants(first, fit, panel_in), *_draw_series(second, fit.series, panel_in)]
        set_title(first, "Constants, with standard errors", panel_in, labels_in=_NAMES * panel_in)
        set_title(second, "Errors of each series' rows", panel_in, labels_in=_NAMES * panel_in)
        add_title(made, _title(fit))
        add_legend(made, handles, below=True)
    return made


def _title(fit: Fit) -> str:
    text = f"{fit.suite}: {fit.in_sample.cases} rows fitted within {fit.in_sample.median:.1%} in the median"
    left_out = fit.all_left_out
    return f"{text}, {left_out.median:.1%} by fits without their series" if left_out else text


def _draw_constants(axes: Axes, fit: Fit, panel_in: float) -> list[Artist]:
    """Draws each constant as a point from its lower bound, 0, to its upper one, 1; returns the legend's entries."""
    from matplotlib.lines import Line2D

    size = points(_SIZE)
    _name_rows(axes, list(fit.constants), panel_in)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks([0, 1], ["lower bound", "upper bound"])
    places = {}
    for row, (name, constant) in enumerate(fit.constants.items()):
        span, value, error = constant.high - constant.low, fit.values[name], fit.standard_errors[name]
        place = places[name] = (value - constant.low) / span, row
        reach = np.clip([place[0] - error / span, place[0] + error / span], 0, 1)
        axes.plot([0, 1], [row, row], color=PALETTE["light"], linewidth=4, zorder=1, solid_capstyle="butt")
        axes.plot(reach, [row, row], color=PALETTE["blue"], linewidth=1.6, zorder=2)
        axes.plot(*place, "o", color=PALETTE["blue"], markersize=5, zorder=3)
        spread = f" ± {float(f'{error:.1g}'):g}" if np.isfinite(error) else ", not determined"
        text = f"{value:.3g}{spread} {constant.unit}".rstrip()
        room = text_width(text, size) / ((1 - _NAMES) * panel_in)
        at = min(max(place[0], room / 2), 1 - room / 2)
        axes.text(at, row - 0.2, text, fontsize=size, ha="center", va="bottom")
    handles: list[Artist] = []
    directions = [(fitted.rms, each) for fitted in fit.determinations for each in fitted.directions]
    for number, ((rms, direction), colour) in enumerate(zip(directions, itertools.cycle(_COLOURS), strict=False)):
        for name, change in direction.changes.items():
            x, row = places[name]
            to, y = x + change / (fit.constants[name].high - fit.constants[name].low), row + 0.2 + 0.08 * (number % 3)
            axes.annotate("", (to, y), (x, y), arrowprops={**_ARROW, "color": colour}, zorder=4)
        label = f"moved along: root mean square {rms:.1%} to {direction.rms:.1%}"
        handles.append(Line2D([], [], color=colour, marker=">", label=label))
    return handles


def _draw_series(axes: Axes, series: Sequence[Series], panel_in: float) -> list[Artist]:
    """Draws the errors of each row as a point; returns the legend's entries."""
    _name_rows(axes, [each.series for each in series], panel_in)
    errors = [each.fitted for each in series], [each.left_out for each in series]
    handles: list[Artist] = []
    for (label, look), of_series, shift in zip(_LOOKS.items(), errors, (-0.15, 0.15), strict=True):
        shown = [(100 * error, row + shift) for row, rows in enumerate(of_series) for error in rows.values()]
        if shown:
            handles.append(axes.scatter([x for x, _ in shown], [y for _, y in shown], label=label, **look))
    axes.axvline(0, color="0.4", linewidth=0.8, zorder=1)
    farthest = max(map(abs, axes.get_xlim()))
    axes.set_xlim(-farthest, farthest)
    axes.set_xlabel("error of predictions, %")
    for row, each in enumerate(series):
        if each.reason:
            place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
            axes.text(0.02, row + 0.2, "not left out: too few others", fontsize=points(7), color="0.35", **place)
    return handles


def _name_rows(axes: Axes, names: Sequence[str], panel_in: float) -> None:
    """Names the rows of a panel, the first on top."""
    size = points(_SIZE)
    axes.set_yticks(range(len(names)), [wrap(name, _NAMES * panel_in, size) for name in names], fontsize=size)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=True, axis="x")
