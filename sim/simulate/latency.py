"""The simulated time of a scenario without its report: for searches, suites and sensitivities."""

from __future__ import annotations

from collections.abc import MutableMapping

from sim.simulate.forward_pass import simulate_pass
from sim.specs import Scenario


def latency_s(scenario: Scenario, known: MutableMapping[str, float] | None = None) -> float:
    """Simulates all steps and returns their time, s, as `run` reports it.

    Args:
        known: times of passes simulated before, s, by what was simulated; new ones are added.
    """
    total, known = 0.0, {} if known is None else known
    for phase in scenario.phases:
        steps = steps_of(scenario, phase)
        if len(steps) > 1:
            from sim.simulate.decode_steps import simulate_steps

            total += simulate_steps(steps).latency_s
            continue
        engine = steps[0].engine.model_copy(update={"layers": steps[0].layers})  # all, or as many: one and the same
        alike = {"name": "", "description": "", "reference": None, "engine": engine}
        key = steps[0].model_copy(update=alike).model_dump_json()
        known[key] = known.get(key) or step_s(steps[0])
        total += known[key] * phase.workload.steps
    return total


def step_s(scenario: Scenario) -> float:
    """Simulates one forward pass and returns its time, s; of a pipeline the mean of its requests."""
    return simulate_pass(scenario).step_s


def steps_of(scenario: Scenario, phase: Scenario) -> tuple[Scenario, ...]:
    """Returns the steps to simulate for a phase's latency: each decode step of a generation whose cache grows, else
    one."""
    if phase.workload.static_cache is not None and phase.workload.phase == "decode":
        return (phase.model_copy(update={"workload": phase.workload.decode_step(0)}),)
    if scenario.workload.phase != "generate" or phase.workload.phase != "decode" or scenario.engine.steps == "mean":
        return (phase,)
    return tuple(phase.model_copy(update={"workload": workload}) for workload in phase.workload.each_step)
