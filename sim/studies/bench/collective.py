"""Runs one collective by itself, as nccl-tests does, with its closed form and its lower bound."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from math import prod
from statistics import median

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sim import topology as machines
from sim import units
from sim.closed_form import collectives as closed_form
from sim.collectives import COLLECTIVES, algorithm_names, algorithm_of, schedule
from sim.collectives.emit import CollectiveCall, alone_s, emit
from sim.collectives.nccl.choice import MUCH_SLOWER, describe_slow_choice
from sim.collectives.predict import closed_form_s, of_nccl
from sim.collectives.schedule import Schedule
from sim.engine import simulate
from sim.errors import InputError, suggest
from sim.lowering.placement import apply_mesh
from sim.program import Ids, Kind, Occupancy, Program, ProgramBuilder
from sim.program.perturb import apply_perturbations, route_around_failures
from sim.report.collective_result import CollectiveResult
from sim.simulate.consistency import check
from sim.specs import Kernel, PerturbSpec, load
from sim.topology.folding import NotFoldableError, folded
from sim.topology.graph import Topology
from sim.topology.lower_bound import lower_bound
from sim.topology.mesh import mesh_axis, whole_lines
from sim.topology.rings import find

Settings = Sequence[str]
MAX_BYTES = 2.0**50
_NCCL_TESTS = re.compile(r"([0-9]+)([KMG])", re.IGNORECASE)
"""Sizes of nccl-tests (parsesize in its common.cu): the letters are powers of 1024."""
MOST_SIMULATED = 2_000_000
"""Number of sends; more take SimPy more than half a minute."""


class CollectiveSpec(Struct, frozen=True):
    """A collective over all groups of a mesh at once."""

    collective: str
    axes: tuple[str, ...]
    """Mesh axes of a group."""
    size_bytes: float
    algorithm: str | None = None
    """None for the machine's default."""
    chunks: int = 1
    """Number of parts of the data, each a collective of its own. All start at once and share the links in the order in
    which messages are ready."""

    def schedule(self, topology: Topology) -> Schedule:
        """Returns the sends of one part. Raises InputError."""
        return schedule(topology, self.collective, self.axes, self.algorithm, self.size_bytes)

    def emit(self, builder: ProgramBuilder, topology: Topology, plan: Schedule, after: tuple[Ids, ...] = ()) -> None:
        """Adds the tasks of all parts to a program."""
        for _ in range(self.chunks):
            emit(builder, topology, CollectiveCall(plan, self.size_bytes / self.chunks, self.collective), after=after)


def simulate_time_s(topology: Topology, spec: CollectiveSpec, kernel: Kernel = "simpy") -> float:
    """Simulates a collective, on one representative chip if all chips are symmetric, and returns its time, s."""
    machine, plan = topology, None
    with suppress(NotFoldableError):
        machine, plan = folded(topology), spec.schedule(folded(topology))
    if plan is None:
        plan = spec.schedule(topology)
    check_sends(spec.collective, len(plan) * spec.chunks)
    builder = ProgramBuilder(resources(machine))
    spec.emit(builder, machine, plan)
    trace = simulate(builder.build(), kernel)
    check(trace, machine)
    return trace.makespan_ps / units.PS_PER_S


def simulate_perturbed_times_s(topology: Topology, spec: CollectiveSpec, perturb: PerturbSpec) -> list[float]:
    """Simulates all chips of a perturbed machine and returns the time of the collective for every seed, s.

    Args:
        topology: without the failed links. A straggler enters the collective after its delay.

    Raises:
        InputError: a straggler without a delay, or a perturbation of something that is not there.
    """
    builder = ProgramBuilder(resources(topology))
    late = add_stragglers(builder, topology, perturb, range(topology.chips))
    spec.emit(builder, topology, spec.schedule(topology), after=(late,))
    return simulate_program_times_s(builder.build(), topology, perturb)


