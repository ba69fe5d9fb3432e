"""Breakdown of a step into compute, exposed communication, waits and idle time, which add up to it: of the critical
chip, and of the stages of a pipeline over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sim.program import Floats, Ints
from sim.program.trace import Trace
from sim.report import spans as sp
from sim.report.metrics import critical_chip, wait_spans
from sim.report.ops import EXCHANGE_KERNEL, classify_ops
from sim.report.roofline import is_memory_bound
from sim.topology.graph import Topology
from sim.units import PS_PER_S

if TYPE_CHECKING:
    from sim.program.batches import Batches

PARTS = {
    "compute-bound": "compute whose FLOPs take longer than its bytes, no collective of the chip in progress",
    "memory-bound": "compute whose bytes take longer than its FLOPs, no collective of the chip in progress",
    EXCHANGE_KERNEL: "kernels that send or receive tokens on the compute stream, no collective of the chip in progress",
    "overlapped": "compute with a collective in progress",
    "exposed": "a collective in progress, no compute",
    "stream join": "one stream waits to join the other, after a collective; no compute, no collective",
    "memory pool": "layers on their way from or to a memory pool; nothing else",
    "pipeline bubble": "no batch on the chip's stage: it fills, drains, or waits for another stage or a request",
    "idle": "none of these",
}
"""Parts of a step and their definitions. Waits and exchange kernels are omitted if there are none."""


def compute_breakdown(trace: Trace, topology: Topology, batches: Batches | None = None) -> dict[str, float]:
    """Returns the seconds of each of PARTS on the critical chip; they add up to the step.

    Args:
        batches: of a pipeline.
    """
    (spans,) = _part_spans(trace, [critical_chip(trace, topology.chips)], batches)
    parts = {name: part.total_ps for name, part in spans.items()}
    parts["idle"] = trace.makespan_ps - sum(parts.values())
    return {name: time_ps / PS_PER_S for name, time_ps in parts.items()}


def stage_shares(trace: Trace, topology: Topology, batches: Batches, edges: Ints) -> list[dict[str, Floats]]:
    """Returns for every stage of a pipeline the share of each of PARTS in every bin of time, [bins]; they add up to 1.

    A share is the mean of the stage's chips.

    Args:
        edges: [bins + 1] edges of the bins, ps.
    """
    simulated = [[topology.representative_of(chip) for chip in chips] for chips in batches.chips]
    chips = sorted({chip for stage in simulated for chip in stage})
    covered = {
        chip: {name: sp.coverage(part, edges) for name, part in spans.items() if len(part)}
        for chip, spans in zip(chips, _part_spans(trace, chips, batches), strict=True)
    }
    result = []
    for stage in simulated:
        shares = dict.fromkeys(PARTS, np.zeros(len(edges) - 1))
        for chip in stage:
            for name, share in covered[chip].items():
                shares[name] = shares[name] + share / len(stage)
        shares["idle"] = np.maximum(1.0 - sum(shares.values()), 0.0)
        result.append({name: share for name, share in shares.items() if share.any()})
    return result


def _part_spans(trace: Trace, chips: Sequence[int], batches: Batches | None) -> Iterator[dict[str, sp.Spans]]:
    """Yields the spans of each of PARTS but the last on every chip; no two overlap, and no wait is empty."""
    computes, collectives = sp.compute_spans(trace), sp.collective_spans(trace)
    slow, waits = is_memory_bound(trace.program), wait_spans(trace, batches)
    exchanges = (classify_ops(trace.program) == EXCHANGE_KERNEL)[trace.program.op]
    for chip in chips:
        compute = computes.of_lane(chip)
        communicating, computing = sp.union(collectives.of_lane(chip)), sp.union(compute)
        alone, exposed = sp.minus(compute, communicating), sp.minus(communicating, computing)
        parts = {
            "compute-bound": alone.where(~slow[alone.task] & ~exchanges[alone.task]),
            "memory-bound": alone.where(slow[alone.task]),
            **({EXCHANGE_KERNEL: kernels} if len(kernels := alone.where(exchanges[alone.task])) else {}),
            "overlapped": sp.minus(communicating, exposed),
            "exposed": exposed,
        }
        covered = sp.union(communicating, computing)
        for name, spans in waits.items():
            uncovered = sp.minus(sp.union(spans.of_lane(chip)), covered)
            if len(uncovered):
                parts[name] = uncovered
                covered = sp.union(covered, uncovered)
        yield parts
