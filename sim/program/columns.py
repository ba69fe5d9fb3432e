"""Tasks as columns: what the engine runs and what each task means.

A task holds its resource, if it has one, for `busy_ps`, then flies for `flight_ps` holding none; it becomes ready when
all its dependencies have ended. A message that crosses several links is a chain of tasks, one for each link, of which
each but the first *follows* the one before: it waits for nothing else, is ready when the head of the message has flown
there, and has its last byte no sooner than that has. Labels (op, layer, chip, kind, bytes, flops, collective) ride
along for reports and plots; the engine never reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from sim.errors import InputError

Ids = npt.NDArray[np.int32]
"""Task ids, commonly one per chip."""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


MOST_TASKS = 20_000_000
"""Of one program: four times a collective on 4,096 chips that are not alike, and some gigabytes."""

FULL_PPM = 1_000_000
"""The whole rate of a resource, in parts per million."""


class Kind(IntEnum):
    """What a task does."""

    COMPUTE = 0
    """Holds a chip's compute resource."""
    SEND = 1
    """Holds a link, from `chip` to `peer`."""
    BEGIN = 2
    """Start of a collective on a chip; flies for the launch overhead."""
    END = 3
    """All messages of a collective have arrived at a chip."""
    EVENT = 4
    """A moment, a call or a wait of a pipeline's requests and stages; in a replayed trace any other node."""
    COPY = 5
    """Holds a chip's copy engine."""
    JOIN = 6
    """One stream of a chip waits for another."""
    LAUNCH = 7
    """The host launches an operation."""


