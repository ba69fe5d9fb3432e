"""Machines: chips and directed links, built from what a file says."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from sim.specs import StackSpec, SwitchSpec, TopologySpec, TorusSpec
from sim.topology import odd_links, switch, torus
from sim.topology.chip import Chip
from sim.topology.graph import Axis, Link, Topology
from sim.topology.ports import check_ports

__all__ = ["Axis", "Chip", "Link", "Topology", "build"]


IDEAL = StackSpec(name="ideal")


def build(spec: TopologySpec, stack: StackSpec = IDEAL) -> Topology:
    """The machine a file describes, as a software reaches it.

    Raises:
        InputError: a machine that cannot be wired, such as a graph in two pieces, or that lacks a link it needs.
    """
    return _build(_Known(f"{spec.kind} {spec.model_dump_json()} {stack.model_dump_json()}", spec, stack))


@dataclass(frozen=True, slots=True)
class _Known:
    """Files by what it says, so that the runs of a sweep share a machine and the schedules on it."""

    text: str
    spec: TopologySpec = field(compare=False)
    stack: StackSpec = field(compare=False)


@functools.lru_cache(maxsize=16)
def _build(known: _Known) -> Topology:
    if isinstance(known.spec, TorusSpec):
        return torus.build(known.spec, known.stack)
    if isinstance(known.spec, SwitchSpec):
        return switch.build(known.spec, known.stack)
    built = odd_links.build(known.spec, known.stack)
    check_ports(known.spec, built)
    return built
