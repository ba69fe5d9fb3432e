"""One collective in several groups of a machine's chips at once, which share its links."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sim import units
from sim.closed_form import collectives as closed_form
from sim.collectives import algorithm_of, schedule
from sim.collectives.emit import CollectiveCall, emit
from sim.collectives.groups import longer_axes, merged
from sim.collectives.predict import closed_form_s, of_nccl
from sim.collectives.schedule import GroupPlan
from sim.errors import InputError
from sim.program import Program, ProgramBuilder
from sim.program.perturb import route_around_failures
from sim.report.collective_result import CollectiveResult
from sim.specs import PerturbSpec
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec, Settings
from sim.topology.graph import Topology
from sim.topology.group import groups_of
from sim.topology.lower_bound import lower_bound_of_groups
from sim.topology.mesh import joined, mesh_groups, whole_lines
from sim.units import format_count

Chips = tuple[int, ...]


class Grouping(Struct, frozen=True):
    """`count` groups of `size` chips each."""

    count: int
    size: int
    consecutive: bool = False
    """True if chips of a group follow each other; else a group takes every `count`-th chip."""

    @classmethod
    def of(cls, text: str, *, consecutive: bool = False) -> Grouping:
        """Parses groups such as `4x2`: four of two chips each. Raises InputError."""
        match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
        if not match or int(match[1]) < 1 or int(match[2]) < 2:
            rule = "must be the number of groups and the chips of each, at least two"
            raise InputError(rule, where="--groups", got=text, hint="such as 4x2 for four groups of two chips")
        return cls(int(match[1]), int(match[2]), consecutive)

    def members(self, chips: int) -> list[Chips]:
        """Returns the chips of each group, of the first count x size ones. Raises InputError if there are fewer."""
        count, size = self.count, self.size
        if count * size > chips:
            rule = f"must have at most as many chips as the machine, {chips}"
            raise InputError(rule, where="--groups", got=f"{count}x{size}", hint="choose fewer or smaller groups")
        if self.consecutive:
            return [tuple(range(first, first + size)) for first in range(0, count * size, size)]
        return [tuple(range(first, count * size, count)) for first in range(count)]

    def __str__(self) -> str:
        which = "consecutive chips" if self.consecutive else f"every {_ordinal(self.count)} chip"
        return f"{self.count} group{'s' * (self.count > 1)} of {self.size} chips at once, {which}"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


class MeshGroups(Struct, frozen=True):
    """Groups of the chips along some axes of a mesh, which are no whole axes of the wiring."""

    axes: tuple[str, ...]
    chips: tuple[Chips, ...]

    @classmethod
    def of(cls, topology: Topology, axes: tuple[str, ...]) -> MeshGroups:
        """Returns all groups along axes of the machine's mesh."""
        return cls(axes, tuple(map(tuple, mesh_groups(topology, axes).tolist())))

    @property
    def size(self) -> int:
        """Chips of a group."""
        return len(self.chips[0])

    def members(self, chips: int) -> list[Chips]:
        """Returns the chips of each group, of a machine of so many."""
        return list(self.chips)

    def __str__(self) -> str:
        return f"{format_count(len(self.chips), 'group')} of {self.size} chips at once, along {joined(self.axes)}"


