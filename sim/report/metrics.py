"""Measures of a trace: compute, communication, overlap, waits and idle time per chip; time per op; load per link.

*Communication* is time with at least one collective of the chip in progress, its launch included; *exposed* is
communication with no compute on that chip. Of the rest of its time a chip may wait for one of its streams to join the
other (*stream wait*), for layers on their way from a memory pool (*copy wait*), or have no batch on its stage of a
pipeline (*bubble*: it fills, drains, or waits for another stage or a request); what is then left is *idle*. On every
chip

    makespan = compute + exposed communication + stream wait + copy wait + bubble + idle,
    communication = exposed + overlapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from sim.program import CacheTransfer, ExpertRows, Floats, Ints, Kind, Period, Program
from sim.program.trace import Trace
from sim.report import spans as sp
from sim.shortcuts import periodic
from sim.topology.graph import Topology
from sim.units import PS_PER_S

if TYPE_CHECKING:
    from sim.program.batches import Batches


class OpMeasure(Struct, frozen=True):
    """Totals of all occurrences of one op on the critical chip."""

    op: str
    kind: str
    """`compute` or `collective`."""
    count: int
    """Compute tasks (a looped collective matmul has one per piece), or collectives."""
    time_s: float
    """Sum of their durations; collectives in progress at once each count."""
    exposed_s: float
    """Part of `time_s` with no compute on the chip; 0 for compute. Collectives exposed at once each count."""
    bytes: float
    """HBM traffic of compute; bytes the chip put on its links, forwarded ones included, of a collective."""
    flops: float
    compute_s: float = 0.0
    """Time of the FLOPs at their reached rates (`sim.lowering.costs`)."""
    memory_s: float = 0.0
    """Time of the bytes at their reached bandwidths."""
    overhead_s: float = 0.0
    """Fixed time of all launches."""

    @property
    def bound(self) -> str:
        """`compute` or `memory`, whichever takes longer; empty for a collective, and where neither takes time."""
        if self.kind != "compute" or not max(self.memory_s, self.compute_s):
            return ""
        return "memory" if self.memory_s > self.compute_s else "compute"

    @property
    def exposed_each_s(self) -> float:
        """Mean exposed time of one of its occurrences."""
        return self.exposed_s / self.count


class Measures(Struct, frozen=True, eq=False):
    """Figures of one trace, seconds and bytes, with one entry per chip or per link."""

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
    """The chip whose last task ends last, of those that compute if any does; the lowest of them."""
    ops: tuple[OpMeasure, ...]
    """On the critical chip, in program order."""
    link_busy_s: Floats
    link_bytes: Floats
    link_utilisation: Floats
    """Busy time over makespan."""
    busiest_links: tuple[str, ...]
    """Names of the links with the most busy time; all that tie. Empty when nothing was sent."""


class PassTrace(Struct, frozen=True, eq=False):
    """Trace of one simulated pass, and how to read it."""

    trace: Trace
    topology: Topology
    batches: Batches | None = None
    """Batches of a pipeline."""
    periods: Sequence[Period] = ()
    """Steady states of the repeated blocks whose copies were not simulated."""
    expert_rows: ExpertRows | None = None
    """Rows of a layer's experts."""
    transfer: CacheTransfer | None = None
    """Chips of a transfer of the cache."""

    @property
    def computing_chips(self) -> int:
        """Number of chips that compute: all but those that only receive a cache."""
        return len(self.transfer.senders) if self.transfer else self.topology.total_chips

    @property
    def copies(self) -> Ints:
        """[tasks] how many times the full program has each simulated task."""
        return periodic.copies_per_task(self.trace.program, self.periods)

    @property
    def makespan_ps(self) -> int:
        """End of the last task of all layers, ps."""
        return periodic.makespan_ps(self.trace, self.periods)


