"""Chips in a panel of a timeline: a header with shares of the time, and below it a row per lane."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.plots.bars import LABELS_IN, WIDTH_IN, Panel, draw_held, draw_shares, draw_spans
from sim.plots.colours import PALETTE
from sim.plots.style import figure_width, points, wrap
from sim.program import Ints
from sim.program.trace import Trace
from sim.report import spans as sp
from sim.report.lanes import Held, Lane

IN_PER_ROW, IN_AROUND = 0.3, 0.667
"""Height of a row of height 1, and of what stands around the rows of a panel."""
_LINKS_DRAWN = 8
_SHARES_HEIGHT = 2.2
_HEIGHTS = {"path": 0.7, "compute": 1.0, "collectives": 1.0, "copies": 1.0, "link": 0.6}
_HELD_HEIGHT = 1.2
_GAP, _HEADER = 0.2, 0.8
_HEADER_POINTS, _BUSY_POINTS = 8.0, 7.0
_LINE = 0.45
"""Height of each further line of a header."""


class ChipLanes(Struct, frozen=True):
    """Lanes of chips that are drawn as one."""

    title: str
    lanes: list[Lane]
    held: Held | None = None
    """Multiprocessors that collectives keep busy, if they take any."""


def panel_height(groups: list[ChipLanes], in_shares: bool) -> float:
    """Returns the height of all groups in a panel, in rows."""
    return sum(
        header_height(group)
        + sum(_row_height(lanes, in_shares) + _GAP for _, lanes in _rows(group, in_shares))
        + (_HELD_HEIGHT + _GAP) * (group.held is not None)
        for group in groups
    )


def header_height(group: ChipLanes) -> float:
    """Returns the height of a group's header, in rows."""
    longest = ": ".join((group.title, _summary_text(1.0, 1.0, 1.0)))
    return _HEADER + _LINE * _wrapped(longest).count("\n")


def fill_panel(panel: Panel, groups: list[ChipLanes], bins: Ints | None) -> None:
    """Draws all lanes from the top down, as shares of `bins` (edges, ps) if given, else span by span."""
    from matplotlib.collections import PolyCollection

    axes, duration = panel.axes, max(panel.end - panel.start, 1)
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": points(_BUSY_POINTS)}
    ticks: dict[float, str] = {}
    rows: list[tuple[float, float]] = []
    y = 0.0
    for group in groups:
        height = header_height(group)
        middle = y - height / 2
        over: dict[str, Any] = {
            "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            "zorder": 4,
            "in_layout": False,
        }  # the frame
        header = _wrapped(group.title + _summary(panel, group))
        axes.text(0.0, middle, header, fontweight="bold", fontsize=points(_HEADER_POINTS), va="center", **over)
        axes.text(1.005, y - height + _HEADER / 2, "busy", **beside)
        y -= height
        for label, lanes in _rows(group, bins is not None):
            height = _row_height(lanes, bins is not None)
            y -= height
            rows.append((y, y + height))
            if bins is None:
                draw_spans(panel, lanes[0], y, height)
            else:
                draw_shares(panel, lanes, y, height, bins)
            busy = sum(lane.spans.within(panel.start, panel.end).total_ps for lane in lanes) / len(lanes)
            axes.text(1.005, y + height / 2, f"{busy / duration:.0%}", **beside)
            ticks[y + height / 2] = label
            y -= _GAP
        if group.held:
            y -= _HELD_HEIGHT
            rows.append((y, y + _HELD_HEIGHT))
            draw_held(panel, group.held, y, _HELD_HEIGHT, bins)
            (mean,) = group.held.means(np.array([panel.start, panel.start + duration]))
            axes.text(1.005, y + _HELD_HEIGHT / 2, f"{mean / group.held.total:.0%}", **beside)
            peak = group.held.peak(panel.start, panel.end)
            ticks[y + _HELD_HEIGHT / 2] = f"multiprocessors\n{peak:.3g} of {group.held.total} at most"
            y -= _GAP
    corners = [((0, low), (0, high), (1, high), (1, low)) for low, high in rows]
    look: dict[str, Any] = {"facecolor": PALETTE["light"], "alpha": 0.35, "linewidth": 0, "zorder": 0.5}
    axes.add_collection(PolyCollection(corners, transform=axes.get_yaxis_transform(), **look), autolim=False)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(y, 0)
    axes.set_xlim(0, panel.axis_ps / panel.unit[0])


def find_equal_layers(trace: Trace, lanes: list[Lane], edges: Ints, layer: int) -> npt.NDArray[np.bool_]:
    """Returns True for each layer that has the same spans as layer `layer`, [layers].

    Args:
        lanes: of a chip; links and the critical path are not compared.
        edges: when each layer of the chip begins, and when the last ends, ps.
    """
    equal: npt.NDArray[np.bool_] = np.diff(edges) == edges[layer + 1] - edges[layer]
    for lane in lanes:
        if lane.kind not in ("compute", "collectives"):
            continue
        offsets = np.searchsorted(lane.spans.start, edges)
        equal &= np.diff(offsets) == offsets[layer + 1] - offsets[layer]
        some = np.flatnonzero(equal)
        spans = lane.spans.where(offsets[some, None] + np.arange(offsets[layer + 1] - offsets[layer]))
        begin, this = edges[some, None], some == layer
        for rows in (spans.start - begin, spans.end - begin, trace.program.op[spans.task]):
            equal[some] &= (rows == rows[this]).all(axis=1)
    return equal


def _rows(group: ChipLanes, shares: bool) -> list[tuple[str, list[Lane]]]:
    """Returns the lanes of each row of a panel: one, or in a panel of shares all links."""
    rows = [(lane.label, [lane]) for lane in group.lanes if lane.kind != "link"]
    links = [lane for lane in group.lanes if lane.kind == "link"]
    if shares:
        name = f"links, mean of {len(links)}" if len(links) > 1 else "link"
        return rows + ([(name, links)] if links else [])
    return rows + [(lane.label, [lane]) for lane in links[:_LINKS_DRAWN]]


def _row_height(lanes: list[Lane], shares: bool) -> float:
    return _SHARES_HEIGHT if shares else _HEIGHTS[lanes[0].kind]


def _wrapped(header: str) -> str:
    return wrap(header, figure_width(WIDTH_IN) - LABELS_IN, points(_HEADER_POINTS), is_bold=True)


def _summary(panel: Panel, group: ChipLanes) -> str:
    """Shares of the panel's time: compute, exposed communication, and neither; nothing of a chip that only receives."""
    if not any(lane.kind == "compute" for lane in group.lanes):
        return ""
    compute, exposed = (
        sp.union(*(part.within(panel.start, panel.end) for part in parts)).total_ps
        for parts in (
            [lane.spans for lane in group.lanes if lane.kind == "compute"],
            [lane.exposed for lane in group.lanes if lane.kind == "collectives"],
        )
    )
    total = max(panel.end - panel.start, 1)
    return ": " + _summary_text(compute / total, exposed / total, 1 - (compute + exposed) / total)


def _summary_text(compute: float, exposed: float, rest: float) -> str:
    return f"{compute:.0%} compute, {exposed:.0%} exposed communication, {rest:.0%} waiting or idle"
