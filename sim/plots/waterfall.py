"""The way from a formula to the simulated step as a waterfall, an effect a row, with its reason beside it.

Everything that is read stands in a column of its own, so no label can cover another.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sim.plots.colours import CHANGE_COLOURS, PALETTE
from sim.plots.style import (
    SMALL,
    figure_width,
    is_narrow,
    new_figure,
    points,
    shared_style,
    shorten,
    wrap,
)
from sim.report.present.explanation import Bar, Explanation
from sim.units import format_count, format_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN, _MARGIN_IN = 14.0, 0.12
_BOTTOM_IN = 0.6
_LINE_IN = 0.135
_HEADER_IN = 0.3
_TITLE = 13.0
"""Points of the title."""
_LETTERS = 72
"""Letters in a line of a reason."""


class _Columns(Struct, frozen=True):
    """Places of what stands in a row, inches from the left edge of the figure."""

    width: float
    name: float
    bars: tuple[float, float]
    """Left edge and width."""
    value: float
    """Right edges of this and of the next two."""
    running: float | None
    share: float
    why: float | None
    """Left edge; the figure of a page leaves reasons to the report."""
    row: float
    """Height of a row."""
    above: float
    """Distance of the name above the middle of its bar: in a narrow figure it has a line of its own."""


def _columns() -> _Columns:
    """Returns the columns of a figure as wide as it needs, or as the page."""
    width = figure_width(_WIDTH_IN)
    if is_narrow():
        return _Columns(width, 0.2, (_MARGIN_IN, width - 1.35), width - 0.6, None, width - 0.08, None, 0.34, 0.15)
    if width < _WIDTH_IN:
        bars = (2.5, max(width - 5.0, 0.5))
        return _Columns(width, 0.25, bars, width - 1.65, width - 0.85, width - 0.15, None, 0.265, 0.0)
    return _Columns(width, 0.25, (2.5, 4.9), 8.25, 9.05, 9.75, 9.95, 0.265, 0.0)


_THICK = 0.62
"""Thickness of a bar, in rows."""
_FAR = 2.2
"""A published value beyond so many times the longest bar is named at the edge."""

_DIM = "#555555"


class Row(Struct, frozen=True):
    """A line of the figure: a bar from `start_s` to `end_s`, or a header without one."""

    kind: str
    """`header`, `formula`, `more`, `less`, `none` or `total`."""
    name: str
    seconds: float
    start_s: float = 0.0
    end_s: float = 0.0
    why: str = ""

    @property
    def lines(self) -> list[str]:
        """The reason, wrapped."""
        return textwrap.wrap(self.why, _LETTERS, break_long_words=False)

    def height_in(self, columns: _Columns) -> float:
        """Returns the height of the row, inches."""
        lines = 0 if columns.why is None else len(self.lines)
        return _HEADER_IN if self.kind == "header" else max(columns.row, _LINE_IN * lines + 0.06)


def draw(explanation: Explanation, settings: str = "") -> Figure:
    """Draws the waterfall, with the settings of the run below its title."""
    rows, columns = list(list_rows(explanation)), _columns()
    height = sum(row.height_in(columns) for row in rows)
    title, below = _title(explanation, settings, columns)
    top_in = 0.4 + 0.2 * title.count("\n") + 0.14 * (below.count("\n") + 1) + 0.32
    height_in = top_in + height + _BOTTOM_IN
    made = new_figure(_WIDTH_IN, height_in)
    made.set_layout_engine("none")  # every place is given
    with shared_style():
        left, width = columns.bars
        axes = made.add_axes((left / columns.width, _BOTTOM_IN / height_in, width / columns.width, height / height_in))
        axes.set_ylim(-height, 0)
        size, unit = explanation.scale.unit
        axes.set_xlim(0, axis_end_s(rows, explanation.published_s) / size)
        _draw_rows(axes, explanation, rows, columns)
        _draw_published(axes, explanation)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_xlabel(f"time of one {explanation.phase} step, {unit}")
        edge = _MARGIN_IN / columns.width
        made.text(edge, 1 - 0.13 / height_in, title, fontsize=points(_TITLE), fontweight="bold", va="top")
        y = 1 - (0.4 + 0.2 * title.count("\n")) / height_in
        made.text(edge, y, below, fontsize=points(SMALL), color=_DIM, va="top")
        y = 1 - (top_in - 0.05) / height_in
        for x_in, column in ((columns.value, "adds"), (columns.running, "so far"), (columns.share, "of step")):
            if x_in is not None:
                made.text(x_in / columns.width, y, column, fontsize=points(8), color=_DIM, ha="right")
        if columns.why is not None:
            made.text(columns.why / columns.width, y, "why", fontsize=points(8), color=_DIM)
    return made


def list_rows(explanation: Explanation) -> Iterator[Row]:
    """Yields the lines of the figure, from the top down."""
    paper, ideal, step = explanation.paper_s, explanation.ideal_s, explanation.step_s
    words, done = explanation.words, 0
    for group, bars in explanation.groups:
        yield Row("header", group, sum(bar.seconds for bar in bars))
        yield from (_row(explanation, bar) for bar in bars)
        done += len(bars)
        if group == words.group:
            yield Row("total", words.first, paper, 0.0, paper, words.first_why)
        elif done == explanation.ideal_at:
            why = f"{words.ideal_why}; its simulation takes the same"
            why = why if explanation.exact else f"{words.ideal_why}; it {format_list(explanation.inexact)}"
            yield Row("total", words.ideal, ideal, 0.0, ideal, why)
    why = f"{step / paper:.2f} times {words.formula}"
    if explanation.published_s is not None:
        off = step / explanation.published_s - 1
        published = explanation.scale.time(explanation.published_s)
        why += f"; {abs(off):.1%} {'above' if off > 0 else 'below'} the published {published}"
    yield Row("total", "Simulated step", step, 0.0, step, why)


def axis_end_s(rows: Iterable[Row], published_s: float | None) -> float:
    """Returns the time at the right end of the bars' axis; a published value that is far beyond them is not on it."""
    longest_s = max(row.end_s for row in rows)
    published_s = published_s or 0.0
    return 1.02 * max(longest_s, published_s if published_s < _FAR * longest_s else 0.0)


