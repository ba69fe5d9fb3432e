"""Predicted against published: every case of a suite, simulated and by the closed forms, and whether it is close enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim.closed_form import pope
from sim.errors import InputError
from sim.run import latency_s, predict
from sim.specs import Scenario, Suite, Tolerance
from sim.suite import Case, read


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case beside its predictions, in the unit of its metric."""

    case_id: str
    source: str
    metric: str
    published: float
    simulated: float
    paper: float
    """The paper's closed form."""
    per_axis: float
    """The per-axis closed form."""
    not_gated: str

    @property
    def error(self) -> float:
        """Simulated / published - 1."""
        return self.simulated / self.published - 1

    @property
    def paper_error(self) -> float:
        """Paper's closed form / published - 1."""
        return self.paper / self.published - 1

    @property
    def per_axis_error(self) -> float:
        """Per-axis closed form / published - 1."""
        return self.per_axis / self.published - 1

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
    def of(cls, errors: Iterable[float]) -> Errors:
        size = np.sort(np.abs(list(errors)))
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

    suite: Suite
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
        """Whether the simulator is inside the suite's tolerance."""
        return self.simulated.within(self.suite.tolerance)

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "suite": self.suite.name,
            "passes": self.passes,
            "tolerance": self.suite.tolerance.model_dump(),
            "errors": {name: asdict(getattr(self, name)) for name in ("simulated", "paper", "per_axis")},
            "cases": [outcome.to_dict() for outcome in self.outcomes],
        }


def validate(
    name: str, rows: Path | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Validation:
    """Predict every case of a suite.

    Args:
        name: a shipped suite or a file.
        rows: another CSV of the same columns, in place of the suite's own.
        progress: called with (cases done, cases in all).

    Raises:
        InputError: a row that is wrong, or a scenario that cannot run; the message names it.
    """
    suite, cases = read(name, rows)
    outcomes = []
    for done, case in enumerate(cases):
        progress(done, len(cases))
        outcomes.append(_outcome(case))
    return Validation(suite, tuple(outcomes))


def predicted(case: Case, scenario: Scenario, latency: float) -> float:
    """A latency in the case's metric."""
    if case.metric == "latency_s":
        return latency
    chip = scenario.topology.chip
    parameters = scenario.model.nominal_parameters * scenario.layers / scenario.model.layers
    chips = int(np.prod([axis.size for axis in getattr(scenario.topology, "axes", {}).values()]))
    peak = chip.peak[scenario.workload.activations].value
    return pope.mfu(parameters, scenario.workload.tokens, chips, peak, latency)


def _outcome(case: Case) -> Outcome:
    try:
        scenario = case.scenario()
        forms = [predict(phase) for phase in scenario.phases]
        simulated = latency_s(scenario)
    except InputError as error:
        raise InputError(str(error), where=case.case_id) from None

    def form(name: str) -> float:
        return predicted(case, scenario, sum(getattr(found, name) for found in forms if found))

    return Outcome(
        case_id=case.case_id,
        source=case.source,
        metric=case.metric,
        published=case.published,
        simulated=predicted(case, scenario, simulated),
        paper=form("latency_s"),
        per_axis=form("per_axis_latency_s"),
        not_gated=case.not_gated,
    )


def markdown(validations: Sequence[Validation]) -> str:
    """The summary as a Markdown table, for README."""
    lines = [
        "| suite | cases | | median error | nine in ten within | worst |",
        "|---|---|---|---|---|---|",
    ]
    for found in validations:
        for label, errors in (
            ("simulated", found.simulated),
            ("closed form, per axis", found.per_axis),
            ("closed form, the paper's", found.paper),
        ):
            lines.append(
                f"| {found.suite.name} | {errors.cases} | {label} | {errors.median:.1%} | "
                f"{errors.nine_in_ten:.1%} | {errors.worst:.1%} |"
            )
    return "\n".join(lines)
