"""Explanation of the difference between a formula and the simulated step: one bar per effect, as data and for the
terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from msgspec import Struct

from sim.report.headline import to_html
from sim.terminal import new_table, plain_console, styled
from sim.units import format_change, format_seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FORMULA = "The paper's formula"


class Words(Struct, frozen=True):
    """Names of the two closed forms in figures and tables, and their definitions."""

    group: str
    """Group of the bars that make up the first."""
    formula: str
    """Name of the first form inside a sentence."""
    first: str
    first_why: str
    ideal: str
    ideal_why: str


PAPERS = Words(
    FORMULA,
    "the paper's formula",
    "Closed form of the paper",
    "max(compute, memory) + communication: Pope et al. 2022, sections 2 and 3",
    "Closed form, ideal machine",
    "this layout, one operation after the other, at data sheet rates and without latency",
)
PER_SUBLAYER = Words(
    "The usual formula",
    "the usual formula",
    "Closed form, per sublayer",
    "max(FLOPs, weights and cache) of every sublayer, and the sums it waits for",
    "Closed form, per operation",
    "every operation's own roofline and overhead; joins of streams cost nothing, collectives slow nothing",
)


class Model(Struct, frozen=True):
    """One forward pass by one model; it differs from the model before in one effect."""

    name: str
    """Name of the effect."""
    group: str
    step_s: float
    why: str


class Bar(Struct, frozen=True):
    """Contribution of one effect to the step."""

    name: str
    group: str
    seconds: float
    running_s: float
    """Step with this effect and all before it."""
    why: str


class Scale(Struct, frozen=True):
    """Times and shares of a step as text, in the unit that fits the step."""

    step_s: float

    @property
    def unit(self) -> tuple[float, str]:
        """Seconds of the unit that fits the step, and its name."""
        return next((each for each in _UNITS if self.step_s >= each[0]), _UNITS[-1])

    def time(self, seconds: float, sign: str = "") -> str:
        """A time in the unit that fits the step, or in its own where that would show nothing: `+1.48 ms`, `-3.1 us`."""
        size, unit = self.unit
        decimals = max(0, 3 - len(str(int(self.step_s / size))) + 1)
        if seconds and abs(seconds) < 0.5 * size * 10**-decimals:
            if self.is_rounding(seconds):
                return f"0 {unit}"
            written = format_change if sign else format_seconds
            return written(float(f"{seconds:.1e}"))
        return f"{seconds / size:{sign}.{decimals}f} {unit}"

    def is_rounding(self, seconds: float) -> bool:
        """Returns True for a difference no larger than the rounding to whole picoseconds."""
        return abs(seconds) < ROUNDING * self.step_s

    def share(self, seconds: float, sign: str = "") -> str:
        """A time in percent of the simulated step."""
        share = 100 * seconds / self.step_s
        return f"{0 if abs(share) < 0.05 else share:{sign if abs(share) >= 0.05 else ''}.1f}%"


class Explanation(Struct, frozen=True):
    """Bars from a formula, the paper's or the usual one, to the simulated step; they add up to it."""

    scenario: str
    phase: str
    machine: str
    chips: int
    bars: tuple[Bar, ...]
    ideal_at: int
    """Number of bars up to the detailed closed form, of a torus on an ideal machine; the others are simulated."""
    inexact: tuple[str, ...]
    """Reasons why that closed form is not exact; empty if it equals the simulation of the ideal machine, to the
    rounding."""
    published_s: float | None
    """Published step, if the scenario has one."""
    words: Words = PAPERS

    def __repr__(self) -> str:
        first, step = format_seconds(self.bars[0].running_s), format_seconds(self.step_s)
        return f"Explanation({self.phase} of {self.scenario}: {len(self.bars)} effects from {first} to {step})"

    def _repr_html_(self) -> str:
        """Returns an effect per row, for a notebook."""
        rows = [(bar.name, format_change(bar.seconds), format_seconds(bar.running_s), bar.why) for bar in self.bars]
        return to_html(repr(self), rows)

    @property
    def exact(self) -> bool:
        """True if the simulation of the ideal machine takes the same time as that closed form, to the rounding."""
        return not self.inexact

    @property
    def step_s(self) -> float:
        """The simulated step, s."""
        return self.bars[-1].running_s

    @property
    def paper_s(self) -> float:
        """The step by the formula, s."""
        return sum(bar.seconds for bar in self.bars if bar.group == self.words.group)

    @property
    def ideal_s(self) -> float:
        """The step by the closed form of an ideal machine, s."""
        return self.bars[self.ideal_at - 1].running_s

    @property
    def groups(self) -> Iterator[tuple[str, list[Bar]]]:
        """Bars that follow each other in one group."""
        for group, bars in groupby(self.bars, key=lambda bar: bar.group):
            yield group, list(bars)

    @property
    def scale(self) -> Scale:
        """Unit of the step, in which times are written."""
        return Scale(self.step_s)


_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_WIDE = 120
"""Columns of a terminal that has room for the reasons."""
ROUNDING = 1e-7
"""Rounding as a share of the step. Whole picoseconds move an operation by half of one, and an operation takes more than
a microsecond."""


def build_bars(models: Iterable[Model]) -> Iterator[Bar]:
    """Yields the difference between each model and the one before; the first starts from zero."""
    before = 0.0
    for model in models:
        yield Bar(model.name, model.group, model.step_s - before, model.step_s, model.why)
        before = model.step_s


def render(explanations: Sequence[Explanation], console: Console | None = None) -> None:
    """Print a table per explanation on `console` (default: standard output)."""
    console = console or plain_console()
    reasons = console.width >= _WIDE
    for each in explanations:
        columns = (f"one {each.phase} step, explained", "effect", "running", "of step", *(["why"] if reasons else []))
        table = new_table(columns, texts=["why"])
        for row in _rows(each):
            if row is None:
                table.add_section()
            else:
                table.add_row(*row[: 5 if reasons else 4])
        console.print()
        console.print(table)


def _rows(each: Explanation) -> Iterator[tuple[str | Text, ...] | None]:
    """Yields the cells of each row, None for a rule."""
    done = 0
    for group, members in each.groups:
        total = sum(bar.seconds for bar in members)
        yield _bold(group), _bold(each.scale.time(total, "+")), "", _bold(each.scale.share(total, "+")), ""
        for bar in members:
            value = each.scale.time(bar.seconds, "+")
            has_colour = bar.group != each.words.group and not value.startswith("0 ")
            effect = styled((value, "red" if bar.seconds > 0 else "blue")) if has_colour else value
            why = styled((bar.why, "dim"))
            yield f"  {bar.name}", effect, each.scale.time(bar.running_s), each.scale.share(bar.seconds, "+"), why
        yield None
        done += len(members)
        if done == each.ideal_at:
            yield _bold(each.words.ideal.lower()), "", each.scale.time(each.ideal_s), each.scale.share(each.ideal_s), ""
            yield None
    yield _bold("simulated"), "", _bold(each.scale.time(each.step_s)), each.scale.share(each.step_s), ""
    if each.published_s is not None:
        off = f"simulated {each.step_s / each.published_s - 1:+.1%}"
        yield "published", "", each.scale.time(each.published_s), each.scale.share(each.published_s), off


def _bold(text: str) -> Text:
    return styled((text, "bold"))
