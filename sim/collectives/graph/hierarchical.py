"""All-reduce over boxes: sums of parts inside each box, between boxes chip by chip over their adapters, and back.

With m chips in each of N boxes the array is cut into m parts. Chip i of a box collects part i of all its neighbours,
exchanges it with chips i of the boxes 1, 2, 4, ... away (N a power of two), and sends the sum to its neighbours:

    2 ((m-1)/m V/w + t) + log2(N) (V/(m w') + t')        w, t inside a box; w', t' between boxes

In one box this is the two-shot all-reduce.
"""

from __future__ import annotations

import numpy as np

from sim.collectives.graph.routes import Messages
from sim.collectives.schedule import Int32s, Payload, Schedule
from sim.errors import InputError
from sim.topology.boxes import boxes
from sim.topology.graph import Topology


def all_reduce(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Builds the sums inside boxes, between boxes, and back inside.

    Raises:
        InputError: boxes of different sizes, or a number of boxes that is no power of two.
    """
    box_list = boxes(topology) if axes else ((0,),)
    count, length = len(box_list), len(box_list[0])
    if count & (count - 1) or any(len(box) != length for box in box_list):
        rule = "hierarchical needs boxes of equal size, and a power of two of them"
        raise InputError(rule, where=topology.name, got=" ".join(str(len(box)) for box in box_list))
    to = Messages(topology, "all_reduce", axes, parts=length)
    if to.n == 1:
        return to.build()
    chip = np.array(box_list, dtype=np.int32)
    column = np.arange(length)
    share = 1 / length
    given: list[list[Int32s]] = [[] for _ in range(count)]
    for away in range(1, length):
        taker = (column + away) % length
        for box in range(count):
            sent = to.send(chip[box], chip[box, taker], Payload(share, True, part=taker), away - 1)
            given[box].append(np.roll(sent, away))
    for bit in range(count.bit_length() - 1):
        fresh = [
            to.send(chip[box], chip[box ^ 1 << bit], Payload(share, True, part=column), bit, deps=given[box][:])
            for box in range(count)
        ]
        for box in range(count):
            given[box].append(fresh[box ^ 1 << bit])
    for away in range(1, length):
        for box in range(count):
            dst = chip[box, (column + away) % length]
            to.send(chip[box], dst, Payload(share, True, part=column), away - 1, deps=given[box])
    return to.build()
