"""A trace as a timeline: compute, collectives and links of a chip, over the whole step and within one layer.

Chips that do the same at the same times are drawn once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from sim.plots.bars import DARK, WIDTH_IN, Panel, draw_legend
from sim.plots.chip_lanes import (
    IN_AROUND,
    IN_PER_ROW,
    ChipLanes,
    fill_panel,
    find_equal_layers,
    header_height,
    panel_height,
)
from sim.plots.style import add_title, new_figure, set_title, shared_style
from sim.program import Ints
from sim.program.trace import Trace
from sim.report.critical_path import find_critical_path
from sim.report.lanes import (
    LayerTimes,
    build_lanes,
    build_path_lane,
    choose_chips,
    describe_chip,
    find_tasks_on_path,
    group_identical_chips,
    layer_times,
    multiprocessors_held,
)
from sim.report.metrics import critical_chip
from sim.report.ops import classify_ops
from sim.topology.graph import Topology
from sim.units import PS_PER_S, format_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHIPS_DRAWN, _MOST_CHIPS = 3, 6
"""Chips drawn, and most of those that have a role."""
LAYERS_IN_DETAIL = 6
"""Up to so many layers the whole step is drawn op by op, beyond that as shares of each layer's time."""
_MOST_BINS = 1000
"""About as many as the panel has points across."""


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
    in_shares = layers > LAYERS_IN_DETAIL
    heights = [panel_height(groups, shares) for shares in (in_shares, False)[: 2 if layers else 1]]
    made = new_figure(WIDTH_IN, IN_AROUND * (1 + len(heights)) + IN_PER_ROW * sum(heights))
    with shared_style():
        axes = made.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        op_classes, end = classify_ops(trace.program), trace.makespan_ps
        whole_step = Panel(axes[0], trace.program, op_classes, 0, end, critical, max(end, 1))
        what = f"{span}, {format_seconds(end / PS_PER_S)}"
        first, last = find_strip(trace, groups[0], times)
        if in_shares:
            fill_panel(whole_step, groups, share_bins(edges, end, (first, last)))
            what += f": shares of the time of {name_shares(times, last - first)}"
        else:
            fill_panel(whole_step, groups, None)
        set_title(axes[0], what, WIDTH_IN)
        axes[0].set_xlabel(f"time, {whole_step.unit[1]}")
        if layers:
            middle = layers // 2
            begin, stop = int(edges[middle]), int(edges[middle + 1])
            zoom = Panel(axes[1], trace.program, op_classes, begin, stop, critical, max(stop - begin, 1))
            fill_panel(zoom, groups, None)
            left, right = whole_step.x(edges[[first, last]] if in_shares else edges[[middle, middle + 1]])
            below_header = 1 - header_height(groups[0]) / heights[0]
            axes[0].axvspan(left, right, 0, below_header, facecolor="none", edgecolor=DARK, linewidth=0.9, zorder=3)
            framed = f"one of the {last - first} equal ones framed above" if last - first > 1 else "framed above"
            length = format_seconds((stop - begin) / PS_PER_S)
            set_title(axes[1], f"{name_layer(times, middle).capitalize()} ({framed}), {length}", WIDTH_IN)
            axes[1].set_xlabel(f"time since the layer began, {zoom.unit[1]}")
        if title:
            add_title(made, title)
        held = any(group.held for group in groups)
        draw_legend(made, [(whole_step, [lane for group in groups for lane in group.lanes])], holds=held)
    return made


def find_strip(trace: Trace, group: ChipLanes, times: LayerTimes) -> tuple[int, int]:
    """Returns the layers around the middle one that equal it and follow one another: the first, and one past the last.

    They are (0, 0) where there is no layer.
    """
    if not len(times):
        return 0, 0
    middle = len(times) // 2
    equal = find_equal_layers(trace, group.lanes, times.edges, middle)
    other = np.flatnonzero(~equal)
    place = int(np.searchsorted(other, middle))
    ends = np.concatenate([[-1], other, [len(times)]])
    return int(ends[place]) + 1, int(ends[place + 1])


def name_shares(times: LayerTimes, equal: int) -> str:
    """Returns `each of its 118 layers, 116 equal: one strip (× 116)`; in a pipeline with the batches."""
    batches = int(times.batch[-1]) + 1
    name = f"each of its {len(times) // batches} layers"
    name += f" of each of its {batches} batches" if batches > 1 else ""
    if equal < 2:
        return name
    return f"{name}, {'all' if equal == len(times) else equal} equal: one strip (× {equal})"


def share_bins(edges: Ints, end: int, strip: tuple[int, int] = (0, 0)) -> Ints:
    """Edges of bins over the whole time: one for each layer, those around layers cut into pieces as long as a layer.

    Args:
        edges: when each layer of a chip begins, and when the last ends, ps.
        end: of the time, ps.
        strip: equal layers that share a bin: the first, and one past the last.
    """
    coarse = np.unique([0, *edges.tolist(), end])
    longest = max(float(np.median(np.diff(edges))), end / _MOST_BINS)
    pieces = np.ceil(np.diff(coarse) / longest).astype(np.int64).tolist()
    cut = [np.linspace(*ends, n, endpoint=False) for ends, n in zip(pairwise(coarse.tolist()), pieces, strict=True)]
    bins = np.unique(np.concatenate([*cut, [end]]).astype(np.int64))
    first, last = edges[list(strip)].tolist() if len(edges) else (0, 0)
    return bins[(bins <= first) | (bins >= last)]


def _groups(
    trace: Trace, topology: Topology, alike: list[Ints], roles: Mapping[int, str], chosen_chips: Sequence[int]
) -> tuple[list[ChipLanes], LayerTimes]:
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
        groups.append(ChipLanes(text, lanes[chip], multiprocessors_held(trace, topology, chip)))
    if len(alike) > len(shown):
        unseen = sum(len(topology.represented_by(chips)) for _, chips in chosen[len(drawn) :])
        verb = "differs and is" if unseen == 1 else "differ and are"
        groups[-1] = replace(groups[-1], title=f"{groups[-1].title} ({unseen} more {verb} not drawn)")
    return groups, layer_times(trace, shown[0])


def name_layer(times: LayerTimes, index: int) -> str:
    """Returns `layer 5 of layers 0 to 9`; in a pipeline with the batch."""
    name = f"layer {times.layer[index]} of layers {times.layer.min()} to {times.layer.max()}"
    return name + (f", batch {times.batch[index]} of 0 to {times.batch[-1]}" if times.batch[-1] else "")
