"""Fonts and sizes that all figures share, and a save that gives the same bytes for the same figure.

Figures are built without pyplot, so nothing global is touched and no display is needed. A figure is as wide as it
needs, or within `page_width` as wide as a column of a paper; it is then laid out for that width, not scaled down.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.plots import png
from sim.plots.colours import PALETTE

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis, XAxis
    from matplotlib.figure import Figure as Figure  # for those who save what a plot draws

DPI, PAGE_DPI = 150, 300
"""Pixels per inch of a PNG, and of one that is drawn for a page."""
TITLE, PANEL_TITLE, SMALL = 10.8, 10.0, 8.5
"""Points of a title, of one of a panel, and of what stands below a title."""
NARROW_IN = 5.0
"""A narrower figure has its legend below and its panels one above the other, in smaller letters."""
_NOTE_POINTS, _NOTE_MARGIN_IN = 6.5, 0.3
"""Size of notes below a figure, and what they leave free at both edges together."""
LEAST_POINTS = 6.0
"""Smallest letters of a narrow figure."""
_NARROW_POINTS = 0.78
"""Size of letters in a narrow figure, relative to that in a wide one."""
_FONT = "DejaVu Sans"
"""Ships with matplotlib, so text is the same on every machine."""
_WORDS, _PIECES = re.compile(r"\S+\s*"), re.compile(r"[^_,=-]*[_,=-]+\s*|[^_,=-]+")
"""Words of a text with the space behind them, and the pieces at whose ends a long word may break."""
_TICKS_IN = 1.0
"""Width of the labels beside a panel."""
_HANDLE_EM = 4.8
"""Width of a legend's sample with the gaps around it."""

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": [_FONT],
    "font.size": 9,
    "axes.titlesize": PANEL_TITLE,
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
    "text.hinting": "none",  # as `text_width` measures; hinting takes twice as long, and 150 dpi need none
    "text.parse_math": False,  # names and titles are text, whatever signs they hold
    "svg.hashsalt": "sim",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # TrueType outlines: publishers refuse bitmap fonts of Type 3
}
_page_width_in: ContextVar[float | None] = ContextVar("page width", default=None)


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


def _dpi() -> int:
    return PAGE_DPI if _page_width_in.get() else DPI


def points(size: float) -> float:
    """Returns the size of letters that have `size` points in a wide figure."""
    return max(LEAST_POINTS, _NARROW_POINTS * size) if is_narrow() else size


def shared_style() -> AbstractContextManager[None]:
    """Returns a context with the rcParams of the shared style, restored on leaving."""
    import matplotlib as mpl

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
            dpi=_dpi(),
        )
        FigureCanvasAgg(made)
    return made


def add_title(made: Figure, title: str, x: float = 0.01) -> None:
    """Adds the first line of the title in bold above the axes, and the settings of a run smaller below it."""
    from matplotlib.text import Annotation

    name, _, below = title.partition("\n")
    room, size = made.get_figwidth() * (1 - 2 * x), points(TITLE)
    with shared_style():
        name = wrap(name, room, size, is_bold=True)
        head = made.suptitle(f"{name}\n " if below else name, x=x, ha="left", fontsize=size, fontweight="bold")
        if below:
            place = {"xycoords": head, "ha": "left", "va": "bottom", "annotation_clip": False, "color": "0.35"}
            place |= {"fontsize": points(SMALL)}
            text = shorten(below, room, points(SMALL))
            made.add_artist(Annotation(text, (0, 0.12 / (1 + name.count("\n"))), **place))  # type: ignore[arg-type]


def set_title(axes: Axes, title: str, needed_in: float, labels_in: float = _TICKS_IN) -> None:
    """Sets the title of a panel as `wrap_title` returns it."""
    axes.set_title(wrap_title(title, needed_in, labels_in), y=1.0)  # given: matplotlib would measure all ticks for it


def wrap_title(title: str, needed_in: float, labels_in: float = _TICKS_IN) -> str:
    """Returns the title of a panel as wide as its figure, in lines that fit.

    Args:
        needed_in: width that the figure needs, inches.
        labels_in: width of the labels beside the panel, inches.
    """
    return wrap(title, figure_width(needed_in) - labels_in, points(PANEL_TITLE))


