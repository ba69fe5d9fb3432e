"""Predicted against published: every case of a suite, the errors of each model, and whether they are small enough."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.specs import CollectiveSuite, Suite, Tolerance
from sim.units import format_seconds

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH = 120
"""Characters where there is no terminal."""
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
    """The closed form as published: the paper's, or of a collective that of NCCL's tuner; None where there is none."""
    per_axis: float | None
    """The per-axis closed form; of a collective none."""
    not_gated: str
    algorithm: str = ""
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
class Validation:
    """All outcomes of a suite."""

    suite: Suite | CollectiveSuite
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
        return bool(self.gated) and self.simulated.within(self.suite.tolerance)

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "suite": self.suite.name,
            "passes": self.passes,
            "tolerance": self.suite.tolerance.model_dump(),
            "errors": {name: asdict(getattr(self, name)) for name in ("simulated", "paper", "per_axis")},
            "cases": [outcome.to_dict() for outcome in self.outcomes],
        }


def render(validation: Validation, console: Console | None = None) -> None:
    """Print every case, the errors of each model, and whether the suite passes."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    suite, tolerance = validation.suite, validation.suite.tolerance
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.title = escape(": ".join(filter(None, (suite.name, suite.description))))
    of_collectives = isinstance(suite, CollectiveSuite)
    columns = ("case", "published", "simulated", "error", "NCCL's tuner" if of_collectives else "paper's form", "error")
    for i, column in enumerate((*columns, "algorithm") if of_collectives else columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
    for outcome in validation.outcomes:
        table.add_row(
            escape(outcome.case_id),
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
        ("closed form, per axis", validation.per_axis),
        ("NCCL's tuner" if of_collectives else "closed form, paper", validation.paper),
    ):
        if errors.cases:
            console.print(f"{name:<22} {_errors(errors)}")
    verdict = "[bold green]passes[/]" if validation.passes else "[bold red]misses[/]"
    console.print(
        f"{verdict} its tolerance: median {tolerance.median:.0%}, nine in ten {tolerance.nine_in_ten:.0%}, "
        f"worst {tolerance.worst:.0%}, of {validation.simulated.cases} gated cases"
    )
    for reason in dict.fromkeys(outcome.not_gated for outcome in validation.outcomes if outcome.not_gated):
        ids = [outcome.case_id for outcome in validation.outcomes if outcome.not_gated == reason]
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        named = ", ".join(ids[:_NAMED]) + more
        console.print(f"[dim]not gated: {escape(f'{named}: {reason}')}[/]")


def _value(outcome: Outcome, value: float) -> str:
    return format_seconds(value) if outcome.metric == "latency_s" else f"{value:.1%}"


def _errors(errors: Errors) -> str:
    return f"median {errors.median:6.1%}   nine in ten {errors.nine_in_ten:6.1%}   worst {errors.worst:6.1%}"
