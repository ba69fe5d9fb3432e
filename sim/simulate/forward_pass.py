"""One forward pass from a scenario to its trace, with the exact shortcuts that it allows.

Folding: one representative chip is simulated for all chips that are alike (of a pipeline one of each stage, of a torus
with split axes a few), where every send of each is alike (`sim.collectives.fold`, `sim.lowering.pipeline.builder`).
Periodicity: a few layers are simulated for all, where each is the one before, later (`sim.shortcuts.periodic`). Both
are checked in every run; the result names those that were used, or says why not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from sim.engine import simulate
from sim.lowering.lower import lower
from sim.lowering.lowered_pass import LoweredPass
from sim.lowering.pipeline.stages import folded_by_stage
from sim.lowering.placement import machine, stage_count
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
"""Copies of a layer that are simulated until every one is the one before, later."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """A pass and what happened in it."""

    scenario: Scenario
    topology: Topology
    """Folded where some chips were simulated for all."""
    lowered: LoweredPass
    trace: Trace
    """Of all layers, or of those that stand for the rest."""
    periods: tuple[Period, ...]
    """How the layers that were left out follow."""
    shortcuts: tuple[str, ...]
    """Which were used, or why not."""
    engine_s: float
    """Wall-clock time of the engine."""

    @property
    def step_s(self) -> float:
        """Time of the pass, of a pipeline the mean of its requests."""
        if batches := self.lowered.batches:
            return float(batches.latencies_s(self.trace.times["end"]).mean())
        return self.makespan_ps / PS_PER_S

    @property
    def makespan_ps(self) -> int:
        """End of the last task of all layers."""
        return periodic.makespan_ps(self.trace, self.periods)


def simulate_pass(scenario: Scenario) -> Simulated:
    """Simulate one pass: layers until each is the one before, later; all of them, where that never is.

    Raises:
        LayoutError: the mesh does not divide a dimension.
        InconsistencyError: what was simulated cannot be.
    """
    unlike = scenario.perturb is not None and differs_by_layer(scenario.perturb)
    repeats = scenario.engine.periodic == "auto" and not scenario.pipeline and not unlike
    engine_s = 0.0
    found: tuple[Period, ...] | None = None
    for keep in (*(_KEPT if repeats else ()), None):
        topology, lowered, folding = lower_pass(scenario, keep)
        began = time.perf_counter()
        trace = simulate(lowered.program, scenario.engine.kernel)
        engine_s += time.perf_counter() - began
        found = periodic.detect_periods(trace)
        if found is not None:
            break
    check(trace, topology)
    shortcuts = folding, _periodicity(scenario, lowered)
    return Simulated(scenario, topology, lowered, trace, found or (), shortcuts, engine_s)


def lower_pass(scenario: Scenario, keep: int | None = None) -> tuple[Topology, LoweredPass, str]:
    """One pass on few chips that stand for all, or on all chips where they are not alike or folding is off.

    Also says which, and why. `keep` as in `lower`.
    """
    topology = machine(scenario)
    obstacle = _obstacle(scenario, topology)
    for fold in () if obstacle else _folds(scenario, topology):
        try:
            few = fold()
            return few, lower(scenario, few, keep), _folding(scenario, few)
        except NotFoldableError as error:
            obstacle = str(error)
    notes: tuple[str, ...] = ()
    perturb = (
        keep_links_in_use(scenario.perturb, build(scenario.topology, scenario.stack), topology)
        if scenario.perturb
        else None
    )
    if perturb:
        topology, notes = route_around_failures(topology, perturb)
    lowered = lower(scenario, topology, keep)
    if perturb:
        program = apply_perturbations(lowered.program, topology, perturb, step=scenario.workload.context or 0)
        lowered = replace(lowered, program=program, notes=(*lowered.notes, *notes))
    return topology, lowered, f"all chips are simulated: {obstacle}"


def _folds(scenario: Scenario, topology: Topology) -> list[Callable[[], Topology]]:
    """Returns ways to fold the machine, the one to the fewest chips first."""
    if scenario.pipeline:
        return [partial(folded_by_stage, scenario, topology)]
    return [partial(folded, topology), *(partial(folded_by_steps, topology, steps) for steps in steps_alike(topology))]


def _folding(scenario: Scenario, few: Topology) -> str:
    if few.chips > 1 and not scenario.pipeline:
        return f"{few.chips} chips are simulated for all {few.total_chips}, each of whose sends is like those of one"
    which = "one chip is" if few.chips == 1 else "one chip of each stage is"
    return f"{which} simulated for all {few.total_chips}, each of whose sends is alike"


def _obstacle(scenario: Scenario, topology: Topology) -> str:
    """Why no chip can stand for others, where that is known before lowering; else empty."""
    if scenario.engine.fold == "off":
        return "engine.fold is off"
    if scenario.perturb:
        named = ("stragglers", "slow_links", "failed_links", "jitter")
        found = [name for name in named if getattr(scenario.perturb, name)]
        return "perturb makes some unlike the others" + (f": {', '.join(found)}" if found else "")
    if topology.chips == (stage_count(scenario) if scenario.pipeline else 1):
        return "there is one" if topology.chips == 1 else "there is one in each stage"
    return ""


def _periodicity(scenario: Scenario, lowered: LoweredPass) -> str:
    left_out = sum(block.count * block.layers for block in lowered.program.skipped)
    if left_out:
        some = scenario.layers - left_out
        return f"{some} of {scenario.layers} layers are simulated, the others are those again, later"
    if scenario.engine.periodic == "off":
        return "all layers are simulated: engine.periodic is off"
    if scenario.pipeline:
        return "all layers are simulated: requests of a pipeline overlap"
    if scenario.perturb and differs_by_layer(scenario.perturb):
        return "all layers are simulated: perturb makes them unlike"
    few = scenario.layers <= _KEPT[0] + 2
    return f"all layers are simulated: {'they are few' if few else 'they do not settle into one that repeats'}"
