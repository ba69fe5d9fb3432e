"""One scenario from its file to its report."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sim import topology as machines
from sim.closed_form import pope
from sim.closed_form.per_axis import per_axis as per_axis_form
from sim.engine import simulate
from sim.lower import Lowered, lower
from sim.report.memory import Memory
from sim.report.report import ClosedForm, Report, build
from sim.specs import Scenario, TorusSpec
from sim.topology.graph import Topology
from sim.trace import Trace


@dataclass(frozen=True, slots=True)
class Run:
    """What a run made; the report is a function of the rest."""

    scenario: Scenario
    topology: Topology
    lowered: Lowered
    trace: Trace
    report: Report
    simulation_s: float
    """Wall-clock time of the engine."""


def run(scenario: Scenario) -> Run:
    """Lower, simulate, predict and report one scenario. Raises LayoutError and InputError."""
    topology = machines.build(scenario.topology)
    lowered = lower(scenario, topology)
    began = time.perf_counter()
    trace = simulate(lowered.program)
    simulation_s = time.perf_counter() - began
    memory = Memory(lowered.weights_bytes, lowered.kv_cache_bytes, topology.chip.hbm_capacity)
    report = build(scenario, topology, trace, memory, predict(scenario))
    return Run(scenario, topology, lowered, trace, report, simulation_s)


def predict(scenario: Scenario) -> ClosedForm | None:
    """Both closed forms, for all steps; None where none covers the machine."""
    if not isinstance(scenario.topology, TorusSpec):
        return None
    steps, paper, per_axis = scenario.workload.steps, pope.paper(scenario), per_axis_form(scenario)
    return ClosedForm(
        latency_s=steps * paper.step_s,
        terms={name: steps * time_s for name, time_s in paper.terms.items()},
        per_axis_latency_s=steps * per_axis.step_s,
        per_axis_terms={name: steps * time_s for name, time_s in per_axis.terms.items()},
    )
