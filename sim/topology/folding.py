"""Folded machines: a few chips that represent all, whose links lead back to themselves."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Hashable, Sequence
from math import prod

import numpy as np
from msgspec.structs import replace

from sim.topology.graph import Folding, Int32s, Link, Topology
from sim.topology.rings import find


class NotFoldableError(ValueError):
    """Raised if chips do different things or see different links, so that none can represent others."""


@functools.lru_cache(maxsize=64)
def folded(machine: Topology) -> Topology:
    """Returns the machine as one chip that represents all. Exact for a program that is the same on all chips.

    On a graph of links between chips the machine's rings (`sim.topology.rings`) become one link each; for messages over
    other links no chip stands for another.

    Raises:
        NotFoldableError: the chips are not all alike.
    """
    alike = machine.is_vertex_transitive
    rings = {} if alike or machine.has_lines or machine.failed else _along_rings(machine)
    if not alike and not rings:
        raise NotFoldableError(unlike(machine))
    ports = (
        [rings.get(link.index, ("alone", link.index)) for link in machine.links] if rings else numbered_ports(machine)
    )
    return folded_by(machine, np.zeros(machine.chips, dtype=np.int32), ports)


def steps_alike(machine: Topology) -> list[tuple[int, ...]]:
    """[candidates, axes] Returns after how many hops along each axis of a torus chips may be alike; none where its mesh
    splits no axis.

    A translation maps the groups of every mesh axis onto groups where it is a multiple of the strides of all parts of
    each axis of the wiring. Chips of a group may then change places, which not every algorithm allows, so further
    candidates have no step along some axes.
    """
    pieces = [piece for axis in machine.mesh for piece in axis.pieces]
    strides = [prod(axis.size for axis in machine.axes[i + 1 :]) for i in range(len(machine.axes))]
    steps = [
        max([1, *(below // stride for size, below in pieces if size > 1 and below < stride * axis.size)])
        for axis, stride in zip(machine.axes, strides, strict=True)
    ]
    if not machine.has_lines or max(steps) == 1:
        return []
    candidates = itertools.product(*({step, axis.size} for step, axis in zip(steps, machine.axes, strict=True)))
    return sorted(candidates, key=lambda each: (prod(each), each))[:-1]


@functools.lru_cache(maxsize=64)
def folded_by_steps(machine: Topology, steps: tuple[int, ...]) -> Topology:
    """Returns the machine on which a chip represents all that lie a multiple of so many hops from it along each axis.

    Raises:
        NotFoldableError: the chips are not all alike.
    """
    if not machine.is_vertex_transitive or not machine.has_lines:
        raise NotFoldableError(unlike(machine))
    at = np.unravel_index(np.arange(machine.chips), [axis.size for axis in machine.axes])
    within = tuple(positions % step for positions, step in zip(at, steps, strict=True))
    return folded_by(machine, np.ravel_multi_index(within, steps).astype(np.int32), numbered_ports(machine))


def unlike(topology: Topology) -> str:
    """Returns why chips of this machine see different links."""
    lines = [axis.name for axis in topology.axes if not axis.ring and axis.size > 1]
    if topology.has_lines and lines:
        return f"axis {', '.join(lines)} closes no ring"
    return f"links of a {topology.kind} lead to different chips"


@functools.lru_cache(maxsize=64)
def owners(topology: Topology) -> Int32s:
    """Returns [links] the chip that a link leaves, or that a port of a switch leads to; -1 between two switches."""
    src, dst = topology.link_column("src"), topology.link_column("dst")
    chips = topology.chips
    return np.where(src < chips, src, np.where(dst < chips, dst, np.int32(-1)))


def numbered_ports(topology: Topology) -> list[Hashable]:
    """Returns [links] the place of each among the links of its chip: links at the same place become one."""
    made = Counter[int]()
    ports: list[Hashable] = []
    for owner in owners(topology).tolist():
        ports.append(made[owner])
        made[owner] += 1
    return ports


def _along_rings(topology: Topology) -> dict[int, Hashable]:
    """Returns the number of the ring of each link, for rings whose hops are one link each."""
    joined = {link.src for link in topology.links if link.dst < topology.chips}
    if not joined.issuperset(range(topology.chips)):
        return {}  # some chip sends over switches alone
    rings = [ring for ring in find(topology).rings if all(len(way) == 1 for way in ring.ways)]
    return {way[0]: number for number, ring in enumerate(rings) for way in ring.ways}


def folded_by(machine: Topology, stand_in: Int32s, ports: Sequence[Hashable]) -> Topology:
    """Returns the machine with one chip for each group of chips; the caller checks that a program can run on it.

    Args:
        stand_in: [chips] number of each chip's group, 0 to the number of groups - 1.
        ports: [links] the links of a group's chips that have the same one become one link.

    Raises:
        NotFoldableError: links that become one differ, or lead to different groups.
    """
    _, first = np.unique(stand_in, return_index=True)
    group = stand_in.tolist()
    nodes = [*group, *range(len(first), len(first) + len(machine.nodes) - machine.chips)]
    here = set(first.tolist())
    own: dict[Hashable, Link] = {}
    links = np.empty(len(machine.links), dtype=np.int32)
    owner_of = owners(machine).tolist()
    for link in sorted(machine.links, key=lambda link: owner_of[link.index] not in here):
        owner, port = owner_of[link.index], ports[link.index]
        key = group[owner] if owner >= 0 else -1, port
        src, dst = nodes[link.src], nodes[link.dst]
        if key not in own:  # one that only another chip has is of no chip here
            own[key] = replace(link, index=len(own), src=src if owner in here else -1, dst=dst)
        mine = own[key]
        if mine.src >= 0 and ((mine.src, mine.dst) != (src, dst) or _rates(mine) != _rates(link)):
            raise NotFoldableError(f"{machine.name}: {link.name} is not like {mine.name}")
        links[link.index] = mine.index
    folding = Folding(machine, stand_in, links, first.astype(np.int32))
    names = [machine.nodes[chip] for chip in first.tolist()] + list(machine.nodes[machine.chips :])
    return replace(machine, nodes=tuple(names), links=tuple(own.values()), folding=folding)


def _rates(link: Link) -> tuple[str, int, float, float, str]:
    return link.axis, link.direction, link.bandwidth, link.latency_s, link.medium
