"""All-gather and reduce-scatter as loops around one ring, for looped collective matmuls.

In a looped matmul every hop brings a shard (or takes a partial sum) that one piece of the matmul works on. The form
decides how shards travel; K chips, V bytes gathered:

    one_way                    + direction, K-1 hops of V/K
    bidirectional_throughput   every chunk in two halves going opposite ways, K-1 hops of V/(2K) in each direction
    bidirectional_latency      whole chunks, floor(K/2) hops in the + and floor((K-1)/2) in the - direction, of V/K

Two chips whose axis does not wrap swap their chunks, one way each.

Source: Wang et al. 2023 (ASPLOS), "Overlap communication with dependent computation via decomposition".
"""

from __future__ import annotations

from sim.collectives.fold import folding
from sim.collectives.mesh import MeshAxis, mesh_axes, mesh_grid
from sim.collectives.reduce import reverse
from sim.collectives.ring import Hops, as_line, gather
from sim.collectives.schedule import Schedule
from sim.errors import InputError, LayoutError, suggest
from sim.specs import LoopForm
from sim.topology.graph import Topology


def _hops(form: str, size: int, forward: int) -> Hops:
    """Halves per hop and direction; `forward` is the direction called + above."""
    forms: dict[str, Hops] = {
        "one_way": {forward: (-1,) * (size - 1)},
        "bidirectional_throughput": {forward: (0,) * (size - 1), -forward: (1,) * (size - 1)},
        "bidirectional_latency": {forward: (-1,) * (size // 2), -forward: (-1,) * ((size - 1) // 2)},
    }
    if form not in forms:
        raise InputError("unknown form of a looped collective", got=form, hint=suggest(form, forms))
    return forms[form]


def _loop(topology: Topology, name: str, form: str, forward: int) -> Schedule:
    def ways(axis: MeshAxis) -> tuple[MeshAxis, Hops]:
        if not axis.ring and axis.size == 2:
            return as_line(axis)
        if not axis.ring:
            raise LayoutError(
                f"a looped collective matmul runs around a ring, and axis '{name}' of {topology.name} does not wrap",
                hint="use 'overlap: none' or a topology that wraps this axis",
            )
        return axis, _hops(form, axis.size, forward)

    return gather(
        topology, (name,), [mesh_grid(topology, (name,), [axis.name for axis in mesh_axes(topology, (name,))])], ways
    )


@folding()
def all_gather_loop(topology: Topology, axis: str, form: LoopForm) -> Schedule:
    """All-gather around `axis`. At step s in direction d a chip sends the chunk whose `origin` is s hops behind it.

    Raises:
        LayoutError: the axis closes no ring.
    """
    return _loop(topology, axis, form, 1)


@folding()
def reduce_scatter_loop(topology: Topology, axis: str, form: LoopForm) -> Schedule:
    """Reduce-scatter around `axis`, the all-gather's reverse with + and - exchanged: it has its hops per direction.

    At step s of m in direction d a chip sends the sum for the `target` that is m - s hops ahead of it.

    Raises:
        LayoutError: the axis closes no ring.
    """
    return reverse(_loop(topology, axis, form, -1), topology)
