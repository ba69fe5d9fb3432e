"""What-ifs: each part of a step made free in turn, and the program simulated again.

The share of the critical path says what the step waits for now; without it another chain may be as long. Only a new
simulation tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sim.engine import simulate
from sim.program import Kind, Program
from sim.program.trace import Trace
from sim.report.critical_path import LATENCY, Shares, is_kernel
from sim.report.ops import WAIT, classify_ops
from sim.specs import Kernel
from sim.topology.graph import Topology
from sim.units import PS_PER_S, to_ps

_MOST_OPS = 8
"""Number of operations and collectives tried by name: those with the largest shares of the path."""


class WhatIf(Struct, frozen=True):
    """One part made free."""

    name: str
    step_s: float
    """Time of the step without it."""
    saved_s: float

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "step_s": self.step_s, "saved_s": self.saved_s}


Change = tuple[str, Callable[[Program], Program]]


def run_what_ifs(
    trace: Trace,
    topology: Topology,
    path_shares: Shares,
    progress: Callable[[int, int], None] = lambda done, total: None,
    kernel: Kernel = "simpy",
) -> tuple[WhatIf, ...]:
    """Simulates steps with one thing free at a time, the most saved first; changes that save nothing are omitted.

    Args:
        found: shares of the critical path of `trace`.
        progress: called with (simulations done, simulations in all).
        kernel: which engine simulates.
    """
    changes = list(_changes(trace.program, topology, path_shares))
    results = []
    for done, (name, change) in enumerate(changes):
        progress(done, len(changes))
        step_ps = simulate(change(trace.program), kernel).makespan_ps
        if step_ps != trace.makespan_ps:
            results.append(WhatIf(name, step_ps / PS_PER_S, (trace.makespan_ps - step_ps) / PS_PER_S))
    return tuple(sorted(results, key=lambda result: (-result.saved_s, result.name)))


def _changes(program: Program, topology: Topology, path_shares: Shares) -> Iterator[Change]:
    """Yields the changes to try: causes, classes of operations, and the operations with the largest shares of the
    path."""
    kind, groups = program.kind, classify_ops(program)
    sends, begins = (kind == each for each in (Kind.SEND, Kind.BEGIN))
    yield "link bandwidth without limit", lambda p: replace(p, busy_ps=np.where(sends, 0, p.busy_ps))
    yield "no queueing at links", _without_queues
    start_ps = to_ps(topology.software.message_start_s)
    started = np.where(sends, np.minimum(start_ps, program.flight_ps), 0)
    yield f"no {LATENCY}", lambda p: replace(p, flight_ps=np.where(sends, started, p.flight_ps))
    if start_ps:
        yield "messages started at once", lambda p: replace(p, flight_ps=p.flight_ps - started)
    if program.flight_ps[begins].any():
        yield "collectives launched at once", lambda p: replace(p, flight_ps=np.where(begins, 0, p.flight_ps))
    launches, joins, kernels = kind == Kind.LAUNCH, kind == Kind.JOIN, is_kernel(program, groups)
    calls = (kind == Kind.EVENT) & ~kernels
    if kernels.any():
        yield (
            "kernels of collectives at once",
            lambda p: replace(p, busy_ps=np.where(kernels, 0, p.busy_ps), flight_ps=np.where(kernels, 0, p.flight_ps)),
        )
    if program.overhead_ps.any() or program.busy_ps[launches].any():
        yield (
            "operations launched at once",
            lambda p: replace(
                p,
                busy_ps=np.where(kernels, p.busy_ps, np.where(launches, 0, np.maximum(p.busy_ps - p.overhead_ps, 0))),
            ),
        )
    if program.flight_ps[joins].any():
        yield "streams joined at once", lambda p: replace(p, flight_ps=np.where(joins, 0, p.flight_ps))
    if program.busy_ps[calls].any() or program.flight_ps[calls].any() or program.poll_ps.any():
        yield (
            "host calls and polling at once",
            lambda p: replace(
                p,
                busy_ps=np.where(calls, 0, p.busy_ps),
                flight_ps=np.where(calls, 0, p.flight_ps),
                poll_ps=np.zeros_like(p.poll_ps),
            ),
        )
    if program.slow_ppm.any():
        yield "compute not slowed by communication", lambda p: replace(p, slow_ppm=np.zeros_like(p.slow_ppm))
    present = [group for group in np.unique(groups[np.unique(program.op)]).tolist() if group != WAIT]
    waits = {name for name, group in zip(program.op_names, groups.tolist(), strict=True) if group == WAIT}
    named = [share.name for share in path_shares.ops if share.name not in waits][:_MOST_OPS]
    for group in present:
        members = np.flatnonzero(groups == group)
        if len(members) > 1 or program.op_names[members[0]] not in named:
            yield f"every {group} free", _free(members)
    for name in named:
        yield f"{name} free", _free(np.array([program.op_names.index(name)]))


def _free(ops: np.ndarray) -> Callable[[Program], Program]:
    """Returns a change to a program in which some ops take no time."""

    def change(program: Program) -> Program:
        takes = ~np.isin(program.op, ops)
        return replace(program, busy_ps=program.busy_ps * takes, flight_ps=program.flight_ps * takes)

    return change


def _without_queues(program: Program) -> Program:
    """Returns the program with links that carry any number of messages at once, each at full rate."""
    return replace(program, resource=np.where(program.kind != Kind.SEND, program.resource, np.int32(-1)))
