"""Closed forms of a scenario, and the reason if it has none."""

from __future__ import annotations

from sim.closed_form import pope
from sim.closed_form.pass_time import predict_per_operation, predict_per_sublayer
from sim.lowering.placement import dealt_pass
from sim.report.closed_form import ClosedForm, FormKind, add_forms
from sim.simulate.communication import Communication
from sim.simulate.latency import steps_of
from sim.specs import Scenario
from sim.specs.unread import find_unread

MEAN_STEP = "uses the step of mean cache length for every step"
"""Reason why a closed form of steps that are simulated one by one is not exact."""


def predict(scenario: Scenario) -> ClosedForm | None:
    """Predicts all steps of all phases by closed forms; None if no form covers the machine or the layout."""
    forms = [predict_phase(phase, len(steps_of(scenario, phase)) > 1) for phase in scenario.phases]
    known = [form for form in forms if form is not None]
    return add_forms(known) if len(known) == len(forms) else None


def predict_phase(phase: Scenario, each_step: bool) -> ClosedForm | None:
    """Predicts all steps of one phase by closed forms, each as the step of mean cache length.

    Args:
        each_step: every step is simulated with the cache as long as it then is.
    """
    if find_uncovered(phase):
        return None
    communication = Communication(phase)
    detailed = predict_per_operation(phase, communication, find_unread(dealt_pass(phase)))
    if pope.covers(phase):
        first, kind = pope.paper(phase), FormKind.PAPER
    else:
        first, kind = predict_per_sublayer(phase, communication), FormKind.PER_SUBLAYER
    steps = phase.workload.steps
    return ClosedForm(
        latency_s=steps * first.step_s,
        terms={name: steps * time_s for name, time_s in first.terms.items()},
        detailed_latency_s=steps * detailed.step_s,
        detailed_terms={name: steps * time_s for name, time_s in detailed.terms.items()},
        inexact=(*detailed.inexact, *([MEAN_STEP] if each_step else [])),
        kind=kind,
    )


def find_uncovered(scenario: Scenario) -> str:
    """Returns the part of the scenario that no closed form of a pass covers; empty if there is none."""
    if scenario.pipeline:
        return "a pipeline of requests"
    if scenario.packed_rows is not None:
        return "padding that is left out"
    if scenario.layout.uses and scenario.layout.uses.context:
        return "positions that chips share"
    return "layers in a memory pool" if scenario.memory_pool else ""
