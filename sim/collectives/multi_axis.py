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

from sim.collectives.mesh import MeshAxis, mesh_axes
from sim.collectives.ring import both_ways, gather
from sim.collectives.schedule import Schedule
from sim.topology.graph import Topology


def rotations(topology: Topology, axes: Sequence[MeshAxis]) -> list[list[str]]:
    """Names of the axes in cyclic order from each of those with the slowest links, then the others, the fastest last.

    The last axis of an all-gather carries most. One empty order for no axes.
    """
    rates = {axis.name: min(topology.links[link].bandwidth for link in axis.link[1] if link >= 0) for axis in axes}
    names = [name for name in rates if rates[name] == min(rates.values())]
    faster = sorted((name for name in rates if name not in names), key=rates.__getitem__)
    return [names[start:] + names[:start] + faster for start in range(len(names))] or [[]]


@functools.lru_cache(maxsize=4)
def multi_axis(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """One part per axis with the slowest links, in rotated order, each the shorter way round.

    Kept, since the reduce-scatter and the all-reduce over the same axes are made from it.
    """
    return gather(topology, axes, rotations(topology, mesh_axes(topology, axes)), both_ways)
