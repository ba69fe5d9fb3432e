"""Result of a search: the best candidates, why they are the best, and both as JSON data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from sim.report.headline import to_html
from sim.studies.search.candidates import BASE, Phase
from sim.studies.search.choose import Goal, fastest_rows
from sim.studies.search.pruned import KEPT
from sim.studies.step_parts import attribute_point
from sim.studies.sweep.points import Point
from sim.studies.sweep.rows import Row
from sim.units import format_seconds

Parts = dict[str, float]
"""Seconds of a step by cause."""


class SearchResult(Struct, frozen=True):
    """Candidates of a search and those that meet its goal."""

    phase: Phase
    goal: Goal
    candidates: Sequence[tuple[Point, Row]]
    """Simulated ones."""
    tried: int
    """Number of candidates, skipped ones included."""
    fitting: Sequence[Row]

    def __repr__(self) -> str:
        best = ", ".join(f"best {objective} {_describe(row)}" for objective, row in self.best.items())
        return f"SearchResult({self.tried} candidates, {len(self.fitting)} fit: {best})"

    def _repr_html_(self) -> str:
        """Returns the fastest row of each machine, number of chips and batch, for a notebook."""
        return to_html(repr(self), [(*row.choices.values(), _describe(row)) for row in self.best_per_batch])

    @property
    def pruned(self) -> int:
        """Number of candidates that a lower bound skipped."""
        return self.tried - len(self.candidates)

    @property
    def best(self) -> dict[str, Row]:
        """Best row per objective."""
        return {objective: self.goal.best(self.fitting, objective) for objective in self.goal.objectives}

    @property
    def best_per_batch(self) -> list[Row]:
        """Fastest row of each machine, number of chips and batch."""
        return [group[0] for group in fastest_rows(self.fitting, 1).values()]

    @property
    def time_name(self) -> str:
        """Name of what a row's time is of: a decode step, or the prefill."""
        return "step" if self.phase == "decode" else "prefill"

    @property
    def shown(self) -> list[tuple[str, Row]]:
        """(what it is best at, row): the rows of `best_per_batch`, of `best` and of `pareto`, once each."""
        best, front = self.best, {id(row) for row in self.pareto}
        rows = {id(row): row for row in (*self.best_per_batch, *self.best.values(), *self.pareto)}
        notes = {key: [name for name, row in best.items() if id(row) == key] for key in rows}
        return [(", ".join(notes[key] + ["Pareto"] * (key in front)), row) for key, row in rows.items()]

    @property
    def pareto(self) -> list[Row]:
        """Rows that no other beats in both step time and cost."""
        return self.goal.pareto(self.fitting)

    def explain_winners(self) -> list[list[tuple[Row, Parts]]]:
        """Returns the fastest rows of each machine, at the chips and batch of its winners, with the parts of a step."""
        groups, points = fastest_rows(self.fitting, KEPT), {id(row): point for point, row in self.candidates}
        winners: dict[int, list[Row]] = {}
        for topology in dict.fromkeys(row.choices["topology"] for row in self.fitting):
            of_machine = [group for key, group in groups.items() if key[0] == topology]
            for objective in self.goal.objectives.values():
                group = min(of_machine, key=lambda group: objective(group[0]))
                winners[id(group)] = group
        return [[(row, attribute_point(BASE, points[id(row)])) for row in group] for group in winners.values()]

    def to_dict(self, explained: Sequence[Sequence[tuple[Row, Parts]]]) -> dict[str, Any]:
        """Returns JSON data.

        Args:
            explained: as `explain_winners` returns them.
        """
        return {
            "candidates": self.tried,
            "pruned": self.pruned,
            "fitting": len(self.fitting),
            "cost_unit": self.goal.unit,
            "best": {objective: self._row(row) for objective, row in self.best.items()},
            "best_per_batch": [self._row(row) for row in self.best_per_batch],
            "pareto": [self._row(row) for row in self.pareto],
            "why": [[self._row(row) | {"step_parts_s": parts} for row, parts in group] for group in explained],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        return row.to_dict() | {"cost": self.goal.cost(row)}


def _describe(row: Row) -> str:
    """Returns the step time of a row and its choices."""
    step = format_seconds(row.outcome.simulated.step_s) if row.outcome else "none"
    return f"{step} ({', '.join(row.choices.values())})"
