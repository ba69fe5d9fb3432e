"""Identities of a pipeline's figures, over pairs of schedules, stages, requests, phases, ranks, calls and padding."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from support.pipelines import scenario
from support.selection import Choice, covering

from sim.report.pipeline import stage_batches
from sim.simulate.result import Run
from sim.simulate.run import run
from sim.specs import Scenario
from sim.studies.sweep.rows import _outcome

CONTROLLERS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "single": {"rpc": "50 us"},
    "slow single": {"rpc": "2 ms", "poll": "1 ms", "result_poll": "30 ms"},
    "multi": {"kind": "multi", "rpc": "50 us", "result_poll": "1 s"},
}
TOKENS: dict[str, dict[str, Any]] = {
    "prefill": {"phase": "prefill", "prompt": 16},
    "decode": {"phase": "decode", "prompt": None, "context": 16, "generate": 3},
    "generate": {"phase": "generate", "prompt": 16, "generate": 3},
}
OPTIONS = {
    "schedule": ["non_blocking", "blocking", "bounded_queue", "sequential"],
    "stages": [[6], [3, 3], [1, 3, 2]],
    "requests": [1, 2, 7],
    "phase": list(TOKENS),
    "tensor": [1, 2],
    "controller": list(CONTROLLERS),
    "padded": [False, True],
    "bandwidth": ["1e12 GB/s", "0.1 GB/s"],
}
CASES = covering(OPTIONS, lambda chosen: not (chosen["padded"] and chosen["phase"] == "decode"))


def built(chosen: Choice) -> Scenario:
    more: dict[str, Any] = {"workload": TOKENS[chosen["phase"]]}
    if chosen["padded"]:
        more["padding"] = {"real_lengths": 0.5}
    spec: dict[str, Any] = {name: chosen[name] for name in ("schedule", "stages", "requests", "tensor", "bandwidth")}
    if controller := CONTROLLERS[chosen["controller"]]:
        spec["controller"] = controller
    if chosen["schedule"] == "bounded_queue":
        spec["queue"] = {"capacity": 1, "retry": "20 us"}
    return scenario(**spec, more=more)


@pytest.fixture(scope="module", params=CASES, ids=lambda chosen: "-".join(str(value) for value in chosen.values()))
def done(request: pytest.FixtureRequest) -> Run:
    return run(built(request.param))


def steps_of(done: Run) -> list[int]:
    """Forward passes of a request in each phase."""
    return [part.scenario.workload.steps for part in done.passes]


def test_requests_are_whole_requests_and_steps_are_steps(done: Run):
    """A request's latency is that of its prefill and of each of its decode steps, from its arrival to its result."""
    latency_s = 0.0
    for part, steps in zip(done.passes, steps_of(done), strict=True):
        ends, batches = part.trace.times["end"], part.lowered.batches
        assert batches is not None
        own = (ends[list(batches.answered)] - ends[list(batches.arrived)])[batches.warm_up :]
        pipeline = part.report.pipeline
        assert pipeline is not None
        assert pipeline.passes is not None
        assert pipeline.passes.latency_mean_s == pytest.approx(own.mean() * 1e-12, rel=1e-12)
        assert pipeline.passes.latency_max_s == pytest.approx(own.max() * 1e-12, rel=1e-12)
        assert pipeline.requests == len(own)
        latency_s += part.report.simulated.latency_s
        # Of a generation every step has its own cache; of a decode each is the step of the mean cache.
        grows = len(done.passes) == 2 and steps > 1
        assert part.report.simulated.latency_s == pytest.approx(steps * own.mean() * 1e-12, rel=0.1 if grows else 1e-12)
    pipeline = done.report.pipeline
    assert pipeline is not None
    assert pipeline.latency_mean_s == pytest.approx(latency_s, rel=1e-12)
    assert done.report.simulated.latency_s == pytest.approx(latency_s, rel=1e-12)


