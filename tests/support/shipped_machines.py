"""The shipped machines, built once; those that differ in more than rates; and one machine of each kind of wiring."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from sim.specs import load
from sim.topology import Topology, build
from support.selection import release_if


@functools.cache
def machine(name: str) -> Topology:
    return build(*load.machine(name))


def wired_differently(names: list[str]) -> list[str]:
    """Of machines that have the same links and differ in rates only the first."""

    def wiring(name: str) -> tuple[object, ...]:
        topology = machine(name)
        generation = topology.software.nccl and topology.software.nccl.generation
        links = ((link.src, link.dst, link.medium) for link in topology.links)
        return topology.kind, topology.axes, topology.reduction.enabled, generation, *links

    return sorted({wiring(name): name for name in reversed(names)}.values(), key=names.index)


WIRED_DIFFERENTLY = wired_differently(
    [name for name in load.shipped("topology") if machine(name).software.nccl is not None]
)

ONE_OF_EACH_WIRING = {
    "dgx_a100": "a switch",
    "dgx_h100": "a switch that reduces",
    "dgx_h100_p2p_disabled": "through host memory",
    "dgx_h100_x2": "two boxes on rails",
    "dgx_h100_x4_leaf_spine": "boxes under leaf and spine switches",
    "dgx1_v100": "a hybrid cube mesh",
    "mi300x": "a full mesh",
    "a100_pcie_bridges": "pairs with bridges",
    "pcie_only": "a PCI Express tree",
    "tpu7x_2x2x1": "two chips of a package",
    "tpu_v4_4x4x4": "a torus of rings",
    "tpu_v4_4x4x8_twisted": "a twisted torus",
    "tpu_v5e_4x4": "a mesh without wraparound",
}
"""The machines that tests run on by default; the others repeat their wirings in other sizes."""


def one_of_each_wiring(names: Iterable[str], *, less: Iterable[str] = ()) -> list[Any]:
    """Returns the machines for `parametrize`; those that repeat a wiring, and those in `less`, are marked slow."""
    every = list(names)
    return release_if(every, *(name for name in every if name not in ONE_OF_EACH_WIRING), *less)
