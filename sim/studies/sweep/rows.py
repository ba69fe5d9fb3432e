"""Rows of a sweep: simulated figures and closed forms of each point, or its error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct, convert, to_builtins
from msgspec.structs import fields

from sim.errors import DeadlockError, InputError, internal
from sim.report.report import Report
from sim.simulate.result import Run
from sim.simulate.run import run
from sim.specs import Scenario, load
from sim.studies.sweep.points import NO_SWEEP, Point

NOTES_SEPARATOR = " | "
"""Between the notes of a row in a table."""


class Figures(Struct, frozen=True):
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


class PipelineFigures(Struct, frozen=True):
    """Figures of a pipeline of stages that serves requests."""

    requests_per_s: float
    """Whole requests, over the second half of the results."""
    latency_p95_s: float | None
    """95th percentile of the latency of a request; None if it takes several forward passes."""
    bubble: float
    """Share of the time without a batch on a stage, mean over the stages."""
    total_s: float
    """Time of the machine for all requests."""
    closed_form_total_s: float
    """The same by the algebra of the stages' mean times, where sends are free."""


class PoolFigures(Struct, frozen=True):
    """Cost of layers in another memory, in one forward pass."""

    remote_layers: int
    stall_s: float
    """Additional time of the pass over one with all weights in the chip's memory."""
    closed_form_stall_s: float
    slower: float
    """Stall over the time without a pool."""
    closed_form_slower: float
    layers_that_fit: int
    """Layers of the largest model of this width that fits."""


class ExchangeFigures(Struct, frozen=True):
    """Exchange of tokens with their experts, in one step."""

    dispatch_s: float
    """Time of all dispatches, on the chip on which they take longest."""
    combine_s: float
    busiest: float
    """Bytes that a chip sends or receives at most in a dispatch, over the mean."""
    beyond_bytes: float
    """Bytes of a dispatch that a chip sends to other boxes, on average."""


class Outcome(Struct, frozen=True):
    """Results of one point."""

    chips: int
    tokens: int
    """Tokens of all sequences in one forward pass, of the prefill if there is one."""
    simulated: Figures
    exposed: float
    """Share of the time in which a collective is in progress and nothing is computed."""
    fits: bool
    memory_bytes: float
    closed_form: Figures | None
    """The paper's."""
    per_axis: Figures | None
    pipeline: PipelineFigures | None = None
    pool: PoolFigures | None = None
    exchange: ExchangeFigures | None = None


_PARTS: dict[str, tuple[str, type[Any]]] = {
    "simulated": ("", Figures),
    "closed_form": ("closed_form_", Figures),
    "per_axis": ("per_axis_", Figures),
    "pipeline": ("pipeline_", PipelineFigures),
    "pool": ("pool_", PoolFigures),
    "exchange": ("exchange_", ExchangeFigures),
}
"""Fields of Outcome that hold several figures: what their columns begin with, and the class."""


class Row(Struct, frozen=True):
    """One point and its outcome; exactly one of `outcome` and `error` is there."""

    choices: Mapping[str, str]
    outcome: Outcome | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    """Notes on how it was simulated where that differs from what the scenario names."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the row as JSON data."""
        outcome = to_builtins(self.outcome) if self.outcome else None
        return {"choices": dict(self.choices), "outcome": outcome, "error": self.error, "notes": list(self.notes)}


def run_point(name: str, point: Point) -> Row:
    """Runs one point of the scenario in file `name`; the row holds its outcome, or what is wrong with it."""
    try:
        scenario = load.scenario(name, point.settings)
        with np.errstate(invalid="raise"):  # a float that no integer of the clock can hold
            result = run(scenario, remedies=False)
            return Row(point.choices, _outcome(scenario, result.report), notes=_notes(result))
    except InputError as error:
        return Row(point.choices, error=_plain(error))
    except DeadlockError as error:
        return Row(point.choices, error=str(error))
    except MemoryError:
        return Row(point.choices, error="exceeds this computer's memory")
    except (OverflowError, FloatingPointError):
        return Row(point.choices, error="exceeds the clock of the simulation")
    except Exception as error:  # of one point, and the others can still run
        return Row(point.choices, error=internal(error))


def row_columns(row: Row) -> dict[str, Any]:
    """Returns names and values of the columns after those of the axes; notes are separated by ` | `."""
    return outcome_columns(row.outcome) | {"error": row.error, "notes": NOTES_SEPARATOR.join(row.notes) or None}


def outcome_columns(outcome: Outcome | None) -> dict[str, Any]:
    """Returns column names and values; all None without an outcome."""
    result: dict[str, Any] = {}
    for field in fields(Outcome):
        value = getattr(outcome, field.name, None)
        if field.name in _PARTS:
            prefix, form = _PARTS[field.name]
            for figure in fields(form):
                result[prefix + figure.name] = getattr(value, figure.name, None)
        else:
            result[field.name] = value
    return result


