"""Predict every case of a suite: simulated, and by the closed forms."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

from sim.closed_form import pope
from sim.errors import InputError
from sim.report.validation import Outcome, Validation
from sim.run import latency_s, predict
from sim.specs import Scenario
from sim.suite import Case, read


def validate(
    name: str, rows: Path | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Validation:
    """Predict every case of a suite.

    Args:
        name: a shipped suite or a file.
        rows: another CSV of the same columns, in place of the suite's own.
        progress: called with (cases done, cases in all).

    Raises:
        InputError: a row that is wrong, or a scenario that cannot run; the message names it.
    """
    suite, cases = read(name, rows)
    outcomes = []
    for done, case in enumerate(cases):
        progress(done, len(cases))
        outcomes.append(_outcome(case))
    return Validation(suite, tuple(outcomes))


def predicted(case: Case, scenario: Scenario, latency: float) -> float:
    """A latency in the case's metric."""
    if case.metric == "latency_s":
        return latency
    chip = scenario.topology.chip
    parameters = scenario.model.nominal_parameters * scenario.layers / scenario.model.layers
    chips = prod(axis.size for axis in getattr(scenario.topology, "axes", {}).values())
    peak = chip.peak[scenario.workload.activations].value
    return pope.mfu(parameters, scenario.workload.tokens, chips, peak, latency)


def _outcome(case: Case) -> Outcome:
    try:
        scenario = case.scenario()
        forms = [predict(phase) for phase in scenario.phases]
        simulated = latency_s(scenario)
    except InputError as error:
        raise InputError(str(error), where=case.case_id) from None

    def form(name: str) -> float:
        return predicted(case, scenario, sum(getattr(found, name) for found in forms if found))

    return Outcome(
        case_id=case.case_id,
        source=case.source,
        metric=case.metric,
        published=case.published,
        simulated=predicted(case, scenario, simulated),
        paper=form("latency_s"),
        per_axis=form("per_axis_latency_s"),
        not_gated=case.not_gated,
    )
