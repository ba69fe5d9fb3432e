"""Without overlap the simulation of every preset on a torus is its closed form, to the rounding of the tasks."""

import itertools

import pytest
from support.selection import pairwise

from sim.closed_form.pass_builder import computed_d_model
from sim.closed_form.pass_time import predict_per_operation
from sim.closed_form.prediction import PAPER_LAYOUTS
from sim.errors import LayoutError
from sim.simulate.communication import Communication
from sim.simulate.forward_pass import simulate_pass
from sim.simulate.latency import step_s
from sim.simulate.run import run
from sim.specs import load

MODELS = {"palm_540b": 64, "palm_8b": 16}
"""Heads that the machine computes: as many as chips, and fewer than chips."""


@pytest.mark.parametrize(
    ("ffn", "model", "attention", "block", "kv"),
    pairwise(
        itertools.product(
            PAPER_LAYOUTS,
            MODELS,
            ("heads", "batch"),
            ("parallel", "serial"),
            ("multi-query", "grouped-query", "multi-head"),
        )
    ),
)
def test_simulation_without_overlap_is_the_per_axis_closed_form(ffn, model, attention, block, kv):
    heads = {"multi-query": 1, "grouped-query": 8, "multi-head": load.model(model).heads}[kv]
    layout = f"{{ffn: {ffn}, attention: {attention}, block: {block}, overlap: none}}"
    seen = 0
    for batch, phase in itertools.product((1, 16, 64), ("prefill", "decode")):
        tokens = "prompt: 128" if phase == "prefill" else "context: 2048, generate: 64"
        workload = f"{{phase: {phase}, batch: {batch}, {tokens}, weights: int8}}"
        settings = [f"model={model}", f"model.kv_heads={heads}", f"layout={layout}", f"workload={workload}"]
        scenario = load.scenario("palm540b_decode_ws2d", [*settings, "engine.layers=3"])
        try:
            simulated = step_s(scenario)
        except LayoutError:  # a batch that the layout's chips do not divide
            assert batch < 64
            continue
        form = predict_per_operation(scenario, Communication(scenario))
        assert form.exact
        # A layer has at most 40 operations and hops one after another, each rounded by at most a picosecond.
        assert abs(simulated - form.step_s) <= (3 + 1) * 40 * 1e-12
        seen += 1
    assert seen >= 2


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("ffn", PAPER_LAYOUTS)
def test_a_width_that_the_chips_do_not_divide_is_padded_in_both(ffn, phase):
    """d_model 18436 on 4 x 4 x 4 chips, x first: 1D splits it 4 ways, 2D 64 ways, gathered over x 16 and 4 ways, over
    xy 4 and 4, over xyz 1 and 4 ways. 18436 = 4 x 4609 = 288 x 64 + 4 = 1152 x 16 + 4."""
    want = {"weight_stationary_2d": 18496, "weight_gathered_x": 18448}.get(ffn, 18436)
    tokens = "prompt: 128" if phase == "prefill" else "context: 2048, generate: 64"
    settings = [
        f"layout={{ffn: {ffn}, attention: batch, overlap: none}}",
        f"workload={{phase: {phase}, batch: 64, {tokens}, weights: int8}}",
        "engine.layers=3",
    ]
    padded = load.scenario("palm540b_decode_ws2d", [*settings, "model.d_model=18436"])
    to = Communication(padded)
    assert computed_d_model(padded, to.uses, to.lengths) == want
    found = simulate_pass(padded)
    assert abs(found.step_s - predict_per_operation(padded, to).step_s) <= (3 + 1) * 40 * 1e-12
    assert found.step_s == step_s(load.scenario("palm540b_decode_ws2d", [*settings, f"model.d_model={want}"]))
    ways = 64 if want == 18496 else 16
    notes = [note for note in found.lowered.notes if "d_model" in note]
    assert notes == ([] if want == 18436 else [f"d_model 18436 is padded to {want}, which {ways} chips divide"])


def test_the_share_of_peak_counts_what_the_model_has_not_its_padding():
    """2 x parameters x tokens / (chips x peak x latency), all of the model as it is."""
    report = run(load.scenario("palm540b_decode_ws2d", ["topology=tpu_v4_16x16x16"])).report
    assert "d_model 18432 is padded to 20480, which 4096 chips divide" in report.notes
    assert report.simulated.mfu == pytest.approx(
        2 * 540.35e9 * 64 * 64 / (4096 * 275e12 * report.simulated.latency_s), rel=1e-3
    )
