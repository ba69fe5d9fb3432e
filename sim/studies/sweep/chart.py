"""From the rows of a sweep to the lines of its figure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from sim import units
from sim.closed_form import pope
from sim.errors import InputError, suggest
from sim.report.closed_form import FormKind
from sim.specs import FigureSpec, Model, Scenario
from sim.specs.load.settings import RELATIVE
from sim.studies.sweep.crossings import find_crossings
from sim.studies.sweep.points import format_label
from sim.studies.sweep.published import published_points
from sim.studies.sweep.quantities import RATES, X, Y, name_axis
from sim.studies.sweep.rows import Row
from sim.terminal import printable

if TYPE_CHECKING:
    from sim.plots.figure import Chart, Line


_SHORT = {
    "weight_stationary_1d": "1D",
    "weight_stationary_2d": "2D",
    "weight_gathered_x": "X",
    "weight_gathered_xy": "XY",
    "weight_gathered_xyz": "XYZ",
}


def figure_of(scenario: Scenario, axes: Sequence[str]) -> FigureSpec | None:
    """Returns the scenario's figure, checked; without one, latency over the first axis of numbers.

    Args:
        axes: those still swept. A line is then told apart by them only; without its x there is no figure.

    Raises:
        InputError: an x that is not numbers, or published points or crossovers that are not there.
    """
    sweep = scenario.sweep or {}
    figure = scenario.figure
    if figure is None:
        x = next((axis for axis in axes if _numbers(sweep[axis])), None)
        rest = [axis for axis in axes if axis != x]
        return FigureSpec(x=x, y="latency", series=rest or None) if x else None
    if figure.x in sweep and _numbers(sweep[figure.x]) is None:
        raise InputError("the values on the x axis must be numbers or quantities", where="figure.x", got=figure.x)
    if figure.panels is not None and (figure.published or figure.predictions):
        raise InputError("is not supported with published or predictions", where="figure.panels", got=figure.panels)
    known = _labels(sweep, figure.lines)
    if figure.relative_to is not None and figure.relative_to not in known:
        hint = suggest(figure.relative_to, known)
        raise InputError("must be a line", where="figure.relative_to", got=figure.relative_to, hint=hint)
    for name in figure.published:
        if name not in known:
            raise InputError("must be a line", where="figure.published", got=name, hint=suggest(name, known))
    published_points(figure)
    for name, each in figure.predictions.items():
        if each.column is not None and not figure.published:
            rule = "requires figure.published: the rows that have the column"
            raise InputError(rule, where=f"figure.predictions.{name}.column", got=each.column)
    if figure.crossovers:
        _crossovers(scenario)
    if figure.x not in (*axes, *X):
        return None
    if figure.panels not in axes:
        figure = figure.model_copy(update={"panels": None})
    lines = [axis for axis in figure.lines if axis in axes]
    if len(lines) == len(figure.lines):
        return figure
    kept = [label for label in _labels(sweep, lines) if label == figure.relative_to]
    changes: dict[str, Any] = {"series": lines or None, "published": {}, "relative_to": kept[0] if kept else None}
    return figure.model_copy(update=changes)


def build_panels(
    scenario: Scenario,
    figure: FigureSpec,
    rows: Sequence[Row],
    predictions: Mapping[str, Mapping[tuple[str, float], float]] | None = None,
) -> dict[str, Chart]:
    """Builds the chart of each panel by its label; without panels one chart with an empty label."""
    if figure.panels is None:
        return {"": build_chart(scenario, figure, rows, predictions)}
    by_panel: dict[str, list[Row]] = {}
    for row in rows:
        if row.outcome:
            by_panel.setdefault(row.choices[figure.panels], []).append(row)
    return {label: build_chart(scenario, figure, members) for label, members in by_panel.items()}


def build_chart(
    scenario: Scenario,
    figure: FigureSpec,
    rows: Sequence[Row],
    predictions: Mapping[str, Mapping[tuple[str, float], float]] | None = None,
) -> Chart:
    """Builds the figure of the rows that have an outcome.

    Args:
        predictions: of the user by name, and by label of the line and x.
    """
    from sim.plots.figure import Chart, Mark

    y = Y[figure.y]
    sweep = scenario.sweep or {}
    beside = published_points(figure)
    by_line: dict[str, list[Row]] = {}
    for row in rows:
        if row.outcome and y.simulated(row.outcome) is not None:
            by_line.setdefault(line_of(figure, row), []).append(row)
    values = [value for line in by_line for _, value in beside.get(line, ())]
    values += [y.simulated(row.outcome) or 0.0 for line in by_line.values() for row in line if row.outcome]
    values += [
        value for points in (predictions or {}).values() for (line, _), value in points.items() if line in by_line
    ]
    scale, shown_unit = (100.0, "%") if y.unit == "%" else (1.0, y.unit)
    if y.unit == "s" and values and max(values) < 1:
        scale, shown_unit = (1e3, "ms") if max(values) >= 1e-3 else (1e6, "us")

    x_size, x_unit = _x_unit(list(sweep.get(figure.x) or ()))
    lines = [
        replace(
            _line(figure, name, members, (x_size, scale)),
            published=tuple((x / x_size, value * scale) for x, value in beside.get(name, ())),
            predictions={
                form: _points_of(name, points, (x_size, scale)) for form, points in (predictions or {}).items()
            },
        )
        for name, members in by_line.items()
    ]
    if figure.relative_to is not None:
        lines = _speedups(lines, figure.relative_to, rate=figure.y in RATES)
    marks = [Mark(x, text) for text, x in _crossovers(scenario).items()] if figure.crossovers else []
    return Chart(
        title="\n".join(map(printable, figure.title.splitlines())),
        x_label=_x_label(figure.x, x_unit),
        y_label=_y_label(figure, _all_steps(scenario, figure, y.words), shown_unit),
        log=figure.log or "",
        lines=tuple(lines),
        marks=tuple(sorted(marks, key=lambda mark: mark.x)),
        crossings=tuple(
            find_crossings(
                lines,
                more_is_better=figure.y in RATES or figure.relative_to is not None,
                log=figure.log or "",
            )
        ),
        legend=", ".join(name_axis(axis) for axis in figure.lines if isinstance(sweep[axis], list)),
        form=_form(scenario, figure),
        equal_at=1.0 if figure.relative_to is not None else None,
        notes=tuple(_notes(by_line)),
    )


def _notes(by_line: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Yields each note of the rows once, behind the labels of the lines that have it if others do not."""
    for note in dict.fromkeys(note for rows in by_line.values() for row in rows for note in row.notes):
        noted = [label for label, rows in by_line.items() if any(note in row.notes for row in rows)]
        whole = all(note in row.notes for label in noted for row in by_line[label])
        of = "" if len(noted) == len(by_line) else "; ".join(noted) + ": "
        yield f"{of}{'' if whole else 'at some points, '}{note}"


