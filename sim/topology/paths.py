"""Routes: which links a message takes from chip to chip. Both rules are fixed, so a run can be repeated."""

from __future__ import annotations

import functools
from collections import deque
from typing import TYPE_CHECKING

from sim.errors import InputError

if TYPE_CHECKING:
    from sim.topology.graph import Link, Topology


def dimension_ordered(topology: Topology, src: int, dst: int) -> tuple[int, ...]:
    """Shortest path on an untwisted torus or mesh: the axes one after the other, each the short way round.

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
    return tuple(path)


def shortest(topology: Topology, src: int, dst: int) -> tuple[int, ...]:
    """Path with the fewest hops, and of several such paths the first by the names of its links.

    A chip does not forward the messages of others where a path through switches and sockets exists: a GPU with two
    links is no shortcut between two others. On a machine of chips only, chips forward.

    Raises:
        InputError: no path.
    """
    for chips_forward in (False, True):
        last = _tree(topology, src, chips_forward)
        if src == dst or dst in last:
            path: list[int] = []
            while dst != src:
                path.append(last[dst].index)
                dst = last[dst].src
            return tuple(reversed(path))
    names = topology.nodes
    if topology.failed:
        raise cut_off(topology, f"{names[src]} cannot reach {names[dst]}")
    raise InputError(f"there must be a path from {names[src]} to {names[dst]}", where=f"{topology.name}: links")


def cut_off(topology: Topology, cut: str) -> InputError:
    """The error of a collective that the failed links leave no way."""
    failed = ", ".join(topology.links[link].name for link in sorted(topology.failed))
    return InputError(f"failed links {failed} cut the machine: {cut}", where="perturb.failed_links")


@functools.lru_cache(maxsize=1024)
def _tree(topology: Topology, src: int, chips_forward: bool) -> dict[int, Link]:
    """Last link of the path from `src` to every node that can be reached.

    A breadth-first search that takes links in name order meets every node first on the path that comes first by name.
    """
    outgoing = _outgoing(topology)
    chips = topology.chips
    last: dict[int, Link] = {}
    queue = deque([src])
    while queue:
        node = queue.popleft()
        if node != src and node < chips and not chips_forward:
            continue
        for link in outgoing[node]:
            if link.dst not in (src, topology.multicast) and link.dst not in last:
                last[link.dst] = link
                queue.append(link.dst)
    return last


@functools.lru_cache(maxsize=8)
def _outgoing(topology: Topology) -> tuple[tuple[Link, ...], ...]:
    """Links that leave each node and work, in name order."""
    outgoing: list[list[Link]] = [[] for _ in topology.nodes]
    for link in topology.links:
        if link.index not in topology.failed:
            outgoing[link.src].append(link)
    return tuple(tuple(sorted(links, key=lambda link: link.name)) for links in outgoing)
