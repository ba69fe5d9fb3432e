"""The `sim` command. Heavy packages are imported by the commands that use them."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim import units
from sim.errors import DeadlockError, InputError, LayoutError

if TYPE_CHECKING:
    from sim.run import Run

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Discrete-event simulator of multi-device collectives for Transformer inference.",
)

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field, such as layout.overlap=none. Repeatable."),
]
_PATIENCE_S = 2.0
"""What takes longer shows how far it is."""

Formats = Annotated[str, typer.Option("--format", help="Of the figures: png, svg, pdf, or several: png,svg.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def _names(kind: str) -> Callable[[str], list[str]]:
    """Completion of a shipped name, for `sim --install-completion`."""

    def complete(incomplete: str) -> list[str]:
        from sim import load

        return [name for name in load.shipped(kind) if name.startswith(incomplete)]

    return complete


def _version(wanted: bool) -> None:
    if wanted:
        from sim import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    scenarios: Annotated[
        list[str], typer.Argument(help="Scenario files, or names of shipped ones.", autocompletion=_names("scenario"))
    ],
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder of the results, one folder inside per scenario.")] = Path("out"),
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the figures and report.html.")] = True,
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say how long it took and what was written.")
    ] = False,
) -> None:
    """Simulate scenarios; print each report and write it with its timeline and traces to OUT/NAME."""
    from sim import load, outputs
    from sim.run import run as run_scenario
    from sim.sweep.points import refuse_sweep

    chosen = settings or []
    kinds = _formats(formats)
    loaded = [load.scenario(name, chosen) for name in scenarios]  # all files are checked before anything runs
    for name, scenario in zip(scenarios, loaded, strict=True):
        with _about(load.place("scenario", name)):
            refuse_sweep(scenario, chosen)
        outputs.check_chips(scenario, trace_chips or [])
    for name, scenario in zip(scenarios, loaded, strict=True):
        folder = out / outputs.folder_name(scenario, chosen)
        with outputs.replacing(folder) as fresh:
            where = load.place("scenario", name) + (f" with --set {' --set '.join(chosen)}" if chosen else "")
            began = time.monotonic()
            with _steps(f"simulating {scenario.name}") as progress, _about(where):
                result = run_scenario(scenario, progress)
            simulated_s = time.monotonic() - began
            explanations = None
            if explained:
                from sim.explain import explain

                with _busy(f"explaining {scenario.name}"), _about(where):
                    explanations = explain(result)
            found = None
            if critical_path:
                from sim.run import bottlenecks

                with _steps(f"{scenario.name} again with parts free") as progress:
                    found = bottlenecks(result, progress)
            with _busy(f"writing {folder}"):
                outputs.write(
                    result,
                    fresh,
                    formats=kinds if plots else (),
                    explanations=explanations,
                    bottlenecks=found,
                    chips=trace_chips,
                )
        if as_json:
            more = {} if explanations is None else {"explain": outputs.explain_list(explanations)}
            typer.echo(json.dumps(result.report.to_dict(result.engine_s) | more | outputs.critical_paths(found)))
        elif not quiet:
            from sim.report import bottlenecks as tables
            from sim.report import explanation
            from sim.report.render import render

            render(result.report, engine=(result.tasks, result.engine_s))
            explanation.render(explanations or ())
            tables.render(found or ())
            typer.echo(f"results in {folder}/")
        if verbose:
            whole_s = time.monotonic() - began
            typer.echo(f"{where}: simulated in {simulated_s:.2f} s, with figures and files {whole_s:.2f} s", err=True)
            for path in sorted(folder.iterdir()):
                typer.echo(f"{path.stat().st_size:>12,} bytes  {path}", err=True)


@app.command(name="list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="scenarios, topologies, models, suites, layouts or collectives; default: all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List what there is to choose from, one line each."""
    from sim.listing import listing

    found = listing(kind)
    if as_json:
        typer.echo(json.dumps({name: dict(rows) for name, rows in found.items()}))
        return
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for name, rows in found.items():
        wide = max(len(row[0]) for row in rows)
        typer.echo(name)
        for own, about in rows:
            typer.echo(f"  {own:<{wide}}  {about}".rstrip()[:room])


