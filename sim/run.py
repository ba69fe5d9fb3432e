"""One scenario from its file to its report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sim import topology as machines
from sim.closed_form import pope
from sim.closed_form.per_axis import per_axis as per_axis_form
from sim.collectives.fold import NotFoldableError
from sim.engine import simulate
from sim.lower import Lowered, lower
from sim.report.memory import Memory
from sim.report.report import ClosedForm, Report, build, together
from sim.specs import Scenario, TorusSpec
from sim.topology.graph import Topology
from sim.trace import TIMES, Trace
from sim.units import PS_PER_S


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass: the prefill, or the decode step of mean cache length."""

    scenario: Scenario
    topology: Topology
    """Folded where one chip was simulated for all."""
    lowered: Lowered
    trace: Trace
    report: Report

    def whole(self) -> tuple[Trace, Topology]:
        """The trace of all chips: each has the times of the one that was simulated for all."""
        full = self.topology.unfolded
        if full is None:
            return self.trace, self.topology
        program = lower(self.scenario, full).program
        times = np.empty(len(program), dtype=TIMES)
        by_chip = np.argsort(program.chip, kind="stable").reshape(full.chips, -1)
        times[by_chip] = self.trace.times
        return Trace(program, times), full


@dataclass(frozen=True, slots=True)
class Run:
    """What a run made: a pass per phase, and the report of all steps."""

    scenario: Scenario
    passes: tuple[Pass, ...]
    report: Report
    simulation_s: float
    """Wall-clock time of the simulations."""


def run(scenario: Scenario, progress: Callable[[int, int], None] = lambda done, total: None) -> Run:
    """Lower, simulate, predict and report a scenario.

    A decode scenario simulates the step of mean cache length; a generation its prefill and then every decode step, each
    with the cache as long as it then is.

    Args:
        progress: called with (passes simulated, passes in all).

    Raises:
        LayoutError: the mesh does not divide a dimension.
        InputError: no closed form or collective of that name.
    """
    began = time.perf_counter()
    passes = []
    for phase in scenario.phases:
        latency_s = None
        if scenario.workload.phase == "generate" and phase.workload.phase == "decode":
            latency_s = _every_step(phase, progress)
        passes.append(_pass(phase, latency_s))
    report = passes[0].report if len(passes) == 1 else together(scenario, passes[0].report, passes[1].report)
    return Run(scenario, tuple(passes), report, time.perf_counter() - began)


def latency_s(scenario: Scenario) -> float:
    """Simulated time of all steps, s: what `run` reports, without the report."""
    total = 0.0
    for phase in scenario.phases:
        every = scenario.workload.phase == "generate" and phase.workload.phase == "decode"
        total += _every_step(phase) if every else phase.workload.steps * step_s(phase)
    return total


def step_s(scenario: Scenario) -> float:
    """Simulated time of one forward pass, s."""
    return _simulate(scenario)[2].makespan_ps / PS_PER_S


def predict(scenario: Scenario) -> ClosedForm | None:
    """Both closed forms of one phase, for all steps; None where none covers the machine."""
    if not isinstance(scenario.topology, TorusSpec):
        return None
    steps, paper, per_axis = scenario.workload.steps, pope.paper(scenario), per_axis_form(scenario)
    return ClosedForm(
        latency_s=steps * paper.step_s,
        terms={name: steps * time_s for name, time_s in paper.terms.items()},
        per_axis_latency_s=steps * per_axis.step_s,
        per_axis_terms={name: steps * time_s for name, time_s in per_axis.terms.items()},
    )


def _every_step(phase: Scenario, progress: Callable[[int, int], None] = lambda done, total: None) -> float:
    steps = phase.workload.each_step
    total = 0.0
    for done, workload in enumerate(steps):
        progress(done, len(steps))
        total += step_s(phase.model_copy(update={"workload": workload}))
    return total


def _pass(scenario: Scenario, latency_s: float | None) -> Pass:
    topology, lowered, trace = _simulate(scenario)
    memory = Memory(
        lowered.weights_bytes, lowered.kv_cache_bytes, topology.chip.hbm_capacity, lowered.gather_buffer_bytes
    )
    report = build(scenario, topology, trace, memory, predict(scenario), latency_s)
    return Pass(scenario, topology, lowered, trace, report)


def _simulate(scenario: Scenario) -> tuple[Topology, Lowered, Trace]:
    """One pass on one chip that stands for all, or on all chips where they are not alike or folding is off."""
    topology = machines.build(scenario.topology)
    if scenario.engine.fold == "auto" and topology.vertex_transitive:
        try:
            folded = topology.folded()
            lowered = lower(scenario, folded)
            return folded, lowered, simulate(lowered.program)
        except NotFoldableError:
            pass
    lowered = lower(scenario, topology)
    return topology, lowered, simulate(lowered.program)
