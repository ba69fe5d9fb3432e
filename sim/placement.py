"""The machine as a scenario uses it: its chips, and the mesh axes by which its layout splits tensors."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from math import gcd

from sim import topology
from sim.errors import InputError
from sim.specs import GraphSpec, Scenario, SwitchSpec, TopologySpec, chips_of, has_neighbours
from sim.topology.bundles import effective
from sim.topology.graph import Topology
from sim.topology.mesh import mesh_of_pieces, row_major


def machine(scenario: Scenario) -> Topology:
    """The scenario's machine.

    Tensor parallelism takes the first chips of a switch or graph, links to the others left out: `layout.mesh.tensor` of
    them as axis `t`, or as many in each pipeline stage along axis `p` (chip = stage x tensor + rank). Where there are
    more chips in a stage than key-value heads, axis `t` is as long as divides these, and along a second axis `r` chips
    hold copies of them.
    """
    if has_neighbours(scenario.topology):
        return topology.build(scenario.topology, scenario.stack)
    stages = scenario.layout.mesh.pipeline
    chips = tensor_chips(scenario)
    built = topology.build(some_chips(scenario.topology, range(stages * chips)), scenario.stack)
    axes = (("p", stages),) if stages > 1 else ()
    return _along(built, (*axes, *_tensor_axes(chips, scenario.model.kv_heads)))


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
    used = used_chips(scenario)
    whole, slow = topology.build(scenario.topology, scenario.stack), dict[str, float]()
    if perturb := scenario.perturb:
        whole = whole.without(frozenset(link.index for link in whole.links if link.name in perturb.failed_links))
        for each in perturb.slow_links:
            slow |= {name: max(each.factor, slow.get(name, 1.0)) for name in each.links}
    if used == whole.chips:
        hint = "layout.mesh: {tensor: 1}, or memory_pool.link"
        raise InputError("no chip is left free to keep layers", where="memory_pool.to", got=pool.to, hint=hint)

    def way(peer: int) -> tuple[float, int, float]:
        """(bandwidth of the slower direction, - hops, latency): layers come and go."""
        fetch, back = whole.route(peer, 0), whole.route(0, peer)
        links = [whole.links[link] for link in (*fetch, *back)]
        bandwidth = min(link.bandwidth / slow.get(link.name, 1.0) for link in links)
        return bandwidth, -len(fetch), sum(whole.links[link].latency_s for link in fetch)

    peers = [peer for peer in range(used, whole.chips) if whole.reaches(peer, 0) and whole.reaches(0, peer)]
    bandwidth, _, latency_s = max(map(way, peers or [used]), key=lambda found: found[:2])
    return bandwidth, latency_s


def tensor_chips(scenario: Scenario) -> int:
    """Chips of one stage."""
    mesh = scenario.layout.mesh
    return mesh.tensor or chips_of(scenario.topology) // mesh.pipeline


def used_chips(scenario: Scenario) -> int:
    """Chips of the machine that the layout uses."""
    return tensor_chips(scenario) * scenario.layout.mesh.pipeline


def tensor_parallel(built: Topology, kv_heads: int) -> Topology:
    """A switch or graph with its chips along axes `t` and `r`, those of more than one chip."""
    return _along(built, _tensor_axes(built.chips, kv_heads))


@functools.lru_cache(maxsize=64)
def _along(built: Topology, sizes: tuple[tuple[str, int], ...]) -> Topology:
    """The machine with mesh axes of these sizes: the same for every pass, so that passes share its schedules."""
    return replace(built, mesh=mesh_of_pieces(built.axes, row_major(sizes)))


def _tensor_axes(chips: int, kv_heads: int) -> tuple[tuple[str, int], ...]:
    shared = gcd(kv_heads, chips)
    return tuple((name, size) for name, size in (("t", shared), ("r", chips // shared)) if size > 1) or (("t", 1),)


def some_chips(spec: TopologySpec, chosen: Sequence[int]) -> TopologySpec:
    """A switch or graph with some of its chips only, in their order."""
    if isinstance(spec, SwitchSpec):
        return spec.model_copy(update={"chips": len(chosen)})
    if not isinstance(spec, GraphSpec) or len(chosen) == chips_of(spec):
        return spec
    chips = [name for name, kind in spec.nodes.items() if kind == "chip"]
    gone = set(chips) - {chips[chip] for chip in chosen}
    nodes = {name: kind for name, kind in spec.nodes.items() if name not in gone}
    links = [edge for edge in spec.links if not set(edge.between) & gone]
    return spec.model_copy(update={"nodes": nodes, "links": links})