def _line(figure: FigureSpec, name: str, members: list[Row], sizes: tuple[float, float]) -> Line:
    """Returns the simulated line and its closed form; x is divided by the first size, y multiplied by the second."""
    from sim.plots.figure import Line

    y, (x_size, scale) = Y[figure.y], sizes

    def scaled(value: float | None) -> float:
        return float("nan") if value is None else value * scale

    members.sort(key=lambda row: x_of(figure, row))
    outcomes = [row.outcome for row in members if row.outcome]
    return Line(
        label=name,
        x=tuple(x_of(figure, row) / x_size for row in members),
        y=tuple(scaled(y.simulated(outcome)) for outcome in outcomes),
        closed_form=tuple(scaled(y.closed_form(outcome)) for outcome in outcomes),
        fits=tuple(outcome.fits for outcome in outcomes),
    )


def _points_of(
    label: str, points: Mapping[tuple[str, float], float], sizes: tuple[float, float]
) -> tuple[tuple[float, float], ...]:
    """Returns the points of one line, in order of x, in the figure's units."""
    return tuple((x / sizes[0], value * sizes[1]) for (line, x), value in sorted(points.items()) if line == label)


def _form(scenario: Scenario, figure: FigureSpec) -> str:
    """Returns the name of the closed form."""
    if figure.y == "slower":
        return "closed form, of a stall"
    if scenario.pipeline:
        return "closed form, sends free"
    kind = FormKind.PAPER if pope.covers(scenario) else FormKind.PER_SUBLAYER
    return str(kind.value)


def _all_steps(scenario: Scenario, figure: FigureSpec, words: str) -> str:
    return f"{words} of all steps" if figure.y == "latency" and scenario.workload.steps > 1 else words


def _y_label(figure: FigureSpec, words: str, unit: str) -> str:
    if figure.relative_to is not None:
        return f"{words}: speed-up over {figure.relative_to}"
    return f"{words}, {unit}" if unit else words


