"""All-to-all: every chip sends a different message to every other chip.

S is the local buffer in bytes, n the chips of the group, so a message has S/n. Messages are passed on by store and
forward, farthest first, over the shorter way of each ring; messages to the chip opposite are split over both ways. On a
ring of K chips every link then carries S K/8 (odd K: S (K^2-1)/(8K)), the least possible, which is the bisection bound.
Source: scaling-book, "Sharded matrices" (all-to-all on a bidirectional ring: a quarter of the all-gather).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from sim.collectives.mesh import MeshAxis, mesh_axes, mesh_axis, positions
from sim.collectives.multi_axis import rotations
from sim.collectives.ring import Arrival, that_hold
from sim.collectives.routes import pass_on
from sim.collectives.schedule import Int32s, Schedule, ScheduleBuilder
from sim.errors import InputError
from sim.topology.graph import Topology

MAX_SENDS = 10_000_000
"""Direct messages are n (n-1) times the hops of a route: above this the schedule would not fit in memory."""


def messages(axis: MeshAxis) -> list[tuple[int, int, int]]:
    """(direction, distance, half) of all messages of one chip along an axis, farthest first; half -1 is the whole."""
    if not axis.ring:
        return [(d, distance, -1) for distance in range(axis.size - 1, 0, -1) for d in (1, -1)]
    opposite = [(1, axis.size // 2, 0), (-1, axis.size // 2, 1)] if axis.size % 2 == 0 else []
    return opposite + [(d, distance, -1) for distance in range((axis.size - 1) // 2, 0, -1) for d in (1, -1)]


def multi_axis(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """One all-to-all per axis in a row, chips sorting what they got between; parts in rotated order of the axes.

    In a stage along an axis of K chips, a chip sends 1/K of its part of the buffer to each chip of the axis: everything
    that is for chips at that position. On A rings of K chips, T = S K/(8 w) plus latencies, and the messages are larger
    by n/K than direct ones.
    """
    orders = rotations(topology, mesh_axes(topology, axes))
    parts = len(orders)
    builder = ScheduleBuilder("all_to_all", axes, parts)
    if not orders[0]:
        return builder.build()
    home = positions(topology, axes)
    chips = np.arange(topology.chips, dtype=np.int32)
    arrived: list[list[Arrival]] = [[] for _ in orders]
    for stage in range(len(orders[0])):
        runs = [mesh_axis(topology, order[stage]) for order in orders]
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
                        needed = that_hold(half, arrived[part])
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
                        src,
                        dst,
                        axis.link[direction][src],
                        share=(1.0 if half < 0 else 0.5) / (parts * axis.size),
                        step=hop,
                        direction=direction,
                        own=hop == 0,
                        part=part,
                        half=half,
                        origin=origin,
                        target=target,
                        deps=[ids[src] for ids in needed],
                    )
                    last[direction, distance, part] = arrival
                    if hop == distance - 1:
                        received[part].append((half, arrival))
        for part in range(parts):
            arrived[part] += received[part]
    return builder.build()


def _offsets(axis: MeshAxis) -> list[tuple[int, bool]]:
    """(signed hops, whether the other way round is as short) to every position of an axis, counted from any chip."""
    ways = [(direction * distance, half >= 0) for direction, distance, half in messages(axis) if half <= 0]
    return [(0, False), *ways]


def dimension_ordered(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Every message by itself, straight to its target, one axis after the other.

    Each message is cut into as many parts as there are axes, which take the axes in rotated order, so that equal axes
    carry equal loads; where a position opposite makes both ways equally short, the halves go opposite ways. On a
    twisted torus, and where links have failed, messages take `topology.route`, whole.

    Raises:
        InputError: more sends than fit in memory.
    """
    if topology.failed:
        return _routed(topology, axes)
    longer = mesh_axes(topology, axes)
    if any(axis.twisted for axis in longer):
        return _routed(topology, axes)
    n = int(np.prod([axis.size for axis in longer], dtype=np.int64))
    mean_hops = sum(axis.size / (4 if axis.ring else 3) for axis in longer)
    if topology.chips * n * mean_hops * len(longer) > MAX_SENDS:
        raise InputError(
            f"direct all-to-all messages within {n} chips need too many sends", hint="choose the algorithm multi_axis"
        )
    builder = ScheduleBuilder("all_to_all", axes, max(1, len(longer)))
    offsets = sorted(
        itertools.product(*(_offsets(axis) for axis in longer)),
        key=lambda offset: -sum(abs(hops) for hops, _ in offset),
    )
    home = positions(topology, axes)
    for offset in offsets:
        for half in (0, 1) if any(tie for _, tie in offset) else (-1,):
            for part in range(len(longer)):
                order = [*range(part, len(longer)), *range(part)]
                legs = [(longer[i], -hops if tie and half == 1 else hops) for i in order for hops, tie in [offset[i]]]
                _send_along(builder, legs, axes, home, 1 / (n * len(longer)), part, half)
    return builder.build()


def _send_along(
    builder: ScheduleBuilder,
    legs: Sequence[tuple[MeshAxis, int]],
    axes: tuple[str, ...],
    home: Int32s,
    share: float,
    part: int,
    half: int,
) -> None:
    """One message from every chip that has a target at these signed hops along the axes, hop after hop."""
    target = home.copy()
    inside = np.ones(len(home), dtype=np.bool_)
    for axis, hops in legs:
        end = axis.position + hops
        inside &= axis.ring | ((end >= 0) & (end < axis.size))
        target[:, axes.index(axis.name)] = end % axis.size
    source = np.flatnonzero(inside).astype(np.int32)
    at, sent = source, None
    for step, (axis, direction) in enumerate(_hops(legs)):
        to = axis.after[direction][at]
        sent = builder.add(
            at,
            to,
            axis.link[direction][at],
            share=share if half < 0 else share / 2,
            step=step,
            direction=direction,
            own=step == 0,
            part=part,
            half=half,
            origin=home[source],
            target=target[source],
            deps=[] if sent is None else [sent],
        )
        at = to


def _hops(legs: Sequence[tuple[MeshAxis, int]]) -> Iterator[tuple[MeshAxis, int]]:
    for axis, hops in legs:
        for _ in range(abs(hops)):
            yield axis, 1 if hops > 0 else -1


def _routed(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Whole messages along `topology.route`, longest routes first."""
    home = positions(topology, axes)
    outside = positions(topology, tuple(axis.name for axis in topology.axes if axis.name not in axes))
    group = (
        np.unique(outside, axis=0, return_inverse=True)[1].ravel() if outside.size else np.zeros(len(home), np.int64)
    )
    pairs = np.argwhere(group[:, None] == group[None, :])
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    routes = [topology.route(int(src), int(dst)) for src, dst in pairs]
    order = np.argsort([-len(route) for route in routes], kind="stable")
    n = len(home) // (int(group.max()) + 1)
    builder = ScheduleBuilder("all_to_all", axes, parts=1)
    origin, target = home[pairs[order, 0]], home[pairs[order, 1]]
    pass_on(builder, topology, [routes[i] for i in order], share=1 / n, part=0, origin=origin, target=target)
    return builder.build()