def text_width(text: str, size: float, *, is_bold: bool = False) -> float:
    """Returns the width of a line of text of so many points as it is drawn, inches.

    Letters that are set closer than others, as A and V, take up to 4 % less.
    """
    return sum(_advance_in(letter, size, is_bold, _dpi()) for letter in text)


@cache
def _advance_in(letter: str, size: float, is_bold: bool, dpi: int) -> float:
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.ft2font import LoadFlags

    font = get_font(findfont(FontProperties(family=_FONT, weight="bold" if is_bold else "normal")))
    font.set_size(size, dpi)
    return float(font.load_char(ord(letter), flags=LoadFlags.NO_HINTING).horiAdvance) / 64 / dpi


def _count_fitting(text: str, width_in: float, size: float, *, is_bold: bool = False) -> int:
    """Returns how many of the first letters of a text fit into a width, inches; one at least."""
    counts = range(1, len(text) + 1)
    return max(1, bisect_right(counts, width_in, key=lambda count: text_width(text[:count], size, is_bold=is_bold)))


def shorten(text: str, width_in: float, size: float) -> str:
    """Returns as much of a line of text of so many points as fits, with an ellipsis if it is cut."""
    if text_width(text, size) <= width_in:
        return text
    return f"{text[: _count_fitting(text, width_in - text_width('…', size), size)]}…"


def wrap(text: str, width_in: float, size: float, *, is_bold: bool = False) -> str:
    """Returns the text in lines that fit into a width, inches, in letters of so many points.

    A word that is longer than a line breaks after `_`, `,`, `=` or `-`, and what is then still longer at any letter.
    """

    def fits(line: str) -> bool:
        return text_width(line.rstrip(), size, is_bold=is_bold) <= width_in

    def pieces(word: str) -> Iterator[str]:
        for piece in [word] if fits(word) else _PIECES.findall(word):
            while not fits(piece) and len(piece) > 1:
                count = _count_fitting(piece, width_in, size, is_bold=is_bold)
                yield piece[:count]
                piece = piece[count:]
            yield piece

    lines = []
    for paragraph in text.split("\n"):
        lines.append("")
        for word in _WORDS.findall(paragraph):
            for piece in pieces(word):
                if lines[-1] and not fits(lines[-1] + piece):
                    lines.append("")
                lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def add_legend(
    made: Figure, handles: Sequence[Artist], *, below: bool = False, title: str = "", notes: Sequence[str] = ()
) -> None:
    """Adds a legend beside the axes, or with `below` and in narrow figures below them, in as many columns as fit.

    Args:
        notes: lines below the figure.
    """
    size = points(_NOTE_POINTS)
    caption = "\n".join(wrap(note, made.get_figwidth() - _NOTE_MARGIN_IN, size) for note in notes)
    if not (below or is_narrow()):
        made.legend(handles=handles, loc="outside right center", title=title or None, alignment="left")
        if caption:
            made.supxlabel(caption, x=0.01, ha="left", fontsize=size)
        return
    handles = [handle for handle in handles if handle.get_label()]
    labels = [str(handle.get_label()) for handle in handles]
    columns = legend_columns(labels, made.get_figwidth())
    title = "\n".join(filter(None, (caption, title)))
    made.legend(handles=handles, loc="outside lower center", ncols=columns, title=title or None, alignment="left")


def legend_columns(labels: Sequence[str], width_in: float) -> int:
    """Returns in how many columns a legend fits into a width, inches; a column is as wide as its longest label."""
    size = points(_STYLE["legend.fontsize"])
    widths = [max(text_width(line, size) for line in label.split("\n")) + _HANDLE_EM * size / 72 for label in labels]
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
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

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
    axis.set_minor_locator(NullLocator())  # many ticks between labels would take as long as all else of the axes


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
            canvas: Any = made.canvas  # that of `new_figure`
            canvas.draw()
            png.write(np.asarray(canvas.buffer_rgba()), path)
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
