"""Both closed forms of a scenario, and why there is none where there is none."""

from __future__ import annotations

from sim.closed_form import pope
from sim.closed_form.tally import per_operation, usual
from sim.report.phases import sum_of_forms
from sim.report.report import HALVES, PAPER, ClosedForm
from sim.simulate.communication import Communication
from sim.simulate.latency import steps_of
from sim.specs import Scenario

MEAN_STEP = "takes the step of mean cache length for every step"
"""Why a closed form of steps that are simulated one by one is not exact."""


def predict(scenario: Scenario) -> ClosedForm | None:
    """Both closed forms, of all steps of all phases; None where none covers the machine or the layout."""
    forms = [form_of(phase, len(steps_of(scenario, phase)) > 1) for phase in scenario.phases]
    known = [form for form in forms if form is not None]
    return sum_of_forms(known) if len(known) == len(forms) else None


def form_of(phase: Scenario, each_step: bool) -> ClosedForm | None:
    """Both closed forms of one phase, for all steps: so many times the step of mean cache length.

    Args:
        each_step: every step is simulated with the cache as long as it then is.
    """
    if uncovered(phase):
        return None
    to = Communication(phase)
    detailed = per_operation(phase, to)
    if pope.covers(phase):
        first, names = pope.paper(phase), (PAPER, "per axis, with loops")
    else:
        first, names = usual(phase, to), (HALVES, "per operation")
    steps = phase.workload.steps
    return ClosedForm(
        latency_s=steps * first.step_s,
        terms={name: steps * time_s for name, time_s in first.terms.items()},
        per_axis_latency_s=steps * detailed.step_s,
        per_axis_terms={name: steps * time_s for name, time_s in detailed.terms.items()},
        inexact=(*detailed.inexact, *([MEAN_STEP] if each_step else [])),
        name=names[0],
        per_axis_name=names[1],
    )


def uncovered(scenario: Scenario) -> str:
    """What of the scenario no closed form of a pass knows; empty where nothing is in the way."""
    if scenario.pipeline:
        return "a pipeline of requests"
    if scenario.packed_rows is not None:
        return "padding that is left out"
    return "layers in a memory pool" if scenario.memory_pool else ""
