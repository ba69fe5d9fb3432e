"""Rings of all chips that run at once, and chains, for collectives that go around and along them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from sim.specs import MEDIA, Medium
from sim.topology import orders, rails
from sim.topology.boxes import boxes
from sim.topology.graph import Topology
from sim.topology.orders import MOST_RINGS, Box
from sim.topology.paths import Way

_Ways = Callable[[int, int], Way | None]


class Ring(Struct, frozen=True):
    """A directed ring of all chips."""

    order: tuple[int, ...]
    """Chips; the last is followed by the first."""
    ways: tuple[Way, ...]
    """[chips] links from each chip of `order` to the next."""


class Rings(Struct, frozen=True):
    """All rings that run at once."""

    rings: tuple[Ring, ...]
    bandwidth: float
    """Bandwidth of one ring while all run, bytes/s: its slowest link, shared by the rings that cross it."""
    medium: Medium
    """Slowest kind of link on a ring inside a box."""

    @property
    def count(self) -> int:
        return len(self.rings)


@functools.lru_cache(maxsize=64)
def find(topology: Topology) -> Rings:
    """Returns the rings of a machine.

    On a switch one, in the order of the chips. On a graph those of the largest summed bandwidth that the search finds,
    and as few of them as give it: in a box over NVLinks alone where there is such a ring, else over all links; of
    single rings the one of the shortest way. Between boxes the rings change from rail to rail (`sim.topology.rails`).
    """
    chips = tuple(range(topology.chips))
    if topology.has_ports or topology.chips < 2:
        return _measured(topology, [_routed(topology, chips)])
    if len(boxes(topology)) > 1:
        return _measured(topology, [Ring(*each) for each in rails.through(topology)])
    for medium in MEDIA:
        ways = _ways_over(topology, medium)
        if chosen := _widest(Box(topology, chips, ways), closed=True):
            return _measured(topology, [_along(ways, order) for order in chosen])
    return _measured(topology, [_routed(topology, chips)])


@functools.lru_cache(maxsize=64)
def chains(topology: Topology) -> Rings:
    """Returns the chains of all chips of one box, along which trees send there and back: the last chip sends nothing.

    Those of `own_chains`, else each ring cut open at each of its chips.
    """
    return own_chains(topology) or _cut(topology)


@functools.lru_cache(maxsize=64)
def own_chains(topology: Topology) -> Rings | None:
    """Returns the chains that a search finds over a faster kind of link than the rings cross, each in both directions.

    None where there are none, or where they are not wider than the rings cut open.
    """
    if topology.has_ports:
        return None
    width, chips = _cut(topology).count * _cut(topology).bandwidth, tuple(range(topology.chips))
    for medium in MEDIA[: MEDIA.index(find(topology).medium)]:
        ways = _ways_over(topology, medium)
        if chosen := _widest(Box(topology, chips, _there_and_back(ways)), closed=False, beyond=width):
            return _measured(topology, [_opened(_along(ways, order)) for order in chosen], back=True)
    return None


@functools.lru_cache(maxsize=64)
def _cut(topology: Topology) -> Rings:
    rings = find(topology).rings
    return _measured(topology, [_opened(ring, at) for at in range(topology.chips) for ring in rings], back=True)


def _opened(ring: Ring, at: int = 0) -> Ring:
    """Returns the ring from its chip number `at` on, without the way back to it."""
    return Ring((*ring.order[at:], *ring.order[:at]), (*ring.ways[at:], *ring.ways[:at])[:-1])


def _there_and_back(ways: _Ways) -> _Ways:
    """Returns ways that are as long as both directions together, so that they take lanes of both."""

    @functools.cache
    def both(src: int, dst: int) -> Way | None:
        there, back = ways(src, dst), ways(dst, src)
        return None if there is None or back is None else (*there, *back)

    return both


def _ways_over(topology: Topology, medium: Medium) -> _Ways:
    """Returns the machine's routes, None for those over a slower kind of link."""
    slowest = MEDIA.index(medium)

    @functools.cache
    def way(src: int, dst: int) -> Way | None:
        if not topology.can_reach(src, dst):
            return None
        route = topology.route(src, dst)
        return route if all(MEDIA.index(topology.links[link].medium) <= slowest for link in route) else None

    return way


def _widest(box: Box, *, closed: bool, beyond: float = 0.0) -> list[tuple[int, ...]]:
    """Returns the orders with the largest product of their number and speed; none where it is not more than `beyond`.

    Rings are closed; chains are not, and take lanes in both directions.
    """
    best: tuple[float, list[tuple[int, ...]]] = beyond, []
    for speed in orders.speeds(box.topology):
        lanes = orders.lanes(box.topology, speed)
        most = _most(box, lanes, closed=closed)
        if most * speed <= best[0] * (1 + 1e-9):
            continue
        chosen = _one(box, lanes, closed=closed)
        while chosen is not None:
            if len(chosen) * speed > best[0] * (1 + 1e-9):
                best = len(chosen) * speed, chosen
            if len(chosen) >= most:
                break
            chosen = orders.several(box, lanes, len(chosen) + 1, closed=closed)
    return best[1]


def _one(box: Box, lanes: orders.Lanes, *, closed: bool) -> list[tuple[int, ...]] | None:
    starts = box.chips[:1] if closed else box.chips
    for start in starts:
        if (order := orders.cheapest(box, lanes, start, closed=closed)) is not None:
            return [order]
    return None


def _most(box: Box, lanes: orders.Lanes, *, closed: bool) -> int:
    """Returns how many orders may have lanes at most: each leads to every chip and from it; chains do so twice."""
    leaving, entering = Counter[int](), Counter[int]()
    for link in box.topology.links:
        if link.medium != "net" and link.dst not in box.topology.reduction.multicast_nodes:
            leaving[link.src] += lanes.get(link.index, 0)
            entering[link.dst] += lanes.get(link.index, 0)
    most = min(MOST_RINGS, *(min(leaving[chip], entering[chip]) for chip in box.chips))
    return most if closed else min(most, sum(leaving[chip] for chip in box.chips) // (2 * len(box.chips) - 2))


def _along(ways: _Ways, order: tuple[int, ...]) -> Ring:
    return Ring(order, tuple(ways(src, dst) or () for src, dst in _hops(order)))


def _routed(topology: Topology, order: tuple[int, ...]) -> Ring:
    return Ring(order, tuple(topology.route(src, dst) for src, dst in _hops(order)))


def _hops(order: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(order, (*order[1:], order[0]), strict=True)


def _measured(topology: Topology, rings: Sequence[Ring], *, back: bool = False) -> Rings:
    """Returns the rings with what one of them reaches while all run; `back`: while as much comes back as well."""
    links = topology.links
    crossings = Counter(link for ring in rings for way in ring.ways for link in way)
    if back:
        reverse = ((dst, src) for ring in rings for src, dst in zip(ring.order, ring.order[1:], strict=False))
        crossings.update(link for hop in reverse for link in topology.route(*hop))
    inside = [links[link].medium for link in crossings if links[link].medium != "net"]
    return Rings(
        tuple(rings),
        min((links[link].bandwidth / rings_on_it for link, rings_on_it in crossings.items()), default=0.0),
        max(inside, key=MEDIA.index, default=MEDIA[0]),
    )