def simulate_program_times_s(program: Program, topology: Topology, perturb: PerturbSpec | None) -> list[float]:
    """Simulates a program and returns its time for every seed that `perturb` asks for, s."""
    if perturb is None:
        programs = [program]
    else:
        seeds = (perturb.model_copy(update={"seed": perturb.seed + i, "repeats": 1}) for i in range(perturb.repeats))
        programs = [apply_perturbations(program, topology, seed) for seed in seeds]
    traces = [simulate(each) for each in programs]
    for trace in traces:
        check(trace, topology)
    return [trace.makespan_ps / units.PS_PER_S for trace in traces]


def check_sends(collective: str, sends: int) -> None:
    """Raises InputError if a collective takes more sends than are simulated."""
    if sends > MOST_SIMULATED:
        hint = "ask for less data, fewer chunks or fewer chips, or choose another algorithm"
        rule = f"must take at most {MOST_SIMULATED:,} sends on this machine, and takes {sends:,}"
        raise InputError(rule, where=collective, hint=hint)


def add_stragglers(builder: ProgramBuilder, topology: Topology, perturb: PerturbSpec, members: Collection[int]) -> Ids:
    """Adds the delays of stragglers to a program.

    Returns:
        [chips] the task that delays a chip, -1 for a chip that is on time or no member of a group.

    Raises:
        InputError: a straggler that is slow and not late.
    """
    for slow in perturb.stragglers:
        if slow.delay is None or slow.factor != 1 or slow.layers is not None:
            rule = "stragglers of a single collective must have a delay only"
            hint = "give each a delay alone, such as stragglers: [{chips: [5], delay: 10 us}]"
            raise InputError(rule, where="perturb.stragglers", hint=hint)
    late = sorted({chip for slow in perturb.stragglers for chip in slow.chips if chip in members})
    after = np.full(topology.chips, -1, dtype=np.int32)
    if late:
        inside = np.array(late, dtype=np.int32)
        after[inside] = builder.add("late", Kind.COMPUTE, inside, Occupancy(inside))
    return after


def resources(machine: Topology) -> list[str]:
    """Returns names of the resources of a program of collectives: computation of each chip, then the links."""
    return [*(f"{chip}:compute" for chip in range(machine.chips)), *(link.name for link in machine.links)]


def load_machine(name: str, settings: Settings) -> tuple[Topology, PerturbSpec | None]:
    """Loads a machine file with settings of its fields, of `perturb` and of `mesh`. Raises InputError."""
    of_perturb, of_mesh = ([each for each in settings if load.is_of(field, each)] for field in ("perturb", "mesh"))
    spec, stack = load.machine(name, [each for each in settings if each not in (*of_perturb, *of_mesh)])
    mesh = load.mesh(of_mesh, spec)
    built = machines.build(spec, stack) if mesh is None else apply_mesh(spec, stack, mesh)
    return built, load.perturb(of_perturb)


def run_collective(topology: Topology, spec: CollectiveSpec, perturb: PerturbSpec | None = None) -> CollectiveResult:
    """Runs a collective once; in chunks it has no closed form.

    Args:
        perturb: deviations from the machine's file. The closed form does not include them; the bound includes failed
            links alone. With several seeds the time is their median.

    Raises:
        InputError: no such algorithm here, one that is faster than the bound, or a perturbation of something that is
            not there.
    """
    collective, axes, size = spec.collective, spec.axes, spec.size_bytes
    group = prod(mesh_axis(topology, name).size for name in axes)
    working, notes = route_around_failures(topology, perturb) if perturb else (topology, ())
    chosen = algorithm_of(working, collective, spec.algorithm, size)
    named = replace(spec, algorithm=chosen)
    if perturb is None:
        time = simulate_time_s(topology, named)
    else:
        times = simulate_perturbed_times_s(working, named, perturb)
        time, notes = median(times), (_PERTURBED, *notes, *describe_seeds(times))
    predicted = closed_form_s(topology, collective, chosen, whole_lines(topology, axes) or (), size)
    bound = lower_bound(working, collective, axes, size)
    if time < bound:
        _check_bound(time if perturb is None else simulate_time_s(topology, named), bound, chosen)
    is_tuned = spec.algorithm in (None, "auto") and of_nccl(topology, collective, chosen)
    if perturb is None and spec.chunks == 1 and is_tuned and time >= MUCH_SLOWER * bound:  # else no kernel is faster
        notes = describe_slow_choice(
            topology,
            collective,
            chosen,
            time,
            lambda name: alone_s(topology, replace(spec, algorithm=name).schedule(topology), size),
            lambda name: simulate_time_s(topology, replace(spec, algorithm=name)),
        )
    has_rings = chosen.startswith("ring") and not topology.has_lines and not topology.has_ports
    return CollectiveResult(
        collective=collective,
        algorithm=chosen,
        group=group,
        size_bytes=size,
        time_s=time,
        algbw=closed_form.algbw(size, time),
        busbw=closed_form.busbw(collective, group, size, time),
        closed_form_s=predicted if spec.chunks == 1 else None,
        bound_s=bound,
        form="NCCL's tuner" if of_nccl(topology, collective, chosen) else "closed form",
        rings=_describe_rings(working) if has_rings else "",
        notes=(*notes, *describe_omissions(topology, collective, chosen, spec.algorithm)),
    )


