"""Fonts and sizes that all figures share, and a save that gives the same bytes for the same figure.

Figures are built without pyplot, so nothing global is touched and no display is needed. A figure is as wide as it
needs, or within `page_width` as wide as a column of a paper; it is then laid out for that width, not scaled down.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from sim.plots.colours import PALETTE

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis, XAxis
    from matplotlib.figure import Figure as Figure  # for those who save what a plot draws

DPI, PAGE_DPI = 150, 300
"""Pixels per inch of a PNG, and of one that is drawn for a page."""
TITLE, SMALL = 10.8, 8.5
"""Points of a title, and of what stands below it."""
BOLD = 1.1
"""Width of bold letters, relative to others."""
NARROW_IN = 5.0
"""A narrower figure has its legend below and its panels one above the other, in smaller letters."""
LEAST_POINTS = 6.0
"""Smallest letters of a narrow figure."""
_NARROW_POINTS = 0.78
"""Size of letters in a narrow figure, relative to that in a wide one."""
LETTER_EM = 0.55
"""Mean width of a letter of DejaVu Sans."""
_TICKS_IN = 1.0
"""Width of the labels beside a panel."""
_HANDLE_EM = 4.8
"""Width of a legend's sample with the gaps around it."""

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
    "legend.title_fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.parse_math": False,  # names and titles are text, whatever signs they hold
    "svg.hashsalt": "sim",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType outlines: publishers refuse bitmap fonts of Type 3
}
_page_width_in: ContextVar[float | None] = ContextVar("page width", default=None)


def load_renderer() -> None:
    """Imports what draws pixels, so that processes that are forked afterwards have it."""
    import matplotlib.backends.backend_agg  # noqa: F401


@contextmanager
def page_width(width_in: float | None) -> Iterator[None]:
    """Figures that are made inside are so wide, inches; with None as wide as they need."""
    token = _page_width_in.set(width_in)
    try:
        yield
    finally:
        _page_width_in.reset(token)


def figure_width(needed_in: float) -> float:
    """Returns the width of a figure that needs `needed_in` inches: that of the page, if one is set."""
    return _page_width_in.get() or needed_in


def is_narrow() -> bool:
    """Returns True if figures are as narrow as a column of a paper."""
    return figure_width(NARROW_IN) < NARROW_IN


def points(size: float) -> float:
    """Returns the size of letters that have `size` points in a wide figure."""
    return max(LEAST_POINTS, _NARROW_POINTS * size) if is_narrow() else size


def shared_style() -> AbstractContextManager[None]:
    """Returns a context with the rcParams of the shared style, restored on leaving."""
    return mpl.rc_context({key: points(value) if key.endswith("size") else value for key, value in _STYLE.items()})


def new_figure(width_in: float, height_in: float) -> Figure:
    """Returns an empty figure in the shared style, laid out without overlaps; add axes inside `shared_style()`.

    Args:
        width_in: width that it needs; within `page_width` it has that of the page.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with shared_style():
        made = Figure(
            figsize=(figure_width(width_in), height_in),
            layout="constrained",
            dpi=PAGE_DPI if _page_width_in.get() else DPI,
        )
        FigureCanvasAgg(made)
    return made


def add_title(made: Figure, title: str, x: float = 0.01) -> None:
    """Adds the first line of the title in bold above the axes, and the settings of a run smaller below it."""
    from matplotlib.text import Annotation

    name, _, below = title.partition("\n")
    room, size = made.get_figwidth() * (1 - 2 * x), points(TITLE)
    with shared_style():
        wrapped = wrap(name, room, BOLD * size)
        fits = all(_bold_width_in(line, size) <= room for line in wrapped.split("\n"))
        name = wrapped if fits else _wrap_names(name, room, size)
        head = made.suptitle(f"{name}\n " if below else name, x=x, ha="left", fontsize=size, fontweight="bold")
        if below:
            place = {"xycoords": head, "ha": "left", "va": "bottom", "annotation_clip": False, "color": "0.35"}
            place |= {"fontsize": points(SMALL)}
            text = shorten(below, room, points(SMALL))
            made.add_artist(Annotation(text, (0, 0.12 / (1 + name.count("\n"))), **place))  # type: ignore[arg-type]


def _bold_width_in(text: str, size: float) -> float:
    """Returns the width of a bold text, inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=size, weight="bold")
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def _wrap_names(text: str, width_in: float, size: float) -> str:
    """Returns a bold text in lines that fit into a width, inches; long names break after `_`, `,` and `=` too."""
    lines = [""]
    for piece in re.findall(r"[^ _,=]*[ _,=]+|[^ _,=]+", text):
        if lines[-1] and _bold_width_in((lines[-1] + piece).rstrip(), size) > width_in:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def set_title(axes: Axes, title: str, needed_in: float, labels_in: float = _TICKS_IN) -> None:
    """Sets the title of a panel as `wrap_title` returns it."""
    axes.set_title(wrap_title(title, needed_in, labels_in))


