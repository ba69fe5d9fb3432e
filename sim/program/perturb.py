"""Perturbations (`Scenario.perturb`): stragglers, slow and failed links, and jitter make tasks take longer."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from sim import units
from sim.errors import InputError, suggest
from sim.program.columns import Floats, Ints, Kind, Program
from sim.specs import PerturbSpec
from sim.topology import rails
from sim.topology.graph import Topology


def apply_perturbations(program: Program, topology: Topology, spec: PerturbSpec, step: int = 0) -> Program:
    """Returns `program` with the durations that it has on a machine with stragglers, slow links and jitter.

    An operation takes its time x factor + delay; a message takes its time on each link x the link's factor. Jitter
    multiplies both by 1 + share x a number drawn per task, uniformly from [0, 1), in the order of tasks, from a
    generator of the given seed and step (numpy's PCG64). Durations are rounded to whole picoseconds.

    Args:
        step: number of the pass within a run, so that each pass has its own draws.

    Raises:
        InputError: a chip, layer or link that the scenario does not have, or a message over a failed link.
    """
    busy = program.busy_ps.astype(np.float64)
    compute = program.kind == Kind.COMPUTE
    layers = int(program.layer.max(initial=-1)) + 1
    for slow in spec.stragglers:
        where = "perturb.stragglers"
        _check(slow.chips, topology.chips, "no chip of that number is in use: those are", where)
        _check(slow.layers or (), layers, "no layer of that number: the scenario has", where)
        late = compute & np.isin(program.chip, slow.chips)
        if slow.layers is not None:
            late &= np.isin(program.layer, slow.layers)
        busy[late] = busy[late] * slow.factor + units.to_ps(slow.delay or 0.0)
    busy *= _link_factors(program, topology, spec)
    _check_failed(program, topology, spec.failed_links)
    if spec.jitter:
        drawn = np.random.default_rng((spec.seed, step)).random(len(program))
        busy[compute] *= 1 + (spec.jitter.ops or 0.0) * drawn[compute]
        sends = program.kind == Kind.SEND
        busy[sends] *= 1 + (spec.jitter.links or 0.0) * drawn[sends]
    changed = busy != program.busy_ps
    return replace(program, busy_ps=np.where(changed, np.rint(busy).astype(np.int64), program.busy_ps))


def keep_links_in_use(spec: PerturbSpec, machine: Topology, topology: Topology) -> PerturbSpec:
    """Returns `spec` without the links of the machine that `topology`, the part of it in use, does not have.

    Raises:
        InputError: no link of that name.
    """
    _numbers(spec.failed_links, machine, "perturb.failed_links")
    for slow in spec.slow_links:
        _numbers(slow.links, machine, "perturb.slow_links")
    in_use = {link.name for link in topology.links}
    slow_links = [
        slow.model_copy(update={"links": links})
        for slow in spec.slow_links
        if (links := [name for name in slow.links if name in in_use])
    ]
    failed = [name for name in spec.failed_links if name in in_use]
    return spec.model_copy(update={"failed_links": failed, "slow_links": slow_links})


def route_around_failures(topology: Topology, spec: PerturbSpec) -> tuple[Topology, tuple[str, ...]]:
    """Returns the machine without its failed links, and notes on the consequences for collectives.

    Raises:
        InputError: no link of that name.
    """
    numbers = frozenset(_numbers(spec.failed_links, topology, "perturb.failed_links").tolist())
    left = topology.fail_links(numbers)
    along = {topology.links[link].axis for link in numbers}
    opened = [axis.name for axis in topology.axes if axis.ring and axis.name in along]
    notes = []
    if opened:
        notes.append(
            f"failed links: collectives along {', '.join(opened)} go over lines that end there, not around rings, and "
            "no matmul is looped with them"
        )
    if topology.reduction.enabled and not left.reduction.enabled:
        notes.append("failed links: not all chips reach the switch that reduces, so nothing is summed there (no NVLS)")
    if lost := rails.links(topology) - rails.links(left):
        without = ", ".join(sorted(topology.links[link].name for link in lost))
        notes.append(f"failed links: no ring or tree between boxes goes over the network adapters {without}")
    return left, tuple(notes)


def differs_by_layer(spec: PerturbSpec) -> bool:
    """Returns True if perturbations make layers differ."""
    return spec.jitter is not None or any(slow.layers is not None for slow in spec.stragglers)


def _check(numbers: Iterable[int], count: int, rule: str, where: str) -> None:
    """Raises InputError if one of the numbers is not below `count`."""
    for number in numbers:
        if number >= count:
            raise InputError(f"{rule} 0 to {count - 1}", where=where, got=number)


def _link_factors(program: Program, topology: Topology, spec: PerturbSpec) -> Floats:
    """Returns [N] the factor of each task's time, from the link that it holds."""
    factor = np.ones(len(topology.links))
    for slow in spec.slow_links:
        numbers = _numbers(slow.links, topology, "perturb.slow_links")
        factor[numbers] = np.maximum(factor[numbers], slow.factor)
    holder, link = _holders(program, topology)
    result = np.ones(len(program))
    result[holder] = factor[link]
    return result


def _holders(program: Program, topology: Topology) -> tuple[Ints, Ints]:
    """Returns (task, link) of every task that holds a link, in the order of tasks."""
    link = program.resource.astype(np.int64) - topology.chips
    holder = np.flatnonzero((link >= 0) & (link < len(topology.links)))
    return holder, link[holder]


def _check_failed(program: Program, topology: Topology, names: Iterable[str]) -> None:
    failed = _numbers(names, topology, "perturb.failed_links")
    holder, link = _holders(program, topology)
    lost = np.flatnonzero(np.isin(link, failed))
    if len(lost):
        op = program.op_names[program.op[holder[lost[0]]]]
        raise InputError(
            f"'{op}' needs the failed link, and its algorithm has no way around it",
            where="perturb.failed_links",
            got=topology.links[link[lost[0]]].name,
            hint="choose another algorithm in `collectives`, or another layout",
        )


def _numbers(names: Iterable[str], topology: Topology, where: str) -> npt.NDArray[np.int64]:
    """Returns the numbers of links. Raises InputError."""
    known = {link.name: link.index for link in topology.links}
    for name in names:
        if name not in known:
            raise InputError("no link of that name", where=where, got=name, hint=suggest(name, known))
    return np.array([known[name] for name in names], dtype=np.int64)
