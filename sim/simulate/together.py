"""Several jobs on one machine in one simulation: each on its own chips, or sharing chips and links.

The jobs' programs, each lowered for its part of the machine, become one program (`sim.program.together`), which the
engine runs as any other. All chips are simulated: beside another job no chip stands for others, and no layer repeats
the one before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from sim import topology as machines
from sim.engine import simulate
from sim.errors import InputError
from sim.lowering.lower import lower
from sim.lowering.lowered_pass import LoweredPass
from sim.lowering.placement import mesh_of
from sim.program import Program
from sim.program.together import join_programs, repeat_passes
from sim.program.trace import Trace
from sim.report.memory import Memory
from sim.report.together import JobReport, TogetherReport, add_memory, find_shared_links, measure_job
from sim.simulate.consistency import check
from sim.specs import Scenario, TopologySpec
from sim.topology.graph import Topology
from sim.topology.group import Group, group_of
from sim.topology.mesh import mesh_of_pieces
from sim.units import format_count


class Job(Struct, frozen=True):
    """One scenario of several that run together."""

    scenario: Scenario
    chips: tuple[int, ...] | None = None
    """Its chips as the machine numbers them; by default the next ones that no job before has."""
    passes: int = 1
    """Prefills, or decode steps, one after the other."""


class JobRun(Struct, frozen=True, eq=False):
    """A job on its part of the machine."""

    name: str
    scenario: Scenario
    group: Group
    """Its part, whose machine has the mesh of the scenario."""
    lowered: LoweredPass
    alone: Trace
    together: Trace
    """The job's tasks on its part, at the times they have together with the others."""

    def __repr__(self) -> str:
        return f"JobRun({self.name} on {self.group.machine!r})"


class TogetherRun(Struct, frozen=True, eq=False):
    """Result of several jobs on one machine."""

    machine: Topology
    jobs: tuple[JobRun, ...]
    trace: Trace
    """Trace of all jobs on the machine."""
    report: TogetherReport

    def __repr__(self) -> str:
        jobs = ", ".join(f"{job.name} {job.slow_down:.3f} x its time alone" for job in self.report.jobs)
        return f"TogetherRun({jobs}; on {self.report.machine}, {format_count(self.report.chips, 'chip')})"


