"""Search: every layout, attention sharding and overlap of a model on some machines at some batches, and the best.

A candidate is a point of a sweep over a shipped scenario, so it is measured, and spread over processes, like one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Literal

from sim.errors import InputError
from sim.partition import LAYOUTS
from sim.sweep.points import NO_SWEEP, Point
from sim.sweep.rows import Figures, Row

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
    model: str, topologies: Sequence[str], phase: Phase, batches: Sequence[int], tokens: int, generate: int, dtype: str
) -> list[Point]:
    """All combinations; those that are not legal say so when they are measured.

    Args:
        tokens: of the prompt of a prefill, of the context of a decode step.
        dtype: of the weights.
    """
    length = {"context": tokens, "generate": generate} if phase == "decode" else {"prompt": tokens}
    found = []
    for topology, batch, ffn, attention, overlap in itertools.product(
        topologies, batches, LAYOUTS, ("heads", "batch"), ("none", "collective_matmul")
    ):
        workload = {"phase": phase, "batch": batch, "weights": dtype, **length}
        layout = {"ffn": ffn, "attention": attention, "overlap": overlap}
        choices = {"topology": topology, "batch": str(batch), **layout}
        settings = {"topology": topology, "model": model, "workload": workload, "layout": layout}
        texts = (f"{key}={json.dumps(value)}" for key, value in settings.items())
        found.append(Point(choices, (*NO_SWEEP, *texts)))
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
    """Of each batch and machine the fastest, in the order of `rows`."""
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


def _figures(row: Row) -> Figures:
    if row.outcome is None:
        raise ValueError("a row without an outcome")
    return row.outcome.simulated
