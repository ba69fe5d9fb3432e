"""Search: every layout, attention sharding and overlap of a model on some machines at some batches, and the best.

A candidate is a point of a sweep over a shipped scenario, so it is measured, and spread over processes, like one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sim import load, suite
from sim.errors import InputError
from sim.partition import LAYOUTS
from sim.specs import Scenario, TorusSpec, chips_of
from sim.sweep.points import NO_SWEEP, Point
from sim.sweep.rows import Figures, Row

if TYPE_CHECKING:
    from sim.plots.pareto import Chart

PUBLISHED = "pope"
"""The shipped suite whose measurements stand on the figure."""

BASE = "palm540b_decode_ws2d"
"""The shipped scenario whose fields the candidates override."""

Phase = Literal["decode", "prefill"]

OBJECTIVES: dict[str, Callable[[Figures], float]] = {
    "latency": lambda figures: figures.latency_s,
    "cost": lambda figures: figures.cost_chip_s,
    "throughput": lambda figures: -figures.tokens_per_s,
}
"""What is to be least; cost is chip-seconds per token (Pope et al. section 4.4)."""


def candidates(
    model: str,
    topologies: Sequence[str],
    phase: Phase,
    batches: Sequence[int],
    tokens: int,
    generate: int,
    dtype: str,
    settings: Sequence[str] = (),
) -> list[Point]:
    """All combinations; those that are not legal say so when they are measured.

    Args:
        tokens: of the prompt of a prefill, of the context of a decode step.
        dtype: of the weights.
        settings: `key=value` of every candidate.

    Raises:
        InputError: no such machine.
    """
    length = {"context": tokens, "generate": generate} if phase == "decode" else {"prompt": tokens}
    machines = [(topology, *mesh) for topology in topologies for mesh in meshes(topology, settings)]
    found = []
    for (topology, mesh, assigned), batch, ffn, attention, overlap in itertools.product(
        machines, batches, LAYOUTS, ("heads", "batch"), ("none", "collective_matmul")
    ):
        workload = {"phase": phase, "batch": batch, "weights": dtype, **length}
        layout = {"ffn": ffn, "attention": attention, "overlap": overlap}
        choices = {"topology": topology, "mesh": mesh, "batch": str(batch), **layout}
        fields = {"topology": topology, "model": model, "workload": workload, "layout": layout}
        texts = (f"{key}={json.dumps(value)}" for key, value in fields.items())
        found.append(Point(choices, (*NO_SWEEP, *texts, *settings, *assigned)))
    return found


def meshes(topology: str, settings: Sequence[str] = ()) -> list[tuple[str, tuple[str, ...]]]:
    """Which physical axis plays x, y and z: each distinct order of a torus's axes, by label such as `8x4x4`.

    The first is the machine's own. One with a twist, and a machine without axes, has no other.

    Args:
        settings: of the scenario; those of the machine hold here too.

    Returns:
        Label and the settings that assign the axes.

    Raises:
        InputError: no such machine.
    """
    own = [text.removeprefix("topology.") for text in settings if text.startswith("topology.")]
    spec = load.topology_spec(topology, own)
    if not isinstance(spec, TorusSpec):
        return [(str(chips_of(spec)), ())]
    axes = list(spec.axes.values())
    if any(axis.twist for axis in axes):
        return [("x".join(str(axis.size) for axis in axes), ())]
    orders = {tuple((axis.size, axis.wrap) for axis in order): order for order in itertools.permutations(axes)}
    found: list[tuple[str, tuple[str, ...]]] = []
    for order in orders.values():
        named = dict(zip(spec.axes, order, strict=True))
        fields = {name: {"size": axis.size, "wrap": axis.wrap} for name, axis in named.items()}
        assigned = (f"topology.axes={json.dumps(fields)}",) if len(orders) > 1 else ()
        found.append(("x".join(str(axis.size) for axis in order), assigned))
    return found


def batches(text: str) -> list[int]:
    """`64`, or `1..1024`: all powers of two times the first up to the last. Raises InputError."""
    first, dots, last = text.partition("..")
    ends = first, (last if dots else first)
    if not all(end.isdecimal() and int(end) > 0 for end in ends) or int(ends[0]) > int(ends[1]):
        raise InputError("must be a batch or a range of them", where="--batch", got=text, hint="such as 1..1024")
    result = [int(first)]
    while result[-1] * 2 <= int(ends[1]):
        result.append(result[-1] * 2)
    return result


def fitting(rows: Sequence[Row]) -> list[Row]:
    """The rows that can run and fit the chips' memory."""
    return [row for row in rows if row.outcome and row.outcome.fits]


