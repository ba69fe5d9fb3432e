"""`sim calibrate`: fit constants to published measurements."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.errors import within_limits
from sim.cli.options import Formats, Json, Plugins, Width, completed, figure_form
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
    out: Annotated[Path, typer.Option(help="Folder of the figure.")] = Path("out"),
    plugins: Plugins = None,
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw constants and errors.")] = True,
    formats: Formats = "png",
    width: Width = "",
) -> None:
    """Fit the constants that a suite names to its rows; say what the rows do not determine, and how it generalises.

    Draw the constants between their bounds, and the errors of each series by constants fitted with it and without it,
    to OUT/SUITE_fit.png.
    """
    from sim.report.present.calibration import format_fit
    from sim.specs import load
    from sim.studies.validate import calibrate as calibration

    form = figure_form(formats, width)
    with progress("fitting") as evaluated, within_limits(load.place("suite", suite)):

        def fitted(evaluations: int, rms: float) -> None:
            evaluated(evaluations, 0)

        fitted_constants = calibration.fit(suite, rows, fitted, cross_validate=cross_validate)
    written: list[Path] = []
    if plots:
        from sim.plots import calibration as plot
        from sim.results.figures import write_figure

        stem = out / f"{Path(suite).stem}_fit"
        with progress(f"drawing {stem}"):
            written = write_figure(partial(plot.draw, fitted_constants), stem, form)
    echo(json.dumps(fitted_constants.to_dict()) if as_json else format_fit(fitted_constants))
    for path in () if as_json else written:
        echo(f"figure in {path}")
