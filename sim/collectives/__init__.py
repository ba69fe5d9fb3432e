"""Collectives as schedules of sends. A new algorithm is one function and one line in `COLLECTIVES`."""

from __future__ import annotations

import functools

from sim.collectives import all_to_all, broadcast, multi_axis, permute, ring
from sim.collectives.fold import folding
from sim.collectives.mesh import mesh_axis
from sim.collectives.reduce import all_reduce, reduce_scatter
from sim.collectives.schedule import Algorithm, Schedule
from sim.errors import InputError, suggest
from sim.topology.graph import Topology

__all__ = ["COLLECTIVES", "Algorithm", "Schedule", "schedule"]

# The reverse of a one-way ring in the - direction runs in the + direction, like the ring it goes with.
COLLECTIVES: dict[str, dict[str, Algorithm]] = {
    "all_gather": {
        "multi_axis": multi_axis.multi_axis,
        "bidirectional_ring": ring.bidirectional_ring,
        "ring": ring.ring,
        "line": ring.line,
    },
    "reduce_scatter": {
        "multi_axis": reduce_scatter(multi_axis.multi_axis),
        "bidirectional_ring": reduce_scatter(ring.bidirectional_ring),
        "ring": reduce_scatter(ring.ring_back),
        "line": reduce_scatter(ring.line),
    },
    "all_reduce": {
        "multi_axis": all_reduce(reduce_scatter(multi_axis.multi_axis), multi_axis.multi_axis),
        "bidirectional_ring": all_reduce(reduce_scatter(ring.bidirectional_ring), ring.bidirectional_ring),
        "ring": all_reduce(reduce_scatter(ring.ring_back), ring.ring),
        "line": all_reduce(reduce_scatter(ring.line), ring.line),
    },
    "all_to_all": {
        "multi_axis": all_to_all.multi_axis,
        "dimension_ordered": all_to_all.dimension_ordered,
    },
    "broadcast": {"spanning_trees": broadcast.spanning_trees},
    "permute": {"neighbour": permute.neighbour},
}
"""Algorithms of each collective; the first is the default."""


@functools.lru_cache(maxsize=64)
@folding
def schedule(topology: Topology, collective: str, axes: tuple[str, ...], algorithm: str | None = None) -> Schedule:
    """The sends of a collective over `axes`, for all groups of the mesh at once.

    Args:
        axes: mesh axes that a group spans; the order is that of the columns of `origin` and `target`.
        algorithm: None for the topology's default, else the first of `COLLECTIVES[collective]`.

    Raises:
        InputError: unknown collective, algorithm or axis, or an algorithm that the topology cannot carry out.
    """
    if collective not in COLLECTIVES:
        raise InputError("unknown collective", got=collective, hint=suggest(collective, COLLECTIVES))
    algorithms = COLLECTIVES[collective]
    name = algorithm or topology.collectives.get(collective) or next(iter(algorithms))
    if name not in algorithms:
        where = f"collectives.{collective}"
        raise InputError(f"no algorithm of {collective}", where=where, got=name, hint=suggest(name, algorithms))
    if len(set(axes)) < len(axes):
        raise InputError("a collective names each axis once", where="axes", got="".join(axes))
    for axis in axes:
        mesh_axis(topology, axis)
    return algorithms[name](topology, axes)
