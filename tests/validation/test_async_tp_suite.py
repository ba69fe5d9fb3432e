"""Asynchronous tensor parallelism gains what was measured, in prompts and in steps of training."""

import pytest
from support.validations import validation

from sim.simulate.latency import latency_s
from sim.simulate.run import run
from sim.studies.validate.cases import read
from sim.studies.validate.validate import measured_s

GAINS = {
    "triton_distributed_qwen3_32b_b32_i128": 1.183,
    "torchtitan_llama3_70b_bf16": 1.092,
    "torchtitan_llama3_8b_bf16": 1.099,
}


def test_every_gain_is_a_prediction_within_five_points():
    outcome = validation("async_tp")
    gains = {each.case_id.removesuffix("_async"): each for each in outcome.speedups if each.counts}
    assert {name: round(each.published, 3) for name, each in gains.items()} == GAINS
    assert max(abs(each.error) for each in gains.values()) < 0.05
    assert not any(each.fitted for each in outcome.outcomes if each.variant == "async")
    assert outcome.passes


def test_a_step_of_training_is_forward_passes_and_the_compute_of_one():
    """Forward, 3/4 of it again, backward with the collectives of a forward pass; gradients of weights without them."""
    (case,) = (case for case in read("async_tp")[1] if case.case_id == "torchtitan_llama3_70b_bf16_async")
    scenario, in_order = (case.run.scenario("model.layers=2", *more) for more in ((), ("layout.overlap=none",)))
    compute_s = run(in_order).report.simulated.compute_s
    assert measured_s(case.run, scenario) == pytest.approx(2.75 * latency_s(scenario) + compute_s, rel=1e-12)
    assert compute_s < latency_s(in_order)
