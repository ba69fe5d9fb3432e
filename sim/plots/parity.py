"""Parity plot: predicted against published, the simulator and the usual closed form side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim.plots.style import PALETTE, figure, plain_ticks, save, style
from sim.report.validation import Outcome, Validation, usual_form

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MODELS = (("simulated", "o", "blue"), ("paper", "x", "vermilion"))
_METRICS = {
    "latency_s": ("latency, s", 1.0),
    "mfu": ("MFU, %", 100.0),
    "prefill_s": ("prefill, s", 1.0),
    "decode_s": ("decoding, s", 1.0),
    "tokens_per_s": ("tokens/s", 1.0),
}


def draw(validation: Validation, path: Path | str) -> None:
    """One panel per metric, logarithmic axes, a band of the suite's worst tolerance around equality."""
    metrics = [metric for metric in _METRICS if any(o.metric == metric for o in validation.outcomes)]
    with style():
        made = figure(5.6 * len(metrics), 5.6)
        for column, metric in enumerate(metrics):
            axes = made.add_subplot(1, len(metrics), column + 1)
            _panel(axes, validation, metric)
        made.suptitle(_title(validation), x=0.02, ha="left", fontsize=10, fontweight="bold")
    save(made, path)


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
    form = f"closed form: {usual_form(validation.suite)}"
    for name, marker, color in _MODELS:
        text = "simulated" if name == "simulated" else form
        _points(axes, gated, name, scale, marker, PALETTE[color], text)
        _points(axes, shown, name, scale, marker, "0.6", "not gated" if name == "simulated" and shown else None)
    axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel=f"published {label}", ylabel=f"predicted {label}")
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    axes.legend(loc="upper left")


def _points(
    axes: Axes, outcomes: Sequence[Outcome], name: str, scale: float, marker: str, color: str, label: str | None
) -> None:
    if all(getattr(outcome, name) is None for outcome in outcomes):
        return
    points = [(outcome.published, value) for outcome in outcomes if (value := getattr(outcome, name)) is not None]
    axes.scatter(
        [published * scale for published, _ in points],
        [value * scale for _, value in points],
        s=22,
        marker=marker,
        color=color,
        linewidths=1.0,
        alpha=0.85,
        label=label,
    )


def _title(validation: Validation) -> str:
    errors = validation.simulated
    return (
        f"{validation.suite.name}: {errors.cases} gated cases\n"
        f"simulated within {errors.median:.1%} in the median, {errors.worst:.1%} at worst"
    )
