"""Broadcast from the chip at position 0 of every axis, pipelined over link-disjoint spanning trees.

On a torus of A rings the root has 2A links, and 2A spanning trees can share the links such that none is used twice. The
tree of axis p and direction d: from the root along p, from each chip reached along the next axis, and so on, always in
direction d; the chips at position 0 of p other than the root are reached last, by one more hop along p over the wrap.
Every tree carries 1/(2A) of the array in CHUNKS chunks of c bytes, one behind the other:

    T = (CHUNKS - 1) c/w + depth (c/w + t),   c = V/(2 A CHUNKS),   depth = sum(K - 1) + (1 if A > 1)

and tends to V/(2 A w), the time in which the root can send the array once. Where an axis closes no ring there are only
the A trees in the + direction, V/(A w); the last hop along a line goes back from position 1, and so is one of at most
2 + sum of the other axes' (K - 1). Disjoint trees: Johnsson and Ho 1989 (IEEE Trans. Computers 38:1249), on hypercubes.

Trees with a failed link carry nothing, in any group, and the others so much more: one failed link takes one tree, and
V/((2 A - 1) w) is what the chip behind it can receive at best. Where no tree is left, all goes down one tree of the
shortest ways that are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from sim.collectives.schedule import Hop, Int32s, Payload, Schedule, ScheduleBuilder
from sim.collectives.wiring import WiredAxis, line_axes, positions
from sim.topology.graph import Topology

CHUNKS = 32
"""Chunks per tree: filling the pipeline adds about depth/CHUNKS to the time of a long broadcast."""


class Level(Struct, frozen=True):
    """Links of a tree that are equally far down, of all groups."""

    link: Int32s
    """[n]"""
    above: Int32s
    """[n] the link of the tree that brings the data, counted over all hops; -1 at the root."""
    step: int
    """Hop number along its axis."""


Tree = tuple[Level, ...]


def spanning_trees(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Chunks down a tree per axis and direction, all at the same time.

    Raises:
        InputError: failed links cut a chip off.
    """
    all_trees = trees(topology, axes)
    builder = ScheduleBuilder("broadcast", axes, max(1, len(all_trees)) * CHUNKS)
    for number, tree in enumerate(all_trees):
        _send(builder, topology, axes, tree, number, 1 / (len(all_trees) * CHUNKS))
    return builder.build()


def trees(topology: Topology, axes: tuple[str, ...]) -> list[Tree]:
    """The link-disjoint spanning trees without a failed link; one of the shortest ways left where there are none.

    Raises:
        InputError: failed links cut a chip off.
    """
    whole = topology.intact
    longer = line_axes(whole, axes)
    directions = (1, -1) if all(axis.ring for axis in longer) else (1,)
    at_root = np.flatnonzero((positions(whole, axes) == 0).all(axis=1)).astype(np.int32)
    found = [_disjoint(longer[p:] + longer[:p], d, at_root) for d in directions for p in range(len(longer))]
    if not topology.failed:
        return found
    working = [t for t in found if not any(topology.failed.intersection(hop.link.tolist()) for hop in t)]
    return working or [_shortest(topology, axes, at_root)]


def _disjoint(order: Sequence[WiredAxis], direction: int, roots: Int32s) -> Tree:
    """Builds the tree from the root along the first axis, from each chip reached along the next, and so on."""
    hops: list[Level] = []
    brought_by = np.full(len(order[0].position), -1, dtype=np.int32)
    links = 0

    def hop(src: Int32s, axis: WiredAxis, towards: int, step: int) -> Int32s:
        nonlocal links
        hops.append(Level(axis.link[towards][src], brought_by[src], step))
        dst = axis.after[towards][src]
        brought_by[dst] = np.arange(links, links + len(src), dtype=np.int32)
        links += len(src)
        return dst

    reached = roots
    for stage, axis in enumerate(order):
        front, fronts = reached, [] if stage == 0 else [reached]
        for step in range(axis.size - 1):
            front = hop(front, axis, direction, step)
            fronts.append(front)
        reached = np.concatenate(fronts)
    if len(order) > 1:
        first = order[0]
        back = direction if first.ring else -1
        behind = first.position[reached] == (-back % first.size)
        off_root_line = np.any([axis.position[reached] != 0 for axis in order[1:]], axis=0)
        hop(reached[behind & off_root_line], first, back, first.size - 1)
    return tuple(hops)


def _shortest(topology: Topology, axes: tuple[str, ...], roots: Int32s) -> Tree:
    """The shortest ways that are left from each root to its group, which is a tree."""
    others = tuple(axis.name for axis in topology.axes if axis.name not in axes)
    place = positions(topology, others)
    levels: list[dict[tuple[int, int], tuple[int, int]]] = []  # (root, link) -> the same of the link above
    for root in roots.tolist():
        for chip in np.flatnonzero((place == place[root]).all(axis=1)).tolist():
            above = (root, -1)
            for depth, link in enumerate(topology.route(root, chip)):
                if depth == len(levels):
                    levels.append({})
                levels[depth][root, link] = above
                above = (root, link)
    number = {(root, -1): -1 for root in roots.tolist()}
    hops = []
    for step, level in enumerate(levels):
        links = np.array([link for _, link in level], dtype=np.int32)
        hops.append(Level(links, np.array([number[key] for key in level.values()], dtype=np.int32), step))
        number |= {key: len(number) - len(roots) + i for i, key in enumerate(level)}
    return tuple(hops)


def _send(
    builder: ScheduleBuilder, topology: Topology, axes: tuple[str, ...], tree: Tree, number: int, share: float
) -> None:
    """Adds the sends of one tree, level after level from the root, chunk by chunk within a level."""
    src, dst, direction = (topology.link_column(name) for name in ("src", "dst", "direction"))
    sent = np.full((CHUNKS, 1), -1, dtype=np.int32)  # first what the root has, then the links of the tree
    for hop in tree:
        above = sent[:, hop.above + 1].ravel()
        links = np.tile(hop.link, CHUNKS)
        sends = builder.add(
            Hop(src[links], dst[links], links, direction=direction[links]),
            Payload(
                share,
                np.tile(hop.above < 0, CHUNKS),
                part=np.repeat(np.arange(number * CHUNKS, (number + 1) * CHUNKS, dtype=np.int32), len(hop.link)),
                origin=np.zeros((len(links), len(axes)), dtype=np.int32),
            ),
            hop.step,
            deps=[above],
        )
        sent = np.concatenate([sent, sends.reshape(CHUNKS, -1)], axis=1)
