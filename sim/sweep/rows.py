"""What a sweep measures: one row per point, of simulated figures and closed forms, or why there are none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim import load
from sim.errors import DeadlockError, InputError
from sim.report.report import Report
from sim.run import run
from sim.specs import Scenario
from sim.sweep.points import NO_SWEEP, Point


@dataclass(frozen=True, slots=True)
class Figures:
    """The quantities a figure may show, for one latency."""

    latency_s: float
    """All steps."""
    step_s: float
    ttft_s: float | None
    tpot_s: float | None
    tokens_per_s: float
    mfu: float
    cost_chip_s: float
    """Chip-seconds per token."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of one point."""

    chips: int
    tokens: int
    """Of all sequences in one forward pass; of the prefill where there is one."""
    simulated: Figures
    exposed: float
    """Share of the time in which a collective is in progress and nothing is computed."""
    fits: bool
    memory_bytes: float
    closed_form: Figures | None
    """The paper's."""
    per_axis: Figures | None


@dataclass(frozen=True, slots=True)
class Row:
    """One point and its outcome; exactly one of `outcome` and `error` is there."""

    choices: Mapping[str, str]
    outcome: Outcome | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON data."""
        outcome = dataclasses.asdict(self.outcome) if self.outcome else None
        return {"choices": dict(self.choices), "outcome": outcome, "error": self.error}


def measure(name: str, point: Point) -> Row:
    """Run one point of the scenario in file `name`; what is wrong with the point is in its row."""
    try:
        scenario = load.scenario(name, point.settings)
        with np.errstate(invalid="raise"):  # a float that no integer of the clock can hold
            return Row(point.choices, _outcome(scenario, run(scenario).report))
    except InputError as error:
        return Row(point.choices, error=_plain(error))
    except DeadlockError as error:
        return Row(point.choices, error=str(error))
    except MemoryError:
        return Row(point.choices, error="does not fit this computer's memory")
    except (OverflowError, FloatingPointError):
        return Row(point.choices, error="takes longer than the clock of the simulation counts")


def columns(outcome: Outcome | None) -> dict[str, Any]:
    """Column names and values; all None where there is no outcome."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(Outcome):
        value = getattr(outcome, field.name, None)
        if field.name in ("simulated", "closed_form", "per_axis"):
            prefix = "" if field.name == "simulated" else f"{field.name}_"
            for figure in dataclasses.fields(Figures):
                result[prefix + figure.name] = getattr(value, figure.name, None)
        else:
            result[field.name] = value
    return result


def outcome_of(texts: Mapping[str, str]) -> Outcome | None:
    """The outcome whose `columns` were written as text; None for one that is not there.

    Raises:
        ValueError: a value is no number.
    """
    if not texts["chips"]:
        return None

    def number(text: str) -> float | None:
        return float(text) if text else None

    def figures(prefix: str) -> Figures | None:
        values = {field.name: number(texts[prefix + field.name]) for field in dataclasses.fields(Figures)}
        return None if values["latency_s"] is None else Figures(**values)  # type: ignore[arg-type]

    simulated = figures("")
    if simulated is None:
        raise ValueError("an outcome without a latency")
    return Outcome(
        chips=int(texts["chips"]),
        tokens=int(texts["tokens"]),
        simulated=simulated,
        exposed=float(texts["exposed"]),
        fits=texts["fits"] == "True",
        memory_bytes=float(texts["memory_bytes"]),
        closed_form=figures("closed_form_"),
        per_axis=figures("per_axis_"),
    )


def _outcome(scenario: Scenario, report: Report) -> Outcome:
    workload, simulated, form = scenario.workload, report.simulated, report.closed_form
    cost = report.chips / workload.tokens
    figures = Figures(
        simulated.latency_s,
        simulated.step_s,
        simulated.ttft_s,
        simulated.tpot_s,
        simulated.tokens_per_s,
        simulated.mfu,
        cost * simulated.latency_s,
    )

    def at(latency: str) -> Figures:
        """The same work in the time that a closed form says."""
        total_s = float(getattr(form, latency))
        ratio = total_s / simulated.latency_s
        first, then = figures.ttft_s and figures.ttft_s * ratio, figures.tpot_s and figures.tpot_s * ratio
        if report.phases and all(phase.closed_form for phase in report.phases):
            times = [getattr(phase.closed_form, latency) for phase in report.phases]
            first, then = times[0], times[1] / (workload.generate or 1)
        rates = {"tokens_per_s": figures.tokens_per_s / ratio, "mfu": figures.mfu / ratio}
        return Figures(total_s, figures.step_s * ratio, first, then, cost_chip_s=cost * total_s, **rates)

    return Outcome(
        chips=report.chips,
        tokens=workload.batch * workload.tokens_per_step,
        simulated=figures,
        exposed=simulated.exposed_communication_s / (simulated.latency_s if report.phases else report.chip_s),
        fits=report.memory.fits,
        memory_bytes=report.memory.used_bytes,
        closed_form=at("latency_s") if form else None,
        per_axis=at("per_axis_latency_s") if form else None,
    )


def _plain(error: InputError) -> str:
    """The message without the settings of the point: the row's choices say what they are."""
    hint = error.hint.partition(f"with --set {NO_SWEEP[0]}")[0].rstrip("; ")
    return str(InputError(error.rule, where=error.where.removeprefix("--set "), got=error.got, hint=hint))
