"""All-reduce on double binary trees: chains inside boxes, and between their first chips two trees at once.

Sums flow along a chain to the head of each box, up a binary tree of the heads to its root, and back the same way. The
heads of a part of the array are chips at the network adapters of one rail, so that all adapters work (see
`sim.topology.rails`). In the second tree, which has the other half of the array, leaves are inner nodes and the other
way round, so that every box sends and receives the same. Chunks follow one behind the other. Source: Sanders, Speck and
Traeff 2009 (Parallel Computing 35:581); NCCL 2.30, src/graph/trees.cc.

With one box of n chips the trees are chains (`sim.topology.rings.chains`), 2 (n-1) steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.collectives.graph.routes import Messages, padded
from sim.collectives.schedule import Int32s, Payload, Schedule, check_size
from sim.topology import rails
from sim.topology.boxes import boxes
from sim.topology.graph import Topology
from sim.topology.paths import Way
from sim.topology.rings import chains


def parent(rank: int, n: int) -> int:
    """Parent of a rank in the first tree of n, -1 for the root, 0. The lowest set bit says how high a rank stands."""
    if rank == 0:
        return -1
    bit = rank & -rank
    up = (rank ^ bit) | (bit << 1)
    return up if up < n else rank ^ bit


def parents(n: int, tree: int) -> tuple[int, ...]:
    """Parent of each rank: in the second tree (1) ranks change places, counted from the end or, for odd n, by one."""
    if tree == 0:
        return tuple(parent(rank, n) for rank in range(n))
    swap = [n - 1 - rank if n % 2 == 0 else (rank - 1) % n for rank in range(n)]
    back = {place: rank for rank, place in enumerate(swap)}
    return tuple(back[up] if (up := parent(swap[rank], n)) >= 0 else -1 for rank in range(n))


class _Tree(Struct, frozen=True):
    """Chains of a part of the array, and the tree of their heads."""

    chains: Int32s
    """[boxes, chips] heads first, -1 beyond a shorter chain."""
    up: tuple[int, ...]
    """[boxes] the box of each box's parent, -1 for the root."""
    rail: rails.Rail | None = None
    """Whose adapters the heads are at; None for the machine's routes."""


@functools.lru_cache(maxsize=64)
def _trees(topology: Topology) -> list[_Tree]:
    count = len(boxes(topology))
    if count == 1:
        check_size("all_reduce", 2 * topology.chips**2)  # each chip is the head of a chain at least
        return [_Tree(padded([chain.order]), (-1,)) for chain in chains(topology).rings]
    return [
        _Tree(padded(rails.chains(topology, heads)), parents(count, tree), rail)
        for rail, heads in rails.heads(topology)
        for tree in range(2)
    ]


def parts(topology: Topology) -> int:
    """Returns the number of parts of an array on trees: one per chain in one box, two per head over several boxes."""
    return len(_trees(topology))


def looped(topology: Topology, axes: tuple[str, ...], loops: int) -> Schedule:
    """Builds the all-reduce in `loops` chunks on each tree."""
    every = _trees(topology) if axes and topology.chips > 1 else []
    to = Messages(topology, "all_reduce", axes, parts=max(1, len(every) * loops))
    for part, tree in enumerate(every):
        _there_and_back(to, topology, tree, part=part, parts=loops * len(every))
    if every and loops > 1:
        to.repeat(0, loops - 1, parts=len(every))
    return to.build()


def over_boxes(
    send: Callable[[Int32s, Int32s, bool, list[Int32s], list[Way]], Int32s],
    way: Callable[[int, int], Way],
    head: Int32s,
    up: Sequence[int],
    given: Int32s,
) -> list[Int32s]:
    """Sends the sums of boxes to the root of the tree and back; returns columns [boxes] of what each head waits for.

    Args:
        send: (from, to, whether the message holds what its sender adds, what it waits for, its way).
        head: [boxes] the chip that sends.
        up: [boxes] the box of each box's parent, -1 for the root.
        given: [boxes] what each head waits for at first.
    """
    children = [[box for box in range(len(head)) if up[box] == at] for at in range(len(head))]
    arrived = [[send] for send in given.tolist()]

    def hop(src: int, dst: int, own: bool) -> int:
        deps = [np.array([dep], dtype=np.int32) for dep in arrived[src]]
        ends = head[src : src + 1], head[dst : dst + 1]
        return int(send(*ends, own, deps, [way(int(head[src]), int(head[dst]))])[0])

    def gather(at: int) -> None:
        for child in children[at]:
            gather(child)
            arrived[at].append(hop(child, at, True))

    def spread(at: int) -> None:
        for child in children[at]:
            arrived[child] = [hop(at, child, at == root)]
            spread(child)

    root = up.index(-1)
    gather(root)
    spread(root)
    return list(padded(arrived).T)


def _there_and_back(to: Messages, topology: Topology, tree: _Tree, *, part: int, parts: int) -> None:
    """Adds the messages of one part of the array, up a tree and down again."""
    chain, up = tree.chains, tree.up
    count, length = chain.shape
    nothing = np.full(count, -1, dtype=np.int32)
    share = 1 / parts
    step = 0

    def send(
        src: Int32s, dst: Int32s, own: npt.ArrayLike, deps: list[Int32s], links: list[Way] | None = None
    ) -> Int32s:
        nonlocal step
        step += 1
        return to.send(src, dst, Payload(share, own, part=part), step - 1, deps=deps, links=links)

    def pass_along(src: int, dst: int, own: npt.NDArray[np.bool_], deps: list[Int32s]) -> Int32s:
        """Returns [boxes] the messages between two places of all chains that have both; -1 for the others."""
        there = np.flatnonzero(chain[:, max(src, dst)] >= 0)
        sent = nothing.copy()
        sent[there] = send(chain[there, src], chain[there, dst], own[there], [each[there] for each in deps])
        return sent

    along, every = nothing, np.ones(count, dtype=np.bool_)
    for k in range(length - 1, 0, -1):
        along = pass_along(k, k - 1, every, [along])
    way = functools.partial(rails.way_between, topology, tree.rail)
    waits = over_boxes(send, way, chain[:, 0], up, along)
    if length == 1:
        return
    along = pass_along(0, 1, np.array(up) < 0, waits)
    for k in range(1, length - 1):
        along = pass_along(k, k + 1, ~every, [along])
