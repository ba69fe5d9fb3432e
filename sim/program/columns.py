"""Tasks as columns: durations and dependencies for the engine, labels for reports.

A task holds its resource, if it has one, for `busy_ps`, then flies for `flight_ps` holding none; it becomes ready when
all its dependencies have ended. A message that crosses several links is a chain of tasks, one for each link. Each but
the first *follows* the one before: it has no other dependency, is ready when the head of the message has flown there,
and gets its last byte no sooner than the task before does. Reports and plots read the labels (op, layer, chip, kind,
bytes, flops, collective); the engine never does.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

Ids = npt.NDArray[np.int32]
"""Task ids, commonly one per chip."""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


FULL_PPM = 1_000_000
"""Full rate of a resource, parts per million."""


class Kind(IntEnum):
    """Kind of work of a task."""

    COMPUTE = 0
    """Holds a chip's compute resource."""
    SEND = 1
    """Holds a link, from `chip` to `peer`."""
    BEGIN = 2
    """Start of a collective on a chip; flies for the launch overhead."""
    END = 3
    """All messages of a collective have arrived at a chip."""
    EVENT = 4
    """Point in time, call or wait of a pipeline's requests and stages; in a replayed trace any other node."""
    COPY = 5
    """Holds a chip's copy engine."""
    JOIN = 6
    """One stream of a chip waits for another."""
    LAUNCH = 7
    """The host launches an operation."""


Period = tuple[int, int]
"""(copy after which the copies that were left out follow, period D in ps)."""


class Skipped(Struct, frozen=True):
    """Copies of a repeated block that a program leaves out."""

    start: int
    """First task of the block, its copy 0."""
    size: int
    """Tasks of a copy."""
    kept: int
    """Copies in the program, besides copy 0."""
    count: int
    """Copies left out after those."""
    layers: int
    """Layers of a copy."""
    collectives: int
    """Collectives of a copy."""

    @property
    def increments(self) -> dict[str, int]:
        """Increments of the numbers in some columns from one copy to the next, by name of the column."""
        return {"layer": self.layers, "collective": self.collectives, "follows": self.size}


