"""Text of a drawn figure that cannot be read: too small, cut by the edge, or over other text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from sim.plots.style import LEAST_POINTS

_TOUCHING = 1.0
"""Pixels by which boxes around text may overlap: they have air around the letters."""


def illegible(figure: Figure) -> list[str]:
    """Returns what is wrong with the text of a figure, a line each."""
    figure.canvas.draw()
    boxes = [(text, _box(text)) for text in shown_texts(figure)]
    small = [
        f"{text.get_fontsize():.1f} pt: {text.get_text()}" for text, _ in boxes if text.get_fontsize() < LEAST_POINTS
    ]
    edge = figure.bbox.padded(_TOUCHING)
    cut = [
        f"cut: {text.get_text()}"
        for text, box in boxes
        if not (edge.contains(box.x0, box.y0) and edge.contains(box.x1, box.y1))
    ]
    level = [
        (text, box) for text, box in boxes if text.get_rotation() % 90 == 0
    ]  # others have boxes much larger than they
    over = [
        f"{one.get_text()!r} over {other.get_text()!r}"
        for (one, box), (other, place) in combinations(level, 2)
        if _overlap(box, place)
    ]
    return [*small, *cut, *over]


def _box(text: Text) -> Bbox:
    """Returns the box around a text, without a last line that is left free for another text."""
    box, lines = text.get_window_extent(), text.get_text().split("\n")
    free = box.height / len(lines) if not lines[-1].strip() else 0.0
    return Bbox.from_extents(box.x0, box.y0 + free, box.x1, box.y1)


def shown_texts(figure: Figure) -> Iterator[Text]:
    """Yields the texts that are drawn: labels of ticks only within the limits of their axis."""
    hidden = set[Text]()
    for axis in figure.findobj(Axis):
        low, high = sorted(axis.get_view_interval())
        slack = 1e-9 * (high - low)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not (low - slack <= tick.get_loc() <= high + slack and axis.axes.axison):
                hidden |= {tick.label1, tick.label2}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in hidden:
            yield text


def _overlap(one: Bbox, other: Bbox) -> bool:
    common = Bbox.intersection(one, other)
    return common is not None and min(common.width, common.height) > _TOUCHING
