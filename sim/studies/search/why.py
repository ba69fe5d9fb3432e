"""Why one candidate is faster than another: what the critical path of each spends its time on."""

from __future__ import annotations

from collections.abc import Mapping

from sim.report import critical_path as path
from sim.shortcuts import periodic
from sim.simulate.forward_pass import simulate_pass
from sim.specs import load
from sim.studies.search.candidates import BASE
from sim.studies.sweep.points import Point

PARTS: Mapping[str, tuple[str, ...]] = {
    "compute": (path.COMPUTE, path.MEMORY, path.SLOWED),
    "overhead": (path.OP_OVERHEAD,),
    "exposed latency": (path.LATENCY, path.START, path.LAUNCH),
    "exposed bytes": (path.TRANSFER, path.QUEUEING),
    "idle": (path.JOIN, path.COPY, path.CALL),
}
"""Causes of the critical path, together: operations; their fixed times and launches; starts and flights of messages
and launches of collectives that nothing hides; messages that hold links; waits. They add up to the step."""


def attribute_candidate(point: Point) -> dict[str, float]:
    """Seconds of the step of a candidate that can run, by PARTS."""
    (scenario,) = load.scenario(BASE, point.settings).phases
    simulated = simulate_pass(scenario)
    causes = path.attribute_step(periodic.unroll(simulated.trace, simulated.periods), simulated.topology).causes
    return {part: sum(cause.time_s for cause in causes if cause.name in names) for part, names in PARTS.items()}
