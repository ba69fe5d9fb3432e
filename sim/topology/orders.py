"""Search for orders of chips in which messages go around or along a box, over links with a number of lanes each.

The links of a box are divided into lanes of one speed: a link of bandwidth w has the whole part of w / speed. Every
hop takes one lane of each link of its way. The search does not depend on how chips are numbered, but for the choice
between orders that cost the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from sim.topology.graph import Topology
from sim.topology.paths import Way

_MOST_STEPS = 2_000
"""Largest number of steps of a search; boxes of eight chips take a few hundred."""
_DEEPEST = 400
"""Largest number of chips of an order: a search goes one call deeper with each."""

_MOST_SHARING = 4
"""Largest number of lanes per link."""

Lanes = dict[int, int]
"""Lanes that are left of each link."""
MOST_RINGS = 32
"""Largest number of rings: NCCL's largest number of channels."""
Cost = tuple[int, int, int]
"""Cost of hops: latency (ps), links, ps per gigabyte over all links."""


def speeds(topology: Topology) -> list[float]:
    """Returns the speeds of a ring to try, the fastest first: of a link, and of an even part of one."""
    bandwidths = {link.bandwidth for link in topology.working_links}
    return sorted({width / sharing for width in bandwidths for sharing in range(1, _MOST_SHARING + 1)}, reverse=True)


def lanes(topology: Topology, speed: float) -> Lanes:
    """Returns the lanes of every link that works."""
    return {link.index: int(link.bandwidth / speed * (1 + 1e-9)) for link in topology.working_links}


def has_lanes(left: Mapping[int, int], way: Way) -> bool:
    """Tells whether each link of a way has a lane left."""
    return all(left.get(link, 0) for link in way)


def take(left: Lanes, way: Way, count: int = 1) -> None:
    """Takes lanes of every link of a way; a negative count gives them back."""
    for link in way:
        left[link] -= count


class Box(Struct, frozen=True):
    """Chips whose order is searched, and the ways between any two of them; None where there is none."""

    topology: Topology
    chips: tuple[int, ...]
    way: Callable[[int, int], Way | None]

    def cost(self, way: Way) -> Cost:
        """Returns what a hop costs."""
        links = [self.topology.links[link] for link in way]
        return sum(link.latency_ps for link in links), len(links), sum(round(1e21 / link.bandwidth) for link in links)

    def alike(self) -> dict[int, int]:
        """Returns for each chip a number that chips share which have the same links to the same nodes of the box.

        Chips that have links into a network only are told apart by those.
        """
        inside: dict[int, list[tuple[int, float, int, bool]]] = {chip: [] for chip in self.chips}
        links = self.topology.working_links
        for link in [link for link in links if link.medium != "net"] or links:
            for chip, other, leaves in ((link.src, link.dst, True), (link.dst, link.src, False)):
                if chip in inside:
                    inside[chip].append((other, link.bandwidth, link.latency_ps, leaves))
        numbers: dict[frozenset[tuple[int, float, int, bool]], int] = {}
        return {chip: numbers.setdefault(frozenset(links), len(numbers)) for chip, links in inside.items()}


def cheapest(
    box: Box, left: Lanes, start: int, end: int | None = None, *, closed: bool = False
) -> tuple[int, ...] | None:
    """Returns the order of all chips from `start` that costs least and has lanes; None where none is found.

    Args:
        end: the last chip; None for any.
        closed: whether the last chip also needs a way back to the first.
    """
    alike, free = box.alike(), dict(left)
    bound = _least_costs(box, alike)
    spare = (0, 0, 0) if closed else max(bound.values())
    best: tuple[Cost, tuple[int, ...]] | None = None
    steps = 0

    def next_hops(path: tuple[int, ...], unvisited: dict[int, None]) -> list[tuple[Cost, int, Way]]:
        """The hops from here, the cheapest first; of chips that are alike only one."""
        seen: set[int] = set()
        hops = []
        for chip in unvisited if len(unvisited) > 1 or end is None else (end,):
            if (chip != end and alike[chip] in seen) or (chip == end and len(unvisited) > 1):
                continue
            seen.add(alike[chip])
            way = box.way(path[-1], chip)
            if way is not None and has_lanes(free, way):
                hops.append((box.cost(way), chip, way))
        return sorted(hops, key=lambda hop: hop[0])

    def extend(path: tuple[int, ...], unvisited: dict[int, None], spent: Cost, rest: Cost) -> None:
        nonlocal best, steps
        steps += 1
        if steps > _MOST_STEPS or len(path) > _DEEPEST:
            return
        if best is not None and _plus(spent, _plus(rest, spare, -1)) >= best[0]:
            return
        if not unvisited:
            back = box.way(path[-1], start) if closed else ()
            if back is not None and has_lanes(free, back):
                spent = _plus(spent, box.cost(back))
                best = (spent, path) if best is None or spent < best[0] else best
            return
        for cost, chip, way in next_hops(path, unvisited):
            take(free, way)
            others = {other: None for other in unvisited if other != chip}
            extend((*path, chip), others, _plus(spent, cost), _plus(rest, bound[path[-1]], -1))
            take(free, way, -1)

    rest = (0, 0, 0)
    for chip in box.chips:
        rest = _plus(rest, bound[chip])
    extend((start,), {chip: None for chip in box.chips if chip != start}, (0, 0, 0), rest)
    return best[1] if best else None