@app.command()
def plot(
    folder: Annotated[Path, typer.Argument(help="Results of a run: OUT/NAME.")],
    figures: Annotated[list[str] | None, typer.Argument(help="Figures to draw; default: all.")] = None,
    formats: Formats = "png",
) -> None:
    """Draw the figures of a run, or all of them and its page, again from its results, without simulating."""
    from sim import outputs, pictures

    kinds = _formats(formats)
    for name in figures or ():
        if name not in pictures.FIGURES:
            raise InputError(
                "no such figure", where="FIGURES", got=name, hint=f"there are {', '.join(pictures.FIGURES)}"
            )
    with _busy(f"drawing {folder}"), outputs.writable(folder):
        chosen = figures or tuple(pictures.FIGURES)
        drawn = pictures.draw(outputs.read(folder), folder, kinds, chosen, page=not figures)
    for path in drawn:
        typer.echo(str(path))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Results of a run: OUT/NAME.")],
    form: Annotated[str, typer.Argument(metavar="FORMAT", help="kineto, perfetto or chakra.")],
    chips: Annotated[
        list[int] | None, typer.Option("--chip", min=0, help="Chip to write, repeatable; default: all. Not for chakra.")
    ] = None,
) -> None:
    """Write the traces of a run for other tools.

    kineto: a file per rank as PyTorch's profiler writes it, for HolisticTraceAnalysis. perfetto: TrackEvents with
    nanoseconds. chakra: an execution trace per rank, for ASTRA-sim and `sim replay`.
    """
    from sim import outputs

    run = outputs.read(folder)
    outputs.check_chips(run.scenario, chips or [])
    with _busy(f"writing {form}"), outputs.writable(folder):
        for path in outputs.export(run, folder, form, chips):
            typer.echo(str(path))


