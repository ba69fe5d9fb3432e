"""Bus bandwidth of a collective against its size: simulated, by the closed form, and as measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sim import units
from sim.bench import Measurement
from sim.closed_form.collectives import busbw
from sim.plots.style import PALETTE, figure, save, style


def draw(
    rows: Sequence[Measurement],
    machine: str,
    path: Path | str,
    *,
    form: str = "closed form",
    measured: Iterable[tuple[float, float]] = (),
) -> None:
    """A line of the sweep, the closed form dashed, measured points hollow; the algorithm above where it changes.

    Args:
        form: name of the closed form.
        measured: (size in bytes, time in s) of published measurements.
    """
    first = rows[0]

    def rate(size: float, time_s: float) -> float:
        return busbw(first.collective, first.group, size, time_s) / 1e9

    sizes = [row.size_bytes for row in rows]
    points = list(measured)
    with style():
        made = figure(7.2, 4.4)
        axes = made.add_subplot()
        axes.plot(sizes, [row.busbw / 1e9 for row in rows], "-o", ms=3, color=PALETTE["blue"], label="simulated")
        predicted = [(row.size_bytes, rate(row.size_bytes, time)) for row in rows if (time := row.closed_form_s)]
        if predicted:
            axes.plot(*zip(*predicted, strict=True), "--", lw=1, color=PALETTE["vermilion"], label=form)
        if points:
            values = [rate(size, time_s) for size, time_s in points]
            axes.scatter([size for size, _ in points], values, s=20, facecolors="none", edgecolors="0.3", lw=0.9)
            axes.scatter([], [], s=20, facecolors="none", edgecolors="0.3", lw=0.9, label="measured")
        top = max([row.busbw / 1e9 for row in rows] + [rate(*point) for point in points])
        axes.set(xscale="log", xlabel="size", ylabel="bus bandwidth, GB/s one way", ylim=(0, 1.12 * top))
        ticks = sizes[:: -(-len(sizes) // 10)]
        axes.set_xticks(ticks)
        axes.set_xticklabels([units.format_bytes(size).replace(".00 ", " ") for size in ticks], rotation=30)
        axes.minorticks_off()
        for number, row in enumerate(rows):
            if number == 0 or row.algorithm != rows[number - 1].algorithm:
                axes.axvline(row.size_bytes, color="0.85", lw=0.8, zorder=0)
                axes.text(row.size_bytes, 1.1 * top, f" {row.algorithm}", fontsize=7, va="top", color="0.4")
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0.92))
        made.suptitle(f"{first.collective} on {machine}, {first.group} chips", x=0.02, ha="left", fontsize=10)
    save(made, path)
