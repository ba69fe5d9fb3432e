"""Machines: chips and directed links, built from what a file says."""

from __future__ import annotations

from sim.specs import SwitchSpec, TopologySpec, TorusSpec
from sim.topology import graph, switch, torus
from sim.topology.graph import Axis, Chip, Link, Topology

__all__ = ["Axis", "Chip", "Link", "Topology", "build"]


def build(spec: TopologySpec) -> Topology:
    """The machine a file describes.

    Raises:
        InputError: a machine that cannot be wired, such as a graph in two pieces.
    """
    if isinstance(spec, TorusSpec):
        return torus.build(spec)
    if isinstance(spec, SwitchSpec):
        return switch.build(spec)
    return graph.build(spec)
