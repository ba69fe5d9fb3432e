"""A trace as a timeline: compute, collectives and links of a chip, over the whole step and within one layer.

Chips that do the same at the same times are drawn once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.plots.bars import DARK, Panel, draw_legend, draw_shares, draw_spans
from sim.plots.colours import PALETTE
from sim.plots.style import add_title, new_figure, shared_style
from sim.program import Ints
from sim.program.trace import Trace
from sim.report import spans as sp
from sim.report.critical_path import find_critical_path
from sim.report.lanes import (
    Lane,
    LayerTimes,
    build_lanes,
    build_path_lane,
    choose_chips,
    describe_chip,
    find_tasks_on_path,
    group_identical_chips,
    layer_times,
)
from sim.report.metrics import critical_chip
from sim.report.ops import classify_ops
from sim.topology.graph import Topology
from sim.units import PS_PER_S, format_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHIPS_DRAWN, _MOST_CHIPS = 3, 6
"""Chips drawn, and most of those that have a role."""
_LINKS_DRAWN = 8
_LAYERS_IN_DETAIL = 6
"""Up to so many layers the whole step is drawn op by op, beyond that as shares of each layer's time."""
_MOST_BINS = 1000
"""About as many as the panel has points across."""
_SHARES_HEIGHT = 2.2
_HEIGHTS = {"path": 0.7, "compute": 1.0, "collectives": 1.0, "copies": 1.0, "link": 0.6}
_GAP, _HEADER = 0.2, 0.8
_WIDTH_IN, _IN_PER_ROW, _IN_AROUND = 11.0, 0.3, 2.0


@dataclass(frozen=True, slots=True)
class _Group:
    """Chips that are drawn as one."""

    title: str
    lanes: list[Lane]


def draw(
    trace: Trace,
    topology: Topology,
    title: str = "",
    span: str = "Whole step",
    roles: Mapping[int, str] | None = None,
    chosen: Sequence[int] = (),
) -> Figure:
    """Draws the whole step, and below it one layer from the middle, where the layers are in steady state.

    Args:
        span: name of the time that the trace covers.
        roles: chips to draw beside the critical one, as the whole machine numbers them, each with why, such as
            `straggler`; of very many the first.
        chosen: those of them that are always drawn.
    """
    alike = group_identical_chips(trace, topology)
    groups, times = _groups(trace, topology, alike, roles or {}, chosen)
    path = find_critical_path(trace)
    groups[0].lanes.insert(0, build_path_lane(path))
    critical = find_tasks_on_path(trace, topology, path, alike)
    layers, edges = len(times), times.edges
    in_shares = layers > _LAYERS_IN_DETAIL
    heights = [sum(_height(group, shares) for group in groups) for shares in (in_shares, False)[: 2 if layers else 1]]
    made = new_figure(_WIDTH_IN, _IN_AROUND * (1 + len(heights)) / 3 + _IN_PER_ROW * sum(heights))
    with shared_style():
        axes = made.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        op_classes = classify_ops(trace.program)
        whole_step = Panel(axes[0], trace.program, op_classes, 0, trace.makespan_ps, critical)
        what = f"{span}, {format_seconds(trace.makespan_ps / PS_PER_S)}"
        if in_shares:
            _fill(whole_step, groups, share_bins(edges, trace.makespan_ps))
            batches = int(times.batch[-1]) + 1
            each = f" of each of its {batches} batches" if batches > 1 else ""
            what += f": shares of the time of each of its {layers // batches} layers{each}"
        else:
            _fill(whole_step, groups, None)
        axes[0].set_title(what)
        axes[0].set_xlabel(f"time, {whole_step.unit[1]}")
        if layers:
            middle = layers // 2
            zoom = Panel(axes[1], trace.program, op_classes, int(edges[middle]), int(edges[middle + 1]), critical)
            _fill(zoom, groups, None)
            left, right = whole_step.x(np.array([zoom.start, zoom.end]))
            below_header = 1 - _HEADER / heights[0]
            axes[0].axvspan(left, right, 0, below_header, facecolor="none", edgecolor=DARK, linewidth=0.9, zorder=3)
            length = format_seconds((zoom.end - zoom.start) / PS_PER_S)
            axes[1].set_title(f"{_name(times, middle)} (framed above), {length}")
            axes[1].set_xlabel(f"time since the layer began, {zoom.unit[1]}")
        if title:
            add_title(made, title)
        draw_legend(made, whole_step, [lane for group in groups for lane in group.lanes])
    return made


def share_bins(edges: Ints, end: int) -> Ints:
    """Edges of bins over the whole time: one for each layer, those around layers cut into pieces as long as a layer.

    Args:
        edges: when each layer of a chip begins, and when the last ends, ps.
        end: of the time, ps.
    """
    coarse = np.unique([0, *edges.tolist(), end])
    longest = max(float(np.median(np.diff(edges))), end / _MOST_BINS)
    pieces = np.ceil(np.diff(coarse) / longest).astype(np.int64).tolist()
    cut = [np.linspace(*ends, n, endpoint=False) for ends, n in zip(pairwise(coarse.tolist()), pieces, strict=True)]
    return np.unique(np.concatenate([*cut, [end]]).astype(np.int64))