def column_types() -> dict[str, type]:
    """Returns the type of every column: int, float or bool."""
    types: dict[str, type] = {}
    for field in fields(Outcome):
        prefix, form = _PARTS.get(field.name, ("", None))
        for each in fields(form) if form else (field,):
            types[prefix + each.name] = each.type if each.type in (int, bool) else float
    return types


def parse_outcome(texts: Mapping[str, str]) -> Outcome | None:
    """Parses the outcome whose columns were written as text; None if there is none.

    Raises:
        ValueError: a value is no number, or one that every outcome has is missing.
    """
    if not texts["chips"]:
        return None

    def values(form: type[Struct], prefix: str = "") -> dict[str, Any] | None:
        found = {field.name: texts.get(prefix + field.name) or None for field in fields(form)}
        return found if any(found.values()) else None

    parts = {name: values(form, prefix) for name, (prefix, form) in _PARTS.items()}
    return convert({**(values(Outcome) or {}), **parts}, Outcome, strict=False)


def _notes(result: Run) -> tuple[str, ...]:
    """Returns the notes of all passes, and one on layers of the model that are left out."""
    scenario, every = result.scenario, [note for part in result.passes for note in part.lowered.notes]
    if scenario.layers < scenario.model.layers:
        every.append(f"{scenario.layers} of the model's {scenario.model.layers} layers: all figures are of these alone")
    return tuple(dict.fromkeys(every))


def _outcome(scenario: Scenario, report: Report) -> Outcome:
    workload, simulated, form = scenario.workload, report.simulated, report.closed_form
    figures = Figures(
        simulated.latency_s,
        simulated.step_s,
        simulated.ttft_s,
        simulated.tpot_s,
        simulated.tokens_per_s,
        simulated.mfu,
        simulated.chip_s_per_token,
    )

    def at(latency: str) -> Figures:
        """Scales the figures to the time of a closed form."""
        total_s = float(getattr(form, latency))
        ratio = total_s / simulated.latency_s
        first, then = figures.ttft_s and figures.ttft_s * ratio, figures.tpot_s and figures.tpot_s * ratio
        if report.phases and all(phase.closed_form for phase in report.phases):
            times = [getattr(phase.closed_form, latency) for phase in report.phases]
            first, then = times[0], times[1] / (workload.generate or 1)
        rates = {"tokens_per_s": figures.tokens_per_s / ratio, "mfu": figures.mfu / ratio}
        return Figures(total_s, figures.step_s * ratio, first, then, cost_chip_s=figures.cost_chip_s * ratio, **rates)

    return Outcome(
        chips=report.chips,
        tokens=workload.batch * workload.tokens_per_step,
        simulated=figures,
        exposed=simulated.exposed_communication_s / report.chip_s,
        fits=report.memory.fits,
        memory_bytes=report.memory.used_bytes,
        closed_form=at("latency_s") if form else None,
        per_axis=at("detailed_latency_s") if form else None,
        pipeline=_pipeline(report),
        pool=_pool(report),
        exchange=_exchange(report),
    )


def _pipeline(report: Report) -> PipelineFigures | None:
    pipeline = report.pipeline
    if pipeline is None:
        return None
    once = pipeline.passes if pipeline.passes and pipeline.passes.per_request == 1 else None
    return PipelineFigures(
        requests_per_s=pipeline.requests_per_s,
        latency_p95_s=once.latency_p95_s if once else None,
        bubble=pipeline.bubble,
        total_s=pipeline.total_s,
        closed_form_total_s=pipeline.closed_form_total_s,
    )


def _exchange(report: Report) -> ExchangeFigures | None:
    experts = (report.phases[0] if report.phases else report).experts
    if experts is None or not experts.exchanges:
        return None
    dispatch, combine = experts.exchanges
    return ExchangeFigures(
        dispatch_s=dispatch.longest_s,
        combine_s=combine.longest_s,
        busiest=dispatch.most_bytes / (dispatch.mean_bytes or 1.0),
        beyond_bytes=dispatch.beyond_bytes,
    )


def _pool(report: Report) -> PoolFigures | None:
    phase = report.phases[0] if report.phases else report
    pool = phase.pool
    if pool is None:
        return None
    plain_s = pool.stall_s / pool.slower if pool.slower else phase.simulated.step_s
    return PoolFigures(
        remote_layers=len(pool.remote_layers),
        stall_s=pool.stall_s,
        closed_form_stall_s=pool.closed_form_stall_s,
        slower=pool.slower,
        closed_form_slower=pool.closed_form_stall_s / plain_s,
        layers_that_fit=pool.layers_that_fit,
    )


def _plain(error: InputError) -> str:
    """Returns the message without the settings of the point, which the row's choices already state."""
    hint = error.hint.partition(f"with --set {NO_SWEEP[0]}")[0].rstrip("; ")
    return str(InputError(error.rule, where=error.where.removeprefix("--set "), got=error.got, hint=hint))
