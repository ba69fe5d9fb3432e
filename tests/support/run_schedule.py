"""One collective by itself on the engine."""

import numpy as np

from sim import units
from sim.collectives import Schedule
from sim.collectives.emit import CollectiveCall, emit
from sim.engine import simulate
from sim.program import ProgramBuilder
from sim.program.trace import Trace
from sim.topology import Topology


def run(topology: Topology, schedule: Schedule, size: float) -> Trace:
    """Trace of the collective alone, by the engine that is fast."""
    builder = ProgramBuilder([*map(str, range(topology.chips)), *(link.name for link in topology.links)])
    emit(builder, topology, CollectiveCall(schedule, size, schedule.collective))
    return simulate(builder.build(), "compiled")


def time_s(topology: Topology, schedule: Schedule, size: float) -> float:
    """Time until the last message has arrived, s."""
    return run(topology, schedule, size).makespan_ps / units.PS_PER_S if len(schedule) else 0.0


def rounding_s(topology: Topology, schedule: Schedule) -> float:
    """One ps for every send a critical path can have: all of one link's queue, and one per hop along every axis."""
    queue = np.bincount(schedule.link).max() if len(schedule) else 0
    return float(queue + sum(axis.size for axis in topology.axes)) / units.PS_PER_S
