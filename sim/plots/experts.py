"""Load of experts: rows that every chip multiplies, and rows of every expert from the fullest on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.plots.colours import PALETTE
from sim.plots.style import add_legend, add_title, new_figure, set_title, shared_style
from sim.program import ExpertRows, Floats
from sim.report.experts import ExpertsReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN, _HEIGHT_IN = 8.0, 4.8


def draw(rows: ExpertRows, found: ExpertsReport, title: str = "") -> Figure:
    """Draws the rows of one layer, with the mean, the busiest chip and the expected fullest expert marked."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    made = new_figure(_WIDTH_IN, _HEIGHT_IN)
    with shared_style():
        above, below = made.subplots(2, 1)
        chips = rows.of_chips
        _draw_bars(above, chips, PALETTE["blue"])
        most = f", most {found.rows_most:,.0f} on chip {found.busiest_chip}: balance (mean / most) {found.balance:.1%}"
        spread = ", the same on all" if found.is_even else most
        set_title(above, f"Rows of each chip: mean {found.rows_mean:,.0f}{spread}", _WIDTH_IN)
        above.set_xlabel("chip")
        experts = np.sort(rows.held.ravel())[::-1]
        _draw_bars(below, experts, PALETTE["sky"])
        set_title(below, f"Rows of each of {len(experts):,} experts, fullest first: most {experts[0]:,.0f}", _WIDTH_IN)
        below.set_xlabel("expert, by its rows")
        handles = [
            Line2D([], [], color=PALETTE["black"], linestyle="--", linewidth=1.0, label="mean"),
            *([Patch(color=PALETTE["vermilion"], label="most")] if not found.is_even else []),
        ]
        if (expected := found.expected_fullest_rows) is not None:
            below.plot([0], [expected], marker="D", color=PALETTE["black"], markersize=4, clip_on=False, zorder=3)
            below.set_ylim(0, 1.08 * max(expected, experts[0]))
            drawn = "" if found.is_drawn else " if tokens choose at random"
            without = f", which {found.expected_leaves_out}" if found.expected_leaves_out else ""
            label = f"fullest expert by closed form{drawn}: {expected:,.0f}{without}"
            handles.append(Line2D([], [], color=PALETTE["black"], marker="D", markersize=4, linestyle="", label=label))
        add_legend(made, handles, below=True)
        name, _, rest = title.partition("\n")
        add_title(made, "\n".join(filter(None, [f"{name}: load of the experts of a layer", rest])))
    return made


def _draw_bars(axes: Axes, rows: Floats, colour: str) -> None:
    """Draws a bar each, the highest in another colour, and the mean."""
    colours = [PALETTE["vermilion"] if each == rows.max() and np.ptp(rows) else colour for each in rows]
    axes.bar(np.arange(len(rows)), rows, 0.8 if len(rows) <= 128 else 1.0, color=colours)
    axes.axhline(rows.mean(), color=PALETTE["black"], linestyle="--", linewidth=1.0)
    edge = max(0.6, 0.012 * len(rows))  # the first bar stands apart from the axis
    axes.set_xlim(-edge, len(rows) - 1 + edge)
    axes.set_ylabel("rows")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
