"""Parity plot: predicted against published, the simulator, the usual closed form and predictions of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sim.plots.colours import PALETTE
from sim.plots.style import new_figure, set_plain_ticks, shared_style
from sim.report.present.validation import Outcome, Validation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS = (("o", "blue"), ("x", "vermilion"), ("^", "green"), ("v", "purple"), ("+", "orange"))
"""Marker and colour of the simulation, of the usual closed form and of predictions of one's own."""
_METRICS = {
    "latency_s": ("latency, s", 1.0),
    "mfu": ("MFU, %", 100.0),
    "prefill_s": ("prefill, s", 1.0),
    "decode_s": ("decoding, s", 1.0),
    "tokens_per_s": ("tokens/s", 1.0),
    "memory_bandwidth_per_gpu": ("memory bandwidth per GPU, GB/s", 1e-9),
}


def draw(validation: Validation) -> Figure:
    """Draws one panel per metric, logarithmic axes, a band of the suite's worst tolerance around equality."""
    metrics = [metric for metric in _METRICS if any(o.metric == metric for o in validation.outcomes)]
    with shared_style():
        made = new_figure(5.6 * len(metrics), 5.6)
        for column, metric in enumerate(metrics):
            axes = made.add_subplot(1, len(metrics), column + 1)
            _panel(axes, validation, metric)
        made.suptitle(_title(validation), x=0.02, ha="left", fontsize=10, fontweight="bold")
    return made


def _panel(axes: Axes, validation: Validation, metric: str) -> None:
    label, scale = _METRICS[metric]
    chosen = [outcome for outcome in validation.outcomes if outcome.metric == metric]
    gated = [outcome for outcome in chosen if not outcome.not_gated]
    shown = [outcome for outcome in chosen if outcome.not_gated]
    published = [outcome.published * scale for outcome in chosen]
    low, high = min(published) / 1.6, max(published) * 1.6
    worst = validation.suite.tolerance.worst
    line = [low, high]
    axes.fill_between(
        line, [v * (1 - worst) for v in line], [v * (1 + worst) for v in line], color="0.9", lw=0, label=f"±{worst:.0%}"
    )
    axes.plot(line, line, color="0.4", lw=0.8)
    predictions = validation.suite.predictions
    usual = next((name for name in validation.form_names if name not in predictions), None)
    forms = [*([usual] if usual else []), *predictions]
    for (marker, color), form in zip(_LOOKS, [None, *forms], strict=False):
        text = "simulated" if form is None else validation.label(form)
        _points(axes, gated, _value(form), scale, (marker, PALETTE[color]), text)
        _points(axes, shown, _value(form), scale, (marker, "0.6"), "not gated" if form is None and shown else None)
    axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel=f"published {label}", ylabel=f"predicted {label}")
    set_plain_ticks(axes.xaxis)
    set_plain_ticks(axes.yaxis)
    axes.legend(loc="upper left")


def _value(form: str | None) -> Callable[[Outcome], float | None]:
    """Returns what tells a case's prediction: simulated where no form is named."""
    return lambda outcome: outcome.simulated if form is None else outcome.forms.get(form)


def _points(
    axes: Axes,
    outcomes: Sequence[Outcome],
    value_of: Callable[[Outcome], float | None],
    scale: float,
    look: tuple[str, str],
    label: str | None,
) -> None:
    points = [(each.published, value) for each in outcomes if (value := value_of(each)) is not None]
    if not points:
        return
    axes.scatter(
        [published * scale for published, _ in points],
        [value * scale for _, value in points],
        s=22,
        marker=look[0],
        color=look[1],
        linewidths=1.0,
        alpha=0.85,
        label=label,
    )


def _title(validation: Validation) -> str:
    errors = validation.simulated
    return (
        f"{validation.suite.name}: {errors.cases} gated measurements\n"
        f"simulated within {errors.median:.1%} in the median, {errors.worst:.1%} at worst"
    )