def measure(
    trace: Trace, topology: Topology, batches: Batches | None = None, periods: Sequence[Period] = ()
) -> Measures:
    """Measures a trace on `topology`, including the layers that were not simulated.

    Args:
        batches: batches of a pipeline; without them bubbles count as idle time.
        periods: steady states of the repeated blocks whose copies were not simulated.
    """
    program = trace.program
    makespan, copies = periodic.makespan_ps(trace, periods), periodic.copies_per_task(program, periods)
    activities = [_Activity.of(each, topology, batches) for each in periodic.extrapolate(trace, periods)]
    of_chips = periodic.sum_over_copies(program, [each.of_chips for each in activities])
    last_end, compute_ps, communication_ps, busy_ps, *reached_ps = of_chips
    waited_ps = np.diff([busy_ps, *reached_ps], axis=0)
    critical = int(np.where((compute_ps > 0) | ~compute_ps.any(), last_end, -1).argmax())
    link_ps = periodic.sum_over_copies(program, [each.of_links for each in activities])
    most = int(link_ps.max(initial=0))
    links = activities[0].links
    return Measures(
        makespan_s=makespan / PS_PER_S,
        compute_s=compute_ps / PS_PER_S,
        communication_s=communication_ps / PS_PER_S,
        exposed_communication_s=(busy_ps - compute_ps) / PS_PER_S,
        overlapped_communication_s=(compute_ps + communication_ps - busy_ps) / PS_PER_S,
        stream_wait_s=waited_ps[0] / PS_PER_S,
        copy_wait_s=waited_ps[1] / PS_PER_S,
        bubble_s=waited_ps[2] / PS_PER_S,
        idle_s=(makespan - reached_ps[-1]) / PS_PER_S,
        critical_chip=critical,
        ops=_ops(program, copies, critical, activities),
        link_busy_s=link_ps / PS_PER_S,
        link_bytes=sp.totals(links.lane, program.bytes[links.task], copies[links.task], len(topology.links)),
        link_utilisation=link_ps / max(makespan, 1),
        busiest_links=_names(np.flatnonzero(link_ps == most).tolist(), topology) if most else (),
    )


def sum_on_links(measured: PassTrace, tasks: npt.NDArray[np.bool_]) -> tuple[Ints, Floats]:
    """Returns [links] the time for which each is busy with some tasks' messages in one step, ps, and their bytes."""
    program, links = measured.trace.program, len(measured.topology.links)
    sends = np.flatnonzero((program.kind == Kind.SEND) & tasks)
    busy_ps, sent, copies = np.zeros(links, dtype=np.int64), np.zeros(links), measured.copies[sends]
    link = program.resource[sends] - measured.topology.chips
    np.add.at(busy_ps, link, program.busy_ps[sends] * copies)
    np.add.at(sent, link, program.bytes[sends] * copies)
    return busy_ps, sent


class _Activity(Struct, frozen=True, eq=False):
    """Activity of the chips and links in one trace."""

    program: Program
    compute: sp.Spans
    collectives: sp.Spans
    computing: sp.Spans
    """Union of `compute`."""
    links: sp.Spans
    of_chips: Ints
    """[7, chips] the end of the last task; then time in compute, in communication, in either, and in these or in the
    first, the first two, all three of the waits, ps."""
    of_links: Ints
    """[links] busy time, ps."""

    @classmethod
    def of(cls, trace: Trace, topology: Topology, batches: Batches | None) -> _Activity:
        chips = topology.chips
        compute, collectives, links = (
            sp.compute_spans(trace),
            sp.collective_spans(trace),
            sp.link_spans(trace, topology),
        )
        computing = sp.union(compute)
        covered = sp.union(computing, collectives)
        rows = [
            _last_ends(trace, chips),
            sp.lengths(computing, chips),
            sp.lengths(sp.union(collectives), chips),
            sp.lengths(covered, chips),
        ]
        for waits in wait_spans(trace, batches).values():
            covered = sp.union(covered, waits) if len(waits) else covered
            rows.append(sp.lengths(covered, chips))
        of_links = sp.lengths(links, len(topology.links))
        return cls(trace.program, compute, collectives, computing, links, np.stack(rows), of_links)

    def of_ops(self, chip: int) -> Ints:
        """Returns count, time and exposed time (ps) of compute and of collectives on a chip, [2, 3, ops]."""
        program, ops = self.program, len(self.program.op_names)
        compute, collectives, computing = (
            part.of_lane(chip) for part in (self.compute, self.collectives, self.computing)
        )
        alone = sp.minus(collectives, computing)
        return np.stack(
            [
                np.stack(
                    [
                        np.bincount(program.op[busy.task], minlength=ops),
                        sp.lengths(replace(busy, lane=program.op[busy.task]), ops),
                        sp.lengths(replace(exposed, lane=program.op[exposed.task]), ops),
                    ]
                )
                for busy, exposed in ((compute, compute.where(np.empty(0, dtype=np.int64))), (collectives, alone))
            ]
        )