def run_together(
    jobs: Sequence[Job],
    machine: TopologySpec | None = None,
    name: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TogetherRun:
    """Simulates jobs alone and together.

    Args:
        machine: default: that of all scenarios.
        name: of the result; default: the names of the jobs.
        progress: called with (simulations done, simulations in all).

    Raises:
        InputError: jobs on different machines or software, chips that are no part of the machine, or a job that is not
            simulated together with others.
        LayoutError: the mesh of a job does not divide a dimension.
    """
    spec = _check_jobs(jobs, machine)
    whole = machines.build(spec, jobs[0].scenario.stack)
    names = name_jobs(jobs)
    groups = _place(jobs, names, whole)
    total = len(jobs) + 1
    prepared: dict[str, tuple[Program, Group]] = {}
    lowered, alone = [], []
    for done, (job, name_of, group) in enumerate(zip(jobs, names, groups, strict=True)):
        progress(done, total)
        lowered.append(lower(job.scenario.phases[0], group.machine))
        program = repeat_passes(lowered[-1].program, group.machine.chips, job.passes)
        prepared[name_of] = (program, group)
        alone.append(simulate(program, job.scenario.engine.kernel))
        check(alone[-1], group.machine)
    progress(len(jobs), total)
    program, places = join_programs(whole, prepared)
    trace = simulate(program, jobs[0].scenario.engine.kernel)
    check(trace, whole)
    runs = tuple(
        JobRun(name_of, job.scenario, group, part, own, Trace(own.program, trace.times[place]))
        for name_of, job, group, part, own, place in zip(names, jobs, groups, lowered, alone, places, strict=True)
    )
    return TogetherRun(whole, runs, trace, _report(name or "+".join(names), whole, runs, jobs))


def _check_jobs(jobs: Sequence[Job], machine: TopologySpec | None) -> TopologySpec:
    """Returns the machine of all jobs. Raises InputError where they cannot run together."""
    first = jobs[0].scenario
    spec = machine or first.topology
    for job in jobs:
        where, scenario = job.scenario.name, job.scenario
        for field in ("perturb", "memory_pool"):
            if getattr(scenario, field) is not None:
                raise InputError("is not supported with --together", where=f"{where}: {field}", hint="leave it out")
        if len(scenario.phases) > 1:
            hint = "--set workload.phase=prefill or decode, or a scenario of each phase"
            raise InputError("requires one phase together with other jobs", where=where, hint=hint)
        if job.passes > 1 and scenario.pipeline:
            hint = "set layout.pipeline.requests"
            raise InputError("a pipeline runs all its requests in one pass", where=f"{where}: --passes", hint=hint)
        if machine is None and scenario.topology != first.topology:
            rule = f"must run on the machine of {first.name}, {first.topology.name}"
            hint = "name a machine that has the chips of both with --machine"
            raise InputError(rule, where=where, got=scenario.topology.name, hint=hint)
        if scenario.topology.chip != spec.chip:
            raise InputError(f"must have the chip of {spec.name}", where=where, got=scenario.topology.chip.name)
        if scenario.stack != first.stack:
            rule = f"must have the software of {first.name}, {first.stack.name}"
            raise InputError(rule, where=where, got=scenario.stack.name, hint="--set stack=...")
    return spec


def name_jobs(jobs: Sequence[Job]) -> list[str]:
    """Returns the names of the scenarios, numbered where two are equal: `a`, `a-2`."""
    seen: Counter[str] = Counter()
    result = []
    for name in (job.scenario.name for job in jobs):
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return result


def _place(jobs: Sequence[Job], names: Sequence[str], whole: Topology) -> list[Group]:
    """Returns the part of the machine of each job, with the mesh of its scenario. Raises InputError."""
    groups, taken = list[Group](), 0
    for job, name in zip(jobs, names, strict=True):
        own = mesh_of(job.scenario.phases[0])
        chips = job.chips if job.chips is not None else tuple(range(taken, taken + own.chips))
        if job.chips is None and taken + own.chips > whole.chips:
            rule = f"requires {own.chips} more chips, and {whole.name} has {whole.chips - taken} left"
            hint = f"share chips with --on, such as --on 0..{own.chips - 1} for each job, or name a --machine"
            raise InputError(rule, where=name, hint=hint)
        if len(set(chips)) != own.chips or len(chips) != own.chips:
            rule = f"{name} requires {own.chips} different chips"
            raise InputError(rule, where="--on", got=f"{len(set(chips))} chips")
        if max(chips) >= whole.chips:
            raise InputError(f"the machine has chips 0 to {whole.chips - 1}", where="--on", got=max(chips))
        taken = max(taken, *(chip + 1 for chip in chips))
        part = group_of(whole, chips)
        sizes = [[axis.size for axis in machine.axes] for machine in (own, part.machine)]
        if own.has_lines and sizes[0] != sizes[1]:
            rule = f"{name} requires a box of {'x'.join(map(str, sizes[0]))} chips"
            raise InputError(rule, where="--on", hint=f"such as --on {_first_box(own)}")
        mesh = mesh_of_pieces(part.machine.axes, [(axis.name, axis.pieces) for axis in own.mesh])
        groups.append(replace(part, machine=replace(part.machine, mesh=mesh)))
    return groups


def _first_box(own: Topology) -> str:
    """Returns the first box of a torus as `--on` takes it: `x=0..3,y=0..3`."""
    return ",".join(f"{axis.name}=0..{axis.size - 1}" for axis in own.axes)


def parse_chips(text: str, machine: Topology) -> tuple[int, ...]:
    """Parses chips of a machine: `0..3`, `0,2,4`, or of a torus a box, `x=0..1,y=0..3` (other axes whole).

    Raises:
        InputError: no numbers, or no axis of that name.
    """
    boxed = "=" in text
    if not boxed:
        return tuple(number for part in text.split(",") for number in _numbers(part, text))
    given: dict[str, list[int]] = {}
    for part in text.split(","):
        name, _, numbers = part.partition("=")
        if not machine.has_lines or name not in {axis.name for axis in machine.axes}:
            axes = ", ".join(axis.name for axis in machine.axes) if machine.has_lines else "none"
            raise InputError(f"must name axes of {machine.name}", where="--on", got=text, hint=f"it has {axes}")
        given[name] = list(_numbers(numbers, text))
    return tuple(
        chip
        for chip in range(machine.chips)
        if all(
            position in given.get(axis.name, [position])
            for axis, position in zip(machine.axes, machine.coordinates(chip), strict=True)
        )
    )


def _numbers(text: str, whole: str) -> range:
    """Parses `3` or `0..3`. Raises InputError."""
    first, dots, last = (part.strip() for part in text.partition(".."))
    if not first.isdecimal() or not (last.isdecimal() if dots else not last) or (dots and int(last) < int(first)):
        raise InputError("must be chips", where="--on", got=whole, hint="such as 0..3, 0,2,4 or x=0..1")
    return range(int(first), int(last or first) + 1)


def _report(name: str, whole: Topology, runs: Sequence[JobRun], jobs: Sequence[Job]) -> TogetherReport:
    reports = []
    for run, job in zip(runs, jobs, strict=True):
        machine, lowered = run.group.machine, run.lowered
        reports.append(
            JobReport(
                name=run.name,
                phase=run.scenario.workload.phase,
                passes=job.passes,
                chips=tuple(run.group.chips.tolist()),
                alone=measure_job(run.alone, machine, lowered.batches),
                together=measure_job(run.together, machine, lowered.batches),
                memory=Memory(
                    lowered.weights_bytes,
                    lowered.kv_cache_bytes,
                    machine.chip.hbm_capacity,
                    lowered.gather_buffer_bytes,
                ),
                notes=lowered.notes,
            )
        )
    memory, shared_chips = add_memory(reports)
    links = find_shared_links(whole, [(run.name, run.together, run.group) for run in runs])
    return TogetherReport(name, whole.name, whole.chips, tuple(reports), links, shared_chips, memory)
