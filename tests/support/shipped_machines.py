"""The shipped machines, built once, and those that differ in more than rates."""

from __future__ import annotations

import functools

from sim.specs import load
from sim.topology import Topology, build


@functools.cache
def machine(name: str) -> Topology:
    return build(*load.machine(name))


def wired_differently(names: list[str]) -> list[str]:
    """Of machines that have the same links and differ in rates only the first."""

    def wiring(name: str) -> tuple[object, ...]:
        topology = machine(name)
        generation = topology.nccl and topology.nccl.generation
        links = ((link.src, link.dst, link.medium) for link in topology.links)
        return topology.kind, topology.axes, topology.reduces, generation, *links

    return sorted({wiring(name): name for name in reversed(names)}.values(), key=names.index)


WIRED_DIFFERENTLY = wired_differently([name for name in load.shipped("topology") if machine(name).nccl is not None])
