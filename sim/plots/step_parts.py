"""Stacked bars: the parts of a step of each layout, scheme or other choice, the critical path of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sim.plots.colours import PALETTE, PART_LOOKS
from sim.plots.style import add_legend, add_title, figure_width, new_figure, points, shared_style, text_width, wrap
from sim.report import critical_path as critical
from sim.units import TIME_UNITS, format_bytes, format_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOOKS = {
    "compute": PART_LOOKS[critical.MEMORY],
    "slowed compute": PART_LOOKS[critical.SLOWED],
    "overhead": PART_LOOKS[critical.OP_OVERHEAD],
    "message latency": PART_LOOKS[critical.LATENCY],
    "message transfer": PART_LOOKS[critical.TRANSFER],
    "waits": PART_LOOKS["pipeline bubble"],
}
_WIDTH_IN, _AROUND_IN, _ROW_IN, _LINE_IN = 9.0, 1.25, 0.12, 0.135
_NAMES = 0.34
"""Share of the width for the names of bars."""
_POINTS = 8.0


class Bar(Struct, frozen=True):
    """Parts of a step, s, by name, and what it keeps in a chip's memory."""

    label: str
    parts: Mapping[str, float]
    memory_bytes: float | None = None
    """Most of any chip."""

    @property
    def total_s(self) -> float:
        """The whole step."""
        return sum(self.parts.values())


def draw(bars: Sequence[Bar], title: str) -> Figure:
    """Draws a bar per choice from the top, with parts in per cent and, at its end, the step and a chip's memory."""
    from matplotlib.patches import Patch

    width_in, size = figure_width(_WIDTH_IN), points(_POINTS)
    names = [wrap(bar.label, _NAMES * width_in, size) for bar in bars]
    heights = [_ROW_IN + _LINE_IN * (1 + name.count("\n")) for name in names]
    longest = max(bar.total_s for bar in bars)
    unit_s, unit = next((each for each in TIME_UNITS if longest >= each[0]), TIME_UNITS[-1])
    made = new_figure(_WIDTH_IN, _AROUND_IN + sum(heights))
    total_in = 1.1 * max(text_width(_describe_total(bar), size) for bar in bars)
    bars_in = (1 - _NAMES) * width_in - total_in
    percent_s = longest * text_width("100%", size) / bars_in
    looks: dict[str, dict[str, Any]] = {
        name: {"facecolor": look.colour, "hatch": 2 * look.hatch, "edgecolor": "white", "linewidth": 0.5}
        for name, look in _LOOKS.items()
    }
    with shared_style():
        axes = made.add_subplot()
        y, middles = 0.0, []
        for bar, height in zip(bars, heights, strict=True):
            middles.append(y + height / 2)
            left = 0.0
            for name, time_s in bar.parts.items():
                axes.barh(middles[-1], time_s / unit_s, height - _ROW_IN / 2, left / unit_s, **looks[name])
                if time_s > percent_s:
                    dark = _LOOKS[name].colour == PALETTE["grey"]
                    place = (left + time_s / 2) / unit_s, middles[-1], f"{time_s / bar.total_s:.0%}"
                    axes.text(*place, ha="center", va="center", fontsize=size, color="white" if dark else "black")
                left += time_s
            axes.text(left / unit_s, middles[-1], _describe_total(bar), va="center", fontsize=size)
            y += height
        axes.set_yticks(middles, names, fontsize=size)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(y, 0)
        axes.set_xlim(0, longest / unit_s * (1 + total_in / bars_in))
        axes.spines["left"].set_visible(False)
        axes.grid(visible=True, axis="x")
        axes.set_xlabel(f"time on the critical path of a step, {unit}")
        seen = dict.fromkeys(name for name in looks if any(bar.parts.get(name) for bar in bars))
        add_legend(made, [Patch(label=name, **looks[name]) for name in seen], below=True)
        add_title(made, title)
    return made


def _describe_total(bar: Bar) -> str:
    kept = "" if bar.memory_bytes is None else f", {format_bytes(bar.memory_bytes)}"
    return f" {format_seconds(bar.total_s)}{kept}"
