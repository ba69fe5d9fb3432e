"""Five functions for scripts and notebooks: load, lower, simulate, predict, report.

Each is a step of the command line's way from a file to a result; what they return shows itself as a table in a
notebook.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sim.specs import load as files

if TYPE_CHECKING:
    from sim.lowering.lowered_pass import LoweredPass
    from sim.report.closed_form import ClosedForm
    from sim.report.report import Report
    from sim.simulate.result import Run
    from sim.specs import Scenario

__all__ = ["load", "lower", "predict", "report", "simulate"]


def load(name: str | Path, *settings: str) -> Scenario:
    """The scenario of a shipped name or a file, with `"key=value"` settings as after `--set`. Raises InputError."""
    return files.scenario(str(name), settings)


def lower(scenario: Scenario) -> LoweredPass:
    """The tasks of one forward pass, of the first phase where there are two, and what they keep in memory.

    Raises:
        LayoutError: the mesh does not divide a dimension.
    """
    from sim.simulate.forward_pass import lower_pass

    return lower_pass(scenario.phases[0])[1]


def simulate(scenario: Scenario) -> Run:
    """Every phase simulated: traces, and the report. Raises InputError."""
    from sim.simulate.run import run

    return run(scenario)


def predict(scenario: Scenario) -> ClosedForm | None:
    """The closed forms of all steps of all phases, seconds; None where none covers the scenario."""
    from sim.simulate.predict import predict as predicted

    return predicted(scenario)


def report(run: Run, page: str | Path | None = None) -> Report:
    """The figures of a run; with `page` also written there as one HTML file."""
    if page is not None:
        from sim.results import page as html

        html.write([run], Path(page))
    return run.report
