"""Reports of the same scenario with and without shortcuts."""

from typing import Any

from sim.simulate.run import run
from sim.specs import Scenario, load

FULL = ["engine.shortcuts=off"]


def figures(scenario: Scenario) -> dict[str, Any]:
    """All of a report but how it was made."""
    return _without_engine(run(scenario).report.to_dict())


def _without_engine(report: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in report.items() if name != "engine"}
    return rest | {"phases": [_without_engine(phase) for phase in report["phases"]]}


def both(name: str, chosen: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures with the shortcuts that apply, and those of the full run."""
    return figures(load.scenario(name, chosen)), figures(load.scenario(name, [*chosen, *FULL]))
