"""Every shipped scenario of a torus that has a published time takes it, within the tolerance that its file states."""

from __future__ import annotations

import pytest

from sim.simulate.latency import latency_s
from sim.specs import Scenario, TorusSpec, load

SCENARIOS = {name: load.scenario(name) for name in load.shipped("scenario")}
WITH_REFERENCE = {
    name: scenario
    for name, scenario in SCENARIOS.items()
    if scenario.reference and isinstance(scenario.topology, TorusSpec)
}


def test_there_are_some():
    assert len(WITH_REFERENCE) >= 8


@pytest.mark.parametrize("scenario", WITH_REFERENCE.values(), ids=WITH_REFERENCE)
def test_a_shipped_scenario_takes_its_published_time(scenario: Scenario):
    assert scenario.reference
    assert latency_s(scenario) == pytest.approx(scenario.reference.latency, rel=scenario.reference.tolerance)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if isinstance(SCENARIOS[name].topology, TorusSpec)])
def test_shipped_scenarios_run_as_their_stack_does(name: str):
    """What is validated is what they run: none switches loops on or off."""
    layout = SCENARIOS[name].layout
    assert (layout.overlap, layout.prefill.overlap, layout.decode.overlap) == (None, None, None)
