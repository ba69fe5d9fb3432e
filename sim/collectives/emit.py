"""Turns a schedule into tasks: one BEGIN and one END per chip, one task per send on its link."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from sim import units
from sim.collectives.schedule import Schedule, Timing
from sim.program import Floats, Ids, Ints, Kind, Labels, Occupancy, ProgramBuilder, Waits
from sim.specs import MEDIA
from sim.topology.graph import Topology


class Emitted(Struct, frozen=True):
    """Tasks of one collective."""

    begin: Ids
    """[chips] tasks with which chips enter the collective."""
    sends: Ids
    """[sends] tasks in the schedule's order."""
    end: Ids
    """[chips] tasks with which all data for a chip has arrived."""


class CollectiveCall(Struct, frozen=True, eq=False):
    """One call of a collective."""

    schedule: Schedule
    size_bytes: float
    """The size that the schedule's shares refer to (`Schedule.share`)."""
    op: str
    dtype: str = ""
    """Number format of the elements, if known."""
    launched: bool = False
    """True if a kernel before it has launched it: its own launch takes no time."""


class ChipMessage(Struct, frozen=True):
    """One message from chip to chip."""

    src: int
    dst: int
    size_bytes: float
    op: str
    collective: int = -1


class LoopedSends(Struct, frozen=True):
    """Waits and delays of the sends of a collective that is looped with a matmul."""

    added_ps: Ints
    """[sends] delay of each send by the compute that runs meanwhile."""
    needs: Ids | None = None
    """[sends] a task that each message also waits for, at its first send; -1 for none."""


class _Wiring(Struct, frozen=True):
    """Facts about a schedule on one machine that hold for all sizes."""

    ps_per_byte: Floats
    flight_ps: Ints
    heads: Ints
    """Sends that start a message."""
    arrival_counts: Ints
    """[chips] messages that arrive at each chip."""
    arrivals: Ints
    """Last sends of these messages, chip after chip."""
    positions: Ints
    """Index of each head's first dependency in the flat list."""


def _rates(topology: Topology, schedule: Schedule) -> tuple[Floats, Ints]:
    """Returns [sends] (ps per byte, flight in ps)."""
    if len(schedule.timings) > 1:
        rates, flights_ps = np.empty(len(schedule)), np.empty(len(schedule), dtype=np.int64)
        for each in schedule.groups:
            own = np.isin(schedule.src, each.group.chips)
            rates[own], flights_ps[own] = _rates(each.group.machine, each.plan)
        return rates, flights_ps
    links = topology.links
    bandwidth = np.array([link.bandwidth for link in links])
    flight_ps = np.array([link.latency_ps for link in links], dtype=np.int64)[schedule.link]
    if (timing := schedule.timing) is not None:
        bandwidth *= np.array(timing.share)[[MEDIA.index(link.medium) for link in links]]
        flight_ps += _added_ps(topology, schedule, timing)
    return units.PS_PER_S / bandwidth[schedule.link], flight_ps


@functools.lru_cache(maxsize=256)
def _wiring(topology: Topology, schedule: Schedule) -> _Wiring:
    ps_per_byte, flight_ps = _rates(topology, schedule)
    heads = np.flatnonzero(schedule.follows < 0)
    last = np.flatnonzero(schedule.arrives(topology))
    return _Wiring(
        ps_per_byte=ps_per_byte,
        flight_ps=flight_ps,
        heads=heads,
        arrival_counts=np.bincount(schedule.dst[last], minlength=topology.chips).astype(np.int64),
        arrivals=last[np.argsort(schedule.dst[last], kind="stable")],
        positions=(np.cumsum(schedule.dep_counts, dtype=np.int64) - schedule.dep_counts)[heads],
    )


