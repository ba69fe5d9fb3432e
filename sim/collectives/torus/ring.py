"""All-gather along the axes, one stage per axis; every stage passes chunks from neighbour to neighbour.

A *form* says how one axis is gathered: which half of a chunk (-1: all of it) makes each hop in each direction. With K
chips on the axis, chunks of c bytes, links of w bytes/s per direction and latency t, a stage takes

    one way       (K-1) (c/w + t)
    both ways     (K-1)/2 c/w + floor(K/2) t     fewest bytes per link and fewest hops at once
    line          (K-1) (c/w + t)                no wrap: the end chips receive everything over one link

(both ways: whole chunks travel to distances 1 .. floor((K-1)/2); for even K the chunk of the chip opposite comes in two
halves, one from each side, over the two parallel links if K = 2). An axis that closes no ring is always done as a line.
Sources: Chan et al. 2007 (Concurrency and Computation 19:1749) for ring and line; scaling-book, "Sharded matrices", for
both directions of a TPU ring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from sim.collectives.schedule import Hop, Int32s, Payload, Schedule, ScheduleBuilder, plans_one_chip
from sim.collectives.wiring import Grid, WiredAxis, line_grid, ring_grid
from sim.topology.graph import Topology

Hops = Mapping[int, Sequence[int]]
"""Half that makes hop 0, 1, ... in each direction (+1, -1); -1 for full chunks."""
Form = Callable[[WiredAxis], tuple[WiredAxis, Hops]]
"""Form of the gather on one axis: the axis (a line if its wrap is not used) and the hops."""


Arrival = tuple[int, Int32s]
"""(half, sends): for each chip [chips] the send that arrived there in one hop, -1 for none, and what half it held."""


def arrivals_containing(half: int, arrivals: Sequence[Arrival]) -> list[Int32s]:
    """The sends among `arrivals` that a send of `half` has to wait for."""
    return [sends for held, sends in arrivals if half < 0 or held < 0 or held == half]


def as_line(axis: WiredAxis) -> tuple[WiredAxis, Hops]:
    """Whole chunks travel to both ends."""
    hops = (-1,) * (axis.size - 1)
    return axis.without_wrap(), {1: hops, -1: hops}


def one_way(axis: WiredAxis) -> tuple[WiredAxis, Hops]:
    """Whole chunks travel once around in the + direction."""
    return (axis, {1: (-1,) * (axis.size - 1)}) if axis.ring else as_line(axis)


def one_way_back(axis: WiredAxis) -> tuple[WiredAxis, Hops]:
    """Whole chunks travel once around in the - direction, so that the reverse runs in the + direction."""
    return (axis, {-1: (-1,) * (axis.size - 1)}) if axis.ring else as_line(axis)


def both_ways(axis: WiredAxis) -> tuple[WiredAxis, Hops]:
    """Chunks travel the shorter way round."""
    if not axis.ring:
        return as_line(axis)
    whole = (-1,) * ((axis.size - 1) // 2)
    if axis.size % 2:
        return axis, {1: whole, -1: whole}
    return axis, {1: (*whole, 0), -1: (*whole, 1)}


def gather(topology: Topology, axes: tuple[str, ...], grids: Sequence[Grid], form: Form) -> Schedule:
    """All-gather in `len(grids)` parts at the same time; part p goes through the axes in the order of `grids[p]`.

    The first stage of a part passes single chunks along its first axis; every later stage passes boxes, all that the
    stages before have gathered. A chip starts a stage with its own box, once everything in it has arrived.
    """
    builder = ScheduleBuilder("all_gather", axes, len(grids), np.stack([grid.place for grid in grids]))
    group = prod(topology.axis(name).size for name in axes)
    chips = np.arange(topology.chips, dtype=np.int32)
    box_share = [1 / (len(grids) * group)] * len(grids)
    arrived: list[list[Arrival]] = [[] for _ in grids]
    for stage in range(len(grids[0].axes)):
        runs = [form(grid.axes[stage]) for grid in grids]
        last: dict[tuple[int, int], Int32s] = {}
        received: list[list[Arrival]] = [[] for _ in grids]
        for step in range(max(len(hops) for _, ways in runs for hops in ways.values())):
            for part, (axis, ways) in enumerate(runs):
                for direction, hops in ways.items():
                    if step >= len(hops):
                        continue
                    half = hops[step]
                    needed = arrivals_containing(half, arrived[part]) if step == 0 else [last[part, direction]]
                    sends = axis.after[direction] >= 0
                    if step > 0:
                        sends &= needed[0] >= 0
                    src = chips[sends]
                    origin = grids[part].place[src]
                    origin[:, [axes.index(done.name) for done in grids[part].axes[:stage]]] = -1
                    origin[:, axes.index(axis.name)] = (axis.position[src] - direction * step) % axis.size
                    dst = axis.after[direction][src]
                    arrival = np.full(len(chips), -1, dtype=np.int32)
                    arrival[dst] = builder.add(
                        Hop(src, dst, axis.link[direction][src], direction=direction),
                        Payload(
                            box_share[part] if half < 0 else box_share[part] / 2,
                            step == 0,
                            part=part,
                            half=half,
                            origin=origin,
                        ),
                        step,
                        deps=[ids[src] for ids in needed],
                    )
                    last[part, direction] = arrival
                    received[part].append((half, arrival))
        for part, (axis, _) in enumerate(runs):
            arrived[part] += received[part]
            box_share[part] *= axis.size
    return builder.build()


def _one_after_the_other(topology: Topology, axes: tuple[str, ...], form: Form) -> Schedule:
    order = tuple(name for name in axes if topology.axis(name).size > 1)
    grid = line_grid if form is as_line else ring_grid
    return gather(topology, axes, [grid(topology, axes, order)], form)


@plans_one_chip(on="lattices")
def ring(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """One-way ring in the + direction on each axis, one axis after the other."""
    return _one_after_the_other(topology, axes, one_way)


@plans_one_chip(on="lattices")
def ring_back(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """One-way ring in the - direction on each axis, one axis after the other."""
    return _one_after_the_other(topology, axes, one_way_back)


@plans_one_chip(on="lattices")
def bidirectional_ring(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Shorter way round on each axis, one axis after the other."""
    return _one_after_the_other(topology, axes, both_ways)


def line(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Lines to both ends of each axis without its wrap, one axis after the other."""
    return _one_after_the_other(topology, axes, as_line)
