"""Operations as tasks: a launch on every chip, or a collective, each on its stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from sim.collectives import schedule
from sim.collectives.emit import emit
from sim.collectives.schedule import Schedule
from sim.costs import Work, duration_ps
from sim.lowering.streams import Streams, Tasks, shifted
from sim.partition import Axes
from sim.program import Ids, Kind, ProgramBuilder
from sim.sharding import Sharded
from sim.specs import Scenario
from sim.topology.graph import Topology


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor on the machine."""

    tensor: Sharded
    after: Tasks = ()
    """The tasks that produce it."""
    stored: Sharded | None = None
    """A weight's sharding in memory, where it is gathered for use."""


class Emitter:
    """Appends operations to a program, in order, each on its stream."""

    def __init__(self, scenario: Scenario, topology: Topology) -> None:
        self.scenario, self.topology = scenario, topology
        self.mesh = tuple((axis.name, axis.size) for axis in topology.axes)
        compute = [f"{chip}:compute" for chip in range(topology.chips)]
        self.builder = ProgramBuilder([*compute, *(link.name for link in topology.links)])
        self.streams = Streams(one=True)
        self.chips = np.arange(topology.chips, dtype=np.int32)

    def compute(self, op: str, work: Work, inputs: Tasks = (), share: float = 1.0) -> Tasks:
        """One launch on every chip, of a share of the work; the tasks that end it."""
        waits = self.streams.waits("compute", inputs)
        ids = self.builder.add(
            op,
            Kind.COMPUTE,
            self.chips,
            busy_ps=duration_ps(self.topology.chip, work, self.scenario.workload.activations, share),
            resource=self.chips,
            deps=waits,
            bytes=work.bytes * share,
            flops=work.flops * share,
        )
        self.streams.put("compute", waits, (ids,))
        return (ids,)

    def collective(self, kind: str, axes: Axes, size: float, name: str, inputs: Tasks) -> Tasks:
        """A collective of `size` bytes; the tasks that end it, on one chip those of its inputs."""
        if self.ways(axes) == 1:
            return inputs
        plan = schedule(self.topology, kind, axes, self.scenario.collectives.get(kind))
        waits = self.streams.waits("communication", inputs)
        end = emit(self.builder, self.topology, plan, size, self.label(kind, axes, name), waits).end
        self.streams.put("communication", waits, (end,))
        return (end,)

    def repeat(self, start: int, count: int, state: Sequence[Placed]) -> tuple[Placed, ...]:
        """Append `count` copies of the tasks from `start` on; the values that the last of them leaves."""
        shift = self.builder.repeat(start, len(self.builder), count)
        self.streams.shift(start, shift)
        return tuple(Placed(value.tensor, shifted(value.after, start, shift), value.stored) for value in state)

    def label(self, kind: str, axes: Axes, name: str) -> str:
        """`all_gather(yz) residual`."""
        return f"{kind}({''.join(axis for axis, _ in self.mesh if axis in axes)}) {name}"

    def ways(self, axes: Axes) -> int:
        """Number of chips along `axes` together."""
        return prod(length for axis, length in self.mesh if axis in axes)

    def arrivals(self, plan: Schedule, sends: Ids, mask: np.ndarray) -> Ids:
        """[chips] the masked send that arrives at each chip, -1 for none."""
        result = np.full(len(self.chips), -1, dtype=np.int32)
        result[plan.dst[mask]] = sends[mask]
        return result
