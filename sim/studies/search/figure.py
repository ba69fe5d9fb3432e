"""Latency against cost of a search, with published points: Figure 1 of Pope et al. 2022 (arXiv 2211.05102)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sim.lowering.placement import used_chips
from sim.specs import Scenario, load
from sim.specs.uses import PRESETS
from sim.studies.search.candidates import BASE, Phase
from sim.studies.search.choose import Goal, simulated_figures, work_key
from sim.studies.sweep.points import Point
from sim.studies.sweep.rows import Row
from sim.studies.validate.cases import read
from sim.studies.validate.runs import ScenarioRun

if TYPE_CHECKING:
    from sim.plots.pareto import Chart

MOST_LINES = 10
"""Colours that stay apart."""

PUBLISHED = "pope"
"""The shipped suite whose measurements stand on the figure."""


class PublishedStep(Struct, frozen=True):
    """A published step of what was searched."""

    topology: str
    layout: str
    chips: int
    batch: int
    step_s: float
    cost_chip_s: float
    """Chip-seconds per token."""


def published_steps(measured: Sequence[tuple[Point, Row]]) -> list[PublishedStep]:
    """Latencies of Pope et al. 2022 (scenarios/published/pope_dev.csv) that are of what was searched.

    That is the same model, chip, number of chips, phase, batch, tokens per sequence and weights; the layout is the
    paper's choice.

    Args:
        measured: candidates and their rows.
    """
    ran = {(row.choices["topology"], row.choices["chips"]): point for point, row in measured if row.outcome}
    searched = {_work(load.scenario(BASE, point.settings)): name for (name, _), point in ran.items()}
    batches = {int(point.choices["batch"]) for point, _ in measured}
    steps = []
    for case in read(PUBLISHED)[1]:
        if not isinstance(case.run, ScenarioRun) or case.metric != "latency_s":
            continue
        scenario = case.run.scenario()
        work, chips, name = scenario.workload, used_chips(scenario), searched.get(_work(scenario))
        if work.batch in batches and name:
            costs = chips * case.published / work.tokens
            step_s = case.published / work.steps
            steps.append(PublishedStep(name, scenario.layout.preset, chips, work.batch, step_s, costs))
    return steps


def build_chart(title: str, phase: Phase, rows: Sequence[Row], beside: Sequence[PublishedStep], goal: Goal) -> Chart:
    """Builds the figure of rows that fit: every candidate, the front of each layout, and the front of all.

    A colour is a layout, with the residual scheme where several were searched; a marker is a machine.
    """
    from sim.plots.pareto import Chart, Line, Spot

    scale, unit = (1e3, "ms per token") if phase == "decode" else (1.0, "s")
    machines = list(dict.fromkeys(row.choices["topology"] for row in rows))
    several = len({(row.choices["topology"], row.choices["chips"]) for row in rows}) > len(machines)
    cost = goal.unit if goal.prices else "chip-ms per token"

    def spot(step_s: float, costs: float, topology: str, chips: int | str, batch: int | str) -> Spot:
        label = f"C{chips} B{batch}" if several else f"B{batch}"
        return Spot(step_s * scale, costs, label, machines.index(topology))

    def spots(some: Sequence[Row]) -> tuple[Spot, ...]:
        return tuple(spot(simulated_figures(row).step_s, goal.cost(row), *work_key(row)) for row in some)

    lines = []
    for (ffn, *more), line_rows in _lines(rows).items():
        known = [m for m in beside if m.layout == ffn]
        published = tuple(
            spot(m.step_s, m.cost_chip_s * goal.price(m.topology), m.topology, m.chips, m.batch) for m in known
        )
        label = ", ".join((ffn.replace("_", " "), *more))
        lines.append(Line(label, spots(line_rows), spots(goal.pareto(line_rows)), published))
    named = "chips C and batch B" if several else "batch B"
    kinds = tuple(Path(name).stem for name in machines) if len(machines) > 1 else ()
    front = spots(goal.pareto(rows))
    return Chart(title, f"latency, {unit}", f"cost, {cost}", tuple(lines), front, named, machines=kinds)


def _lines(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Groups rows by layout, and by residual scheme if several were searched, in the order of the presets.

    Of more than there are colours, those that come nearest to the best of all have their own, the rest have one.
    """
    schemes = {(row.choices["residual"],) if "residual" in row.choices else () for row in rows}
    groups: dict[tuple[str, ...], list[Row]] = {
        (name, *line_rows): [] for name in PRESETS for line_rows in sorted(schemes)
    }
    for row in rows:
        groups[row.choices["ffn"], *([row.choices["residual"]] if "residual" in row.choices else [])].append(row)
    if len(groups) <= MOST_LINES:
        return groups

    def nearest(key: tuple[str, ...]) -> float:
        return min(
            (simulated_figures(row).step_s * simulated_figures(row).cost_chip_s for row in groups[key]),
            default=math.inf,
        )

    kept = sorted(groups, key=nearest)[: MOST_LINES - 1]
    rest = [row for key, line_rows in groups.items() if key not in kept for row in line_rows]
    return {key: line_rows for key, line_rows in groups.items() if key in kept} | {("others",): rest}


def _work(scenario: Scenario) -> tuple[Any, ...]:
    """Returns what published and simulated steps must share: everything except batch and layout."""
    work, model = scenario.workload, scenario.model
    shape = (model.name, scenario.layers, model.kv_heads, model.d_head, scenario.layout.block)
    machine = (scenario.topology.chip.name, used_chips(scenario))
    return (*shape, *machine, work.phase, work.prompt, work.context, work.weights)
