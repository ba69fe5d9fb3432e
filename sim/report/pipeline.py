"""What a pipeline did: latency of requests, throughput, fill and drain, bubbles per stage, beside the algebra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.closed_form import pipeline as form
from sim.lowering.lowered import Batches
from sim.specs import PipelineSpec
from sim.trace import Trace
from sim.units import PS_PER_S


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage. Seconds."""

    layers: int
    chips: tuple[int, ...]
    pass_s: float
    """Mean time of a batch, or micro-batch, on the stage."""
    busy_s: float
    """With a batch on the stage."""
    fill_s: float
    """Until its first batch."""
    drain_s: float
    """After its last batch."""
    bubble: float
    """Share of the whole time without a batch on the stage."""


@dataclass(frozen=True, slots=True)
class PipelineReport:
    """A run of requests through stages. Seconds, of one forward pass of every request."""

    schedule: str
    requests: int
    warm_up: int
    """Decode steps of as many requests before: the pipeline is full when the others come. No latency is theirs."""
    microbatches: int
    in_flight: int
    """Requests under way at most."""
    total_s: float
    """From the first request to the last result."""
    latency_mean_s: float
    """Of a request, from its arrival to its result."""
    latency_median_s: float
    latency_p95_s: float
    latency_max_s: float
    interval_s: float
    """Between results, over the second half of the requests."""
    requests_per_s: float
    """1 / interval."""
    stages: tuple[StageReport, ...]
    closed_form: form.PipelineForm
    """Of the stages' mean times where sends are free, and all requests there from the start."""

    @property
    def passes(self) -> int:
        """All requests of the run, those that fill the pipeline included."""
        return self.warm_up + self.requests

    @property
    def total_difference(self) -> float:
        """Simulated / closed form - 1: what sends, waits for requests and the controller cost."""
        return self.total_s / self.closed_form.total - 1


def pipeline_report(trace: Trace, batches: Batches, spec: PipelineSpec) -> PipelineReport:
    """The figures of a simulated pipeline."""
    ends = trace.times["end"]
    arrived, answered = (ends[list(tasks)] / PS_PER_S for tasks in (batches.arrived, batches.answered))
    latency, total_s = (answered - arrived)[batches.warm_up :], trace.makespan_ps / PS_PER_S
    half = len(answered) // 2
    later = answered[half:] if len(answered) - half > 1 else np.concatenate(([0.0], answered))
    interval_s = float((later[-1] - later[0]) / (len(later) - 1))
    stages = tuple(_stage(trace, batches, stage, total_s) for stage in range(len(batches.layers)))
    return PipelineReport(
        schedule=spec.schedule,
        requests=spec.requests,
        warm_up=batches.warm_up,
        microbatches=batches.parts,
        in_flight=spec.under_way(len(stages)),
        total_s=total_s,
        latency_mean_s=float(latency.mean()),
        latency_median_s=float(np.median(latency)),
        latency_p95_s=float(np.percentile(latency, 95)),
        latency_max_s=float(latency.max()),
        interval_s=interval_s,
        requests_per_s=1 / interval_s,
        stages=stages,
        closed_form=_form(spec, len(answered), [stage.pass_s for stage in stages], batches.parts),
    )


def _stage(trace: Trace, batches: Batches, stage: int, total_s: float) -> StageReport:
    own = [each for each in batches.passes if each.stage == stage]
    begin = np.array([trace.times["end"][each.begin].min() for each in own]) / PS_PER_S
    end = np.array([trace.times["end"][each.end].max() for each in own]) / PS_PER_S
    busy_s = float((end - begin).sum())
    return StageReport(
        layers=batches.layers[stage],
        chips=batches.chips[stage],
        pass_s=busy_s / len(own),
        busy_s=busy_s,
        fill_s=float(begin[0]),
        drain_s=total_s - float(end[-1]),
        bubble=1 - busy_s / total_s,
    )


def _form(spec: PipelineSpec, requests: int, stage_s: Sequence[float], microbatches: int) -> form.PipelineForm:
    if spec.schedule == "blocking":
        return form.blocking(stage_s, requests, microbatches)
    if spec.schedule == "sequential":
        return form.sequential(stage_s, requests)
    if spec.queue:
        return form.queued(stage_s, requests, spec.queue.capacity, spec.queue.retry)
    return form.non_blocking(stage_s, requests)
