"""Predicted against published: every case of a suite, the errors of each model, and whether they are small enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.specs import AnySuite, CollectiveSuite, GenerationSuite, RequestSuite, Tolerance
from sim.terminal import plain_console, styled
from sim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 120
"""Characters where there is no terminal."""
_BANDS = (64 * 2.0**10, 2 * 2.0**20, 64 * 2.0**20)
"""Sizes, bytes, between which the spread of laboratories is given by itself."""
_NAMED = 8
"""Cases that are named where the reason not to gate them is given."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case beside its predictions, in the unit of its metric."""

    case_id: str
    source: str
    metric: str
    published: float
    simulated: float
    paper: float | None
    """The usual closed form: the paper's, of a generation half by half, of a collective NCCL's tuner; or None."""
    per_axis: float | None
    """The closed form per axis, of a generation per operation; of a collective none."""
    not_gated: str
    algorithm: str = ""
    """Of a collective."""
    variant: str = ""
    """Of a generation: its residual scheme."""
    setting: str = ""
    """Of a generation: what it has in common with those of other schemes; of a collective its machine and chips."""
    collective: str = ""
    size_bytes: float = 0.0
    """Of a collective."""

    @property
    def error(self) -> float:
        """Simulated / published - 1."""
        return self.simulated / self.published - 1

    @property
    def paper_error(self) -> float | None:
        """Published closed form / published value - 1."""
        return None if self.paper is None else self.paper / self.published - 1

    @property
    def per_axis_error(self) -> float | None:
        """Per-axis closed form / published - 1."""
        return None if self.per_axis is None else self.per_axis / self.published - 1

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return asdict(self) | {
            "error": self.error,
            "paper_error": self.paper_error,
            "per_axis_error": self.per_axis_error,
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """A rate over that of the baseline in the same setting."""

    case_id: str
    published: float
    simulated: float
    paper: float | None
    per_axis: float | None
    """By the closed forms."""
    not_gated: str

    @property
    def error(self) -> float:
        """Simulated - published."""
        return self.simulated - self.published

    @property
    def paper_error(self) -> float | None:
        return None if self.paper is None else self.paper - self.published

    @property
    def per_axis_error(self) -> float | None:
        return None if self.per_axis is None else self.per_axis - self.published


@dataclass(frozen=True, slots=True)
class Errors:
    """Absolute errors of the gated cases of one model."""

    median: float
    nine_in_ten: float
    """Nine cases in ten are at most this far off."""
    worst: float
    cases: int

    @classmethod
    def of(cls, errors: Iterable[float | None]) -> Errors:
        """Of those that there are."""
        size = np.sort(np.abs([error for error in errors if error is not None]))
        if not len(size):
            return cls(0.0, 0.0, 0.0, 0)
        return cls(float(np.median(size)), float(size[int(np.ceil(0.9 * len(size))) - 1]), float(size[-1]), len(size))

    def within(self, tolerance: Tolerance) -> bool:
        """Whether all three are inside."""
        return (
            self.median <= tolerance.median
            and self.nine_in_ten <= tolerance.nine_in_ten
            and self.worst <= tolerance.worst
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """Longest over shortest time that laboratories measured of the same collective, over a range of sizes."""

    most_bytes: float
    """Largest size of the range."""
    median: float
    worst: float
    sources: int
    """Laboratories; 0 where no collective was measured by two."""

    @classmethod
    def of(cls, most_bytes: float, measured: Sequence[Mapping[str, Sequence[float]]]) -> Spread:
        """Returns the spread of collectives, for each of which the times of every laboratory are given."""
        shared = [sources for sources in measured if len(sources) > 1]
        medians = [[float(np.median(times)) for times in sources.values()] for sources in shared]
        ratios = [max(times) / min(times) for times in medians]
        if not ratios:
            return cls(most_bytes, 1.0, 1.0, 0)
        names = {name for sources in shared for name in sources}
        return cls(most_bytes, float(np.median(ratios)), max(ratios), len(names))


@dataclass(frozen=True, slots=True)
class Validation:
    """All outcomes of a suite."""

    suite: AnySuite
    outcomes: tuple[Outcome, ...]

    @property
    def gated(self) -> list[Outcome]:
        """Cases held against the tolerance."""
        return [outcome for outcome in self.outcomes if not outcome.not_gated]

    @property
    def simulated(self) -> Errors:
        return Errors.of(outcome.error for outcome in self.gated)

    @property
    def paper(self) -> Errors:
        return Errors.of(outcome.paper_error for outcome in self.gated)

    @property
    def per_axis(self) -> Errors:
        return Errors.of(outcome.per_axis_error for outcome in self.gated)

    @property
    def passes(self) -> bool:
        """Whether there is a case to judge by, and the simulator is inside the suite's tolerance."""
        within = bool(self.gated) and self.simulated.within(self.suite.tolerance)
        if isinstance(self.suite, GenerationSuite):
            return within and self.speedup_errors.within(self.suite.speedup.tolerance)
        return within and all(errors.within(self.suite.tolerance) for errors in self.classes.values())

    @property
    def classes(self) -> dict[str, Errors]:
        """Errors of the gated collectives of each machine and number of chips, every class of which is gated."""
        names = dict.fromkeys(outcome.setting for outcome in self.gated if outcome.collective)
        return {name: Errors.of(each.error for each in self.gated if each.setting == name) for name in names}

    def ranges(self, setting: str) -> dict[str, list[Errors]]:
        """Returns the errors of each gated collective of one class, by the ranges of sizes that `_BANDS` divides."""
        found = [each for each in self.gated if each.setting == setting and each.collective]
        bounds = list(zip((0.0, *_BANDS), (*_BANDS, np.inf), strict=True))
        return {
            name: [
                Errors.of(each.error for each in found if each.collective == name and least < each.size_bytes <= most)
                for least, most in bounds
            ]
            for name in dict.fromkeys(each.collective for each in found)
        }

    def spread(self, setting: str) -> list[Spread]:
        """How far laboratories are apart that ran the same collective of NCCL on this machine and these chips.

        Several rows of one laboratory count as their median.
        """
        times: dict[tuple[str, float], dict[str, list[float]]] = {}
        for each in self.outcomes:
            if each.setting == setting and each.paper is not None:
                sources = times.setdefault((each.collective, each.size_bytes), {})
                sources.setdefault(each.source, []).append(each.published)
        bands = zip((0.0, *_BANDS), (*_BANDS, np.inf), strict=True)
        return [
            Spread.of(most, [each for (_, size), each in times.items() if least < size <= most])
            for least, most in bands
        ]

    @property
    def speedups(self) -> list[Ratio]:
        """Rates of a suite of generations over those of its baseline."""
        if not isinstance(self.suite, GenerationSuite):
            return []
        rates = [outcome for outcome in self.outcomes if outcome.metric == "tokens_per_s"]
        baseline = {outcome.setting: outcome for outcome in rates if outcome.variant == self.suite.speedup.baseline}
        pairs = [(each, baseline[each.setting]) for each in rates if each.setting in baseline]
        return [
            Ratio(
                each.case_id,
                each.published / base.published,
                each.simulated / base.simulated,
                each.paper / base.paper if each.paper and base.paper else None,
                each.per_axis / base.per_axis if each.per_axis and base.per_axis else None,
                each.not_gated or base.not_gated,
            )
            for each, base in pairs
            if each is not base
        ]

    @property
    def speedup_errors(self) -> Errors:
        """Of the gated ones."""
        return Errors.of(ratio.error for ratio in self.speedups if not ratio.not_gated)

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "suite": self.suite.name,
            "passes": self.passes,
            "tolerance": self.suite.tolerance.model_dump(),
            "errors": {name: asdict(getattr(self, name)) for name in ("simulated", "paper", "per_axis")},
            "classes": {
                name: asdict(errors)
                | {"ranges": {key: [asdict(each) for each in found] for key, found in self.ranges(name).items()}}
                for name, errors in self.classes.items()
            },
            "speedups": [asdict(ratio) | {"error": ratio.error} for ratio in self.speedups],
            "cases": [outcome.to_dict() for outcome in self.outcomes],
        }


def usual_form(suite: AnySuite) -> str:
    """Name of the closed form that a suite's `paper` values are of."""
    if isinstance(suite, CollectiveSuite):
        return "NCCL's tuner"
    return "half by half" if isinstance(suite, GenerationSuite | RequestSuite) else "paper's form"


def render(validation: Validation, console: Console | None = None) -> None:
    """Print every case, the errors of each model, and whether the suite passes."""
    from rich import box
    from rich.table import Table

    console = console or plain_console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    suite, tolerance = validation.suite, validation.suite.tolerance
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = ": ".join(filter(None, (suite.name, suite.description)))
    of_collectives = isinstance(suite, CollectiveSuite)
    of_halves = isinstance(suite, GenerationSuite | RequestSuite)
    usual = usual_form(suite)
    columns = ("case", "published", "simulated", "error", usual, "error")
    for i, column in enumerate((*columns, "algorithm") if of_collectives else columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
    for outcome in validation.outcomes:
        table.add_row(
            outcome.case_id,
            _value(outcome, outcome.published),
            _value(outcome, outcome.simulated),
            f"{outcome.error:+.1%}",
            "none" if outcome.paper is None else _value(outcome, outcome.paper),
            "" if outcome.paper_error is None else f"{outcome.paper_error:+.1%}",
            *([outcome.algorithm] if of_collectives else []),
            style="dim" if outcome.not_gated else None,
        )
    console.print(table)
    for name, errors in (
        ("simulated", validation.simulated),
        ("closed form, per operation" if of_halves else "closed form, per axis", validation.per_axis),
        (f"closed form, {usual}" if of_halves else usual if of_collectives else "closed form, paper", validation.paper),
    ):
        if errors.cases:
            console.print(f"{name:<26} {_errors(errors)}")
    _classes(validation, console)
    if isinstance(suite, GenerationSuite):
        _speedups(validation, suite, console)
    verdict = ("passes", "bold green") if validation.passes else ("misses", "bold red")
    said = (
        f" its tolerance: median {tolerance.median:.0%}, nine in ten {tolerance.nine_in_ten:.0%}, "
        f"worst {tolerance.worst:.0%}, of {validation.simulated.cases} gated cases"
    )
    console.print(styled(verdict, said))
    for reason in dict.fromkeys(outcome.not_gated for outcome in validation.outcomes if outcome.not_gated):
        ids = [outcome.case_id for outcome in validation.outcomes if outcome.not_gated == reason]
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        named = ", ".join(ids[:_NAMED]) + more
        console.print(f"not gated: {named}: {reason}", style="dim")


def _classes(validation: Validation, console: Console) -> None:
    for name, errors in validation.classes.items():
        console.print(f"{name:<26} {_errors(errors)}   of {errors.cases}")
        for collective, ranges in validation.ranges(name).items():
            medians = [
                f"{_up_to(most)} {each.median:.1%} (nine in ten {each.nine_in_ten:.1%}, of {each.cases})"
                for most, each in zip((*_BANDS, np.inf), ranges, strict=True)
                if each.cases
            ]
            console.print(f"  median of {collective} by size: {', '.join(medians)}")
        spread = [
            f"{_up_to(band.most_bytes)} {band.median:.2f} (worst {band.worst:.2f}, {band.sources} laboratories)"
            for band in validation.spread(name)
            if band.sources
        ]
        if spread:
            console.print(f"  longest over shortest of the laboratories' times: {', '.join(spread)}")


def _up_to(most_bytes: float) -> str:
    return "above" if most_bytes == np.inf else f"to {format_bytes(most_bytes)}"


def _speedups(validation: Validation, suite: GenerationSuite, console: Console) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ("published", "simulated", "points off", "per operation", "half by half")
    for i, column in enumerate((f"speed-up over {suite.speedup.baseline}", *columns)):
        table.add_column(column, justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
    for ratio in validation.speedups:
        forms = ("" if form is None else f"{form:.3f}" for form in (ratio.per_axis, ratio.paper))
        figures = (f"{ratio.published:.3f}", f"{ratio.simulated:.3f}", f"{100 * ratio.error:+.1f}", *forms)
        table.add_row(ratio.case_id.removesuffix("/tokens_per_s"), *figures, style="dim" if ratio.not_gated else None)
    console.print(table)
    tolerance = suite.speedup.tolerance
    console.print(
        f"{'speed-ups':<26} {_errors(validation.speedup_errors)}   allowed {tolerance.median:.0%}, "
        f"{tolerance.nine_in_ten:.0%}, {tolerance.worst:.0%}"
    )
    gated = [ratio for ratio in validation.speedups if not ratio.not_gated]
    console.print(f"{'  closed form, per operation':<26} {_errors(Errors.of(ratio.per_axis_error for ratio in gated))}")
    console.print(f"{'  closed form, half by half':<26} {_errors(Errors.of(ratio.paper_error for ratio in gated))}")


def _value(outcome: Outcome, value: float) -> str:
    if outcome.metric == "tokens_per_s":
        return f"{value:,.1f}/s"
    return f"{value:.1%}" if outcome.metric == "mfu" else format_seconds(value)


def _errors(errors: Errors) -> str:
    return f"median {errors.median:6.1%}   nine in ten {errors.nine_in_ten:6.1%}   worst {errors.worst:6.1%}"
