"""A torus or mesh on paper: of two axes the first to the right and the second up, of three the second into the page.

An axis of size 1 has no links and takes no room.
"""

from __future__ import annotations

import math

from msgspec.structs import replace

from sim.plots.colours import PALETTE
from sim.plots.drawing import Drawing, Line, Node, Point, describe_link
from sim.topology.graph import Axis, Topology

COLORS = ("blue", "vermilion", "green", "purple", "orange", "sky")
WHOLE_CHIPS = 128
"""Up to this many chips all are shown, of more only the three faces towards the reader."""
NUMBERED_CHIPS = 64
MOST_ALONG_AXIS = 64
"""Positions on each axis that are shown: more are closer than a line is wide."""
STUB = 0.4
"""Length on paper of the two ends of a wraparound, where neighbours along x are 1 apart."""


def drawing(topology: Topology) -> Drawing:
    """Draws every link as a line in the colour of its axis, a wraparound as a short dashed end at both of its chips."""
    vectors = _vectors(topology.axes)
    long = [i for i, axis in enumerate(topology.axes) if axis.size > 1]
    colors = {axis.name: PALETTE[COLORS[i % len(COLORS)]] for i, axis in enumerate(topology.axes)}
    positions = [topology.coordinates(chip) for chip in range(topology.chips)]
    depth_axis = long[1] if len(long) >= 3 else None
    is_complete = topology.chips <= WHOLE_CHIPS or depth_axis is None
    cropped = any(axis.size > MOST_ALONG_AXIS for axis in topology.axes)
    shown = [
        max(position) < MOST_ALONG_AXIS and (is_complete or _in_front(topology.axes, long, position))
        for position in positions
    ]

    def place(position: tuple[float, ...]) -> Point:
        return (
            sum(v[0] * p for v, p in zip(vectors, position, strict=True)),
            sum(v[1] * p for v, p in zip(vectors, position, strict=True)),
        )

    def strength(position: tuple[int, ...]) -> float:
        if depth_axis is None or not is_complete:
            return 1.0
        return 1 - 0.65 * position[depth_axis] / max(3, topology.axes[depth_axis].size - 1)

    lines = []
    for link in topology.links:
        if not shown[link.src]:
            continue
        here, there = positions[link.src], positions[link.dst]
        along = [axis.name for axis in topology.axes].index(link.axis)
        if there[along] - here[along] == link.direction:
            if link.direction > 0 and shown[link.dst]:
                ends, back = (place(here), place(there)), topology.neighbour(link.dst, link.axis, -1)
                pair = Line(ends, colors[link.axis], links=(link.index,), back=(back[1],) if back else ())
                lines.append(replace(pair, strength=strength(there)))
        else:
            end = [float(p) for p in here]
            end[along] += link.direction * STUB / math.hypot(*vectors[along])
            points = place(here), place(tuple(end))
            stub = Line(points, colors[link.axis], dashed=True, links=(link.index,))
            lines.append(replace(stub, strength=strength(here)))
    numbered = topology.chips <= NUMBERED_CHIPS
    nodes = [
        Node(
            place(position),
            str(chip) if numbered else "",
            size=0.13 if numbered else 0.06,
            strength=strength(position),
            chip=chip,
        )
        for chip, position in enumerate(positions)
        if shown[chip]
    ]
    parts = []
    if not is_complete:
        parts.append(f"shown: the {sum(shown)} chips on the three faces in front")
    if cropped:
        parts.append(f"shown: the first {MOST_ALONG_AXIS} positions on each axis")
    return Drawing(
        lines=sorted(lines, key=lambda line: line.strength),
        nodes=sorted(nodes, key=lambda node: node.strength),
        legend=_legend(topology, colors),
        notes=_rates(topology),
        shown=parts,
        legend_columns=max(1, len(long)),
    )


def _vectors(axes: tuple[Axis, ...]) -> list[Point]:
    """Returns the step in the plane for each axis; beyond three axes, grids lie beside or above each other."""
    sizes = [axis.size for axis in axes if axis.size > 1]
    steps: list[Point] = [(1.0, 0.0), (0.46, 0.31), (0.0, 1.0)] if len(sizes) > 2 else [(1.0, 0.0), (0.0, 1.0)]
    for i in range(3, len(sizes)):
        upwards = i % 2 == 0
        span = 1 + sum(step[upwards] * size for step, size in zip(steps, sizes, strict=False))
        steps.append((0.17, span) if upwards else (span, 0.17))  # aslant, so as not to cover the other axes
    left = iter(steps)
    return [next(left) if axis.size > 1 else (0.0, 0.0) for axis in axes]


def _in_front(axes: tuple[Axis, ...], long: list[int], position: tuple[int, ...]) -> bool:
    """Tells if a chip lies on the right, the front or the top face of its grid."""
    x, y, z = long[:3]
    right, top = (min(axes[axis].size, MOST_ALONG_AXIS) - 1 for axis in (x, z))
    return position[x] == right or position[y] == 0 or position[z] == top


def _legend(topology: Topology, colors: dict[str, str]) -> list[tuple[str, str, bool]]:
    """Returns two entries for every axis that has links: its colour, and how it wraps."""
    entries = []
    for axis in topology.axes:
        if axis.size == 1:
            continue
        entries.append((f"{axis.name}: {axis.size} chips", colors[axis.name], False))
        wrap = topology.neighbour(0, axis.name, -1)
        text = "no wraparound" if wrap is None else f"{axis.name} wraparound{_shift(topology, axis, wrap[0])}"
        entries.append((text, colors[axis.name] if wrap else "none", True))
    return entries


def _rates(topology: Topology) -> list[str]:
    """Returns the rates of the links, by axis if they differ."""
    along: dict[str, list[str]] = {}
    for axis in topology.axes:
        links = (link for link in topology.links if link.axis == axis.name)
        if link := next(links, None):
            along.setdefault(describe_link(link), []).append(axis.name)
    if len(along) == 1:
        return [f"links of {text}" for text in along]
    return [f"links along {', '.join(names)} of {text}" for text, names in along.items()]


def _shift(topology: Topology, axis: Axis, before: int) -> str:
    """Returns `, z + 4`: the other axes that the wraparound of a twisted axis changes from chip `before` to chip 0."""
    shifts = [
        f", {other.name} + {other.size - position}"
        for other, position in zip(topology.axes, topology.coordinates(before), strict=True)
        if other != axis and position
    ]
    return "".join(shifts)
