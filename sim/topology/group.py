"""The part of a machine that a communicator group has to itself: a machine of its members, numbered from 0.

A group that is a box of the mesh (whole axes, or neighbours along them) is a smaller torus: an axis of which the group
has all chips keeps its wraparound. Any other group of a torus sends its messages along the machine's routes through the
chips between, and so is a graph. A group of a switch or graph is again one.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable
from math import prod

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sim.topology.folding import numbered_ports, owners
from sim.topology.graph import Axis, Failures, Int32s, Link, SwitchReduction, Topology, find_reducer
from sim.topology.paths import Way, dimension_ordered


class Group(Struct, frozen=True, eq=False):
    """Some chips of a machine, as a machine."""

    machine: Topology
    """Chip i is the i-th of the members."""
    chips: Int32s
    """[members] their numbers in the whole machine."""
    links: Int32s
    """[links] their numbers in the whole machine."""


class _Ways(Struct, frozen=True):
    """The ways between the chips of a group, by the numbers that links have in it."""

    table: dict[tuple[int, int], tuple[Way, ...]]

    def __call__(self, machine: Topology, src: int, dst: int) -> tuple[Way, ...]:
        return self.table.get((src, dst), ((),))


@functools.lru_cache(maxsize=4096)
def group_of(whole: Topology, chips: tuple[int, ...]) -> Group:
    """Returns the machine of some chips, which are numbered there in the given order."""
    in_order = all(a < b for a, b in itertools.pairwise(chips))
    if in_order and len(chips) == whole.chips:
        return Group(whole, np.array(chips, dtype=np.int32), np.arange(len(whole.links), dtype=np.int32))
    return (_box(whole, chips) if in_order else None) or _any(whole, chips)


@functools.lru_cache(maxsize=4096)
def routed_group_of(whole: Topology, chips: tuple[int, ...]) -> Group:
    """Returns the same as a machine on which messages take the routes of the whole one, also where there are lines."""
    return _any(whole, chips)


@functools.lru_cache(maxsize=256)
def groups_of(
    whole: Topology, chips: tuple[tuple[int, ...], ...], one: Callable[[Topology, tuple[int, ...]], Group] = group_of
) -> tuple[Group, ...]:
    """Returns the machines of several groups of chips; groups that are alike share one, so that it is planned once.

    Args:
        one: makes the machine of one group, `group_of` or `routed_group_of`.
    """
    if moved := _moved(whole, chips, one):
        return moved
    shared: dict[Hashable, Topology] = {}
    groups = [one(whole, each) for each in chips]
    return tuple(replace(each, machine=shared.setdefault(_shape(each.machine), each.machine)) for each in groups)


def _shape(machine: Topology) -> Hashable:
    """Returns all that decides schedules and times on a group's machine: everything but names of nodes and links."""
    links = tuple(replace(link, name="", network=None) for link in machine.links)
    networks = tuple(id(link.network) for link in machine.links)
    table = machine.ways_of.table if isinstance(machine.ways_of, _Ways) else {}
    return machine.axes, links, networks, machine.reduction, machine.failed, tuple(table.items())


def _moved(
    whole: Topology, chips: tuple[tuple[int, ...], ...], one: Callable[[Topology, tuple[int, ...]], Group]
) -> tuple[Group, ...] | None:
    """Returns groups that are the first one, moved along the axes of a torus on which all chips are alike.

    None where they are not, or where the routes between moved chips may be others.
    """
    if not whole.is_vertex_transitive or whole.ways_of is not dimension_ordered:
        return None
    sizes = [axis.size for axis in whole.axes]
    at = np.stack(np.unravel_index(np.arange(whole.chips), sizes))
    port = np.array(numbered_ports(whole), dtype=np.int64)
    link_of = np.empty((whole.chips, int(port.max(initial=0)) + 1), dtype=np.int32)
    link_of[owners(whole), port] = np.arange(len(whole.links), dtype=np.int32)
    first = one(whole, chips[0])
    groups = []
    for members in np.array(chips, dtype=np.int32):
        steps = (at[:, members[0]] - at[:, chips[0][0]])[:, None]
        chip = np.ravel_multi_index(tuple((at + steps) % np.array(sizes)[:, None]), sizes).astype(np.int32)
        if (chip[first.chips] != members).any():
            return None
        groups.append(Group(first.machine, members, link_of[chip[owners(whole)[first.links]], port[first.links]]))
    return tuple(groups)