def wrap_title(title: str, needed_in: float, labels_in: float = _TICKS_IN) -> str:
    """Returns the title of a panel as wide as its figure, in lines that fit.

    Args:
        needed_in: width that the figure needs, inches.
        labels_in: width of the labels beside the panel, inches.
    """
    return wrap(title, figure_width(needed_in) - labels_in, points(_STYLE["axes.titlesize"]))


def letters(width_in: float, size: float) -> int:
    """Returns the number of letters of so many points that fit into a width, inches."""
    return max(1, int(width_in * 72 / (LETTER_EM * size)))


def shorten(text: str, width_in: float, size: float = SMALL) -> str:
    """Returns as much of a line of small text as fits, with an ellipsis if it is cut."""
    room = letters(width_in, size)
    return text if len(text) <= room else f"{text[: room - 1]}…"


def wrap(text: str, width_in: float, size: float) -> str:
    """Returns the text in lines that fit into a width, inches, in letters of so many points."""
    room = letters(width_in, size)
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, room) or [""])


def add_legend(made: Figure, handles: Sequence[Artist], *, below: bool = False, title: str = "") -> None:
    """Adds a legend beside the axes, or with `below` and in narrow figures below them, in as many columns as fit."""
    if not (below or is_narrow()):
        made.legend(handles=handles, loc="outside right center", title=title or None, alignment="left")
        return
    handles = [handle for handle in handles if handle.get_label()]
    labels = [str(handle.get_label()) for handle in handles]
    columns = legend_columns(labels, made.get_figwidth())
    made.legend(handles=handles, loc="outside lower center", ncols=columns, title=title or None, alignment="left")


def legend_columns(labels: Sequence[str], width_in: float) -> int:
    """Returns in how many columns a legend fits into a width, inches; a column is as wide as its longest label."""
    em_in = points(_STYLE["legend.fontsize"]) / 72
    widths = [max(map(len, label.split("\n"))) * LETTER_EM * em_in + _HANDLE_EM * em_in for label in labels]
    for columns in range(len(labels), 1, -1):
        rows = -(-len(labels) // columns)
        if sum(max(widths[i : i + rows]) for i in range(0, len(widths), rows)) <= width_in:
            return -(-len(labels) // rows)
    return 1


def set_plain_ticks(axis: Axis, unit: float = 1.0) -> None:
    """Labels a logarithmic axis whose limits are set with plain numbers, in multiples of `unit`.

    At 1, 2 and 5 of every decade, of more decades at 1 and 3, of many at 1 alone, and of some decades only where labels
    of x, which stand side by side, would still touch. The default labels are mathematics, which is off.
    """
    from matplotlib.axis import XAxis
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    def label(value: float, _: int | None = None) -> str:
        return f"{value / unit:,.6g}"

    low, high = axis.get_view_interval()
    most = (2.5 if isinstance(axis, XAxis) else 4.5) / (2 if is_narrow() else 1)
    decades = math.log10(high / low)
    choices = [(10.0, (1.0, 2.0, 5.0)), (10.0, (1.0, 3.0)), *((10.0**every, (1.0,)) for every in (1, 2, 3))]
    for base, subs in choices[0 if decades < most else 1 if decades < 1.5 * most else 2 :]:
        locator = LogLocator(base=base, subs=subs, numticks=40)
        shown = [label(value) for value in locator.tick_values(low, high) if low <= value <= high]
        if not isinstance(axis, XAxis) or _fit_side_by_side(axis, shown):
            break
    axis.set_major_locator(locator)
    axis.set_major_formatter(FuncFormatter(label))
    axis.set_minor_formatter(NullFormatter())


def _fit_side_by_side(axis: XAxis, labels: Sequence[str]) -> bool:
    """Estimates whether labels fit the axis with a digit and a half between them; a digit is 0.6 as wide as high."""
    length = 72 * axis.axes.get_window_extent().width / axis.axes.figure.dpi
    return sum(len(label) + 1.5 for label in labels) * 0.6 * points(8) <= length


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
        made.savefig(path, dpi="figure", metadata=metadata)


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
    made.savefig(pixels, format="rgba", dpi="figure")
    size = made.canvas.get_width_height(physical=True)
    Image.frombuffer("RGBA", size, pixels.getvalue()).convert("RGB").save(path, compress_level=3)
