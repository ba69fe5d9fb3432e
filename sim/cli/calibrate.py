"""`sim calibrate`: fit constants to published measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.errors import within_limits
from sim.cli.options import Json, Plugins, completed
from sim.cli.progress import progress
from sim.terminal import echo


def calibrate(
    suite: Annotated[
        str,
        typer.Argument(
            help="Suite file with a calibration, or the name of a shipped one.", autocompletion=completed("suite")
        ),
    ],
    rows: Annotated[Path | None, typer.Option(help="Another CSV of the same columns.")] = None,
    cross_validate: Annotated[
        bool, typer.Option("--cross-validate/--no-cross-validate", help="Predict each series by a fit without it.")
    ] = True,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Fit the constants that a suite names to its rows; say what the rows do not determine, and how it generalises."""
    from sim.report.present.calibration import format_fit
    from sim.specs import load
    from sim.studies.validate import calibrate as calibration

    with progress("fitting") as evaluated, within_limits(load.place("suite", suite)):

        def fitted(evaluations: int, rms: float) -> None:
            evaluated(evaluations, 0)

        fitted_constants = calibration.fit(suite, rows, fitted, cross_validate=cross_validate)
    echo(json.dumps(fitted_constants.to_dict()) if as_json else format_fit(fitted_constants))
