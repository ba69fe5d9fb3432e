"""`sim validate`: compare predictions with published measurements."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sim.cli.errors import within_limits
from sim.cli.options import Formats, Json, Plugins, RowSettings, Width, completed, figure_form
from sim.cli.progress import progress
from sim.errors import InputError, suggest
from sim.studies.validate.csv_rows import COLUMNS, explain_columns
from sim.studies.validate.csv_rows import format_template as template_of
from sim.terminal import echo


def validate(
    suites: Annotated[
        list[str] | None,
        typer.Argument(help="Suite files, or names of shipped ones; default: all.", autocompletion=completed("suite")),
    ] = None,
    rows: Annotated[Path | None, typer.Option(help="Another CSV of the same columns, for one suite.")] = None,
    settings: RowSettings = None,
    template: Annotated[
        str | None, typer.Option(help=f"Print a CSV to fill in, for suites of kind {', '.join(COLUMNS)}.")
    ] = None,
    summary: Annotated[
        Path | None, typer.Option(help="Markdown file to write: errors and what is not checked.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("out"),
    plugins: Plugins = None,
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the parity plot.")] = True,
    formats: Formats = "png",
    width: Width = "",
) -> None:
    """Compare predictions with published measurements; exit code 1 when a suite misses its tolerance."""
    from sim.results import scratch
    from sim.specs import load
    from sim.studies.validate.validate import validate as validate_suite

    if template is not None:
        _print_template(template)
    form = figure_form(formats, width)
    names = suites or list(load.shipped("suite"))
    if rows and len(names) > 1:
        raise InputError("requires one suite", where="--rows", hint=f"name one of {', '.join(names)}")
    if settings and len(names) > 1:
        raise InputError("requires one suite", where="--set", hint=f"name one of {', '.join(names)}")
    validations, written = [], dict[str, list[Path]]()
    for name in names:
        with progress(f"validating {name}") as report, within_limits(load.place("suite", name)):
            validations.append(validate_suite(name, rows, report, settings or ()))
        if plots:
            from sim.plots import parity
            from sim.results.figures import write_figure

            suite = validations[-1]
            with progress(f"drawing {suite.suite.name}"):
                written[name] = write_figure(partial(parity.draw, suite), out / f"{suite.suite.name}_parity", form)
    if summary is not None:
        from sim.report.present.validation_summary import format_summary as page

        with scratch.replacing_file(summary) as fresh:
            fresh.write_text(page(validations), encoding="utf-8")
    if as_json:
        echo(json.dumps({"suites": [suite.to_dict() for suite in validations]}))
    else:
        from sim.report.present.validation_text import render

        for name, suite in zip(names, validations, strict=True):
            render(suite)
            for path in written.get(name, ()):
                echo(f"parity plot in {path}")
    if not all(suite.passes for suite in validations):
        raise typer.Exit(1)


def _print_template(kind: str) -> NoReturn:
    """Prints a CSV with one example row, what its columns hold on standard error, and ends the command."""
    if kind not in COLUMNS:
        raise InputError("must be a kind of suite", where="--template", got=kind, hint=suggest(kind, COLUMNS))
    echo(explain_columns(kind), err=True)
    echo(template_of(kind))
    raise typer.Exit
