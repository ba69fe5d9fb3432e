"""Simulate scenarios, draw and export their results, compare two."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.options import (
    Formats,
    Json,
    MachineSettings,
    Sensitive,
    Settings,
    about,
    busy,
    completed,
    figure_formats,
    one_of,
    steps,
)
from sim.errors import InputError
from sim.terminal import echo
from sim.units import format_bytes

if TYPE_CHECKING:
    from sim.report.memory import Memory
    from sim.report.present.bottlenecks import Bottlenecks
    from sim.report.present.explanation import Explanation
    from sim.simulate.result import Run
    from sim.specs import Scenario

DOES_NOT_FIT = 3
"""Exit code of `sim run --strict` where a run does not fit in memory."""


def run(
    scenarios: Annotated[
        list[str],
        typer.Argument(help="Scenario files, or names of shipped ones.", autocompletion=completed("scenario")),
    ],
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder of the results, one folder inside per scenario.")] = Path("out"),
    as_json: Json = False,
    plots: Annotated[
        bool,
        typer.Option("--plots/--no-plots", help="Draw the figures and report.html."),
    ] = True,
    formats: Formats = "png",
    critical_path: Annotated[
        bool,
        typer.Option("--critical-path", help="What the step waits for, and what would shorten it, simulated again."),
    ] = False,
    explained: Annotated[
        bool, typer.Option("--explain", help="Explain the difference to the paper's formula, effect by effect.")
    ] = False,
    trace_chips: Annotated[
        list[int] | None,
        typer.Option("--trace-chip", min=0, help="Chip in trace.json, repeatable; HolisticTraceAnalysis reads one."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and what is removed.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say how long it took and what was written.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help=f"Exit with code {DOES_NOT_FIT} where a run does not fit in memory.")
    ] = False,
) -> None:
    """Simulate scenarios; print each report and write it with its timeline and traces to OUT/NAME.

    A run replaces the folder of a previous run of the scenario as a whole, and names the files that this removes. It
    refuses a folder with the results of another scenario file. A run that exceeds memory gets a warning.
    """
    from sim.results import folder as outputs
    from sim.specs import load
    from sim.studies.sweep.points import refuse_sweep

    chosen = tuple(settings or ())
    kinds = figure_formats(formats)
    loaded = [load.scenario(name, chosen) for name in scenarios]  # all files are checked before anything runs
    for name, scenario in zip(scenarios, loaded, strict=True):
        with about(load.place("scenario", name)):
            refuse_sweep(scenario, chosen)
            outputs.check_chips(scenario, trace_chips or [], "--trace-chip")
    folders = _folders(dict(zip(scenarios, loaded, strict=True)), chosen, out)
    wanted = _Wanted(chosen, kinds if plots else (), critical_path, explained, trace_chips)
    fits = True
    for name, scenario in zip(scenarios, loaded, strict=True):
        began = time.monotonic()
        made = _write_run(name, scenario, folders[name], wanted)
        fits &= _warn_of_memory(made.run.report.memory, made.where)
        if as_json or not quiet:
            _print_run(made, folders[name], as_json=as_json)
        if verbose:
            whole_s = time.monotonic() - began
            said = f"simulated in {made.simulated_s:.2f} s, with figures and files {whole_s:.2f} s"
            echo(f"{made.where}: {said}", err=True)
            for path in sorted(folders[name].iterdir()):
                echo(f"{path.stat().st_size:>12,} bytes  {path}", err=True)
    if strict and not fits:
        raise typer.Exit(DOES_NOT_FIT)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is asked of every run of a command."""

    settings: tuple[str, ...]
    formats: tuple[str, ...]
    """Of figures; none where none are drawn."""
    critical_path: bool
    explained: bool
    trace_chips: list[int] | None


@dataclass(frozen=True, slots=True)
class _Made:
    """A run whose results are written."""

    run: Run
    where: str
    """Its file and settings, for messages."""
    simulated_s: float
    explanations: Sequence[Explanation] | None
    bottlenecks: Sequence[Bottlenecks] | None


