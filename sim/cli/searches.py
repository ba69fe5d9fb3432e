"""Many candidates for one model: the best layout, mesh and machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sim.cli.options import (
    INTERRUPTED,
    Json,
    Sensitive,
    Settings,
    busy,
    completed,
    gathered,
    one_of,
    rated,
)
from sim.cli.studies import check_internal
from sim.errors import InputError, suggest
from sim.specs.uses import PRESETS
from sim.terminal import echo

if TYPE_CHECKING:
    from sim.studies.search import Goal
    from sim.studies.sweep.points import Point
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
    layouts: Annotated[str, typer.Option(help="Presets to try, such as fsdp,tensor_parallel.")] = ",".join(PRESETS),
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
    jobs: Annotated[int, typer.Option(min=1, help="Processes on this computer.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of the figure.")] = Path("out"),
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the figure.")] = True,
    sensitive: Sensitive = False,
) -> None:
    """Try every layout and attention sharding on every mesh and number of chips of every machine given.

    Print the best per objective, the Pareto front and what their steps spend time on; draw latency against cost to
    OUT/search_MODEL_PHASE.png. Ctrl-C prints the best of what is there.
    """
    from sim.results import folder as outputs
    from sim.studies import search as searching

    if phase not in ("decode", "prefill"):
        raise InputError("no such phase", where="--phase", got=phase, hint=suggest(phase, ("decode", "prefill")))
    machines = searching.machines(topology, searching.counts(chips) if chips else None, settings or [])
    goal = searching.goal(max_step, price, searching.chips_of_topologies([each.topology for each in machines]))
    options = {"layouts": layouts, "residual": residual, "overlap": overlap}
    chosen = [searching.named(text, option) for option, text in options.items()]
    work = searching.Work(model, phase, searching.batches(batch), tokens, generate, weights, *chosen)  # type: ignore[arg-type]
    planned = searching.candidates(work, machines, settings or [])
    tried: dict[int, Row | None] = {}
    with rated(f"searching {len(planned)} candidates", len(planned)) as progress:
        rows = searching.searched(planned, jobs, goal.max_step_s, prune=prune)
        complete = gathered(rows, lambda numbered: tried.update([numbered]), progress)
    if not complete:
        echo(f"interrupted: {len(tried)} of {len(planned)} candidates were tried", err=True)
        if not tried:
            raise typer.Exit(INTERRUPTED)
    numbered = [(planned[number], row) for number, row in sorted(tried.items()) if row]
    done = [row for _, row in numbered]
    if not any(row.outcome for row in done):
        check_internal(done)
    found = _Found(goal, numbered, len(tried), goal.fitting(done))
    with busy("taking apart the winners"):
        taken = found.taken_apart()
    based, moved = searching.rest_on(numbered), {}
    if sensitive:
        with busy("moving constants"):
            moved = {objective: searching.sensitive(numbered, goal, objective) for objective in goal.objectives}
    path = out / f"search_{Path(model).stem}_{phase}.png"
    if plots:
        from sim.plots import pareto

        names = ", ".join(Path(name).stem for name in topology)
        names = f"{chips.replace(',', ', ')} chips as of {names}" if chips else names
        title = f"{phase} of {Path(model).stem} on {names}, {weights} weights"
        with busy(f"drawing {path}"), outputs.replacing_file(path) as fresh:
            chart = searching.chart(title, work.phase, found.fitting, searching.published(numbered), goal)
            pareto.draw(replace(chart, rests_on=based), fresh)
    if as_json:
        more = {"rests_on": list(based), "sensitivity": {name: each.to_dict() for name, each in moved.items()}}
        echo(json.dumps({"complete": complete} | found.to_dict(taken) | more))
    else:
        found.render(taken)
        for line in based:
            echo(f"rests on: {line}")
        for objective, each in moved.items():
            for line in each.lines:
                echo(f"{objective}: {line}")
        if plots:
            echo(f"figure in {path}")
    if not complete:
        raise typer.Exit(INTERRUPTED)
    check_internal(done)


@dataclass(frozen=True, slots=True)
class _Found:
    """What came out of a search."""

    goal: Goal
    measured: Sequence[tuple[Point, Row]]
    tried: int
    """Candidates, with those that were skipped."""
    fitting: Sequence[Row]

    @property
    def best(self) -> dict[str, Row]:
        return {objective: self.goal.best(self.fitting, objective) for objective in self.goal.objectives}

    @property
    def best_per_batch(self) -> list[Row]:
        from sim.studies.search import nearest

        return [group[0] for group in nearest(self.fitting, 1).values()]

    def taken_apart(self) -> list[list[tuple[Row, dict[str, float]]]]:
        """Of each machine, and of the chips and batch of each of its winners: the fastest and what their steps are."""
        from sim.studies.search import KEPT, nearest, why

        groups, points = nearest(self.fitting, KEPT), {id(row): point for point, row in self.measured}
        firsts: dict[int, list[Row]] = {}
        for topology in dict.fromkeys(row.choices["topology"] for row in self.fitting):
            own = [group for key, group in groups.items() if key[0] == topology]
            for better in self.goal.objectives.values():
                group = min(own, key=lambda group: better(group[0]))
                firsts[id(group)] = group
        return [[(row, why(points[id(row)])) for row in group] for group in firsts.values()]

    def to_dict(self, taken: Sequence[Sequence[tuple[Row, dict[str, float]]]]) -> dict[str, Any]:
        """JSON data."""
        lists = {"best_per_batch": self.best_per_batch, "pareto": self.goal.pareto(self.fitting)}
        return {
            "candidates": self.tried,
            "pruned": self.tried - len(self.measured),
            "fitting": len(self.fitting),
            "cost_unit": self.goal.unit,
            "best": {objective: self._row(row) for objective, row in self.best.items()},
            **{name: [self._row(row) for row in some] for name, some in lists.items()},
            "why": [[self._row(row) | {"step_parts_s": parts} for row, parts in group] for group in taken],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        return row.to_dict() | {"cost": self.goal.cost(row)}

    def render(self, taken: Sequence[Sequence[tuple[Row, dict[str, float]]]]) -> None:
        """Print tables."""
        from sim.studies.sweep.choices import render, render_parts

        legal = sum(row.outcome is not None for _, row in self.measured)
        pruned = self.tried - len(self.measured)
        echo(
            f"{self.tried} candidates, {pruned} skipped by a lower bound; of the others {legal} legal, "
            f"{len(self.fitting)} fit{'' if self.goal.max_step_s == float('inf') else ' and are fast enough'}"
        )
        cost = self.goal.unit, self.goal.cost
        render("best per objective", self.best, *cost)
        tables: Mapping[str, Sequence[Row]] = {
            "fastest of each machine, number of chips and batch": self.best_per_batch,
            "Pareto front of step time and cost": self.goal.pareto(self.fitting),
        }
        for title, rows in tables.items():
            render(title, {str(i + 1): row for i, row in enumerate(rows)}, *cost)
        render_parts("why: the critical path of winners, and of the next with as many chips and the same batch", taken)
