"""Attention computes the pairs of a query and a position that its kernel computes: counted here one by one."""

import numpy as np
import pytest

from sim.closed_form.pass_time import predict_per_operation
from sim.closed_form.prediction import PAPER_LAYOUTS
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of
from sim.program import Kind
from sim.simulate.communication import Communication
from sim.simulate.forward_pass import lower_pass
from sim.simulate.latency import step_s
from sim.specs import load

FUSED, UNFUSED = "stack.attention=fused", "stack.attention=unfused"
PREFILL = "workload={phase: prefill, batch: 8, prompt: 96, weights: bf16, activations: bf16}"
DECODE = "workload={phase: decode, batch: 8, context: 40, generate: 1, weights: bf16, activations: bf16}"
ENDS = ("layout.overlap=none", "engine.layers=1")


def pairs(queries, cached, skips):
    """Positions that queries attend to after so many cached ones, by looking at each of a causal mask."""
    mask = np.tril(np.ones((queries, cached + queries), dtype=bool), k=cached)
    return int(mask.sum()) if skips else mask.size


def flops(program):
    """Of all attention kernels of chip 0."""
    attention = [name.startswith("attention") for name in program.op_names]
    own = (program.kind == Kind.COMPUTE) & (program.chip == 0) & np.array(attention)[program.op]
    return program.flops[own].sum()


@pytest.mark.parametrize("kernel", [FUSED, UNFUSED])
@pytest.mark.parametrize(
    ("settings", "queries", "cached", "masked"),
    [
        ([PREFILL], 96, 0, True),
        ([DECODE], 1, 40, True),
        ([PREFILL, "workload.static_cache=128"], 96, 32, False),
        ([DECODE, "workload.static_cache=128"], 1, 127, False),
        ([PREFILL, "model.causal=false"], 96, 0, False),
    ],
)
def test_a_fused_kernel_skips_what_the_causal_mask_hides(settings, queries, cached, masked, kernel):
    """Llama-3 70B on 8 chips: 8 query heads of 128 each, 8 sequences; 2 FLOPs a value for scores, 2 for values."""
    scenario = load.scenario("llama3_70b_tp8_standard", [*ENDS, *settings, kernel])
    seen = pairs(queries, cached, skips=masked and kernel == FUSED)
    assert flops(lower_pass(scenario)[1].program) == 4 * 8 * 8 * 128 * seen


def test_of_positions_split_over_chips_the_chip_with_the_last_ones_is_waited_for():
    """One sequence of 96 positions, 3 heads a chip that 4 chips cannot share: each has 24 queries, the last from 72 on.

    All chips are lowered alike, as the one that the others wait for.
    """
    workload = "workload={phase: prefill, batch: 1, prompt: 96, weights: bf16, activations: bf16}"
    split = (workload, "model.padded_heads=null", "model.heads=48", "layout.attention=heads", FUSED)
    scenario = load.scenario("palm540b_decode_ws2d", [*ENDS, *split])
    topology = mesh_of(scenario)
    assert flops(lower(scenario, topology).program) == 4 * 3 * 256 * pairs(24, 72, skips=True)


@pytest.mark.parametrize("kernel", [FUSED, UNFUSED])
@pytest.mark.parametrize("workload", [PREFILL, DECODE])
@pytest.mark.parametrize("attention", ["heads", "batch"])
@pytest.mark.parametrize("layout", PAPER_LAYOUTS)
def test_the_closed_form_of_a_torus_counts_the_same_pairs(layout, attention, workload, kernel):
    own = (workload, kernel, f"layout.ffn={layout}", f"layout.attention={attention}", "workload.batch=64")
    scenario = load.scenario("palm540b_decode_ws2d", [*ENDS, *own])
    form = predict_per_operation(scenario, Communication(scenario))
    assert form.exact
    assert step_s(scenario) == pytest.approx(form.step_s, rel=1e-6)


@pytest.mark.parametrize("kernel", [FUSED, UNFUSED])
@pytest.mark.parametrize("causal", ["true", "false"])
@pytest.mark.parametrize("cache", ["null", "128"])
@pytest.mark.parametrize("workload", [PREFILL, DECODE])
def test_the_closed_form_of_a_box_counts_the_same_pairs(workload, cache, causal, kernel):
    """Chips whose collectives are the ports' alone, and nothing that formulas do not know."""
    own = (workload, kernel, f"workload.static_cache={cache}", f"model.causal={causal}")
    plain = (
        "stack.stream_wait=0 s",
        "stack.compute_interference=0",
        "stack.memory_interference=0",
        "layout.residual=no_communication",
    )
    scenario = load.scenario("llama3_70b_tp8_standard", [*ENDS, *own, *plain, "layout.head=replicated"])
    one = scenario.phases[0]
    form = predict_per_operation(one, Communication(one))
    attention = sum(
        form.terms[name]
        for name in form.terms
        if name in ("attention", "attention scores", "attention values", "attention softmax")
    )
    program = lower_pass(one)[1].program
    names = [name.startswith("attention") for name in program.op_names]
    busy = program.busy_ps[(program.kind == Kind.COMPUTE) & np.array(names)[program.op] & (program.chip == 0)].sum()
    assert attention == pytest.approx(busy / 1e12, rel=1e-6)
