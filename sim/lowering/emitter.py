"""Emitter of operations as tasks: a launch on every chip, or a collective, each on its stream."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim import units
from sim.collectives import schedule
from sim.collectives.emit import CollectiveCall, Emitted, LoopedSends, alone_s, emit
from sim.collectives.schedule import Schedule
from sim.layouts.sharding import Sharded
from sim.lowering.costs import Work, cost, launch
from sim.lowering.gather_buffers import GatherBuffers
from sim.lowering.streams import Stream, Streams, Tasks, shift_tasks
from sim.program import FULL_PPM, Ids, Kind, Labels, Occupancy, ProgramBuilder, Waits
from sim.specs import Scenario
from sim.specs.uses import Axes
from sim.topology.chip import Chip
from sim.topology.graph import Topology
from sim.topology.mesh import joined


class Value(Struct, frozen=True):
    """A sharded tensor and the tasks that produce it."""

    tensor: Sharded
    after: Tasks = ()
    """Tasks that produce it."""
    stored: Sharded | None = None
    """Sharding of a weight in memory, if it is gathered for use."""


def producers(values: Sequence[Value]) -> Tasks:
    """Returns the tasks that produce some values."""
    return tuple(ids for value in values for ids in value.after)


Snapshot = tuple[tuple[tuple[Sharded, Sharded | None, int], ...], Tasks]
"""Values by their shardings and numbers of tasks, and all tasks that may be waited for."""


class Emitter:
    """Appends operations to a program, in order, each on its stream."""

    def __init__(self, scenario: Scenario, topology: Topology, other_links: Sequence[str] = ()) -> None:
        self.scenario, self.topology = scenario, topology
        self.mesh = tuple((axis.name, axis.size) for axis in topology.mesh)
        compute = [f"{chip}:compute" for chip in range(topology.chips)]
        links = [link.name for link in topology.links]
        hosts = [f"{chip}:host" for chip in range(topology.chips)]
        copies = [f"{chip}:copy" for chip in range(topology.chips)] if scenario.memory_pool else []
        named = [*compute, *links, *([] if scenario.graph_capture else hosts), *copies]
        self.builder = ProgramBuilder([*named, *other_links])
        self.copy_engines = np.arange(len(named) - len(copies), len(named), dtype=np.int32)
        """Resources of the copy engines, one per chip; none without a memory pool."""
        self.other_links = np.arange(len(named), len(named) + len(other_links), dtype=np.int32)
        """Resources of links of a larger machine that the topology does not have."""
        self.streams = Streams(scenario.communication_streams)
        self.buffers = GatherBuffers(scenario.layout.prefetch if self.streams.communication else 0)
        self.overtaking: dict[str, None] = {}
        """Collectives that wait for their inputs, but not for other compute issued before them."""
        self.chips = np.arange(topology.chips, dtype=np.int32)

    def compute(
        self,
        op: str,
        work: Work | Sequence[Work],
        inputs: Tasks = (),
        chip: Chip | None = None,
        added_ps: int = 0,
    ) -> Tasks:
        """Appends one launch on every chip; returns the tasks that end it.

        Args:
            work: of all chips, or [chips] of each.
            chip: as this operation finds it, if other than the machine's.
            added_ps: what it takes longer because of what runs beside it.
        """
        waits = self.streams.wait_list("compute", inputs)
        dtype = self.scenario.workload.activations
        occupancy, labels = launch(chip or self.topology.chip, work, dtype, self.chips, added_ps)
        deps = (*waits, *self.launch(op))
        ids = self.builder.add(op, Kind.COMPUTE, self.chips, occupancy, Waits(deps), labels)
        self.streams.append("compute", waits, (ids,))
        return (ids,)

    def kernel(self, op: str, duration_s: float, inputs: Tasks) -> Tasks:
        """Appends a kernel of a fixed time on every chip; returns the tasks that end it."""
        waits, busy_ps = self.streams.wait_list("compute", inputs), units.to_ps(duration_s)
        deps, occupancy = (*waits, *self.launch(op)), Occupancy(self.chips, busy_ps=busy_ps)
        ids = self.builder.add(op, Kind.COMPUTE, self.chips, occupancy, Waits(deps), Labels(overhead_ps=busy_ps))
        self.streams.append("compute", waits, (ids,))
        return (ids,)

    def duration_ps(self, work: Work, chip: Chip | None = None) -> int:
        """Returns the time of one launch by itself, ps."""
        return cost(chip or self.topology.chip, work, self.scenario.workload.activations).duration_ps

    def collective(self, kind: str, axes: Axes, size: float, name: str, inputs: Tasks, dtype: str) -> Tasks:
        """Appends a collective of `size` bytes of `dtype`; returns the tasks that end it, or its inputs on one chip."""
        if self.group_size(axes) == 1:
            return inputs
        plan = schedule(self.topology, kind, axes, self.scenario.collectives.get(kind), size)
        return self.run(plan, axes, size, name, inputs, dtype)

    def run(
        self, plan: Schedule, axes: Axes, size: float, name: str, inputs: Tasks, dtype: str, *, launched: bool = False
    ) -> Tasks:
        """Appends the collective of a schedule on its stream; returns the tasks that end it.

        Args:
            launched: `inputs` are of a kernel that has launched it.
        """
        op = self.label(plan.collective, axes, name)
        stream: Stream = "gathers" if plan.collective == "all_gather" else "communication"
        if self.streams.overtakes(stream, inputs):
            self.overtaking[op] = None
        waits = self.streams.wait_list(stream, inputs)
        end = self.emit(plan, size, op, waits, dtype, launched=launched).end
        self.streams.append(stream, waits, (end,))
        wait_ps = units.to_ps(self.topology.chip.stream_wait_s)
        if not self.streams.communication or not wait_ps:
            return (end,)
        return (self.builder.add(op, Kind.JOIN, self.chips, Occupancy(flight_ps=wait_ps), Waits((end,))),)

    def emit(
        self,
        plan: Schedule,
        size: float,
        op: str,
        after: Tasks,
        dtype: str,
        looped: LoopedSends | None = None,
        *,
        launched: bool = False,
    ) -> Emitted:
        """Appends the tasks of a collective, looped with a matmul or not, launched by itself or by a kernel before."""
        after, slow_ppm = (*after, *(() if launched else self.launch(op))), self.slow_ppm(plan, size)
        call = CollectiveCall(plan, size, op, dtype, launched)
        return emit(self.builder, self.topology, call, after, looped=looped, slow_ppm=slow_ppm)

    def slow_ppm(self, plan: Schedule, size: float) -> int:
        """Returns the multiprocessors that a collective in progress keeps busy, in parts per million of its chip's.

        It has a channel on each, which waits where the collective's steps or links need more time than the channel.
        Where groups have different numbers of channels, this assumes the most of them.
        """
        chip, channels = self.topology.chip, max(timing.channels if timing else 0 for timing in plan.timings)
        if not channels or not chip.multiprocessors or not any(chip.interference):
            return 0
        busy = float(channels)
        if chip.channel_rate:
            busy = min(busy, size / (alone_s(self.topology, plan, size) * chip.channel_rate))
        return min(FULL_PPM, round(busy / chip.multiprocessors * FULL_PPM))

    def launch(self, op: str) -> Tasks:
        """Appends the host's launches of an operation, one after the other, if no graph was captured."""
        if self.scenario.graph_capture:
            return ()
        launch_ps = units.to_ps(self.topology.chip.launch_s)
        host = self.chips + np.int32(self.topology.chips + len(self.topology.links))
        return (self.builder.add(op, Kind.LAUNCH, self.chips, Occupancy(host, busy_ps=launch_ps)),)

    def end_step(self, op: str, inputs: Tasks) -> Tasks:
        """Appends the host's work at the end of a pass that gives a token; returns the tasks that end it."""
        wait_ps = units.to_ps(self.topology.chip.step_overhead_s)
        if not wait_ps:
            return inputs
        return (self.builder.add(op, Kind.EVENT, self.chips, Occupancy(flight_ps=wait_ps), Waits(inputs)),)

    def snapshot(self, state: Sequence[Value]) -> Snapshot:
        """Returns what a layer that begins here depends on, if `state` are the values it takes."""
        held = tuple((value.tensor, value.stored, len(value.after)) for value in state)
        values = (ids for value in state for ids in value.after)
        return held, (*self.streams.snapshot(), *self.buffers.pending, *values)

    def repeats(self, start: int, layers: int, at_start: Snapshot, at_end: Snapshot) -> bool:
        """Returns whether what would be lowered next is the tasks from `start` on, `layers` layers later.

        Lowering a layer is a function of what it depends on. Where that is the same at the end of the block as at its
        start, as many tasks later, so is all that follows. The block itself must be the one before, later.

        Args:
            at_start, at_end: snapshots taken before and after the block was lowered.
        """
        (held, tasks), (held_after, tasks_after) = at_start, at_end
        later = shift_tasks(tasks, 0, len(self.builder) - start)
        return (
            held == held_after
            and len(tasks) == len(tasks_after)
            and all(map(np.array_equal, later, tasks_after))
            and self.builder.repeats(start, layers)
        )

    def repeat(
        self, start: int, count: int, layers: int, state: Sequence[Value], keep: int | None = None
    ) -> tuple[Value, ...]:
        """Appends `count` copies of the tasks from `start` on, of so many layers; returns the values after the last."""
        shift = self.builder.repeat(start, count, layers, keep)
        self.streams.shift(start, shift)
        self.buffers.shift(start, shift)
        return tuple(Value(value.tensor, shift_tasks(value.after, start, shift), value.stored) for value in state)

    def label(self, kind: str, axes: Axes, name: str) -> str:
        """Names an op `all_gather(yz) residual`, and notes its axes in the program."""
        along = tuple(axis for axis, _ in self.mesh if axis in axes)
        op = f"{kind}({joined(along)}) {name}"
        self.builder.axes[op] = along
        return op

    def group_size(self, axes: Axes) -> int:
        """Returns the number of chips in a group along `axes`."""
        return prod(length for axis, length in self.mesh if axis in axes)

    def arrivals(self, plan: Schedule, sends: Ids, rows: npt.NDArray[np.int64]) -> Ids:
        """Returns the task among `sends` that arrives at each chip, [chips], -1 for none; `rows` are their rows in the
        plan."""
        arrives = plan.arrives(self.topology)[rows]
        result = np.full(len(self.chips), -1, dtype=np.int32)
        result[plan.dst[rows][arrives]] = sends[arrives]
        return result
