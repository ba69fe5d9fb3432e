"""Numbers the chips of a graph by its links, so that the order in a file does not change times."""

from __future__ import annotations

import functools

from msgspec.structs import replace

from sim.specs import MEDIA
from sim.topology import rails
from sim.topology.boxes import boxes
from sim.topology.graph import Topology
from sim.topology.orders import Box
from sim.topology.paths import Way

_MOST_ORDERS = 16
"""Largest number of equally good orders that are followed; on a symmetric machine they differ in names only."""

Distance = tuple[int, int, int, int]
"""Distance of two chips: slowest medium, ps per gigabyte of the slowest link, latency (ps), hops."""


@functools.lru_cache(maxsize=64)
def numbering(topology: Topology, root: int | None = None) -> tuple[int, ...]:
    """Returns the chips in the order of their new numbers.

    In a box the first half are chips near each other: each next one is nearest to all before it. Each of the other half
    is nearest to its partner in the first half, then to all before it: so the chips that halving and doubling pair are
    near. Of several the one nearest to the first, to the second, and so on. Boxes of several chips follow each other,
    rail by rail.

    Args:
        root: the chip that gets number 0; None where all chips may.
    """
    chips = tuple(range(topology.chips))
    if topology.has_ports or any(not topology.can_reach(chips[0], chip) for chip in chips):
        return chips
    if 1 < len(boxes(topology)) < len(chips):
        rail_by_rail = [chip for box in rails.by_rails(topology) for chip in box]
        return tuple(rail_by_rail) if root is None else (root, *(chip for chip in rail_by_rail if chip != root))
    alike = Box(topology, chips, topology.route).alike()
    firsts = dict(zip(reversed([alike[chip] for chip in chips]), reversed(chips), strict=True)).values()
    half = (len(chips) + 1) // 2
    orders: list[tuple[int, ...]] = [(chip,) for chip in (firsts if root is None else (root,))]
    for place in chips[1:]:
        longer: list[tuple[tuple[Distance, ...], tuple[int, ...]]] = []
        for order in orders:
            seen: set[int] = set()
            for chip in chips:
                if chip in order or alike[chip] in seen:
                    continue
                seen.add(alike[chip])
                row = tuple(_distance(topology, other, chip) for other in order)
                partner = row[place - half : place - half + 1] if place >= half else ()
                longer.append(((*partner, _total(row), *row), (*order, chip)))
        nearest = min(key for key, _ in longer)
        orders = [order for key, order in longer if key == nearest][:_MOST_ORDERS]
    return orders[0]


@functools.lru_cache(maxsize=2**14)
def _distance(topology: Topology, src: int, dst: int) -> Distance:
    links = [topology.links[link] for link in topology.route(src, dst)]
    return (
        max(MEDIA.index(link.medium) for link in links),
        round(1e21 / min(link.bandwidth for link in links)),
        sum(link.latency_ps for link in links),
        len(links),
    )


def _total(row: tuple[Distance, ...]) -> Distance:
    medium, width, latency_ps, hops = (sum(column) for column in zip(*row, strict=True))
    return medium, width, latency_ps, hops


@functools.lru_cache(maxsize=64)
def renumbered(topology: Topology, order: tuple[int, ...]) -> Topology:
    """Returns the machine whose chip i is the chip `order[i]` of this one; links keep their numbers."""
    number = {chip: i for i, chip in enumerate(order)}

    def ways(machine: Topology, src: int, dst: int) -> tuple[Way, ...]:
        return topology.ways(order[src], order[dst])

    return replace(
        topology,
        nodes=(*(topology.nodes[chip] for chip in order), *topology.nodes[topology.chips :]),
        links=tuple(
            replace(link, src=number.get(link.src, link.src), dst=number.get(link.dst, link.dst))
            for link in topology.links
        ),
        ways_of=ways,
    )
