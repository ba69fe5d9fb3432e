"""Matrix of bytes from chip to chip in one dispatch, with what every chip sends and receives beside it.

Combine sends the same rows the other way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sim.plots.colours import LOAD_COLOURS, PALETTE
from sim.plots.style import add_title, figure_width, is_narrow, new_figure, points, set_title, shared_style
from sim.program import ExpertRows, Floats
from sim.topology.boxes import boxes
from sim.topology.graph import Topology
from sim.units import BYTE_UNITS, format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN, _MARGIN_IN = 7.0, 0.62
"""Widths of the figure and of the bars beside the matrix."""
_KEPT = "#F2F2F2"
"""Colour of what a chip keeps."""
_STANDS_OUT = 1.1
"""More than this times the mean is marked."""


def draw(rows: ExpertRows, machine: Topology, title: str = "") -> Figure:
    """Draws the bytes of one layer's dispatch between the chips of a whole machine."""
    between = rows.bytes_between("dispatch")
    sent, received = between.sum(axis=1), between.sum(axis=0)
    unit, name = next((each for each in BYTE_UNITS if between.max() >= each[0]), (1, "B"))
    width_in = figure_width(_WIDTH_IN)
    made = new_figure(_WIDTH_IN, 0.92 * width_in + (0.75 if is_narrow() else 0.45))
    with shared_style():
        ratios: dict[str, Any] = {"width_ratios": [width_in, _MARGIN_IN], "height_ratios": [_MARGIN_IN, width_in]}
        panels = made.subplots(2, 2, gridspec_kw=ratios)
        (above, corner), (matrix, beside) = panels
        corner.set_axis_off()
        shown = np.ma.masked_array(between / unit, np.eye(len(between), dtype=bool))
        image = matrix.imshow(shown, cmap=LOAD_COLOURS, vmin=0.0, aspect="auto", interpolation="nearest")
        matrix.set_facecolor(_KEPT)
        matrix.set_xlabel("to chip")
        matrix.set_ylabel("from chip")
        for edge in (chips[0] for chips in boxes(machine)[1:] if not machine.has_lines):
            for line in (matrix.axhline, matrix.axvline):
                line(edge - 0.5, color="white", linewidth=1.0)
        limit = 1.15 * max(sent.max(), received.max(), 1.0)
        _draw_sums(above, received, limit, "receives")
        _draw_sums(beside, sent, limit, "sends")
        bar = made.colorbar(image, ax=panels, location="bottom", aspect=40, pad=0.02, shrink=0.8)
        bar.outline.set_visible(False)
        bar.set_label(f"{name} from chip to chip in a layer (grey: kept)")
        share = rows.row_bytes["combine"] / rows.row_bytes["dispatch"]
        each = f"A chip sends {format_bytes(float(sent.mean()))} on average"
        most = f", receives {format_bytes(float(received.max()))} at most" if not rows.even else ""
        back = f"; combine takes {share:.3g} times as much back" if share != 1 else "; combine takes as much back"
        set_title(above, f"{each}{most}{back}", _WIDTH_IN)
        first, _, below = title.partition("\n")
        add_title(made, "\n".join(filter(None, [f"{first}: dispatch of a layer", below])))
    return made


def _draw_sums(axes: Axes, sums: Floats, limit: float, verb: str) -> None:
    """Draws what every chip sends beside its row, or receives above its column."""
    orientation: Literal["vertical", "horizontal"] = "vertical" if verb == "receives" else "horizontal"
    stands_out = sums.max() > _STANDS_OUT * sums.mean()
    parts = {PALETTE["blue"]: sums}
    if stands_out:
        parts[PALETTE["vermilion"]] = np.where(sums == sums.max(), sums, 0.0)
    for colour, heights in parts.items():  # one outline: edges of single bars would show as stripes
        axes.stairs(heights, np.arange(len(sums) + 1) - 0.5, orientation=orientation, fill=True, color=colour)
    if verb == "receives":
        axes.set_ylim(0, limit)
        axes.set_xlim(-0.5, len(sums) - 0.5)
        axes.set_ylabel(verb, fontsize=points(8))
    else:
        axes.set_xlim(0, limit)
        axes.set_ylim(len(sums) - 0.5, -0.5)
        axes.set_xlabel(verb, fontsize=points(8))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
