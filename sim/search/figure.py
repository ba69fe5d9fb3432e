"""Latency against cost of a search, with published points: Figure 1 of Pope et al. 2022 (arXiv 2211.05102)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim import load, suite
from sim.placement import used_chips
from sim.search.candidates import BASE, Phase
from sim.search.choose import pareto
from sim.specs import Scenario
from sim.sweep.points import Point
from sim.sweep.rows import Row
from sim.uses import PRESETS

if TYPE_CHECKING:
    from sim.plots.pareto import Chart

PUBLISHED = "pope"
"""The shipped suite whose measurements stand on the figure."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A published step of what was searched."""

    layout: str
    chips: int
    batch: int
    step_s: float
    cost_chip_s: float
    """Chip-seconds per token."""


def published(measured: Sequence[tuple[Point, Row]]) -> list[Measured]:
    """Latencies of Pope et al. 2022 (scenarios/published/pope_dev.csv) that are of what was searched.

    That is the same model, chip, number of chips, phase, batch, tokens per sequence and weights; the layout is the
    paper's choice.

    Args:
        measured: candidates and their rows.
    """
    ran = {row.choices["topology"]: point for point, row in measured if row.outcome}
    searched = {_work(load.scenario(BASE, point.settings)) for point in ran.values()}
    batches = {int(point.choices["batch"]) for point, _ in measured}
    found = []
    for case in suite.read(PUBLISHED)[1]:
        if not isinstance(case, suite.Case) or case.metric != "latency_s":
            continue
        scenario = case.scenario()
        work, chips = scenario.workload, used_chips(scenario)
        if work.batch in batches and _work(scenario) in searched:
            costs = chips * case.published / work.tokens
            found.append(Measured(scenario.layout.preset, chips, work.batch, case.published / work.steps, costs))
    return found


def chart(title: str, phase: Phase, rows: Sequence[Row], beside: Sequence[Measured]) -> Chart:
    """The figure of rows that fit: every candidate, the front of each layout, and which of them nothing beats."""
    from sim.plots.pareto import Chart, Line, Spot

    scale, unit = (1e3, "ms per token") if phase == "decode" else (1.0, "s")
    several = len({row.outcome.chips for row in rows if row.outcome}) > 1

    def spot(step_s: float, cost_chip_s: float, chips: int, batch: int | str) -> Spot:
        label = f"C{chips} B{batch}" if several else f"B{batch}"
        return Spot(step_s * scale, cost_chip_s * 1e3, label)

    def spots(some: Sequence[Row]) -> tuple[Spot, ...]:
        return tuple(
            spot(
                row.outcome.simulated.step_s, row.outcome.simulated.cost_chip_s, row.outcome.chips, row.choices["batch"]
            )
            for row in some
            if row.outcome
        )

    lines = []
    for label, own in _lines(rows).items():
        known = tuple(spot(m.step_s, m.cost_chip_s, m.chips, m.batch) for m in beside if m.layout == own[0])
        lines.append(Line(label, spots(own[1]), spots(pareto(own[1])), known))
    named = "chips C and batch B" if several else "batch B"
    return Chart(title, f"latency, {unit}", "cost, chip-ms per token", tuple(lines), spots(pareto(rows)), named)


def _lines(rows: Sequence[Row]) -> dict[str, tuple[str, list[Row]]]:
    """Layout and rows of each line: a layout, or a number of GPUs where all are tensor parallel."""
    if all(row.choices["ffn"] == "tensor_parallel" for row in rows):
        groups = sorted({row.choices["mesh"] for row in rows}, key=int)
        return {
            f"tensor parallel over {chips}": ("tensor_parallel", [row for row in rows if row.choices["mesh"] == chips])
            for chips in groups
        }
    return {
        layout.replace("_", " "): (layout, [row for row in rows if row.choices["ffn"] == layout]) for layout in PRESETS
    }


def _work(scenario: Scenario) -> tuple[Any, ...]:
    """What published and simulated steps must have in common, all but the batch and the layout."""
    work, model = scenario.workload, scenario.model
    shape = (model.name, scenario.layers, model.kv_heads, model.d_head, scenario.layout.block)
    machine = (scenario.topology.chip.name, used_chips(scenario))
    return (*shape, *machine, work.phase, work.prompt, work.context, work.weights)
