"""Collectives on a switch or a graph: any chip sends to any other, and every message takes its route.

n chips with ports of w bytes/s in each direction, latency t, on a switch; c = V/n for a gathered or reduced array, S/n
for the messages of an all-to-all:

    ring               (n-1) (c/w + t)          one chunk after the other to the next chip
    one_shot           (n-1) c/w + t            own chunk straight to every other chip (all-to-all: a message each)
    halving_doubling   (n-1) c/w + log2(n) t    all gathered so far exchanged with the chip 1, 2, 4, ... away

for the all-gather and the reduce-scatter that reverses it; an all-reduce is both in a row (two_shot: of one_shot), or

    one_shot           (n-1) V/w + t            the whole array straight to every other chip, each adding all up
    tree               2 log2(n) (V/w + t)      binomial tree to chip 0 and back (n a power of two)
    cube_mesh          as one_shot              on a graph where not all chips are joined: one-shot in each half, then
                                                the half's sum to the chip n/2 away

A broadcast goes down the tree, or around the ring in CHUNKS chunks: (CHUNKS + n - 2) V/(CHUNKS w) + (n-1) t; a reduce
is one run backwards. Gather and scatter are a message per chip to or from chip 0, (n-1) c/w + t, and sendrecv one from
every chip to the next, V/w + t.

On a graph messages share links and the times are whatever the links allow. Sources: Thakur, Rabenseifner and Gropp 2005
(Int. J. High Perform. Comput. Appl. 19:49); one-shot and two-shot all-reduce as in TensorRT-LLM's custom kernels.
"""

from __future__ import annotations

import numpy as np

from sim.collectives.graph.routes import Messages
from sim.collectives.schedule import Int32s, Payload, Schedule
from sim.errors import InputError
from sim.topology.graph import Topology

CHUNKS = 32
"""Chunks of a broadcast around the ring, one behind the other."""


def _direct(to: Messages, share: float, *, names_origin: bool = False, names_target: bool = False) -> Schedule:
    """Lets chip i send to i+1, i+2, ... in this order, so that no two chips send to one at the same time."""
    for step in range(to.n - 1):
        dst = (to.chips + step + 1) % to.n
        origin, target = to.chips if names_origin else None, dst if names_target else None
        to.send(to.chips, dst, Payload(share, True, origin=origin, target=target), step)
    return to.build()


def one_shot(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """All-gather: every chip sends its chunk to every other chip."""
    to = Messages(topology, "all_gather", axes)
    return _direct(to, 1 / to.n, names_origin=True)


def one_shot_reduce(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """All-reduce: every chip sends its whole array to every other chip, and all add up all."""
    return _direct(Messages(topology, "all_reduce", axes), 1.0)


def cube_mesh(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """All-reduce of a hybrid cube mesh, two halves of chips that are all joined, each with one of the other half.

    One-shot in each half, then every chip sends the sum to its partner. One-shot of all where all are joined, and of an
    odd number of chips. Source: PyTorch's intra-node all-reduce (IntraNodeComm), which takes the links as they are.
    """
    to, half = Messages(topology, "all_reduce", axes), topology.chips // 2
    pairs = ((a, b) for a in to.chips.tolist() for b in to.chips.tolist() if a != b)
    if to.n % 2 or len({len(topology.route(a, b)) for a, b in pairs}) == 1:
        return _direct(to, 1.0)
    first, given = to.chips // half * half, []
    for step in range(half - 1):
        dst = (first + (to.chips - first + step + 1) % half).astype(np.int32)
        arrived = np.empty_like(dst)
        arrived[dst] = to.send(to.chips, dst, Payload(1.0, True), step)
        given.append(arrived)
    to.send(to.chips, (to.chips + half) % to.n, Payload(1.0, True), 0, deps=given)
    return to.build()


def one_shot_exchange(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """All-to-all: every chip sends every other chip its message."""
    to = Messages(topology, "all_to_all", axes)
    return _direct(to, 1 / to.n, names_origin=True, names_target=True)


def halving_doubling(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """All-gather by recursive doubling; the reduce-scatter that reverses it halves.

    In step s chips 2^s apart exchange the 2^s chunks that they have by then, once all of them have arrived.

    Raises:
        InputError: the number of chips is no power of two.
    """
    to = Messages(topology, "all_gather", axes)
    if to.n & (to.n - 1):
        raise InputError("halving_doubling needs a group of a power of two chips", where=topology.name, got=to.n)
    arrived: list[Int32s] = []
    for step in range(to.n.bit_length() - 1):
        partner = to.chips ^ (1 << step)
        sent = [
            to.send(to.chips, partner, Payload(1 / to.n, held == 0, origin=to.chips ^ held), step, deps=arrived[:])
            for held in range(1 << step)
        ]
        arrived += [sends[partner] for sends in sent]
    return to.build()


def _binomial(to: Messages, origin: int | None) -> Schedule:
    """Sends chip 0's array to all others: in step s chips 0 .. 2^s - 1 send it to those 2^s further."""
    arrived = np.full(to.n, -1, dtype=np.int32)
    for step in range((to.n - 1).bit_length()):
        src = to.chips[: min(1 << step, to.n - (1 << step))]
        dst = src + np.int32(1 << step)
        box = None if origin is None else np.full_like(src, origin)
        arrived[dst] = to.send(src, dst, Payload(1.0, src == 0, origin=box), step, deps=[arrived[src]])
    return to.build()


def tree(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Broadcast from chip 0 down a binomial tree."""
    return _binomial(Messages(topology, "broadcast", axes), origin=0)


def tree_of_sums(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """The second half of a tree all-reduce, and reversed its first: what chip 0 sends is the sum of all arrays."""
    return _binomial(Messages(topology, "all_reduce", axes), origin=None)


def ring_broadcast(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Broadcast from chip to chip in their order, in chunks."""
    to = Messages(topology, "broadcast", axes, parts=CHUNKS)
    arrived = np.full(CHUNKS, -1, dtype=np.int32)
    for chip in range(to.n - 1):
        src = np.full(CHUNKS, chip, dtype=np.int32)
        arrived = to.send(
            src,
            src + np.int32(1),
            Payload(1 / CHUNKS, chip == 0, part=np.arange(CHUNKS), origin=np.zeros_like(src)),
            chip,
            deps=[arrived],
        )
    return to.build()


def neighbour(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Permute: every chip but the last sends its message to the next."""
    to = Messages(topology, "permute", axes)
    src = to.chips[:-1]
    to.send(src, src + np.int32(1), Payload(1.0, True, origin=src, target=src + np.int32(1)), 0)
    return to.build()


def ring_sendrecv(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Sendrecv: every chip sends its message to the next, the last to the first."""
    to = Messages(topology, "sendrecv", axes)
    if to.n > 1:
        dst = (to.chips + 1) % np.int32(to.n)
        to.send(to.chips, dst, Payload(1.0, True, origin=to.chips, target=dst), 0)
    return to.build()


def one_shot_scatter(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Scatter: chip 0 sends every other chip its chunk, those with the longest ways first."""
    to = Messages(topology, "scatter", axes)
    dst = _farthest_first(topology, to.n)
    root = np.zeros_like(dst)
    to.send(root, dst, Payload(1 / to.n, True, origin=root, target=dst), 0)
    return to.build()


def _farthest_first(topology: Topology, n: int) -> Int32s:
    """Returns the chips but chip 0, by the number of links from there."""
    return np.array(sorted(range(1, n), key=lambda chip: -len(topology.route(0, chip))), dtype=np.int32)
