"""`sim search`: the best layout, mesh and machine of many candidates for one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace

from sim.cli.errors import INTERRUPTED, check_internal
from sim.cli.options import Formats, Jobs, Json, Plugins, Sensitive, Settings, Width, completed, figure_form, one_of
from sim.cli.progress import collect, progress
from sim.errors import InputError, suggest
from sim.terminal import echo

if TYPE_CHECKING:
    from sim.studies.sweep.rows import Row


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
    layouts: Annotated[str, typer.Option(help="Presets to try, such as fsdp,tensor_parallel; default: all.")] = "",
    residual: Annotated[
        str, typer.Option(help="Such as own,ladder: schemes other than the model's own change the model.")
    ] = "own",
    overlap: Annotated[
        str, typer.Option(help="Such as own,micro_batches; own: as the stack runs, which is what was validated.")
    ] = "own",
    max_step: Annotated[str, typer.Option(help="Such as 20ms: slower ones do not win.")] = "",
    price: Annotated[
        str, typer.Option(help="Dollars per chip and hour, such as 2.5 or tpu_v5e=1.2,h100_sxm=2.5.")
    ] = "",
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="Skip what a lower bound proves slower than three others.")
    ] = True,
    settings: Settings = None,
    jobs: Jobs = 1,
    out: Annotated[Path, typer.Option(help="Folder of the figure.")] = Path("out"),
    plugins: Plugins = None,
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the figure.")] = True,
    formats: Formats = "png",
    width: Width = "",
    sensitive: Sensitive = False,
) -> None:
    """Try every layout and attention sharding on every mesh and number of chips of every machine given.

    Print the fastest of each, which of them are best at what, and what their steps spend time on; draw latency against
    cost to OUT/search_MODEL_PHASE,MACHINES,OPTIONS.png, and the critical paths of steps to a file ..._parts.png. Ctrl-C
    prints the best of what is there.
    """
    from sim.specs.uses import PRESETS
    from sim.studies import search as searching

    form = figure_form(formats, width)
    if phase not in ("decode", "prefill"):
        raise InputError(
            "must be decode or prefill", where="--phase", got=phase, hint=suggest(phase, ("decode", "prefill"))
        )
    counts = searching.parse_counts(chips) if chips else None
    with progress("building machines"):
        machines = searching.list_machines(topology, counts, settings or [])
    goal = searching.parse_goal(max_step, price, searching.chip_names([each.topology for each in machines]))
    options = {"layouts": layouts or ",".join(PRESETS), "residual": residual, "overlap": overlap}
    chosen = [searching.parse_names(text, option) for option, text in options.items()]
    work = searching.Work(model, phase, searching.parse_batches(batch), tokens, generate, weights, *chosen)  # type: ignore[arg-type]
    with progress("listing candidates"):
        planned = searching.list_candidates(work, machines, settings or [])
    tried: dict[int, Row | None] = {}
    with progress(f"searching {len(planned)} candidates") as report:
        rows = searching.run_candidates(planned, jobs, goal.max_step_s, prune=prune)
        complete = collect(rows, lambda numbered: tried.update([numbered]), report, len(planned))
    if not complete:
        echo(f"interrupted: {len(tried)} of {len(planned)} candidates were tried", err=True)
        if not tried:
            raise typer.Exit(INTERRUPTED)
    numbered = [(planned[number], row) for number, row in sorted(tried.items()) if row]
    done = [row for _, row in numbered]
    if not any(row.outcome for row in done):
        check_internal(done)
    result = searching.SearchResult(work.phase, goal, numbered, len(tried), goal.fitting(done))
    with progress("taking apart the winners"):
        explained = result.explain_winners()
        based = searching.list_assumptions(numbered)
        stacks = searching.describe_stacks(numbered)
        said = [*([f"note: {stacks}"] if stacks else []), *(f"rests on: {line}" for line in based)]
    moved = {}
    if sensitive:
        with progress("moving constants"):
            moved = {
                objective: searching.winner_sensitivity(numbered, goal, objective) for objective in goal.objectives
            }
    written: list[Path] = []
    if plots:
        from sim.plots import pareto, step_parts
        from sim.results.figures import write_figure
        from sim.results.folder import unique_file_name
        from sim.simulate.result import describe_settings
        from sim.studies.step_parts import describe_choices

        names = ", ".join(Path(name).stem for name in topology)
        names = f"{chips.replace(',', ', ')} chips as of {names}" if chips else names
        title = f"{phase} of {Path(model).stem} on {names}, {weights} weights"
        options = {"batch": batch, "chips": chips, "max_step": max_step, "price": price}
        named = [f"{name}={text}" for name, text in options.items() if text]
        of_machines = "+".join(Path(name).stem for name in topology)
        stem = out / unique_file_name(
            f"search_{Path(model).stem}_{phase}", [of_machines, *named, *work.changed_fields, *(settings or [])]
        )
        below = f"\n{describe_settings(settings)}" if settings else ""
        with progress(f"drawing {stem}"):
            chart = searching.build_chart(
                title + below, work.phase, result.fitting, searching.published_steps(numbered), goal
            )
            written = write_figure(lambda: pareto.draw(replace(chart, notes=tuple(said))), stem, form)
            bars = [step_parts.Bar(describe_choices(row.choices), parts) for group in explained for row, parts in group]
            parts_title = f"{title}: critical paths of the fastest{below}"
            written += write_figure(
                lambda: step_parts.draw(bars, parts_title), stem.with_name(f"{stem.name}_parts"), form
            )
    if as_json:
        more = {
            "stacks": stacks,
            "rests_on": list(based),
            "sensitivity": {name: each.to_dict() for name, each in moved.items()},
        }
        echo(json.dumps({"complete": complete} | result.to_dict(explained) | more))
    else:
        from sim.studies.search.table import render

        render(result, explained)
        for line in said:
            echo(line)
        for objective, each in moved.items():
            for line in each.lines:
                echo(f"{objective}: {line}")
        for path in written:
            echo(f"figure in {path}")
    if not complete:
        raise typer.Exit(INTERRUPTED)
    check_internal(done)
