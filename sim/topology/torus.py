"""Torus, mesh and twisted torus: chips on a grid, one link per chip, axis and direction.

The links are made here one by one. A grid from a graph library keeps one edge between two nodes, so a wrapped axis of
size 2 would lose half of its links, and an axis of size 1 would gain a link from a chip to itself.
"""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt

from sim.errors import InputError
from sim.specs import AxisSpec, StackSpec, TorusSpec
from sim.topology.bundles import effective
from sim.topology.chip import Chip
from sim.topology.graph import Axis, Link, Software, Topology
from sim.topology.paths import dimension_ordered, shortest


def build(spec: TorusSpec, stack: StackSpec) -> Topology:
    """Builds chips in row-major order (the last axis varies fastest) and their links by chip, axis, + then -.

    Where an axis wraps, the + link of its last chip leads to its first. A wrapped axis of size 2 has two parallel links
    between its two chips; an axis of size 1 has none. Where an axis is twisted, its wraparound also shifts the other
    axes that `twist` names: forwards when crossed in +, back when crossed in -.

    Raises:
        InputError: a twist on an axis of size 1, which has no wraparound to twist.
    """
    for name, axis in spec.axes.items():
        if axis.twist and axis.size == 1:
            raise InputError("an axis of size 1 has no links and takes no twist", where=f"{spec.name}: axes.{name}")

    axes = tuple(Axis(name, axis.size, ring=axis.wrap and not axis.twist) for name, axis in spec.axes.items())
    chips = prod(axis.size for axis in axes)
    hops = [
        (name, direction, sign, _next(spec.axes, along, direction).tolist())
        for along, name in enumerate(spec.axes)
        for direction, sign in ((1, "+"), (-1, "-"))
    ]
    rates = {name: effective(link) for name, link in spec.line_links.items()}
    step_s = stack.collective_step.value
    links: list[Link] = []
    neighbours: dict[tuple[int, str, int], tuple[int, int]] = {}
    for chip in range(chips):
        for name, direction, sign, there in hops:
            if (dst := there[chip]) < 0:
                continue
            index, (bandwidth, latency_s) = len(links), rates[name]
            label, nominal = f"{chip}:{name}{sign}", spec.line_links[name].bandwidth.value
            ends = (label, chip, dst, bandwidth, latency_s + step_s, name, direction)
            links.append(Link(index, *ends, nominal_bandwidth=nominal))
            neighbours[chip, name, direction] = dst, index
    return Topology(
        name=spec.name,
        chip=Chip.from_spec(spec.chip, stack),
        axes=axes,
        nodes=tuple(map(str, range(chips))),
        links=tuple(links),
        software=Software(stack.collective_overhead.value, step_s, spec.collectives),
        ways_of=shortest if any(axis.twist for axis in spec.axes.values()) else dimension_ordered,
        kind="torus",
        is_vertex_transitive=_vertex_transitive(spec.axes),
        _neighbours=neighbours,
    )


def _next(axes: dict[str, AxisSpec], along: int, direction: int) -> npt.NDArray[np.int64]:
    """Returns [chips] the chip one hop along the axis number `along`; -1 without a link."""
    sizes, axis = [spec.size for spec in axes.values()], list(axes.values())[along]
    there = np.stack(np.unravel_index(np.arange(prod(sizes)), sizes))
    there[along] += direction
    beyond = (there[along] < 0) | (there[along] >= axis.size)
    there[along] %= axis.size
    for other, (name, spec) in enumerate(axes.items()):
        there[other] = np.where(beyond, (there[other] + direction * axis.twist.get(name, 0)) % spec.size, there[other])
    linked = ~beyond if not axis.wrap or axis.size == 1 else True
    return np.where(linked, np.ravel_multi_index(tuple(there), sizes), -1)


def _vertex_transitive(axes: dict[str, AxisSpec]) -> bool:
    """Returns True if moving every chip by the same step maps the links onto themselves.

    True when every axis wraps and no twist shifts an axis that is itself twisted: the chips are then the integer grid
    modulo a lattice. (A shift into a twisted axis would have to apply that axis's twist as well where it overflows.)
    """
    shifted = {name for axis in axes.values() for name in axis.twist}
    return all(axis.wrap or axis.size == 1 for axis in axes.values()) and not any(axes[name].twist for name in shifted)
