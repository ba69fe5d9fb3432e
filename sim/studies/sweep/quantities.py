"""Quantities that figures and tables of a sweep show, and names of its axes."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from sim.studies.sweep.rows import Outcome


class Quantity(Struct, frozen=True):
    """Quantity of an outcome that a figure can show."""

    words: str
    unit: str
    """`s`, `%` or nothing."""
    simulated: Callable[[Outcome], float | None]
    closed_form: Callable[[Outcome], float | None]


def _part(part: str, field: str) -> Callable[[Outcome], float | None]:
    """Returns a getter of a figure of a part of an outcome; None if it has no such part."""
    return lambda out: getattr(getattr(out, part), field, None)


def _both(field: str) -> tuple[Callable[[Outcome], float | None], Callable[[Outcome], float | None]]:
    return _part("simulated", field), _part("closed_form", field)


def _tokens_per_s(out: Outcome) -> float | None:
    """Returns the tokens per second of the closed form; of a pipeline by the algebra of its stages."""
    if out.pipeline:
        return out.simulated.tokens_per_s * out.pipeline.total_s / out.pipeline.closed_form_total_s
    return out.closed_form.tokens_per_s if out.closed_form else None


def _none(out: Outcome) -> None:
    return None


Y = {
    "latency": Quantity("latency", "s", *_both("latency_s")),
    "step": Quantity("time per step", "s", *_both("step_s")),
    "mfu": Quantity("MFU", "%", *_both("mfu")),
    "tokens_per_s": Quantity("tokens per second", "", _part("simulated", "tokens_per_s"), _tokens_per_s),
    "ttft": Quantity("time to first token", "s", *_both("ttft_s")),
    "tpot": Quantity("time per output token", "s", *_both("tpot_s")),
    "cost": Quantity("cost, chip-seconds per token", "", *_both("cost_chip_s")),
    "requests_per_s": Quantity("requests per second", "", _part("pipeline", "requests_per_s"), _none),
    "bubble": Quantity("time without a batch, mean of the stages", "%", _part("pipeline", "bubble"), _none),
    "slower": Quantity(
        "slower than with all layers in the chip's memory",
        "%",
        _part("pool", "slower"),
        _part("pool", "closed_form_slower"),
    ),
    "dispatch": Quantity("dispatch of tokens to experts, all layers", "s", _part("exchange", "dispatch_s"), _none),
    "combine": Quantity("combine of experts' outputs, all layers", "s", _part("exchange", "combine_s"), _none),
}
"""By the name that a figure uses."""

X = {
    "tokens": Quantity("tokens per pass, all sequences", "", lambda out: float(out.tokens), _none),
    "chips": Quantity("chips", "", lambda out: float(out.chips), _none),
    "busiest": Quantity(
        "dispatched bytes of the busiest chip over the mean chip", "", _part("exchange", "busiest"), _none
    ),
}
"""Quantities for the x axis of a figure, besides the axes of its sweep."""

RATES = ("mfu", "tokens_per_s", "requests_per_s")
"""More is better."""

_AXES = {
    "workload.context": "context length, tokens",
    "workload.prompt": "prompt length, tokens",
    "layout.mesh.pipeline": "pipeline stages",
    "layout.mesh.tensor": "chips per tensor-parallel group",
}


def name_axis(axis: str) -> str:
    """Names a swept field: `workload.batch` is batch, `topology.link.latency` link latency, as a run has a latency."""
    *_, parent, field = (axis if axis.count(".") > 1 else f".{axis.rpartition('.')[2]}").split(".")
    return _AXES.get(axis, f"{parent} {field}".strip().replace("_", " "))