def describe_omissions(topology: Topology, collective: str, chosen: str, asked: str | None) -> tuple[str, ...]:
    """Returns notes on a time: who chose the algorithm, and what is not modelled."""
    notes = []
    if of_nccl(topology, collective, chosen) and chosen != asked:
        notes.append("NCCL's tuner chose the algorithm, by its predictions; another may be faster")
    if collective in SUMS:
        notes.append("memory traffic of sums is not modelled")
    return tuple(notes)


SUMS = ("reduce_scatter", "all_reduce", "reduce")
"""Collectives that sum."""


def _check_bound(time: float, bound: float, algorithm: str) -> None:
    """Raises InputError if an algorithm is faster than the bound: it moves too little."""
    if time < bound * (1 - 1e-9):
        rule = f"must take at least the bound, {units.format_seconds(bound)}, and takes {units.format_seconds(time)}"
        hint = "it moves less data than the collective needs"
        raise InputError(rule, where="--algorithm", got=algorithm, hint=hint)


_PERTURBED = "perturbed: the closed form ignores the perturbation, the bound includes failed links only"


def describe_seeds(times: Sequence[float]) -> tuple[str, ...]:
    """Returns a note on the spread of the times of several seeds."""
    if len(times) == 1:
        return ()
    return (f"median of {len(times)} seeds, from {min(times) * 1e6:.3f} to {max(times) * 1e6:.3f} us",)


def _describe_rings(topology: Topology) -> str:
    """Returns number and rate of rings, `6 rings of 20 GB/s`, and the hops that leave the links between GPUs."""
    rings, links = find(topology), topology.links
    text = f"{rings.count} ring{'s' * (rings.count > 1)} of {rings.bandwidth / 1e9:.4g} GB/s"
    for medium, name in (("pci", "PCI Express"), ("net", "the network")):
        crossing = [
            f"{topology.nodes[src]}->{topology.nodes[dst]}"
            for ring in rings.rings[:1]
            for src, dst, way in zip(ring.order, (*ring.order[1:], ring.order[0]), ring.ways, strict=True)
            if any(links[link].medium == medium for link in way)
        ]
        if crossing:
            text += f", traffic crosses {name}: {' '.join(crossing)}"
    return text


def check_names(collective: str, algorithm: str | None) -> None:
    """Raises InputError for a collective or algorithm that does not exist."""
    if collective not in COLLECTIVES:
        raise InputError("unknown collective", got=collective, hint=suggest(collective, COLLECTIVES))
    known = algorithm_names(collective)
    if algorithm and algorithm not in known:
        hint = suggest(algorithm, known)
        raise InputError(f"no algorithm of {collective}", where="--algorithm", got=algorithm, hint=hint)


