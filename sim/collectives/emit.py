"""From a schedule to tasks: one BEGIN and one END per chip, one task per send on its link or ports."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim import units
from sim.collectives.schedule import Schedule, Timing
from sim.program import Floats, Ids, Ints, Kind, ProgramBuilder
from sim.specs import MEDIA
from sim.topology.graph import Topology


@dataclass(frozen=True, slots=True)
class Emitted:
    """Tasks of one collective."""

    begin: Ids
    """[chips] the chip enters the collective."""
    sends: Ids
    """[sends] in the schedule's order."""
    end: Ids
    """[chips] everything for the chip has arrived."""


@dataclass(frozen=True, slots=True)
class _Wiring:
    """What a schedule is on one machine, whatever the size: computed once."""

    ps_per_byte: Floats
    flight_ps: Ints
    resource: Ids
    """[sends, r]; on a switch r = 2. -1 for none."""
    arrival_counts: Ints
    """[chips] sends into each chip."""
    arrivals: Ids
    """Flat, chip after chip: those sends."""
    positions: Ints
    """Where each send's own dependencies start in the flat list."""


@functools.lru_cache(maxsize=256)
def _wiring(topology: Topology, schedule: Schedule) -> _Wiring:
    links = topology.links
    bandwidth = np.array([link.bandwidth for link in links])
    latency = np.array([link.latency_ps for link in links], dtype=np.int64)
    # [n, r], -1 where a send holds fewer: more than one where it cuts through. The slowest sets its rate.
    columns = [schedule.link[:, None]]
    if (schedule.ingress >= 0).any():
        columns += [schedule.ingress[:, None], *([schedule.between] if len(schedule.between) else [])]
    held = np.concatenate(columns, axis=1)
    given = held >= 0
    flight_ps = np.where(given, latency[held], 0).sum(axis=1)
    if (timing := schedule.timing) is not None:
        medium = np.array([MEDIA.index(link.medium) for link in links], dtype=np.int64)
        bandwidth = bandwidth * np.array(timing.share)[medium]
        flight_ps = flight_ps + _added_ps(topology, schedule, timing, np.where(given, medium[held], 0).max(axis=1))
    ps_per_byte = units.PS_PER_S / np.where(given, bandwidth[held], np.inf).min(axis=1)
    return _Wiring(
        ps_per_byte=ps_per_byte,
        flight_ps=flight_ps,
        resource=np.where(given, topology.chips + held, -1).astype(np.int32),
        arrival_counts=np.bincount(schedule.dst, minlength=topology.chips).astype(np.int64),
        arrivals=np.argsort(schedule.dst, kind="stable").astype(np.int32),
        positions=np.concatenate(([0], np.cumsum(schedule.dep_counts)[:-1])).astype(np.int64),
    )


def _added_ps(topology: Topology, schedule: Schedule, timing: Timing, slowest: Ints) -> Ints:
    """[sends] time that a protocol adds at the end of each message, by the slowest kind of link on its way.

    Args:
        slowest: [sends] that of the links the send itself holds; a message that does not cut through takes more.
    """

    @functools.cache
    def on_route(src: int, dst: int) -> int:
        return max((MEDIA.index(topology.links[link].medium) for link in topology.route(src, dst)), default=0)

    routes = [on_route(src, dst) for src, dst in zip(schedule.src.tolist(), schedule.dst.tolist(), strict=True)]
    added_ps = np.array([units.to_ps(added_s) for added_s in timing.added_s], dtype=np.int64)
    at_end = added_ps[np.maximum(slowest, np.array(routes, dtype=np.int64))]
    return np.where(schedule.arrives(topology), at_end, 0)


def emit(
    builder: ProgramBuilder,
    topology: Topology,
    schedule: Schedule,
    size: float,
    op: str,
    after: Sequence[Ids] = (),
    needs: Ids | None = None,
    slow_ppm: int = 0,
    dtype: str = "",
) -> Emitted:
    """Append a collective of `size` bytes (the schedule's size) in which each chip takes part once `after` has ended.

    A send holds its links for whole picoseconds, rounded up: no link carries more than its bandwidth.
    A chip sends, and forwards what others sent, only from its BEGIN on, which flies for the launch overhead (the
    machine's, or that of the protocol the schedule is for). Link
    resources follow the chips' compute resources: link i is resource chips + i.

    Args:
        after: [chips] arrays of tasks, each chip waits for its own entry.
        needs: [sends] a task that each send also waits for, -1 for none.
        slow_ppm: parts per million of its rate that each chip's compute loses from its BEGIN to its END.
        dtype: number format of the elements, where it is known.
    """
    wiring = _wiring(topology, schedule)
    chips = np.arange(topology.chips, dtype=np.int32)
    instance = builder.new_collective()
    if dtype:
        builder.dtypes[op] = dtype
    overhead_s = schedule.timing.overhead_s if schedule.timing else topology.collective_overhead_s
    slows = chips if slow_ppm else -1
    begin = builder.add(
        op,
        Kind.BEGIN,
        chips,
        flight_ps=units.to_ps(overhead_s),
        deps=after,
        bytes=size,
        collective=instance,
        slows=slows,
        slow_ppm=slow_ppm,
    )
    base = len(builder)
    flat = np.insert(schedule.deps.astype(np.int64) + base, wiring.positions, begin[schedule.src])
    counts = schedule.dep_counts.astype(np.int64) + 1
    if needs is not None:
        given = needs >= 0
        starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
        flat = np.insert(flat, starts[given], needs[given])
        counts = counts + given
    size_of_send = schedule.share * size
    sends = builder.add(
        op,
        Kind.SEND,
        schedule.src,
        peer=schedule.dst,
        busy_ps=np.ceil(size_of_send * wiring.ps_per_byte).astype(np.int64),
        flight_ps=wiring.flight_ps,
        resource=wiring.resource,
        flat_deps=(counts, flat),
        bytes=size_of_send,
        collective=instance,
    )
    ends = np.insert(
        wiring.arrivals.astype(np.int64) + base,
        np.concatenate(([0], np.cumsum(wiring.arrival_counts)[:-1])),
        begin,
    )
    end = builder.add(
        op,
        Kind.END,
        chips,
        flat_deps=(wiring.arrival_counts + 1, ends),
        collective=instance,
        slows=slows,
        slow_ppm=-slow_ppm,
    )
    return Emitted(begin, sends, end)