def wait_spans(trace: Trace, batches: Batches | None) -> dict[str, sp.Spans]:
    """Returns spans by cause in which chips neither compute nor communicate; where two overlap, the first counts."""
    nothing = sp.join_spans(trace).where(np.empty(0, dtype=np.int64))
    outside = sp.outside(sp.stage_spans(trace, batches), trace.makespan_ps) if batches else nothing
    copies = sp.copy_spans(trace)
    there = replace(copies, end=trace.times["end"][copies.task])  # its engine is free before the last byte is there
    return {"stream join": sp.join_spans(trace), "memory pool": there, "pipeline bubble": outside}


def _names(links: list[int], topology: Topology) -> tuple[str, ...]:
    """Returns the names of links; for a representative link, those of all links that it represents."""
    machine = topology.unfold()
    return tuple(
        machine.links[link].name for link in np.flatnonzero(np.isin(topology.representative_links, links)).tolist()
    )


def critical_chip(trace: Trace, chips: int) -> int:
    """Returns the chip whose last task ends last, of those that compute if any does; the lowest of them."""
    program, computes = trace.program, np.zeros(chips, dtype=np.bool_)
    computes[program.chip[program.kind == Kind.COMPUTE]] = True
    return int(np.where(computes | ~computes.any(), _last_ends(trace, chips), -1).argmax())


def _last_ends(trace: Trace, chips: int) -> Ints:
    """Returns the end of the last task of each chip, [chips] ps."""
    last_end = np.zeros(chips, dtype=np.int64)
    np.maximum.at(last_end, trace.program.chip, trace.times["end"])
    return last_end


def _ops(program: Program, copies: Ints, chip: int, activities: Sequence[_Activity]) -> tuple[OpMeasure, ...]:
    """Returns the totals of each op on one chip."""
    names, on_chip = program.op_names, program.chip == chip
    kinds = ("compute", Kind.COMPUTE, Kind.COMPUTE), ("collective", Kind.BEGIN, Kind.SEND)
    figures = periodic.sum_over_copies(program, [each.of_ops(chip) for each in activities])

    def total(values: Floats | Ints, kind: Kind) -> Floats:
        tasks = np.flatnonzero(on_chip & (program.kind == kind) & (program.follows < 0))
        return sp.totals(program.op[tasks], values[tasks], copies[tasks], len(names))

    rows = {}
    for (kind, worked, moved), (count, time_ps, exposed_ps) in zip(kinds, figures, strict=True):
        bytes_, flops = total(program.bytes, moved), total(program.flops, worked)
        compute_ps, memory_ps = total(program.compute_ps, worked), total(program.memory_ps, worked)
        overhead_ps = total(program.overhead_ps, worked)
        for op in np.flatnonzero(count).tolist():
            rows[op, kind] = OpMeasure(
                op=names[op],
                kind=kind,
                count=int(count[op]),
                time_s=float(time_ps[op]) / PS_PER_S,
                exposed_s=float(exposed_ps[op]) / PS_PER_S,
                bytes=float(bytes_[op]),
                flops=float(flops[op]),
                compute_s=float(compute_ps[op]) / PS_PER_S,
                memory_s=float(memory_ps[op]) / PS_PER_S,
                overhead_s=float(overhead_ps[op]) / PS_PER_S,
            )
    return tuple(rows[key] for key in sorted(rows))