def _write_run(name: str, scenario: Scenario, folder: Path, wanted: _Wanted) -> _Made:
    """Simulate a scenario and write its results to `folder`."""
    from sim.results import folder as outputs
    from sim.results import saved
    from sim.simulate.run import bottlenecks
    from sim.simulate.run import run as run_scenario
    from sim.specs import load

    explanations = found = None
    with outputs.replacing(folder) as fresh:
        settings = "".join(f" --set {setting}" for setting in wanted.settings)
        where = load.place("scenario", name) + (f" with{settings}" if settings else "")
        began = time.monotonic()
        with steps(f"simulating {scenario.name}") as progress, about(where):
            result = run_scenario(scenario, progress)
        result = replace(result, settings=wanted.settings, source=load.source(name))
        simulated_s = time.monotonic() - began
        if wanted.explained:
            from sim.studies.explain import explain

            with busy(f"explaining {scenario.name}"), about(where):
                explanations = explain(result)
        if wanted.critical_path:
            with steps(f"{scenario.name} again with parts free") as progress:
                found = bottlenecks(result, progress)
        with busy(f"writing {folder}"):
            messages = outputs.write(
                result,
                fresh,
                formats=wanted.formats,
                explanations=explanations,
                bottlenecks=found,
                chips=wanted.trace_chips,
            )
            messages += saved.replaced(folder, fresh)
    for line in messages:
        echo(f"{folder}: {line}", err=True)
    return _Made(result, where, simulated_s, explanations, found)


def _print_run(made: _Made, folder: Path, *, as_json: bool) -> None:
    """Print the report of a run."""
    from sim.results import folder as outputs

    result, explanations, found = made.run, made.explanations, made.bottlenecks
    if as_json:
        more = {} if explanations is None else {"explain": outputs.explain_list(explanations)}
        echo(json.dumps(result.report.to_dict(result.engine_s) | more | outputs.critical_paths(found)))
        return
    from sim.report.present import bottlenecks as tables
    from sim.report.present import explanation
    from sim.report.present.render import render

    render(result.report, engine=(result.tasks, result.engine_s))
    explanation.render(explanations or ())
    tables.render(found or ())
    echo(f"results in {folder}/")


def _folders(loaded: Mapping[str, Scenario], settings: Sequence[str], out: Path) -> dict[str, Path]:
    """The folder of each scenario's results, by the scenario's name or file.

    Raises:
        InputError: it holds something else than results of this scenario file, or two of these have the same.
    """
    from sim.results import folder as outputs
    from sim.results import saved
    from sim.specs import load

    folders: dict[str, Path] = {}
    first: dict[Path, str] = {}
    for name, scenario in loaded.items():
        folders[name] = folder = out / outputs.folder_name(scenario, settings)
        same = first.setdefault(folder, name)
        saved.refuse_unlike(folder, scenario == loaded[same], load.source(same))
        saved.check_replaceable(folder, scenario, settings, load.source(name))
    return folders


def _warn_of_memory(memory: Memory, where: str) -> bool:
    """Whether a run fits in memory; a line on standard error where it does not."""
    if not memory.fits:
        needed, there = format_bytes(memory.used_bytes), format_bytes(memory.capacity_bytes)
        rule = f"warning: {where}: does not fit in memory: a chip needs {needed} of {there}"
        echo(f"{rule}; the times assume that it had them", err=True)
    return memory.fits


def plot(
    folder: Annotated[Path, typer.Argument(help="Results of a run: OUT/NAME.")],
    figures: Annotated[list[str] | None, typer.Argument(help="Figures to draw; default: all.")] = None,
    formats: Formats = "png",
) -> None:
    """Draw the figures of a run, or all of them and its page, again from its results, without simulating."""
    from sim.results import figures as pictures
    from sim.results import folder as outputs
    from sim.results import saved

    kinds = figure_formats(formats)
    for name in figures or ():
        if name not in pictures.FIGURES:
            raise InputError(
                "no such figure", where="FIGURES", got=name, hint=f"there are {', '.join(pictures.FIGURES)}"
            )
    with busy(f"drawing {folder}"), outputs.writable(folder):
        chosen = figures or tuple(pictures.FIGURES)
        results = saved.open_folder(folder)
        run = saved.restore(results)
        found = results.bottlenecks(run)
        drawn = pictures.draw(run, folder, kinds, chosen, bars=results.bars(), bottlenecks=found, page=not figures)
    for path in drawn:
        echo(str(path))


