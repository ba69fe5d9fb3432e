"""Machines: chips and directed links, built from what a file says."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from sim.specs import GraphSpec, StackSpec, SwitchSpec, TopologySpec, TorusSpec
from sim.topology import graph, switch, torus
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
    spec = _with_nvls(known.spec, known.stack)
    if isinstance(spec, SwitchSpec):
        return switch.build(spec, known.stack)
    built = graph.build(spec, known.stack)
    check_ports(spec, built)
    return built


def _with_nvls(spec: SwitchSpec | GraphSpec, stack: StackSpec) -> SwitchSpec | GraphSpec:
    """The machine with the stack's own times for sums in the switch, where NCCL can make any."""
    if spec.nccl is None or spec.nccl.measured.nvls is None or stack.nvls is None:
        return spec
    measured = spec.nccl.measured.model_copy(update={"nvls": stack.nvls.value})
    return spec.model_copy(update={"nccl": spec.nccl.model_copy(update={"measured": measured})})
