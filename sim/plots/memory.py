"""Memory of a device over time, where layers come and go."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from sim.plots.colours import DEVICE_COLOURS, PALETTE
from sim.plots.style import add_title, new_figure, points, set_title, shared_style
from sim.program import Floats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH_IN = 8.0

Series = tuple[Floats, Floats]
"""(times in seconds, bytes from each on)."""


def draw(
    devices: Mapping[str, Series], limited: Collection[str], capacity_bytes: float, end_s: float, title: str = ""
) -> Figure:
    """Draws a line per device, in GiB, and for `limited` ones the capacity of a chip."""
    made = new_figure(_WIDTH_IN, 1.2 + 1.9 * len(devices))
    with shared_style():
        axes = made.subplots(len(devices), 1, squeeze=False, sharex=True)[:, 0]
        colours = itertools.cycle(DEVICE_COLOURS)
        for axis, (name, (times, sizes)), colour in zip(axes, devices.items(), colours, strict=False):
            x = np.append(times, end_s) * 1e3
            y = np.append(sizes, sizes[-1]) / 2**30
            axis.step(x, y, where="post", color=colour, linewidth=1.4)
            axis.fill_between(x, y, step="post", color=colour, alpha=0.15)
            if name in limited:
                axis.axhline(capacity_bytes / 2**30, color=PALETTE["grey"], linestyle="--", linewidth=0.9)
                axis.annotate(
                    "capacity",
                    (0, capacity_bytes / 2**30),
                    fontsize=points(7),
                    va="bottom",
                    color=PALETTE["grey"],
                    xytext=(2, 1),
                    textcoords="offset points",
                )
            set_title(axis, f"{name}: {y.min():.1f} to {y.max():.1f} GiB", _WIDTH_IN)
            axis.set_ylim(0, max(capacity_bytes / 2**30 if name in limited else 0.0, y.max()) * 1.12)
            axis.set_ylabel("GiB")
        axes[-1].set_xlabel("time, ms")
        axes[-1].set_xlim(0, end_s * 1e3)
        if title:
            add_title(made, title)
    return made