def _row(explanation: Explanation, bar: Bar) -> Row:
    kind = "formula" if bar.group == explanation.words.group else "more" if bar.seconds >= 0 else "less"
    if explanation.scale.is_rounding(bar.seconds):
        kind = "none"
    return Row(kind, bar.name, bar.seconds, bar.running_s - bar.seconds, bar.running_s, bar.why)


def _draw_rows(axes: Axes, explanation: Explanation, rows: list[Row], columns: _Columns) -> None:
    """Draws all lines from the top down; each bar begins at the end of the previous one."""
    size, _ = explanation.scale.unit
    y, shaded = 0.0, 0
    end: tuple[float, float] | None = None
    for i, row in enumerate(rows):
        middle = y - row.height_in(columns) / 2 - (0 if row.kind == "header" else columns.above / 2)
        _draw_row(axes, explanation, row, middle, columns)
        if row.kind == "header":
            shaded, top, began = i, y, end[0] if end else 0.0
        else:
            if end:
                axes.plot([end[0] / size] * 2, [end[1], middle], color=PALETTE["grey"], linewidth=0.6, zorder=1)
            end = row.end_s, middle
        y -= row.height_in(columns)
        closes = shaded < i and row.kind not in ("header", "total")
        if closes and (i + 1 == len(rows) or rows[i + 1].kind in ("header", "total")):
            from matplotlib.patches import Rectangle

            shade = Rectangle((began / size, y), (row.end_s - began) / size, top - y, color=PALETTE["light"])
            shade.set(alpha=0.45, linewidth=0, zorder=0.5)
            axes.add_patch(shade)