def _speedups(lines: Sequence[Line], baseline: str, *, rate: bool) -> list[Line]:
    """Returns the other lines over the baseline at the same x: above 1 is better, of rates and of times."""
    base = next((line for line in lines if line.label == baseline), None)
    if base is None:
        return []
    simulated = dict(zip(base.x, base.y, strict=True))
    closed = dict(zip(base.x, base.closed_form, strict=True))
    beside = dict(base.published)
    baseline_predictions = {name: dict(points) for name, points in base.predictions.items()}

    def over(x: float, y: float, those: Mapping[float, float]) -> float:
        known = those.get(x, float("nan"))
        return y / known if rate else known / y

    return [
        replace(
            line,
            y=tuple(over(x, y, simulated) for x, y in zip(line.x, line.y, strict=True)),
            closed_form=tuple(over(x, y, closed) for x, y in zip(line.x, line.closed_form, strict=True)),
            published=tuple((x, over(x, y, beside)) for x, y in line.published if x in beside),
            predictions={
                name: tuple(
                    (x, over(x, y, baseline_predictions[name])) for x, y in points if x in baseline_predictions[name]
                )
                for name, points in line.predictions.items()
            },
        )
        for line in lines
        if line is not base
    ]


def x_of(figure: FigureSpec, row: Row) -> float:
    """Returns the place of a row with an outcome on the x axis."""
    if figure.x in X:
        assert row.outcome is not None
        return X[figure.x].simulated(row.outcome) or 0.0
    number = _number(row.choices[figure.x])
    assert number is not None  # figure_of checked it
    return number[0]


def line_of(figure: FigureSpec, row: Row) -> str:
    """Returns the label of the line that a row belongs to."""
    return ", ".join(row.choices[axis] for axis in figure.lines)


def _labels(sweep: Mapping[str, Any], axes: Sequence[str]) -> list[str]:
    return [", ".join(map(format_label, chosen)) for chosen in itertools.product(*(sweep[axis] for axis in axes))]


def _numbers(values: Iterable[Any]) -> list[tuple[float, str]] | None:
    """Returns number and SI unit of each value or name of a variant, None if one is no number or the units differ."""
    numbers = [_number(value) for value in values]
    known = [number for number in numbers if number]
    return known if known and len(known) == len(numbers) and len({unit for _, unit in known}) == 1 else None


def _number(value: Any) -> tuple[float, str] | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value), ""
    try:
        return float(value), ""
    except (TypeError, ValueError):
        pass
    if factor := RELATIVE.fullmatch(value.strip()) if isinstance(value, str) else None:
        return float(factor[1]), "x"
    for unit in units.EXAMPLES if isinstance(value, str) else ():
        try:
            return units.parse(value, unit), unit
        except InputError:
            continue
    return None


_READABLE = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")),
    "B/s": ((1e9, "GB/s"),),
    "FLOP/s": ((1e12, "TFLOP/s"),),
    "x": ((1.0, "times that of the file"),),
}
"""SI units of an x axis as units that its numbers are read in, largest first."""


def _x_unit(values: Sequence[Any]) -> tuple[float, str]:
    """Returns size and name of the unit on the x axis: the largest in which the largest value is 1 or more."""
    numbers = _numbers(list(values)) or [(1.0, "")]
    unit, most = numbers[0][1], max(number for number, _ in numbers)
    sizes = _READABLE.get(unit, ((1.0, unit),))
    return next((each for each in sizes if most >= each[0]), sizes[-1])


def _x_label(x: str, unit: str) -> str:
    label = X[x].words if x in X else name_axis(x)
    return f"{label}, {unit}" if unit else label


def _crossovers(scenario: Scenario) -> dict[str, float]:
    """Tokens at which the paper's volumes of two swept layouts are equal; bf16 weights and activations."""
    model: Model = scenario.model
    if len(lengths := [axis.size for axis in scenario.part.lines.values()]) != 3:
        raise InputError("requires a torus of three axes", where="figure.crossovers")
    x, y, z = lengths
    swept = str(scenario.sweep)
    return {
        f"{_SHORT[first]}\n= {_SHORT[second]}": tokens
        for (first, second), tokens in pope.crossovers(model.d_model, model.d_ff, x, y, z).items()
        if f"'{first}'" in swept and f"'{second}'" in swept
    }
