"""Predictions of the user for the points of a sweep, in the quantity of its figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sim.errors import InputError
from sim.specs import FigureSpec, Scenario, load
from sim.studies.own_predictions import load_function
from sim.studies.sweep.chart import line_of, x_of
from sim.studies.sweep.points import Point
from sim.studies.sweep.published import published_rows
from sim.studies.sweep.published import x_of as published_x
from sim.studies.sweep.published import y_of as published_y
from sim.studies.sweep.quantities import RATES, Y
from sim.studies.sweep.rows import Row

_OF_ALL_STEPS = ("latency", "step", "mfu", "tokens_per_s", "cost")
"""Quantities that follow from the time of all steps."""


def load_forms(figure: FigureSpec, folder: Path) -> dict[str, Callable[[Scenario], float]]:
    """Returns the figure's own closed forms by name: functions of a scenario, seconds for all steps.

    Raises:
        InputError: no such function, or the figure shows a quantity that does not follow from the time of all steps.
    """
    forms = {}
    for name, each in figure.predictions.items():
        if each.closed_form is None:
            continue
        where = f"figure.predictions.{name}.closed_form"
        if figure.y not in _OF_ALL_STEPS:
            rule = f"requires figure.y to be one of {', '.join(_OF_ALL_STEPS)}"
            raise InputError(rule, where=where, got=figure.y)
        forms[name] = load_function(each.closed_form, folder, where)
    return forms


def predict_points(
    scenario: str,
    figure: FigureSpec,
    forms: Mapping[str, Callable[[Scenario], float]],
    rows: Iterable[tuple[Point, Row]],
) -> dict[str, dict[tuple[str, float], float]]:
    """Returns the figure's own predictions by name, and by label of the line and x: its y, SI units.

    Args:
        scenario: shipped name or path of the sweep's file.
        forms: as `load_forms` returns them.
        rows: the points that were run, and what came out.
    """
    result: dict[str, dict[tuple[str, float], float]] = {}
    for name, each in figure.predictions.items():
        result[name] = _of_column(figure, each.column) if each.column is not None else {}
    for point, row in rows if forms else ():
        simulated = Y[figure.y].simulated(row.outcome) if row.outcome else None
        if row.outcome is None or simulated is None:
            continue
        loaded = load.scenario(scenario, point.settings)
        for name, form in forms.items():
            ratio = form(loaded) / row.outcome.simulated.latency_s
            value = simulated / ratio if figure.y in RATES else simulated * ratio
            result[name][line_of(figure, row), x_of(figure, row)] = value
    return result


def _of_column(figure: FigureSpec, column: str) -> dict[tuple[str, float], float]:
    """Returns the values of a column of the rows that the figure shows as published."""
    known = published_rows(figure.published_file)
    points = {}
    for line, ids in figure.published.items():
        for case_id in ids:
            row = known[case_id]
            try:
                if row.get(column):
                    points[line, published_x(row, figure.x)] = published_y(row, figure.y, column)
            except InputError as error:
                raise error.within(f"{figure.published_file}: {case_id}") from None
    if figure.published and not points:
        raise InputError(f"no published row has a value in column '{column}'", where="figure.predictions")
    return points