def _draw_row(axes: Axes, explanation: Explanation, row: Row, middle: float, columns: _Columns) -> None:
    """Draws name, bar, figures and reason of one line; a figure has the colour of its bar."""
    size, _ = explanation.scale.unit
    header, total = row.kind == "header", row.kind == "total"
    bold: Any = {"fontweight": "bold"} if header or total else {}
    left, width = columns.bars

    def write(x_in: float, text: str, y: float = middle, **look: Any) -> None:
        axes.text((x_in - left) / width, y, text, transform=axes.get_yaxis_transform(), va="center", **look)

    if header:
        ends = ((edge - left) / width for edge in (_MARGIN_IN, columns.width - _MARGIN_IN))
        axes.axhline(middle + _HEADER_IN / 2, *ends, color=PALETTE["light"], linewidth=0.8, clip_on=False)
    else:
        colour, thick = CHANGE_COLOURS[row.kind], (columns.row - columns.above) * _THICK
        length = (row.end_s - row.start_s) / size
        axes.barh(middle, length, thick, row.start_s / size, color=colour, edgecolor=colour, linewidth=0.8, zorder=2)
    colour = CHANGE_COLOURS[row.kind] if row.kind in ("more", "less", "none") else PALETTE["black"]
    sign = "" if total else "+"
    beside: Any = (
        {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.3}, "zorder": 3} if columns.above else {}
    )
    name_in = _MARGIN_IN if header or total else columns.name
    write(name_in, row.name, middle + (0 if header else columns.above), fontsize=points(8.5), **bold, **beside)
    right: Any = {"fontsize": points(8), "ha": "right", **bold}
    if not total or columns.running is None:
        write(columns.value, explanation.scale.time(row.seconds, sign), color=colour, **right)
    if not header and columns.running is not None:
        write(columns.running, explanation.scale.time(row.end_s), **right)
    write(columns.share, explanation.scale.share(row.seconds, sign), color=colour, **right)
    if columns.why is not None:
        write(columns.why, "\n".join(row.lines), fontsize=points(7), color=_DIM, linespacing=1.15)


def _draw_published(axes: Axes, explanation: Explanation) -> None:
    """Draws the published step as a line over all rows."""
    published = explanation.published_s
    if published is None:
        return
    x, right = published / explanation.scale.unit[0], axes.get_xlim()[1]
    name, colour = f"published {explanation.scale.time(published)}", CHANGE_COLOURS["published"]
    if x > right:
        name, x = f"{name} →", right
    else:
        axes.axvline(x, color=colour, linewidth=1.4, linestyle=(0, (5, 2)), zorder=3)
    ha = "right" if x > 0.8 * right else "left" if x < 0.2 * right else "center"
    axes.text(x, 0.03, name, color=colour, fontsize=points(8), fontweight="bold", ha=ha, va="bottom")


def _title(explanation: Explanation, settings: str, columns: _Columns) -> tuple[str, str]:
    """Returns the title, and below it what is explained and the settings of the run, in lines that fit."""
    room_in = columns.width - 2 * _MARGIN_IN
    paper, step = explanation.scale.time(explanation.paper_s), explanation.scale.time(explanation.step_s)
    title = f"Why a {explanation.phase} step takes {step} and not the {paper} of {explanation.words.formula}"
    chips = format_count(explanation.chips, "chip")
    below = f"{explanation.scenario} on {explanation.machine}, {chips}. Every row switches on one effect"
    below += " more, in this order; what it adds depends on those above it."
    below += "" if columns.why is not None else " The report has the reasons."
    lines = [wrap(below, room_in, points(SMALL)), *([shorten(settings, room_in, points(SMALL))] if settings else [])]
    return wrap(title, room_in, points(_TITLE), is_bold=True), "\n".join(lines)
