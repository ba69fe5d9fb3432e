"""All-reduce in the switch (NVLink SHARP): it adds up what the chips send and multicasts what it is sent.

The array is cut into a part per chip. In every round each chip sends the switch a chunk of all n parts, gets back the
sum of its own, and sends that sum to the switch once more, which passes it on to all chips. A chip's port so carries
(n+1)/n of the array in each direction, against 2 (n-1)/n on a ring. The chunks of the next round follow when the sum of
this one has come back.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from sim.collectives.mesh import positions
from sim.collectives.schedule import Int32s, Schedule, ScheduleBuilder
from sim.specs import NvlsSpec
from sim.topology.graph import Topology

_ROUNDS = (64, 8, 2)
"""Below so many rounds of all channels and parts the chunk is halved, once each. Source: NCCL 2.30, src/enqueue.cc."""


def rounds(spec: NvlsSpec, chips: int, size: float) -> int:
    """Rounds that `size` bytes take."""
    at_once, chunk = spec.channels * chips, spec.chunk
    for few in _ROUNDS:
        if size < few * at_once * chunk and chunk / 2 >= spec.least_chunk:
            chunk /= 2
    return max(1, math.ceil(size / (at_once * chunk)))


def ports(topology: Topology) -> list[tuple[int, int]]:
    """[chips] links to and from the switch that reduces."""
    link = {(link.src, link.dst): link.index for link in reversed(topology.links)}
    switch = topology.reducer
    return [(link[chip, switch], link[switch, chip]) for chip in range(topology.chips)] if switch is not None else []


def all_reduce(topology: Topology, axes: tuple[str, ...], loops: int, channels: int) -> Schedule:
    """All-reduce in `loops` equal rounds on one switch; a part of the array each;
    the channels, which share the ports, are one send."""
    builder = ScheduleBuilder("all_reduce", axes, parts=loops)
    if not axes or topology.chips == 1:
        return builder.build()
    chips = np.arange(topology.chips, dtype=np.int32)
    ends = ports(topology)
    egress, ingress = (np.array(links, dtype=np.int32) for links in zip(*ends, strict=True))
    home = positions(topology, axes)
    summed = np.full(len(chips), -1, dtype=np.int32)

    def every(sends: Int32s) -> list[Int32s]:
        return [np.broadcast_to(send, chips.shape) for send in sends]

    for part in range(min(loops, 2)):
        first = builder.size
        add = functools.partial(builder.add, chips, chips, direction=0, part=part)
        given = add(egress, share=1 / loops, step=0, own=True, deps=[summed])
        share = 1 / (loops * len(chips))
        summed = add(ingress, share=share, step=1, own=False, target=home, deps=every(given))
        passed_on = add(egress, share=share, step=2, own=False, target=home, deps=[summed])
        add(ingress, share=1 / loops, step=3, own=False, deps=every(passed_on))
    if loops > 2:
        builder.repeat(first, loops - 2, parts=1)
    return builder.build()