def test_requests_per_second_times_their_interval_is_one(done: Run):
    pipeline = done.report.pipeline
    assert pipeline is not None
    assert pipeline.requests_per_s * pipeline.interval_s == pytest.approx(1, rel=1e-12)
    assert pipeline.interval_s > 0
    if pipeline.requests == 1:  # it is answered once, when all its passes are done
        assert pipeline.interval_s == pytest.approx(pipeline.latency_mean_s, rel=1e-12)


def test_a_stage_is_busy_or_waits_or_is_idle(done: Run):
    for part in done.passes:
        pipeline, batches = part.report.pipeline, part.lowered.batches
        assert pipeline is not None
        assert pipeline.passes is not None
        assert batches is not None
        assert pipeline.passes.total_s == pytest.approx(part.makespan_ps * 1e-12, rel=1e-12)
        for index, stage in enumerate(pipeline.passes.stages):
            parts = stage.busy_s, stage.wait_s, stage.idle_s
            assert min(parts) >= 0
            assert sum(parts) == pytest.approx(pipeline.passes.total_s, rel=1e-12)
            assert 0 <= stage.bubble <= 1
            assert stage.bubble == pytest.approx(stage.idle_s / pipeline.passes.total_s, rel=1e-12)
            assert stage.fill_s + stage.drain_s <= stage.idle_s * (1 + 1e-12)
            own = stage_batches(part.trace, batches, index)
            edges = [time for each in own for time in (each.waits_from, each.begin, each.end)]
            assert (np.diff(edges) >= 0).all()
    assert done.report.pipeline is not None
    assert 0 <= done.report.pipeline.bubble <= 1


def test_a_stage_without_late_ranks_never_waits(done: Run):
    """Only a single controller calls one rank after the other, and only several ranks wait for each other."""
    spec = done.scenario.pipeline
    assert spec is not None
    alone = done.scenario.layout.mesh.tensor == 1 or spec.controller is None or spec.controller.kind == "multi"
    for part in done.passes:
        assert part.report.pipeline is not None
        assert part.report.pipeline.passes is not None
        for stage in part.report.pipeline.passes.stages:
            assert not (alone and stage.wait_s)


def test_throughput_mfu_and_cost_are_of_useful_tokens_over_the_time_of_all_chips(done: Run):
    given, simulated, pipeline = done.scenario, done.report.simulated, done.report.pipeline
    assert pipeline is not None
    workload = given.workload
    # Of equal lengths that are half of the prompt, half of the prompt's tokens are useful.
    prompt = (workload.prompt or 0) // (2 if given.padding else 1)
    tokens = pipeline.requests * workload.batch * (prompt + (workload.generate or 0))
    chips = len(given.pipeline.stages or ()) * (given.layout.mesh.tensor or 1) if given.pipeline else 0
    assert done.report.chips == chips
    peak = given.topology.chip.peak["bf16"].value
    assert simulated.tokens_per_s * pipeline.total_s == pytest.approx(tokens, rel=1e-12)
    flops = 2 * given.model.parameters * tokens
    assert simulated.mfu * chips * peak * pipeline.total_s == pytest.approx(flops, rel=1e-12)
    assert simulated.chip_s_per_token * tokens == pytest.approx(chips * pipeline.total_s, rel=1e-12)
    outcome = _outcome(given, done.report)
    assert outcome.simulated.cost_chip_s == simulated.chip_s_per_token
    assert 0 <= outcome.exposed <= 1


def test_the_time_of_all_requests_is_that_of_their_passes(done: Run):
    """Those simulated fill and drain the pipeline once, the others follow at their interval."""
    pipeline = done.report.pipeline
    assert pipeline is not None
    total_s = 0.0
    for part, steps in zip(done.passes, steps_of(done), strict=True):
        own = part.report.pipeline
        assert own is not None
        assert own.passes is not None
        grows = part.report.simulated.latency_s / (steps * own.passes.latency_mean_s)
        further = pipeline.requests * steps * grows - own.passes.count
        total_s += part.makespan_ps * 1e-12 + further * own.passes.interval_s
    assert pipeline.total_s == pytest.approx(total_s, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 4, 64])
