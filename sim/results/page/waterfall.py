"""Waterfall of a phase as rows of text and bars: that of waterfall.png, or only the closed forms without --explain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sim.plots.waterfall import Row, axis_end_s, list_rows
from sim.report.closed_form import FormKind
from sim.report.present.explanation import Explanation, Model, Scale, build_bars
from sim.report.report import Report

if TYPE_CHECKING:
    from sim.simulate.result import Pass


def waterfall_data(part: Pass, explanation: Explanation | None) -> dict[str, Any] | None:
    """Returns rows from the closed form to the simulated step; None where no closed form covers the phase."""
    report = part.report
    rows = list(list_rows(explanation) if explanation else _closed_form_rows(report))
    if not rows:
        return None
    scale, published_s = Scale(rows[-1].seconds), _published_s(part)
    end_s = axis_end_s(rows, published_s)
    return {
        "rows": [_row(row, scale, end_s) for row in rows],
        "end": scale.time(end_s),
        "published": None if published_s is None else [published_s / end_s, scale.time(published_s)],
    }


def _row(row: Row, scale: Scale, end_s: float) -> dict[str, Any]:
    sign = "" if row.kind == "total" else "+"
    return {
        "kind": row.kind,
        "name": row.name,
        "from": row.start_s / end_s,
        "to": row.end_s / end_s,
        "adds": "" if row.kind == "total" else scale.time(row.seconds, sign),
        "so_far": "" if row.kind == "header" else scale.time(row.end_s),
        "share": scale.share(row.seconds, sign),
        "why": row.why,
    }


def _published_s(part: Pass) -> float | None:
    """Returns the published time of the step; of a pipeline's requests together nothing is published."""
    published = part.report.published
    if published is None or part.report.pipeline:
        return None
    return published.value / part.scenario.workload.steps


def _closed_form_rows(report: Report) -> Iterator[Row]:
    """Yields rows without groups."""
    bars = list(build_bars(_closed_form_models(report)))
    for i, bar in enumerate(bars):
        kind = "formula" if not i else "more" if bar.seconds >= 0 else "less"
        yield Row(kind, bar.name, bar.seconds, bar.running_s - bar.seconds, bar.running_s, bar.why)
    if bars:
        yield Row("total", "Simulated", bars[-1].running_s, 0.0, bars[-1].running_s)


def _closed_form_models(report: Report) -> Sequence[Model]:
    """Returns the closed form of the phase, and the simulation last; none where no closed form covers it."""
    form, step_s, pool = report.closed_form, report.simulated.step_s, report.pool
    if report.pipeline and (passes := report.pipeline.passes):
        ideal, ideal_why = "Closed form: no communication, all requests at once", "stages of the mean simulated time"
        why = "transfers between stages, later arrivals of requests, calls and polls, unequal batches"
        return (
            Model(ideal, "", passes.closed_form.total, ideal_why),
            Model("Sends and waits", "", passes.total_s, why),
        )
    if pool:
        plain_s = step_s - pool.stall_s
        return (
            Model("Without a memory pool", "", plain_s, "simulated with all layers in the chip's memory"),
            Model("Stalls, closed form", "", plain_s + pool.closed_form_stall_s, "closed form of all fetches"),
            Model("More stalls", "", step_s, "stalls that the closed form does not model"),
        )
    if form is None:
        return ()
    steps = report.simulated.latency_s / step_s
    more, why = "Links, overheads, efficiencies", "per axis, at the rates the machine reaches, loops as one"
    if form.kind is FormKind.PER_SUBLAYER:
        more, why = "Operations, overheads", "every operation's own roofline and overhead, norms and adds, the draw"
    only = "effects of the simulation only; --explain shows each"
    return (
        Model(form.name.capitalize(), "", form.latency_s / steps, "max(compute, memory) + links"),
        Model(more, "", form.detailed_latency_s / steps, why),
        Model("Overlap and contention", "", step_s, only),
    )
