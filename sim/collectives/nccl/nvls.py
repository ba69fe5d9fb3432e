"""All-reduce in the switch (NVLink SHARP): it adds up what the chips send and multicasts what it is sent.

The array is cut into a part per chip. In every round each chip sends the switch a chunk of all n parts, gets back the
sum of its own, and sends that sum to the switch once more, which passes it on to all chips. A chip's port so carries
(n+1)/n of the array in each direction, against 2 (n-1)/n on a ring. Two rounds are under way at a time: a chip sends
its chunks of a round when its sum of the round before the last has come back.

Over several boxes the switch of each adds up a part for every chip of the box that has an adapter, the chips with the
same part add up over a tree of boxes and back, and the switches multicast (NVLSTree).

A chunk takes the bytes' time and a synchronisation on its channel, so the rate follows from the chunk's size
(`rate_share`). NCCL has at most 32 chips that sum a part (`heads`); here all do, which moves 2 % fewer bytes through
the ports of those 32 on 72 chips.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from msgspec import Struct

from sim.collectives.graph.routes import Messages
from sim.collectives.graph.trees import over_boxes, parents
from sim.collectives.schedule import Hop, Int32s, Payload, Schedule, ScheduleBuilder
from sim.collectives.wiring import positions
from sim.errors import InputError
from sim.specs import NvlsSpec
from sim.specs.nccl import NvlsTimes
from sim.topology import rails
from sim.topology.boxes import boxes
from sim.topology.graph import Topology
from sim.topology.paths import Way

_ROUNDS = (64, 8, 2)
"""Below so many rounds of all channels and parts the chunk is halved, once each. Source: NCCL 2.30, src/enqueue.cc."""
_TREE_CHUNK = 64 * 1024
"""Largest chunk under a tree of boxes, bytes. Source: NCCL 2.30, src/enqueue.cc."""
_MOST_ROUNDS = 256
"""Longer runs of equal rounds are simulated as so many: the pipeline fills with one of them, 0.4 % of the time."""
_MOST_TREE_ROUNDS = 128
_TREE_DEPTH = 8
"""Rounds under way over several boxes: the steps of a connection. Source: NCCL 2.30, src/include/device.h."""


class Cut(Struct, frozen=True):
    """Rounds and chunks into which an array is cut for the switch."""

    chunk: float
    """Bytes of one head on one channel."""
    rounds: int
    """Rounds that are simulated."""


def cut(spec: NvlsSpec, chips: int, size: float, *, boxes_count: int = 1) -> Cut:
    """The cut of `size` bytes on boxes of `chips` GPUs."""
    at_once, chunk = spec.channels * min(chips, spec.heads), spec.chunk
    for few in _ROUNDS:
        if size < few * at_once * chunk and chunk / 2 >= spec.least_chunk:
            chunk /= 2
    if boxes_count > 1:
        chunk = min(chunk, _TREE_CHUNK)
    most = _MOST_ROUNDS if boxes_count == 1 else _MOST_TREE_ROUNDS
    return Cut(chunk, min(most, max(1, math.ceil(size / (at_once * chunk)))))


def rate_share(spec: NvlsSpec, times: NvlsTimes, chips: int, chunk: float, port: float) -> float:
    """Share of a port of `port` bytes/s that chunks of this size reach: bytes' time over that and a synchronisation."""
    channel = times.share * port * chips / (chips + 1) / spec.channels
    return times.share * (chunk / channel) / (chunk / channel + times.chunk)


@functools.lru_cache(maxsize=64)
def reducers(topology: Topology) -> tuple[int, ...]:
    """Returns the node of each box that adds up and multicasts for all its chips; none where a box has none."""
    box_list = boxes(topology)
    if not topology.reduction.enabled or len(box_list) == 1:
        return () if topology.reduction.node is None else (topology.reduction.node,)
    if topology.reduction.multicast_nodes:
        return ()
    working = [link for link in topology.working_links if link.medium != "net"]
    linked = {(link.src, link.dst) for link in working}
    nodes = range(topology.chips, len(topology.nodes))
    each = [next((node for node in nodes if all((chip, node) in linked for chip in box)), -1) for box in box_list]
    return () if -1 in each else tuple(each)


