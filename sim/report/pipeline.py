"""Figures of a pipeline: whole requests, their forward passes, and stages with their bubbles, beside the algebra.

Every chip of a stage is a rank. A stage is *busy* with a batch from when its last rank has it until the last rank is
done with it, *waits* while some ranks have the batch and the others do not (they have not been called), and is *idle*
without a batch, which is its bubble. On every stage

    total = busy + wait + idle.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from sim.closed_form import pipeline as formulas
from sim.program import Floats
from sim.program.batches import Batches
from sim.program.trace import Trace
from sim.specs import PipelineSpec, Scenario
from sim.units import PS_PER_S


class StageBatch(Struct, frozen=True):
    """One batch, or micro-batch, on one stage, ps."""

    request: int
    part: int
    """Micro-batch of the request, 0 if it is not cut."""
    waits_from: int
    """Time at which the first rank has it and the batch before has left the stage."""
    begin: int
    """Time at which the last rank has it."""
    end: int
    """Time at which the last rank is done with it."""


class StageReport(Struct, frozen=True):
    """Figures of one stage, seconds."""

    layers: int
    chips: tuple[int, ...]
    pass_s: float
    """Mean busy time of a batch, or micro-batch."""
    busy_s: float
    wait_s: float
    """Time that ranks wait for other ranks of the stage to be called."""
    idle_s: float
    fill_s: float
    """Part of the idle time until the first batch."""
    drain_s: float
    """Part of the idle time after the last batch."""
    bubble: float
    """Idle share of the total, 0 to 1."""


class Passes(Struct, frozen=True):
    """Figures of one forward pass of every request: the prefill, or one decode step; seconds."""

    phase: str
    per_request: int
    """Forward passes of a whole request in this phase: 1 of a prefill, else its decode steps."""
    count: int
    """Passes simulated, those of the warm-up included."""
    warm_up: int
    """Decode steps of as many requests before: the pipeline is full when the others come. No latency is theirs."""
    microbatches: int
    total_s: float
    """Time from the first arrival to the last result."""
    latency_mean_s: float
    """Mean latency of a pass, from its arrival to its result."""
    latency_median_s: float
    latency_p95_s: float
    latency_max_s: float
    interval_s: float
    """Mean time between results over the second half of the passes; over all where these come at once."""
    stages: tuple[StageReport, ...]
    closed_form: formulas.PipelineTimes
    """Closed form of the stages' mean times with free sends, and all requests there from the start."""

    @property
    def total_difference(self) -> float:
        """Simulated / closed form - 1: what sends, waits for requests and polls cost."""
        return self.total_s / self.closed_form.total - 1

    @property
    def bubble(self) -> float:
        """Mean of the stages."""
        return sum(stage.bubble for stage in self.stages) / len(self.stages)


class PipelineReport(Struct, frozen=True):
    """Figures of whole requests through stages: a prefill, all decode steps, or both; seconds."""

    schedule: str
    requests: int
    in_flight: int
    """Most requests in flight."""
    total_s: float
    """Time of the machine for all requests."""
    closed_form_total_s: float
    latency_mean_s: float
    """Mean latency of a request, from its arrival to its last result."""
    interval_s: float
    """Mean time between results of requests."""
    requests_per_s: float
    """1 / interval."""
    bubble: float
    """Share of the total without a batch on a stage, mean of the stages."""
    passes: Passes | None
    """Passes of the phase; None for two phases, each of which has its own."""


def report_passes(trace: Trace, batches: Batches, scenario: Scenario, spec: PipelineSpec) -> Passes:
    """Returns the figures of one simulated pass of every request."""
    ends = trace.times["end"]
    answered, latency = ends[list(batches.answered)] / PS_PER_S, batches.latencies_s(ends)
    stages = report_stages(trace, batches)
    return Passes(
        phase=scenario.workload.phase,
        per_request=scenario.workload.steps,
        count=len(answered),
        warm_up=batches.warm_up,
        microbatches=batches.parts,
        total_s=trace.makespan_ps / PS_PER_S,
        latency_mean_s=float(latency.mean()),
        latency_median_s=float(np.median(latency)),
        latency_p95_s=float(np.percentile(latency, 95)),
        latency_max_s=float(latency.max()),
        interval_s=_interval_s(np.sort(answered)),
        stages=stages,
        closed_form=_closed_form(spec, len(answered), stages, batches.parts),
    )