def _least_costs(box: Box, alike: Mapping[int, int]) -> dict[int, Cost]:
    """Returns for each chip what its cheapest hop costs."""
    groups: dict[int, list[int]] = {}
    for chip in box.chips:
        groups.setdefault(alike[chip], []).append(chip)
    least: dict[int, Cost] = {}
    for chip in box.chips:
        others = (next((other for other in group[:2] if other != chip), None) for group in groups.values())
        ways = (box.way(chip, other) for other in others if other is not None)
        least[chip] = min((box.cost(way) for way in ways if way is not None), default=(0, 0, 0))
    return least


def _plus(one: Cost, other: Cost, times: int = 1) -> Cost:
    return one[0] + times * other[0], one[1] + times * other[1], one[2] + times * other[2]


def _ranks(box: Box) -> dict[int, int]:
    """Returns for each chip a number that follows from what hops cost, whatever the chips' own numbers are.

    Chips are told apart by the costs of their hops and by the numbers of the chips that these lead to, again and again
    until no more chips differ (Weisfeiler and Leman 1968).
    """
    ways = {(src, dst): box.way(src, dst) for src in box.chips for dst in box.chips if src != dst}
    costs = {hop: box.cost(way) if way is not None else (-1, -1, -1) for hop, way in ways.items()}
    ranks = dict.fromkeys(box.chips, 0)
    for _ in box.chips:
        seen = {
            chip: (
                ranks[chip],
                tuple(sorted((costs[chip, o], costs[o, chip], ranks[o]) for o in box.chips if o != chip)),
            )
            for chip in box.chips
        }
        places = {key: place for place, key in enumerate(sorted(set(seen.values())))}
        if len(places) == len(set(ranks.values())):
            break
        ranks = {chip: places[seen[chip]] for chip in box.chips}
    return ranks


def several(box: Box, left: Lanes, wanted: int, *, closed: bool) -> list[tuple[int, ...]] | None:
    """Returns `wanted` orders of all chips that together have lanes; None where none are found.

    Depth first: order after order, the cheapest hop first, back where no next chip is left. Rings start at the first
    chip, chains anywhere. Chips are tried by their place among the links, which their numbers do not change.
    """
    ranks, orders, free = _ranks(box), list[tuple[int, ...]](), dict(left)
    chips = sorted(box.chips, key=lambda chip: (ranks[chip], chip))
    hops = {
        here: sorted(
            ((box.cost(way), chip, way) for chip in chips if chip != here and (way := box.way(here, chip)) is not None),
            key=lambda hop: (hop[0], ranks[hop[1]], hop[1]),
        )
        for here in chips
    }
    steps = 0

    def complete(path: tuple[int, ...]) -> bool:
        back = box.way(path[-1], path[0]) if closed else ()
        if back is None or not has_lanes(free, back):
            return False
        take(free, back)
        orders.append(path)
        if len(orders) == wanted or begin():
            return True
        orders.pop()
        take(free, back, -1)
        return False

    def begin() -> bool:
        return any(extend((start,)) for start in (chips[:1] if closed else chips))

    def extend(path: tuple[int, ...]) -> bool:
        nonlocal steps
        steps += 1
        if steps > _MOST_STEPS or len(path) > _DEEPEST:
            return False
        if len(path) == len(chips):
            return complete(path)
        for _, chip, way in hops[path[-1]]:
            if chip not in path and has_lanes(free, way):
                take(free, way)
                if extend((*path, chip)):
                    return True
                take(free, way, -1)
        return False

    return orders if begin() else None
