"""Collectives as schedules of sends. A new algorithm is one function and one line in `ON_TORUS` or `ON_ROUTES`.

The table says what an algorithm needs: lines of neighbours, or routes between any two chips. A collective over mesh
axes that are whole axes of the machine's wiring is planned on the machine; over others, group by group, each on the
machine of its chips (`groups`), which may have lines or not.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.collectives import chunk_replay, multimem, rooted
from sim.collectives.fold import folding
from sim.collectives.graph import hierarchical, point_to_point, rings
from sim.collectives.graph.renumbering import numbered
from sim.collectives.groups import longer_axes, merged
from sim.collectives.nccl import kernels as library
from sim.collectives.nccl.kernels import ON_NCCL
from sim.collectives.pieces import in_pieces
from sim.collectives.reduce import all_reduce, reduce_scatter
from sim.collectives.schedule import Algorithm, GroupPlan, Schedule
from sim.collectives.torus import all_to_all, broadcast, direct_all_to_all, multi_axis, permute, ring
from sim.collectives.torus.phase_order import in_phase_order, needs_order
from sim.collectives.wiring import is_lattice
from sim.errors import InputError, suggest
from sim.specs.plugins import owner
from sim.topology.graph import Topology
from sim.topology.group import groups_of
from sim.topology.mesh import joined, mesh_groups, whole_lines

__all__ = [
    "COLLECTIVES",
    "ON_NCCL",
    "ON_ROUTES",
    "ON_TORUS",
    "Algorithm",
    "Schedule",
    "algorithm_names",
    "algorithm_of",
    "schedule",
]

# The reverse of a one-way ring in the - direction runs in the + direction, like the ring it goes with.
ON_TORUS: dict[str, dict[str, Algorithm]] = {
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
        "dimension_ordered": direct_all_to_all.dimension_ordered,
    },
    "broadcast": {"spanning_trees": broadcast.spanning_trees},
    "permute": {"neighbour": permute.neighbour},
    "reduce": {"spanning_trees": rooted.reduce(broadcast.spanning_trees)},
    "gather": {"spanning_trees": rooted.gather},
    "scatter": {"spanning_trees": rooted.scatter},
    "sendrecv": {"ring": permute.ring},
}
"""Algorithms between neighbours on the axes of a torus. The first of each collective is the default; an all-to-all is
`dimension_ordered` where that suits the machine better."""

_one_shot = in_pieces(numbered(point_to_point.one_shot))
_doubling = in_pieces(numbered(point_to_point.halving_doubling))
_sums = in_pieces(numbered(point_to_point.tree_of_sums))
_scatter = numbered(point_to_point.one_shot_scatter, root=0)
_ring_from_root = numbered(point_to_point.ring_broadcast, root=0)
_tree_from_root = in_pieces(numbered(point_to_point.tree, root=0))

ON_ROUTES: dict[str, dict[str, Algorithm]] = {
    "all_gather": {"ring": rings.once("all_gather"), "one_shot": _one_shot, "halving_doubling": _doubling},
    "reduce_scatter": {
        "ring": rings.once("reduce_scatter"),
        "one_shot": reduce_scatter(_one_shot),
        "halving_doubling": reduce_scatter(_doubling),
    },
    "all_reduce": {
        "ring": rings.once("all_reduce"),
        "one_shot": in_pieces(numbered(point_to_point.one_shot_reduce)),
        "two_shot": all_reduce(reduce_scatter(_one_shot), _one_shot),
        "halving_doubling": all_reduce(reduce_scatter(_doubling), _doubling),
        "tree": all_reduce(reduce_scatter(_sums), _sums),
        "hierarchical": in_pieces(numbered(hierarchical.all_reduce)),
        "cube_mesh": in_pieces(numbered(point_to_point.cube_mesh)),
    },
    "all_to_all": {"one_shot": in_pieces(numbered(point_to_point.one_shot_exchange))},
    "broadcast": {"ring": _ring_from_root, "tree": _tree_from_root},
    "permute": {"neighbour": point_to_point.neighbour},
    "reduce": {"ring": rooted.reduce(_ring_from_root), "tree": rooted.reduce(_tree_from_root)},
    "gather": {"one_shot": rooted.reverse_scatter(_scatter)},
    "scatter": {"one_shot": _scatter},
    "sendrecv": {"ring": point_to_point.ring_sendrecv},
}
"""Algorithms between any two chips of a switch or graph; the first of each collective is the default."""

_SHIPPED = frozenset(
    algorithm for table in (ON_TORUS, ON_ROUTES) for algorithms in table.values() for algorithm in algorithms.values()
)
"""Algorithms of this package; others are plug-ins."""

COLLECTIVES = tuple(ON_TORUS)


def algorithm_names(collective: str) -> tuple[str, ...]:
    """Returns the names of all algorithms of a collective."""
    sized = (*library.names(collective), *multimem.KERNELS.get(collective, ()))
    names = {**ON_TORUS[collective], **ON_ROUTES[collective], **dict.fromkeys(sized)}
    return tuple(names)


def algorithm_of(topology: Topology, collective: str, algorithm: str | None = None, size: float | None = None) -> str:
    """Returns the name of the algorithm that `schedule` takes: the given one, else the machine's default.

    On a machine with NCCL that default is `auto`, and `auto`, `ring` and `tree` become the algorithm and protocol that
    NCCL would choose for `size` bytes, such as `ring_ll`.

    Raises:
        InputError: unknown collective or algorithm, or an algorithm for another kind of machine.
        ValueError: the choice depends on the size, and none is given.
    """
    if collective not in COLLECTIVES:
        raise InputError("unknown collective", got=collective, hint=suggest(collective, COLLECTIVES))
    of_nccl = () if topology.software.nccl is None else library.names(collective)
    in_switch = multimem.KERNELS.get(collective, ()) if multimem.is_offered(topology) else ()
    fitting = tuple(dict.fromkeys((*of_nccl, *_on(topology)[collective], *in_switch)))
    name = algorithm or topology.software.algorithms.get(collective) or _default(topology, collective, fitting)
    if name in of_nccl:
        try:
            return library.choose(topology, collective, name, size)
        except InputError as error:
            if not topology.failed:
                raise
            raise error.within(f"{collective} by {name}") from None
    if name in fitting:
        return name
    if name in algorithm_names(collective):
        rule = f"the algorithm '{name}' of {collective} does not run on a {topology.kind}"
        if name in multimem.KERNELS.get(collective, ()):
            rule = f"the algorithm '{name}' of {collective} needs all chips on one switch that reduces"
        elif not topology.has_lines and name in library.names(collective):
            rule = f"the algorithm '{name}' of {collective} is NCCL's, and the machine has none"
        raise InputError(rule, where=f"topology {topology.name}", hint=f"choose from {', '.join(fitting)}")
    where = f"collectives.{collective}"
    raise InputError(f"no algorithm of {collective}", where=where, got=name, hint=suggest(name, fitting))


def _default(topology: Topology, collective: str, fitting: Sequence[str]) -> str:
    direct = topology.has_lines and collective == "all_to_all" and direct_all_to_all.suits(topology)
    return "dimension_ordered" if direct else fitting[0]


def _on(topology: Topology) -> dict[str, dict[str, Algorithm]]:
    return ON_TORUS if topology.has_lines else ON_ROUTES


def schedule(
    topology: Topology,
    collective: str,
    axes: tuple[str, ...],
    algorithm: str | None = None,
    size: float | None = None,
) -> Schedule:
    """Returns the sends of a collective over mesh axes, for all groups of the mesh at once.

    Args:
        axes: mesh axes that a group spans. Where they are whole axes of the wiring, the columns `origin` and `target`
            are along these, in that order.
        algorithm: None for the default of the machine, or of each group's machine.
        size: bytes of the collective, as `emit` takes it; needed where NCCL chooses, as its kernels differ by size.
            On a torus, small collectives need no order of phases; None gives a schedule that serves all sizes.

    Raises:
        InputError: unknown collective, algorithm or axis, or an algorithm that the topology cannot carry out.
        ValueError: NCCL's schedules depend on the size, and none is given.
    """
    if len(set(axes)) < len(axes):
        raise InputError("a collective names each axis once", where="axes", got=joined(axes))
    lines = whole_lines(topology, axes)
    if lines is not None:
        return _planned(topology, collective, lines, algorithm, size)
    return merged(topology, axes, group_plans(topology.unfold(), collective, axes, algorithm, size))


def group_plans(
    topology: Topology, collective: str, axes: tuple[str, ...], algorithm: str | None, size: float | None
) -> tuple[GroupPlan, ...]:
    """Returns what every group along mesh axes does. Raises as `schedule` does."""
    groups = groups_of(topology, tuple(map(tuple, mesh_groups(topology, axes).tolist())))
    plans = {
        machine: _planned(machine, collective, longer_axes(machine), algorithm, size)
        for machine in dict.fromkeys(group.machine for group in groups)
    }
    return tuple(GroupPlan(group, plans[group.machine]) for group in groups)


def _planned(
    topology: Topology, collective: str, lines: tuple[str, ...], algorithm: str | None, size: float | None
) -> Schedule:
    """Returns the sends over axes of the wiring."""
    name = algorithm_of(topology.unfold(), collective, algorithm, size)
    of_nccl = topology.software.nccl is not None and name in ON_NCCL.get(collective, {})
    is_sized = of_nccl or name in multimem.KERNELS.get(collective, {})
    if is_sized and size is None:
        raise ValueError(f"{collective} by '{name}' on {topology.name}: its schedules depend on the size")
    try:
        if is_sized and size is not None:
            timed = library.timed if of_nccl else multimem.timed
            return timed(topology, collective, lines, name, size)
        plan = _plain(topology, collective, lines, name, _on(topology)[collective][name])
        return in_phase_order(plan, topology) if needs_order(plan, topology, size) else plan
    except InputError as error:
        if not topology.failed:
            raise
        raise error.within(f"{collective}({joined(lines)}) by {name}") from None


def _plans_one_chip(
    topology: Topology, collective: str, axes: tuple[str, ...], name: str, algorithm: Algorithm
) -> bool:
    """Returns True if the algorithm can plan the sends of a torus folded to one chip directly."""
    if topology.chips != 1 or not is_lattice(topology, axes):
        return False
    rings = all(topology.axis(axis).ring or topology.axis(axis).size == 1 for axis in axes)
    on = getattr(algorithm, "plans_one_chip_on", None)
    return on == "lattices" or (on == "rings" and rings)


@folding(_plans_one_chip)
def _plain(topology: Topology, collective: str, axes: tuple[str, ...], name: str, algorithm: Algorithm) -> Schedule:
    """Returns a schedule that serves all sizes.

    Raises:
        InputError: an algorithm from outside that does not carry out its collective.
    """
    plan = algorithm(topology, axes)
    if algorithm not in _SHIPPED:
        try:
            chunk_replay.replay(plan, topology)
        except chunk_replay.ReplayError as error:
            plugin, where = owner("collective", f"{collective} {name}"), f"algorithm {name} on {topology.name}"
            where = f"{plugin.label}: {where}" if plugin else where
            raise InputError(f"must carry out {collective}: {error}", where=where) from None
    return plan
