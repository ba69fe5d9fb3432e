"""Breakdown of the critical chip's step into compute, exposed communication, waits and idle time, which add up to
it."""

from __future__ import annotations

from sim.program.batches import Batches
from sim.program.trace import Trace
from sim.report import spans as sp
from sim.report.metrics import critical_chip, wait_spans
from sim.report.roofline import is_memory_bound
from sim.topology.graph import Topology
from sim.units import PS_PER_S

PARTS = {
    "compute-bound": "compute whose FLOPs take longer than its bytes, no collective of the chip in progress",
    "memory-bound": "compute whose bytes take longer than its FLOPs, no collective of the chip in progress",
    "overlapped": "compute with a collective in progress",
    "exposed": "a collective in progress, no compute",
    "stream join": "one stream waits to join the other, after a collective; no compute, no collective",
    "memory pool": "layers on their way from or to a memory pool; nothing else",
    "pipeline bubble": "no batch on the chip's stage: it fills, drains, or waits for another stage or a request",
    "idle": "none of these",
}
"""Parts of a step and their definitions. Waits are omitted if there are none."""


def compute_breakdown(trace: Trace, topology: Topology, batches: Batches | None = None) -> dict[str, float]:
    """Returns the seconds of each of PARTS on the critical chip; they add up to the step.

    Args:
        batches: of a pipeline.
    """
    chip, program = critical_chip(trace, topology.chips), trace.program
    compute, collectives = sp.compute_spans(trace).of_lane(chip), sp.collective_spans(trace).of_lane(chip)
    communicating, computing = sp.union(collectives), sp.union(compute)
    slow = is_memory_bound(program)
    alone = sp.minus(compute, communicating)
    exposed = sp.minus(communicating, computing).total_ps
    parts = {
        "compute-bound": alone.where(~slow[alone.task]).total_ps,
        "memory-bound": alone.where(slow[alone.task]).total_ps,
        "overlapped": communicating.total_ps - exposed,
        "exposed": exposed,
    }
    covered = sp.union(communicating, computing)
    for name, waits in wait_spans(trace, batches).items():
        uncovered = sp.minus(sp.union(waits.of_lane(chip)), covered)
        if len(uncovered):
            parts[name] = uncovered.total_ps
            covered = sp.union(covered, uncovered)
    parts["idle"] = trace.makespan_ps - sum(parts.values())
    return {name: time_ps / PS_PER_S for name, time_ps in parts.items()}
