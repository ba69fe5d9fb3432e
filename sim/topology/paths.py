"""Routes of messages from chip to chip, by fixed rules, so that runs are reproducible."""

from __future__ import annotations

import functools
import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from sim.errors import InputError
from sim.specs import MEDIA, Medium

if TYPE_CHECKING:
    from sim.topology.graph import Link, Topology

Way = tuple[int, ...]
"""Links of a route from one chip to another."""
MOST_WAYS = 64
"""Largest number of equally good routes that are kept."""


class _Allowed(NamedTuple):
    """Links that a path may contain."""

    network: bool
    forwarding: bool
    """True if chips may forward messages of others."""


_ALLOWED = tuple(_Allowed(network, forwarding) for network in (False, True) for forwarding in (False, True))
"""Kinds of paths, the best first."""


def dimension_ordered(topology: Topology, src: int, dst: int) -> tuple[Way, ...]:
    """Returns the dimension-ordered route on an untwisted torus or mesh: axis after axis, each the short way round.

    Where both ways round are equally long, the + direction.

    Raises:
        InputError: a link of the path is missing.
    """
    path: list[int] = []
    chip = src
    for axis, here, there in zip(topology.axes, topology.coordinates(src), topology.coordinates(dst), strict=True):
        hops = there - here
        if axis.ring:
            hops %= axis.size
            if 2 * hops > axis.size:
                hops -= axis.size
        direction = 1 if hops > 0 else -1
        for _ in range(abs(hops)):
            step = topology.neighbour(chip, axis.name, direction)
            if step is None:
                missing = f"{chip}:{axis.name}{'+' if direction > 0 else '-'}"
                raise InputError(f"a dimension-ordered route needs link '{missing}'", where=topology.name)
            chip, link = step
            path.append(link)
    return (tuple(path),)


def shortest(topology: Topology, src: int, dst: int) -> tuple[Way, ...]:
    """Returns a path with the fewest hops on a torus, the first by the names of its links.

    Raises:
        InputError: no path.
    """
    last = _tree(topology, src)
    if src != dst and dst not in last:
        raise _no_path(topology, src, dst)
    path: list[int] = []
    while dst != src:
        path.append(last[dst].index)
        dst = last[dst].src
    return (tuple(reversed(path)),)


@functools.lru_cache(maxsize=2**17)
def widest(topology: Topology, src: int, dst: int) -> tuple[Way, ...]:
    """Returns the best paths of a message on a graph, at most MOST_WAYS of equally good ones.

    A path inside a box uses no network link, and no chip forwards the messages of others, where such paths exist: a GPU
    with two links is no shortcut between two others. Of these paths the best has the highest bandwidth of its slowest
    link, then the lowest latency, then the fewest hops, then crosses the network as late as possible. No name decides.

    Raises:
        InputError: no path.
    """
    if src == dst:
        return ((),)
    for allowed in _ALLOWED:
        width = _widths(topology, dst, allowed).get(src)
        if width is not None:
            return _tight(topology, src, dst, width, allowed)
    raise _no_path(topology, src, dst)


def _tight(topology: Topology, src: int, dst: int, width: float, allowed: _Allowed) -> tuple[Way, ...]:
    """Returns paths of the lowest latency and fewest hops over links of at least `width`, network links last."""
    left = _lengths(topology, dst, width, allowed)
    links, leaving = topology.links, outgoing(topology)
    paths: list[tuple[int, ...]] = [()]
    for _ in range(left[src][1]):
        longer: list[tuple[Medium, tuple[int, ...]]] = []
        for path in paths:
            node = links[path[-1]].dst if path else src
            for link in leaving[node]:
                after = left.get(link.dst)
                if link.bandwidth < width or after is None or (link.medium == "net" and not allowed.network):
                    continue
                if (after[0] + link.latency_ps, after[1] + 1) == left[node]:
                    longer.append((link.medium, (*path, link.index)))
        nearest = min((medium for medium, _ in longer), key=MEDIA.index)
        paths = [path for medium, path in longer if medium == nearest][:MOST_WAYS]
    return tuple(paths)


