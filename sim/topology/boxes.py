"""Boxes of a machine, and the network adapters by which messages leave and enter them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from msgspec import Struct

from sim.topology.graph import Link, Topology
from sim.topology.paths import Way


class Adapter(Struct, frozen=True):
    """A link from a box into the network."""

    link: int
    chips: tuple[int, ...]
    """Chips of the box that are nearest to the link."""


@functools.lru_cache(maxsize=64)
def boxes(topology: Topology) -> tuple[tuple[int, ...], ...]:
    """Returns the chips of each box: chips that reach each other without a network."""
    return _joined_chips(topology, [link for link in topology.links if link.medium != "net"])


@functools.lru_cache(maxsize=64)
def racks(topology: Topology) -> tuple[tuple[int, ...], ...]:
    """Returns the chips of each rack: boxes whose adapters are on the same leaf switches.

    Between racks messages cross links from switch to switch of the network; a cable from box to box joins none.
    """
    in_a_box = {link.src for link in topology.links if link.medium != "net"} | set(range(topology.chips))

    def is_inside(link: Link) -> bool:
        return link.medium != "net" or (link.src in in_a_box) != (link.dst in in_a_box)

    return _joined_chips(topology, filter(is_inside, topology.links))


def _joined_chips(topology: Topology, links: Iterable[Link]) -> tuple[tuple[int, ...], ...]:
    """Returns the chips that links join, group by group."""
    group = list(range(len(topology.nodes)))

    def root(node: int) -> int:
        while group[node] != node:
            group[node] = group[group[node]]  # half as far the next time
            node = group[node]
        return node

    for link in links:
        group[root(link.dst)] = root(link.src)
    members: dict[int, list[int]] = {}
    for chip in range(topology.chips):
        members.setdefault(root(chip), []).append(chip)
    return tuple(tuple(chips) for chips in members.values())


def direct_ways(topology: Topology, src: int, dst: int) -> list[Way]:
    """Returns the best ways between chips of two boxes that lead through no other chip."""
    links = topology.links
    if not topology.can_reach(src, dst):
        return []
    return [way for way in topology.ways(src, dst) if all(links[link].dst >= topology.chips for link in way[:-1])]


def adapters(topology: Topology, box: Sequence[int], others: Sequence[int]) -> list[Adapter]:
    """Returns the adapters of a box from which messages reach one of the other chips directly."""
    nearest: dict[int, tuple[tuple[int, int], list[int]]] = {}
    for chip in box:
        reached: dict[int, tuple[int, int]] = {}
        for other in others:
            for way in direct_ways(topology, chip, other):
                inside = way[: network_links(topology, way)[0]]
                latency_ps = sum(topology.links[link].latency_ps for link in inside)
                reached[way[len(inside)]] = latency_ps, len(inside)
        for link, distance in reached.items():
            least, chips = nearest.setdefault(link, (distance, []))
            if distance < least:
                nearest[link] = distance, [chip]
            elif distance == least:
                chips.append(chip)
    return [Adapter(link, tuple(chips)) for link, (_, chips) in nearest.items()]


def network_links(topology: Topology, way: Way) -> list[int]:
    """Returns the places on a way of the links of the network."""
    return [i for i, link in enumerate(way) if topology.links[link].medium == "net"]
