"""The machine as a scenario uses it: its chips, and the mesh axes by which its layout splits tensors."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from math import gcd, prod
from operator import ge

from msgspec.structs import replace

from sim import topology
from sim.errors import InputError, suggest
from sim.lowering.machine_part import cut_machine
from sim.specs import AxisSpec, Scenario, StackSpec, TopologySpec
from sim.specs.mesh import BOXES, RACKS, MeshSpec, SplitAxis, part_of, pieces_on_torus
from sim.specs.unread import DealtPass
from sim.topology.boxes import boxes, racks
from sim.topology.bundles import effective
from sim.topology.graph import Topology
from sim.topology.mesh import MeshAxis, Pieces, mesh_of_pieces, row_major

STAGES = "p"
"""Mesh axis of the stages that `layout.mesh.pipeline` makes."""


def mesh_of(scenario: Scenario) -> Topology:
    """The scenario's machine, with the axes of its `mesh` where it has one, and its first chips along each of them.

    Tensor parallelism takes the first chips of a switch or graph, links to the others left out: `layout.mesh.tensor` of
    them as axis `t`, or as many in each pipeline stage along axis `p` (chip = stage x tensor + rank). Where there are
    more chips in a stage than key-value heads, axis `t` is as long as divides these, and along a second axis `r` chips
    hold copies of them.
    """
    if scenario.mesh is not None:
        return apply_mesh(scenario.topology, scenario.stack, scenario.mesh)
    stages = scenario.layout.mesh.pipeline
    if lines := scenario.topology.lines:
        built = topology.build(scenario.topology, scenario.stack)
        return built if stages == 1 else _split_axes(built, _cut_stages(lines, stages))
    chips = tensor_chips(scenario)
    built = topology.build(scenario.topology.keep_first_chips(stages * chips), scenario.stack)
    axes = ((STAGES, stages),) if stages > 1 else ()
    return _split_axes(built, row_major((*axes, *_tensor_axes(chips, scenario.model.kv_heads))))


def computing_part(scenario: Scenario) -> Topology:
    """The machine of the chips that compute: that of the mesh, without chips that only receive a cache."""
    machine, transfer = mesh_of(scenario), scenario.layout.kv_transfer
    return cut_machine(machine, (transfer.axis,))[0].topology if transfer else machine


def dealt_pass(scenario: Scenario) -> DealtPass:
    """Returns a scenario of one phase with the mesh axes that its layout deals to uses."""
    stages = stage_axes(scenario)
    lengths = {axis.name: axis.size for axis in computing_part(scenario).mesh if axis.name not in stages}
    return DealtPass(scenario, lengths)


def apply_mesh(machine: TopologySpec, stack: StackSpec, mesh: MeshSpec) -> Topology:
    """The machine with a mesh over it.

    Raises:
        InputError: boxes or racks that are no axis, or that the other axes do not fill.
    """
    part = part_of(machine, mesh)
    built = topology.build(part, stack)
    if lines := part.lines:
        return _split_axes(built, pieces_on_torus(mesh, lines))
    inside = row_major((name, size) for name, size in mesh.items() if isinstance(size, int))
    chips = prod(size for _, axis_pieces in inside for size, _ in axis_pieces)
    axis_pieces = dict(inside)
    levels = [
        (name, level, parts)
        for level, parts in ((BOXES, boxes(built)), (RACKS, racks(built)))
        for name, size in mesh.items()
        if size == level
    ]
    for i, (name, level, parts) in enumerate(levels):
        size = len(parts[0])
        if any(part != tuple(range(k * size, (k + 1) * size)) for k, part in enumerate(parts)):
            rule = f"'{level}' needs {level} of equal size, numbered one after the other"
            raise InputError(rule, where=f"mesh.{name}", got=" ".join(str(len(part)) for part in parts))
        if i == 0 and chips != size:
            one = "box" if level == BOXES else "rack"
            rule = f"axes beside '{level}' must have the chips of a {one}, {size}, as their product"
            raise InputError(rule, where="mesh", got=chips)
        count = len(levels[i + 1][2][0]) // size if i + 1 < len(levels) else len(parts)
        axis_pieces[name], chips = [(count, chips)], chips * count
    first_chips = topology.build(machine.keep_first_chips(chips), stack)
    return _split_axes(first_chips, [(name, axis_pieces[name]) for name in mesh])


def _cut_stages(axes: Mapping[str, AxisSpec], stages: int) -> Pieces:
    """A mesh whose first axis are equal slabs of a torus along its longest axis.

    Raises:
        InputError: a torus that does not fall into so many.
    """
    mesh: MeshSpec = {name: name for name in axes}
    name = max(axes, key=lambda axis: axes[axis].size)
    if any(axis.twist for axis in axes.values()) or axes[name].size % stages:
        rule = f"stages must divide the longest axis, {name} = {axes[name].size}, of a torus that is not twisted"
        raise InputError(rule, where="layout.mesh.pipeline", got=stages)
    inside = SplitAxis(of=name, size=axes[name].size // stages)
    return pieces_on_torus({STAGES: SplitAxis(of=name, size=stages), **mesh, name: inside}, axes)


def stage_axes(scenario: Scenario) -> tuple[str, ...]:
    """Mesh axes of the pipeline's stages; none where there is one stage."""
    uses = scenario.layout.uses
    return uses.stage if uses and uses.stage else (STAGES,) if scenario.layout.mesh.pipeline > 1 else ()


