"""Many runs: sweeps, searches, validation and calibration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.options import Json, Settings, about, busy, completed, possible, rated, steps
from sim.errors import InputError


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
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw figure.png.")] = True,
    jobs: Annotated[int, typer.Option(min=1, help="Processes on this computer.")] = 1,
    backend: Annotated[str, typer.Option(help="local, or dask: a cluster.")] = "local",
    scheduler: Annotated[str, typer.Option(help="Of the Dask cluster, such as tcp://10.0.0.1:8786.")] = "",
) -> None:
    """Simulate every combination of a scenario's sweep; write sweep.csv and figure.png to OUT/NAME.

    Rows are written as they come, and a sweep that was interrupted goes on where it was.
    """
    from sim import load, outputs
    from sim.errors import suggest
    from sim.sweep import chart, points, rows, workers
    from sim.sweep.record import Record

    if backend not in ("local", "dask"):
        hint = suggest(backend, ("local", "dask"))
        raise InputError("no such backend", where="--backend", got=backend, hint=hint)

    chosen = settings or []
    base = load.scenario(scenario, chosen)
    axes = list(points.swept(base, chosen))
    with about(load.place("scenario", scenario)):
        planned = points.points(base, chosen)
        figure = chart.figure_of(base, axes)
    folder = out / outputs.folder_name(base, chosen)
    with outputs.writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        record = Record(folder / "sweep.csv", base, axes, planned)
        found: dict[int, rows.Row] = record.interrupted()
        if found:
            typer.echo(f"going on: {len(found)} of {len(planned)} points are there", err=True)
        left = [number for number in range(len(planned)) if number not in found]
        todo = [planned[number] for number in left]
        with rated(f"simulating {base.name}", len(todo)) as progress, record.open(found) as file:
            for i, row in workers.measured(scenario, todo, jobs, backend, scheduler):  # type: ignore[arg-type]
                file.add(row)
                found[left[i]] = row
                progress()
    done = [found[number] for number in range(len(planned))]
    if plots and figure and any(row.outcome for row in done):
        from sim.plots import figure as drawing

        with outputs.replacing_file(folder / "figure.png") as fresh:
            drawing.draw(chart.chart(base, figure, done), fresh)
    if as_json:
        typer.echo(json.dumps({"scenario": base.name, "rows": [row.to_dict() for row in done]}))
    else:
        from sim.sweep.table import render

        render(done, axes, figure)
        typer.echo(f"results in {folder}/")
    if not any(row.outcome for row in done):
        with about(load.place("scenario", scenario)):
            raise InputError("not one point of the sweep can run", where="sweep", hint=f"the first: {done[0].error}")


def search(
    model: Annotated[str, typer.Option(help="A shipped name or a file.")],
    topology: Annotated[list[str], typer.Option(help="Torus: a shipped name or a file. Repeatable.")],
    phase: Annotated[str, typer.Option(help="decode or prefill.")],
    batch: Annotated[str, typer.Option(help="Such as 64, or 1..1024: powers of two.")],
    tokens: Annotated[int, typer.Option(min=1, help="Per sequence: of the prompt, or in the cache.")] = 2048,
    generate: Annotated[int, typer.Option(min=1, help="Decode steps.")] = 64,
    weights: Annotated[str, typer.Option(help="Number format of the weights.")] = "bf16",
    settings: Settings = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes on this computer.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of the figure.")] = Path("out"),
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the figure.")] = True,
) -> None:
    """Try every layout, attention sharding, overlap and order of the axes on every machine given.

    Print the best per objective and the Pareto front; draw latency against cost to OUT/search_MODEL_PHASE.png.
    """
    from sim import outputs
    from sim import search as searching
    from sim.errors import suggest
    from sim.sweep import workers
    from sim.sweep.choices import render

    if phase not in ("decode", "prefill"):
        raise InputError("no such phase", where="--phase", got=phase, hint=suggest(phase, ("decode", "prefill")))
    sizes = searching.batches(batch)
    work = (sizes, tokens, generate, weights, settings or [])
    planned = searching.candidates(model, topology, phase, *work)  # type: ignore[arg-type]
    rows = {}
    with rated(f"searching {len(planned)} candidates", len(planned)) as progress:
        for number, row in workers.measured(searching.BASE, planned, jobs):
            rows[number] = row
            progress()
    done = [rows[number] for number in range(len(planned))]
    fitting = searching.fitting(done)
    if not any(row.outcome for row in done):
        raise InputError("not one candidate can run", where="search", hint=f"the first: {done[0].error}")
    chosen = {objective: searching.best(fitting, objective) for objective in searching.OBJECTIVES}
    lists = {"best_per_batch": searching.best_per_batch(fitting), "pareto": searching.pareto(fitting)}
    path = out / f"search_{Path(model).stem}_{phase}.png"
    if plots:
        from sim.plots import pareto

        title = f"{phase} of {Path(model).stem} on {', '.join(Path(name).stem for name in topology)}, {weights} weights"
        with busy(f"drawing {path}"), outputs.replacing_file(path) as fresh:
            beside = searching.published(done, planned)
            pareto.draw(searching.chart(title, phase, fitting, beside), fresh)  # type: ignore[arg-type]
    if as_json:
        best = {objective: row.to_dict() for objective, row in chosen.items()}
        data = {name: [row.to_dict() for row in some] for name, some in lists.items()}
        typer.echo(json.dumps({"candidates": len(done), "fitting": len(fitting), "best": best} | data))
        return
    typer.echo(f"{len(done)} candidates, {sum(row.outcome is not None for row in done)} legal, {len(fitting)} fit")
    render("best per objective", chosen)
    for name, title in (("best_per_batch", "fastest of each batch"), ("pareto", "Pareto front of step time and cost")):
        render(title, {str(i + 1): row for i, row in enumerate(lists[name])})
    if plots:
        typer.echo(f"figure in {path}")


def validate(
    suites: Annotated[list[str] | None, typer.Argument(help="Suite files, or names of shipped ones; all.")] = None,
    rows: Annotated[Path | None, typer.Option(help="Another CSV of the same columns, for one suite.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("out"),
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the parity plot.")] = True,
) -> None:
    """Compare predictions with published measurements; exit code 1 when a suite misses its tolerance."""
    from sim import load, outputs
    from sim.validate import validate as validate_suite

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
    if as_json:
        typer.echo(json.dumps({"suites": [suite.to_dict() for suite in found]}))
    else:
        from sim.report.validation import render

        for suite in found:
            render(suite)
            if plots:
                typer.echo(f"parity plot in {out / f'{suite.suite.name}_parity.png'}")
    if not all(suite.passes for suite in found):
        raise typer.Exit(1)


def calibrate(
    suite: Annotated[str, typer.Argument(help="Suite file with a calibration, or the name of a shipped one.")],
    rows: Annotated[Path | None, typer.Option(help="Another CSV of the same columns.")] = None,
    as_json: Json = False,
) -> None:
    """Fit the machine constants that a suite names to the rows that it names."""
    from sim import calibrate as calibration
    from sim import load

    with steps("fitting") as progress, possible(load.place("suite", suite)):
        found = calibration.fit(suite, rows, lambda evaluations, rms: progress(evaluations, 0))
    if as_json:
        typer.echo(json.dumps({"values": dict(found.values), "residuals": dict(found.residuals)}))
    else:
        typer.echo(calibration.report(found))
