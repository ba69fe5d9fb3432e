"""Rings of all chips over links that no two of them share: what collectives go around on a machine without a switch."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass

from sim.specs import MEDIA, Medium
from sim.topology.graph import Topology

_MOST_STEPS = 200_000
"""Of the search for one more ring; the boxes of eight take a few hundred."""


@dataclass(frozen=True, slots=True)
class Ring:
    """A directed ring of all chips."""

    order: tuple[int, ...]
    """Chips; the last is followed by the first."""
    ways: tuple[tuple[int, ...], ...]
    """[chips] links from each chip of `order` to the next."""


@dataclass(frozen=True, slots=True)
class Rings:
    """All rings that run at once."""

    rings: tuple[Ring, ...]
    bandwidth: float
    """Of the slowest link on a ring, bytes/s."""
    medium: Medium
    """Slowest kind of link on a ring."""

    @property
    def count(self) -> int:
        return len(self.rings)


@functools.lru_cache(maxsize=64)
def find(topology: Topology) -> Rings:
    """On a switch the chips in order; on a graph as many link-disjoint rings over links between chips as are found."""
    orders = [] if topology.cut_through or topology.chips < 2 else _disjoint(topology)
    rings = _wired(topology, orders) if orders else (_in_order(topology),)
    links = [topology.links[link] for ring in rings for way in ring.ways for link in way]
    if not links:
        return Rings(rings, 0.0, MEDIA[0])
    return Rings(rings, min(link.bandwidth for link in links), max((link.medium for link in links), key=MEDIA.index))


def _in_order(topology: Topology) -> Ring:
    order = tuple(range(topology.chips))
    return Ring(order, tuple(topology.route(chip, (chip + 1) % topology.chips) for chip in order))


def _disjoint(topology: Topology) -> list[tuple[int, ...]]:
    """Orders of the chips, as many as can be found that together use no link between chips twice."""
    n = topology.chips
    count = Counter((link.src, link.dst) for link in topology.links if link.src < n and link.dst < n)
    fewest = min(sum(count[a, b] for b in range(n)) for a in range(n))
    for wanted in range(fewest, 0, -1):
        found = _search(n, count, wanted)
        if found is not None:
            return found
    return []


def _search(n: int, count: Counter[tuple[int, int]], wanted: int) -> list[tuple[int, ...]] | None:
    """`wanted` rings through all of n chips, None where there are none or the search takes too long.

    Depth first: ring after ring from chip 0, chips in order of their numbers, back where no next chip is left.
    """
    left = count.copy()
    rings: list[tuple[int, ...]] = []
    steps = 0

    def extend(path: list[int]) -> bool:
        nonlocal steps
        steps += 1
        if steps > _MOST_STEPS:
            return False
        here = path[-1]
        if len(path) == n:
            if not left[here, 0]:
                return False
            left[here, 0] -= 1
            rings.append(tuple(path))
            if len(rings) == wanted or extend([0]):
                return True
            rings.pop()
            left[here, 0] += 1
            return False
        for chip in range(1, n):
            if chip not in path and left[here, chip]:
                left[here, chip] -= 1
                if extend([*path, chip]):
                    return True
                left[here, chip] += 1
        return False

    return rings if extend([0]) else None


def _wired(topology: Topology, orders: list[tuple[int, ...]]) -> tuple[Ring, ...]:
    """Each order with links of its own."""
    free: dict[tuple[int, int], list[int]] = {}
    for link in topology.links:
        free.setdefault((link.src, link.dst), []).append(link.index)
    return tuple(
        Ring(order, tuple((free[pair].pop(0),) for pair in zip(order, (*order[1:], order[0]), strict=True)))
        for order in orders
    )