def stage_count(scenario: Scenario) -> int:
    """Number of the pipeline's stages.

    Raises:
        InputError: a stage axis that the mesh does not have, or more stages than layers.
    """
    uses = scenario.layout.uses
    if not uses or not uses.stage:
        return scenario.layout.mesh.pipeline
    sizes = {axis.name: axis.size for axis in mesh_of(scenario).mesh}
    for axis in uses.stage:
        if axis not in sizes:
            rule = "names an axis that the mesh does not have"
            raise InputError(rule, where="layout.uses.stage", got=axis, hint=suggest(axis, sizes))
    count = prod(sizes[axis] for axis in uses.stage)
    if count > scenario.layers:
        rule = f"every stage needs a layer, and there are {scenario.layers}"
        raise InputError(rule, where="layout.uses.stage", got=count)
    return count


def pool_link(scenario: Scenario) -> tuple[float, float]:
    """(bandwidth in bytes/s, latency in s) of the way to the memory that keeps the layers of a memory pool.

    Raises:
        InputError: a peer is to keep them, and the mesh leaves no chip free, or failed links leave no way to one.
    """
    pool = scenario.memory_pool
    if pool is None:
        raise ValueError("a scenario without a memory pool")
    if pool.link:
        return effective(pool.link)
    machine, slow = topology.build(scenario.topology, scenario.stack), dict[str, float]()
    if perturb := scenario.perturb:
        machine = machine.fail_links(
            frozenset(link.index for link in machine.links if link.name in perturb.failed_links)
        )
        for each in perturb.slow_links:
            slow |= {name: max(each.factor, slow.get(name, 1.0)) for name in each.links}
    free = _unused_chips(scenario, machine)
    if not free:
        hint = "a smaller mesh, or memory_pool.link"
        raise InputError("no chip is left free to keep layers", where="memory_pool.to", got=pool.to, hint=hint)

    def way(peer: int) -> tuple[float, int, float]:
        """(bandwidth of the slower direction, - hops, latency): layers come and go."""
        fetch, back = machine.route(peer, 0), machine.route(0, peer)
        links = [machine.links[link] for link in (*fetch, *back)]
        bandwidth = min(link.bandwidth / slow.get(link.name, 1.0) for link in links)
        return bandwidth, -len(fetch), sum(machine.links[link].latency_s for link in fetch)

    peers = [peer for peer in free if machine.can_reach(peer, 0) and machine.can_reach(0, peer)]
    bandwidth, _, latency_s = max(map(way, peers or free[:1]), key=lambda route: route[:2])
    return bandwidth, latency_s


def _unused_chips(scenario: Scenario, machine: Topology) -> list[int]:
    """Returns the chips of the machine that the mesh leaves free."""
    if not (lines := scenario.part.lines):
        return list(range(used_chips(scenario), machine.chips))
    used = [axis.size for axis in lines.values()]
    return [chip for chip in range(machine.chips) if any(map(ge, machine.coordinates(chip), used))]


def tensor_chips(scenario: Scenario) -> int:
    """Chips of one stage."""
    mesh = scenario.layout.mesh
    return mesh.tensor or scenario.topology.chip_count // mesh.pipeline


def used_chips(scenario: Scenario) -> int:
    """Chips of the machine that the mesh, or the layout, uses."""
    if scenario.mesh is not None:
        return mesh_of(scenario).chips
    return tensor_chips(scenario) * scenario.layout.mesh.pipeline


def describe_mesh(scenario: Scenario) -> tuple[str, ...]:
    """Returns a sentence that says how long the axes of the scenario's own mesh are; nothing where it has none."""
    if scenario.mesh is None:
        return ()
    return (f"mesh: {' x '.join(f'{axis.name} {axis.size}' for axis in mesh_of(scenario).mesh)}",)


def describe_unused_chips(scenario: Scenario) -> tuple[str, ...]:
    """Returns a sentence that says which field leaves chips of the machine out; nothing where all are used."""
    used, chips, mesh = used_chips(scenario), scenario.topology.chip_count, scenario.layout.mesh
    if used == chips:
        return ()
    if scenario.mesh is not None:
        field, more = "mesh", f"a mesh of {chips} uses all"
    elif mesh.pipeline == 1:
        field, more = "layout.mesh.tensor", f"set it to {chips} for all"
    else:
        field, more = "layout.mesh.tensor x layout.mesh.pipeline", f"a product of {chips} uses all"
    return (f"uses {used} of the machine's {chips} chips: {field}; {more}",)


def describe_unused_links(built: Topology) -> tuple[str, ...]:
    """Returns a sentence on links of the machine's file that are left out; nothing where all are used."""
    return (f"leaves links out, onto which messages would crowd: {', '.join(built.unused)}",) if built.unused else ()


def tensor_parallel(built: Topology, kv_heads: int) -> Topology:
    """A switch or graph with its chips along axes `t` and `r`, those of more than one chip."""
    return _split_axes(built, row_major(_tensor_axes(built.chips, kv_heads)))


def _split_axes(built: Topology, pieces: Pieces) -> Topology:
    return _with_mesh(built, mesh_of_pieces(built.axes, pieces))


@functools.lru_cache(maxsize=64)
def _with_mesh(built: Topology, mesh: tuple[MeshAxis, ...]) -> Topology:
    """The machine with these mesh axes: the same for every pass, so that passes share its schedules."""
    return replace(built, mesh=mesh)


def _tensor_axes(chips: int, kv_heads: int) -> tuple[tuple[str, int], ...]:
    shared = gcd(kv_heads, chips)
    return tuple((name, size) for name, size in (("t", shared), ("r", chips // shared)) if size > 1) or (("t", 1),)
