"""All-gather over several axes with all their links carrying traffic at all times.

The array is cut into as many parts as there are axes; part p goes through the axes in cyclic order starting with axis
p. While one part occupies both directions of one axis, the others occupy the other axes. On A rings of K chips each,
V bytes gathered:

    T = V/(2 A w) (1 - K^-A) + A floor(K/2) t

that is the time in which a chip can receive V (1 - K^-A) bytes over its 2A links, plus the hops of the diameter.
Source: scaling-book, "Sharded matrices": the bandwidth of an all-gather grows with the number of axes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from sim.collectives.schedule import Schedule, plans_one_chip
from sim.collectives.torus.ring import both_ways, gather
from sim.collectives.wiring import ring_grid
from sim.topology.graph import Topology


def rotations(topology: Topology, names: Sequence[str]) -> list[list[str]]:
    """The axes in cyclic order from each of those with the slowest links, then the others, the fastest last.

    The last axis of an all-gather carries most. One empty order for no axes.
    """
    rates = {name: min(link.bandwidth for link in topology.links if link.axis == name) for name in names}
    slow = [name for name in names if rates[name] == min(rates.values())]
    faster = sorted((name for name in names if name not in slow), key=rates.__getitem__)
    return [slow[start:] + slow[:start] + faster for start in range(len(slow))] or [[]]


@plans_one_chip(on="lattices")
@functools.lru_cache(maxsize=4)
def multi_axis(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """One part per axis with the slowest links, in rotated order, each the shorter way round.

    Kept, since the reduce-scatter and the all-reduce over the same axes are made from it.
    """
    names = [name for name in axes if topology.axis(name).size > 1]
    grids = [ring_grid(topology, axes, tuple(order)) for order in rotations(topology, names)]
    return gather(topology, axes, grids, both_ways)
