"""The machine as a scenario uses it: its chips, and the mesh axes by which its layout splits tensors."""

from __future__ import annotations

from dataclasses import replace
from math import gcd

from sim import topology
from sim.specs import TENSOR_PARALLEL, GraphSpec, Scenario, SwitchSpec, TopologySpec, chips_of
from sim.topology.graph import Axis, Topology


def machine(scenario: Scenario) -> Topology:
    """The scenario's machine.

    Tensor parallelism takes the first `layout.mesh.tensor` chips of a switch or graph, links to the others left out, as
    axis `t`. Where there are more chips than key-value heads, axis `t` is as long as divides these, and along a second
    axis `r` chips hold copies of them.
    """
    if scenario.layout.ffn != TENSOR_PARALLEL:
        return topology.build(scenario.topology)
    chips = scenario.layout.mesh.tensor or chips_of(scenario.topology)
    return tensor_parallel(topology.build(first_chips(scenario.topology, chips)), scenario.model.kv_heads)


def tensor_parallel(built: Topology, kv_heads: int) -> Topology:
    """A switch or graph with its chips along axes `t` and `r`, those of more than one chip."""
    shared = gcd(kv_heads, built.chips)
    axes = [Axis(name, size, ring=False) for name, size in (("t", shared), ("r", built.chips // shared)) if size > 1]
    return replace(built, axes=tuple(axes) or (Axis("t", 1, ring=False),))


def first_chips(spec: TopologySpec, count: int) -> TopologySpec:
    """A switch or graph with its first `count` chips only."""
    if isinstance(spec, SwitchSpec):
        return spec.model_copy(update={"chips": count})
    if not isinstance(spec, GraphSpec) or count == chips_of(spec):
        return spec
    gone = [name for name, kind in spec.nodes.items() if kind == "chip"][count:]
    nodes = {name: kind for name, kind in spec.nodes.items() if name not in gone}
    links = [edge for edge in spec.links if not set(edge.between) & set(gone)]
    return spec.model_copy(update={"nodes": nodes, "links": links})
