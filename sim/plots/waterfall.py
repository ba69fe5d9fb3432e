"""The way from a formula to the simulated step as a waterfall, an effect a row, with its reason beside it.

Everything that is read stands in a column of its own, so no label can cover another.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim.plots.colours import CHANGE_COLOURS, PALETTE
from sim.plots.style import SMALL, new_figure, shared_style, shorten
from sim.report.present.explanation import Bar, Explanation
from sim.units import format_count, format_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN, _MARGIN_IN = 14.0, 0.12
_NAME_IN = 0.25
_BARS_IN = (2.5, 4.9)
"""Left edge and width of the bars."""
_VALUE_IN, _RUNNING_IN, _SHARE_IN = 8.25, 9.05, 9.75
"""Right edges of columns."""
_WHY_IN = 9.95
_TOP_IN, _BOTTOM_IN = 1.0, 0.6
_ROW_IN, _LINE_IN = 0.265, 0.135
_HEADER_IN = 0.3
_LETTERS = 72
"""Letters in a line of a reason."""
_THICK = 0.62
"""Thickness of a bar, in rows."""
_FAR = 2.2
"""A published value beyond so many times the longest bar is named at the edge."""

_DIM = "#555555"


@dataclass(frozen=True, slots=True)
class Row:
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

    @property
    def height_in(self) -> float:
        """Height of the row."""
        return _HEADER_IN if self.kind == "header" else max(_ROW_IN, _LINE_IN * len(self.lines) + 0.06)


def draw(explanation: Explanation, settings: str = "") -> Figure:
    """Draws the waterfall, with the settings of the run below its title."""
    rows = list(list_rows(explanation))
    height = sum(row.height_in for row in rows)
    height_in = _TOP_IN + height + _BOTTOM_IN
    made = new_figure(_WIDTH_IN, height_in)
    made.set_layout_engine("none")  # every place is given
    with shared_style():
        left, width = _BARS_IN
        axes = made.add_axes((left / _WIDTH_IN, _BOTTOM_IN / height_in, width / _WIDTH_IN, height / height_in))
        axes.set_ylim(-height, 0)
        size, unit = explanation.scale.unit
        axes.set_xlim(0, axis_end_s(rows, explanation.published_s) / size)
        _draw_rows(axes, explanation, rows)
        _draw_published(axes, explanation)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_xlabel(f"time of one {explanation.phase} step, {unit}")
        _draw_title(made, explanation, settings, height_in)
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


def _draw_rows(axes: Axes, explanation: Explanation, rows: list[Row]) -> None:
    """Draws all lines from the top down; each bar begins at the end of the previous one."""
    size, _ = explanation.scale.unit
    y, shaded = 0.0, 0
    end: tuple[float, float] | None = None
    for i, row in enumerate(rows):
        middle = y - row.height_in / 2
        _draw_row(axes, explanation, row, middle)
        if row.kind == "header":
            shaded, top, began = i, y, end[0] if end else 0.0
        else:
            if end:
                axes.plot([end[0] / size] * 2, [end[1], middle], color=PALETTE["grey"], linewidth=0.6, zorder=1)
            end = row.end_s, middle
        y -= row.height_in
        closes = shaded < i and row.kind not in ("header", "total")
        if closes and (i + 1 == len(rows) or rows[i + 1].kind in ("header", "total")):
            from matplotlib.patches import Rectangle

            shade = Rectangle((began / size, y), (row.end_s - began) / size, top - y, color=PALETTE["light"])
            shade.set(alpha=0.45, linewidth=0, zorder=0.5)
            axes.add_patch(shade)


def _draw_row(axes: Axes, explanation: Explanation, row: Row, middle: float) -> None:
    """Draws name, bar, figures and reason of one line; a figure has the colour of its bar."""
    size, _ = explanation.scale.unit
    header, total = row.kind == "header", row.kind == "total"
    bold: Any = {"fontweight": "bold"} if header or total else {}
    if header:
        left, width = _BARS_IN
        ends = ((edge - left) / width for edge in (_MARGIN_IN, _WIDTH_IN - _MARGIN_IN))
        axes.axhline(middle + row.height_in / 2, *ends, color=PALETTE["light"], linewidth=0.8, clip_on=False)
    else:
        colour, thick = CHANGE_COLOURS[row.kind], _ROW_IN * _THICK
        length = (row.end_s - row.start_s) / size
        axes.barh(middle, length, thick, row.start_s / size, color=colour, edgecolor=colour, linewidth=0.8, zorder=2)
    colour = CHANGE_COLOURS[row.kind] if row.kind in ("more", "less", "none") else PALETTE["black"]
    sign = "" if total else "+"
    _text(axes, _MARGIN_IN if header or total else _NAME_IN, middle, row.name, fontsize=8.5, **bold)
    right: Any = {"fontsize": 8, "ha": "right", **bold}
    if not total:
        _text(axes, _VALUE_IN, middle, explanation.scale.time(row.seconds, sign), color=colour, **right)
    if not header:
        _text(axes, _RUNNING_IN, middle, explanation.scale.time(row.end_s), **right)
    _text(axes, _SHARE_IN, middle, explanation.scale.share(row.seconds, sign), color=colour, **right)
    _text(axes, _WHY_IN, middle, "\n".join(row.lines), fontsize=7, color=_DIM, linespacing=1.15)


def _text(axes: Axes, x_in: float, y: float, text: str, **look: Any) -> None:
    """Writes text at a distance from the figure's left edge, in inches."""
    left, width = _BARS_IN
    axes.text((x_in - left) / width, y, text, transform=axes.get_yaxis_transform(), va="center", **look)


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
    axes.text(x, 0.03, name, color=colour, fontsize=8, fontweight="bold", ha=ha, va="bottom")


def _draw_title(made: Figure, explanation: Explanation, settings: str, whole_in: float) -> None:
    left = _MARGIN_IN / _WIDTH_IN
    paper, step = explanation.scale.time(explanation.paper_s), explanation.scale.time(explanation.step_s)
    title = f"Why a {explanation.phase} step takes {step} and not the {paper} of {explanation.words.formula}"
    made.text(left, 1 - 0.13 / whole_in, title, fontsize=13, fontweight="bold", va="top")
    chips = format_count(explanation.chips, "chip")
    below = f"{explanation.scenario} on {explanation.machine}, {chips}. Every row switches on one effect"
    below += " more, in this order; what it adds depends on those above it."
    below += f"\n{shorten(settings, _WIDTH_IN - 2 * _MARGIN_IN)}" if settings else ""
    made.text(left, 1 - 0.42 / whole_in, below, fontsize=SMALL, color=_DIM, va="top")
    for x_in, column in ((_VALUE_IN, "adds"), (_RUNNING_IN, "so far"), (_SHARE_IN, "of step")):
        made.text(x_in / _WIDTH_IN, 1 - (_TOP_IN - 0.05) / whole_in, column, fontsize=8, color=_DIM, ha="right")
    made.text(_WHY_IN / _WIDTH_IN, 1 - (_TOP_IN - 0.05) / whole_in, "why", fontsize=8, color=_DIM)
