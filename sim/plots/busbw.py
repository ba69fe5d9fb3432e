"""A collective against its size, simulated, by the closed form and as measured: its time, and its bus bandwidth.

Bus bandwidth tells large sizes apart and is flat at zero for small ones, whose time tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sim import units
from sim.closed_form.collectives import busbw
from sim.plots.colours import PALETTE
from sim.plots.style import add_title, is_narrow, new_figure, points, set_plain_ticks, shared_style
from sim.report.collective_result import CollectiveResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]
"""(size in bytes, time in s) of each."""

_TICKS, _NARROW_TICKS = 9, 5
_LEVELS, _LEVEL = 3, 0.05
"""Names of algorithms that follow each other stand at so many heights, so far apart, share of the axes."""


def draw(rows: Sequence[CollectiveResult], machine: str, *, measured: Points = (), settings: str = "") -> Figure:
    """Draws the line of the sweep, the closed form dashed, measured points hollow, and the algorithm where it changes.

    Args:
        measured: published measurements; those of sizes beyond the sweep are left out.
        settings: of the machine and the sweep, for the second line of the title.
    """
    first, sizes = rows[0], [row.size_bytes for row in rows]
    measured = [(size, time_s) for size, time_s in measured if min(sizes) <= size <= max(sizes)]

    def microseconds(_: float, time_s: float) -> float:
        return 1e6 * time_s

    def gb_per_s(size: float, time_s: float) -> float:
        return busbw(first.collective, first.group, size, time_s) / 1e9

    with shared_style():
        made = new_figure(10.6, 6.0 if is_narrow() else 4.6)
        times, rates = made.subplots(2, 1) if is_narrow() else made.subplots(1, 2)
        top = _draw_points(times, microseconds, rows, measured)
        times.set(yscale="log", ylabel="time, us", title="Time: small sizes")
        times.set_ylim(top=4 * top)
        set_plain_ticks(times.yaxis)
        times.legend(loc="upper left", bbox_to_anchor=(0, 1 - _LEVELS * _LEVEL))
        top = _draw_points(rates, gb_per_s, rows, measured)
        rates.set(ylim=(0, 1.12 * top), ylabel="bus bandwidth, GB/s one way", title="Bus bandwidth: large ones")
        for axes in (times, rates):
            _draw_sizes(axes, rows)
        add_title(made, "\n".join(filter(None, (f"{first.collective} on {machine}, {first.group} chips", settings))))
    return made


def _draw_points(
    axes: Axes, value: Callable[[float, float], float], rows: Sequence[CollectiveResult], measured: Points
) -> float:
    """Draws all lines and points of a panel; returns the largest value, of the closed form up to twice the others'."""
    simulated = [(row.size_bytes, value(row.size_bytes, row.time_s)) for row in rows]
    axes.plot(*zip(*simulated, strict=True), "-o", ms=3, color=PALETTE["blue"], label="simulated")
    predicted = [(row.size_bytes, value(row.size_bytes, time)) for row in rows if (time := row.closed_form_s)]
    if predicted:
        axes.plot(*zip(*predicted, strict=True), "--", lw=1, color=PALETTE["vermilion"], label=rows[0].form)
    published = [(size, value(size, time_s)) for size, time_s in measured]
    if published:
        look = {"s": 20, "facecolors": "none", "edgecolors": PALETTE["black"], "linewidths": 0.9}
        axes.scatter(*zip(*published, strict=True), label="measured", **look)  # type: ignore[arg-type]
    top = max(y for _, y in simulated + published)
    return max([top, *(min(y, 2 * top) for _, y in predicted)])


def _draw_sizes(axes: Axes, rows: Sequence[CollectiveResult]) -> None:
    """Sizes in binary units, and the algorithm where another begins."""
    sizes = [row.size_bytes for row in rows]
    ticks = sizes[:: -(-len(sizes) // (_NARROW_TICKS if is_narrow() else _TICKS))]
    axes.set(xscale="log", xlabel="size")
    axes.set_xticks(ticks)
    axes.set_xticklabels([units.format_bytes(size).replace(".00 ", " ") for size in ticks], rotation=30)
    axes.minorticks_off()
    axes.grid(visible=True, axis="y")
    changes = 0
    for number, row in enumerate(rows):
        if number == 0 or row.algorithm != rows[number - 1].algorithm:
            axes.axvline(row.size_bytes, color=PALETTE["light"], lw=0.8, zorder=0)
            ha = "right" if number == len(rows) - 1 > 0 else "left"
            place = {
                "xycoords": axes.get_xaxis_transform(),
                "fontsize": points(7),
                "va": "top",
                "color": "0.35",
                "ha": ha,
            }
            axes.annotate(f" {row.algorithm} ", (row.size_bytes, 0.985 - _LEVEL * (changes % _LEVELS)), **place)  # type: ignore[arg-type]
            changes += 1
