"""Identities between the figures of every shipped scenario, each with the algebra recomputed here."""

from __future__ import annotations

import numpy as np
import pytest
from support.counts import attention_weights, cached_values, counted_parameters, ffn_weights, table_weights
from support.selection import release_if
from support.shipped import CASES, IDS, PS, ROUNDING, every_case, phases, result, scenario, settings_of

from sim.program import Kind
from sim.report.breakdown import compute_breakdown
from sim.simulate.result import Pass, Run
from sim.specs import DTYPE_BYTES, Scenario
from sim.studies.sweep.points import Point
from sim.studies.sweep.rows import run_point

# --- parts of a step -------------------------------------------------------------------------------------------------

Intervals = list[tuple[int, int]]


def merged(spans: Intervals) -> Intervals:
    """Sorted, overlapping ones joined."""
    found: Intervals = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        elif end > start:
            found.append((start, end))
    return found


def overlap_ps(span: tuple[int, int], others: Intervals) -> int:
    return sum(max(0, min(span[1], end) - max(span[0], start)) for start, end in others)


def busy(part: Pass) -> tuple[list[tuple[int, int, int]], Intervals]:
    """(task, start, end) of compute on the critical chip, and when a collective of that chip is in progress, ps."""
    program, times, chip = part.trace.program, part.trace.times, part.report.critical_chip
    chip = part.topology.representative_of(chip)
    own = np.flatnonzero(program.chip == chip)
    compute = [
        (int(task), int(times["start"][task]), int(times["free"][task]))
        for task in own
        if program.kind[task] == Kind.COMPUTE
    ]
    begin: dict[int, int] = {}
    end: dict[int, int] = {}
    for task in own[(program.kind[own] == Kind.BEGIN) | (program.kind[own] == Kind.END)].tolist():
        number = int(program.collective[task])
        if program.kind[task] == Kind.BEGIN:
            begin[number] = int(times["start"][task])
        else:
            end[number] = int(times["end"][task])
    return compute, merged([(begin[number], end[number]) for number in begin])


@every_case
def test_parts_add_up_to_the_step(case):
    for _, part, report in phases(case):
        parts = report.simulated
        waits = parts.stream_wait_s + parts.copy_wait_s + parts.bubble_s
        total = parts.compute_s + parts.exposed_communication_s + waits + parts.idle_s
        assert total == pytest.approx(part.makespan_ps * PS, rel=ROUNDING)
        assert parts.communication_s == pytest.approx(
            parts.exposed_communication_s + parts.overlapped_communication_s, rel=ROUNDING
        )
        assert min(parts.compute_s, parts.exposed_communication_s, waits, parts.idle_s) >= 0


@every_case
def test_parts_of_the_breakdown_are_those_of_the_report(case):
    for _, part, report in phases(case):
        parts = compute_breakdown(part.trace, part.topology, part.lowered.batches)
        own = report.simulated
        alone = parts["compute-bound"] + parts["memory-bound"]
        assert sum(parts.values()) == pytest.approx(part.makespan_ps * PS, rel=ROUNDING)
        assert min(parts.values()) >= 0
        assert alone + parts["overlapped"] == pytest.approx(own.compute_s, rel=ROUNDING)
        assert parts["exposed"] == pytest.approx(own.exposed_communication_s, rel=ROUNDING)
        assert parts["overlapped"] == pytest.approx(own.overlapped_communication_s, rel=ROUNDING)
        for name, wait_s in report.waits_s.items():
            assert parts.get(name, 0.0) == pytest.approx(wait_s, rel=ROUNDING)