def test_a_pipeline_of_decode_steps_fills_once(steps: int):
    """n steps of two requests on two stages of a and b, without sends: a result every max(a, b), and once a + b for the
    first. So all take a + b + (2 n - 1) max(a, b), and a stage of a is busy for 2 n a of it."""
    given: dict[str, Any] = {"schedule": "non_blocking", "stages": [3, 3], "requests": 2, "phase": "decode"}
    given["more"] = {"workload": {"generate": steps}}
    found = run(scenario(**given, ends=False)).report.pipeline
    assert found is not None
    assert found.passes is not None
    stages_s = [stage.pass_s for stage in found.passes.stages]
    total_s = sum(stages_s) + (2 * steps - 1) * max(stages_s)
    assert found.total_s == pytest.approx(total_s, rel=1e-9)
    assert found.closed_form_total_s == pytest.approx(total_s, rel=1e-9)
    busy = sum(2 * steps * each for each in stages_s) / (2 * total_s)
    assert found.bubble == pytest.approx(1 - busy, rel=1e-6)


def test_no_request_follows_another_sooner_than_the_controller_can_call():
    """Two equal stages of two ranks, called one after the other, 1 ms each: a request every 4 ms, whatever they do."""
    given: dict[str, Any] = {"schedule": "non_blocking", "stages": [3, 3], "tensor": 2, "requests": 8}
    given["more"] = {"layout": {"logits": "none"}}
    called = run(scenario(**given, controller={"rpc": "1 ms"})).report.pipeline
    told = run(scenario(**given)).report.pipeline
    assert called is not None
    assert called.passes is not None
    assert told is not None
    assert told.passes is not None
    first, second = called.passes.stages
    assert first.busy_s == pytest.approx(second.busy_s, rel=1e-9)
    assert first.busy_s == pytest.approx(told.passes.stages[0].busy_s, rel=1e-9)
    assert first.wait_s == pytest.approx(8 * 1e-3, rel=1e-9)  # its first rank is called 1 ms before its second
    assert called.interval_s == pytest.approx(4e-3, rel=1e-9)
    assert called.passes.closed_form.interval == pytest.approx(4e-3, rel=1e-9)
    assert called.passes.closed_form.total <= called.passes.total_s * (1 + 1e-12)


def test_results_that_come_out_of_order_or_at_once_have_an_interval():
    """The handler of each request polls from its own call on: all results of four calls at once are seen at once."""
    multi = {"kind": "multi", "rpc": "50 us", "result_poll": "1 s"}
    given = {"schedule": "non_blocking", "stages": [3, 3], "arrivals": {"in_flight": 4}, "controller": multi}
    found = run(scenario(requests=4, **given)).report.pipeline
    assert found is not None
    assert found.interval_s == pytest.approx(found.total_s / 4, rel=1e-12)


def test_ranks_that_leave_a_stage_one_after_the_other_make_no_bubble_below_zero():
    """On the ends of a line a rank has nothing to forward: it takes the next batch while the others finish theirs."""
    line = {"axes": {"x": {"size": 4, "wrap": False}, "y": {"size": 2, "wrap": False}}}
    given = scenario(
        schedule="non_blocking", torus=(4, 2), stages=[6], layout="weight_gathered_xy", requests=3, bandwidth="1 GB/s",
        batch=8, more={"topology": line},
    )  # fmt: skip
    (part,) = run(given).passes
    found, batches, ends = part.report.pipeline, part.lowered.batches, part.trace.times["end"]
    assert found is not None
    assert found.passes is not None
    assert batches is not None
    # From the first rank's begin to the last rank's end, the batches overlap.
    assert any(ends[now.end].max() > ends[then.begin].min() for now, then in pairwise(batches.passes))
    (stage,) = found.passes.stages
    assert 0 <= stage.bubble <= 1
    assert stage.busy_s + stage.wait_s + stage.idle_s == pytest.approx(found.passes.total_s, rel=1e-12)