def run_sizes(
    machine: str,
    spec: CollectiveSpec,
    sizes: Sequence[float],
    settings: Settings,
    progress: Callable[[int, int], None] = lambda done, total: None,
    grouping: Grouping | None = None,
) -> list[CollectiveResult]:
    """Runs a collective on a machine file for each size, bytes.

    Args:
        spec: without axes all axes of the machine; its size is not used.
        settings: `key=value` overrides of the machine's fields, of `perturb`, and of `mesh`.
        progress: called with (sizes done, sizes in all).
        grouping: groups that run it at once, instead of those along the axes.

    Raises:
        InputError: unknown collective, algorithm, axis or machine, an algorithm for another kind of machine, or groups
            that do not fit it.
        OverflowError: longer than the clock counts.
    """
    topology, perturb = bench.load_machine(machine, settings)
    bench.check_names(spec.collective, spec.algorithm)
    groups: Grouping | MeshGroups | None = grouping
    if groups is None:
        spec = replace(spec, axes=bench.axes_of(spec.axes, topology))
        if whole_lines(topology, spec.axes) is None:
            groups = MeshGroups.of(topology, spec.axes)
        else:  # an algorithm that the machine refuses fails at once
            algorithm_of(topology, spec.collective, spec.algorithm, sizes[0])
    slowest = min(link.bandwidth for link in topology.links)
    rows = []
    for done, size in enumerate(sizes):
        progress(done, len(sizes))
        units.to_ps(size / slowest)  # a message that outlasts the clock is an error
        sized = replace(spec, size_bytes=size)
        row = run_groups(topology, sized, groups, perturb) if groups else bench.run_collective(topology, sized, perturb)
        rows.append(row)
    return rows


def run_groups(
    topology: Topology, spec: CollectiveSpec, grouping: Grouping | MeshGroups, perturb: PerturbSpec | None = None
) -> CollectiveResult:
    """Runs a collective once; it ends when the last group does. The closed form is that of one group by itself.

    Raises:
        InputError: groups that do not fit the machine, or an algorithm that does not run in them.
    """
    collective, size = spec.collective, spec.size_bytes
    working, notes = route_around_failures(topology, perturb) if perturb else (topology, ())
    groups = groups_of(working, tuple(grouping.members(topology.chips)))
    chosen = [algorithm_of(group.machine, collective, spec.algorithm, size) for group in groups]
    plans = tuple(
        GroupPlan(group, schedule(group.machine, collective, longer_axes(group.machine), name, size))
        for group, name in zip(groups, chosen, strict=True)
    )
    program = _program(working, plans, spec, perturb)
    times = bench.simulate_program_times_s(program, working, perturb)
    time = median(times)
    alone = [
        closed_form_s(group.machine, collective, name, longer_axes(group.machine), size)
        for group, name in zip(groups, chosen, strict=True)
    ]
    forms = [form for form in alone if form is not None]
    members = np.stack([group.chips for group in groups])
    return CollectiveResult(
        collective=collective,
        algorithm=" or ".join(dict.fromkeys(chosen)),
        group=grouping.size,
        size_bytes=size,
        time_s=time,
        algbw=closed_form.algbw(size, time),
        busbw=closed_form.busbw(collective, grouping.size, size, time),
        closed_form_s=max(forms) if len(forms) == len(alone) else None,
        bound_s=lower_bound_of_groups(working, collective, members, size),
        form="NCCL's tuner" if of_nccl(groups[0].machine, collective, chosen[0]) else "closed form",
        notes=(
            f"{grouping}; {_FORMULAS}",
            *notes,
            *bench.describe_seeds(times),
            *bench.describe_omissions(groups[0].machine, collective, chosen[0], spec.algorithm),
        ),
    )


_FORMULAS = "the closed form is of one group by itself, the bound of all at once"


def _program(
    topology: Topology, plans: tuple[GroupPlan, ...], spec: CollectiveSpec, perturb: PerturbSpec | None
) -> Program:
    """Builds the collective of every group, on the links of the machine."""
    bench.check_sends(spec.collective, sum(len(each.plan) for each in plans))
    builder = ProgramBuilder(bench.resources(topology))
    late = np.full(topology.chips, -1, dtype=np.int32)
    if perturb:
        members = {chip for each in plans for chip in each.group.chips.tolist()}
        late = bench.add_stragglers(builder, topology, perturb, members)
    emit(builder, topology, CollectiveCall(merged(topology, (), plans), spec.size_bytes, spec.collective), (late,))
    return builder.build()