def best(rows: Sequence[Row], objective: str) -> Row:
    """Of rows that fit; the first of equals. Raises InputError where there is none."""
    if not rows:
        raise InputError("nothing that can run fits the chips' memory", where="search", hint="try more chips")
    return min(rows, key=lambda row: OBJECTIVES[objective](_figures(row)))


def best_per_batch(rows: Sequence[Row]) -> list[Row]:
    """Of each machine and batch the fastest, in the order of `rows`."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.choices["topology"], row.choices["batch"]), []).append(row)
    return [best(group, "latency") for group in groups.values()]


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other beats in both step time and cost, by step time: Figure 1 of Pope et al."""
    front: list[Row] = []
    for row in sorted(rows, key=lambda row: (_figures(row).step_s, _figures(row).cost_chip_s)):
        if not front or _figures(row).cost_chip_s < _figures(front[-1]).cost_chip_s:
            front.append(row)
    return front


@dataclass(frozen=True, slots=True)
class Measured:
    """A published step of what was searched."""

    layout: str
    chips: int
    batch: int
    step_s: float
    cost_chip_s: float
    """Chip-seconds per token."""


def published(rows: Sequence[Row], planned: Sequence[Point]) -> list[Measured]:
    """Latencies of Pope et al. 2022 (scenarios/published/pope_dev.csv) that are of what was searched.

    That is the same model, chip, number of chips, phase, batch, tokens per sequence and weights; the layout is the
    paper's choice.

    Args:
        rows: of the candidates `planned`.
    """
    ran = {row.choices["topology"]: point for row, point in zip(rows, planned, strict=True) if row.outcome}
    searched = {_work(load.scenario(BASE, point.settings)) for point in ran.values()}
    batches = {int(point.choices["batch"]) for point in planned}
    found = []
    for case in suite.read(PUBLISHED)[1]:
        if not isinstance(case, suite.Case) or case.metric != "latency_s":
            continue
        scenario = case.scenario()
        work, chips = scenario.workload, chips_of(scenario.topology)
        if work.batch in batches and _work(scenario) in searched:
            costs = chips * case.published / work.tokens
            found.append(Measured(scenario.layout.ffn, chips, work.batch, case.published / work.steps, costs))
    return found


def chart(title: str, phase: Phase, rows: Sequence[Row], beside: Sequence[Measured]) -> Chart:
    """The figure of rows that fit: every candidate, the front of each layout, and which of them nothing beats."""
    from sim.plots.pareto import Chart, Line, Spot

    scale, unit = (1e3, "ms per token") if phase == "decode" else (1.0, "s")
    several = len({row.choices["topology"] for row in rows}) > 1

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
    for layout in LAYOUTS:
        own = [row for row in rows if row.choices["ffn"] == layout]
        known = tuple(spot(m.step_s, m.cost_chip_s, m.chips, m.batch) for m in beside if m.layout == layout)
        lines.append(Line(layout.replace("_", " "), spots(own), spots(pareto(own)), known))
    named = "chips C and batch B" if several else "batch B"
    return Chart(title, f"latency, {unit}", "cost, chip-ms per token", tuple(lines), spots(pareto(rows)), named)


def _work(scenario: Scenario) -> tuple[Any, ...]:
    """What published and simulated steps must have in common, all but the batch and the layout."""
    work, model = scenario.workload, scenario.model
    layers = scenario.engine.layers or model.layers
    shape = (model.name, layers, model.kv_heads, model.d_head, scenario.layout.block)
    machine = (scenario.topology.chip.name, chips_of(scenario.topology))
    return (*shape, *machine, work.phase, work.prompt, work.context, work.weights)


def _figures(row: Row) -> Figures:
    if row.outcome is None:
        raise ValueError("a row without an outcome")
    return row.outcome.simulated
