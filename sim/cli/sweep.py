"""`sim sweep`: simulate every combination of a scenario's sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.errors import INTERRUPTED, check_internal, errors_in
from sim.cli.options import (
    Jobs,
    Json,
    NewName,
    Plugins,
    Settings,
    Width,
    check_name,
    completed,
    figure_form,
    sweep_formats,
)
from sim.cli.progress import collect, progress
from sim.errors import InputError
from sim.terminal import echo

if TYPE_CHECKING:
    from sim.results.figures import FigureForm
    from sim.studies.sweep.record import Record
    from sim.studies.sweep.rows import Row
    from sim.studies.sweep.study import Study
    from sim.studies.sweep.workers import Cluster


_MOST_BARS = 60
"""A page holds no more bars."""


def sweep(
    scenario: Annotated[
        str,
        typer.Argument(
            help="Scenario file with a sweep, or the name of a shipped one.", autocompletion=completed("scenario")
        ),
    ],
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder of the results, one folder inside per scenario.")] = Path("out"),
    plugins: Plugins = None,
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the figure.")] = True,
    formats: Annotated[
        str,
        typer.Option(
            "--format", help="parquet: also sweep.parquet; png, svg, pdf: of the figure. Several: parquet,svg."
        ),
    ] = "csv,png",
    width: Width = "",
    name: NewName = "",
    parts: Annotated[
        bool,
        typer.Option("--parts", help="Also draw what a step of each point spends its time on: parts.png."),
    ] = False,
    jobs: Jobs = 1,
    backend: Annotated[str, typer.Option(help="local, or dask: a cluster.")] = "local",
    scheduler: Annotated[str, typer.Option(help="Of the Dask cluster, such as tcp://10.0.0.1:8786.")] = "",
) -> None:
    """Simulate every combination of a scenario's sweep; write sweep.csv and figure.png to OUT/NAME.

    Rows are written as they come. A sweep that was interrupted, with Ctrl-C or otherwise, goes on where it was; Ctrl-C
    prints what is there.
    """
    from sim.results import folder as outputs
    from sim.results import scratch
    from sim.specs import load
    from sim.studies.sweep import parquet
    from sim.studies.sweep.record import Record
    from sim.studies.sweep.study import list_assumptions, plan_sweep
    from sim.studies.sweep.workers import Cluster

    cluster = Cluster.of(backend, scheduler)
    tables, figure_formats = sweep_formats(formats)
    form = figure_form(figure_formats, width)
    if "parquet" in tables:
        parquet.check()
    base = load.scenario(scenario, settings or [])
    if name:
        check_name(name)
        base = base.model_copy(update={"name": name})
    folder = out / outputs.folder_name(base, () if name else settings or [])
    with progress(f"planning {base.name}"), errors_in(load.place("scenario", scenario)):
        study = plan_sweep(scenario, base, settings or [])
        record = Record(folder / "sweep.csv", base, study.points, load.source(scenario))
    with scratch.reporting_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        rows, complete = _simulate(study, record, jobs, cluster)
        done = list(rows.values())
        record.in_order(done)
        if "parquet" in tables:
            with scratch.replacing_file(folder / "sweep.parquet") as fresh:
                parquet.write(fresh, done, base.sweep or {}, study.axes)
    with progress(f"predicting {base.name}"), errors_in(load.place("scenario", scenario)):
        predictions = study.predict_points(rows)
    if plots and study.figure and any(row.outcome for row in done):
        from sim.plots import figure as drawing
        from sim.results.figures import write_figure
        from sim.studies.sweep.chart import build_panels

        with progress(f"drawing {folder}"):
            charts = build_panels(base, study.figure, done, predictions)
            write_figure(lambda: drawing.draw_panels(charts), folder / "figure", form)
    if parts:
        _draw_parts(study, rows, folder, form)
    based = list_assumptions(study.name, [study.points[number] for number, row in rows.items() if row.outcome])
    if as_json:
        data = {"scenario": base.name, "complete": complete, "rows": [row.to_dict() for row in done]}
        echo(json.dumps(data | {"rests_on": list(based)}))
    else:
        from sim.studies.sweep.table import render

        render(done, study.axes, study.figure, predictions=predictions)
        for line in based:
            echo(f"rests on: {line}")
        if plots and study.figure is None:
            x = f"figure.x, {base.figure.x}, is not swept" if base.figure else "no axis of the sweep has numbers for x"
            echo(f"no figure: {x} ({', '.join(study.axes)}); --parts draws bars")
        echo(f"results in {folder}/")
    if not complete:
        echo(
            f"interrupted: {len(done)} of {len(study.points)} points are done; run the same command to resume", err=True
        )
        raise typer.Exit(INTERRUPTED)
    check_internal(done)
    if not any(row.outcome for row in done):
        with errors_in(load.place("scenario", scenario)):
            raise InputError(
                "at least one point must be able to run", where="sweep", hint=f"the first: {done[0].error}"
            )


def _draw_parts(study: Study, rows: dict[int, Row], folder: Path, form: FigureForm) -> None:
    """Simulates the points that can run again, and draws the parts of their steps."""
    from sim.plots import step_parts
    from sim.results.figures import write_figure
    from sim.studies.step_parts import attribute_point, describe_choices

    chosen = [(study.points[number], row.outcome) for number, row in rows.items() if row.outcome]
    if len(chosen) > _MOST_BARS:
        raise InputError(f"requires at most {_MOST_BARS} points that can run", where="--parts", got=len(chosen))
    bars = []
    with progress(f"taking apart {study.scenario.name}") as report:
        for done, (point, outcome) in enumerate(chosen):
            report(done, len(chosen))
            parts, label = attribute_point(study.name, point), describe_choices(point.choices)
            bars.append(step_parts.Bar(label, parts, outcome.memory_bytes))
    if bars:
        title = "\n".join(filter(None, (f"{study.scenario.name}: critical path of a step", study.settings_text)))
        write_figure(lambda: step_parts.draw(bars, title), folder / "parts", form)


def _simulate(study: Study, record: Record, jobs: int, cluster: Cluster | None) -> tuple[dict[int, Row], bool]:
    """Simulates the points that an interrupted sweep has left, and records each row as it comes.

    Returns:
        Rows by number of their point, in order; and False if Ctrl-C ended it before the last one.
    """
    from sim.studies.sweep.workers import run_points

    if kept := record.keep_damaged():
        echo(f"moved earlier rows to {kept}: sweep.json does not describe them", err=True)
    rows = record.interrupted()
    if rows:
        echo(f"resuming: {len(rows)} of {len(study.points)} points are done", err=True)
    left = [number for number in range(len(study.points)) if number not in rows]
    with progress(f"simulating {study.scenario.name}") as report, record.open(rows) as file:

        def keep(numbered: tuple[int, Row]) -> None:
            file.add(numbered[1])
            rows[left[numbered[0]]] = numbered[1]

        results = run_points(study.name, [study.points[number] for number in left], jobs, cluster)
        complete = collect(results, keep, report, len(left))
    return dict(sorted(rows.items())), complete
