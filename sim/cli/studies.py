"""Many runs: sweeps, validation and calibration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sim.cli.options import (
    INTERNAL_ERROR,
    INTERRUPTED,
    Json,
    Settings,
    about,
    completed,
    gathered,
    possible,
    rated,
    steps,
    sweep_formats,
)
from sim.errors import INTERNAL, InputError, suggest
from sim.studies.validate.csv_rows import COLUMNS, explanation
from sim.studies.validate.csv_rows import template as template_of
from sim.terminal import echo

if TYPE_CHECKING:
    from sim.studies.sweep.rows import Row


def sweep(
    scenario: Annotated[
        str,
        typer.Argument(
            help="Scenario file with a sweep, or the name of a shipped one.", autocompletion=completed("scenario")
        ),
    ],
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder of the results, one folder inside per scenario.")] = Path("out"),
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the figure.")] = True,
    formats: Annotated[
        str,
        typer.Option(
            "--format", help="parquet: also sweep.parquet; png, svg, pdf: of the figure. Several: parquet,svg."
        ),
    ] = "csv,png",
    jobs: Annotated[int, typer.Option(min=1, help="Processes on this computer.")] = 1,
    backend: Annotated[str, typer.Option(help="local, or dask: a cluster.")] = "local",
    scheduler: Annotated[str, typer.Option(help="Of the Dask cluster, such as tcp://10.0.0.1:8786.")] = "",
) -> None:
    """Simulate every combination of a scenario's sweep; write sweep.csv and figure.png to OUT/NAME.

    Rows are written as they come. A sweep that was interrupted, with Ctrl-C or otherwise, goes on where it was; Ctrl-C
    prints what is there.
    """
    from sim.errors import suggest
    from sim.results import folder as outputs
    from sim.specs import load
    from sim.studies.sweep import chart, own, parquet, points, rows, workers
    from sim.studies.sweep.record import Record

    if backend not in ("local", "dask"):
        hint = suggest(backend, ("local", "dask"))
        raise InputError("no such backend", where="--backend", got=backend, hint=hint)
    tables, figures = sweep_formats(formats)
    if "parquet" in tables:
        parquet.check()

    chosen = settings or []
    base = load.scenario(scenario, chosen)
    axes = list(points.swept(base, chosen))
    folder = out / outputs.folder_name(base, chosen)
    with about(load.place("scenario", scenario)):
        planned = points.points(base, chosen)
        figure = chart.figure_of(base, axes)
        forms = own.own_forms(figure, load.path("scenario", scenario).parent) if figure else {}
        record = Record(folder / "sweep.csv", base, planned, load.source(scenario))
    with outputs.writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if kept := record.keep_damaged():
            echo(f"earlier rows are kept in {kept}: sweep.json does not say what they are of", err=True)
        found: dict[int, rows.Row] = record.interrupted()
        if found:
            echo(f"going on: {len(found)} of {len(planned)} points are there", err=True)
        left = [number for number in range(len(planned)) if number not in found]
        with rated(f"simulating {base.name}", len(left)) as progress, record.open(found) as file:

            def keep(numbered: tuple[int, rows.Row]) -> None:
                file.add(numbered[1])
                found[left[numbered[0]]] = numbered[1]

            todo = [planned[number] for number in left]
            complete = gathered(workers.measured(scenario, todo, jobs, backend, scheduler), keep, progress)  # type: ignore[arg-type]
        done = [found[number] for number in sorted(found)]
        record.in_order(done)
        if "parquet" in tables:
            with outputs.replacing_file(folder / "sweep.parquet") as fresh:
                parquet.write(fresh, done, base.sweep or {}, axes)
    with about(load.place("scenario", scenario)):
        tried = [(planned[number], found[number]) for number in sorted(found)]
        beside = own.own_points(scenario, figure, forms, tried) if figure else {}
    if plots and figure and any(row.outcome for row in done):
        from sim.plots import figure as drawing

        for kind in figures:
            with outputs.replacing_file(folder / f"figure.{kind}") as fresh:
                drawing.draw(chart.chart(base, figure, done, beside), fresh)
    if as_json:
        echo(json.dumps({"scenario": base.name, "complete": complete, "rows": [row.to_dict() for row in done]}))
    else:
        from sim.studies.sweep.table import render

        render(done, axes, figure, own=beside)
        echo(f"results in {folder}/")
    if not complete:
        echo(f"interrupted: {len(done)} of {len(planned)} points are there; the same command goes on", err=True)
        raise typer.Exit(INTERRUPTED)
    check_internal(done)
    if not any(row.outcome for row in done):
        with about(load.place("scenario", scenario)):
            raise InputError("not one point of the sweep can run", where="sweep", hint=f"the first: {done[0].error}")


def check_internal(rows: Sequence[Row]) -> None:
    """Exit where some points met a fault of this package; the others are written and printed."""
    failed = [row for row in rows if (row.error or "").startswith(INTERNAL)]
    if failed:
        echo(
            f"{len(failed)} of {len(rows)} points failed; the first, {_chosen(failed[0])}: {failed[0].error}", err=True
        )
        raise typer.Exit(INTERNAL_ERROR)


def _chosen(row: Row) -> str:
    return ", ".join(f"{axis}={label}" for axis, label in row.choices.items())


def validate(
    suites: Annotated[
        list[str] | None,
        typer.Argument(help="Suite files, or names of shipped ones; default: all.", autocompletion=completed("suite")),
    ] = None,
    rows: Annotated[Path | None, typer.Option(help="Another CSV of the same columns, for one suite.")] = None,
    template: Annotated[
        str | None, typer.Option(help=f"Print a CSV to fill in, for suites of kind {', '.join(COLUMNS)}.")
    ] = None,
    summary: Annotated[
        Path | None, typer.Option(help="Markdown file to write: errors and what is not checked.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("out"),
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the parity plot.")] = True,
) -> None:
    """Compare predictions with published measurements; exit code 1 when a suite misses its tolerance."""
    from sim.results import folder as outputs
    from sim.specs import load
    from sim.studies.validate.validate import validate as validate_suite

    if template is not None:
        _print_template(template)
    names = suites or list(load.shipped("suite"))
    if rows and len(names) > 1:
        raise InputError("--rows goes with one suite", where="--rows", hint=f"name one of {', '.join(names)}")
    found = []
    for name in names:
        with steps(f"validating {name}") as progress, possible(load.place("suite", name)):
            found.append(validate_suite(name, rows, progress))
        if plots:
            from sim.plots import parity

            with outputs.replacing_file(out / f"{found[-1].suite.name}_parity.png") as fresh:
                parity.draw(found[-1], fresh)
    if summary is not None:
        from sim.report.present.validation_summary import summary as page

        with outputs.replacing_file(summary) as fresh:
            fresh.write_text(page(found), encoding="utf-8")
    if as_json:
        echo(json.dumps({"suites": [suite.to_dict() for suite in found]}))
    else:
        from sim.report.present.validation_text import render

        for suite in found:
            render(suite)
            if plots:
                echo(f"parity plot in {out / f'{suite.suite.name}_parity.png'}")
    if not all(suite.passes for suite in found):
        raise typer.Exit(1)


def _print_template(kind: str) -> NoReturn:
    """Prints a CSV with one example row, what its columns hold on standard error, and ends the command."""
    if kind not in COLUMNS:
        raise InputError("must be a kind of suite", where="--template", got=kind, hint=suggest(kind, COLUMNS))
    echo(explanation(kind), err=True)
    echo(template_of(kind))
    raise typer.Exit


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
    as_json: Json = False,
) -> None:
    """Fit the constants that a suite names to its rows; say what the rows do not determine, and how it generalises."""
    from sim.report.present.calibration import report
    from sim.specs import load
    from sim.studies.validate import calibrate as calibration

    with steps("fitting") as progress, possible(load.place("suite", suite)):

        def fitted(evaluations: int, rms: float) -> None:
            progress(evaluations, 0)

        found = calibration.fit(suite, rows, fitted, cross_validate=cross_validate)
    echo(json.dumps(found.to_dict()) if as_json else report(found))