Period = tuple[int, int]
"""(copy after which the copies that were left out belong, period D in ps)."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """Copies of a repeated block that a program leaves out."""

    start: int
    """First task of the block, its copy 0."""
    size: int
    """Tasks of a copy."""
    kept: int
    """Copies that are there, besides copy 0."""
    count: int
    """Copies left out after those."""
    layers: int
    """Of a copy."""
    instances: int
    """Collectives of a copy."""

    @property
    def moved_on(self) -> dict[str, int]:
        """By how much the numbers in some columns of a copy are higher than those of the copy before."""
        return {"layer": self.layers, "collective": self.instances, "follows": self.size}


@dataclass(frozen=True, slots=True)
class Program:
    """All N tasks of one simulation, immutable. Row i of a flat list is flat[offset[i]:offset[i+1]]."""

    resources: tuple[str, ...]
    """Name of each resource."""
    busy_ps: Ints
    flight_ps: Ints
    dep_offset: Ints
    """[N + 1]."""
    deps: Ids
    resource: Ids
    """What a task holds, -1 for nothing."""
    follows: Ids
    """The task of the same message on the link before, -1 for none; a task that follows another has no dependencies."""
    op_names: tuple[str, ...]
    op: Ids
    """Index into `op_names`."""
    layer: Ids
    """-1 outside layers."""
    chip: Ids
    peer: Ids
    """Receiving chip of a send, else -1."""
    kind: npt.NDArray[np.int8]
    bytes: Floats
    """Moved over the link, or read and written in HBM; of a BEGIN, the size of its collective."""
    flops: Floats
    compute_ps: Ints
    """Time of a launch's FLOPs at the rate that they reach (`sim.lowering.costs.Cost`); 0 for what computes nothing."""
    memory_ps: Ints
    """Time of its bytes at the bandwidth that they reach."""
    overhead_ps: Ints
    """Fixed part of its time."""
    collective: Ids
    """Instance number of the collective a task belongs to, -1 for none; the same on all its chips."""
    slows: Ids
    """Resource whose rate changes when a task starts or ends, -1 for none."""
    slow_ppm: Ids
    """Parts per million of that resource's rate: positive, taken away as the task starts; negative, given back as it
    ends."""
    yields_ppm: Ids
    """How much of what is taken of its resource's rate a task loses, parts per million: FULL_PPM for just that."""

    poll_ps: Ints
    """Period of looking for the task's dependencies, 0 for a task that is ready the moment the last of them ends."""
    skipped: tuple[Skipped, ...] = ()
    """Blocks that repeat more often than the program says; see `sim.shortcuts.periodic`."""
    dtypes: tuple[tuple[str, str], ...] = ()
    """(op name, number format) of collectives, where it is known."""
    axes: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(op name, mesh axes) of collectives over axes of the mesh."""

    def __len__(self) -> int:
        return len(self.busy_ps)

    def dependencies(self, task: int) -> Ids:
        """Tasks that must end before `task` is ready."""
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

    def ends(self, free: Ints) -> Ints:
        """Returns when each task ends [N], ps, from when it releases its resource, and the one it follows ends."""
        end = free + self.flight_ps
        later = np.flatnonzero(self.follows >= 0)
        while True:  # once for every link of the longest way
            before = end[later]
            end[later] = np.maximum(free[later], end[self.follows[later]]) + self.flight_ps[later]
            if (end[later] == before).all():
                return end

    def compute_tasks(self, op: str) -> npt.NDArray[np.int64]:
        """Returns the tasks that do the work of an operation; its launches by the host have its name, too."""
        return np.flatnonzero((self.op == self.op_names.index(op)) & (self.kind == Kind.COMPUTE))

    def equals(self, other: Program) -> bool:
        """Returns whether both have the same tasks, to the byte."""
        return all(
            np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs
            for mine, theirs in ((getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        )

    def whole(self) -> Program:
        """The program with all copies of its blocks."""
        result = self
        for block in reversed(self.skipped):  # the last first, so that the others stay where they are
            result = _with_copies(result, block)
        return replace(result, skipped=())

    def describe(self, task: int) -> str:
        """`q_wi matmul (layer 3, chip 5)`: for messages."""
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
_DTYPES = {
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


def _with_copies(program: Program, block: Skipped) -> Program:
    """`program` with the copies of one block, the tasks after it moved on."""
    end = block.start + (block.kept + 1) * block.size
    last, shift = end - block.size, block.count * block.size
    k = np.repeat(np.arange(1, block.count + 1, dtype=np.int32), block.size)
    columns: dict[str, npt.NDArray[np.generic]] = {}
    for name in COLUMNS:
        column = getattr(program, name)
        copies, tail = np.tile(column[last:end], block.count), column[end:]
        if each := block.moved_on.get(name, 0):
            copies = np.where(copies >= 0, copies + k * each, copies)
            if name != "layer":
                tail = np.where(tail >= 0, tail + block.count * each, tail)
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
        **columns,  # type: ignore[arg-type]
    )


def _rows(counts: Ints, flat: Ids, rows: slice) -> tuple[Ints, Ids]:
    """Returns the counts of some rows and their entries of the flat list."""
    first = int(counts[: rows.start].sum())
    return counts[rows], flat[first : first + int(counts[rows].sum())]


class ProgramBuilder:
    """Appends tasks in blocks; the only mutable noun. Ids are given out in order, dependencies point backwards."""

    def __init__(self, resources: Sequence[str]) -> None:
        self._resources = tuple(resources)
        self._op_ids: dict[str, int] = {}
        self._blocks: dict[str, list[npt.NDArray[np.generic]]] = {name: [] for name in COLUMNS}
        self._dep_counts: list[Ints] = []
        self._deps: list[Ids] = []
        self._size = 0
        self._collectives = 0
        self._skipped: list[Skipped] = []
        self.dtypes: dict[str, str] = {}
        """Number format of a collective's elements, by op name."""
        self.axes: dict[str, tuple[str, ...]] = {}
        """Mesh axes of a collective, by op name."""
        self.layer = -1
        """Layer label of the tasks added next."""

    def __len__(self) -> int:
        return self._size

    def new_collective(self) -> int:
        """A fresh collective instance number."""
        self._collectives += 1
        return self._collectives - 1

    def add(
        self,
        op: str,
        kind: Kind,
        chip: npt.ArrayLike,
        *,
        busy_ps: npt.ArrayLike = 0,
        flight_ps: npt.ArrayLike = 0,
        resource: npt.ArrayLike = -1,
        follows: npt.ArrayLike = -1,
        deps: Sequence[npt.NDArray[np.integer]] = (),
        flat_deps: tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]] | None = None,
        peer: npt.ArrayLike = -1,
        bytes: npt.ArrayLike = 0.0,
        flops: npt.ArrayLike = 0.0,
        compute_ps: npt.ArrayLike = 0,
        memory_ps: npt.ArrayLike = 0,
        overhead_ps: npt.ArrayLike = 0,
        collective: int = -1,
        slows: npt.ArrayLike = -1,
        slow_ppm: int = 0,
        yields_ppm: npt.ArrayLike = FULL_PPM,
        poll_ps: int = 0,
    ) -> Ids:
        """Append n tasks, one per entry of `chip`, and return their ids [n].

        Args:
            resource: what each holds, -1 for nothing.
            follows: the task of the same message on the link before, -1 for none.
            deps: arrays [n] of task ids; task i depends on entry i of each. -1 means no dependency.
            flat_deps: instead of `deps`, (counts [n], ids [sum of counts]).
            busy_ps, flight_ps, resource, follows, peer, bytes, flops, compute_ps, memory_ps, overhead_ps, slows,
                yields_ppm: scalar or [n].
            poll_ps: period of looking for the dependencies, from the end of the first of them on.
        """
        chips = np.atleast_1d(np.asarray(chip, dtype=np.int32))
        n = len(chips)
        self._grow(n)
        values: dict[str, npt.ArrayLike] = {
            "busy_ps": busy_ps,
            "flight_ps": flight_ps,
            "resource": resource,
            "follows": follows,
            "op": self._op_ids.setdefault(op, len(self._op_ids)),
            "layer": self.layer,
            "chip": chips,
            "peer": peer,
            "kind": int(kind),
            "bytes": bytes,
            "flops": flops,
            "compute_ps": compute_ps,
            "memory_ps": memory_ps,
            "overhead_ps": overhead_ps,
            "collective": collective,
            "slows": slows,
            "slow_ppm": slow_ppm,
            "yields_ppm": yields_ppm,
            "poll_ps": poll_ps,
        }
        for name, value in values.items():
            column = np.empty(n, dtype=_DTYPES.get(name, np.int32))
            column[:] = value
            self._blocks[name].append(column)
        if flat_deps is not None:
            counts, flat = flat_deps
            self._dep_counts.append(np.asarray(counts, dtype=np.int64))
            self._deps.append(np.asarray(flat, dtype=np.int32))
        else:
            table = np.stack(deps, axis=1).astype(np.int32) if deps else np.empty((n, 0), dtype=np.int32)
            given = table >= 0
            self._dep_counts.append(given.sum(axis=1, dtype=np.int64))
            self._deps.append(table[given])
        return np.arange(self._size - n, self._size, dtype=np.int32)

    def repeats(self, start: int, layers: int = 1) -> bool:
        """Returns whether the tasks from `start` on are the as many tasks before them, `layers` layers later.

        Each must be the same task with its layer and its collective moved on. Within its block it must wait for the
        same tasks, moved on; outside it, for tasks of the block before only.
        """
        shift = self._size - start
        if not 0 < shift <= start:
            return False
        self._consolidate()
        before, block = slice(start - shift, start), slice(start, self._size)
        moved_on = Skipped(start, shift, 0, 0, layers, self._instances(start)).moved_on
        for name in COLUMNS:
            one, other = self._blocks[name][0][before], self._blocks[name][0][block]
            if name in moved_on:
                numbers = one.astype(np.int64)
                one = np.where(numbers >= 0, numbers + moved_on[name], numbers)
            if not np.array_equal(one, other):
                return False
        (first_of, first_deps), (second_of, second_deps) = (self._waits(rows) for rows in (before, block))
        inside = first_deps >= before.start, second_deps >= start
        return bool(
            second_deps.min(initial=start) >= before.start
            and np.array_equal(first_of[inside[0]], second_of[inside[1]])
            and np.array_equal(first_deps[inside[0]] + shift, second_deps[inside[1]])
        )

    def _instances(self, start: int) -> int:
        """Returns the number of collectives among the tasks from `start` on."""
        collective = self._blocks["collective"][0][start:].astype(np.int64)
        return len(np.unique(collective[collective >= 0]))

    def _waits(self, rows: slice) -> tuple[Ints, Ids]:
        """Returns each dependency of some tasks: the place of the task among them, and what it waits for."""
        counts, deps = _rows(self._dep_counts[0], self._deps[0], rows)
        return np.repeat(np.arange(len(counts)), counts), deps

    def repeat(self, start: int, count: int, layers: int = 1, keep: int | None = None) -> int:
        """Append `count` copies of the tasks from `start` on, each a block later than the one before; return the shift.

        The block, of `layers` layers, must repeat the one before (`repeats`), so that copy k is the block with every
        id, dependency, layer and collective number moved on by k.

        Args:
            keep: append only so many of the copies; the program says how many it leaves out.

        Raises:
            ValueError: the block does not repeat the one before.
        """
        shift = self._size - start
        if not self.repeats(start, layers):
            raise ValueError("repeat: the last tasks are not those before them, later")
        (dep_counts,), (deps,) = self._dep_counts, self._deps
        block_deps = _rows(dep_counts, deps, slice(start, self._size))[1]
        first = int(self._blocks["collective"][0][start:].max(initial=-1))
        block_of = Skipped(start, shift, count if keep is None else min(keep, count), 0, layers, self._instances(start))
        if count > block_of.kept:
            self._skipped.append(replace(block_of, count=count - block_of.kept))
            count = block_of.kept
        self._grow(shift * count)
        k = np.arange(1, count + 1, dtype=np.int32)[:, None]
        for name in COLUMNS:
            block = self._blocks[name][0][start:]
            tiled = np.tile(block, count)
            if each := block_of.moved_on.get(name, 0):
                moves = (k * each * (block.astype(np.int32) >= 0)).ravel()
                tiled = (tiled.astype(np.int32) + moves).astype(block.dtype)
            self._blocks[name].append(tiled)
        self._dep_counts.append(np.tile(dep_counts[start:], count))
        self._deps.append((np.tile(block_deps, (count, 1)) + k * shift).ravel().astype(np.int32))
        self._collectives = max(self._collectives, first + 1 + block_of.instances * count)
        return shift * count

    def insert(
        self, program: Program, chips: Ids, resources: Ids, first: npt.NDArray[np.integer], layer: int = 0
    ) -> npt.NDArray[np.int64]:
        """Append all tasks of another program; return, flat, the new ids of those that nothing in it waits for.

        Args:
            chips: this program's chip for each of its chips.
            resources: this program's resource for each of its resources.
            first: [its chips] the task that those of its tasks wait for which wait for nothing else.
            layer: added to its layers.
        """
        shift, n = self._size, len(program)
        self._grow(n)
        self.dtypes |= dict(program.dtypes)
        self.axes |= dict(program.axes)
        names = np.array([self._op_ids.setdefault(name, len(self._op_ids)) for name in program.op_names])

        def moved(values: Ids, by: Ids) -> Ids:
            return np.where(values >= 0, by[values], -1).astype(np.int32)

        columns = {name: getattr(program, name) for name in COLUMNS} | {
            "op": names[program.op],
            "layer": np.where(program.layer >= 0, program.layer + layer, -1),
            "chip": chips[program.chip],
            "peer": moved(program.peer, chips),
            "collective": np.where(program.collective >= 0, program.collective + self._collectives, -1),
            "resource": moved(program.resource, resources),
            "follows": np.where(program.follows >= 0, program.follows + shift, -1),
            "slows": moved(program.slows, resources),
        }
        for name, values in columns.items():
            self._blocks[name].append(values.astype(_DTYPES.get(name, np.int32)))
        counts = np.diff(program.dep_offset)
        roots = program.roots()
        deps = np.insert(program.deps.astype(np.int64) + shift, program.dep_offset[roots], first[program.chip[roots]])
        counts[roots] = 1
        self._dep_counts.append(counts)
        self._deps.append(deps.astype(np.int32))
        self._collectives += int(program.collective.max(initial=-1)) + 1
        waited = np.zeros(n, dtype=np.bool_)
        waited[program.deps] = True
        waited[program.follows[program.follows >= 0]] = True
        return np.flatnonzero(~waited) + shift

    def _grow(self, tasks: int) -> None:
        """Raises InputError where there would be more tasks than are simulated."""
        self._size += tasks
        if self._size > MOST_TASKS:
            rule = f"takes more than {MOST_TASKS:,} tasks"
            raise InputError(rule, hint="simulate fewer layers or requests, fewer bytes, or chips that are all alike")

    def _consolidate(self) -> None:
        for name in COLUMNS:
            empty = np.empty(0, dtype=_DTYPES.get(name, np.int32))
            self._blocks[name] = [np.concatenate([empty, *self._blocks[name]])]
        self._dep_counts = [np.concatenate([np.empty(0, np.int64), *self._dep_counts])]
        self._deps = [np.concatenate([np.empty(0, np.int32), *self._deps])]

    def build(self) -> Program:
        """The finished program."""
        self._consolidate()
        columns = {name: blocks[0] for name, blocks in self._blocks.items()}
        return Program(
            resources=self._resources,
            dep_offset=np.concatenate(([0], np.cumsum(self._dep_counts[0]))),
            deps=self._deps[0],
            op_names=tuple(self._op_ids),
            skipped=tuple(self._skipped),
            dtypes=tuple(self.dtypes.items()),
            axes=tuple(self.axes.items()),
            **columns,  # type: ignore[arg-type]
        )
