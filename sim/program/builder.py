"""Builds programs: tasks are appended in blocks, copied layer by layer, or inserted from another program."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from sim.errors import InputError
from sim.program.columns import COLUMNS, DTYPES, FULL_PPM, Ids, Ints, Kind, Program, Skipped, renumber

MOST_TASKS = 20_000_000
"""Largest number of tasks of a program: four times a collective on 4,096 chips that differ, some gigabytes."""


class Occupancy(Struct, frozen=True):
    """Resource that each of n tasks holds and how long; every field is a scalar or [n]."""

    resource: npt.ArrayLike = -1
    """Number of the resource, -1 for none."""
    busy_ps: npt.ArrayLike = 0
    flight_ps: npt.ArrayLike = 0
    slows: npt.ArrayLike = -1
    """Resource whose rate changes when the task starts or ends, -1 for none."""
    slow_ppm: npt.ArrayLike = 0
    """Change of that resource's rate (`Program.slow_ppm`)."""
    yields_ppm: npt.ArrayLike = FULL_PPM


class Waits(Struct, frozen=True):
    """Tasks that each of n tasks waits for."""

    deps: Sequence[npt.NDArray[np.integer]] = ()
    """Arrays [n] of task ids: task i depends on entry i of each, -1 for no dependency."""
    flat_deps: tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]] | None = None
    """Instead of `deps`: (counts [n], ids [sum of counts])."""
    follows: npt.ArrayLike = -1
    """Task of the same message on the link before, -1 for none."""
    poll_ps: int = 0
    """Period of polling for the dependencies, from the end of the first of them; 0 for no polling."""

    def flat(self, n: int) -> tuple[Ints, Ids]:
        """Returns the dependencies of n tasks as (counts [n], ids [sum of counts])."""
        if self.flat_deps is not None:
            counts, ids = self.flat_deps
            return np.asarray(counts, dtype=np.int64), np.asarray(ids, dtype=np.int32)
        table = np.stack(self.deps, axis=1).astype(np.int32) if self.deps else np.empty((n, 0), dtype=np.int32)
        given = table >= 0
        return given.sum(axis=1, dtype=np.int64), table[given]


class Labels(Struct, frozen=True):
    """Facts about n tasks that reports and plots read and the engine does not; every field is a scalar or [n]."""

    peer: npt.ArrayLike = -1
    """Receiving chip of a send."""
    bytes: npt.ArrayLike = 0.0
    flops: npt.ArrayLike = 0.0
    compute_ps: npt.ArrayLike = 0
    memory_ps: npt.ArrayLike = 0
    overhead_ps: npt.ArrayLike = 0
    collective: int = -1
    """Instance number of the collective, -1 for none."""


_NO_OCCUPANCY, _NO_WAITS, _NO_LABELS = Occupancy(), Waits(), Labels()


def _rows(counts: Ints, flat: Ids, rows: slice) -> tuple[Ints, Ids]:
    """Returns the counts of some rows, and their entries of the flat list."""
    first = int(counts[: rows.start].sum())
    return counts[rows], flat[first : first + int(counts[rows].sum())]


