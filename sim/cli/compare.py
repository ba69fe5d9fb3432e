"""`sim compare`: set two runs side by side and name what makes the difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace

from sim.cli.completion import completed_setting
from sim.cli.errors import errors_in
from sim.cli.options import Formats, Json, Plugins, Sensitive, Settings, Width, completed, figure_form
from sim.cli.progress import progress
from sim.errors import InputError
from sim.terminal import echo

if TYPE_CHECKING:
    from sim.simulate.result import Run


def compare(
    before: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="Results of a run, OUT/NAME, or a scenario to simulate.",
            autocompletion=completed("scenario"),
        ),
    ],
    after: Annotated[
        str | None,
        typer.Argument(metavar="[B]", help="The same. Default: A.", autocompletion=completed("scenario")),
    ] = None,
    settings: Settings = None,
    settings_of_b: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            "--set-b",
            metavar="KEY=VALUE",
            help="Override a field of B only: link.latency=0.5x. Repeatable.",
            autocompletion=completed_setting("scenario"),
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of figure and page.")] = Path("out"),
    plugins: Plugins = None,
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the figure, and write the page.")] = True,
    formats: Formats = "png",
    width: Width = "",
    sensitive: Sensitive = False,
) -> None:
    """Set two runs side by side and say what makes the difference.

    Draw A above B on one time axis to OUT/A_vs_B.png, and write a page of both to OUT/A_vs_B.html. --set goes for
    both, --what-if for B, and both into the files' names. The differences of causes, and those of
    operations, add up to that of the steps.
    """
    from sim.report.present.comparison import render
    from sim.results import folder as outputs
    from sim.results import scratch
    from sim.simulate.run import compare as compare_runs

    form = figure_form(formats, width)
    if after is None and not settings_of_b:
        raise InputError("requires two runs", where="sim compare", hint="name B, or say --what-if KEY=VALUE")
    sides = [(before, settings or []), (after or before, [*(settings or []), *(settings_of_b or [])])]
    pair = [_run_of(name, settings_of) for name, settings_of in sides]
    names = [
        Path(name).resolve().name if Path(name).is_dir() else outputs.folder_name(run.scenario, settings_of)
        for (name, settings_of), run in zip(sides, pair, strict=True)
    ]
    with progress("comparing"):
        comparison = compare_runs(pair[0], pair[1], names)
    written: list[Path] = []
    if plots:
        from sim.results import page as html
        from sim.results.figures import draw_comparison

        stem = out / outputs.unique_file_name("_vs_".join(names), [])
        with progress(f"drawing {stem}"):
            written = draw_comparison(pair, names, stem, form)
        path = stem.with_name(f"{stem.name}.html")
        with progress(f"writing {path}"), scratch.replacing_file(path) as fresh:
            html.write(pair, fresh, comparison=comparison)
    moved = None
    if sensitive:
        from sim.studies.sensitivity import Option, measure_sensitivity

        options = [
            Option(label, run.scenario, run.report.simulated.latency_s) for label, run in zip("AB", pair, strict=True)
        ]
        with progress("moving constants"):
            moved = measure_sensitivity(options)
    if as_json:
        echo(json.dumps(comparison.to_dict() | ({"sensitivity": moved.to_dict()} if moved else {})))
        return
    render(comparison)
    for line in moved.lines if moved else ():
        echo(line)
    for figure in written:
        echo(f"figure in {figure}")
    if plots:
        echo(f"page in {path}")


def _run_of(name: str, settings: list[str]) -> Run:
    """Reads a run from its results, or simulates it."""
    from sim.results import folder as outputs
    from sim.simulate.run import run as run_scenario
    from sim.specs import load
    from sim.studies.sweep.points import refuse_sweep

    folder = Path(name)
    if folder.is_dir():
        if settings:
            raise InputError("is not supported with results", where="--set", got=name)
        with progress(f"reading {folder}"):
            return outputs.read(folder)
    scenario = load.scenario(name, settings)
    with errors_in(load.place("scenario", name)):
        refuse_sweep(scenario, settings)
        with progress(f"simulating {scenario.name}") as report:
            return replace(run_scenario(scenario, report), settings=tuple(settings))
