"""Many runs: sweeps, searches, validation and calibration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sim.cli.options import (
    INTERNAL_ERROR,
    INTERRUPTED,
    Json,
    Sensitive,
    Settings,
    about,
    busy,
    completed,
    gathered,
    one_of,
    possible,
    rated,
    steps,
    sweep_formats,
)
from sim.csv_templates import COLUMNS, explanation
from sim.csv_templates import template as template_of
from sim.errors import INTERNAL, InputError, suggest
from sim.terminal import echo

if TYPE_CHECKING:
    from sim.sweep.rows import Row


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
    from sim import load, outputs
    from sim.errors import suggest
    from sim.sweep import chart, own, parquet, points, rows, workers
    from sim.sweep.record import Record

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
        from sim.sweep.table import render

        render(done, axes, figure, own=beside)
        echo(f"results in {folder}/")
    if not complete:
        echo(f"interrupted: {len(done)} of {len(planned)} points are there; the same command goes on", err=True)
        raise typer.Exit(INTERRUPTED)
    _check_internal(done)
    if not any(row.outcome for row in done):
        with about(load.place("scenario", scenario)):
            raise InputError("not one point of the sweep can run", where="sweep", hint=f"the first: {done[0].error}")


def _check_internal(rows: Sequence[Row]) -> None:
    """Exit where some points met a fault of this package; the others are written and printed."""
    failed = [row for row in rows if (row.error or "").startswith(INTERNAL)]
    if failed:
        echo(
            f"{len(failed)} of {len(rows)} points failed; the first, {_chosen(failed[0])}: {failed[0].error}", err=True
        )
        raise typer.Exit(INTERNAL_ERROR)


def _chosen(row: Row) -> str:
    return ", ".join(f"{axis}={label}" for axis, label in row.choices.items())


def search(
    model: Annotated[str, typer.Option(help="A shipped name or a file.", autocompletion=completed("model"))],
    topology: Annotated[
        list[str],
        typer.Option(help="Machine: a shipped name or a file. Repeatable.", autocompletion=completed("topology")),
    ],
    phase: Annotated[
        str, typer.Option(help="decode or prefill.", autocompletion=one_of(lambda: ("decode", "prefill")))
    ],
    batch: Annotated[str, typer.Option(help="Such as 64, or 1..1024: powers of two.")],
    chips: Annotated[
        str, typer.Option(help="Such as 16,64,256 or 64..256: slices of the torus's family, or groups of the GPUs.")
    ] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Per sequence: of the prompt, or in the cache.")] = 2048,
    generate: Annotated[int, typer.Option(min=1, help="Decode steps.")] = 64,
    weights: Annotated[str, typer.Option(help="Number format of the weights.")] = "bf16",
    settings: Settings = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes on this computer.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of the figure.")] = Path("out"),
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the figure.")] = True,
    sensitive: Sensitive = False,
) -> None:
    """Try every layout, attention sharding, order of the axes and number of chips on every machine given.

    Print the best per objective and the Pareto front; draw latency against cost to OUT/search_MODEL_PHASE.png. Ctrl-C
    prints the best of what is there.
    """
    from sim import outputs
    from sim import search as searching
    from sim.errors import suggest
    from sim.sweep import workers

    if phase not in ("decode", "prefill"):
        raise InputError("no such phase", where="--phase", got=phase, hint=suggest(phase, ("decode", "prefill")))
    sizes = searching.batches(batch)
    work = (sizes, tokens, generate, weights, settings or [], searching.counts(chips) if chips else None)
    planned = searching.candidates(model, topology, phase, *work)  # type: ignore[arg-type]
    rows: dict[int, Row] = {}
    with rated(f"searching {len(planned)} candidates", len(planned)) as progress:

        def keep(numbered: tuple[int, Row]) -> None:
            rows[numbered[0]] = numbered[1]

        complete = gathered(workers.measured(searching.BASE, planned, jobs), keep, progress)
    if not complete:
        echo(f"interrupted: {len(rows)} of {len(planned)} candidates were tried", err=True)
        if not rows:
            raise typer.Exit(INTERRUPTED)
    done = [rows[number] for number in sorted(rows)]
    if not any(row.outcome for row in done):
        _check_internal(done)
    fitting = searching.fitting(done)
    chosen = {objective: searching.best(fitting, objective) for objective in searching.OBJECTIVES}
    lists = {"best_per_batch": searching.best_per_batch(fitting), "pareto": searching.pareto(fitting)}
    numbered = [(planned[number], rows[number]) for number in sorted(rows)]
    based = searching.rest_on(numbered)
    moved = {}
    if sensitive:
        with busy("moving constants"):
            moved = {objective: searching.sensitive(numbered, objective) for objective in searching.OBJECTIVES}
    path = out / f"search_{Path(model).stem}_{phase}.png"
    if plots:
        from sim.plots import pareto

        machines = ", ".join(Path(name).stem for name in topology)
        machines = f"{chips.replace(',', ', ')} chips as of {machines}" if chips else machines
        title = f"{phase} of {Path(model).stem} on {machines}, {weights} weights"
        with busy(f"drawing {path}"), outputs.replacing_file(path) as fresh:
            chart = searching.chart(title, phase, fitting, searching.published(numbered))  # type: ignore[arg-type]
            pareto.draw(replace(chart, rests_on=based), fresh)
    if as_json:
        best = {objective: row.to_dict() for objective, row in chosen.items()}
        data = {name: [row.to_dict() for row in some] for name, some in lists.items()}
        counts = {"candidates": len(done), "fitting": len(fitting), "complete": complete}
        more = {"rests_on": list(based)} | {"sensitivity": {name: each.to_dict() for name, each in moved.items()}}
        echo(json.dumps(counts | {"best": best} | data | more))
    else:
        _print_search(done, fitting, chosen, lists)
        for line in based:
            echo(f"rests on: {line}")
        for objective, each in moved.items():
            for line in each.lines:
                echo(f"{objective}: {line}")
        if plots:
            echo(f"figure in {path}")
    if not complete:
        raise typer.Exit(INTERRUPTED)
    _check_internal(done)


def _print_search(
    done: Sequence[Row], fitting: Sequence[Row], chosen: Mapping[str, Row], lists: Mapping[str, Sequence[Row]]
) -> None:
    from sim.sweep.choices import render

    echo(f"{len(done)} candidates, {sum(row.outcome is not None for row in done)} legal, {len(fitting)} fit")
    render("best per objective", chosen)
    for name, title in (
        ("best_per_batch", "fastest of each machine, number of chips and batch"),
        ("pareto", "Pareto front of step time and cost"),
    ):
        render(title, {str(i + 1): row for i, row in enumerate(lists[name])})


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
    from sim import load, outputs
    from sim.validate import validate as validate_suite

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
        from sim.report.validation_summary import summary as page

        with outputs.replacing_file(summary) as fresh:
            fresh.write_text(page(found), encoding="utf-8")
    if as_json:
        echo(json.dumps({"suites": [suite.to_dict() for suite in found]}))
    else:
        from sim.report.validation_text import render

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
    from sim import calibrate as calibration
    from sim import load
    from sim.report.calibration import report

    with steps("fitting") as progress, possible(load.place("suite", suite)):

        def fitted(evaluations: int, rms: float) -> None:
            progress(evaluations, 0)

        found = calibration.fit(suite, rows, fitted, cross_validate=cross_validate)
    echo(json.dumps(found.to_dict()) if as_json else report(found))