def ports(topology: Topology) -> list[tuple[int, int]]:
    """[chips] links to and from the switch that reduces in the chip's box."""
    link = {(link.src, link.dst): link.index for link in reversed(topology.working_links)}
    switch = {chip: node for node, box in zip(reducers(topology), boxes(topology), strict=True) for chip in box}
    return [(link[chip, switch[chip]], link[switch[chip], chip]) for chip in range(topology.chips)]


def all_reduce(topology: Topology, axes: tuple[str, ...], rounds: int) -> Schedule:
    """All-reduce in equal rounds on one switch; the channels, which share the ports, are one send."""
    builder = ScheduleBuilder("all_reduce", axes, parts=rounds)
    if not axes or topology.chips == 1:
        return builder.build()
    chips = np.arange(topology.chips, dtype=np.int32)
    egress, ingress = (np.array(links, dtype=np.int32) for links in zip(*ports(topology), strict=True))
    home = positions(topology, axes)
    sums = [np.full(len(chips), -1, dtype=np.int32)] * 2

    def every(sends: Int32s) -> list[Int32s]:
        return [np.broadcast_to(send, chips.shape) for send in sends]

    share = 1 / (rounds * len(chips))
    for part in range(rounds):
        up, down = Hop(chips, chips, egress), Hop(chips, chips, ingress)
        given = builder.add(up, Payload(1 / rounds, True, part), 0, deps=[sums[-2]])
        summed = builder.add(down, Payload(share, False, part, target=home), 1, deps=every(given))
        passed_on = builder.add(up, Payload(share, False, part, target=home), 2, deps=[summed])
        builder.add(down, Payload(1 / rounds, False, part), 3, deps=every(passed_on))
        sums.append(summed)
    return builder.build()


def tree_all_reduce(topology: Topology, axes: tuple[str, ...], rounds: int) -> Schedule:
    """All-reduce in equal rounds over several boxes with a switch each; a part for every adapter of a box.

    Raises:
        InputError: boxes of different sizes.
    """
    box_list = rails.ring_of_boxes(topology) if axes else ((0,),)
    heads = rails.heads(topology) if len(box_list) > 1 else [(None, (0,))]
    to = Messages(topology, "all_reduce", axes, parts=rounds * len(heads))
    if to.n == 1:
        return to.build()
    if len({len(box) for box in box_list}) > 1:
        got = " ".join(str(len(box)) for box in box_list)
        raise InputError("nvls_tree needs boxes of equal size", where=f"topology {topology.name}", got=got)
    chips = np.array(box_list, dtype=np.int32)
    ends = np.array(ports(topology), dtype=np.int32)
    trees = [parents(len(box_list), tree) for tree in (0, 1)]
    share = 1 / (rounds * len(heads))
    nothing = np.full(chips.size, -1, dtype=np.int32)
    ended: list[list[Int32s]] = [[nothing] * len(heads)] * _TREE_DEPTH
    every = chips.ravel()
    for step in range(rounds):
        given = [
            to.add(Hop(every, every, ends[every, 0]), Payload(share, True, part), 0, deps=[waits])
            for part, waits in enumerate(ended[-_TREE_DEPTH], start=step * len(heads))
        ]
        last = list(given[-1].reshape(chips.shape).T)  # channels take the heads in turn: sums are there when all are in
        ended.append([])
        for at, (rail, firsts) in enumerate(heads):
            mine, part = np.array(firsts, dtype=np.int32), step * len(heads) + at
            data = Payload(share, False, part)
            joined = list(given[at].reshape(chips.shape).T)
            waits = joined if at == len(heads) - 1 else [*joined, *last]
            summed = to.add(Hop(mine, mine, ends[mine, 1]), data, 1, deps=waits)
            ways = functools.partial(rails.way_between, topology, rail)
            send = functools.partial(_send, to, data)
            whole = over_boxes(send, ways, mine, trees[(step + at) % 2], summed)
            passed_on = to.add(Hop(mine, mine, ends[mine, 0]), data, 3, deps=whole)
            back = np.repeat(passed_on, chips.shape[1])
            ended[-1].append(to.add(Hop(every, every, ends[every, 1]), data, 4, deps=[back]))
    return to.build()


def _send(
    to: Messages, payload: Payload, src: Int32s, dst: Int32s, _: bool, deps: list[Int32s], links: list[Way]
) -> Int32s:
    """Sends a sum between boxes, which the switch has made: no chip's own data."""
    return to.send(src, dst, payload, 2, deps=deps, links=links)
