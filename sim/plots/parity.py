"""Parity plot: predicted against measured, a panel per predictor, fitted and other measurements apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from statistics import median
from typing import TYPE_CHECKING, Any

from sim.plots.colours import PALETTE
from sim.plots.style import add_legend, add_title, figure_width, new_figure, points, set_plain_ticks, shared_style, wrap
from sim.report.present.validation import Errors, Outcome, Validation
from sim.units import TIME_UNITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_IN, _LEAST_PANEL_IN = 3.6, 1.55
"""Width of a panel, and the least width on a page."""
_EDGE = 1.3
"""Factor by which the axes reach beyond the last prediction."""
_AROUND_IN = 1.0
"""Height of title and legend."""
_LOOKS: dict[str, dict[str, Any]] = {
    "constants fitted to it": {"marker": "o", "facecolors": "none", "edgecolors": PALETTE["blue"]},
    "not fitted": {"marker": "o", "color": PALETTE["vermilion"]},
    "measured": {"marker": "o", "color": PALETTE["vermilion"]},
    "not gated": {"marker": "x", "color": PALETTE["grey"]},
}
_TIMES = {"latency_s": "latency", "prefill_s": "prefill", "decode_s": "decoding"}
_RATES = {
    "mfu": ("MFU, %", 100.0),
    "tokens_per_s": ("tokens/s", 1.0),
    "tokens_per_s_per_chip": ("tokens/s per chip", 1.0),
    "memory_bandwidth_per_gpu": ("memory bandwidth per GPU, GB/s", 1e-9),
    "bandwidth": ("logical bandwidth, GB/s", 1e-9),
    "speedup": ("speed-up", 1.0),
}


def draw(validation: Validation) -> Figure:
    """Draws a row of panels per metric: the simulation, every closed form and predictions of one's own.

    Axes are logarithmic and the same for all panels of a metric; the band is the suite's worst tolerance.
    """
    metrics = [metric for metric in (*_TIMES, *_RATES) if any(o.metric == metric for o in validation.outcomes)]
    panels = [
        (metric, form)
        for metric in metrics
        for form in (None, *validation.form_names)
        if any(o.metric == metric and _value(o, form) is not None for o in validation.outcomes)
    ]
    per_metric = max(sum(metric == each for each, _ in panels) for metric in metrics)
    columns = max(1, min(per_metric, int(figure_width(_PANEL_IN * per_metric) / _LEAST_PANEL_IN)))
    places = list(_places(panels, columns))
    rows = places[-1][0] + 1
    size_in = figure_width(_PANEL_IN * columns) / columns
    with shared_style():
        made = new_figure(_PANEL_IN * columns, _AROUND_IN + rows * (size_in + 0.35))
        grid = made.add_gridspec(rows, columns)
        for (metric, form), (row, column) in zip(panels, places, strict=True):
            _panel(made.add_subplot(grid[row, column]), validation, metric, form, size_in)
        add_title(made, _title(validation))
        entries = (zip(*axes.get_legend_handles_labels()[::-1], strict=True) for axes in made.axes)
        add_legend(made, list(dict(chain(*entries)).values()), below=True)
    return made


def _places(panels: Sequence[tuple[str, str | None]], columns: int) -> Iterator[tuple[int, int]]:
    """Yields row and column of each panel; each metric begins a row."""
    row, column = -1, columns
    for i, (metric, _) in enumerate(panels):
        if column == columns or metric != panels[i - 1][0]:
            row, column = row + 1, 0
        yield row, column
        column += 1


def _panel(axes: Axes, validation: Validation, metric: str, form: str | None, size_in: float) -> None:
    """Draws the measurements of a metric against one predictor; None: the simulation."""
    outcomes = [outcome for outcome in validation.outcomes if outcome.metric == metric]
    label, scale = _quantity(metric, [outcome.published for outcome in outcomes])
    measured = [outcome.published * scale for outcome in outcomes]
    predicted = [v * scale for o in outcomes for f in (None, *o.forms) if (v := _value(o, f)) is not None]
    low, high = min(measured) / 1.6, max(measured) * 1.6
    worst = validation.suite.tolerance.worst
    line = [low, high]
    band: dict[str, Any] = {"color": "0.9", "lw": 0, "label": f"±{worst:.0%}, the tolerance of the worst"}
    axes.fill_between(line, [v * (1 - worst) for v in line], [v * (1 + worst) for v in line], **band)
    axes.plot(line, line, color="0.4", lw=0.8)
    medians = []
    for name, look in _LOOKS.items():
        some = [o for o in outcomes if _kind(validation, o) == name]
        pairs = [(o.published * scale, v * scale) for o in some if (v := _value(o, form)) is not None]
        if pairs:
            axes.scatter([x for x, _ in pairs], [y for _, y in pairs], s=14, linewidths=0.9, label=name, **look)
        errors = Errors.of(v / o.published - 1 for o in some if o.counts and (v := _value(o, form)) is not None)
        if errors.cases:
            part = "" if not validation.has_fit else " fitted" if some[0].fitted else " others"
            medians.append(f"{errors.median:.1%} of {errors.cases}{part}")
    bottom, top = min(low, *(value / _EDGE for value in predicted)), max(high, *(value * _EDGE for value in predicted))
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(bottom, top))
    axes.set(xlabel=f"measured {label}", ylabel=f"predicted {label}")
    name = "simulated" if form is None else validation.label(form)
    title = f"{name}\nmedian error: {', '.join(medians)}" if medians else name
    axes.set_title(wrap(title, size_in - 0.6, points(8)), fontsize=points(8))
    set_plain_ticks(axes.xaxis)
    set_plain_ticks(axes.yaxis)


def _quantity(metric: str, values: Sequence[float]) -> tuple[str, float]:
    """Returns the label of a metric and the factor to its unit; of times the unit that fits half of the values."""
    if metric not in _TIMES:
        return _RATES[metric]
    middle_s = median(values)
    size_s, unit = next((each for each in TIME_UNITS if middle_s >= each[0]), TIME_UNITS[-1])
    return f"{_TIMES[metric]}, {unit}", 1 / size_s


def _kind(validation: Validation, outcome: Outcome) -> str:
    """Returns the name in the legend of an outcome."""
    part = "not gated" if outcome.not_gated else validation.part_of(outcome)
    return "constants fitted to it" if part == "fitted" else part


def _value(outcome: Outcome, form: str | None) -> float | None:
    """Returns a prediction of a measurement: the simulation's where no form is named."""
    return outcome.simulated if form is None else outcome.forms.get(form)


def _title(validation: Validation) -> str:
    errors = validation.simulated
    return (
        f"{validation.suite.name}: {errors.cases} gated measurements, simulated within {errors.median:.1%} in the "
        f"median, {errors.worst:.1%} at worst"
    )
