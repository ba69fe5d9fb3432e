"""`sim run`: simulate scenarios, print their reports and write their results."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct
from msgspec.structs import replace

from sim.cli.errors import EXCEEDS_MEMORY, errors_in
from sim.cli.options import (
    DrawnChips,
    Formats,
    Json,
    NewName,
    Plugins,
    Settings,
    Width,
    check_name,
    completed,
    figure_form,
)
from sim.cli.progress import progress
from sim.cli.together import JobChips, JobMachine, JobPasses, Placing, Shown, run_jobs
from sim.errors import InputError
from sim.terminal import echo
from sim.units import format_bytes

if TYPE_CHECKING:
    from sim.report.memory import Memory
    from sim.results.analysis import Analysis
    from sim.results.figures import FigureForm
    from sim.simulate.result import Run
    from sim.specs import Scenario


def run(
    scenarios: Annotated[
        list[str],
        typer.Argument(help="Scenario files, or names of shipped ones.", autocompletion=completed("scenario")),
    ],
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder of the results, one folder inside per scenario.")] = Path("out"),
    plugins: Plugins = None,
    as_json: Json = False,
    plots: Annotated[
        bool,
        typer.Option("--plots/--no-plots", help="Draw the figures and report.html."),
    ] = True,
    formats: Formats = "png",
    width: Width = "",
    critical_path: Annotated[
        bool,
        typer.Option("--critical-path", help="What the step waits for, and what would shorten it, simulated again."),
    ] = False,
    explained: Annotated[
        bool, typer.Option("--explain", help="Explain the difference to the paper's formula, effect by effect.")
    ] = False,
    name: NewName = "",
    together: Annotated[
        bool, typer.Option("--together", help="Run the scenarios at once on one machine, alone and together.")
    ] = False,
    places: JobChips = None,
    passes: JobPasses = None,
    machine: JobMachine = "",
    chips: DrawnChips = None,
    trace_chips: Annotated[
        list[int] | None,
        typer.Option("--trace-chip", min=0, help="Chip in trace.json, repeatable; HolisticTraceAnalysis reads one."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and what is removed.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say how long it took and what was written.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help=f"Exit with code {EXCEEDS_MEMORY} where a run does not fit in memory.")
    ] = False,
) -> None:
    """Simulate scenarios; print each report and write it with its timeline and traces to OUT/NAME.

    A run replaces what commands wrote into the folder of a previous run of the scenario, names the files that this
    removes, and keeps any others. It refuses a folder with the results of another scenario file. A run
    that exceeds memory gets a warning.
    """
    from sim.results import folder as outputs
    from sim.specs import load
    from sim.studies.sweep.points import refuse_sweep

    chosen = tuple(settings or ())
    form = figure_form(formats, width)
    if together:
        unsupported = {"--critical-path": critical_path, "--explain": explained}
        unsupported |= {"--chip": bool(chips), "--trace-chip": bool(trace_chips)}
        placing = Placing(places or (), passes or (), machine)
        shown = Shown(out, name, form if plots else None, as_json=as_json, quiet=quiet)
        fits = run_jobs(scenarios, chosen, placing, shown, unsupported)
        raise typer.Exit(0 if fits or not strict else EXCEEDS_MEMORY)
    for option, given in {"--on": places, "--passes": passes, "--machine": machine}.items():
        if given:
            raise InputError("requires --together", where=option, got=given)
    loaded = {file: load.scenario(file, chosen) for file in scenarios}  # all files are checked before anything runs
    if name:
        loaded = _renamed(loaded, name)
    for file, scenario in loaded.items():
        with progress(f"checking {scenario.name}"), errors_in(load.place("scenario", file)):
            refuse_sweep(scenario, chosen)
            outputs.check_chips(scenario, chips or [], "--chip")
            outputs.check_chips(scenario, trace_chips or [], "--trace-chip")
    folders = _folders(loaded, chosen, out, is_named=bool(name))
    wanted = _Wanted(chosen, form if plots else None, critical_path, explained, chips or [], trace_chips)
    fits = True
    for file, scenario in loaded.items():
        began = time.monotonic()
        made = _write_run(file, scenario, folders[file], wanted)
        fits &= _warn_of_memory(made.run.report.memory, made.where)
        if as_json or not quiet:
            _print_run(made, folders[file], as_json=as_json)
        if verbose:
            whole_s = time.monotonic() - began
            said = f"simulated in {made.simulated_s:.2f} s, with figures and files {whole_s:.2f} s"
            echo(f"{made.where}: {said}", err=True)
            for path in sorted(folders[file].iterdir()):
                echo(f"{path.stat().st_size:>12,} bytes  {path}", err=True)
    if strict and not fits:
        raise typer.Exit(EXCEEDS_MEMORY)


class _Wanted(Struct, frozen=True):
    """Options that apply to every run of a command."""

    settings: tuple[str, ...]
    figure_form: FigureForm | None
    """None: no figures."""
    critical_path: bool
    explained: bool
    chips: list[int]
    """Chips that timelines draw beside those they would draw."""
    trace_chips: list[int] | None


class _Made(Struct, frozen=True):
    """A run whose results are written."""

    run: Run
    where: str
    """Its file and settings, for messages."""
    simulated_s: float
    analysis: Analysis


def _write_run(name: str, scenario: Scenario, folder: Path, wanted: _Wanted) -> _Made:
    """Simulates a scenario and writes its results to `folder`."""
    from sim.results import folder as outputs
    from sim.results import saved, scratch
    from sim.results.analysis import Analysis
    from sim.simulate.run import find_bottlenecks
    from sim.simulate.run import run as run_scenario
    from sim.specs import load

    explanations = bottlenecks = None
    with scratch.replacing(folder) as fresh:
        settings = "".join(f" --set {setting}" for setting in wanted.settings)
        where = load.place("scenario", name) + (f" with{settings}" if settings else "")
        began = time.monotonic()
        with progress(f"simulating {scenario.name}") as report, errors_in(where):
            result = run_scenario(scenario, report)
        result = replace(result, settings=wanted.settings, source=load.source(name)).choose_chips(wanted.chips)
        simulated_s = time.monotonic() - began
        if wanted.explained:
            from sim.studies.explain import explain

            with progress(f"explaining {scenario.name}"), errors_in(where):
                explanations = explain(result)
        if wanted.critical_path:
            with progress(f"{scenario.name} again with parts free") as report:
                bottlenecks = find_bottlenecks(result, report)
        with progress(f"writing {folder}", is_animated=False):
            analysis = Analysis(explanations, bottlenecks)
            messages = outputs.write(
                result,
                fresh,
                figure_form=wanted.figure_form,
                chips=wanted.trace_chips,
                analysis=analysis,
            )
            messages += saved.displace_results(folder, fresh)
    for line in messages:
        echo(f"{folder}: {line}", err=True)
    return _Made(result, where, simulated_s, analysis)


def _print_run(made: _Made, folder: Path, *, as_json: bool) -> None:
    """Prints the report of a run."""
    result, analysis = made.run, made.analysis
    if as_json:
        explained = analysis.explain()
        more = {} if explained is None else {"explain": explained}
        echo(json.dumps(result.report.to_dict(result.engine_s) | more | analysis.critical_path()))
        return
    from sim.report.present.render import render

    render(result.report, engine=(result.tasks, result.engine_s), plugins=result.scenario.plugins)
    if analysis.explanations:
        from sim.report.present import explanation

        explanation.render(analysis.explanations)
    if analysis.bottlenecks:
        from sim.report.present import bottlenecks

        bottlenecks.render(analysis.bottlenecks)
    echo(f"results in {folder}/")


def _renamed(loaded: Mapping[str, Scenario], name: str) -> dict[str, Scenario]:
    """Returns the one scenario under another name. Raises InputError."""
    if len(loaded) > 1:
        raise InputError("requires one scenario", where="--name", got=name, hint="run the scenarios one by one")
    check_name(name)
    return {file: scenario.model_copy(update={"name": name}) for file, scenario in loaded.items()}


def _folders(loaded: Mapping[str, Scenario], settings: Sequence[str], out: Path, *, is_named: bool) -> dict[str, Path]:
    """Returns the folder of each scenario's results, by the scenario's name or file.

    Args:
        is_named: its name does not have the settings.

    Raises:
        InputError: it holds something else than results of this scenario file, or two of these have the same.
    """
    from sim.results import folder as outputs
    from sim.results import saved
    from sim.specs import load

    folders: dict[str, Path] = {}
    first: dict[Path, str] = {}
    for name, scenario in loaded.items():
        folders[name] = folder = out / outputs.folder_name(scenario, () if is_named else settings)
        same = first.setdefault(folder, name)
        saved.refuse_unlike(folder, scenario == loaded[same], load.source(same))
        origin = saved.Origin(load.source(name), list(settings), saved.resolve_scenario(scenario))
        saved.check_replaceable(folder, origin, is_named=is_named)
    return folders


def _warn_of_memory(memory: Memory, where: str) -> bool:
    """Warns on standard error if a run exceeds memory; returns True if it fits."""
    if not memory.fits:
        needed, there = format_bytes(memory.used_bytes), format_bytes(memory.capacity_bytes)
        rule = f"warning: {where}: exceeds memory: a chip needs {needed} of {there}"
        echo(f"{rule}; times assume unlimited memory", err=True)
    return memory.fits
