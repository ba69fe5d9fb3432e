"""Fonts and sizes that all figures share, and a save that gives the same bytes for the same figure.

Figures are built without pyplot, so nothing global is touched and no display is needed.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from sim.plots.colours import PALETTE

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Figure  # for those who save what a plot draws

DPI = 150
SMALL = 8.5
"""Points of what stands below a title."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so text is the same on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": PALETTE["grey"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": PALETTE["light"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.parse_math": False,  # names and titles are text, whatever signs they hold
    "svg.hashsalt": "sim",
    "svg.fonttype": "none",
}


def shared_style() -> AbstractContextManager[None]:
    """Returns a context with the rcParams of the shared style, restored on leaving."""
    return mpl.rc_context(_STYLE)


def new_figure(width_in: float, height_in: float) -> Figure:
    """Returns an empty figure in the shared style, laid out without overlaps; add axes inside `shared_style()`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with shared_style():
        made = Figure(figsize=(width_in, height_in), layout="constrained", dpi=DPI)
        FigureCanvasAgg(made)
    return made


def add_title(made: Figure, title: str, x: float = 0.01) -> None:
    """Adds the first line of the title in bold above the axes, and the settings of a run smaller below it."""
    from matplotlib.text import Annotation

    name, _, below = title.partition("\n")
    with shared_style():
        head = made.suptitle(f"{name}\n " if below else name, x=x, ha="left", fontsize=10.8, fontweight="bold")
        if below:
            text = shorten(below, made.get_figwidth() * (1 - 2 * x))
            place = {"xycoords": head, "ha": "left", "va": "bottom", "annotation_clip": False}
            made.add_artist(Annotation(text, (0, 0.12), fontsize=SMALL, color="0.35", **place))  # type: ignore[arg-type]


def shorten(text: str, width_in: float, size: float = SMALL) -> str:
    """Returns as much of a line of small text as fits, with an ellipsis if it is cut."""
    room = int(width_in * 72 / (0.55 * size))  # a letter of DejaVu Sans is 0.55 em wide on average
    return text if len(text) <= room else f"{text[: room - 1]}…"


def set_plain_ticks(axis: Axis, unit: float = 1.0) -> None:
    """Labels a logarithmic axis whose limits are set with plain numbers, in multiples of `unit`.

    At 1, 2 and 5 of every decade, where there are many at 1 alone: labels of x stand side by side and need more room.
    The default labels are mathematics, which is off.
    """
    from matplotlib.axis import XAxis
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    few = high < low * (10**2.5 if isinstance(axis, XAxis) else 10**4.5)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=40))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def save(made: Figure, path: Path | str) -> None:
    """Writes the figure in the format of the path's suffix, without dates or versions: same figure, same bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _lay_out(made)
    with shared_style():
        if path.suffix == ".png":
            _save_png(made, path)
            return
        metadata: dict[str, Any] = {
            ".svg": {"Date": None, "Creator": None},
            ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        }.get(path.suffix, {})
        made.savefig(path, dpi=DPI, metadata=metadata)


def _lay_out(made: Figure) -> None:
    """Places the axes once for all formats; savefig would draw the figure a second time for that."""
    engine = made.get_layout_engine()
    if engine is not None:
        with shared_style():
            engine.execute(made)
        made.set_layout_engine("none")


def _save_png(made: Figure, path: Path) -> None:
    """Writes the pixels without the fourth channel: figures are opaque, and less data takes less compression."""
    from PIL import Image

    pixels = io.BytesIO()
    made.savefig(pixels, format="rgba", dpi=DPI)
    size = made.canvas.get_width_height(physical=True)
    Image.frombuffer("RGBA", size, pixels.getvalue()).convert("RGB").save(path, compress_level=3)
