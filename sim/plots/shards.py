"""Who holds which shard of the weights and of the KV cache, drawn on the machine: a panel per set of mesh axes.

Tensors that are split over the same mesh axes are on the same chips, whatever their dimensions. Chips of one colour and
number hold the same shards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sim.layouts.sharding import Sharded
from sim.plots.drawing import Drawing
from sim.plots.machine import drawing_of
from sim.plots.style import TITLE, add_title, figure_width, new_figure, points, shared_style, wrap
from sim.program import Ints
from sim.topology.graph import Topology
from sim.units import format_bytes, format_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH_IN, _PANEL_IN, _MOST_BODY_IN = 11.0, 3.2, 3.6
"""Widths of the figure and, at least, of a panel, and most height of a machine."""
_TOP_IN, _TEXT_POINTS, _LINE_EM = 0.5, 7.5, 1.4
_COLOURS = "turbo"
_PALE = 0.55
"""How much white is in the colours, so that numbers are legible on them."""


class _Panel(Struct, frozen=True):
    """Tensors that are split over the same mesh axes."""

    title: str
    text: str
    """Names of the tensors, with their shardings and the bytes of a shard of weights."""
    shard: Ints
    """[chips] number of the shards that a chip holds."""


def draw(
    weights: Mapping[str, Sharded], caches: Mapping[str, Sharded], stage: Ints, topology: Topology, title: str
) -> Figure:
    """Draws the machine once for each set of mesh axes that split a tensor.

    Args:
        weights: as they are stored, by name.
        caches: what a layer caches, by name.
        stage: of a pipeline, [chips]; all 0 without one.
        topology: whole machine, with the mesh.
    """
    width_in, size = figure_width(_WIDTH_IN), points(_TEXT_POINTS)
    columns = max(1, int(width_in / _PANEL_IN))
    named = {f"{name} {weight} ({format_bytes(weight.local_bytes)})": weight for name, weight in weights.items()}
    named |= {f"{name} {cache}": cache for name, cache in caches.items()}
    panels = _list_panels(named, stage, topology, width_in / columns)
    columns = min(columns, len(panels))
    panel_in = width_in / columns
    drawing = drawing_of(topology)
    (left, bottom), (right, top) = drawing.corners()
    scale = min(1.0, 0.94 * panel_in / (right - left), _MOST_BODY_IN / (top - bottom))
    body_in, line_in = scale * (top - bottom), _LINE_EM * size / 72
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heads_in = [line_in * max(2 + each.title.count("\n") + each.text.count("\n") for each in row) + 0.1 for row in rows]
    title = f"{title.partition(chr(10))[0]}: chips of one colour hold the same shards\n{title.partition(chr(10))[2]}"
    lines = wrap(title.strip(), width_in, points(TITLE), is_bold=True).count("\n")
    top_in = _TOP_IN + 0.18 * lines
    height_in = top_in + sum(heads_in) + len(rows) * (body_in + 0.15)
    made = new_figure(_WIDTH_IN, height_in)
    made.set_layout_engine("none")
    with shared_style():
        y_in = height_in - top_in
        for row, head_in in zip(rows, heads_in, strict=True):
            for column, panel in enumerate(row):
                x_in = column * panel_in + 0.1
                place = x_in / width_in, y_in / height_in
                made.text(*place, panel.title, fontsize=size, fontweight="bold", va="top")
                below = y_in - line_in * (1 + panel.title.count("\n"))
                made.text(place[0], below / height_in, panel.text, fontsize=size, va="top", linespacing=_LINE_EM - 0.2)
                wide = scale * (right - left) / width_in
                at = (x_in / width_in, (y_in - head_in - body_in) / height_in, wide, body_in / height_in)
                axes = made.add_axes(at)
                axes.set_axis_off()
                axes.set(xlim=(left, right), ylim=(bottom, top))
                color_chips(drawing, panel.shard).paint(axes, scale)
            y_in -= head_in + body_in + 0.15
        add_title(made, title.strip())
    return made


def number_shards(axes: tuple[str, ...], stage: Ints, topology: Topology) -> Ints:
    """Returns the number of the shards that each chip holds where mesh axes split a tensor, [chips].

    Args:
        stage: of a pipeline, [chips]; shards of a stage are numbered in sequence.
    """
    number, chips = stage.astype(np.int64), np.arange(topology.chips)
    for axis in topology.mesh:
        if axis.name in axes:
            number = number * axis.size + axis.positions(chips)
    return number


def _list_panels(tensors: Mapping[str, Sharded], stage: Ints, topology: Topology, panel_in: float) -> list[_Panel]:
    groups: dict[frozenset[str], list[str]] = {}
    for name in tensors:
        groups.setdefault(frozenset(axis for dim in tensors[name].dims for axis in dim.axes), []).append(name)
    panels = []
    size, room_in = points(_TEXT_POINTS), panel_in - 0.25
    for axes, names in sorted(groups.items(), key=lambda each: -len(each[0])):
        ordered = tuple(axis.name for axis in topology.mesh if axis.name in axes)
        shard = number_shards(ordered, stage, topology)
        count = len(np.unique(shard))
        what = f"split over {', '.join(ordered)}" if ordered else "whole on every chip"
        what += ", layers over stages" if stage.any() else ""
        each = format_count(topology.chips // count, "chip")
        title = f"{what}: {format_count(count, 'shard')}" if count > 1 else what
        title += f", {each} each" if 1 < count < topology.chips else ""
        panels.append(_Panel(wrap(title, room_in, size, is_bold=True), wrap("; ".join(names), room_in, size), shard))
    return panels


def color_chips(drawing: Drawing, shard: Ints) -> Drawing:
    """Returns the drawing with chips in the colour and with the number of their shards."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    number = {int(value): i for i, value in enumerate(np.unique(shard).tolist())}
    colours = colormaps[_COLOURS]

    def colour(place: int) -> str:
        share = 0.08 + 0.84 * place / max(1, len(number) - 1)
        red, green, blue, _ = (_PALE + (1 - _PALE) * channel for channel in colours(share))
        return to_hex((red, green, blue))

    nodes = [
        replace(node, label=str(number[int(shard[node.chip])]), fill=colour(number[int(shard[node.chip])]))
        if node.chip >= 0
        else node
        for node in drawing.nodes
    ]
    return replace(drawing, nodes=nodes)