class Program(Struct, frozen=True):
    """All N tasks of one simulation, immutable. Row i of a flat list is flat[offset[i]:offset[i+1]]."""

    resources: tuple[str, ...]
    """Name of each resource."""
    busy_ps: Ints
    flight_ps: Ints
    dep_offset: Ints
    """[N + 1]."""
    deps: Ids
    resource: Ids
    """Resource that a task holds, -1 for none."""
    follows: Ids
    """The task of the same message on the link before, -1 for none; a task that follows another has no dependencies."""
    op_names: tuple[str, ...]
    op: Ids
    """Index into `op_names`."""
    layer: Ids
    """Layer, -1 outside layers."""
    chip: Ids
    peer: Ids
    """Receiving chip of a send, else -1."""
    kind: npt.NDArray[np.int8]
    bytes: Floats
    """Bytes moved over the link, or read and written in HBM; of a BEGIN, the size of its collective."""
    flops: Floats
    compute_ps: Ints
    """Time of a launch's FLOPs at the rate that they reach (`sim.lowering.costs.Cost`); 0 without FLOPs."""
    memory_ps: Ints
    """Time of a launch's bytes at the bandwidth that they reach."""
    overhead_ps: Ints
    """Fixed part of a launch's time."""
    collective: Ids
    """Instance number of the task's collective, the same on all its chips; -1 for none."""
    slows: Ids
    """Resource whose rate changes when a task starts or ends, -1 for none."""
    slow_ppm: Ids
    """Change of that resource's rate, parts per million: positive, taken as the task starts; negative, given back as it
    ends."""
    yields_ppm: Ids
    """Share of the rate taken from its resource that a task loses, parts per million."""

    poll_ps: Ints
    """Period of polling for the task's dependencies; 0 for a task that is ready as soon as the last of them ends."""
    skipped: tuple[Skipped, ...] = ()
    """Repeated blocks, of which the program contains only some copies; see `sim.shortcuts.periodic`."""
    dtypes: tuple[tuple[str, str], ...] = ()
    """(op name, number format) of collectives, where known."""
    axes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(op name, mesh axes) of collectives over axes of the mesh."""
    copied: tuple[str, ...] = ()
    """Op names of collectives whose messages copy engines move, without a kernel."""

    def __repr__(self) -> str:
        return f"Program({len(self):,} tasks of {len(self.op_names)} operations on {len(self.resources):,} resources)"

    def __len__(self) -> int:
        return len(self.busy_ps)

    def dependencies(self, task: int) -> Ids:
        """Returns the tasks that must end before `task` is ready."""
        return self.deps[self.dep_offset[task] : self.dep_offset[task + 1]]

    def roots(self) -> npt.NDArray[np.int64]:
        """Returns the tasks that wait for nothing."""
        return np.flatnonzero((np.diff(self.dep_offset) == 0) & (self.follows < 0))

    def followers(self) -> Ids:
        """Returns the task that follows each [N], -1 for none."""
        result = np.full(len(self), -1, dtype=np.int32)
        later = np.flatnonzero(self.follows >= 0)
        result[self.follows[later]] = later
        return result

    def end_times(self, free: Ints) -> Ints:
        """Returns [N] the time at which each task ends, ps, from the times at which tasks release their resources."""
        end = free + self.flight_ps
        later = np.flatnonzero(self.follows >= 0)
        while True:  # once for every link of the longest route
            before = end[later]
            end[later] = np.maximum(free[later], end[self.follows[later]]) + self.flight_ps[later]
            if (end[later] == before).all():
                return end

    def compute_tasks(self, op: str) -> npt.NDArray[np.int64]:
        """Returns the tasks that do the work of an operation, without its launches by the host."""
        return np.flatnonzero((self.op == self.op_names.index(op)) & (self.kind == Kind.COMPUTE))

    def equals(self, other: Program) -> bool:
        """Returns True if both have the same tasks, to the byte."""
        return all(
            np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs
            for mine, theirs in ((getattr(self, name), getattr(other, name)) for name in self.__struct_fields__)
        )

    def unroll(self) -> Program:
        """Returns the program with all copies of its repeated blocks."""
        result = self
        for block in reversed(self.skipped):  # from the last on, so that the task numbers of the others stay valid
            result = _with_copies(result, block)
        return replace(result, skipped=())

    def describe(self, task: int) -> str:
        """Returns a name for messages: `q_wi matmul (layer 3, chip 5)`."""
        layer = f"layer {self.layer[task]}, " if self.layer[task] >= 0 else ""
        return f"{self.op_names[self.op[task]]} ({layer}chip {self.chip[task]})"


COLUMNS = (
    "busy_ps",
    "flight_ps",
    "resource",
    "follows",
    "op",
    "layer",
    "chip",
    "peer",
    "kind",
    "bytes",
    "flops",
    "compute_ps",
    "memory_ps",
    "overhead_ps",
    "collective",
    "slows",
    "slow_ppm",
    "yields_ppm",
    "poll_ps",
)
"""Names of the columns that have one entry per task."""
DTYPES = {
    "busy_ps": np.int64,
    "flight_ps": np.int64,
    "compute_ps": np.int64,
    "memory_ps": np.int64,
    "overhead_ps": np.int64,
    "poll_ps": np.int64,
    "kind": np.int8,
    "bytes": np.float64,
    "flops": np.float64,
}


def renumber(program: Program, chips: Ids, resources: Ids) -> dict[str, Ids]:
    """Returns the columns of chips and resources of a program under other numbers, [its chips] and [its resources]."""

    def new(values: Ids, number: Ids) -> Ids:
        return np.where(values >= 0, number[values], -1).astype(np.int32)

    peer, resource, slows = new(program.peer, chips), new(program.resource, resources), new(program.slows, resources)
    return {"chip": chips[program.chip], "peer": peer, "resource": resource, "slows": slows}


def _with_copies(program: Program, block: Skipped) -> Program:
    """Returns `program` with all copies of one block; the tasks after it get higher numbers."""
    end = block.start + (block.kept + 1) * block.size
    last, shift = end - block.size, block.count * block.size
    k = np.repeat(np.arange(1, block.count + 1, dtype=np.int32), block.size)
    columns: dict[str, npt.NDArray[np.generic]] = {}
    for name in COLUMNS:
        column = getattr(program, name)
        copies, tail = np.tile(column[last:end], block.count), column[end:]
        if increment := block.increments.get(name, 0):
            copies = np.where(copies >= 0, copies + k * increment, copies)
            if name != "layer":
                tail = np.where(tail >= 0, tail + block.count * increment, tail)
        columns[name] = np.concatenate([column[:end], copies, tail]).astype(column.dtype)

    first, after = int(program.dep_offset[last]), int(program.dep_offset[end])
    deps = np.concatenate([program.deps[:after], np.tile(program.deps[first:after], block.count), program.deps[after:]])
    counts = np.diff(program.dep_offset)
    counts = np.concatenate([counts[:end], np.tile(counts[last:end], block.count), counts[end:]])
    dep_offset = np.concatenate(([0], np.cumsum(counts)))
    copied = slice(int(dep_offset[end]), int(dep_offset[end + shift]))
    deps[copied] += np.repeat(k * block.size, np.diff(dep_offset[end : end + shift + 1])).astype(np.int32)
    tail_deps = deps[copied.stop :]
    if ((tail_deps >= block.start) & (tail_deps < last)).any():
        raise ValueError("a task after a repeated block waits for a copy that is not its last")
    tail_deps[tail_deps >= last] += shift
    return replace(
        program,
        deps=deps,
        dep_offset=dep_offset,
        **columns,
    )