def _box(whole: Topology, chips: tuple[int, ...]) -> Group | None:
    """Returns the smaller torus of the chips, None where they are no box of a torus."""
    if not whole.has_lines:
        return None
    at = np.array([whole.coordinates(chip) for chip in chips])
    first, last = at.min(axis=0), at.max(axis=0)
    sizes = (last - first + 1).tolist()
    if prod(sizes) != len(chips):
        return None
    axes = tuple(
        replace(axis, size=size, ring=axis.ring and size == axis.size)
        for axis, size in zip(whole.axes, sizes, strict=True)
    )
    number = {chip: i for i, chip in enumerate(chips)}
    inside = {}  # links between neighbours of the box; others cross a wraparound that it does not have, or leave it
    for chip, here in zip(chips, at.tolist(), strict=True):
        for along, axis in enumerate(axes):
            for direction in (1, -1):
                step = whole.neighbour(chip, axis.name, direction)
                if step and step[0] in number and (axis.ring or here[along] + direction == at[number[step[0]], along]):
                    inside[chip, axis.name, direction] = step
    links = sorted(link for _, link in inside.values())
    machine = _part(whole, chips, (), links)
    new = {link: i for i, link in enumerate(links)}
    neighbours = {
        (number[chip], axis, direction): (number[other], new[link])
        for (chip, axis, direction), (other, link) in inside.items()
    }
    machine = replace(
        machine,
        axes=axes,
        mesh=(),
        kind="torus",
        is_vertex_transitive=whole.is_vertex_transitive and all(axis.ring or axis.size == 1 for axis in axes),
        ways_of=dimension_ordered,
        _neighbours=neighbours,
    )
    return Group(machine, np.array(chips, dtype=np.int32), np.array(links, dtype=np.int32))


def _any(whole: Topology, chips: tuple[int, ...]) -> Group:
    """Returns the members with all switches, and the chips that forward their messages."""
    ways = {(a, b): whole.ways(chips[a], chips[b]) for a in range(len(chips)) for b in range(len(chips)) if a != b}
    between = {whole.links[link].dst for equal in ways.values() for way in equal for link in way}.difference(chips)
    relays = tuple(sorted(between.union(range(whole.chips, len(whole.nodes)))))
    nodes = {*chips, *relays}
    leaving = _leaving(whole)
    links = sorted(link.index for node in nodes for link in leaving[node] if link.dst in nodes)
    new = {link: i for i, link in enumerate(links)}
    renumbered = {ends: tuple(tuple(new[link] for link in way) for way in equal) for ends, equal in ways.items()}
    machine = _part(whole, chips, relays, links)
    machine = replace(
        machine,
        links=tuple(replace(link, axis="", direction=0) for link in machine.links),  # a graph has no axes
        axes=(Axis("g", len(chips), ring=False),),
        mesh=(),
        kind="graph" if whole.has_lines else whole.kind,
        software=replace(whole.software, algorithms={}) if whole.has_lines else whole.software,  # between neighbours
        ways_of=_Ways(renumbered),
    )
    return Group(machine, np.array(chips, dtype=np.int32), np.array(links, dtype=np.int32))


@functools.lru_cache(maxsize=8)
def _leaving(whole: Topology) -> tuple[tuple[Link, ...], ...]:
    """Returns the links that leave each node, failed ones included."""
    found: list[list[Link]] = [[] for _ in whole.nodes]
    for link in whole.links:
        found[link.src].append(link)
    return tuple(map(tuple, found))


def _part(whole: Topology, chips: tuple[int, ...], relays: tuple[int, ...], links: list[int]) -> Topology:
    """Returns the machine of these nodes and links under new numbers."""
    number = {node: i for i, node in enumerate((*chips, *relays))}
    new = [
        replace(whole.links[link], index=i, src=number[whole.links[link].src], dst=number[whole.links[link].dst])
        for i, link in enumerate(links)
    ]
    given = whole.reduction
    multicasts = frozenset(number[node] for node in given.multicast_nodes if node in number)
    reducer = None if given.node is None else number.get(given.node)
    if given.enabled and given.node is None:  # each box has its own
        broken = {end for link in whole.failed for end in (whole.links[link].src, whole.links[link].dst)}
        switches = [number[node] for node in given.multicast_nodes or relays if node in number and node not in broken]
        reducer = find_reducer(new, len(chips), sorted(switches))
    return replace(
        whole,
        nodes=tuple(whole.nodes[node] for node in number),
        links=tuple(new),
        reduction=SwitchReduction(given.enabled, reducer, multicasts),
        is_vertex_transitive=whole.is_vertex_transitive and whole.has_ports,  # ports of its own for every chip
        failures=Failures(frozenset(i for i, link in enumerate(links) if link in whole.failed)),
    )