def overhead_s(topology: Topology, schedule: Schedule) -> float:
    """Returns the launch overhead, s: the protocol's, else the machine's.

    For an all-to-all it includes the starts of messages that no hop hides: along a ring of K chips each chip starts K-1
    messages, one after the other; they take floor(K/2) hops at most, and the latency of every hop contains one start.
    """
    if schedule.timing:
        return schedule.timing.overhead_s
    if schedule.groups:
        return max(overhead_s(each.group.machine, each.plan) for each in schedule.groups)
    starts = 0
    if schedule.collective in ("all_to_all", "dispatch", "combine"):
        rings = [axis.size for axis in map(topology.axis, schedule.axes) if axis.ring and axis.size > 1]
        starts = sum(size - 1 - size // 2 for size in rings)
    return topology.software.collective_overhead_s + starts * topology.software.message_start_s


def _overheads_ps(topology: Topology, schedule: Schedule) -> int | Ints:
    """Returns the launch overhead, ps; [chips] if groups differ in it, with 0 for chips of no group."""
    of_groups = [units.to_ps(overhead_s(each.group.machine, each.plan)) for each in schedule.groups]
    if len(set(of_groups)) < 2:
        return units.to_ps(overhead_s(topology, schedule))
    result = np.zeros(topology.chips, dtype=np.int64)
    for each, overhead_ps in zip(schedule.groups, of_groups, strict=True):
        result[each.group.chips] = overhead_ps
    return result


def _least_ps(schedule: Schedule, chips: int) -> list[int]:
    """Returns [chips] the least time of a collective, ps: the longest of its groups'."""
    least_s = [np.broadcast_to(timing.least_s, chips) for timing in schedule.timings if timing]
    return [units.to_ps(each) for each in np.max([np.zeros(chips), *least_s], axis=0).tolist()]


def _added_ps(topology: Topology, schedule: Schedule, timing: Timing) -> Ints:
    """Returns [sends] the time that a protocol adds at arrivals, by the slowest kind of link on a message's route."""
    medium = np.array([MEDIA.index(link.medium) for link in topology.links], dtype=np.int64)
    head = schedule.heads()
    slowest = np.zeros(len(schedule), dtype=np.int64)
    np.maximum.at(slowest, head, medium[schedule.link])
    added_ps = np.array([units.to_ps(added_s) for added_s in timing.added_s], dtype=np.int64)
    return np.where(schedule.arrives(topology), added_ps[slowest[head]], 0)


def emit(
    builder: ProgramBuilder,
    topology: Topology,
    call: CollectiveCall,
    after: Sequence[Ids] = (),
    looped: LoopedSends | None = None,
    slow_ppm: int = 0,
) -> Emitted:
    """Appends a collective that each chip enters when `after` has ended.

    A send holds its links for whole picoseconds, rounded up, so no link carries more than its bandwidth. A chip sends,
    and forwards what others sent, only after its BEGIN, which flies for the launch overhead (the machine's, or that of
    the schedule's protocol). Resources of links follow the chips' compute resources: link i is resource chips + i.

    Args:
        after: [chips] arrays of tasks; each chip waits for its own entry.
        looped: waits and delays of a collective that is looped with a matmul.
        slow_ppm: share of each chip's compute rate that is taken from its BEGIN to its END, parts per million.
    """
    schedule, op, size = call.schedule, call.op, call.size_bytes
    wiring = _wiring(topology, schedule)
    chips = np.arange(topology.chips, dtype=np.int32)
    instance = builder.new_collective()
    if call.dtype:
        builder.dtypes[op] = call.dtype
    slows = chips if slow_ppm else -1
    overheads_ps = _overheads_ps(topology, schedule)
    begin = builder.add(
        op,
        Kind.BEGIN,
        chips,
        Occupancy(flight_ps=0 if call.launched else _overheads_ps(topology, schedule), slows=slows, slow_ppm=slow_ppm),
        Waits(after),
        Labels(bytes=size, collective=instance),
    )
    base = len(builder)
    flat = np.insert(schedule.deps.astype(np.int64) + base, wiring.positions, begin[schedule.src[wiring.heads]])
    counts = schedule.dep_counts + (schedule.follows < 0).astype(np.int64)
    if looped and (needs := looped.needs) is not None:
        given = (needs >= 0) & (schedule.follows < 0)
        starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
        flat = np.insert(flat, starts[given], needs[given])
        counts = counts + given
    size_of_send = schedule.share * size
    sends = builder.add(
        op,
        Kind.SEND,
        schedule.src,
        Occupancy(
            topology.chips + schedule.link,
            busy_ps=np.ceil(size_of_send * wiring.ps_per_byte * units.EXACTLY - units.NEGLIGIBLE_PS).astype(np.int64),
            flight_ps=wiring.flight_ps + looped.added_ps if looped else wiring.flight_ps,
        ),
        Waits(flat_deps=(counts, flat), follows=np.where(schedule.follows >= 0, schedule.follows + base, -1)),
        Labels(peer=schedule.dst, bytes=size_of_send, collective=instance),
    )
    waits, positions = wiring.arrivals + base, np.concatenate(([0], np.cumsum(wiring.arrival_counts)[:-1]))
    least_ps = np.array(_least_ps(schedule, topology.chips), dtype=np.int64)
    if call.launched:
        least_ps = np.maximum(least_ps - overheads_ps, 0)
    signals = [begin]
    if least_ps.any():
        flight = Occupancy(flight_ps=least_ps)
        signals.append(builder.add(op, Kind.EVENT, chips, flight, Waits(after), Labels(collective=instance)))
    ends = np.insert(waits, np.repeat(positions, len(signals)), np.stack(signals, axis=1).ravel())
    end = builder.add(
        op,
        Kind.END,
        chips,
        Occupancy(slows=slows, slow_ppm=-slow_ppm),
        Waits(flat_deps=(wiring.arrival_counts + len(signals), ends)),
        Labels(collective=instance),
    )
    return Emitted(begin, sends, end)


@functools.lru_cache(maxsize=256)
def alone_s(topology: Topology, schedule: Schedule, size: float) -> float:
    """Returns the time of a collective alone on the machine, s: its longest chain of messages, or its busiest link."""
    wiring, sizes = _wiring(topology, schedule), schedule.share * size
    busy_ps = sizes * wiring.ps_per_byte
    first = np.cumsum(schedule.dep_counts, dtype=np.int64) - schedule.dep_counts
    started, ended = np.zeros(len(schedule)), np.zeros(len(schedule))
    for send in range(len(schedule)):
        before = schedule.follows[send]
        if before >= 0:
            started[send] = started[before] + wiring.flight_ps[before]
            free = max(started[send] + busy_ps[send], ended[before])
        else:
            waits = schedule.deps[first[send] : first[send] + schedule.dep_counts[send]]
            started[send] = ended[waits].max(initial=0.0)
            free = started[send] + busy_ps[send]
        ended[send] = free + wiring.flight_ps[send]
    busiest = np.bincount(schedule.link, weights=busy_ps).max(initial=0.0)
    return overhead_s(topology, schedule) + float(max(ended.max(initial=0.0), busiest)) / units.PS_PER_S


def emit_message(builder: ProgramBuilder, topology: Topology, message: ChipMessage, after: Ids) -> Ids:
    """Appends a message from chip to chip that is sent when `after` [1] has ended.

    Returns:
        [routes] the tasks with which it arrives, one for each of its equally good routes.

    Raises:
        InputError: there is no route.
    """
    ways, arrivals = topology.ways(message.src, message.dst), []
    size = message.size_bytes / len(ways)
    for way in ways:
        task = np.array([-1], dtype=np.int32)
        for number, index in enumerate(way):
            link = topology.links[index]
            task = builder.add(
                message.op,
                Kind.SEND,
                [message.src],
                Occupancy(topology.chips + index, busy_ps=link.busy_ps(size), flight_ps=link.latency_ps),
                Waits(() if number else (after,), follows=task),
                Labels(peer=message.dst, bytes=size, collective=message.collective),
            )
        arrivals.append(task)
    return np.concatenate(arrivals)
