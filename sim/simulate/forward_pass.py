"""One forward pass from a scenario to its trace, with the exact shortcuts that it allows.

Folding: one representative chip is simulated for all chips that are alike (of a pipeline one of each stage, of a torus
with split axes a few), where every send of each is alike (`sim.collectives.fold`, `sim.lowering.pipeline.builder`).
Periodicity: a few layers are simulated for all, where each is the one before, later (`sim.shortcuts.periodic`). Both
are checked in every run; the result names those that were used, or says why not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from sim.engine import simulate
from sim.lowering.lower import lower
from sim.lowering.lowered_pass import LoweredPass
from sim.lowering.placement import mesh_of, stage_count
from sim.program import Period
from sim.program.perturb import apply_perturbations, differs_by_layer, keep_links_in_use, route_around_failures
from sim.program.trace import Trace
from sim.shortcuts import periodic
from sim.simulate.consistency import check
from sim.specs import Scenario
from sim.topology import build
from sim.topology.folding import NotFoldableError, folded, folded_by_steps, steps_alike
from sim.topology.graph import Topology
from sim.units import PS_PER_S

_KEPT = (4, 16, 64)
"""Copies of a layer that are simulated before the next larger number is tried, until layers are in steady state."""


class Simulated(Struct, frozen=True):
    """Simulated pass: its tasks, their times, and the shortcuts that were used."""

    scenario: Scenario
    topology: Topology
    """Machine, folded to its representative chips if the pass was."""
    lowered: LoweredPass
    trace: Trace
    """Trace of the simulated layers."""
    periods: tuple[Period, ...]
    """Steady states of the repeated blocks whose copies were not simulated."""
    shortcuts: tuple[str, ...]
    """One sentence per shortcut: the part that was simulated and why."""
    engine_s: float
    """Wall-clock time of the engine."""

    @property
    def step_s(self) -> float:
        """Time of the pass, or the mean of a pipeline's requests, s."""
        if batches := self.lowered.batches:
            return float(batches.latencies_s(self.trace.times["end"]).mean())
        return self.makespan_ps / PS_PER_S

    @property
    def makespan_ps(self) -> int:
        """End of the last task of all layers."""
        return periodic.makespan_ps(self.trace, self.periods)


def simulate_pass(scenario: Scenario) -> Simulated:
    """Simulates one pass: layers until they are in steady state, or all of them.

    Raises:
        LayoutError: the mesh does not divide a dimension.
        InconsistencyError: the result breaks a physical rule.
    """
    layers_differ = scenario.perturb is not None and differs_by_layer(scenario.perturb)
    repeats = scenario.engine.repeats and not scenario.pipeline and not layers_differ
    engine_s = 0.0
    periods: tuple[Period, ...] | None = None
    for keep in (*(_KEPT if repeats else ()), None):
        topology, lowered, folding = lower_pass(scenario, keep)
        began = time.perf_counter()
        trace = simulate(lowered.program, scenario.engine.kernel)
        engine_s += time.perf_counter() - began
        periods = periodic.detect_periods(trace)
        if periods is not None:
            break
    check(trace, topology)
    if scenario.pipeline and lowered.batches:
        from sim.lowering.pipeline.schedule_checks import check_order

        check_order(scenario.pipeline.schedule, lowered.batches, trace.times["end"])
    shortcuts = folding, _describe_periodicity(scenario, lowered)
    return Simulated(scenario, topology, lowered, trace, periods or (), shortcuts, engine_s)


def lower_pass(scenario: Scenario, keep: int | None = None) -> tuple[Topology, LoweredPass, str]:
    """Lowers one pass on representative chips, or on all chips if they differ or folding is off.

    Returns the machine, the pass, and a sentence that says which chips are simulated and why. `keep` as in `lower`.
    """
    topology = mesh_of(scenario)
    obstacle = _find_obstacle(scenario, topology)
    for fold in () if obstacle else _folds(scenario, topology):
        try:
            folded_machine = fold()
            return folded_machine, lower(scenario, folded_machine, keep), _describe_folding(scenario, folded_machine)
        except NotFoldableError as error:
            obstacle = str(error)
    notes: tuple[str, ...] = ()
    perturb = (
        keep_links_in_use(scenario.perturb, build(scenario.part, scenario.stack), topology)
        if scenario.perturb
        else None
    )
    if perturb:
        topology, notes = route_around_failures(topology, perturb)
    lowered = lower(scenario, topology, keep)
    if perturb:
        program = apply_perturbations(lowered.program, topology, perturb, step=scenario.workload.context or 0)
        lowered = replace(lowered, program=program, notes=(*lowered.notes, *notes))
    return topology, lowered, f"simulated all chips ({obstacle})"


def _folds(scenario: Scenario, topology: Topology) -> list[Callable[[], Topology]]:
    """Returns ways to fold the machine, the one to the fewest chips first."""
    if scenario.pipeline:
        from sim.lowering.pipeline.stages import folded_by_stage

        return [partial(folded_by_stage, scenario, topology)]
    return [partial(folded, topology), *(partial(folded_by_steps, topology, steps) for steps in steps_alike(topology))]


def _describe_folding(scenario: Scenario, folded_machine: Topology) -> str:
    count, chips = folded_machine.chips, folded_machine.total_chips
    if count == 1:
        return f"simulated 1 representative chip of {chips} (all chips are symmetric)"
    if scenario.pipeline:
        return f"simulated 1 representative chip of each stage, for {chips} chips (the chips of a stage are symmetric)"
    return f"simulated {count} representative chips of {chips} (each other chip is symmetric to one of them)"


def _find_obstacle(scenario: Scenario, topology: Topology) -> str:
    """Returns the reason, known before lowering, why no chip can represent others; empty if there is none."""
    if not scenario.engine.folds:
        return f"engine.shortcuts is {scenario.engine.shortcuts}"
    if scenario.perturb:
        named = ("stragglers", "slow_links", "failed_links", "jitter")
        given = [name for name in named if getattr(scenario.perturb, name)]
        return "perturb makes chips differ" + (f": {', '.join(given)}" if given else "")
    if scenario.layout.kv_transfer:
        return "some chips only receive the cache"
    if topology.chips == (stage_count(scenario) if scenario.pipeline else 1):
        return "no symmetry to use: one chip" + ("" if topology.chips == 1 else " per stage")
    return ""


def _describe_periodicity(scenario: Scenario, lowered: LoweredPass) -> str:
    skipped = sum(block.count * block.layers for block in lowered.program.skipped)
    if skipped:
        count = scenario.layers - skipped
        return f"simulated {count} of {scenario.layers} layers (the others repeat them at a constant interval)"
    reason = "no layer reaches a steady state"
    if not scenario.engine.repeats:
        reason = f"engine.shortcuts is {scenario.engine.shortcuts}"
    elif scenario.pipeline:
        reason = "requests of a pipeline overlap"
    elif scenario.perturb and differs_by_layer(scenario.perturb):
        reason = "perturb makes layers differ"
    elif scenario.layers <= _KEPT[0] + 2:
        reason = "too few layers to skip any"
    return f"simulated all layers ({reason})"