def export(
    folder: Annotated[Path, typer.Argument(help="Results of a run: OUT/NAME.")],
    form: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="kineto, perfetto or chakra.",
            autocompletion=one_of(lambda: ("kineto", "perfetto", "chakra")),
        ),
    ],
    chips: Annotated[
        list[int] | None, typer.Option("--chip", min=0, help="Chip to write, repeatable; default: all. Not for chakra.")
    ] = None,
) -> None:
    """Write the traces of a run for other tools.

    kineto: a file per rank as PyTorch's profiler writes it, for HolisticTraceAnalysis. perfetto: TrackEvents with
    nanoseconds. chakra: an execution trace per rank, for ASTRA-sim and `sim replay`.
    """
    from sim.results import folder as outputs

    run = outputs.read(folder)
    outputs.check_chips(run.scenario, chips or [], "--chip")
    with busy(f"writing {form}"), outputs.writable(folder):
        for path in outputs.export(run, folder, form, chips):
            echo(str(path))


def replay(
    traces: Annotated[str, typer.Argument(help="Chakra traces PREFIX.0.et, PREFIX.1.et, ...: give PREFIX.")],
    topology: Annotated[
        str, typer.Option(help="Machine: a shipped name or a file.", autocompletion=completed("topology"))
    ],
    settings: MachineSettings = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            "--comm-groups", help='Ranks of the communicator groups, JSON: {"name": [rank, ...]}; default: as traced.'
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Simulate Chakra execution traces, one per chip, on a machine; print where the time goes."""
    from sim import topology as machines
    from sim.export.chakra_replay import load as load_traces
    from sim.export.chakra_replay import read_groups, replayed
    from sim.specs import load

    machine = machines.build(*load.machine(topology, settings or []))
    ranks_of = None if groups is None else read_groups(groups, machine.chips)
    with about(traces):
        found = replayed(load_traces(Path(traces), machine, ranks_of), machine)
    if as_json:
        echo(json.dumps(found.to_dict()))
        return
    from sim.report.present import bottlenecks as tables

    tables.render([found.bottlenecks])
    for note in found.notes:
        echo(f"note: {note}")


def compare(
    before: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="Results of a run, OUT/NAME, or a scenario to simulate.",
            autocompletion=completed("scenario"),
        ),
    ],
    after: Annotated[str, typer.Argument(metavar="B", help="The same.", autocompletion=completed("scenario"))],
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("out"),
    as_json: Json = False,
    page: Annotated[bool, typer.Option("--plots/--no-plots", help="Write the page.")] = True,
    sensitive: Sensitive = False,
) -> None:
    """Set two runs side by side and say what makes the difference; write a page of both to OUT/A_vs_B.html.

    --set goes for both, and into the page's name. The differences of causes, and those of operations, add up to that
    of the steps.
    """
    from sim.report.present.comparison import render
    from sim.results import folder as outputs
    from sim.simulate.run import compare as compare_runs

    pair = [_run_of(name, settings or []) for name in (before, after)]
    names = [
        Path(name).resolve().name if Path(name).is_dir() else outputs.folder_name(run.scenario, settings or [])
        for name, run in zip((before, after), pair, strict=True)
    ]
    found = compare_runs(pair[0], pair[1], names)
    if page:
        from sim.results import page as html

        path = out / f"{outputs.named('_vs_'.join(names), [])}.html"
        with busy(f"writing {path}"), outputs.replacing_file(path) as fresh:
            html.write(pair, fresh, comparison=found)
    moved = None
    if sensitive:
        from sim.studies.sensitivity import Option, sensitivity

        options = [
            Option(label, run.scenario, run.report.simulated.latency_s) for label, run in zip("AB", pair, strict=True)
        ]
        with busy("moving constants"):
            moved = sensitivity(options)
    if as_json:
        echo(json.dumps(found.to_dict() | ({"sensitivity": moved.to_dict()} if moved else {})))
        return
    render(found)
    for line in moved.lines if moved else ():
        echo(line)
    if page:
        echo(f"page in {path}")


def _run_of(name: str, settings: list[str]) -> Run:
    """A run from its results, or simulated now."""
    from sim.results import folder as outputs
    from sim.simulate.run import run as run_scenario
    from sim.specs import load
    from sim.studies.sweep.points import refuse_sweep

    folder = Path(name)
    if folder.is_dir():
        if settings:
            raise InputError("goes with scenarios, not with results", where="--set", got=name)
        return outputs.read(folder)
    scenario = load.scenario(name, settings)
    with about(load.place("scenario", name)):
        refuse_sweep(scenario, settings)
        with busy(f"simulating {scenario.name}"):
            return replace(run_scenario(scenario), settings=tuple(settings))
