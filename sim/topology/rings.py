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
    """Of one ring while all of them run, bytes/s: of the slowest link, shared by the rings that cross it."""
    medium: Medium
    """Slowest kind of link on a ring inside a box."""

    @property
    def count(self) -> int:
        return len(self.rings)


@functools.lru_cache(maxsize=64)
def find(topology: Topology) -> Rings:
    """The rings of a machine.

    On a switch one, in the order of the chips; between boxes one per chip of a box (see `adapters`), so that each
    enters and leaves by another network adapter; else on a graph as many link-disjoint rings over links between chips
    as are found, or in the order of the chips over their routes where there is none.
    """
    rings: tuple[Ring, ...]
    if len(boxes(topology)) > 1:
        rings = tuple(_routed(topology, order) for order in _through(boxes(topology), adapters(topology)))
    elif orders := [] if topology.kind == "switch" or topology.chips < 2 else _disjoint(topology):
        rings = _wired(topology, orders)
    else:
        rings = (_routed(topology, tuple(range(topology.chips))),)
    crossings = Counter(link for ring in rings for way in ring.ways for link in way)
    if not crossings:
        return Rings(rings, 0.0, MEDIA[0])
    links = topology.links
    inside = [links[link].medium for link in crossings if links[link].medium != "net"]
    return Rings(
        rings,
        min(links[link].bandwidth / rings_on_it for link, rings_on_it in crossings.items()),
        max(inside, key=MEDIA.index, default=MEDIA[0]),
    )


@functools.lru_cache(maxsize=64)
def boxes(topology: Topology) -> tuple[tuple[int, ...], ...]:
    """Chips that reach each other without a network, box by box."""
    box = list(range(len(topology.nodes)))

    def root(node: int) -> int:
        while box[node] != node:
            box[node] = box[box[node]]  # half as far the next time
            node = box[node]
        return node

    for link in topology.links:
        if link.medium != "net":
            box[root(link.dst)] = root(link.src)
    found: dict[int, list[int]] = {}
    for chip in range(topology.chips):
        found.setdefault(root(chip), []).append(chip)
    return tuple(tuple(chips) for chips in found.values())


@functools.lru_cache(maxsize=64)
def adapters(topology: Topology) -> tuple[int, ...]:
    """Chips of each box, counted in it, from which messages leave to the same chip of the next box and come back.

    Where links have failed, those are left out whose messages would have to take another chip's adapter, as NCCL's
    search finds no ring over an adapter that is not there; unless fewer than two are left, and all share what there is.
    """
    found = boxes(topology)
    every = tuple(range(min(len(box) for box in found)))
    if not topology.failed or len(found) == 1:
        return every

    def direct(src: int, dst: int) -> bool:
        return all(topology.links[link].dst >= topology.chips for link in topology.route(src, dst)[:-1])

    pairs = list(zip(found, (*found[1:], found[0]), strict=True))
    left = tuple(i for i in every if all(direct(a[i], b[i]) and direct(b[i], a[i]) for a, b in pairs))
    return left if len(left) > 1 else every


def _through(chips: tuple[tuple[int, ...], ...], firsts: tuple[int, ...]) -> list[tuple[int, ...]]:
    """A ring per adapter of a box: in one box c, c+1, ... c-1, in the next back from c-1 to c, and so on.

    So a ring of an even number of boxes leaves each box by the adapter by which it enters the next. Chips without an
    adapter that works are passed before the last that has one.
    """
    without = set(range(min(len(box) for box in chips))).difference(firsts)
    orders = []
    for first in firsts:
        order: list[int] = []
        for number, box in enumerate(chips):
            inside = [*range(first, len(box)), *range(first)]
            last = max(i for i, at in enumerate(inside) if at not in without)
            inside = [*inside[:last], *inside[last + 1 :], inside[last]]
            order += [box[at] for at in (inside if number % 2 == 0 else inside[::-1])]
        orders.append(tuple(order))
    return orders


def _routed(topology: Topology, order: tuple[int, ...]) -> Ring:
    pairs = zip(order, (*order[1:], order[0]), strict=True)
    return Ring(order, tuple(topology.route(src, dst) for src, dst in pairs))


def _disjoint(topology: Topology) -> list[tuple[int, ...]]:
    """Orders of the chips, as many as can be found that together use no link between chips twice."""
    n = topology.chips
    working = (link for link in topology.links if link.index not in topology.failed)
    count = Counter((link.src, link.dst) for link in working if link.src < n and link.dst < n)
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
        if link.index not in topology.failed:
            free.setdefault((link.src, link.dst), []).append(link.index)
    return tuple(
        Ring(order, tuple((free[pair].pop(0),) for pair in zip(order, (*order[1:], order[0]), strict=True)))
        for order in orders
    )