@app.command()
def replay(
    traces: Annotated[str, typer.Argument(help="Chakra traces PREFIX.0.et, PREFIX.1.et, ...: give PREFIX.")],
    topology: Annotated[
        str, typer.Option(help="Machine: a shipped name or a file.", autocompletion=_names("topology"))
    ],
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Simulate Chakra execution traces, one per chip, on a machine; print where the time goes."""
    from sim import load
    from sim import topology as machines
    from sim.replay import load as load_traces
    from sim.replay import replayed

    machine = machines.build(load.topology_spec(topology, settings or []))
    with _possible(load.place("topology", topology)):
        found = replayed(load_traces(Path(traces), machine), machine)
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
        return
    from sim.report import bottlenecks as tables

    tables.render([found])


@app.command()
def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="Results of a run, OUT/NAME, or a scenario to simulate.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("out"),
    as_json: Json = False,
    page: Annotated[bool, typer.Option("--plots/--no-plots", help="Write the page.")] = True,
) -> None:
    """Set two runs side by side and say what makes the difference; write a page of both to OUT/A_vs_B.html.

    --set goes for both. The differences of causes, and those of operations, add up to that of the steps.
    """
    from sim import outputs
    from sim.report.comparison import render
    from sim.run import compare as compare_runs

    pair = [_run_of(name, settings or []) for name in (before, after)]
    found = compare_runs(*pair)
    if page:
        from sim import html

        path = out / f"{outputs.file_name(found.before)}_vs_{outputs.file_name(found.after)}.html"
        with _busy(f"writing {path}"), outputs.replacing_file(path) as fresh:
            html.write(pair, fresh, comparison=found)
    if as_json:
        typer.echo(json.dumps(found.to_dict()))
        return
    render(found)
    if page:
        typer.echo(f"page in {path}")


def _run_of(name: str, settings: list[str]) -> Run:
    """A run from its results, or simulated now."""
    from sim import load, outputs
    from sim.run import run as run_scenario
    from sim.sweep.points import refuse_sweep

    folder = Path(name)
    if folder.is_dir():
        if settings:
            raise InputError("goes with scenarios, not with results", where="--set", got=name)
        return outputs.read(folder)
    scenario = load.scenario(name, settings)
    with _about(load.place("scenario", name)):
        refuse_sweep(scenario, settings)
        with _busy(f"simulating {scenario.name}"):
            return run_scenario(scenario)


@app.command()
def sweep(
    scenario: Annotated[
        str,
        typer.Argument(
            help="Scenario file with a sweep, or the name of a shipped one.", autocompletion=_names("scenario")
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
    with _about(load.place("scenario", scenario)):
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
        with _rated(f"simulating {base.name}", len(todo)) as progress, record.open(found) as file:
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
        with _about(load.place("scenario", scenario)):
            raise InputError("not one point of the sweep can run", where="sweep", hint=f"the first: {done[0].error}")


@app.command()
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
    with _rated(f"searching {len(planned)} candidates", len(planned)) as progress:
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
        with _busy(f"drawing {path}"), outputs.replacing_file(path) as fresh:
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


@app.command()
def collective(
    name: Annotated[str, typer.Argument(help="all_gather, reduce_scatter, all_reduce, all_to_all, ...")],
    topology: Annotated[
        str, typer.Option(help="Machine: a shipped name or a file.", autocompletion=_names("topology"))
    ],
    axes: Annotated[str, typer.Option(help="Mesh axes of a group, such as xyz; default: all.")] = "",
    size: Annotated[str, typer.Option(help="Bytes, such as 64MiB.")] = "",
    minimum: Annotated[str, typer.Option("--min", help="Smallest size of a sweep.")] = "",
    maximum: Annotated[str, typer.Option("--max", help="Largest size of a sweep.")] = "",
    factor: Annotated[int, typer.Option(min=2, help="Step factor of a sweep.")] = 2,
    algorithm: Annotated[str, typer.Option(help="Default: the topology's; with NCCL what NCCL would choose.")] = "",
    chunks: Annotated[int, typer.Option(min=1, max=1024, help="Cut the data: so many collectives at once.")] = 1,
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder of the figure of a sweep.")] = Path("out"),
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw busbw against size, of a sweep.")] = True,
) -> None:
    """Simulate one collective and print it as nccl-tests does, with the closed form and the bound beside it.

    Of a sweep of sizes the bus bandwidth is drawn too, with the published measurements of this machine. The size of
    all_gather and reduce_scatter is the full gathered array, of all_to_all one chip's buffer.
    """
    from sim import bench, load, outputs

    wanted = bench.sizes(size, minimum, maximum, factor)
    with _possible(load.place("topology", topology)):
        rows = bench.sweep(
            name,
            topology,
            axes=axes,
            sizes=wanted,
            algorithm=algorithm or None,
            settings=settings or [],
            chunks=chunks,
        )
    if as_json:
        typer.echo(json.dumps([row.to_dict() for row in rows]))
    else:
        typer.echo(bench.table(rows))
    if plots and len(rows) > 1:
        from sim.plots import busbw
        from sim.suite import measured

        machine = load.topology_spec(topology, settings or []).name
        points = measured(machine, name, rows[0].group, algorithm or None)
        with outputs.replacing_file(out / f"{machine}_{name}.png") as fresh:
            busbw.draw(rows, machine, fresh, form=rows[0].form, measured=points)
        typer.echo(f"figure in {out / f'{machine}_{name}.png'}", err=True)  # the table alone is what a pipe gets


@app.command()
def topology(
    name: Annotated[str, typer.Argument(help="Machine: a shipped name or a file.")],
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder of the drawing.")] = Path("out"),
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw it.")] = True,
) -> None:
    """Describe a machine: chips, links, diameter, average hops, bisection; save a drawing to OUT/NAME.png."""
    from sim import load, outputs
    from sim import topology as machines
    from sim.topology import describe

    spec = load.topology_spec(name, settings or [])
    with _about(load.place("topology", name)):
        built = machines.build(spec)
    facts = describe.facts(built)
    if plots:
        from sim.plots import topology as drawing

        with outputs.replacing_file(out / f"{built.name}.png") as fresh:
            drawing.draw(built, fresh)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for label, value in describe.lines(facts):
        typer.echo(f"{label:<22}{value}")
    if plots:
        typer.echo(f"{'drawing':<22}{out / f'{built.name}.png'}")


@app.command()
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
        with _steps(f"validating {name}") as progress, _possible(load.place("suite", name)):
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


@app.command()
def calibrate(
    suite: Annotated[str, typer.Argument(help="Suite file with a calibration, or the name of a shipped one.")],
    rows: Annotated[Path | None, typer.Option(help="Another CSV of the same columns.")] = None,
    as_json: Json = False,
) -> None:
    """Fit the machine constants that a suite names to the rows that it names."""
    from sim import calibrate as calibration
    from sim import load

    with _steps("fitting") as progress, _possible(load.place("suite", suite)):
        found = calibration.fit(suite, rows, lambda evaluations, rms: progress(evaluations, 0))
    if as_json:
        typer.echo(json.dumps({"values": dict(found.values), "residuals": dict(found.residuals)}))
    else:
        typer.echo(calibration.report(found))


@app.command()
def schema(
    out: Annotated[Path, typer.Option(help="Folder of the schema files.")] = Path("schemas"),
) -> None:
    """Write the JSON Schema of every kind of file, for editors."""
    from sim import outputs
    from sim import schema as schemas

    with outputs.writable(out):
        for path in schemas.write(out):
            typer.echo(str(path))


def _formats(given: str) -> tuple[str, ...]:
    """`png,svg` as names. Raises InputError."""
    known = ("png", "svg", "pdf")
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",")))
    for name in names:
        if name not in known:
            raise InputError("no such format", where="--format", got=name, hint=f"there are {', '.join(known)}")
    return names


@contextmanager
def _steps(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal for what takes longer, nothing elsewhere: call it with (steps done, steps in all or 0)."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, visible=False)
        began = time.monotonic()
        yield lambda done, total: bar.update(
            task, completed=done, total=total or None, visible=time.monotonic() - began > _PATIENCE_S
        )


@contextmanager
def _rated(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar with the rate and the time left on a terminal, nothing elsewhere: call it after every step."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = TextColumn("{task.description}, {task.fields[rate]}"), BarColumn(), MofNCompleteColumn()
    began = time.monotonic()
    with Progress(*shown, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, rate="")

        def step() -> None:
            done = bar.tasks[0].completed + 1
            bar.update(task, advance=1, rate=f"{done / max(time.monotonic() - began, 1e-9):.1f}/s")

        yield step


@contextmanager
def _busy(what: str) -> Iterator[None]:
    """A spinner on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


@contextmanager
def _about(where: str) -> Iterator[None]:
    """Errors inside name the file they come from."""
    try:
        with _possible(where):
            yield
    except LayoutError as error:
        raise (error if error.where else error.within("layout")).within(where) from None
    except InputError as error:
        raise (error if error.where.startswith(where) else error.within(where)) from None


@contextmanager
def _possible(where: str) -> Iterator[None]:
    """More than this computer or the clock can hold is bad input like any other."""
    import numpy as np

    try:
        with np.errstate(invalid="raise"):  # a float that no integer of the clock can hold
            yield
    except MemoryError:
        raise InputError("does not fit this computer's memory", where=where, hint="try a smaller machine") from None
    except (OverflowError, FloatingPointError):
        rule = f"takes longer than the clock of the simulation counts, {units.CLOCK_S:.1e} s"
        raise InputError(rule, where=where, hint="check sizes and rates") from None


def main() -> None:
    """Entry point: bad input is one line on standard error and exit code 2."""
    try:
        app()
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except DeadlockError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
