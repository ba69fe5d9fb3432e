"""Machines: chips and directed links, built from what a file says."""

from __future__ import annotations

import functools

from msgspec import Struct

from sim.specs import StackSpec, SwitchSpec, TopologySpec, TorusSpec
from sim.topology import switch, torus
from sim.topology.chip import Chip
from sim.topology.graph import Axis, Link, Topology

__all__ = ["Axis", "Chip", "Link", "Topology", "build"]


IDEAL = StackSpec.model_construct(name="ideal")


def build(spec: TopologySpec, stack: StackSpec = IDEAL) -> Topology:
    """The machine a file describes, as a software reaches it.

    Raises:
        InputError: a machine that cannot be wired, such as a graph in two pieces, or that lacks a link it needs.
    """
    return _build(_Known(spec, stack))


class _Known(Struct, frozen=True):
    """Key by which the runs of a sweep share a machine and the schedules on it."""

    spec: TopologySpec
    stack: StackSpec

    def __hash__(self) -> int:
        return hash((self.spec.name, self.stack.name))  # mappings inside have no hash


@functools.lru_cache(maxsize=16)
def _build(known: _Known) -> Topology:
    if isinstance(known.spec, TorusSpec):
        return torus.build(known.spec, known.stack)
    if isinstance(known.spec, SwitchSpec):
        return switch.build(known.spec, known.stack)
    from sim.topology import odd_links
    from sim.topology.ports import check_ports

    built = odd_links.build(known.spec, known.stack)
    check_ports(known.spec, built)
    return built
