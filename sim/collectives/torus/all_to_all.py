"""All-to-all in stages: every chip sends a different message to every other chip, one axis after the other.

S is the local buffer in bytes, n the chips of the group, so a message has S/n. Messages are passed on by store and
forward, farthest first, over the shorter way of each ring; messages to the chip opposite are split over both ways. On a
ring of K chips every link then carries S K/8 (odd K: S (K^2-1)/(8K)), the least possible, which is the bisection bound.
Source: scaling-book, "Sharded matrices" (all-to-all on a bidirectional ring: a quarter of the all-gather).
"""

from __future__ import annotations

import numpy as np

from sim.collectives.schedule import Hop, Int32s, Payload, Schedule, ScheduleBuilder, plans_one_chip
from sim.collectives.torus.multi_axis import rotations
from sim.collectives.torus.ring import Arrival, arrivals_containing
from sim.collectives.wiring import WiredAxis, line_axes, line_axis, positions
from sim.topology.graph import Topology


def messages(axis: WiredAxis) -> list[tuple[int, int, int]]:
    """(direction, distance, half) of all messages of one chip along an axis, farthest first; half -1 is the whole."""
    if not axis.ring:
        return [(d, distance, -1) for distance in range(axis.size - 1, 0, -1) for d in (1, -1)]
    opposite = [(1, axis.size // 2, 0), (-1, axis.size // 2, 1)] if axis.size % 2 == 0 else []
    return opposite + [(d, distance, -1) for distance in range((axis.size - 1) // 2, 0, -1) for d in (1, -1)]


@plans_one_chip(on="rings")
def multi_axis(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """One all-to-all per axis in a row, chips sorting what they got between; parts in rotated order of the axes.

    In a stage along an axis of K chips, a chip sends 1/K of its part of the buffer to each chip of the axis: everything
    that is for chips at that position. On A rings of K chips, T = S K/(8 w) plus latencies, and the messages are larger
    by n/K than direct ones.
    """
    orders = rotations(topology, [axis.name for axis in line_axes(topology, axes)])
    parts = len(orders)
    builder = ScheduleBuilder("all_to_all", axes, parts)
    if not orders[0]:
        return builder.build()
    home = positions(topology, axes)
    chips = np.arange(topology.chips, dtype=np.int32)
    arrived: list[list[Arrival]] = [[] for _ in orders]
    for stage in range(len(orders[0])):
        runs = [line_axis(topology, order[stage]) for order in orders]
        received: list[list[Arrival]] = [[] for _ in orders]
        last: dict[tuple[int, int, int], Int32s] = {}
        for hop in range(max(distance for axis in runs for _, distance, _ in messages(axis))):
            for part, axis in enumerate(runs):
                column = axes.index(axis.name)
                done = [axes.index(name) for name in orders[part][:stage]]
                to_do = [axes.index(name) for name in orders[part][stage + 1 :]]
                for direction, distance, half in messages(axis):
                    if hop >= distance:
                        continue
                    if hop == 0:
                        needed = arrivals_containing(half, arrived[part])
                        end = axis.place + direction * distance
                        sends = axis.ring | ((end >= 0) & (end < axis.size))
                    else:
                        needed = [last[direction, distance, part]]
                        sends = needed[0] >= 0
                    src = chips[sends]
                    origin, target = home[src], home[src]
                    origin[:, done] = -1
                    target[:, to_do] = -1
                    origin[:, column] = (axis.position[src] - direction * hop) % axis.size
                    target[:, column] = (axis.position[src] + direction * (distance - hop)) % axis.size
                    dst = axis.after[direction][src]
                    arrival = np.full(len(chips), -1, dtype=np.int32)
                    arrival[dst] = builder.add(
                        Hop(src, dst, axis.link[direction][src], direction=direction),
                        Payload(
                            (1.0 if half < 0 else 0.5) / (parts * axis.size),
                            hop == 0,
                            part=part,
                            half=half,
                            origin=origin,
                            target=target,
                        ),
                        hop,
                        deps=[ids[src] for ids in needed],
                    )
                    last[direction, distance, part] = arrival
                    if hop == distance - 1:
                        received[part].append((half, arrival))
        for part in range(parts):
            arrived[part] += received[part]
    return builder.build()