def axes_of(names: tuple[str, ...], topology: Topology) -> tuple[str, ...]:
    """Returns the axes of a group, all if none is named; one name that is no axis may be several of a letter each.

    Raises:
        InputError: axes that the machine does not have, or of one chip.
    """
    axes = {axis.name: axis.size for axis in topology.mesh}
    got = ",".join(names or axes)
    if len(names) == 1 and names[0] not in axes:
        names = tuple(names[0])
    names = names or tuple(axes)
    if not set(names) <= set(axes) or len(set(names)) < len(names):
        rule = f"must be axes of {topology.name}, each once"
        own = "" if topology.has_lines else "; --set mesh='{box: boxes, gpu: 8}' names others"
        raise InputError(rule, where="--axes", got=got, hint=f"choose from {', '.join(axes)}{own}")
    if prod(axes[name] for name in names) == 1:
        raise InputError("must give a group of at least two chips", where="--axes", got=got)
    return names


def parse_sizes(size: str, minimum: str, maximum: str, factor: int) -> list[float]:
    """Parses the sizes of a run, bytes: `size`, or `minimum` to `maximum` in steps of `factor`. Raises InputError."""
    if (bool(size), bool(minimum), bool(maximum)) not in ((True, False, False), (False, True, True)):
        raise InputError("requires either --size, or --min and --max", hint="such as --size 64MiB")
    if size:
        return [_bytes("--size", size)]
    low, high = _bytes("--min", minimum), _bytes("--max", maximum)
    if low > high:
        raise InputError("must be at most --max", where="--min", got=minimum)
    result = [low]
    while result[-1] * factor <= high:
        result.append(result[-1] * factor)
    return result


def describe_sizes(*texts: str) -> tuple[str, ...]:
    """Returns notes on sizes that are read as nccl-tests reads them: `8G is 8.00 GiB, as in nccl-tests`."""
    given = dict.fromkeys(text for text in texts if _NCCL_TESTS.fullmatch(text))
    return tuple(f"{text} is {units.format_bytes(_bytes('', text))}, as in nccl-tests" for text in given)


def _bytes(option: str, text: str) -> float:
    try:
        if match := _NCCL_TESTS.fullmatch(text):
            value = units.parse(f"{match[1]}{match[2].upper()}iB", "B")
        else:
            value = float(text) if text.isdecimal() else units.parse(text, "B")
    except InputError as error:
        raise error.within(option) from None
    if not 1 <= value <= MAX_BYTES:
        raise InputError(f"must be from 1 B to {units.format_bytes(MAX_BYTES)}", where=option, got=text)
    return value


def format_table(rows: Sequence[CollectiveResult], notes: Sequence[str] = ()) -> str:
    """Formats rows in the columns of nccl-tests plus closed form, error, bound, and the algorithm if it changes."""
    first = rows[0]
    several = len({row.algorithm for row in rows}) > 1
    lines = [
        f"# {first.collective}, algorithm {'by size' if several else first.algorithm}, groups of {first.group} chips",
        f"# {'size':>14} {'time':>12} {'algbw':>9} {'busbw':>9} {'closed form':>12} {'error':>9} {'bound':>12}",
        f"# {'(B)':>14} {'(us)':>12} {'(GB/s)':>9} {'(GB/s)':>9} {'(us)':>12} {'(%)':>9} {'(us)':>12}",
    ]
    if several:
        lines[1] += "  algorithm"
    comments = [*notes, *(text for row in rows for text in (row.rings, *row.notes) if text)]
    lines[1:1] = [f"# {text}" for text in dict.fromkeys(comments)]
    for row in rows:
        form = f"{row.closed_form_s * 1e6:12.3f}" if row.closed_form_s else f"{'none':>12}"
        error = f"{row.error:9.4%}".replace("%", "") if row.error is not None else f"{'':>9}"
        lines.append(
            f"  {row.size_bytes:14.0f} {row.time_s * 1e6:12.3f} {row.algbw / 1e9:9.3f} {row.busbw / 1e9:9.3f} "
            f"{form} {error:>9} {row.bound_s * 1e6:12.3f}" + (f"  {row.algorithm}" if several else "")
        )
    return "\n".join(lines)
