"""Lanes of a timeline as bars: span by span, or as shares of the time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.plots.colours import HELD_COLOUR, OP_COLOURS, PALETTE
from sim.plots.style import add_legend, figure_width, points, text_width
from sim.program import Floats, Ints, Program
from sim.report import spans as sp
from sim.report.lanes import Held, Lane
from sim.report.ops import COLLECTIVES, EXCHANGE_KERNEL, parse_op
from sim.units import PS_PER_S

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DARK = PALETTE["black"]
_DARK_CLASSES = ("matmul", "elementwise", "reduce-scatter", "all-to-all", "dispatch", EXCHANGE_KERNEL, "send", "copy")
_NAME_POINTS = 6.5
"""Size of the names in bars."""
WIDTH_IN = 11.0
"""Width of a timeline."""
LABELS_IN = 1.4
"""Width of the names of rows on the left and of the shares on the right."""
_THIN_POINTS = 1.5
"""A bar narrower than this has no white edge, which would hide it."""
_OUTLINED_POINTS = 5.0
"""A narrower bar has no outline for the critical path, which would be all that is seen of it."""
_SHORTEST_NAME_EM, _AIR_EM = 0.6, 0.8
"""Room of the shortest name, and beside a name: it must not reach over the ends of its bar."""
_HATCH_HEIGHT = 0.35
_FLYING: dict[str, Any] = {"facecolor": "white", "alpha": 0.5, "edgecolor": "none", "linewidth": 0.0}
_ON_PATH: dict[str, Any] = {"facecolor": "none", "edgecolor": DARK, "linewidth": 0.9, "zorder": 2}
_HATCHED: dict[str, Any] = {"facecolor": "none", "edgecolor": DARK, "linewidth": 0.0, "hatch": "//////"}


class Panel(Struct, frozen=True):
    """Axes that show start .. end (ps) of a program, with time counted from `start`."""

    axes: Axes
    program: Program
    op_classes: npt.NDArray[np.str_]
    """[ops]."""
    start: int
    end: int
    on_path: npt.NDArray[np.bool_]
    """[tasks] those of the critical path, which are outlined."""
    axis_ps: int
    """Length of the time axis; longer than the time shown where another panel shares it."""

    @property
    def unit(self) -> tuple[int, str]:
        """Picoseconds per unit of the time axis, and its name."""
        if self.axis_ps > 10 * PS_PER_S:
            return PS_PER_S, "s"
        return (10**9, "ms") if self.axis_ps > 2 * 10**9 else (10**6, "us")

    @property
    def points_per_ps(self) -> float:
        """Width of a picosecond, roughly: the axes are laid out when the figure is drawn."""
        return 72 * (figure_width(WIDTH_IN) - LABELS_IN) / self.axis_ps

    def x(self, time: Ints) -> Floats:
        """Places of times (ps) on the time axis."""
        return (time - self.start) / float(self.unit[0])

    def classes(self, spans: sp.Spans) -> npt.NDArray[np.str_]:
        """Class of op of each span."""
        return self.op_classes[self.program.op[spans.task]]


def draw_spans(panel: Panel, lane: Lane, bottom: float, height: float) -> None:
    """Draws each span as a bar, with its name if that fits, and hatches exposed pieces along the bottom."""
    spans, exposed = (part.within(panel.start, panel.end) for part in (lane.spans, lane.exposed))
    classes = panel.classes(spans).tolist()
    colours = [OP_COLOURS[group] for group in classes]
    widths = (spans.end - spans.start) * panel.points_per_ps
    edges = [colour if thin else "white" for colour, thin in zip(colours, widths < _THIN_POINTS, strict=True)]
    _rectangles(panel, spans, bottom, height, {"facecolor": colours, "edgecolor": edges, "linewidth": 0.3})
    if lane.kind == "path":
        _rectangles(panel, exposed, bottom, height, _FLYING)
    else:
        _rectangles(panel, exposed, bottom, _HATCH_HEIGHT * height, _HATCHED)
        _rectangles(
            panel, spans.where(panel.on_path[spans.task] & (widths >= _OUTLINED_POINTS)), bottom, height, _ON_PATH
        )
    if lane.kind == "link":
        return
    size = points(_NAME_POINTS)
    rooms_in = (widths - _AIR_EM * size) / 72
    centre = (panel.x(spans.start) + panel.x(spans.end)) / 2
    middle = bottom + height * ((1 + _HATCH_HEIGHT) / 2 if lane.kind == "collectives" else 0.5)
    for i in np.flatnonzero(rooms_in > _SHORTEST_NAME_EM * size / 72).tolist():
        op = panel.program.op_names[panel.program.op[spans.task[i]]]
        name = next((text for text in _names(op) if text_width(text, size) < rooms_in[i]), None)
        if name:
            colour = "white" if classes[i] in _DARK_CLASSES else DARK
            inside: dict[str, Any] = {"ha": "center", "va": "center", "in_layout": False}
            panel.axes.text(centre[i], middle, name, fontsize=size, color=colour, **inside)


def _rectangles(panel: Panel, spans: sp.Spans, bottom: float, height: float, look: dict[str, Any]) -> None:
    """Draws a rectangle per span, as one object."""
    from matplotlib.collections import PolyCollection

    if not len(spans):
        return
    left, right = panel.x(spans.start), panel.x(spans.end)
    low, high = np.full(len(spans), bottom), np.full(len(spans), bottom + height)
    corners = np.stack([left, low, left, high, right, high, right, low], axis=1).reshape(-1, 4, 2)
    panel.axes.add_collection(PolyCollection(list(corners), **look), autolim=False)


def _names(op: str) -> list[str]:
    """Returns names of an op, the longest first: `all-gather(yz) residual`, `all-gather(yz)`, `all-gather`, `AG`."""
    parsed = parse_op(op)
    if parsed.group not in COLLECTIVES.values():
        return [op]
    over = f"{parsed.group}({parsed.over})"
    initials = "".join(word[0] for word in parsed.group.replace("to", "2").split("-")).upper()
    return [f"{over} {parsed.operand}", over, parsed.group, f"{initials}({parsed.over})", initials]


def draw_shares(panel: Panel, lanes: Sequence[Lane], bottom: float, height: float, bins: Ints) -> None:
    """Draws each bin as a stack of its classes' shares of the time, mean of the lanes; exposed parts are hatched."""
    shares = {group: np.zeros((2, len(bins) - 1)) for group in OP_COLOURS}
    for lane in lanes:
        for k, spans in enumerate((lane.spans, lane.exposed)[: 1 if lane.kind == "path" else 2]):
            classes = panel.classes(spans)
            for group in np.unique(classes).tolist():
                shares[group][k] += sp.coverage(spans.where(classes == group), bins) * (height / len(lanes))
    low = np.full(len(bins) - 1, bottom)
    for group, (share, alone) in shares.items():
        for part, look in ((share, {"facecolor": OP_COLOURS[group], "linewidth": 0.0}), (alone, _HATCHED)):
            if part.any():
                _steps(panel, bins, low, low + part, look)
        low = low + share


