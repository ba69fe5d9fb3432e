"""All-gather and reduce-scatter as loops around one mesh axis, for looped collective matmuls.

In a looped matmul every hop brings a shard (or takes a partial sum) that one piece of the matmul works on. The form
decides how shards travel; K chips, V bytes gathered:

    one_way                    + direction, K-1 hops of V/K
    bidirectional_throughput   every chunk in two halves going opposite ways, K-1 hops of V/(2K) in each direction
    bidirectional_latency      whole chunks, floor(K/2) hops in the + and floor((K-1)/2) in the - direction, of V/K
    direct                     whole chunks from the chip that has each to the chip that needs it, K-1 messages of V/K

An axis that is one whole axis of the wiring, and closes, is the ring of its links; two chips whose axis does not wrap
swap their chunks, one way each; a longer line is not looped around. Around any other mesh axis (part of an axis of the
wiring, several of them, or chips that are joined by routes) the chips are a ring in the order of their positions, and
every hop is a message by the machine's route, which may share links with others. Only there chunks may go directly: a
copy engine writes them into memory that all chips can address (symmetric memory), at step s those of the chip s + 1
positions on, so that a switch's ports carry one chunk each way at a time. The sums of a reduce-scatter are then added
up at their chip when all have come.

Sources: Wang et al. 2023 (ASPLOS), "Overlap communication with dependent computation via decomposition"; direct:
PyTorch's asynchronous tensor parallelism (torch/distributed/_symmetric_memory,
`_pipelined_multi_all_gather_and_consume` and `_pipelined_produce_and_all2all`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sim.collectives.fold import folding
from sim.collectives.graph.routes import Messages
from sim.collectives.groups import longer_axes, merged
from sim.collectives.reduce import reverse
from sim.collectives.schedule import GroupPlan, Int32s, Payload, Schedule
from sim.collectives.torus.ring import Hops, as_line, gather
from sim.collectives.wiring import WiredAxis, line_axes, line_grid
from sim.errors import InputError, LayoutError, suggest
from sim.specs import LoopForm
from sim.topology.graph import Axis, Topology
from sim.topology.group import groups_of, routed_group_of
from sim.topology.mesh import mesh_groups, whole_lines


def _line(topology: Topology, axis: str) -> Axis | None:
    """The axis of the wiring that a mesh axis is, whole; None where shards go around it by routes."""
    lines = whole_lines(topology, (axis,)) if topology.has_lines else None
    longer = [each for each in map(topology.axis, lines or ()) if each.size > 1]
    return longer[0] if len(longer) == 1 else None


def closes(topology: Topology, axis: str) -> bool:
    """Returns True if shards can go around a mesh axis: a ring of links, two chips that swap, or a ring by routes."""
    line = _line(topology, axis)
    return line is None or line.ring or line.size == 2


def form_around(topology: Topology, axis: str, form: LoopForm) -> LoopForm:
    """The form in which shards go around a mesh axis: two chips without a wraparound have one link each way."""
    line = _line(topology, axis)
    return form if line is None or line.ring else "one_way"


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
    def ways(axis: WiredAxis) -> tuple[WiredAxis, Hops]:
        if not axis.ring and axis.size == 2:
            return as_line(axis)
        if not axis.ring:
            raise LayoutError(
                f"a looped collective matmul runs around a ring, and axis '{name}' of {topology.name} does not wrap",
                hint="use 'overlap: none' or a topology that wraps this axis",
            )
        if form == "direct":
            raise LayoutError(
                f"chunks of a looped collective go directly where routes join the chips, and axis '{name}' of "
                f"{topology.name} is a ring of links",
                hint="use one_way, bidirectional_throughput or bidirectional_latency",
            )
        return axis, _hops(form, axis.size, forward)

    return gather(
        topology, (name,), [line_grid(topology, (name,), [axis.name for axis in line_axes(topology, (name,))])], ways
    )


def _around(topology: Topology, form: str, forward: int) -> Schedule:
    """All-gather around the chips of a machine in their order, by its routes."""
    to = Messages(topology, "all_gather", longer_axes(topology))
    ways = _hops(form, to.n, forward)
    last: dict[int, Int32s] = {direction: np.full(to.n, -1, dtype=np.int32) for direction in ways}
    for step in range(max(map(len, ways.values()))):
        for direction, hops in ways.items():
            if step >= len(hops):
                continue
            dst = (to.chips + direction) % np.int32(to.n)
            to.direction = direction
            arrived = to.send(
                to.chips,
                dst,
                Payload(
                    (1 if hops[step] < 0 else 1 / 2) / to.n,
                    step == 0,
                    half=hops[step],
                    origin=(to.chips - direction * step) % np.int32(to.n),
                ),
                step,
                deps=[last[direction]],
                links=[topology.route(*hop) for hop in zip(to.chips.tolist(), dst.tolist(), strict=True)],
            )
            last[direction] = np.roll(arrived, direction)
    return to.build()


def _directly(topology: Topology) -> Schedule:
    """All-gather in which every chip gets each chunk from the chip that has it, that of the next chip first."""
    to = Messages(topology, "all_gather", longer_axes(topology))
    to.direction = 1
    for step in range(to.n - 1):
        dst = (to.chips - 1 - step) % np.int32(to.n)
        to.send(to.chips, dst, Payload(1 / to.n, True, half=-1, origin=to.chips), step)
    return to.build()


def _by_routes(topology: Topology, form: str, forward: int) -> Schedule:
    return _directly(topology) if form == "direct" else _around(topology, form, forward)


def _in_groups(topology: Topology, axis: str, plan: Callable[[Topology], Schedule]) -> Schedule:
    groups = groups_of(topology, tuple(map(tuple, mesh_groups(topology, (axis,)).tolist())), routed_group_of)
    plans = {machine: plan(machine) for machine in dict.fromkeys(group.machine for group in groups)}
    return merged(topology, (axis,), tuple(GroupPlan(group, plans[group.machine]) for group in groups))


@folding()
def all_gather_loop(topology: Topology, axis: str, form: LoopForm) -> Schedule:
    """All-gather around a mesh axis. At step s in direction d a chip sends the chunk whose `origin` is s hops behind.

    Raises:
        LayoutError: the axis closes no ring.
    """
    if (line := _line(topology, axis)) is not None:
        return _loop(topology, line.name, form, 1)
    return _in_groups(topology, axis, lambda machine: _by_routes(machine, form, 1))


@folding()
def reduce_scatter_loop(topology: Topology, axis: str, form: LoopForm) -> Schedule:
    """Reduce-scatter around a mesh axis, the all-gather's reverse with + and - exchanged: as many hops per direction.

    At step s of m in direction d a chip sends the sum for the `target` that is m - s hops ahead of it.

    Raises:
        LayoutError: the axis closes no ring.
    """
    if (line := _line(topology, axis)) is not None:
        return reverse(_loop(topology, line.name, form, -1), topology)
    return _in_groups(topology, axis, lambda machine: reverse(_by_routes(machine, form, -1), machine))
