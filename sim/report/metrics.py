"""What a trace adds up to: compute, communication, overlap, waits and idle time per chip; time per op; load per link.

*Communication* is time with at least one collective of the chip in progress, its launch included; *exposed* is
communication with no compute on that chip. Of the rest of its time a chip may wait for one of its streams to join the
other (*stream wait*), for layers on their way from a memory pool (*copy wait*), or have no batch on its stage of a
pipeline (*bubble*: it fills, drains, or waits for another stage or a request); what is then left is *idle*. On every
chip

    makespan = compute + exposed communication + stream wait + copy wait + bubble + idle,
    communication = exposed + overlapped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sim.lowering.lowered import Batches
from sim.program import Floats, Ints, Kind
from sim.report import spans as sp
from sim.topology.graph import Topology
from sim.trace import Trace
from sim.units import PS_PER_S


@dataclass(frozen=True, slots=True)
class OpMeasure:
    """One op on the critical chip, all its occurrences together."""

    op: str
    kind: str
    """`compute` or `collective`."""
    count: int
    """Compute tasks (a looped collective matmul has one per piece), or collectives."""
    time_s: float
    """Sum of their durations; collectives in progress at once each count."""
    exposed_s: float
    """Of that, with no compute on the chip; 0 for compute. Collectives exposed at once each count."""
    bytes: float
    """HBM traffic of compute; bytes the chip put on its links, forwarded ones included, of a collective."""
    flops: float

    @property
    def exposed_each_s(self) -> float:
        """Mean exposed time of one of its occurrences."""
        return self.exposed_s / self.count


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """All figures of one trace, seconds and bytes; one entry per chip or per link."""

    makespan_s: float
    compute_s: Floats
    communication_s: Floats
    exposed_communication_s: Floats
    overlapped_communication_s: Floats
    stream_wait_s: Floats
    copy_wait_s: Floats
    bubble_s: Floats
    idle_s: Floats
    critical_chip: int
    """The chip whose last task ends last; the lowest of them."""
    ops: tuple[OpMeasure, ...]
    """On the critical chip, in program order."""
    link_busy_s: Floats
    link_bytes: Floats
    link_utilisation: Floats
    """Busy time over makespan."""
    busiest_links: tuple[str, ...]
    """Names of the links with the most busy time; all that tie. Empty when nothing was sent."""


def measure(trace: Trace, topology: Topology, batches: Batches | None = None) -> Measures:
    """The figures of `trace`, a simulation of a program on `topology`.

    Args:
        batches: of a pipeline; without them what is a bubble counts as idle.
    """
    chips, makespan = topology.chips, trace.makespan_ps
    compute, collectives, links = sp.compute(trace), sp.collectives(trace), sp.links(trace, topology)
    computing = sp.union(compute)
    compute_ps = sp.lengths(computing, chips)
    communication_ps = sp.lengths(sp.union(collectives), chips)
    doing = sp.union(computing, collectives)
    covered, waited_ps = doing, []
    reached_ps = busy_ps = sp.lengths(doing, chips)
    for waits in waiting(trace, batches).values():
        covered = sp.union(covered, waits) if len(waits) else covered
        before_ps, reached_ps = reached_ps, sp.lengths(covered, chips)
        waited_ps.append(reached_ps - before_ps)
    critical = critical_chip(trace, chips)
    link_ps = sp.lengths(links, len(topology.links))
    most = int(link_ps.max(initial=0))
    return Measures(
        makespan_s=makespan / PS_PER_S,
        compute_s=compute_ps / PS_PER_S,
        communication_s=communication_ps / PS_PER_S,
        exposed_communication_s=(busy_ps - compute_ps) / PS_PER_S,
        overlapped_communication_s=(compute_ps + communication_ps - busy_ps) / PS_PER_S,
        stream_wait_s=waited_ps[0] / PS_PER_S,
        copy_wait_s=waited_ps[1] / PS_PER_S,
        bubble_s=waited_ps[2] / PS_PER_S,
        idle_s=(makespan - reached_ps) / PS_PER_S,
        critical_chip=critical,
        ops=_ops(trace, critical, compute, collectives, computing),
        link_busy_s=link_ps / PS_PER_S,
        link_bytes=sp.sums(links.lane, trace.program.bytes[links.task], len(topology.links)),
        link_utilisation=link_ps / max(makespan, 1),
        busiest_links=_names(np.flatnonzero(link_ps == most).tolist(), topology) if most else (),
    )


def waiting(trace: Trace, batches: Batches | None) -> dict[str, sp.Spans]:
    """What chips may wait for while they neither compute nor communicate; where two overlap, the first counts."""
    nothing = sp.joins(trace).where(np.empty(0, dtype=np.int64))
    outside = sp.outside(sp.on_stage(trace, batches), trace.makespan_ps) if batches else nothing
    copies = sp.copies(trace)
    there = replace(copies, end=trace.times["end"][copies.task])  # its engine is free before the last byte is there
    return {"stream join": sp.joins(trace), "memory pool": there, "pipeline bubble": outside}


def _names(links: list[int], topology: Topology) -> tuple[str, ...]:
    """Names of links; of those that stand for others, of all these."""
    whole = topology.unfolded or topology
    return tuple(whole.links[link].name for link in np.flatnonzero(np.isin(topology.stand_in_links, links)).tolist())


def critical_chip(trace: Trace, chips: int) -> int:
    """The chip whose last task ends last; the lowest of them."""
    last_end = np.zeros(chips, dtype=np.int64)
    np.maximum.at(last_end, trace.program.chip, trace.times["end"])
    return int(last_end.argmax())


def _ops(
    trace: Trace, chip: int, compute: sp.Spans, collectives: sp.Spans, computing: sp.Spans
) -> tuple[OpMeasure, ...]:
    """The table of ops on one chip."""
    program, names = trace.program, trace.program.op_names
    compute, collectives, computing = (part.of_lane(chip) for part in (compute, collectives, computing))

    def per_op(task: sp.Tasks, value: Ints | Floats) -> Floats:
        return sp.sums(program.op[task], value, len(names))

    alone = sp.minus(collectives, computing)
    exposed = per_op(alone.task, alone.end - alone.start)
    sends = np.flatnonzero((program.kind == Kind.SEND) & (program.chip == chip))
    sent = per_op(sends, program.bytes[sends])
    rows = {}
    for kind, own in (("compute", compute), ("collective", collectives)):
        count = np.bincount(program.op[own.task], minlength=len(names))
        time = per_op(own.task, own.end - own.start)
        moved = sent if kind == "collective" else per_op(own.task, program.bytes[own.task])
        flops = per_op(own.task, program.flops[own.task])
        for op in np.flatnonzero(count).tolist():
            rows[op, kind] = OpMeasure(
                op=names[op],
                kind=kind,
                count=int(count[op]),
                time_s=float(time[op]) / PS_PER_S,
                exposed_s=float(exposed[op]) / PS_PER_S if kind == "collective" else 0.0,
                bytes=float(moved[op]),
                flops=float(flops[op]),
            )
    return tuple(rows[key] for key in sorted(rows))
