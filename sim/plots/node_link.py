"""A switch or an arbitrary graph on paper: chips in a row with switches and sockets above, or chips in a circle."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

from sim.plots.colours import PALETTE
from sim.plots.drawing import Drawing, Line, Node, Point, describe_link, names_fit
from sim.plots.style import figure_width, is_narrow
from sim.topology.graph import Link, Topology

COLORS = ("blue", "vermilion", "green", "purple", "orange", "sky")
SWITCH_CHIPS = 16
"""Number of chips shown of a larger switch; the others look the same."""
_ROW = 2.4
"""Distance of rows of chips."""
_CHIP = 0.26
"""Radius of a chip."""
_WIDTH_IN = 6.3
"""The narrowest drawing of a machine in a figure of no page. Where names do not fit into the chips then, they are
numbered."""


def drawing(topology: Topology, *, every_chip: bool = False) -> Drawing:
    """Draws lines in the colour of their link type; parallel links are one line marked with their number.

    Args:
        every_chip: all chips of a large switch are shown, not the first of them.
    """
    return _switch(topology, every_chip) if topology.has_ports else _graph(topology)


def _switch(topology: Topology, every_chip: bool) -> Drawing:
    """Draws the switch as a bar, or as one for each row of chips; each chip's egress (up) beside its ingress (down)."""
    shown = topology.chips if every_chip else min(topology.chips, SWITCH_CHIPS)
    in_row = min(shown, SWITCH_CHIPS // 2 if is_narrow() and shown > SWITCH_CHIPS else SWITCH_CHIPS)
    egress, ingress = PALETTE["blue"], PALETTE["vermilion"]
    lines = []
    for chip in range(shown):
        up, down = (
            tuple(link.index for link in topology.links if getattr(link, end) == chip) for end in ("src", "dst")
        )
        x, y = chip % in_row, -_ROW * (chip // in_row)
        lines.append(Line(((x - 0.08, y), (x - 0.08, y + 1.5)), egress, links=up))
        lines.append(Line(((x + 0.08, y + 1.5), (x + 0.08, y)), ingress, links=down))
    labels, numbered = _labels(topology, shown, in_row)
    nodes = [
        Node((chip % in_row, -_ROW * (chip // in_row)), labels[chip], _CHIP, name=topology.nodes[chip], chip=chip)
        for chip in range(shown)
    ]
    for row in range(-(-shown // in_row)):
        last = min(in_row, shown - row * in_row) - 1
        nodes.append(Node((last / 2, 1.5 - _ROW * row), topology.nodes[-1], 0.2, half_width=last / 2 + 0.3))
    in_part = [f"shown: {shown} of {topology.chips} chips, all alike"] if shown < topology.chips else []
    return Drawing(
        lines=lines,
        nodes=nodes,
        legend=[("egress", egress, False), ("ingress", ingress, False)],
        legend_columns=2,
        notes=[f"ports of {describe_link(topology.links[0])} chip to chip"],
        shown=["one switch, drawn above each row of chips"] if shown > in_row else in_part,
        numbered=numbered,
    )


def _graph(topology: Topology) -> Drawing:
    places = _layers(topology) if len(topology.nodes) > topology.chips else _circle(topology)
    bundles: dict[tuple[int, int], list[Link]] = defaultdict(list)
    for link in topology.links:
        bundles[link.src, link.dst].append(link)
    types = list(dict.fromkeys((link.bandwidth, link.latency_s) for link in topology.links))
    colors = {kind: PALETTE[COLORS[i % len(COLORS)]] for i, kind in enumerate(types)}
    lines = []
    for (src, dst), links in bundles.items():
        if src > dst:
            continue
        for kind, count in Counter((link.bandwidth, link.latency_s) for link in links).items():
            points = _curve(places[src], places[dst], places)
            forth, back = (
                tuple(link.index for link in bundles[ends] if (link.bandwidth, link.latency_s) == kind)
                for ends in ((src, dst), (dst, src))
            )
            label, width = f"×{count}" if count > 1 else "", 1.3 * count**0.5
            lines.append(Line(points, colors[kind], width=width, label=label, links=forth, back=back))
    labels, numbered = _labels(topology, topology.chips, max(x for x, _ in places) - min(x for x, _ in places))
    nodes = [
        Node(place, labels[node], _CHIP, name=topology.nodes[node], chip=node)
        if node < topology.chips
        else Node(place, topology.nodes[node], 0.2, half_width=_half_width(topology.nodes[node]))
        for node, place in enumerate(places)
    ]
    first = {kind: next(link for link in topology.links if (link.bandwidth, link.latency_s) == kind) for kind in types}
    legend = [(describe_link(first[kind]), colors[kind], False) for kind in types]
    return Drawing(lines=lines, nodes=nodes, legend=legend, numbered=numbered)


def _labels(topology: Topology, shown: int, width: float) -> tuple[tuple[str, ...], list[str]]:
    """Returns names of the first chips, or numbers if names do not fit into a drawing of that width, and a note."""
    names = topology.nodes[:shown]
    if names_fit(names, 2 * _CHIP, min(1.3, figure_width(_WIDTH_IN) / (width + 1))):
        return names, []
    return tuple(map(str, range(shown))), [f"chips by number, {names[0]} to {topology.nodes[topology.chips - 1]}"]


def _half_width(name: str) -> float:
    """Returns half the width of the box of a switch or a socket."""
    return 0.08 * len(name) + 0.15


def _circle(topology: Topology) -> list[Point]:
    """Chips in their order, clockwise from the top."""
    radius = max(1.0, topology.chips * 1.3 / (2 * math.pi))
    angles = [2 * math.pi * chip / topology.chips for chip in range(topology.chips)]
    return [(radius * math.sin(angle), radius * math.cos(angle)) for angle in angles]


def _layers(topology: Topology) -> list[Point]:
    """Chips in a row; above them the other nodes by their distance from a chip, each over what it connects.

    Below the row, spread over its width, those that join chips of several boxes (see `_rails`).
    """
    neighbours: dict[int, list[int]] = defaultdict(list)
    for link in topology.links:
        neighbours[link.src].append(link.dst)
    places: dict[int, Point] = {chip: (float(chip), 0.0) for chip in range(topology.chips)}
    rails = _rails(topology, neighbours)
    for i, node in enumerate(rails):
        places[node] = ((i + 0.5) * topology.chips / len(rails) - 0.5, -0.16 * topology.chips)
    height = 0.0
    while len(places) < len(topology.nodes):
        height += 1.3
        layer = {node for placed in places for node in neighbours[placed] if node not in places}
        layer = layer or {node for node in range(len(topology.nodes)) if node not in places}
        centre = {}
        for node in layer:
            below = [places[other][0] for other in neighbours[node] if other in places] or [0.0]
            centre[node] = sum(below) / len(below)
        free = -math.inf
        for node in sorted(layer, key=lambda node: (centre[node], node)):
            half = _half_width(topology.nodes[node])
            places[node] = (max(centre[node], free + half), height)
            free = places[node][0] + half + 0.2
    return [places[node] for node in range(len(topology.nodes))]


def _rails(topology: Topology, neighbours: dict[int, list[int]]) -> list[int]:
    """Switches that join chips which do not follow one another, on a machine that also has switches whose chips do.

    None where chips are linked to chips: those lines run below the row.
    """
    chips = topology.chips
    joined = {
        node: sorted({other for other in neighbours[node] if other < chips})
        for node in range(chips, len(topology.nodes))
        if any(other < chips for other in neighbours[node])
    }
    rails = [node for node, on in joined.items() if on[-1] - on[0] >= len(on)]
    linked = any(link.src < chips and link.dst < chips for link in topology.links)
    return [] if linked or len(rails) == len(joined) else rails


def _curve(start: Point, end: Point, places: list[Point]) -> tuple[Point, ...]:
    """Returns a straight line, or an arc below its row if the line would cross other nodes of that row."""
    (x0, y0), (x1, y1) = start, end
    blocked = y0 == y1 and any(y == y0 and min(x0, x1) < x < max(x0, x1) for x, y in places)
    sag = 0.22 * abs(x1 - x0) if blocked else 0.0
    steps = [i / 24 for i in range(25)]
    return tuple((x0 + t * (x1 - x0), y0 + t * (y1 - y0) - sag * 4 * t * (1 - t)) for t in steps)
