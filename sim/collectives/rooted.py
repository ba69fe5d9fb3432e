"""Collectives with a root, the chip at position 0 of every axis: reduce, scatter and gather.

A reduce is a broadcast run backwards. On a torus scatter and gather take the broadcast's link-disjoint spanning trees:
a chip's chunk is cut into as many parts as there are trees, 2 A on A rings, and each part goes along its tree, those
for the chips farthest down first. The root's links are then busy all the time, n chips and c = V/(2 A n):

    T = max over d of (N_d + d - 1) c/w + d t,   N_d: chips at least d hops down a tree

which tends to (n-1)/n V/(2 A w), the time in which the root can send or receive once all that is not its own.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from sim.collectives.graph.routes import store_and_forward
from sim.collectives.reduce import opposite_links, reverse
from sim.collectives.schedule import MOST_SENDS, Algorithm, Int32s, Payload, Schedule, ScheduleBuilder
from sim.collectives.torus.broadcast import Tree, trees
from sim.collectives.wiring import positions
from sim.errors import InputError
from sim.topology.graph import Topology


def reduce(broadcast: Algorithm) -> Algorithm:
    """Returns the reduce algorithm that reverses a broadcast algorithm: sums flow to the root over the same tree."""
    return _backwards(broadcast, "reduce")


def reverse_scatter(scatter: Algorithm) -> Algorithm:
    """Returns the gather algorithm that reverses a scatter algorithm: chunks flow to the root over the same routes.

    Between boxes these use the adapters of all chips, as each chip of another box is reached by that of its own rail.
    """
    return _backwards(scatter, "gather")


def _backwards(algorithm: Algorithm, collective: str) -> Algorithm:
    def backwards(topology: Topology, axes: tuple[str, ...]) -> Schedule:
        return replace(reverse(algorithm(_whole_cables(topology), axes), topology), collective=collective)

    return backwards


def scatter(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Sends each chip's chunk from the root, a part of it down every spanning tree.

    Raises:
        InputError: too many sends, or failed links that cut a chip off.
    """
    all_trees = trees(topology, axes)
    return _messages(topology, axes, "scatter", [_paths(tree) for tree in all_trees])


def gather(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Sends each chip's chunk to the root, a part of it up every spanning tree.

    Raises:
        InputError: too many sends, or failed links that cut a chip off.
    """
    back, _ = opposite_links(topology, axes)
    all_trees = trees(_whole_cables(topology), axes)
    routes = [[[int(back[link]) for link in reversed(path)] for path in _paths(tree)] for tree in all_trees]
    return _messages(topology, axes, "gather", routes)


def _paths(tree: Tree) -> list[list[int]]:
    """Returns the links from the root to every chip of a tree, the longest routes first."""
    links = [link for hop in tree for link in hop.link.tolist()]
    above = [number for hop in tree for number in hop.above.tolist()]
    depth: list[int] = []
    for number in above:
        depth.append(1 if number < 0 else depth[number] + 1)
    if sum(depth) > MOST_SENDS:
        rule = f"the messages of a root to {len(links):,} chips must take at most {MOST_SENDS:,} sends"
        raise InputError(rule, got=sum(depth), hint="choose fewer chips or axes")
    paths = []
    for number in sorted(range(len(links)), key=lambda number: -depth[number]):
        path: list[int] = []
        while number >= 0:
            path.append(links[number])
            number = above[number]
        paths.append(path[::-1])
    return paths


def _messages(topology: Topology, axes: tuple[str, ...], collective: str, routes: list[list[list[int]]]) -> Schedule:
    """Returns a schedule with one message along each route; `routes` has a list per tree."""
    builder = ScheduleBuilder(collective, axes, max(1, len(routes)))
    every = [route for tree in routes for route in tree]
    if not every:
        return builder.build()
    home = positions(topology, axes)
    ends = (
        np.array([topology.links[route[0]].src for route in every], dtype=np.int32),
        np.array([topology.links[route[-1]].dst for route in every], dtype=np.int32),
    )
    part: Int32s = np.repeat(np.arange(len(routes), dtype=np.int32), [len(tree) for tree in routes])
    group = int(np.prod([topology.axis(name).size for name in axes]))
    payload = Payload(1 / (len(routes) * group), True, part=part, origin=home[ends[0]], target=home[ends[1]])
    store_and_forward(builder, topology, every, payload)
    return builder.build()


def _whole_cables(topology: Topology) -> Topology:
    """Returns the machine with cables failed in both directions if they failed in one, as reversal requires."""
    if topology.failures.intact is None:
        return topology
    back, _ = opposite_links(topology, ())
    return topology.intact.fail_links(topology.failed | frozenset(back[sorted(topology.failed)].tolist()))
