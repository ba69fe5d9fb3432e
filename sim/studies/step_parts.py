"""Parts of a step: what the critical path of a layout, a scheme or any other point spends its time on."""

from __future__ import annotations

from collections.abc import Mapping

from sim.report import critical_path as path
from sim.shortcuts import periodic
from sim.simulate.forward_pass import simulate_pass
from sim.specs import load
from sim.studies.sweep.points import Point

PARTS: Mapping[str, tuple[str, ...]] = {
    "compute": (path.COMPUTE, path.MEMORY),
    "slowed compute": (path.SLOWED,),
    "overhead": (path.OP_OVERHEAD,),
    "message latency": (path.LATENCY, path.START, path.LAUNCH, path.KERNEL),
    "message transfer": (path.TRANSFER, path.QUEUEING),
    "waits": (path.JOIN, path.COPY, path.CALL),
}
"""Causes of the critical path, together: operations; what collectives beside them take from them; their fixed times
and launches; starts and flights of messages, launches and kernels of collectives; messages that hold links; waits.
They add up to the step. Messages on the path are not the report's exposed communication: the chip may compute
something else meanwhile."""


def describe_choices(point_choices: Mapping[str, str]) -> str:
    """Returns choices in a line; a number has the last word of its field before it: `tensor_parallel, batch 16`."""
    return ", ".join(
        f"{field.rpartition('.')[2]} {label}" if label[:1].isdigit() else label
        for field, label in point_choices.items()
    )


def attribute_point(name: str, point: Point) -> dict[str, float]:
    """Returns the seconds of a step of a point of file `name` that can run, by PARTS; of two phases a decode step."""
    scenario = load.scenario(name, point.settings).phases[-1]
    simulated = simulate_pass(scenario)
    causes = path.attribute_step(periodic.unroll(simulated.trace, simulated.periods), simulated.topology).causes
    return {part: sum(cause.time_s for cause in causes if cause.name in names) for part, names in PARTS.items()}