@every_case
def test_compute_is_what_the_trace_says(case):
    for given, part, report in phases(case):
        compute, communicating = busy(part)
        computing = merged([span for _, *span in compute])  # type: ignore[misc]
        overlapped_ps = sum(overlap_ps(span, communicating) for span in computing)
        assert report.simulated.compute_s == pytest.approx(sum(b - a for a, b in computing) * PS, rel=ROUNDING)
        if not given.pipeline:  # between stages a send begins when both its ends have entered
            assert report.simulated.overlapped_communication_s == pytest.approx(overlapped_ps * PS, rel=ROUNDING)
        rows = {op.op: op for op in report.ops if op.kind == "compute"}
        assert sum(op.time_s for op in rows.values()) == pytest.approx(sum(b - a for _, a, b in compute) * PS, ROUNDING)


# --- figures of all steps --------------------------------------------------------------------------------------------


def tokens(given: Scenario) -> int:
    """Of all sequences of one request, padding left out."""
    work = given.workload
    prompts = work.batch * (work.prompt or 0)
    if given.padding and work.prompt:
        prompts = sum(given.padding.lengths(work.batch, work.prompt))
    beside = work.chunk.sequences * work.chunk.tokens * work.steps if work.chunk else 0
    return prompts + work.batch * (work.generate or 0) + beside


def whole_s(run: Run) -> float:
    """Time per request: latency, or where requests overlap the time of all of them over their number."""
    total = 0.0
    for part in run.passes:
        pipeline = part.report.pipeline
        if pipeline:
            total += pipeline.total_s / pipeline.requests
        else:
            total += part.report.simulated.latency_s
    return total


@every_case
def test_tokens_per_second_are_those_of_all_sequences_over_the_time(case):
    run = result(*case)
    each_s = whole_s(run)
    assert run.report.simulated.tokens_per_s == pytest.approx(tokens(run.scenario) / each_s, rel=ROUNDING)


@every_case
def test_mfu_is_useful_flops_over_those_of_the_peak(case):
    """2 x parameters x tokens/s / (chips x peak), whatever the phases."""
    run = result(*case)
    work = run.scenario.workload
    peak = run.scenario.topology.chip.peak[work.operands or work.activations].value
    useful = 2 * counted_parameters(run.scenario) * run.report.simulated.tokens_per_s
    assert run.report.simulated.mfu == pytest.approx(useful / (run.report.chips * peak), rel=ROUNDING)
    assert 0 < run.report.simulated.mfu <= 1


@every_case
def test_cost_is_chips_over_tokens_per_second(case):
    """Chip-seconds per token (Pope et al. 2022, section 4.4): n chips for a second make so many tokens."""
    name, *more = case
    row = run_point(name, Point({}, settings_of(name, *more)))
    assert row.outcome is not None
    found = row.outcome.simulated
    assert found.cost_chip_s * found.tokens_per_s == pytest.approx(row.outcome.chips, rel=ROUNDING)


@every_case
def test_latency_is_that_of_all_steps(case):
    run = result(*case)
    own, workload = run.report.simulated, run.scenario.workload
    assert own.latency_s == pytest.approx(own.step_s * workload.steps, rel=ROUNDING)
    parts = [part.report.simulated.latency_s for part in run.passes]
    assert own.latency_s == pytest.approx(sum(parts), rel=ROUNDING)
    if own.ttft_s is not None:
        assert own.ttft_s == pytest.approx(parts[0], rel=ROUNDING)
    if own.tpot_s is not None:
        assert own.tpot_s * workload.generate == pytest.approx(parts[-1], rel=ROUNDING)


@every_case
def test_terms_of_the_closed_forms_add_up(case):
    for form in [result(*case).report.closed_form, *(report.closed_form for *_, report in phases(case))]:
        if form:
            assert sum(form.detailed_terms.values()) == pytest.approx(form.detailed_latency_s, rel=ROUNDING)


PIPELINES = [case for case in CASES if scenario(*case).pipeline]
every_pipeline = pytest.mark.parametrize("case", PIPELINES, ids=[IDS[CASES.index(case)] for case in PIPELINES])


