"""Rings through several boxes: which adapters they leave and enter by, and the order of the chips of each box.

A rail is an adapter of every box from which messages reach the next box's directly. A ring leaves a box by another chip
than it enters by, and so by another rail, unless several chips share the adapter: rails r and r+1 in turn, and on an
odd number of boxes r+2 at last. With as many rings as rails, every adapter is entered once and left once.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from sim.topology import orders
from sim.topology.boxes import Adapter, adapters, boxes, direct_ways, network_links
from sim.topology.graph import Topology
from sim.topology.orders import MOST_RINGS, Box, Lanes, has_lanes, take
from sim.topology.paths import Way


class Rail(Struct, frozen=True):
    """An adapter of every box, in the order in which rings go through the boxes."""

    adapters: tuple[Adapter, ...]


@functools.lru_cache(maxsize=64)
def ring_of_boxes(topology: Topology) -> tuple[tuple[int, ...], ...]:
    """Returns the boxes in the order in which rings go through them, from the largest: each next to the nearest.

    A box is as far as for the chip from which the way there is longest: one cable more makes no box near.
    """
    box_ring = tuple(sorted(boxes(topology), key=len, reverse=True))
    if len(box_ring) <= 3:
        return box_ring
    first = {box[0]: box for box in box_ring}

    @functools.cache
    def way(src: int, dst: int) -> Way | None:
        nearest: list[Way] = []
        for a in first[src]:
            ways = [each for b in first[dst] for each in direct_ways(topology, a, b)[:1]]
            nearest += sorted(ways, key=_box_of_heads.cost)[:1]
        return max(nearest, key=_box_of_heads.cost, default=None)

    _box_of_heads = Box(topology, tuple(first), way)
    unlimited = {link.index: len(box_ring) for link in topology.links}
    order = orders.cheapest(_box_of_heads, unlimited, box_ring[0][0], closed=True)
    return tuple(first[head] for head in order) if order else box_ring


@functools.lru_cache(maxsize=64)
def rails(topology: Topology) -> tuple[Rail, ...]:
    """Returns the rails of a machine of several boxes, none where some box has no adapter that reaches the others."""
    box_ring = ring_of_boxes(topology)
    others = [tuple(chip for other in box_ring if other is not box for chip in other) for box in box_ring]
    of_box = [adapters(topology, box, rest) for box, rest in zip(box_ring, others, strict=True)]
    result: list[Rail] = []
    for adapter in of_box[0]:
        rail = [adapter]
        for there in of_box[1:]:
            fitting = (each for each in there if between(topology, rail[0], each) and between(topology, each, rail[0]))
            rail += list(fitting)[:1]
        if len(rail) == len(box_ring):
            result.append(Rail(tuple(rail)))
            for there, used in zip(of_box[1:], rail[1:], strict=True):
                there.remove(used)
    return tuple(result)


def links(topology: Topology) -> frozenset[int]:
    """Returns the links of all adapters that are on a rail."""
    if len(boxes(topology)) == 1:
        return frozenset()
    return frozenset(adapter.link for rail in rails(topology) for adapter in rail.adapters)


def between(topology: Topology, src: Adapter, dst: Adapter) -> bool:
    """Tells whether messages from one adapter reach the other directly."""
    return _way(topology, src, dst, src.chips[0], dst.chips[0]) is not None


def _way(topology: Topology, src: Adapter, dst: Adapter, sender: int, receiver: int) -> Way | None:
    """Returns a way that leaves by the one adapter and arrives by the other."""
    back = topology.links[dst.link]
    for way in direct_ways(topology, sender, receiver):
        net = network_links(topology, way)
        last = topology.links[way[net[-1]]]
        if way[net[0]] == src.link and (last.src, last.dst) == (back.dst, back.src):
            return way
    return None


def through(topology: Topology) -> list[tuple[tuple[int, ...], tuple[Way, ...]]]:
    """Returns rings through all boxes, as the order of their chips and the way of each to the next.

    As many as give the largest summed bandwidth, and of those the most up to one per chip at an adapter, so that all
    such chips are entered alike. Where no rails join the boxes there is one ring over the machine's routes.
    """
    every, box_ring = rails(topology), ring_of_boxes(topology)
    order = tuple(chip for box in box_ring for chip in box)
    best = [(order, tuple(topology.route(*hop) for hop in zip(order, (*order[1:], order[0]), strict=True)))]
    fastest, most = 0.0, sum(max(len(adapter.chips) for adapter in rail.adapters) for rail in every)
    for speed in orders.speeds(topology) if every else ():
        lanes = orders.lanes(topology, speed)
        used = _multiplied(every, lanes)
        for count in range(len(used), 0, -1):
            wider, as_wide = (count * speed > fastest * (1 + sign * 1e-9) for sign in (1, -1))
            if not wider and not (as_wide and len(best) < count <= most):
                continue
            if (rings := _rings(topology, used[:count], dict(lanes))) is not None:
                best, fastest = rings, count * speed
                break
    return best


def _multiplied(every: Sequence[Rail], lanes: Lanes) -> list[Rail]:
    """Returns the rails as often as their adapters have lanes: all once, then those with a second lane, and so on."""
    times = [min(lanes.get(adapter.link, 0) for adapter in rail.adapters) for rail in every]
    rounds = (rail for turn in range(max(times)) for rail, often in zip(every, times, strict=True) if often > turn)
    return list(rounds)[:MOST_RINGS]


def _rings(
    topology: Topology, used: Sequence[Rail], left: Lanes
) -> list[tuple[tuple[int, ...], tuple[Way, ...]]] | None:
    """Returns a ring per rail, over lanes that are left; None where there are too few."""
    box_ring = by_rails(topology)
    rings = []
    for number in range(len(used)):
        leaves = [used[(number + turn) % len(used)] for turn in _turns(box_ring, used)]
        order: list[int] = []
        ways: list[Way] = []
        ends = [_ends(box_ring, leaves, place, number) for place in range(len(box_ring))]
        for place, box in enumerate(box_ring):
            first, last = ends[place]
            inside = _inside(topology, box, left, first, last)
            after = (place + 1) % len(box_ring)
            out = _leave(topology, leaves[place], place, after, inside[-1] if inside else last, ends[after][0])
            if inside is None or out is None or not has_lanes(left, out):
                return None
            take(left, out)
            order += inside
            ways += [topology.route(*hop) for hop in itertools.pairwise(inside)] + [out]
        rings.append((tuple(order), tuple(ways)))
    return rings


@functools.lru_cache(maxsize=64)
def by_rails(topology: Topology) -> tuple[tuple[int, ...], ...]:
    """Returns the chips of each box, those at the adapters first, rail by rail."""
    return tuple(
        tuple(dict.fromkeys([*(chip for rail in rails(topology) for chip in rail.adapters[place].chips), *box]))
        for place, box in enumerate(ring_of_boxes(topology))
    )


def _turns(box_ring: Sequence[Sequence[int]], used: Sequence[Rail]) -> list[int]:
    """Returns by how many rails further a ring leaves each box."""
    shared = all(
        len(box) == 1 or len(rail.adapters[place].chips) > 1 for rail in used for place, box in enumerate(box_ring)
    )
    if shared:
        return [0] * len(box_ring)
    turns = [place % 2 for place in range(len(box_ring))]
    if len(box_ring) % 2 and len(used) > 2:
        turns[-1] = 2
    return turns


def _ends(box_ring: Sequence[Sequence[int]], leaves: Sequence[Rail], place: int, number: int) -> tuple[int, int | None]:
    """Returns the chip by which a ring enters a box and the one by which it leaves it; None for any other."""
    enters, exits = leaves[place - 1].adapters[place], leaves[place].adapters[place]
    first = enters.chips[number % len(enters.chips)]
    if len(box_ring[place]) == 1:
        return first, None
    others = [chip for chip in exits.chips if chip != first]
    return first, others[number % len(others)] if others else None


def _inside(
    topology: Topology, box: tuple[int, ...], left: Lanes, first: int, last: int | None
) -> tuple[int, ...] | None:
    """Returns the order of a box's chips from the first to the last, whose lanes it takes.

    Of orders that cost the same the one around the box in its own order, back where the first is followed by the last.
    """

    def way(src: int, dst: int) -> Way | None:
        route = topology.route(src, dst) if topology.can_reach(src, dst) else None
        return None if route is None or network_links(topology, route) else route

    at = box.index(first)
    around = (*box[at:], *box[:at])
    if around[1:2] == (last,):
        around = (first, *reversed(around[1:]))
    inside = orders.cheapest(Box(topology, around, way), left, first, last)
    for hop in itertools.pairwise(inside or ()):
        take(left, topology.route(*hop))
    return inside


def _leave(topology: Topology, rail: Rail, place: int, after: int, sender: int | None, receiver: int) -> Way | None:
    """Returns the way from the last chip of a box to the next box's first, by an adapter that may be another chip's."""
    src, dst = rail.adapters[place], rail.adapters[after]
    if sender is None or sender in src.chips:
        return _way(topology, src, dst, src.chips[0] if sender is None else sender, receiver)
    out = _way(topology, src, dst, src.chips[0], receiver)
    return None if out is None else (*topology.route(sender, src.chips[0]), *out)


def heads(topology: Topology) -> list[tuple[Rail | None, tuple[int, ...]]]:
    """Returns the chips, one of every box, between which trees of boxes send, and whose adapters they send by.

    Every chip that is nearest to an adapter is a head: first one of each rail, then the next. Later rails are left out
    where a chip would be head more often than others, as its links to the switch would carry more. Where no rails
    join the boxes, the first chip of each box over the machine's routes.
    """
    every = rails(topology)
    if not every:
        return [(None, tuple(box[0] for box in ring_of_boxes(topology)))]
    most = max(len(adapter.chips) for rail in every for adapter in rail.adapters)
    turns = [(rail, turn) for turn in range(most) for rail in every]
    candidates: list[tuple[Rail | None, tuple[int, ...]]] = [
        (rail, tuple(each.chips[turn % len(each.chips)] for each in rail.adapters)) for rail, turn in turns
    ]
    candidates = list(dict.fromkeys(candidates))
    times = Counter(chip for _, firsts in candidates for chip in firsts)
    for head in candidates[::-1]:
        if any(times[chip] > min(times.values()) for chip in head[1]) and all(times[chip] > 1 for chip in head[1]):
            candidates.remove(head)
            times.subtract(head[1])
    return candidates


def chains(topology: Topology, firsts: Sequence[int]) -> list[tuple[int, ...]]:
    """Returns the order of each box's chips from its first on."""
    unlimited = dict.fromkeys(orders.lanes(topology, 1.0), topology.chips)
    return [
        _inside(topology, box, unlimited, first, None) or (first, *(chip for chip in box if chip != first))
        for box, first in zip(by_rails(topology), firsts, strict=True)
    ]


def way_between(topology: Topology, rail: Rail | None, src: int, dst: int) -> Way:
    """Returns the way between heads of two boxes by the adapters of a rail, else the machine's route."""
    if rail is not None:
        of_chip = {chip: adapter for adapter in rail.adapters for chip in adapter.chips}
        if (way := _way(topology, of_chip[src], of_chip[dst], src, dst)) is not None:
            return way
    return topology.route(src, dst)
