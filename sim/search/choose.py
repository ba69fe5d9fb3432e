"""The best of many rows: per objective, per batch, and what nothing beats in time and cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sim.errors import InputError
from sim.sweep.rows import Figures, Row
from sim.units import format_bytes

OBJECTIVES: dict[str, Callable[[Figures], float]] = {
    "latency": lambda figures: figures.latency_s,
    "cost": lambda figures: figures.cost_chip_s,
    "throughput": lambda figures: -figures.tokens_per_s,
}
"""What is to be least; cost is chip-seconds per token (Pope et al. section 4.4)."""


def fitting(rows: Sequence[Row]) -> list[Row]:
    """The rows that can run and fit the chips' memory.

    Raises:
        InputError: there is none.
    """
    found = [row for row in rows if row.outcome and row.outcome.fits]
    if found:
        return found
    least = min((row.outcome.memory_bytes for row in rows if row.outcome), default=None)
    if least is not None:
        hint = f"the least needs {format_bytes(least)} on each; try more chips, or --weights int8"
        raise InputError("nothing that can run fits the chips' memory", where="search", hint=hint)
    reasons = list(dict.fromkeys(row.error for row in rows if row.error))
    more = f" (and {len(reasons) - 1} other reasons)" if len(reasons) > 1 else ""
    raise InputError("not one candidate can run", where="search", hint=f"the first: {reasons[0]}{more}")


def best(rows: Sequence[Row], objective: str) -> Row:
    """Of rows that fit, not none; the first of equals."""
    return min(rows, key=lambda row: OBJECTIVES[objective](_figures(row)))


def best_per_batch(rows: Sequence[Row]) -> list[Row]:
    """Of each machine and batch the fastest, in the order of `rows`."""
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in rows:
        chips = row.outcome.chips if row.outcome else 0
        groups.setdefault((row.choices["topology"], chips, int(row.choices["batch"])), []).append(row)
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
