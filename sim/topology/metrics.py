"""Hop counts and bisection width of a machine."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Set

import numpy as np
from msgspec import Struct

from sim.errors import InputError
from sim.topology.graph import Axis, Topology

_MOST_UNLIKE, _MOST_ROUTES = 2**14, 1_024**2
"""Chips, and pairs of chips of a graph, whose hops are counted one by one: some seconds."""

_MOST_BLOCKS = 64
"""Halvings that are tried of a graph of many chips."""

EXHAUSTIVE_CHIPS = 10
"""Up to this many chips of a graph every halving is tried (126 of them for 10 chips)."""


class Hops(Struct, frozen=True):
    """Links on the path between two chips."""

    average: float
    """Mean over all ordered pairs of chips, each chip paired with itself (0 hops) included."""
    diameter: int
    """Most hops between any two chips."""


class Bisection(Struct, frozen=True):
    """Narrowest cut into two halves with the same number of chips (n//2 and n - n//2 if n is odd)."""

    links: int
    """Links that cross from one half to the other, in one direction; as many lead back."""
    bandwidth: float
    """Their bandwidth, bytes/s, in one direction."""
    exact: bool
    """True if the bisection is exact, False if it is an upper bound from the halvings that were tried."""


@functools.lru_cache(maxsize=8)
def hops(topology: Topology) -> Hops:
    """Returns hop counts: over shortest paths on a torus, over the routes of messages on other machines."""
    counts = _torus_hop_counts(topology) if topology.has_lines else _route_hop_counts(topology)
    total = sum(count * length for length, count in counts.items())
    return Hops(total / sum(counts.values()), max(counts))


def _torus_hop_counts(topology: Topology) -> Counter[int]:
    """Returns pairs of chips by hops; only pairs with one chip if all chips are alike.

    Without a twist the hops along the axes add up.
    """
    straight = all(axis.ring or topology.neighbour(0, axis.name, -1) is None for axis in topology.axes)
    if straight and not topology.failed:
        return functools.reduce(_sums, map(_axis_hop_counts, topology.axes))
    if topology.is_vertex_transitive:
        return _hop_counts_from(topology, 0)
    if topology.chips > _MOST_UNLIKE:
        rule = f"hops are counted on up to {_MOST_UNLIKE:,} chips where a twist makes chips differ"
        raise InputError(rule, where=topology.name, got=topology.chips)
    return _hop_counts_from_all(topology)


def _axis_hop_counts(axis: Axis) -> Counter[int]:
    """Returns ordered pairs of positions on a ring or a line by hops."""
    counts = Counter[int]()
    for apart in range(axis.size):
        if axis.ring:
            counts[min(apart, axis.size - apart)] += axis.size
        else:
            counts[apart] += (axis.size - apart) * (2 if apart else 1)
    return counts


def _sums(one: Counter[int], other: Counter[int]) -> Counter[int]:
    """Returns pairs by the sum of their hops on both."""
    counts = Counter[int]()
    for (here, many), (there, more) in itertools.product(one.items(), other.items()):
        counts[here + there] += many * more
    return counts


def _hop_counts_from(topology: Topology, start: int) -> Counter[int]:
    """Returns chips by hops from one of them: the set of reached chips grows one hop at a time."""
    src, dst = topology.link_column("src"), topology.link_column("dst")
    reached = np.zeros(topology.chips, dtype=np.bool_)
    reached[start] = True
    counts = Counter({0: 1})
    while (before := int(reached.sum())) < topology.chips:
        reached[dst[reached[src]]] = True
        counts[len(counts)] = int(reached.sum()) - before
    return counts


def _hop_counts_from_all(topology: Topology) -> Counter[int]:
    """Returns pairs of chips by hops, from every chip.

    A set of chips is an integer with one bit per chip, so that a round is one `or` per link: 16x16x16 chips take a
    tenth of a second, on a torus of any wiring.
    """
    into: list[list[int]] = [[] for _ in range(topology.chips)]
    for link in topology.links:
        into[link.dst].append(link.src)
    reached = [1 << chip for chip in range(topology.chips)]
    counts = Counter({0: topology.chips})
    pairs = topology.chips
    while pairs < topology.chips**2:
        reached = [
            functools.reduce(operator.or_, [reached[src] for src in into[dst]], reached[dst])
            for dst in range(topology.chips)
        ]
        grown = sum(chips.bit_count() for chips in reached)
        counts[len(counts)] = grown - pairs
        pairs = grown
    return counts


def _route_hop_counts(topology: Topology) -> Counter[int]:
    """Returns pairs of chips by links on their route."""
    chips = range(topology.chips)
    if topology.has_ports and not topology.failed:
        return Counter({0: len(chips), 2: len(chips) * (len(chips) - 1)})
    if len(chips) ** 2 > _MOST_ROUTES:
        rule = f"hops are counted on graphs of up to {math.isqrt(_MOST_ROUTES):,} chips"
        raise InputError(rule, where=topology.name, got=len(chips))
    return Counter(len(topology.route(src, dst)) for src in chips for dst in chips)


@functools.lru_cache(maxsize=8)
def bisection(topology: Topology) -> Bisection:
    """Returns the narrowest cut into two equal halves.

    - Torus or mesh: half of the chips in the order of their position on one axis, for each axis. Where the longest axis
      has an even size, no halving is narrower on a mesh (Azizoglu and Egecioglu, The bisection width and the
      isoperimetric number of arrays, 2004) or on a torus wrapped on all axes (Arjona Aroca and Fernandez Anta,
      Bisection (band)width of product networks, 2014). Else, and on a twisted torus, the result is an upper bound.
    - Switch: every halving cuts the ports of half of the chips.
    - Graph: all halvings of up to 10 chips, each with the switches and sockets on the sides where they cut least
      (maximum flow); of more chips only blocks of chips that are neighbours in the file's order, an upper bound.
    """
    if topology.chips < 2:
        return Bisection(0, 0.0, exact=True)
    if topology.has_ports:
        half = topology.chips // 2
        return Bisection(half, half * topology.links[0].bandwidth, exact=True)
    if topology.has_lines:
        cuts = (_crossing(topology, half) for half in _grid_halves(topology))
        return _narrowest(cuts, exact=_known_exact(topology))
    exhaustive = topology.chips <= EXHAUSTIVE_CHIPS
    halves = _halves(topology.chips) if exhaustive else _blocks(topology.chips)
    return _narrowest((_crossing(topology, _with_relays(topology, half)) for half in halves), exact=exhaustive)


def _narrowest(cuts: Iterable[tuple[float, int]], exact: bool) -> Bisection:
    bandwidth, links = min(cuts)
    return Bisection(links, bandwidth, exact)


def _crossing(topology: Topology, half: Set[int]) -> tuple[float, int]:
    """Returns (bandwidth in bytes/s, number of cables) of the links that lead out of `half`."""
    crossing = [link for link in topology.links if link.src in half and link.dst not in half]
    return sum(link.bandwidth for link in crossing), sum(link.cables for link in crossing)


def _known_exact(topology: Topology) -> bool:
    """Returns True for the tori and meshes of the works that `bisection` cites: equal links, no twist, all axes wrapped
    or none, and the longest even."""
    if len({link.bandwidth for link in topology.links}) > 1:
        return False
    axes = [axis for axis in topology.axes if axis.size > 1]
    torus = all(axis.ring for axis in axes)
    mesh = all(topology.neighbour(0, axis.name, -1) is None for axis in axes)
    return (torus or mesh) and max(axis.size for axis in axes) % 2 == 0


def _grid_halves(topology: Topology) -> Iterator[Set[int]]:
    """Yields for each axis the half of the chips at low positions; a middle layer is cut along the longest others."""
    positions = [topology.coordinates(chip) for chip in range(topology.chips)]
    longest_first = sorted(range(len(topology.axes)), key=lambda axis: -topology.axes[axis].size)
    for first in longest_first:
        if topology.axes[first].size == 1:
            continue
        order = [first, *(axis for axis in longest_first if axis != first)]
        chips = sorted(range(topology.chips), key=lambda chip: [positions[chip][axis] for axis in order])
        yield set(chips[: topology.chips // 2])


def _halves(chips: int) -> Iterator[Set[int]]:
    """Yields every set of half of the chips, up to exchange of the two halves."""
    for half in itertools.combinations(range(chips), chips // 2):
        if chips % 2 or 0 in half:
            yield set(half)


def _blocks(chips: int) -> Iterator[Set[int]]:
    """Yields runs of half of the chips in cyclic order: from every chip, or from evenly spaced ones."""
    for start in range(0, chips, -(-chips // _MOST_BLOCKS)):
        yield {(start + offset) % chips for offset in range(chips // 2)}


def _with_relays(topology: Topology, half: Set[int]) -> Set[int]:
    """Returns `half` with the switches and sockets on its side, chosen so that the fewest bytes/s cross."""
    import networkx as nx  # slow to import and not needed to simulate

    flow: nx.DiGraph[object] = nx.DiGraph()
    flow.add_nodes_from(range(len(topology.nodes)))
    for link in topology.links:
        before = flow.edges[link.src, link.dst]["capacity"] if flow.has_edge(link.src, link.dst) else 0.0
        flow.add_edge(link.src, link.dst, capacity=before + link.bandwidth)
    for chip in range(topology.chips):
        flow.add_edge(*(("from", chip) if chip in half else (chip, "to")))  # no capacity: unlimited
    _, (side, _) = nx.minimum_cut(flow, "from", "to")
    return {node for node in side if isinstance(node, int)}