def report_requests(passes: Passes, spec: PipelineSpec, latency_s: float) -> PipelineReport:
    """Returns the figures of whole requests of one phase, of which `passes` has one forward pass each.

    The pipeline fills and drains once: passes beyond those simulated follow at their interval.

    Args:
        latency_s: mean of a request, all its passes; the interval is assumed to grow as it does.
    """
    times = latency_s / passes.latency_mean_s
    further = spec.requests * times - passes.count
    total_s = passes.total_s + further * passes.interval_s
    idle_s = [each.idle_s - further * (each.busy_s + each.wait_s) / passes.count for each in passes.stages]
    further_s = further * passes.interval_s
    return PipelineReport(
        schedule=spec.schedule,
        requests=spec.requests,
        in_flight=spec.max_in_flight(len(passes.stages)),
        total_s=total_s,
        closed_form_total_s=passes.closed_form.total + further * passes.closed_form.interval,
        latency_mean_s=latency_s,
        interval_s=passes.interval_s * times,
        requests_per_s=1 / (passes.interval_s * times),
        bubble=sum(max(idle + further_s, 0.0) for idle in idle_s) / len(idle_s) / total_s,
        passes=passes,
    )


def combine_pipelines(prefill: PipelineReport, decode: PipelineReport) -> PipelineReport:
    """Combines both phases of the same requests: the prefill, then the decode steps."""
    total_s, interval_s = prefill.total_s + decode.total_s, prefill.interval_s + decode.interval_s
    return PipelineReport(
        schedule=decode.schedule,
        requests=decode.requests,
        in_flight=decode.in_flight,
        total_s=total_s,
        closed_form_total_s=prefill.closed_form_total_s + decode.closed_form_total_s,
        latency_mean_s=prefill.latency_mean_s + decode.latency_mean_s,
        interval_s=interval_s,
        requests_per_s=1 / interval_s,
        bubble=(prefill.bubble * prefill.total_s + decode.bubble * decode.total_s) / total_s,
        passes=None,
    )


def stage_batches(trace: Trace, batches: Batches, stage: int) -> tuple[StageBatch, ...]:
    """Returns the batches of a stage in their order; none begins before the one before has ended."""
    ends, result, last = trace.times["end"], [], 0
    for stage_pass in batches.passes:
        if stage_pass.stage == stage:
            taken, end = ends[stage_pass.begin], int(ends[stage_pass.end].max())
            result.append(
                StageBatch(stage_pass.request, stage_pass.part, max(int(taken.min()), last), int(taken.max()), end)
            )
            last = end
    return tuple(result)


def report_stages(trace: Trace, batches: Batches) -> tuple[StageReport, ...]:
    """Returns the figures of every stage."""
    return tuple(_stage(trace, batches, stage) for stage in range(len(batches.layers)))


def _stage(trace: Trace, batches: Batches, stage: int) -> StageReport:
    batches_on_stage, total_ps = stage_batches(trace, batches, stage), trace.makespan_ps
    busy_ps = sum(batch.end - batch.begin for batch in batches_on_stage)
    wait_ps = sum(batch.begin - batch.waits_from for batch in batches_on_stage)
    idle_ps = total_ps - busy_ps - wait_ps
    return StageReport(
        layers=batches.layers[stage],
        chips=batches.chips[stage],
        pass_s=busy_ps / len(batches_on_stage) / PS_PER_S,
        busy_s=busy_ps / PS_PER_S,
        wait_s=wait_ps / PS_PER_S,
        idle_s=idle_ps / PS_PER_S,
        fill_s=batches_on_stage[0].waits_from / PS_PER_S,
        drain_s=(total_ps - batches_on_stage[-1].end) / PS_PER_S,
        bubble=idle_ps / total_ps,
    )


def _interval_s(answered: Floats) -> float:
    """Returns the mean time between results, which are in order of time."""
    half = len(answered) // 2
    later = answered[half:]
    if len(later) > 1 and later[-1] > later[0]:
        return float((later[-1] - later[0]) / (len(later) - 1))
    return float(answered[-1] / len(answered))


def _closed_form(
    spec: PipelineSpec, requests: int, stages: Sequence[StageReport], microbatches: int
) -> formulas.PipelineTimes:
    controller, stage_s = spec.controller, [stage.pass_s for stage in stages]
    times = _closed_form_of_schedule(spec, requests, stage_s, microbatches)
    if controller is None or controller.kind != "single":
        return times
    call_s = controller.rpc.value * sum(len(stage.chips) for stage in stages)
    return formulas.limit_call_rate(times, call_s, requests, stage_s[-1])


def _closed_form_of_schedule(
    spec: PipelineSpec, requests: int, stage_s: Sequence[float], microbatches: int
) -> formulas.PipelineTimes:
    if spec.schedule == "blocking":
        return formulas.predict_blocking(stage_s, requests, microbatches)
    if spec.schedule == "sequential":
        return formulas.predict_sequential(stage_s, requests)
    if spec.queue:
        return formulas.predict_bounded_queue(stage_s, requests, spec.queue.capacity, spec.queue.retry)
    return formulas.predict_non_blocking(stage_s, requests)