@functools.lru_cache(maxsize=4096)
def _widths(topology: Topology, dst: int, allowed: _Allowed) -> dict[int, float]:
    """Returns the bandwidth of the slowest link on the widest path to `dst` from every node that reaches it."""
    width = {dst: math.inf}
    heap = [(-math.inf, dst)]
    while heap:
        wide, node = heapq.heappop(heap)
        if -wide < width[node]:
            continue
        for link in _passed(topology, node, dst, allowed):
            through = min(-wide, link.bandwidth)
            if through > width.get(link.src, 0.0):
                width[link.src] = through
                heapq.heappush(heap, (-through, link.src))
    return width


@functools.lru_cache(maxsize=4096)
def _lengths(topology: Topology, dst: int, width: float, allowed: _Allowed) -> dict[int, tuple[int, int]]:
    """Returns (latency in ps, hops) of the shortest path to `dst` over links of at least `width`, per node."""
    length = {dst: (0, 0)}
    heap = [(0, 0, dst)]
    while heap:
        latency_ps, hops, node = heapq.heappop(heap)
        if (latency_ps, hops) > length[node]:
            continue
        for link in _passed(topology, node, dst, allowed):
            through = latency_ps + link.latency_ps, hops + 1
            if link.bandwidth >= width and (link.src not in length or through < length[link.src]):
                length[link.src] = through
                heapq.heappush(heap, (*through, link.src))
    return length


def _passed(topology: Topology, node: int, dst: int, allowed: _Allowed) -> Iterator[Link]:
    """Yields the links by which a message for `dst` may arrive at a node."""
    if node in topology.reduction.multicast_nodes or (node < topology.chips and node != dst and not allowed.forwarding):
        return
    for link in _incoming(topology)[node]:
        if (allowed.network or link.medium != "net") and link.src not in (dst, *topology.reduction.multicast_nodes):
            yield link


def _no_path(topology: Topology, src: int, dst: int) -> InputError:
    names = topology.nodes
    if topology.failed:
        return cut_off(topology, f"{names[src]} cannot reach {names[dst]}")
    return InputError(f"there must be a path from {names[src]} to {names[dst]}", where=f"{topology.name}: links")


def cut_off(topology: Topology, cut: str) -> InputError:
    """Returns the error for a collective whose routes all cross failed links."""
    failed = ", ".join(topology.links[link].name for link in sorted(topology.failed))
    return InputError(f"failed links {failed} cut the machine: {cut}", where="perturb.failed_links")


@functools.lru_cache(maxsize=1024)
def _tree(topology: Topology, src: int) -> dict[int, Link]:
    """Returns the last link of the path from `src` to every node that it reaches.

    A breadth-first search that takes links in name order meets every node first on the path that comes first by name.
    """
    leaving = outgoing(topology)
    last: dict[int, Link] = {}
    queue = deque([src])
    while queue:
        node = queue.popleft()
        for link in sorted(leaving[node], key=lambda link: link.name):
            if link.dst != src and link.dst not in last:
                last[link.dst] = link
                queue.append(link.dst)
    return last


@functools.lru_cache(maxsize=8)
def outgoing(topology: Topology) -> tuple[tuple[Link, ...], ...]:
    """Returns the working links that leave each node."""
    return _by_node(topology, lambda link: link.src)


@functools.lru_cache(maxsize=8)
def _incoming(topology: Topology) -> tuple[tuple[Link, ...], ...]:
    """Returns the working links that lead to each node."""
    return _by_node(topology, lambda link: link.dst)


def _by_node(topology: Topology, end: Callable[[Link], int]) -> tuple[tuple[Link, ...], ...]:
    links: list[list[Link]] = [[] for _ in topology.nodes]
    for link in topology.working_links:
        links[end(link)].append(link)
    return tuple(map(tuple, links))
