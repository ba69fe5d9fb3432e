"""Broadcast from the chip at position 0 of every axis, pipelined over link-disjoint spanning trees.

On a torus of A rings the root has 2A links, and 2A spanning trees can share the links such that none is used twice. The
tree of axis p and direction d: from the root along p, from each chip reached along the next axis, and so on, always in
direction d; the chips at position 0 of p other than the root are reached last, by one more hop along p over the wrap.
Every tree carries 1/(2A) of the array in CHUNKS chunks of c bytes, one behind the other:

    T = (CHUNKS - 1) c/w + depth (c/w + t),   c = V/(2 A CHUNKS),   depth = sum(K - 1) + (1 if A > 1)

and tends to V/(2 A w), the time in which the root can send the array once. Where an axis closes no ring there are only
the A trees in the + direction, V/(A w); the last hop along a line goes back from position 1, and so is one of at most
2 + sum of the other axes' (K - 1). Disjoint trees: Johnsson and Ho 1989 (IEEE Trans. Computers 38:1249), on hypercubes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.collectives.mesh import MeshAxis, mesh_axes, mesh_axis
from sim.collectives.schedule import Int32s, Schedule, ScheduleBuilder
from sim.topology.graph import Topology
from sim.topology.paths import cut_off

CHUNKS = 32
"""Chunks per tree: filling the pipeline adds about depth/CHUNKS to the time of a long broadcast."""


def spanning_trees(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Chunks down a tree per axis and direction, all at the same time."""
    longer = mesh_axes(topology, axes)
    for axis in longer:
        if (axis.place != axis.position).any():
            raise cut_off(topology, f"the trees start at position 0 of {axis.name} and go on in one direction")
    directions = (1, -1) if all(axis.ring for axis in longer) else (1,)
    trees = [(longer[p:] + longer[:p], d) for d in directions for p in range(len(longer))]
    builder = ScheduleBuilder("broadcast", axes, max(1, len(trees)) * CHUNKS)
    for tree, (order, direction) in enumerate(trees):
        _grow(builder, topology, axes, order, direction, tree, 1 / (len(trees) * CHUNKS))
    return builder.build()


def _grow(
    builder: ScheduleBuilder,
    topology: Topology,
    axes: tuple[str, ...],
    order: Sequence[MeshAxis],
    direction: int,
    tree: int,
    share: float,
) -> None:
    """All sends of one tree, hop after hop from the root; chunk by chunk within a hop."""
    parts = np.arange(tree * CHUNKS, (tree + 1) * CHUNKS, dtype=np.int32)
    arrival = np.full((CHUNKS, topology.chips), -1, dtype=np.int32)

    def hop(src: Int32s, axis: MeshAxis, towards: int, step: int) -> Int32s:
        dst = axis.after[towards][src]
        arrival[:, dst] = builder.add(
            np.tile(src, CHUNKS),
            np.tile(dst, CHUNKS),
            np.tile(axis.link[towards][src], CHUNKS),
            share=share,
            step=step,
            direction=towards,
            own=bool(at_root[src].any()),
            part=np.repeat(parts, len(src)),
            origin=np.zeros((CHUNKS * len(src), len(axes)), dtype=np.int32),
            deps=[arrival[:, src].ravel()],
        ).reshape(CHUNKS, -1)
        return dst

    at_root = np.all([mesh_axis(topology, name).position == 0 for name in axes], axis=0)
    reached = np.flatnonzero(at_root).astype(np.int32)
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
