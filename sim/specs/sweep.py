"""Sweeps and their figures."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from sim.errors import suggest
from sim.specs.base import Strict, wrong
from sim.specs.prediction import Prediction

OUTCOMES_ON_X = ("tokens", "chips", "busiest")
"""Figures of a point that may stand on the x axis, besides the axes of the sweep."""


class FigureSpec(Strict):
    """Figure of a sweep: simulated lines, the usual closed form dashed, published points hollow."""

    title: str = ""
    """Title of the figure; default: the scenario\'s description."""
    x: str
    """An axis of the sweep with numbers for values, `tokens` (of all sequences in one pass), `chips`, or `busiest`:
    bytes of the busiest chip in a dispatch over those of the mean chip."""
    y: Literal[
        "latency",
        "step",
        "mfu",
        "tokens_per_s",
        "ttft",
        "tpot",
        "cost",
        "requests_per_s",
        "bubble",
        "slower",
        "dispatch",
        "combine",
    ]
    """cost: chip-seconds per token, Pope et al. section 4.4; requests_per_s and bubble: of a pipeline, the share of the
    time without a batch as mean of the stages; slower: by the stalls of a memory pool; dispatch and combine: time of
    the exchange of tokens with their experts, all layers, on the chip on which it takes longest."""
    series: str | Annotated[list[str], Field(min_length=1)] | None = None
    """The axis or axes of the sweep whose values are the lines; without it there is one line."""
    panels: str | None = None
    """An axis of the sweep, each of whose values has axes of its own, side by side with those of the others."""
    relative_to: str | None = None
    """Label of a line: the others are drawn as speed-ups over it, its time / theirs or their rate / its."""
    log: Literal["x", "y", "xy"] | None = None
    """Logarithmic axes."""
    published: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    """Case ids of published points, by the label of the line they stand beside."""
    published_file: str = "pope_dev"
    """A shipped name in scenarios/published/, or a path."""
    predictions: dict[str, Prediction] = {}
    """User predictions by name, dotted; a column is one of `published_file`, beside the published points."""
    crossovers: bool = False
    """Mark the tokens at which the paper's volumes of two of the layouts are equal."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The axes that tell lines apart."""
        return (self.series,) if isinstance(self.series, str) else tuple(self.series or ())


def _axis(values: object) -> object:
    """Said here in one sentence, since neither half of the union alone explains what is missing."""
    variants = isinstance(values, dict) and all(isinstance(fields, dict) and fields for fields in values.values())
    if not values or not (isinstance(values, list) or variants):
        rule = "must be a list of values, or variants such as {2D: {layout.ffn: weight_stationary_2d}, 1D: {...}}"
        raise wrong(rule=rule, got=values, hint="a field is one key with dots, as in {workload.batch: [1, 4]}")
    return values


Variants = Annotated[dict[str, Annotated[dict[str, Any], Field(min_length=1)]], Field(min_length=1)]
"""Named settings of several fields at once: `{2D: {layout.ffn: weight_stationary_2d}, 1D: {...}}`."""

SweepAxis = Annotated[Annotated[list[Any], Field(min_length=1)] | Variants, BeforeValidator(_axis)]
SweepSpec = Annotated[dict[str, SweepAxis], Field(min_length=1)]
"""The axes of a sweep, outermost first: values of a dotted field, or a name of one's own with variants."""


def check_figure(figure: FigureSpec, sweep: SweepSpec | None) -> None:
    """Raises the rule that a figure of a sweep breaks."""
    if sweep is None:
        raise wrong("figure", rule="requires 'sweep'", hint="remove both, or neither")
    panels = () if figure.panels is None else (figure.panels,)
    named = [("series", axis) for axis in figure.lines] + [("panels", axis) for axis in panels]
    for field, axis in named:
        if axis not in sweep:
            hint = suggest(axis, sweep)
            raise wrong("figure", field, rule="must be an axis of the sweep", got=axis, hint=hint)
    if figure.x not in (*sweep, *OUTCOMES_ON_X):
        hint = suggest(figure.x, (*sweep, *OUTCOMES_ON_X))
        rule = f"must be an axis of the sweep, or one of {', '.join(OUTCOMES_ON_X)}"
        raise wrong("figure", "x", rule=rule, got=figure.x, hint=hint)
    rest = [axis for axis in sweep if axis not in (*figure.lines, *panels, figure.x)]
    if figure.x in sweep or len(rest) > 1:
        for axis in rest:
            raise wrong("figure", "series", rule=f"'{axis}' varies in the sweep and must be x, series or panels")
    if figure.crossovers and figure.x != "tokens":
        raise wrong("figure", "crossovers", rule="crossovers are counts of tokens, so x must be 'tokens'")