def draw_held(panel: Panel, held: Held, bottom: float, height: float, bins: Ints | None) -> None:
    """Draws the multiprocessors that collectives keep busy as an area, at full height all of the chip: over `bins`
    (edges, ps) their means, else each change."""
    inside = (held.time_ps > panel.start) & (held.time_ps < panel.end)
    edges = np.unique([panel.start, *held.time_ps[inside].tolist(), panel.end]) if bins is None else bins
    if len(edges) < 2:
        return
    level = bottom + height * held.means(edges) / held.total
    _steps(panel, edges, np.full(len(level), bottom), level, {"facecolor": HELD_COLOUR, "linewidth": 0.0})


def _steps(panel: Panel, edges: Ints, low: Floats, high: Floats, look: dict[str, Any]) -> None:
    """Fills between two levels [bins] that change at the edges of bins [bins + 1]."""
    from matplotlib.collections import PolyCollection

    x = np.repeat(panel.x(edges), 2)[1:-1]
    outline = np.stack([np.append(x, x[::-1]), np.append(np.repeat(low, 2), np.repeat(high, 2)[::-1])], axis=1)
    panel.axes.add_collection(PolyCollection([outline], snap=False, **look), autolim=False)


def draw_legend(figure: Figure, shown: Sequence[tuple[Panel, Sequence[Lane]]], *, holds: bool = False) -> None:
    """Draws the legend of the classes that occur in the lanes of some panels, below the panels.

    Args:
        holds: panels show the multiprocessors that collectives keep busy.
    """
    from matplotlib.patches import Patch

    lanes = [lane for _, some in shown for lane in some]
    seen = {name for panel, some in shown for lane in some for name in np.unique(panel.classes(lane.spans)).tolist()}
    patches = [Patch(facecolor=colour, label=group) for group, colour in OP_COLOURS.items() if group in seen]
    if any(lane.kind == "path" for lane in lanes):
        patches.append(Patch(label="on the critical path (pale: in flight)", **_ON_PATH))
    if any(len(lane.exposed) for lane in lanes if lane.kind == "collectives"):
        patches.append(Patch(label="exposed: no compute meanwhile", **_HATCHED))
    if holds:
        patches.append(Patch(facecolor=HELD_COLOUR, label="multiprocessors busy with collectives"))
    add_legend(figure, patches, below=True)
