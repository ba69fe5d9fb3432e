"""Assumptions of a search, and its sensitivity to constants that nobody measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sim.specs import load
from sim.specs.basis import rests_on
from sim.studies.search.candidates import BASE
from sim.studies.search.choose import Goal
from sim.studies.sensitivity import Option, Sensitivity, measure_sensitivity
from sim.studies.sweep import study
from sim.studies.sweep.points import Point
from sim.studies.sweep.rows import Row

_NEAR = 6
"""Candidates with the best scores that are tried, beside the best of every machine and layout."""

Measured = Sequence[tuple[Point, Row]]
"""Candidates and their rows."""


def list_assumptions(measured: Measured) -> tuple[str, ...]:
    """Returns a line for every machine of the search, in order; machines of one stack and chip share it."""
    first = {row.choices["topology"]: point for point, row in reversed(measured) if row.outcome}
    return study.list_assumptions(BASE, reversed(first.values()))


def describe_stacks(measured: Measured) -> str | None:
    """Returns a sentence where some machines of the search run on a stack that costs nothing, and others do not."""
    first = {row.choices["topology"]: point for point, row in reversed(measured) if row.outcome}
    free, others = list[str](), list[str]()
    for name in reversed(first):
        based = rests_on(load.scenario(BASE, first[name].settings))
        costs = any(constant.field.startswith("stack.") for constant in based.constants)
        (others if costs else free).append(f"{Path(name).stem} on {based.stack}")
    if not free or not others:
        return None
    return (
        f"machines run on different kinds of stacks: {', '.join(free)} (every efficiency 1, every overhead 0), "
        f"{', '.join(others)}; their times do not compare: give each machine a default_stack, or all --set stack=NAME"
    )


def winner_sensitivity(measured: Measured, goal: Goal, objective: str) -> Sensitivity:
    """Finds constants that would make another candidate the best.

    Candidates further behind than the few nearest are tried only if they are the best of their machine or layout.
    """
    point_of = {id(row): point for point, row in measured}
    score = goal.objectives[objective]
    fit = [(point_of[id(row)], row, score(row)) for row in goal.fitting([row for _, row in measured])]
    fit.sort(key=lambda each: each[2])
    near, seen = [], set()
    for number, (point, row, value) in enumerate(fit):
        group = row.choices["topology"], row.choices["ffn"]
        if number < _NEAR or group not in seen:
            name = " ".join(row.choices.values())
            near.append(Option(name, load.scenario(BASE, point.settings), value))
        seen.add(group)
    return measure_sensitivity(near)