@every_pipeline
def test_stages_are_busy_wait_or_are_in_a_bubble(case):
    for _, _, report in phases(case):
        found = report.pipeline.passes
        for stage in found.stages:
            assert 0 <= stage.bubble < 1
            assert stage.busy_s + stage.wait_s + stage.idle_s == pytest.approx(found.total_s, rel=ROUNDING)
            assert stage.idle_s == pytest.approx(found.total_s * stage.bubble, rel=ROUNDING)
            assert 0 <= stage.fill_s + stage.drain_s <= stage.idle_s * (1 + ROUNDING)


@every_pipeline
def test_requests_per_second_follow_from_the_results(case):
    """A request is all of its steps: where one is under way at a time, one is answered per latency."""
    run = result(*case)
    for given, _, report in phases(case):
        found, passes = report.pipeline, report.pipeline.passes
        assert found.requests_per_s * found.interval_s == pytest.approx(1, rel=ROUNDING)
        assert (
            passes.latency_median_s <= passes.latency_p95_s <= passes.latency_max_s <= passes.total_s * (1 + ROUNDING)
        )
        arrivals = given.pipeline.arrivals
        if found.in_flight == 1 and (arrivals is None or arrivals.in_flight) and len(run.passes) == 1:
            assert found.requests_per_s == pytest.approx(1 / run.report.simulated.latency_s, rel=ROUNDING)


@every_pipeline
def test_a_pipeline_answers_no_faster_than_its_slowest_stage(case):
    """Results leave a stage one after the other, none in less than its time for the batches of a request."""
    for _, _, report in phases(case):
        found = report.pipeline.passes
        assert found.interval_s >= max(stage.pass_s for stage in found.stages) * found.microbatches * (1 - ROUNDING)


# --- memory ----------------------------------------------------------------------------------------------------------


@every_case
def test_memory_is_that_of_the_larger_phase(case):
    run = result(*case)
    total = run.report.memory
    each = [report.memory for *_, report in phases(case)]
    larger = max(each, key=lambda memory: memory.used_bytes)
    assert total.used_bytes == larger.used_bytes
    parts = (total.weights_bytes, total.kv_cache_bytes, total.gather_buffer_bytes)
    assert parts == (larger.weights_bytes, larger.kv_cache_bytes, larger.gather_buffer_bytes)


@every_case
def test_parts_of_the_memory_add_up(case):
    run = result(*case)
    for data in (run.report.to_dict()["memory"], *(report.to_dict()["memory"] for *_, report in phases(case))):
        parts = {key: value for key, value in data.items() if key.endswith("_bytes")}
        capacity, excess = parts.pop("capacity_bytes"), parts.pop("excess_bytes")
        parts.pop("used_bytes", None)
        assert excess == pytest.approx(max(0.0, sum(parts.values()) - capacity))
        assert data["fits"] == (sum(parts.values()) <= capacity)
        assert min(parts.values()) >= 0


@pytest.mark.parametrize("head", release_if(["tied", "untied"], "untied"))
@every_case
def test_all_chips_together_hold_every_weight_and_all_of_the_cache(case, head):
    """Each parameter of the layers, and each key and value, lies on at least one chip of its own or in the pool."""
    case = case if head == "tied" else (*case, "model.tied=false")
    for given, _, report in phases(case):
        model, work, used = given.model, given.workload, report.memory
        layers = range(given.layers)
        routed = sum(ffn_weights(model, layer)[0] for layer in layers)
        others = sum(attention_weights(model) + ffn_weights(model, layer)[1] for layer in layers)
        others += table_weights(model) * (given.layout.logits != "none")
        expert_bytes = DTYPE_BYTES[work.expert_weights or work.weights]
        weights = routed * expert_bytes + others * DTYPE_BYTES[work.weights]
        remote = report.pool.remote_bytes if report.pool else 0.0
        assert (used.weights_bytes + remote) * report.chips >= weights * (1 - ROUNDING)
        tokens_cached = work.batch * work.final_cache_length
        cache = given.layers * cached_values(model) * tokens_cached * DTYPE_BYTES[work.kv_cache]
        if used.kv_cache_bytes:
            assert used.kv_cache_bytes * report.chips >= cache * (1 - ROUNDING)