class ProgramBuilder:
    """Program under construction. Task ids are given out in order, and dependencies point backwards."""

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
        self.copied: dict[str, None] = {}
        """Collectives that copy engines carry out, by op name."""
        self.layer = -1
        """Layer of the tasks added next."""

    def __len__(self) -> int:
        return self._size

    def new_collective(self) -> int:
        """Returns an unused instance number for a collective."""
        self._collectives += 1
        return self._collectives - 1

    def add(
        self,
        op: str,
        kind: Kind,
        chip: npt.ArrayLike,
        occupancy: Occupancy = _NO_OCCUPANCY,
        waits: Waits = _NO_WAITS,
        labels: Labels = _NO_LABELS,
    ) -> Ids:
        """Appends n tasks, one per entry of `chip`, and returns their ids [n]."""
        chips = np.atleast_1d(np.asarray(chip, dtype=np.int32))
        n = len(chips)
        self._grow(n)
        values: dict[str, npt.ArrayLike] = {
            "op": self._op_ids.setdefault(op, len(self._op_ids)),
            "layer": self.layer,
            "chip": chips,
            "kind": int(kind),
            "follows": waits.follows,
            "poll_ps": waits.poll_ps,
        }
        values |= {name: getattr(record, name) for record in (occupancy, labels) for name in record.__struct_fields__}
        for name in COLUMNS:
            column = np.empty(n, dtype=DTYPES.get(name, np.int32))
            column[:] = values[name]
            self._blocks[name].append(column)
        counts, deps = waits.flat(n)
        self._dep_counts.append(counts)
        self._deps.append(deps)
        return np.arange(self._size - n, self._size, dtype=np.int32)

    def repeats(self, start: int, layers: int = 1) -> bool:
        """Returns True if the tasks from `start` on repeat the same number of tasks before them, `layers` layers later.

        Each must be the same task with its layer and its collective moved on. Within its block it must wait for the
        same tasks, moved on; outside its block, only for tasks of the block before.
        """
        shift = self._size - start
        if not 0 < shift <= start:
            return False
        self._consolidate()
        before, block = slice(start - shift, start), slice(start, self._size)
        increments = Skipped(start, shift, 0, 0, layers, self._instances(start)).increments
        for name in COLUMNS:
            one, other = self._blocks[name][0][before], self._blocks[name][0][block]
            if name in increments:
                numbers = one.astype(np.int64)
                one = np.where(numbers >= 0, numbers + increments[name], numbers)
            if not np.array_equal(one, other):
                return False
        (first_task, first_deps), (second_task, second_deps) = (self._waits(rows) for rows in (before, block))
        inside = first_deps >= before.start, second_deps >= start
        return bool(
            second_deps.min(initial=start) >= before.start
            and np.array_equal(first_task[inside[0]], second_task[inside[1]])
            and np.array_equal(first_deps[inside[0]] + shift, second_deps[inside[1]])
        )

    def _instances(self, start: int) -> int:
        """Returns the number of collectives among the tasks from `start` on."""
        collective = self._blocks["collective"][0][start:].astype(np.int64)
        return len(set(collective[collective >= 0].tolist()))

    def _waits(self, rows: slice) -> tuple[Ints, Ids]:
        """Returns each dependency of some tasks: the place of the task among them, and the task that it waits for."""
        counts, deps = _rows(self._dep_counts[0], self._deps[0], rows)
        return np.repeat(np.arange(len(counts)), counts), deps

    def repeat(self, start: int, count: int, layers: int = 1, keep: int | None = None) -> int:
        """Appends `count` copies of the tasks from `start` on, and returns the difference of task ids to the last copy.

        The block, of `layers` layers, must repeat the one before (`repeats`), so that copy k is the block with every
        id, dependency, layer and collective number moved on by k.

        Args:
            keep: append at most this number of the copies; `Program.skipped` has the number of the others.

        Raises:
            ValueError: the block does not repeat the one before.
        """
        shift = self._size - start
        if not self.repeats(start, layers):
            raise ValueError("repeat: the last tasks do not repeat those before them")
        (dep_counts,), (deps,) = self._dep_counts, self._deps
        block_deps = _rows(dep_counts, deps, slice(start, self._size))[1]
        first = int(self._blocks["collective"][0][start:].max(initial=-1))
        skipped = Skipped(start, shift, count if keep is None else min(keep, count), 0, layers, self._instances(start))
        if count > skipped.kept:
            self._skipped.append(replace(skipped, count=count - skipped.kept))
            count = skipped.kept
        self._grow(shift * count)
        k = np.arange(1, count + 1, dtype=np.int32)[:, None]
        for name in COLUMNS:
            block = self._blocks[name][0][start:]
            tiled = np.tile(block, count)
            if increment := skipped.increments.get(name, 0):
                moves = (k * increment * (block.astype(np.int32) >= 0)).ravel()
                tiled = (tiled.astype(np.int32) + moves).astype(block.dtype)
            self._blocks[name].append(tiled)
        self._dep_counts.append(np.tile(dep_counts[start:], count))
        self._deps.append((np.tile(block_deps, (count, 1)) + k * shift).ravel().astype(np.int32))
        self._collectives = max(self._collectives, first + 1 + skipped.collectives * count)
        return shift * count

    def insert(
        self, program: Program, chips: Ids, resources: Ids, first: npt.NDArray[np.integer], layer: int = 0
    ) -> npt.NDArray[np.int64]:
        """Appends all tasks of another program, and returns the new ids of its tasks without dependents.

        Args:
            chips: this program's chip for each of its chips.
            resources: this program's resource for each of its resources.
            first: [its chips] the task on which its tasks without dependencies wait.
            layer: added to its layers.
        """
        shift, n = self._size, len(program)
        self._grow(n)
        self.dtypes |= dict(program.dtypes)
        self.axes |= dict(program.axes)
        self.copied |= dict.fromkeys(program.copied)
        names = np.array([self._op_ids.setdefault(name, len(self._op_ids)) for name in program.op_names])
        columns = {name: getattr(program, name) for name in COLUMNS} | renumber(program, chips, resources)
        columns |= {
            "op": names[program.op],
            "layer": np.where(program.layer >= 0, program.layer + layer, -1),
            "collective": np.where(program.collective >= 0, program.collective + self._collectives, -1),
            "follows": np.where(program.follows >= 0, program.follows + shift, -1),
        }
        for name, values in columns.items():
            self._blocks[name].append(values.astype(DTYPES.get(name, np.int32)))
        counts = np.diff(program.dep_offset)
        roots = program.roots()
        deps = np.insert(program.deps.astype(np.int64) + shift, program.dep_offset[roots], first[program.chip[roots]])
        counts[roots] = 1
        self._dep_counts.append(counts)
        self._deps.append(deps.astype(np.int32))
        self._collectives += int(program.collective.max(initial=-1)) + 1
        has_dependents = np.zeros(n, dtype=np.bool_)
        has_dependents[program.deps] = True
        has_dependents[program.follows[program.follows >= 0]] = True
        return np.flatnonzero(~has_dependents) + shift

    def _grow(self, tasks: int) -> None:
        """Counts new tasks. Raises InputError if there are more than MOST_TASKS."""
        self._size += tasks
        if self._size > MOST_TASKS:
            rule = f"must have at most {MOST_TASKS:,} tasks"
            raise InputError(rule, hint="simulate fewer layers or requests, fewer bytes, or chips that are all alike")

    def _consolidate(self) -> None:
        for name in COLUMNS:
            empty = np.empty(0, dtype=DTYPES.get(name, np.int32))
            self._blocks[name] = [np.concatenate([empty, *self._blocks[name]])]
        self._dep_counts = [np.concatenate([np.empty(0, np.int64), *self._dep_counts])]
        self._deps = [np.concatenate([np.empty(0, np.int32), *self._deps])]

    def build(self) -> Program:
        """Returns the finished program."""
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
            copied=tuple(self.copied),
            **columns,  # type: ignore[arg-type]
        )