def _groups(
    trace: Trace, topology: Topology, alike: list[Ints], roles: Mapping[int, str], chosen_chips: Sequence[int]
) -> tuple[list[_Group], LayerTimes]:
    """The critical chip, those with a role and one chip of each of the next few groups; layers of the critical one."""
    critical = critical_chip(trace, topology.chips)
    named = [topology.representative_of(chip) for chip in roles]
    chosen = choose_chips(alike, [critical, *named])
    with_role = sum(chip == critical or chip in named for chip, _ in chosen)
    drawn = chosen[: max(_CHIPS_DRAWN, min(_MOST_CHIPS, with_role), 1 + len(chosen_chips))]
    shown = [chip for chip, _ in drawn]
    lanes = build_lanes(trace, topology, shown)
    groups = []
    for chip, identical in drawn:
        chips = topology.represented_by(identical)
        text = f"chip {topology.chip_number(chip)} of {topology.total_chips}"
        notes = describe_chip(topology, (chip, identical), critical, roles, chosen_chips)
        if len(alike) == 1:
            notes = ["all identical", *notes[1:]] if topology.total_chips > 1 else []
        elif len(chips) > 1:
            notes.append(f"= {len(chips) - 1} other{'s' * (len(chips) > 2)}")
        text += f" ({', '.join(notes)})" if notes else ""
        groups.append(_Group(text, lanes[chip]))
    if len(alike) > len(shown):
        unseen = sum(len(topology.represented_by(chips)) for _, chips in chosen[len(drawn) :])
        groups[-1] = _Group(f"{groups[-1].title} ({unseen} more differ and are not drawn)", groups[-1].lanes)
    return groups, layer_times(trace, shown[0])


def _name(times: LayerTimes, index: int) -> str:
    """Returns `Layer 5 of layers 0 to 9`; in a pipeline with the batch."""
    name = f"Layer {times.layer[index]} of layers {times.layer.min()} to {times.layer.max()}"
    return name + (f", batch {times.batch[index]} of 0 to {times.batch[-1]}" if times.batch[-1] else "")


def _rows(group: _Group, shares: bool) -> list[tuple[str, list[Lane]]]:
    """Returns the lanes of each row of a panel: one, or in a panel of shares all links."""
    rows = [(lane.label, [lane]) for lane in group.lanes if lane.kind != "link"]
    links = [lane for lane in group.lanes if lane.kind == "link"]
    if shares:
        name = f"links, mean of {len(links)}" if len(links) > 1 else "link"
        return rows + ([(name, links)] if links else [])
    return rows + [(lane.label, [lane]) for lane in links[:_LINKS_DRAWN]]


def _row_height(lanes: list[Lane], shares: bool) -> float:
    return _SHARES_HEIGHT if shares else _HEIGHTS[lanes[0].kind]


def _height(group: _Group, shares: bool) -> float:
    """Returns the height of a group in a panel."""
    return _HEADER + sum(_row_height(lanes, shares) + _GAP for _, lanes in _rows(group, shares))


def _fill(panel: Panel, groups: list[_Group], bins: Ints | None) -> None:
    """Draws all lanes from the top down, as shares of `bins` if given, else span by span."""
    axes, duration = panel.axes, max(panel.end - panel.start, 1)
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
    ticks: dict[float, str] = {}
    y = 0.0
    for group in groups:
        middle = y - _HEADER / 2
        over: dict[str, Any] = {
            "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            "zorder": 4,
        }  # the frame
        header = f"{group.title}: {_summary(panel, group)}"
        axes.text(0.0, middle, header, fontweight="bold", fontsize=8, va="center", **over)
        axes.text(1.005, middle, "busy", fontsize=7, **beside)
        y -= _HEADER
        for label, lanes in _rows(group, bins is not None):
            height = _row_height(lanes, bins is not None)
            y -= height
            axes.axhspan(y, y + height, color=PALETTE["light"], alpha=0.35, linewidth=0)
            if bins is None:
                draw_spans(panel, lanes[0], y, height)
            else:
                draw_shares(panel, lanes, y, height, bins)
            busy = sum(lane.spans.within(panel.start, panel.end).total_ps for lane in lanes) / len(lanes)
            axes.text(1.005, y + height / 2, f"{busy / duration:.0%}", fontsize=7, **beside)
            ticks[y + height / 2] = label
            y -= _GAP
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(y, 0)
    axes.set_xlim(0, duration / panel.unit[0])


def _summary(panel: Panel, group: _Group) -> str:
    """Shares of the panel's time: compute, exposed communication, and neither."""
    compute, exposed = (
        sp.union(*(part.within(panel.start, panel.end) for part in parts)).total_ps
        for parts in (
            [lane.spans for lane in group.lanes if lane.kind == "compute"],
            [lane.exposed for lane in group.lanes if lane.kind == "collectives"],
        )
    )
    total = max(panel.end - panel.start, 1)
    rest = 1 - (compute + exposed) / total
    return f"{compute / total:.0%} compute, {exposed / total:.0%} exposed communication, {rest:.0%} waiting or idle"
